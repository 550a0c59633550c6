"""The image: its definition follows from the Dockerfile, two builds are equal, and buildah accepts the Dockerfile."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_folder import REPOSITORY, write_weights

from talkies.files import file_digest

BUILD = REPOSITORY / "scripts/build_container.py"


def test_the_definition_is_what_the_dockerfile_gives() -> None:
    import build_container

    committed = build_container.DEFINITION.read_text()
    assert build_container.make_definition() == committed, "python scripts/build_container.py --definition"


def test_the_image_is_locked_to_what_is_tested_here() -> None:
    inside = (REPOSITORY / "containers/requirements.lock").read_text().splitlines()
    here = (REPOSITORY / "requirements/dev.lock").read_text().splitlines()
    # Compare names and versions only: the part after the semicolon depends on what else needs the package.
    pins, known = (
        {line.rstrip("\\ ").partition(" ;")[0] for line in lines if "==" in line and not line.startswith((" ", "#"))}
        for lines in (inside, here)
    )
    assert pins
    assert pins <= known, "make lock"
    assert not [line for line in pins if line.startswith(("torch", "snakemake"))]


def base() -> str:
    (line,) = [line for line in (REPOSITORY / "containers/Dockerfile").read_text().splitlines() if "ARG BASE=" in line]
    return line.removeprefix("ARG ")


@pytest.mark.parametrize("recipe", sorted((REPOSITORY / "containers/engines").iterdir()), ids=lambda path: path.stem)
def test_an_engines_recipe_pins_all_and_is_the_one_that_its_entry_names(recipe: Path) -> None:
    from talkies.engines.program import known

    text, entry = recipe.read_text(), known()[recipe.stem]
    assert f"containers/engines/{recipe.name}" in entry["get"]
    assert entry["engine"]["image"] == f"{recipe.stem}.sif"
    assert f"\n{base()}\n" in text, "the base of the image of talkies itself"
    (commit,) = set(re.findall(r"\b[0-9a-f]{40}\b", text))
    assert f"checkout {commit}\n" in text
    installed = re.findall(r"pip install ((?:.*\\\n)*.*)", text)
    packages = [word for words in installed for word in words.split() if re.match(r"[a-z]", word)]
    assert len(packages) > 10
    assert [word for word in packages if "==" not in word] == []


@pytest.mark.slow
def test_two_contexts_are_equal_but_for_fetched_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the wheel, which is built for the image twice and has the same bytes. Weights that go in by their preset are
    in the folder `weights` of the image's environment, where its talkies finds them."""
    monkeypatch.setenv("TALKIES_WEIGHTS", str(tmp_path))

    def build(name: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(BUILD), "--context", str(tmp_path / name), *more]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    def files(name: str) -> dict[str, bytes]:
        folder = tmp_path / name / "context"
        found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
        return {str(path.relative_to(folder)): path.read_bytes() for path in found}

    done = build("with", "--checkpoint", "vox-256")
    assert done.returncode == 1
    assert "`talkies checkpoint fetch vox-256` gets them" in done.stderr
    write_weights(tmp_path / "vox-cpk.safetensors")
    for done in (build("without"), build("with", "--checkpoint", "vox-256")):
        assert done.returncode == 0, done.stderr
    plain = files("without")
    assert files("with") == plain
    assert any(name.startswith("talkies-") and name.endswith(".whl") for name in plain)
    inside = tmp_path / "with/context/weights/vox-cpk.safetensors"
    assert file_digest(inside) == file_digest(tmp_path / "vox-cpk.safetensors")
    assert inside.parent.stat().st_mode & 0o777 == 0o755
    assert f"WEIGHTS_SHA256={file_digest(inside)}" in (tmp_path / "with/arguments").read_text()
    assert "-t /opt/talkies/weights weights/*" in (REPOSITORY / "containers/Dockerfile").read_text()
