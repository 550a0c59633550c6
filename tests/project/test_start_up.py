"""As on a login node: the package and its command start without PyTorch, and the wheel has all that a run needs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from run_folder import REPOSITORY

HEAVY = ("torch", "jinja2", "snakemake", "scipy", "safetensors")


def imported_by(*code: str) -> set[str]:
    """Return the top-level modules that a new Python has loaded after it ran this code."""
    script = "; ".join([*code, "import sys; print('\\n'.join(sys.modules), file=sys.stderr)"])
    bare = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run([sys.executable, "-c", script], env=bare, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stderr.split()}


def test_import_is_light() -> None:
    loaded = imported_by("import talkies", "talkies.__version__", "dir(talkies)")
    assert not loaded & {*HEAVY, "numpy", "PIL", "yaml", "jsonschema", "imageio_ffmpeg"}


@pytest.mark.parametrize("words", [["--help"], ["animate", "--help"], ["--version"]])
def test_help_is_light(words: list[str]) -> None:
    loaded = imported_by(
        "import contextlib, io, sys",
        "from talkies.cli import main",
        f"sys.argv = ['talkies', *{words}]",
        "exec('with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main()')",
    )
    assert "talkies" in loaded
    assert not loaded & set(HEAVY)


def test_a_job_starts_without_what_only_settings_need() -> None:
    loaded = imported_by(
        "from talkies.stages import animate, crop, cut, motion, remux, show",
        "from talkies.fomm import engine, motion as keypoints",
    )
    assert "torch" in loaded
    assert not loaded & {"yaml", "jsonschema", "attr", "snakemake"}


def test_the_engine_is_imported_when_asked_for() -> None:
    assert "torch" in imported_by("import talkies", "talkies.load_model")


def test_pytorch_is_left_out_of_garbage_collection() -> None:
    imported_by(
        "from talkies.fomm import import_torch; import_torch()",
        "import gc; assert gc.isenabled() and gc.get_freeze_count() > 100_000",
    )


def test_unknown_names_are_refused() -> None:
    import talkies

    with pytest.raises(AttributeError, match="no attribute 'mouth'"):
        talkies.mouth  # noqa: B018


def test_the_wheel_brings_workflow_profiles_page_and_weights(tmp_path: Path) -> None:
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (wheel.read(name).decode() for name in names if name.endswith("METADATA"))
    for needed in (
        "talkies/report/gallery.html",
        "talkies/fomm/model/demo.safetensors",
        "talkies/workflow/Snakefile",
        "talkies/workflow/run_folder/Snakefile",
        "talkies/profiles/slurm/config.v8+.yaml",
        "talkies/examples/images/ada.png",
        "talkies/examples/driving/anna.mp4",
        "talkies/workflow/schemas/config.schema.yaml",
        "talkies/profiles/default/config.yaml",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests", "scripts", "examples")) or "__pycache__" in name]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "Provides-Extra: engine" in metadata
