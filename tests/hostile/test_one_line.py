"""Hostile settings: each gives one clear line and exit code 1, soon, and nothing is made."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from run_folder import REPOSITORY, RunFolder

from talkies.cli import main
from talkies.errors import TalkiesError
from talkies.run import settings as config
from talkies.run.settings import MOST_BYTES, read_pairs

NINE = ",".join("x" * 9)
BOMB = f"title: &b0 [{NINE}]\n" + "".join(
    f"{key}: &b{n} [{','.join([f'*b{n - 1}'] * 9)}]\n"
    for n, key in enumerate(["images", "driving", "pairs", "first", "results", "audio", "check", "gpus"], start=1)
)
DIGITS = "7" * 5000

CASES: dict[str, tuple[str, str]] = {
    "start nan": ("files: {red.png: {start: .nan}}", r"files\.red\.png\.start: nan"),
    "end inf": ("files: {a.mp4: {end: .inf}}", r"files\.a\.mp4\.end: inf"),
    "job_minutes nan": ("job_minutes: .nan", "job_minutes: nan"),
    "job_minutes inf": ("job_minutes: .inf", "job_minutes: inf"),
    "frames_per_second nan": ("frames_per_second: .nan", "frames_per_second: nan"),
    "frames_per_second -inf": ("frames_per_second: -.inf", "frames_per_second: -inf"),
    "frames_per_second tiny": ("frames_per_second: 1.0e-320", "frames_per_second: 1e-320"),
    "digits": (f"gpus: {DIGITS}", r"config\.yaml: not valid YAML"),
    "digits in hex": (f"first: 0x{DIGITS}", "first: so large a number"),
    "digits in a crop": (f"crop: [0x{DIGITS}, 0, 1, 1]", r"crop\.0: so large a number"),
    "no whole number": (
        "pairs_per_job: 3.0",
        "pairs_per_job: 3.0 is not a whole number: write one, for example pairs_per_job: 2000",
    ),
    "aliases": (BOMB, "over 500,000 values"),
    "an alias of itself": ("title: &t [*t]", "title.*too deeply nested"),
    "nested": ("title: " + "[" * 3000 + "]" * 3000, "too deeply nested"),
    "a month 13": ("title: 2020-13-01", r"config\.yaml: not valid YAML"),
    "a long list": (f"crop: [{'1,' * 5000} 1]", "crop: too long"),
    "NUL in results": ('results: "a\\0b"', "results: .*NUL"),
    "braces in results": ("results: 'a{b}'", "results: .*brace"),
    "half a character": ('images: "\\uD800"', "images: .*whole characters"),
    "results is a file": ("results: config.yaml", r"results: config\.yaml is no folder"),
    "results below a file": ("results: config.yaml/deep", r"results: config\.yaml is no folder"),
    "results too long": (f"results: {'r' * 300}", "results: .*255 bytes"),
    "a path too long": (f"images: {'a/' * 3000}", "images: .*4095"),
    "a file name too long": (f"files: {{{'f' * 300}: {{flip: true}}}}", "files: "),
    "an empty box": ("crop: [1, 2, 0, 4]", "crop: .*at least 1 pixel"),
    "no table": ("pairs: config.yaml", r"config\.yaml: line 1"),
    "a folder as table": ("pairs: images", "pairs: can't read images"),
    "a pipe as table": ("pairs: pipe", "pairs: can't read pipe"),
    "a device as table": ("pairs: /dev/zero", "pairs: can't read /dev/zero"),
}
TABLES: dict[str, tuple[str, str]] = {
    "a long cell": (f"image\tdriving\n{'x' * 200_000}\ta", "line 2: image: "),
    "a long header": (f"image\tdriving\t{'x' * 200_000}", "line 1: unknown column"),
    "a long variant": (f"image\tdriving\tvariant\nred\ta\t{'x' * 200_000}", "line 2: variant: "),
    "start of many digits": (f"image\tdriving\tstart\nred\ta\t{DIGITS}", "line 2: start: "),
    "start nan": ("image\tdriving\tstart\nred\ta\tnan", "line 2: start: "),
    "crop of many digits": (f"image\tdriving\tcrop\nred\ta\t0,0,1,{DIGITS}", "line 2: crop: "),
    "an empty crop": ("image\tdriving\tcrop\nred\ta\t0,0,0,1", "line 2: crop: .*at least 1 pixel"),
    "best frame of many digits": (f"image\tdriving\tbest_frame\nred\ta\t{DIGITS}", "line 2: best_frame: "),
    "NUL": ("image\tdriving\nr\0d\ta", "line 2: image: "),
    "a sound that is none": (f"image\tdriving\taudio\nred\ta\t{'s' * 4000}", "line 2: audio: "),
    "end before start": ("image\tdriving\tstart\tend\nred\ta\t2\t1", "line 2: end: "),
}
BY_SNAKEMAKE = ("aliases", "nested", "braces in results", "results is a file")
"""One of each kind; `talkies` itself is tested with all of them."""


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = RunFolder.create(tmp_path_factory.mktemp("one-line") / "run", images=["red"], clips=["a"])
    os.mkfifo(run.path / "pipe")
    return run


def write(run: RunFolder, name: str) -> str:
    """Write a case's config.yaml or pairs table; return the pattern that the line must match."""
    text, words = CASES.get(name) or ("pairs: pairs.tsv", TABLES[name][1])
    if name not in CASES:
        (run.path / "pairs.tsv").write_text(TABLES[name][0])
    base = "" if name == "aliases" else "".join(
        f"{key}: {key}\n" for key in ("images", "driving") if not text.startswith(f"{key}:")
    )  # fmt: skip
    (run.path / "config.yaml").write_text(base + text + "\n")
    return words


ALL = [*CASES, *(f"{name}" for name in TABLES if name not in CASES)]


@pytest.mark.parametrize("name", ALL)
def test_talkies_says_it_in_a_line(name: str, laid_out: RunFolder, monkeypatch, capfd) -> None:
    words = write(laid_out, name)
    monkeypatch.chdir(laid_out.path)
    began = time.monotonic()
    assert main(["check", "--no-poses"]) == 1
    assert time.monotonic() - began < 20, "seconds, even on a busy machine"
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("talkies: error: ")
    assert "unexpected" not in line
    assert re.search(words, line), line
    assert len(line) < 800


@pytest.mark.parametrize("name", BY_SNAKEMAKE)
def test_snakemake_says_it_in_a_line(name: str, laid_out: RunFolder) -> None:
    words = write(laid_out, name)
    output = laid_out.snakemake("-n", ok=False)
    said = [line for line in output.splitlines() if re.search(words, line)]
    assert len(said) == 1, output
    assert "Traceback" not in output
    assert said[0].startswith("talkies: error: "), output
    assert len(output.splitlines()) == 2, "this line, and Snakemake's line about its profile"
    assert not (laid_out.path / "results").exists()


def test_a_new_run_folder_says_it_too(tmp_path: Path, laid_out: RunFolder) -> None:
    run = RunFolder(tmp_path / "new")
    laid_out.talkies("init", str(run.path))
    (run.path / "config.yaml").write_text(CASES["nested"][0])
    result = run.run("snakemake", "-n")
    assert result.returncode == 1
    assert "config.yaml: too deeply nested: write plain keys and values" in result.stdout
    assert "Traceback" not in result.stdout


def test_a_config_file_that_is_no_file(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("config.yaml")
    assert main(["check"]) == 1
    assert "this is a device or pipe, not a file" in capfd.readouterr().err
    Path("config.yaml").unlink()
    with Path("config.yaml").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    assert main(["check"]) == 1
    assert "larger than 16 MB" in capfd.readouterr().err


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e99999999", "9" * 5000, "1/0", "", ".", "0x1", "1e3"])
def test_seconds_at_the_terminal(seconds: str, capsys) -> None:
    words = ["animate", "--source", "a.png", "--driving", "a.mp4", "-o", "o.mp4"]
    for option in ("--start", "--end"):
        with pytest.raises(SystemExit) as ended:
            main([*words, option, seconds])
        assert ended.value.code == 2
        assert "is not a number of seconds" in capsys.readouterr().err


# --- anything at all ---------------------------------------------------------------------------------------

plain = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["face", "face:2", "auto", "demo", "config.yaml", "a{b}", "x" * 300, "\0", 10**400, "docker://a"])
)  # fmt: skip
names = sorted(config.schema("config")["properties"])
keys = st.sampled_from([*names, "images", "driving", "crop", "start", "end", "preset", "gpu", "mosaic"]) | st.text(
    max_size=8
)
trees = st.recursive(plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


def answered_in_a_line(act, *, seconds: float = 1.0) -> None:
    """Call something that must soon (in CPU time) return a value or raise a TalkiesError of one line."""
    began = time.process_time()
    try:
        act()
    except TalkiesError as error:
        said = str(error)
    else:
        said = "a value"
    assert len(said.splitlines()) == 1, said
    assert len(said) < 2000
    assert time.process_time() - began < seconds


def fuzzed(count: int):
    return settings(
        max_examples=count, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )


def parse_config(folder: Path, text: str) -> None:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    answered_in_a_line(lambda: config.load(path))


def parse_table(folder: Path, text: str) -> None:
    path = folder / "pairs.tsv"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    answered_in_a_line(lambda: list(read_pairs(path)))


@fuzzed(300)
@given(st.dictionaries(keys, trees, max_size=5))
def test_any_tree_of_settings(tmp_path: Path, tree: dict) -> None:
    answered_in_a_line(lambda: config.complete(tree))
    with contextlib.suppress(yaml.YAMLError, ValueError):  # not every tree can be written as YAML
        parse_config(tmp_path, yaml.safe_dump(tree, allow_unicode=True))


yaml_pieces = st.sampled_from(
    ["images", "crop", "files", ": ", ":\n  ", "- ", "[", "]", "{", "}", ", ", "&a ", "*a", "!!int ", "!!float ",
     "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!!python/object:os.system ", "? ", "<<: ", "|\n ", ">", "'",
     '"', "\\", "\n", "\t", "%YAML 9.9\n", "---\n", "...\n", "1e400", ".nan", "0o9", "1:60:60", "2020-99-99", "\0",
     "\ufeff", "\u2028", "\ud800", "#"]
)  # fmt: skip


@fuzzed(300)
@given(st.lists(yaml_pieces | st.text(max_size=3), max_size=25).map("".join))
@example("title: " + "[" * 100_000)
@example("title: " + "{a: " * 5_000)
@example("- " * 5_000)
@example("? " * 5_000)
@example("a: &a {<<: *a}")
@example("<<: [[1]]")
@example("!!python/object/apply:os.system ['touch /tmp/never']")
def test_any_text_as_config(tmp_path: Path, text: str) -> None:
    parse_config(tmp_path, text)


cells = st.sampled_from(["image", "driving", "start", "crop", "red", "a", "face", "1.5", "true", "9" * 400, "nan", "",
                         " ", "\t", "\n", "\r\n", "\0", '"', "\u2028", "\ud800"])  # fmt: skip


@fuzzed(300)
@given(st.lists(cells | st.text(max_size=4), max_size=30).map("".join))
@example("image\tdriving\n" + "\t" * 1_000_000)
@example("\n" * 1_000_000)
@example("image\tdriving\r\nred\ta\r\n")
def test_any_text_as_table(tmp_path: Path, text: str) -> None:
    parse_table(tmp_path, text)
    parse_table(tmp_path, "image\tdriving\tvariant\tstart\tend\tcrop\n" + text)


@pytest.mark.slow
@fuzzed(3_000)
@given(st.lists(yaml_pieces | st.text(max_size=3), max_size=25).map("".join), st.dictionaries(keys, trees, max_size=5))
def test_much_of_anything(tmp_path: Path, text: str, tree: dict) -> None:
    parse_config(tmp_path, text)
    parse_table(tmp_path, text)
    answered_in_a_line(lambda: config.complete(tree))


def test_the_table_that_is_shipped_is_read(tmp_path: Path) -> None:
    rows = list(read_pairs(REPOSITORY / "workflow/run_folder/pairs.tsv"))
    assert rows[1] == (
        3,
        {"image": "me.jpg", "driving": "song.mp4", "variant": "refrain", "start": "31.5", "end": "44"},
    )
