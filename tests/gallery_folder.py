"""A folder with results, and entries of a gallery for them, without a run."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import clips
from PIL import Image

from talkies.report.entries import Entry
from talkies.report.gallery import build_gallery


class GalleryFolder:
    """A run folder with pictures and previews outside its results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results"

    def file(self, path: str, content: bytes | str = b"content") -> Path:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
        return place

    def entry(self, driving: str, image: str, variant: str | None = None, **changes: Any) -> Entry:
        """Return an entry whose files hold only words."""
        stem = f"{image}@{variant}" if variant else image
        film = None if "reason" in changes else self.file(f"results/{driving}/{stem}.mp4", f"film of {stem}")
        made = Entry(
            driving=driving,
            image=image,
            variant=variant,
            film=film,
            record=film and self.file(f"results/{driving}/{stem}.json", b"{}"),
            source=self.file(f"work/sources/{image}.png", f"picture {image}"),
            preview=self.file(f"work/driving/{driving}.mp4", f"clip {driving}"),
            reason=None,
        )
        return replace(made, **changes)

    def real(self, driving: str, image: str, colour: str = "maroon", *, seconds: float = 1, **changes: Any) -> Entry:
        """Return an entry with a picture and films of one colour with a tone; white comes in halfway a preview."""
        made = self.entry(driving, image, **changes)
        preview, source = self.folder / f"work/driving/{driving}.mp4", self.folder / f"work/sources/{image}.png"
        film(preview, "teal", seconds=seconds, changes=seconds / 2)
        Image.new("RGB", (256, 256), "salmon").save(source)
        if made.film:
            film(made.film, colour, seconds=seconds)
            made = replace(made, digest=hashlib.sha256(made.film.read_bytes()).hexdigest())
        return replace(made, sound=made.film is not None, preview_sound=True)

    def build(self, *entries: Entry, title: str = "Talkies", **more: Any) -> str:
        return build_gallery(self.results, entries, title=title, **more).read_text(encoding="utf-8")

    def copies(self) -> dict[str, bytes]:
        """Return the page's files by name."""
        return {path.name: path.read_bytes() for path in (self.results / "index_files").rglob("*") if path.is_file()}


def data_of(page: str) -> dict[str, Any]:
    """Return the data of a page's script."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    data: dict[str, Any] = json.loads(text)
    return data


def film(path: Path, colour: str, *, seconds: float = 6, changes: float = 100) -> Path:
    """Write a film of one colour with a tone; after `changes` seconds a white area appears."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = f"drawbox=w=128:color=white:t=fill:enable='gte(t,{changes})'"
    inputs = ["-f", "lavfi", "-i", f"color={colour}:s=256x256:r=25:d={seconds}", "-f", "lavfi"]
    clips.ffmpeg(*inputs, "-i", f"sine=440:d={seconds}", "-vf", drawn, "-pix_fmt", "yuv420p", "-f", "mp4", path)
    return path
