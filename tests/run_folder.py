"""A run folder as a user has it, with helpers for tests. Pictures and clips are tiny; everything else is real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from talkies import media
from talkies.files import file_digest

REPOSITORY = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
# An engine that lays the driving video over the picture. It starts in a tenth of the time that PyTorch takes.
LAID_OVER = {
    "name": "laid-over",
    "command": f"{media.ffmpeg_path()} -v error -nostdin -loop 1 -i {{source}} -i {{driving}} -filter_complex"
    " [1:v][0:v]blend=all_mode={relative:average|multiply}:shortest=1,format=yuv420p -threads 1 -an -y {output}",
}
RED, GREEN, BLUE = (220, 40, 40), (40, 200, 60), (50, 80, 230)


def draw_picture(path: Path, colour: tuple[int, int, int], size: int = 64) -> None:
    """Write a disc on a gradient, which differs for each colour."""
    y, x = np.mgrid[0:size, 0:size] / size
    disc = ((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.09)[..., None]
    picture = np.where(disc, np.array(colour), 255 * np.stack([x, y, 1 - x], -1) * 0.6)
    Image.fromarray(picture.astype(np.uint8)).save(path)


def make_clip(path: Path, frames: int = 6, tone: int = 440, sound: bool = True, rate: str = "25") -> None:
    """Write a clip of moving shapes with a tone."""
    seconds = frames / eval_rate(rate)
    inputs = ["-f", "lavfi", "-i", f"testsrc2=size=64x64:rate={rate}"]
    inputs += ["-f", "lavfi", "-i", f"sine=frequency={tone}:sample_rate=48000:duration={seconds + 0.05}"] * sound
    part = path.with_name("." + path.name + ".new" + path.suffix)
    output = [
        "-frames:v",
        str(frames),
        "-t",
        f"{seconds + 0.02}",
        "-threads",
        "1",
        "-pix_fmt",
        "yuv420p",
        "-c:a",
        "aac",
    ]
    subprocess.run([media.ffmpeg_path(), "-v", "error", "-nostdin", *inputs, *output, "-y", str(part)], check=True)
    part.replace(path)


def eval_rate(rate: str) -> float:
    """Return a rate such as 30000/1001 as a number."""
    above, _, below = rate.partition("/")
    return int(above) / int(below or 1)


class RunFolder:
    """A folder with config.yaml, images/ and driving/, in which the shipped workflow is run."""

    def __init__(self, path: Path) -> None:
        self.path, self.since = path, 0.0

    @classmethod
    def create(cls, path: Path, images: Iterable[str] = ("red", "green", "blue"), clips: Iterable[str] = ("a", "b")):
        """Create a run folder in which every picture and clip differs from the others."""
        (path / "images").mkdir(parents=True)
        (path / "driving").mkdir()
        rng = np.random.default_rng(1)
        for name in images:
            draw_picture(path / "images" / f"{name}.png", tuple(int(c) for c in rng.integers(0, 256, 3)))
        for number, name in enumerate(clips):
            make_clip(path / "driving" / f"{name}.mp4", tone=300 + 200 * number, frames=5 + number)
        (path / "profiles").symlink_to(REPOSITORY / "profiles")
        run = cls(path)
        run.configure()
        return run

    def configure(self, **settings) -> None:
        """Write config.yaml: the folders, no face detection, a light engine if none is named, and these settings."""
        base = {"images": "images", "driving": "driving", "crop": "center", "threads": 1, "check": False}
        if not {"engines", "model"} & settings.keys():
            base["engine"] = LAID_OVER
        (self.path / "config.yaml").write_text(yaml.safe_dump(base | settings, width=200))

    def copy(self, path: Path, *, times: bool = True) -> RunFolder:
        """Copy the whole folder, with or without its files' times."""
        shutil.copytree(self.path, path, symlinks=True, copy_function=shutil.copy2 if times else shutil.copyfile)
        copy = RunFolder(path)
        copy.since = self.since
        return copy

    def environment(self) -> dict[str, str]:
        """Return the environment of a user's shell: the programs on the path and little else."""
        names = ("HOME", "LANG", "TMPDIR", "LC_ALL", "COVERAGE_PROCESS_CONFIG")
        keep = {name: os.environ[name] for name in names if name in os.environ}
        return keep | {"PATH": f"{BIN}:/usr/bin:/bin", "XDG_CACHE_HOME": str(self.path / ".cache")}

    def start(self, *command: str, **options) -> subprocess.Popen:
        """Start a program in the run folder, in its own process group."""
        return subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            cwd=self.path,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **options,
        )

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Run a program in the run folder; .stdout of the result holds both streams."""
        process = self.start(*command)
        try:
            output, _ = process.communicate(timeout=400)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(command, process.returncode, output, "")

    def snakemake(self, *arguments: str, ok: bool = True) -> str:
        """Run the shipped Snakefile, which must succeed (or fail, with ok=False); return what it printed."""
        result = self.run("snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), *arguments)
        assert (result.returncode == 0) == ok, f"exit {result.returncode}\n{result.stdout[-6000:]}"
        return result.stdout

    def talkies(self, *arguments: str, ok: bool = True) -> str:
        """Run the talkies command; return what it printed."""
        result = self.run("talkies", *arguments)
        assert (result.returncode == 0) == ok, f"exit {result.returncode}\n{result.stdout[-6000:]}"
        return result.stdout

    # --- what the folder contains ---

    def events(self, stage: str, kind: str = "made") -> list[str]:
        """Return what a stage has made (or begun) since the last `forget_events`, by the ledger, in order."""
        found = []
        for path in (self.path / ".talkies/ledger").glob("*.jsonl"):
            for line in path.read_bytes().splitlines():
                event = json.loads(line)
                if event["event"] == kind and event["stage"] == stage and not event.get("found"):
                    found.append((event["time"], event["item"]))
        return [name for when, name in sorted(found) if when > self.since]

    def forget_events(self) -> None:
        """Let `events` return only later events."""
        self.since = time.time()

    def loads(self) -> int:
        """Return how often workers have loaded an engine since the last `forget_events`."""
        lines = [line for path in (self.path / ".talkies/ledger").glob("*.jsonl") for line in path.open()]
        events = map(json.loads, lines)
        return sum(event["event"] == "loaded" and event["time"] > self.since for event in events)

    def done(self) -> set[str]:
        """Return the done files of jobs, as STAGE/SHARD.NONCE."""
        return {str(path.relative_to(self.path / ".talkies/done")) for path in self.path.glob(".talkies/done/*/*")}

    def films(self) -> dict[str, bytes]:
        """Return the bytes of the finished films by pair, without what was kept aside."""
        results = self.path / "results"
        return {
            f"{film.parent.name}/{film.stem}": film.read_bytes()
            for film in sorted(results.glob("*/*.mp4"))
            if film.parent.name != "index_files" and ".kept-" not in film.name
        }

    def film(self, pair: str) -> Path:
        """Return the path of a pair's film."""
        return self.path / "results" / f"{pair}.mp4"

    def record(self, pair: str) -> dict:
        """Return the record beside a pair's film."""
        return json.loads((self.path / "results" / f"{pair}.json").read_text())

    def debris(self) -> list[str]:
        """Return the files that no step may leave behind: temporary files, locks, silent films."""
        found = [p for p in self.path.rglob(".*.part") if p.is_file()]
        found += [p for p in (self.path / ".talkies/locks").glob("*") if p.is_file()]
        found += [p for p in (self.path / ".talkies/locks").glob(".*") if p.is_file()]
        found += [p for p in (self.path / ".talkies/films").rglob("*") if p.is_file()]
        return sorted(str(p.relative_to(self.path)) for p in found)

    def whole(self, pairs: Iterable[str]) -> None:
        """Assert that exactly these pairs' films exist and are whole, and that no half-made files are left."""
        assert sorted(self.films()) == sorted(pairs)
        for pair in pairs:
            facts = self.record(pair)["file"]
            film = self.film(pair)
            assert film.stat().st_size == facts["size"]
            assert file_digest(film) == facts["sha256"]
        left = self.debris()
        assert left == [], left

    def goes_on(self, pairs: list[str]) -> str:
        """Run Snakemake after an interruption: it makes what is missing, and each film was made once in all."""
        output = self.snakemake()
        assert sorted(self.events("animate")) == pairs
        self.whole(pairs)
        return output


def processes(words: str, folder: Path | None = None) -> list[int]:
    """Return the numbers of the processes with these words as arguments, and this working folder."""
    wanted, found = words.replace(" ", "\0").encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (entry / "cmdline").read_bytes() and (folder is None or (entry / "cwd").readlink() == folder):
                found.append(int(entry.name))
    return found


def program(path: Path, script: str) -> Path:
    """Write a program: a script with its first line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)
    return path


def jobs_in(output: str, rule: str) -> int:
    """Return how many jobs of a rule a run reports, in talkies' console line or in Snakemake's table."""
    for line in output.splitlines():
        if line.startswith("talkies: jobs: "):
            counts = dict(each.split() for each in line.removeprefix("talkies: jobs: ").split(", "))
            return int(counts.get(rule, 0))
        words = line.split()
        if len(words) == 2 and words[0] == rule and words[1].isdigit():
            return int(words[1])
    return 0


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.02)


def write_weights(path: Path, preset: str = "vox-256") -> None:
    """Write a safetensors file with a preset's names and shapes, and a hole in place of the numbers."""
    import torch

    from talkies.fomm.model.checkpoint import skeleton

    header, offset = {}, 0
    for name, tensor in skeleton(preset).state_dict().items():
        size = tensor.numel() * tensor.element_size()
        kind = "I64" if tensor.dtype == torch.int64 else "F32"
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
