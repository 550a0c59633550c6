"""Weights from hosts that break off, stall, lie, change files and send pages: either correct files, or a clear line.

The hosts run on this machine (weights_host.py); the transfer, the readers and the programs are real.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from run_folder import RunFolder, wait_for, write_weights
from small_preset import FILE, NAME, PRESET, write_checkpoint
from weights_host import File, Host, certificate, host, http_date

from talkies.cli import build_parser
from talkies.errors import TalkiesError
from talkies.files import read_json
from talkies.fomm.model import load_model
from talkies.fomm.model.presets import PRESETS
from talkies.fomm.model.published import check_unchanged, find_weights
from talkies.operate import weights
from talkies.operate.weights import Fetched, fetch
from talkies.run import settings as config
from talkies.run.asks import Specs
from talkies.run.plan import Plan
from talkies.run.planner import make_plan

PROGRAM = Path(__file__).parents[1] / "small_preset.py"
SAFETENSORS = "small-cpk.safetensors"
PAGE = File(b"<!DOCTYPE html><title>Quota exceeded</title>", headers={"Content-Type": "text/html"})


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Two checkpoints of the same size and structure, with different numbers."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return [write_checkpoint(folder / str(seed), seed=seed) for seed in (0, 1)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weights, with the small preset registered and short waiting times."""
    monkeypatch.setenv("TALKIES_WEIGHTS", str(tmp_path / "kept"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, NAME, PRESET)
    monkeypatch.setattr(weights, "SECONDS", (2.0, 1.0))
    monkeypatch.setattr("random.uniform", lambda low, high: 0.05)  # gdown's pauses
    return tmp_path / "kept"


@pytest.fixture
def web() -> Iterator[Host]:
    with host() as made:
        yield made


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [record.getMessage() for record in caplog.records if record.name == "talkies"]
    assert not [line for line in said if "\n" in line]
    return said


def from_host(web: Host, **options: object) -> Fetched:
    return fetch(NAME, source=web.link(), **options)


def refusal(web: Host, caplog: pytest.LogCaptureFixture, here: Path, **options: object) -> str:
    """Return why a fetch from the host fails, after checking that no file has a final name."""
    caplog.clear()
    with pytest.raises(TalkiesError, match=f"{NAME}: its weights did not come.*--from URL") as caught:
        from_host(web, **options)
    assert "\n" not in str(caught.value)
    assert visible(here) <= {"weights.lock"}
    (line,) = lines(caplog)
    assert line.startswith(f"{web.link()}: ")
    return line.removeprefix(f"{web.link()}: ")


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def all_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def ranges(web: Host) -> list[str | None]:
    return [asked for _, asked in web.asked]


# --- as it should be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
def test_what_came_is_found_by_its_preset(here: Path, web: Host, tmp_path: Path, legacy: bool) -> None:
    content = write_checkpoint(tmp_path / "own.pth.tar", legacy=legacy)
    web.files["/w.pth.tar"] = File(content)
    fetched = from_host(web)
    assert fetched.path == here / FILE
    assert fetched.path.read_bytes() == content
    assert all_of(here) == {FILE, "weights.lock"}
    assert fetched.path.stat().st_mode & 0o777 == (tmp_path / "own.pth.tar").stat().st_mode & 0o777
    assert (fetched.source, fetched.size) == (web.link(), len(content))
    assert fetched.sha256 == hashlib.sha256(content).hexdigest()
    assert "first use" in fetched.sums
    by_path = load_model(NAME, tmp_path / "own.pth.tar").weights_digest
    assert load_model(NAME).weights_digest == by_path == fetched.weights
    assert find_weights(NAME) == fetched.path
    before = web.asked.copy()
    again = from_host(web)
    assert (again.path, again.source, again.sums) == (fetched.path, None, "as in weights.lock")
    assert web.asked == before


def test_the_command_says_source_size_sums_and_licence(here: Path, web: Host, contents: list[bytes]) -> None:
    web.files["/w.pth.tar"] = File(contents[0])
    done = program("checkpoint", "fetch", NAME, "--from", web.link())
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told = done.stdout.splitlines()
    assert told[:3] == [f"{NAME}: {here / FILE}", f"source {web.link()}", f"size {len(contents[0]) / 1e6:.1f} MB"]
    assert told[3].startswith(f"sha256 {hashlib.sha256(contents[0]).hexdigest()} (first use")
    assert told[4].startswith("weights sha256 ")
    assert "licence: nobody states one" in told[5]


def program(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *words], capture_output=True, text=True, timeout=120, **options
    )


def test_the_run_folders_own_weights_go_first(here: Path, web: Host, contents: list[bytes], tmp_path: Path) -> None:
    web.files["/w.pth.tar"] = File(contents[0])
    from_host(web)
    shutil.copytree(here, tmp_path / "weights")
    assert find_weights(NAME) == Path("weights") / FILE


def test_without_a_folder_named_they_go_into_the_users_cache(
    here: Path, web: Host, contents: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TALKIES_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    web.files["/w.pth.tar"] = File(contents[0])
    assert from_host(web).path == tmp_path / "cache/talkies/weights" / FILE == find_weights(NAME)


def test_a_file_of_ones_own(here: Path, web: Host, contents: list[bytes], tmp_path: Path) -> None:
    web.files["/w.pth.tar"] = File(contents[0])
    assert from_host(web, to=tmp_path / "mine.pth").path.read_bytes() == contents[0]
    assert read_json(tmp_path / "weights.lock", {"mine.pth": {"sha256": str}})
    (tmp_path / "other.pth").write_bytes(b"a letter")
    with pytest.raises(TalkiesError, match=r"other\.pth: neither a PyTorch nor.*move it away"):
        from_host(web, to=tmp_path / "other.pth")
    assert (tmp_path / "other.pth").read_bytes() == b"a letter"


def test_convert_leaves_the_smaller_file_with_the_same_weights(here: Path, web: Host, contents: list[bytes]) -> None:
    web.files["/w.pth.tar"] = File(contents[0])
    fetched = from_host(web, convert=True)
    assert all_of(here) == {SAFETENSORS, "weights.lock"}
    assert fetched.size < len(contents[0]) / 2
    assert load_model(NAME).weights_digest == fetched.weights
    digest = hashlib.sha256(contents[0]).hexdigest()
    assert fetched.sha256 == digest
    assert from_host(web, sha256=digest).source is None, "a file converted from the requested one is accepted"
    fetched.path.unlink()
    web.files["/w.pth.tar"] = File(contents[1])
    with pytest.raises(TalkiesError):
        from_host(web, convert=True)


def test_what_is_here_is_converted(here: Path, web: Host, contents: list[bytes]) -> None:
    web.files["/w.pth.tar"] = File(contents[0])
    from_host(web)
    before = web.asked.copy()
    assert from_host(web, convert=True).path == here / SAFETENSORS == find_weights(NAME)
    assert visible(here) == {FILE, SAFETENSORS, "weights.lock"}
    assert web.asked == before


def test_a_mirrors_safetensors_are_known_by_their_name(here: Path, web: Host, contents: list[bytes]) -> None:
    web.files["/w.pth.tar"] = File(contents[0])
    converted = from_host(web, convert=True).path.read_bytes()
    shutil.rmtree(here)
    web.files["/w.pth.tar"] = File(converted)
    assert from_host(web).path == here / SAFETENSORS
    (here / SAFETENSORS).unlink()
    assert from_host(web).sums == "as in weights.lock"


# --- a bad connection ----------------------------------------------------------------------------------------


def test_a_transfer_that_breaks_off_goes_on(here: Path, web: Host, contents: list[bytes]) -> None:
    web.files["/w.pth.tar"] = File(contents[0], breaks=[700_000, 1_900_000])
    assert from_host(web).path.read_bytes() == contents[0]
    assert ranges(web)[0] is None
    assert [asked is not None for asked in ranges(web)[1:]] == [True, True]


def test_a_transfer_that_stalls_goes_on(here: Path, web: Host, contents: list[bytes]) -> None:
    web.files["/w.pth.tar"] = File(contents[0], stalls=[1_200_000])
    assert from_host(web).path.read_bytes() == contents[0]
    assert len(web.asked) == 2


def test_a_host_that_is_silent_is_given_up(here: Path, web: Host, contents: list[bytes], caplog, monkeypatch) -> None:
    monkeypatch.setattr(weights, "RETRIES", 1)
    web.files["/w.pth.tar"] = File(contents[0], stalls=[600_000, 600_000])
    assert refusal(web, caplog, here) == "no answer within 1 seconds"


def test_what_came_of_it_stays_for_the_next_call(
    here: Path, web: Host, contents: list[bytes], caplog, monkeypatch
) -> None:
    monkeypatch.setattr(weights, "RETRIES", 0)
    file = web.files["/w.pth.tar"] = File(contents[0], breaks=[1_500_000])
    assert "incomplete" in refusal(web, caplog, here)
    web.asked.clear()
    web.asked.append(("", None))
    assert from_host(web).path.read_bytes() == file.content
    assert int(ranges(web)[-1].strip("bytes=-")) > 1_000_000
    assert all_of(here) == {FILE, "weights.lock"}


def in_part(here: Path) -> int:
    """Return how many bytes of a file have arrived so far."""
    return sum(path.stat().st_size for path in here.rglob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_twice_and_finished_by_the_third(here: Path, web: Host, contents: list[bytes], number: int) -> None:
    file = web.files["/w.pth.tar"] = File(contents[0], stalls=[900_000, 2_000_000])
    begun = []
    for left in (1, 0):
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "checkpoint", "fetch", NAME, "--from", web.link()], stderr=subprocess.PIPE
        )
        wait_for(lambda left=left: len(file.stalls) == left, 30)
        wait_for(lambda: in_part(here) > sum(begun), 30)
        begun.append(in_part(here))
        process.send_signal(number)
        process.communicate()
        assert process.returncode == (128 + number if number == signal.SIGTERM else -number)
        assert not visible(here)
    assert begun[1] > begun[0] > 0
    done = program("checkpoint", "fetch", NAME, "--from", web.link())
    assert done.returncode == 0, done.stderr
    assert (here / FILE).read_bytes() == contents[0]
    assert all_of(here) == {FILE, "weights.lock"}
    parts = [int(asked.strip("bytes=-")) for asked in ranges(web) if asked]
    assert parts == sorted(parts)
    assert len(parts) == 2
    assert parts[0] > 0


def test_two_at_once_share_one_download(here: Path, web: Host, contents: list[bytes]) -> None:
    file = web.files["/w.pth.tar"] = File(contents[0], stalls=[1_000_000])
    command = [sys.executable, str(PROGRAM), "checkpoint", "fetch", NAME, "--from", web.link()]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: not file.stalls, 30)
    second = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "is at work on fetching weights" in second.stderr.readline()
    web.over.set()  # ends the connection, and the first process resumes
    assert "source http" in first.communicate()[0]
    assert "source none: it was here already" in second.communicate()[0]
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(web.asked) == 2, "only the first asks, before and after the stall"


def test_redirects_are_followed(here: Path, web: Host, contents: list[bytes], caplog) -> None:
    web.files["/w.pth.tar"] = File(b"", status=302, headers={"Location": web.link("/far/w?key=1")})
    web.files["/far/w"] = File(contents[0], breaks=[1_000_000])
    web.asked.append(("", ""))
    assert from_host(web).path.read_bytes() == contents[0]
    shutil.rmtree(here)
    web.files["/far/w"] = web.files["/w.pth.tar"]
    assert "30 redirects" in refusal(web, caplog, here)


def test_a_host_that_is_not_there(here: Path, web: Host, caplog) -> None:
    assert refusal(web, caplog, here) == "the host answers 404 Not Found"
    web.close()
    assert refusal(web, caplog, here) == "can't reach the host (Connection refused)"


# --- a host that can't resume, or has a different file by then ---------------------------------------------------


def test_a_host_that_knows_no_ranges_begins_anew(here: Path, web: Host, contents: list[bytes]) -> None:
    web.files["/w.pth.tar"] = File(contents[0], breaks=[1_000_000], ranges=False)
    assert from_host(web).path.read_bytes() == contents[0]


@pytest.mark.parametrize("dated", [False, True], ids=["ETag", "Last-Modified"])
@pytest.mark.parametrize("if_range", [False, True], ids=["If-Range ignored", "If-Range honoured"])
def test_a_file_that_changes_meanwhile_is_taken_whole(
    here: Path, web: Host, contents: list[bytes], dated: bool, if_range: bool
) -> None:
    versions = [http_date(0), http_date()] if dated else ['"1"', '"2"']
    first = File(contents[0], breaks=[1_000_000], version=versions[0], dated=dated, if_range=if_range)
    second = File(contents[1], version=versions[1], dated=dated, if_range=if_range)
    first.then = lambda: web.files.update({"/w.pth.tar": second})
    web.files["/w.pth.tar"] = first
    assert from_host(web).path.read_bytes() == contents[1]


def test_a_file_that_changed_between_two_calls_is_taken_whole(
    here: Path, web: Host, contents: list[bytes], caplog, monkeypatch
) -> None:
    monkeypatch.setattr(weights, "RETRIES", 0)
    web.files["/w.pth.tar"] = File(contents[0], breaks=[1_000_000])
    refusal(web, caplog, here)
    web.files["/w.pth.tar"] = File(contents[1], version='"2"')
    assert from_host(web).path.read_bytes() == contents[1]


def test_of_a_file_without_a_version_no_part_is_kept(here: Path, web: Host, contents: list[bytes]) -> None:
    first = File(contents[0], breaks=[1_000_000], version=None)
    first.then = lambda: web.files.update({"/w.pth.tar": File(contents[1], version=None)})
    web.files["/w.pth.tar"] = first
    assert from_host(web).path.read_bytes() == contents[1]
    assert ranges(web) == [None, None]


# --- wrong files -------------------------------------------------------------------------------------------------


def test_a_page_is_refused_and_the_next_source_is_asked(
    here: Path, web: Host, contents: list[bytes], caplog, monkeypatch
) -> None:
    web.files |= {"/a": PAGE, "/b": File(contents[0][:2_000_000]), "/c": File(contents[0])}
    monkeypatch.setattr(weights, "sources_of", lambda preset: [web.link(path) for path in ("/a", "/gone", "/b", "/c")])
    assert fetch(NAME).source == web.link("/c")
    first, second, third = lines(caplog)
    assert first.startswith(f"{web.link('/a')}: this is a web page, not a checkpoint")
    assert second == f"{web.link('/gone')}: the host answers 404 Not Found"
    assert third.startswith(f"{web.link('/b')}: damaged, or a download cut short")
    assert all_of(here) == {FILE, "weights.lock"}


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
@pytest.mark.parametrize("less", [1, 500_000])
def test_a_host_that_announces_too_little_is_found_out(
    here: Path, web: Host, tmp_path: Path, caplog, monkeypatch, legacy: bool, less: int
) -> None:
    """Also without PyTorch: the head of a file gives its required length."""
    monkeypatch.setattr(weights, "find_spec", lambda name: None if name == "torch" else name)
    web.files["/w.pth.tar"] = File(write_checkpoint(tmp_path / "own", legacy=legacy), announces=-less)
    assert refusal(web, caplog, here).startswith("damaged, or a download cut short")


def test_a_host_that_announces_too_much_is_found_out(here: Path, web: Host, contents: list[bytes], caplog) -> None:
    web.files["/w.pth.tar"] = File(contents[0], announces=1000)
    assert "incomplete" in refusal(web, caplog, here) or "byte range" in lines(caplog)[0]


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_foreign_file_is_refused_and_nothing_in_it_is_run(
    here: Path, web: Host, tmp_path: Path, caplog, contents: list[bytes]
) -> None:
    other = {"generator": {"a": torch.zeros(3)}, "kp_detector": {"a": torch.zeros(3)}}
    torch.save(other, tmp_path / "other")
    for content, reason in (
        (pickle.dumps(Bomb()), "neither a PyTorch nor a safetensors file"),
        (b"PK\x05\x06" + bytes(18), "this is an archive"),
        ((tmp_path / "other").read_bytes(), f"these weights are not for preset {NAME}"),
        (contents[0].replace(b"ctorch._utils\n", b"cos\nsystem\n(S'touch exploded'\ntR", 1), ""),
    ):
        web.files["/w.pth.tar"] = File(content)
        assert reason in refusal(web, caplog, here)
        assert not [path for path in here.rglob("*") if path.is_file()]
    assert not (tmp_path / "exploded").exists()


def test_numbers_that_are_none_are_refused(here: Path, web: Host, tmp_path: Path, caplog) -> None:
    content = write_checkpoint(tmp_path / "own", legacy=False)
    known = torch.load(tmp_path / "own", weights_only=True)
    known["generator"]["first.conv.weight"][:] = float("nan")
    torch.save(known, tmp_path / "own")
    assert content
    web.files["/w.pth.tar"] = File((tmp_path / "own").read_bytes())
    assert "infinite or undefined numbers" in refusal(web, caplog, here)


def test_what_is_too_large_is_not_downloaded(here: Path, web: Host, contents: list[bytes], caplog, monkeypatch) -> None:
    monkeypatch.setattr(weights, "MAX_BYTES", 2_000_000)
    web.files["/w.pth.tar"] = File(contents[0], stalls=[1_000_000])
    assert "are too many for weights of this network" in refusal(web, caplog, here)
    assert web.files["/w.pth.tar"].stalls or web.asked


# --- digests ---------------------------------------------------------------------------------------------------


def test_a_published_md5_counts(here: Path, web: Host, contents: list[bytes], caplog, monkeypatch) -> None:
    monkeypatch.setitem(weights.MD5, NAME, hashlib.md5(contents[0]).hexdigest())
    web.files["/w.pth.tar"] = File(contents[1])
    assert "another file: its md5 is not" in refusal(web, caplog, here)
    web.files["/w.pth.tar"] = File(contents[0])
    assert from_host(web).sums.endswith("as published")
    (here / FILE).write_bytes(contents[1])
    (here / "weights.lock").unlink()
    with pytest.raises(TalkiesError, match=r"its md5 is not.*move it away"):
        from_host(web)


def test_a_sha256_that_was_given_counts(here: Path, web: Host, contents: list[bytes], caplog) -> None:
    web.files["/w.pth.tar"] = File(contents[0])
    wanted = hashlib.sha256(contents[1]).hexdigest()
    assert refusal(web, caplog, here, sha256=wanted).startswith("another file: its sha256 is")
    assert not (here / "weights.lock").exists()
    web.files["/w.pth.tar"] = File(contents[1])
    assert from_host(web, sha256=wanted).sums == "as asked for"


def test_another_file_than_the_first_is_refused(here: Path, web: Host, contents: list[bytes], caplog) -> None:
    web.files["/w.pth.tar"] = File(contents[0])
    from_host(web).path.unlink()
    web.files["/w.pth.tar"] = File(contents[1], version='"2"')
    new = hashlib.sha256(contents[1]).hexdigest()
    said = refusal(web, caplog, here)
    assert said.startswith("another file than the first")
    assert new in said
    assert from_host(web, sha256=new).path.read_bytes() == contents[1]
    (here / FILE).unlink()
    assert from_host(web).sums == "as in weights.lock"


def test_a_file_that_changed_here_is_refused_at_every_door(here: Path, web: Host, contents: list[bytes]) -> None:
    web.files["/w.pth.tar"] = File(contents[0])
    path = from_host(web).path
    os.utime(path)
    check_unchanged(path)  # the time differs, the bytes do not
    path.write_bytes(contents[1])
    for door in (lambda: load_model(NAME), lambda: from_host(web), lambda: check_unchanged(path)):
        with pytest.raises(TalkiesError, match="has changed since it was fetched"):
            door()
    path.unlink()
    assert from_host(web).path.read_bytes() == contents[0]


# --- the known hosts -----------------------------------------------------------------------------------------------

GITHUB, ASSETS = "github.com", "release-assets.githubusercontent.com"
DRIVE, CONTENT = "drive.google.com", "drive.usercontent.google.com"
YANDEX, DOWNLOADER = "cloud-api.yandex.net", "downloader.disk.yandex.ru"
FORM = f"""<html><body><form id="download-form" action="https://{CONTENT}/download" method="get">
<input type="hidden" name="id" value="{"a" * 33}"><input type="hidden" name="confirm" value="t"></form></body></html>"""
QUOTA = '<html><p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></html>'
HTML = {"Content-Type": "text/html; charset=utf-8"}
LISTING = f"""<html><head><title>checkpoints</title></head><body>
<a href="https://drive.google.com/file/d/{"b" * 33}/view">other.pth.tar</a>
<a href="https://drive.google.com/file/d/{"a" * 33}/view">{FILE}</a></body></html>"""


@pytest.fixture
def internet(web: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A proxy on this machine that plays the known hosts."""
    if not shutil.which("openssl"):
        pytest.skip("NOT TESTED: the pages of the real hosts (openssl is not installed)")
    web.tls, trusted = certificate(tmp_path, [GITHUB, ASSETS, DRIVE, CONTENT, YANDEX, DOWNLOADER])
    monkeypatch.setenv("HTTPS_PROXY", web.link(""))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
    return web


def test_the_release_is_asked_first(here: Path, internet: Host, contents: list[bytes]) -> None:
    address = f"{GITHUB}/graphemecluster/first-order-model-demo/releases/download/checkpoints/{FILE}"
    internet.files[address] = File(b"", status=302, headers={"Location": f"https://{ASSETS}/1/2?sig=3"}, version=None)
    internet.files[f"{ASSETS}/1/2"] = File(contents[0], breaks=[1_000_000])
    internet.asked.append(("", ""))
    assert fetch(NAME).source == f"https://{address}"
    assert (here / FILE).read_bytes() == contents[0]


def test_then_drives_folder_where_its_page_asks_for_a_confirmation(
    here: Path, internet: Host, contents: list[bytes], caplog
) -> None:
    internet.files[f"{DRIVE}/embeddedfolderview"] = File(LISTING.encode(), headers=HTML)
    internet.files[f"{DRIVE}/uc"] = File(FORM.encode(), headers=HTML)
    attached = {"Content-Disposition": f'attachment; filename="{FILE}"', "Content-Type": "application/octet-stream"}
    internet.files[f"{CONTENT}/download"] = File(contents[0], headers=attached)
    assert fetch(NAME).source == weights.DRIVE_FOLDER
    assert (here / FILE).read_bytes() == contents[0]
    assert len(lines(caplog)) == 1


def test_then_yandex_where_drives_quota_is_exceeded(here: Path, internet: Host, contents: list[bytes], caplog) -> None:
    internet.files[f"{DRIVE}/embeddedfolderview"] = File(LISTING.encode(), headers=HTML)
    internet.files[f"{DRIVE}/uc"] = File(QUOTA.encode(), headers=HTML)
    api = f"{YANDEX}/v1/disk/public/resources/download"
    key = "public_key=https%3A%2F%2Fdisk.yandex.ru%2Fd%2FlEw8uRm140L_eQ"
    internet.files[f"{api}?{key}&path=%2F{FILE}"] = File(f'{{"href": "https://{DOWNLOADER}/x?y=1"}}'.encode())
    internet.files[f"{DOWNLOADER}/x"] = File(contents[0])
    assert fetch(NAME).source == f"{weights.YANDEX_FOLDER}/{FILE}"
    github, drive = lines(caplog)
    assert github.endswith("the host answers 404 Not Found")
    assert drive == f"{weights.DRIVE_FOLDER}: Too many users have viewed or downloaded this file recently"


def test_each_source_that_fails_is_told_in_a_line(here: Path, internet: Host, caplog) -> None:
    internet.files[f"{DRIVE}/embeddedfolderview"] = File(b"<html>Sorry", status=429, headers=HTML)
    internet.files[f"{YANDEX}/v1/disk/public/resources/download"] = File(b'{"error": "gone"}')
    with pytest.raises(TalkiesError, match=f"{NAME}: its weights did not come"):
        fetch(NAME)
    assert [line.partition(": ")[0] for line in lines(caplog)] == weights.sources_of(NAME)


def test_every_published_preset_has_three_sources() -> None:
    for name, preset in PRESETS.items():
        if preset.checkpoint:
            sources = weights.sources_of(name)
            assert len(sources) == len({*sources}) == 3
            assert sources[0].endswith(f"/{preset.checkpoint}")


# --- the doors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["demo"],
        ["nobody"],
        [NAME, "--sha256", "12"],
        [NAME, "--from", "ftp://host/file"],
        [NAME, "--from", "file.pth"],
        [],
    ],
    ids=str,
)
def test_a_wrong_call(here: Path, words: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["checkpoint", "fetch", *words])
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_what_is_missing_is_said_before_anything_is_downloaded(here: Path, web: Host, monkeypatch) -> None:
    for lack, options, said in (
        ("gdown", {}, "gdown is not installed.*outside the image"),
        ("torch", {"convert": True}, "--convert loads the network, and PyTorch is not installed"),
        ("", {"convert": True, "to": Path("x.pth")}, r"ends in \.safetensors"),
    ):
        monkeypatch.setattr(weights, "find_spec", lambda name, lack=lack: None if name == lack else name)
        with pytest.raises(TalkiesError, match=said):
            from_host(web, **options)
    assert not web.asked


def test_where_weights_are_missing_every_door_names_the_command(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", images=["red"], clips=["a"])
    run.configure(model={"preset": "vox-adv-256"})
    command = "`talkies checkpoint fetch vox-adv-256` gets them"
    animate = ("animate", "--source", "images/red.png", "--driving", "driving/a.mp4", "-o", "x.mp4", "--crop-source")
    animate += ("center", "--crop-driving", "center", "--model", "vox-adv-256")
    for said in (run.talkies(*animate, ok=False), run.talkies("check", ok=False), run.talkies("doctor", ok=False)):
        (line,) = [line for line in said.splitlines() if "checkpoint" in line]
        assert command in line
    (line,) = [line for line in run.snakemake("-n", ok=False).splitlines() if "checkpoint" in line]
    assert command in line
    assert "Traceback" not in line


def test_a_preset_that_was_fetched_is_planned_as_the_file_named_by_its_path(tmp_path: Path, monkeypatch) -> None:
    run = RunFolder.create(tmp_path / "run", images=["red"], clips=["a"])
    monkeypatch.chdir(run.path)
    monkeypatch.setenv("TALKIES_WEIGHTS", str(tmp_path / "kept"))
    (tmp_path / "kept").mkdir()
    file = tmp_path / "kept/vox-cpk.safetensors"
    write_weights(file, "vox-256")
    plans = []
    for model in ({"preset": "vox-256"}, {"preset": "vox-256", "checkpoint": str(file)}):
        run.configure(model=model)
        plans.append(make_plan(config.load(Path("config.yaml")))[0])
    by_preset, by_path = plans
    assert by_preset.settings == by_path.settings
    assert Specs(by_preset).film("a/red") == Specs(by_path).film("a/red")
    assert by_preset.outside == [str(tmp_path / "kept")], "the folder is mounted in an image"
    jobs = Plan.load(_saved(by_preset))
    assert jobs.settings.model.checkpoint == str(file), "a job gets the file's path and needs no network"


def _saved(plan: Plan) -> Path:
    plan.save(Path("plan.json"))
    return Path("plan.json")
