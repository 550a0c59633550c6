"""What config.yaml, --config and the pairs table may hold, and the one line that says what is wrong in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folder import REPOSITORY, RunFolder

from talkies.errors import TalkiesError
from talkies.media.crop import parse
from talkies.run.pairs import list_inputs, list_pairs
from talkies.settings import Settings, complete, load, read, read_pairs

DIGITS = "7" * 5000
TINT = "python tint.py {source} {driving} {output}"

FAULTS = {
    # keys that there are not
    "imags: x": "imags: unknown key: write images, or take it away",
    "model: {presets: demo}": "model.presets: unknown key: write preset, or take it away",
    "preset: demo": "preset: is no key here: move it below model",
    "model: {images: x}": "model.images: is no key here: move it to the top level",
    "slurm: {gpu: {partition: x}}": "slurm.gpu.partition: unknown key: write slurm_partition, or take it away",
    "files: {red.png: {stat: 1}}": "files.red.png.stat: unknown key: write start, or take it away",
    "1: 2": "1: unknown key: take it away, or write one of audio, ",
    "crop: {pictures: face}": "crop.pictures: unknown key: take it away, or write one of driving, images",
    # values of another kind, and out of bounds
    "audio: loud": "audio: must be true or false, not 'loud'",
    "audio: [1]": "audio: must be true or false, not [1]",
    "threads: two": "threads: must be a whole number from 1 to 9999 or null, not 'two'",
    "first: 2.5": "first: must be a whole number of at least 1 or null, not 2.5",
    f"first: 0x{'f' * 1000}": "first: must be a whole number",
    f"gpus: {DIGITS}": "not valid YAML",
    "gpus:": "gpus: must be a whole number from 1 to 10000, not null",
    "pairs_per_job: 0": "pairs_per_job: must be a whole number from 1 to 2000, not 0",
    "job_minutes: -1": "job_minutes: must be a number from 0.001 to 1000000, not -1",
    "job_minutes: .nan": "job_minutes: must be a number from 0.001 to 1000000, not nan",
    "frames_per_second: -.inf": "frames_per_second: must be a number from 0.001",
    "frames_per_second: 1.0e-320": "frames_per_second: must be a number from 0.001",
    "files: {red.png: {start: .nan}}": "files.red.png.start: must be a number of at least 0, not nan",
    "files: {a.mp4: {end: .inf}}": "files.a.mp4.end: must be a number of at least 0, not inf",
    "motion: {best_frame: -1}": "motion.best_frame: must be auto or a whole number of at least 0 or null, not -1",
    "motion: much": "motion: must be a section of keys, not 'much'",
    "model: {preset: vox}": "or bair-256, not 'vox': did you mean vox-256?",
    "upscale: 256": "upscale: must be 512 or null, not 256",
    "gallery: {title: 2024}": "gallery.title: must be a text of at most 1000 characters, not 2024",
    "crop: middle": 'crop: crop "middle" is none of these, take one: face, face:left',
    "files: {red.png: {crop: [1, 2, 0, 4]}}": 'crop "[1, 2, 0, 4]": give a width and height of at least 1 pixel',
    # paths
    "images: ''": "images: must be a path, not ''",
    "images: [a]": "images: must be a path, not ['a']",
    'images: "\\uD800"': "images: must be a path, not '\\ud800'",
    f"images: {'a/' * 3000}": "images: must be a path, not 'a/a/",
    f"results: {'r' * 300}": "results: must be a path without braces, not 'rrr",
    'results: "a\\0b"': "results: must be a path without braces, not 'a\\x00b'",
    "results: a{b}": "results: must be a path without braces",
    "results: config.yaml": "results: config.yaml is no folder",
    "results: config.yaml/deep": "results: config.yaml is no folder",
    "images: none": "images: there is no folder none: make it",
    "files: {a.mp4: {start: 2, end: 1}}": "files.a.mp4: end: 1 s is not after the start: give a later one",
    "files: {a.mp4: {audio: gone.mp3}}": "files.a.mp4: audio: no file gone.mp3 here or in driving: mend the name",
    "files: {green.png: {flip: true}}": "files.green.png: there is no such picture or video: mend the name",
    f"files: {{{'f' * 300}: {{flip: true}}}}": "there is no such picture or video",
    "model: {checkpoint: none}": "model.checkpoint: there is no file none: give its path",
    "container: docker://talkies:1": "container: must be a .sif file, or docker:// or oras:// pinned by its digest",
    "container: docker://talkies@sha256:123": "container: must be a .sif file",
    "container: library://me/talkies": "container: must be a .sif file",
    "container: ''": "container: must be a .sif file",
    # engines
    "engine: livportrait": "engine: no engine livportrait is known, and there is no command: write liveportrait",
    "engine: {name: mine}": "engine: no engine mine is known, and there is no command: write fomm or ",
    "engine: {name: fomm, side: 512}": "engine: fomm is the built-in engine, with keys under model: name it otherwise",
    "engine: {side: 64}": "engine.command: is missing: fill it in",
    f"engine: {{name: a/b, command: '{TINT}'}}": "engine.name: must be a name of at most 40 letters",
    f"engine: {{command: '{TINT}', side: 3}}": "engine.side: must be a whole number from 16 to 4096, not 3",
    f"engine: '{TINT} {{x}}'": "engine.command: unknown placeholder {x}: write one of",
    "engine: run {source} {driving}": "engine.result: the command takes no {output}",
    "engine: run {source} {output}": "engine.command: takes neither {driving} nor {audio}",
    "engine: {command: ' '}": "engine.command: ' ' is no command: write one",
    f"engine: '{TINT} }}'": "engine.command: a single }: write }} for a brace",
    f"engine: {{command: '{TINT}', binds: 5}}": "engine.binds: must be a list, each",
    "engine: run 'a {source}": "engine.command: no closing quotation",
    "engine: run {jobs}": "engine.command: {jobs} needs batch: true",
    "engine: {command: 'run {source} {jobs}', batch: true}": "engine.batch: {source} is each film's own",
    f"engine: '{TINT} {{checkpoint}}'": "engine.checkpoint: the command takes {checkpoint}: name its file",
    f"engine: {{command: '{TINT}', image: none.sif}}": "engine.image: there is no image none.sif: give its path",
    f"engine: {{command: '{TINT}', image: docker://a/b:latest}}": "engine.image: must be a .sif file",
    f"engine: {{command: '{TINT}', result: ../*.mp4}}": "engine.result: ../*.mp4: must lie below {folder}",
    "engine: liveportrait": "image: there is no image liveportrait.sif: `talkies engine show liveportrait` says how to",
    f"engines: {{tint: {{command: '{TINT}'}}}}": "engines: must be a list of engines (`- NAME`, or `- name: NAME` with",
    "engines: [fomm, fomm]": "engines.1: a second fomm: give each a name of its own",
    f"engines: ['{TINT}']\nengine: '{TINT}'": "engine: is given besides engines",
    # the file
    "crop: face\ncrop: center": "not valid YAML, mend it: crop is given twice, in lines 1 and 2",
    "motion:\n  relative: true\n  relative: false": "relative is given twice, in lines 2 and 3",
    "results: 2020-13-01": "not valid YAML",
    "audio: " + "[" * 3000: "not valid YAML, mend it: maximum recursion",
    "- a": "holds a list, not keys and values",
    "a: &a {<<: *a}": "a: unknown key: take it away",
    "<<: [[1]]": "not valid YAML",
    "!!python/object/apply:os.system ['touch hacked']": "not valid YAML",
    'audio: "\0"': "not valid YAML",
    # the table's place
    "pairs: config.yaml": "config.yaml: line 1: unknown column",
    "pairs: images": "pairs: can't read images",
}
"""A config.yaml, and what must be in its line."""
ROWS = {
    "image driving": "the pairs table has no row",
    "image driving\n\n \n": "the pairs table has no row",
    "image driving pear\nred a 1": "line 1: unknown column 'pear'",
    "image image\nred a": "line 1: a column is missing or named twice",
    "image driving\nred a 5": "line 2: more cells than columns",
    "image driving start\nred  1": "line 2: driving: is missing: fill it in",
    "image driving\ngreen a": "line 2: image: no file green in the folder that config.yaml names",
    f"image driving\n{'x' * 200_000} a": "line 2: image: must be a path",
    "image driving\nr\0d a": "line 2: image: must be a path",
    "image driving variant\nred a b/c": "line 2: variant: must be at most 40 letters, digits and . _ -",
    "image driving start\nred a nan": "line 2: start: must be a number of at least 0, not 'nan'",
    f"image driving start\nred a {DIGITS}": "line 2: start: must be a number",
    "image driving start end\nred a 2 2": "line 2: end: 2 s is not after the start: give a later one",
    "image driving flip\nred a yes": "line 2: flip: must be true or false, not 'yes'",
    "image driving best_frame\nred a last": "line 2: best_frame: must be auto or a whole number of at least 0",
    "image driving crop\nred a 0,0,0,1": 'line 2: crop: crop "0,0,0,1": give a width and height of at least 1 pixel',
    "image driving driving_crop\nred a 0,0,1,x": 'line 2: driving_crop: crop "0,0,1,x" is none of these',
    f"image driving audio\nred a {'s' * 200}": "line 2: audio: no file sss",
    "image driving\nr\udce9d a": "the pairs table is not UTF-8 text: save it as that",
    "image driving\nred z": "line 2: driving: no file z",
    "image driving\nred a\nred.png a.mp4": "line 3: a/red is in line 2 too",
}
"""The same of pairs.tsv, blanks for tabs."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return RunFolder.create(tmp_path_factory.mktemp("settings") / "run", images=["red"], clips=["a"])


@pytest.fixture(autouse=True)
def inside(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path)


def planned(text: str) -> None:
    """Read a config.yaml and list its pairs, as every command does first."""
    written = "".join(f"{key}: {key}\n" for key in ("images", "driving") if not text.startswith((f"{key}:", "- ")))
    Path("config.yaml").write_text(f"{text}\n{written}", encoding="utf-8", errors="surrogatepass")
    found = load(Path("config.yaml"))
    list_pairs(found, *list_inputs(found))


def is_refused(settings: str, file: str, said: str) -> None:
    with pytest.raises(TalkiesError) as raised:
        planned(settings)
    line = str(raised.value)
    assert line.startswith(f"{file}: ")
    assert said in line
    assert len(line.splitlines()) == 1
    assert len(line) < 800


def test_each_fault_is_said_in_one_line(subtests: pytest.Subtests) -> None:
    for text, said in FAULTS.items():
        with subtests.test(ascii(text[:80])):
            is_refused(text, "config.yaml", said)


def test_each_fault_in_the_table_is_said_in_one_line(subtests: pytest.Subtests) -> None:
    for text, said in ROWS.items():
        Path("pairs.tsv").write_text(text.replace(" ", "\t"), errors="surrogateescape")
        with subtests.test(ascii(text[:80])):
            is_refused("pairs: pairs.tsv", "pairs.tsv", said)


def test_a_text_where_none_may_stand_is_read_as_yaml_reads_it(subtests: pytest.Subtests) -> None:
    """Snakemake passes values of --config as texts."""
    for wanted, found in [
        ({"audio": "false"}, lambda s: s.audio is False),
        ({"first": "null"}, lambda s: s.first is None),
        ({"upscale": "512"}, lambda s: s.upscale == 512),
        ({"motion": {"relative": "false"}}, lambda s: s.motion.relative is False),
        ({"motion": {"best_frame": "5"}}, lambda s: s.motion.best_frame == 5),
        ({"motion": {"best_frame": "auto"}}, lambda s: s.motion.best_frame == "auto"),
        ({"frames_per_second": "12.5"}, lambda s: s.frames_per_second == 12.5),
        ({"crop": ["1", "2", "30", "40.5"]}, lambda s: s.crop.images == s.crop.driving == parse("1,2,30,40.5")),
        ({"crop": {"driving": "none"}}, lambda s: (s.crop.images, s.crop.driving) == (None, parse("none"))),
        ({"gallery": {"title": "2024"}}, lambda s: s.gallery.title == "2024"),
        ({"files": {"a.mp4": {"audio": "false"}}}, lambda s: s.files["a.mp4"].audio is False),
        ({"files": {"a.mp4": {"end": "1.5"}}}, lambda s: s.files["a.mp4"].end == 1.5),
        ({"model": None, "slurm": None, "crop": None}, lambda s: s == Settings()),
        ({"slurm": {"gpu": {"gpu": 0, "qos": "long"}}}, lambda s: s.slurm.of("gpu") == {"gpu": 0, "qos": "long"}),
        ({"engine": TINT}, lambda s: s.programs["command"].command == TINT),
        ({"engines": ["fomm", {"name": "tint", "command": TINT}]}, lambda s: list(s.by_engine) == ["fomm", "tint"]),
        ({"container": f"docker://r.example/t@sha256:{'0' * 64}"}, lambda s: s.container.endswith("0")),
        ({"container": f"oras://r:5000/x:1@sha256:{'0' * 64}"}, lambda s: s.container.startswith("oras")),
        ({"container": "/images/talkies-1.sif"}, lambda s: s.container == "/images/talkies-1.sif"),
        ({"container": None}, lambda s: s.container is None),
    ]:
        with subtests.test(str(wanted)):
            assert found(complete(wanted))


def test_a_merged_key_may_be_given_again() -> None:
    Path("config.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read(Path("config.yaml"))["b"] == {"x": 3, "y": 2}


def test_the_crop_of_a_file_is_its_own_or_that_of_its_kind_or_the_networks() -> None:
    def crops(**given: object) -> list[str]:
        found = complete({"files": {"own.png": {"crop": "none"}}, **given})
        return [str(found.crop_of(Path(name), "images")) for name in ("own.png", "red.png")]

    assert crops() == ["none", "face"]
    assert crops(crop={"driving": "center"}) == ["none", "face"]
    assert crops(crop="center") == ["none", "center"]
    assert crops(engine={"command": TINT, "crop": "center"}) == ["none", "center"]


def test_the_table_that_is_shipped_is_read() -> None:
    _, (number, row) = read_pairs(REPOSITORY / "workflow/run_folder/pairs.tsv")
    assert (number, row.image, row.driving, row.variant, row.start, row.end) == (
        3,
        "me.jpg",
        "song.mp4",
        "refrain",
        31.5,
        44,
    )


# --- anything at all ---------------------------------------------------------------------------------------


def written(name: str, text: str) -> Path:
    Path(name).write_text(text, encoding="utf-8", errors="surrogatepass")
    return Path(name)


def test_windows_lines_are_lines() -> None:
    table = written("pairs.tsv", "\ufeffimage\tdriving\r\nred\ta\r\n")
    assert [(number, row.image, row.driving) for number, row in read_pairs(table)] == [(2, "red", "a")]
