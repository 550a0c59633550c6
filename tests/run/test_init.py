"""`talkies init` makes a complete run folder that runs, and overwrites nothing; the settings reference is complete.

The real Snakemake reads the written Snakefile, which uses the workflow as a module.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from run_folder import BIN, REPOSITORY, RunFolder, draw_picture, make_clip

from talkies import config_docs
from talkies.run.folder import lay_out
from talkies.settings import Row, Settings, complete

FILES = {"config.yaml", "Snakefile", "pairs.tsv"} | {
    f"profiles/{name}" for name in ("default/config.yaml", "slurm/config.v8+.yaml", "cluster/config.v8+.yaml")
}


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def test_a_new_folder_has_all_a_run_needs(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    said = run.talkies("init", "portraits")
    folder = tmp_path / "portraits"
    assert files_in(folder) == FILES
    assert {"images", "driving", "profiles", "slurm"} == {path.name for path in folder.iterdir() if path.is_dir()}
    assert (folder / "slurm").readlink() == Path("profiles/slurm"), "`snakemake --profile slurm` looks for this"
    assert "portraits/images" in said
    assert "snakemake -n" in said


def test_nothing_of_the_users_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("images: mine\n")
    (tmp_path / "Snakefile").symlink_to("elsewhere")
    (tmp_path / "images").write_text("a file")
    (tmp_path / "slurm").mkdir()
    said = RunFolder(tmp_path).talkies("init", ".", "--examples", ok=False)
    assert "images" in said, "the example pictures have no folder"
    (tmp_path / "images").unlink()
    said = RunFolder(tmp_path).talkies("init", ".", "--examples")
    assert (tmp_path / "config.yaml").read_text() == "images: mine\n"
    assert (tmp_path / "Snakefile").readlink() == Path("elsewhere")
    assert list((tmp_path / "slurm").iterdir()) == []
    assert "slurm is in the way: on a cluster say --profile profiles/slurm" in said
    (tmp_path / "images/ada.png").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert not lay_out(tmp_path, examples=True)[0]
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "it").write_text("")
    assert "it: this is a file: give a folder's name" in RunFolder(tmp_path).talkies("init", "it", ok=False)


def test_it_runs_with_rules_and_handlers_of_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lay_out(folder)
    draw_picture(folder / "images/me.png", (220, 40, 40))
    make_clip(folder / "driving/song.mp4", frames=3)
    snakefile = folder / "Snakefile"
    own = 'onstart:\n    print("my own start")\n\n\nuse rule * from talkies\n'
    more = "\n\nuse rule animate from talkies with:\n    priority: 1\n"
    more += "\n\nrule mine:\n    input:\n        rules.all.input,\n"
    snakefile.write_text(snakefile.read_text().replace("use rule * from talkies\n", own) + more)
    run = RunFolder(folder)
    done = run.run("snakemake", "--config", "crop=center", "threads=1")
    assert done.returncode == 0, done.stdout
    assert "my own start" in done.stdout
    run.whole(["song/me"])
    assert not (folder / ".talkies/run.json").exists(), "the end of the run is noted too"
    assert "Nothing to be done" in run.run("snakemake", "--config", "crop=center", "threads=1").stdout


def test_a_dry_run_for_a_cluster(tmp_path: Path) -> None:
    lay_out(tmp_path, examples=True)
    done = RunFolder(tmp_path).run("snakemake", "--profile", "slurm", "-n")
    assert done.returncode == 0, done.stdout
    assert "8 pictures, 2 videos: 16 pairs in 1 job; 16 to make" in done.stdout
    assert " of a GPU at " in done.stdout


# --- the reference -----------------------------------------------------------------------------------------


def test_the_commented_file_is_the_defaults() -> None:
    text = subprocess.run([BIN / "talkies", "config"], capture_output=True, text=True, check=True).stdout
    assert text == config_docs.as_yaml()
    assert complete(yaml.safe_load(text)) == complete({})
    lines = [line.strip(" #") for line in text.splitlines()]
    keys = [key for top in (*config_docs.keys_of(Settings), *config_docs.keys_of(Row)) for key in top.all()]
    for name in {key.name for key in keys} - {"files.NAME"}:
        assert any(line.startswith(f"{name.rpartition('.')[2]}:") for line in lines), name
    given = yaml.safe_load(config_docs.as_yaml(images="pictures"))
    assert complete(given) == complete({"images": "pictures"})


def test_a_reader_may_stop_reading() -> None:
    line = f"set -o pipefail; {BIN}/talkies config | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stdout.startswith("# The settings of this folder's run.")
    assert done.stderr == ""


def test_the_file_of_all_keys_is_up_to_date() -> None:
    assert (REPOSITORY / "config.yaml").read_text() == config_docs.as_yaml(), "config.yaml is stale: make docs"


def test_the_schema_that_others_read_is_up_to_date() -> None:
    file = REPOSITORY / "workflow/schemas/config.schema.yaml"
    assert file.read_text(encoding="utf-8") == config_docs.as_schema(), "the schema is stale: make docs"
    Draft202012Validator.check_schema(config_docs.schema())
