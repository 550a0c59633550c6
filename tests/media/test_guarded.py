"""The process that reads files of strangers: its cost, its end, and that a bad file does not affect others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import bombs
import numpy as np
import pytest
from PIL import Image
from run_folder import wait_for

from talkies.errors import InputError, Stopped, TalkiesError
from talkies.media import guarded
from talkies.media.pictures import read_picture


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (height, width, channels), np.uint8)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(noise(40, 60)).save(tmp_path / "a.png")
    read_picture(tmp_path / "a.png")  # starts the process
    return tmp_path / "a.png"


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A small picture that takes many seconds to decode."""
    return bombs.scans(tmp_path / "slow.jpg", 2000)


def child() -> int:
    process = guarded.children.queue[-1].process  # the last one used
    assert process is not None
    return process.pid


def test_one_process_reads_all_pictures(picture: Path) -> None:
    first = child()
    pixels = [read_picture(picture) for _ in range(3)]
    assert child() == first
    assert all(np.array_equal(each, noise(40, 60)) for each in pixels)
    pixels[0][:] = 0  # each result is a separate copy
    assert np.array_equal(pixels[1], noise(40, 60))


def test_threads_get_their_own_pictures(tmp_path: Path) -> None:
    for number in range(8):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")
    found: dict[int, set[int]] = {}

    def read(number: int) -> None:
        found[number] = {int(read_picture(tmp_path / f"{number}.png")[0, 0, 0]) for _ in range(10)}

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: {number} for number in range(8)}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_process_that_died_between_pictures_is_started_anew(picture: Path, number: int) -> None:
    first = child()
    os.kill(first, number)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)  # with its last thread; a first thread that ended is not enough
    assert np.array_equal(read_picture(picture), noise(40, 60))
    assert child() != first


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (signal.SIGSEGV, InputError, "crashes"),
        (signal.SIGXCPU, InputError, "too long"),
        (signal.SIGKILL, TalkiesError, "stopped"),
        (signal.SIGTERM, TalkiesError, "stopped"),
    ],
)
def test_process_that_dies_over_a_picture(
    picture: Path, slow: Path, number: int, error: type[TalkiesError], words: str
) -> None:
    """A crash or a timeout is blamed on the picture, a kill from outside is not; the next picture is read."""
    threading.Timer(0.3, os.kill, (child(), number)).start()
    with pytest.raises(error, match=words) as caught:
        read_picture(slow)
    assert isinstance(caught.value, InputError) == (error is InputError)
    assert slow.name in str(caught.value)
    assert np.array_equal(read_picture(picture), noise(40, 60))


def test_stopping_ends_the_process_and_is_not_taken_for_a_bad_picture(picture: Path, slow: Path) -> None:
    first = child()

    def stop(*_: object) -> None:
        raise Stopped("asked to stop", signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(Stopped):
            read_picture(slow)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not Path(f"/proc/{first}").exists()
    assert np.array_equal(read_picture(picture), noise(40, 60))


@pytest.mark.parametrize("busy", [False, True])
def test_process_does_not_outlive_its_parent(picture: Path, slow: Path, busy: bool) -> None:
    code = f"""
import os, signal, sys, threading
from talkies.media import guarded, pictures
pictures.read_picture({str(picture)!r})
print(guarded.children.queue[-1].process.pid, flush=True)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
pictures.read_picture({str(slow)!r}) if {busy} else signal.pause()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL
    wait_for(lambda: not Path(f"/proc/{ended.stdout.strip()}").exists(), 5)


def test_ctrl_c_in_a_terminal_reaches_the_parent_alone(picture: Path) -> None:
    assert os.getsid(child()) == child()


def test_nothing_is_opened_but_the_file_given(tmp_path: Path, picture: Path) -> None:
    """The decoder gets the open file, because the name may soon lead elsewhere."""
    link = tmp_path / "link.png"
    link.symlink_to(picture)
    with link.open("rb") as file:
        link.unlink()
        answer, shared = guarded._Child().ask(link, file, b"picture")
    os.close(shared)
    assert answer["value"]["size"] == [60, 40]


@pytest.mark.parametrize("start", [(), ("-I",)])
def test_a_folder_of_the_users_lends_it_no_modules(tmp_path: Path, picture: Path, start: tuple[str, ...]) -> None:
    for name in ("PIL", "numpy", "json", "socket"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the run folder')")
    code = f"from talkies.media.pictures import read_picture; print(read_picture({str(picture)!r}).shape)"
    script = tmp_path / "elsewhere" / "run.py"
    script.parent.mkdir()
    script.write_text(code)
    ran = subprocess.run([sys.executable, *start, script], cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout == "(40, 60, 3)\n", ran.stderr


# --- what it costs ---

PEAK = """
import re, sys, threading, time
from pathlib import Path
from talkies.media import crop, guarded, pictures
peak, child = 0, guarded.children.queue[-1]
def watch():
    global peak
    while True:
        process = child.process
        total = 0
        for pid in ("self", str(process.pid) if process else None):
            if pid is None:
                continue
            try:
                total += int(re.search(r"^Pss:\\s+(\\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[1])
            except (OSError, TypeError):
                pass
        peak = max(peak, total)
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
try:
    picture = pictures.read_picture(sys.argv[1])
    crop.crop_picture(picture, crop.LARGEST_FACE, name=sys.argv[1])
    print(picture.shape[1], picture.shape[0], peak // 1000)
except Exception as error:
    print(type(error).__name__, error, peak // 1000)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "F", "turned"])
def test_largest_pictures_stay_below_what_a_job_asks_for(tmp_path: Path, mode: str) -> None:
    """To read and crop 10,900 x 10,900, both processes take less than 2 GB in all, shared memory counted once.

    Of the other modes a pixel takes no more, and they go the same ways.
    """
    side = 10_900
    path = tmp_path / "a"
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB" if mode == "turned" else mode, (side, side))
    image.save(path, "TIFF" if mode in ("CMYK", "F") else "PNG", **({"exif": exif} if mode == "turned" else {}))
    said = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True)
    *size, peak = said.stdout.split()
    print(mode, said.stdout)
    assert size == [str(side)] * 2, said.stdout + said.stderr
    assert int(peak) < 2000


@pytest.mark.slow
def test_a_picture_whose_decoder_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    """JPEG 2000 takes 4 bytes per sample."""
    path = tmp_path / "a.jp2"
    Image.new("RGBA", (10_900, 10_900)).save(path)
    said = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True).stdout
    print(said)
    assert said.startswith("InputError")
    assert "scale it down" in said
    assert int(said.split()[-1]) < 2000
