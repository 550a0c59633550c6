"""Pictures, clips, weights and motions that are damaged, expensive or not files: each is soon refused in one line."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import bombs
import clips
import pytest
import torch
from run_folder import BIN, RunFolder

from talkies.errors import InputError
from talkies.media import ffmpeg, frames, limits
from talkies.media.clip import probe
from talkies.media.frames import read_frames


def talkies(*words: str | Path, cwd: Path, seconds: float = 60) -> str:
    """Run the command as a user does. It must fail with one line, which is returned."""
    ended = subprocess.run([BIN / "talkies", *words], cwd=cwd, capture_output=True, text=True, timeout=seconds)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    (line,) = ended.stderr.splitlines()
    assert "unexpected" not in line
    return line


# --- devices and pipes ---


def test_a_run_passes_over_what_is_no_file_and_makes_the_rest(tmp_path: Path) -> None:
    """Planning also survives a damaged clip whose reader asks for 34 GB, and the good clip gets its film."""
    run = RunFolder.create(tmp_path / "run", ["red"], ["good"])
    run.configure(check=True)
    os.mkfifo(run.path / "images/pipe.png")
    os.mkfifo(run.path / "driving/pipe.mp4")
    (run.path / "images/zero.png").symlink_to("/dev/zero")
    bombs.endless_times(run.path / "driving/stts.mp4")
    bombs.no_time_scale(run.path / "driving/scale.mp4")
    said = run.snakemake("--keep-going", ok=False)
    assert set(run.films()) == {"good/red", "scale/red"}
    assert "Traceback" not in said
    assert "unexpected" not in said
    for name, reason in (
        ("images/pipe.png", "this is a device or pipe, not a file"),
        ("driving/pipe.mp4", "this is a device or pipe, not a file"),
        ("images/zero.png", "this is a device or pipe, not a file"),
        ("driving/stts.mp4", "reading it takes over 1.5 GB of memory"),
    ):
        assert f"{name}: {reason}" in said


# --- errors caused by a file, and by the machine ---


def test_memory_that_the_machine_lacks_is_no_fault_of_the_clip(tmp_path: Path) -> None:
    """If `ulimit -d` is below our own limit, the cause is unknown, and another run may succeed."""
    code = f"""
import resource
from talkies.media import probe
from talkies.errors import InputError
from PIL import Image
resource.setrlimit(resource.RLIMIT_DATA, (400_000_000, 400_000_000))
print(probe({str(clips.get("plain.mp4"))!r}).frames)
try:
    probe({str(bombs.endless_times(tmp_path / "a.mp4"))!r})
except InputError:
    print("its own fault")
except MemoryError:
    print("the machine's fault")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout.splitlines() == ["60", "the machine's fault"], said.stderr


def test_ffmpeg_runs_under_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = read_frames(probe(clips.get("untagged-hd.mp4")), rate=Fraction(3000))
    seen: list[tuple[int, int]] = []
    limit = limits.limit_time

    def watched(process: int, seconds: float) -> None:
        limit(process, seconds)
        seen.append(resource.prlimit(process, resource.RLIMIT_DATA))
        seen.append(resource.prlimit(process, resource.RLIMIT_CPU))

    monkeypatch.setattr(ffmpeg, "limit_time", watched)
    next(frames)
    frames.close()
    assert seen[0] == (limits.MEMORY, limits.MEMORY)
    assert 60 <= seen[1][1] < 400


def test_a_clip_that_takes_too_much_time_is_its_own_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ffmpeg is killed by its limit of CPU time, which differs from a kill by someone else."""
    noise = ["-f", "lavfi", "-i", "testsrc2=s=1280x720:r=50", "-frames:v", "500", "-c:v", "mpeg4", "-q:v", "2"]
    clips.ffmpeg(*noise, tmp_path / "a.mp4")
    clip = probe(tmp_path / "a.mp4")
    monkeypatch.setattr(frames, "SECONDS", 1)
    monkeypatch.setattr(frames, "SECONDS_A_PICTURE", 0)
    monkeypatch.setattr(frames, "SECONDS_A_PIXEL", 0)
    found = list(read_frames(clip, rate=Fraction(10_000), size=64))
    assert 0 < len(found) < 100_000


# --- small files that are expensive to read ---


def test_a_gif_of_half_a_million_frames_is_refused_unless_a_part_is_asked_for(tmp_path: Path) -> None:
    clip = probe(bombs.long_gif(tmp_path / "a.gif"))
    assert clip.frames == 500_000
    for sampled in (None, Fraction(1, 1000)):
        with pytest.raises(InputError, match=r"a\.gif: 500,000 frames are over 250,000: give a part of it by start"):
            read_frames(clip, rate=sampled)
    assert len(list(read_frames(clip, end=1))) == 10


MEASURED = """
import json, sys, time
from pathlib import Path
from talkies.errors import TalkiesError
from talkies.fomm.model.checkpoint import load_checkpoint

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1000

for path in sys.argv[1:]:
    before, begun, said = peak(), time.monotonic(), None
    try:
        load_checkpoint(path)
    except TalkiesError as error:
        said = str(error)
    print(json.dumps([said, time.monotonic() - begun, peak() - before]))
"""


def vast_checkpoint(path: Path) -> None:
    """24 GB of nothing: a hole that takes no space on the disk."""
    size = 24_000_000_000
    header = f'{{"generator.a":{{"dtype":"F32","shape":[{size // 4}],"data_offsets":[0,{size}]}}}}'.encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


def test_weights_and_motions_that_would_fill_the_memory_or_never_end_are_refused_soon(tmp_path: Path) -> None:
    refused = {
        "bomb.pth.tar": "would unpack to 0.3 GB",
        "zip.pth.tar": "48.0 GB are too many",
        "legacy.pth.tar": "48.0 GB are too many",
        "vast.safetensors": "24.0 GB are too many",
        "endless.pth.tar": "not a file",
    }
    paths = {name: tmp_path / name for name in refused}
    bombs.zip_bomb(paths["bomb.pth.tar"], "archive/data/0", 1 << 28)
    bombs.zipfile.ZipFile(paths["bomb.pth.tar"], "a").writestr("archive/data.pkl", b"\x80\x02}.")
    # A tensor said to be 24 gigabytes: one number, repeated by a stride of 0.
    vast = torch.zeros(1, dtype=torch.half).expand(12 * 10**9)
    content = {"generator": {"a": vast}, "kp_detector": {"b": torch.zeros(3)}}
    torch.save(content, paths["zip.pth.tar"])
    torch.save(content, paths["legacy.pth.tar"], _use_new_zipfile_serialization=False)
    vast_checkpoint(paths["vast.safetensors"])
    paths["endless.pth.tar"].symlink_to("/dev/zero")
    done = subprocess.run([sys.executable, "-c", MEASURED, *paths.values()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (name, reason), line in zip(refused.items(), done.stdout.splitlines(), strict=True):
        said, seconds, megabytes = json.loads(line)
        assert str(paths[name]) in said
        assert reason in said
        assert (seconds < 5, megabytes < 100) == (True, True), (name, seconds, megabytes)
    for name in ("zip.pth.tar", "legacy.pth.tar"):
        assert "48.0 GB are too many" in talkies("checkpoint", "show", name, cwd=tmp_path)


# --- a run with a picture that never ends ---
