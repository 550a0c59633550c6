"""A network for faces refuses driving videos without a face, unless this is allowed or they are cropped by hand."""

from __future__ import annotations

import pytest
from run_folder import RunFolder, draw_picture, make_clip

WHY = "driving/none.mp4: no face in any frame looked at, and demo animates by faces"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A picture and a video without a face."""
    run = RunFolder(tmp_path_factory.mktemp("faceless"))
    for name in ("images", "driving"):
        (run.path / name).mkdir()
    draw_picture(run.path / "images" / "red.png", (200, 30, 30))
    make_clip(run.path / "driving" / "none.mp4", frames=4)
    return run


@pytest.mark.slow
def test_only_what_is_to_be_made_is_refused_until_it_is_allowed(folder: RunFolder) -> None:
    folder.configure(engine="fomm", crop="face", faceless="allow")
    folder.snakemake()
    stood = folder.films()
    assert list(stood) == ["none/red"]
    folder.configure(engine="fomm", crop="face")
    assert "0 to make" in folder.talkies("status"), "an existing film is kept"

    draw_picture(folder.path / "images" / "blue.png", (30, 30, 200))
    assert "1 to make" in folder.talkies("status")
    output = folder.snakemake(ok=False)
    assert output.count(WHY) >= 1
    assert "1 of 2 pairs could not be made" in output
    assert folder.films() == stood
    assert f"failed: {WHY}" in folder.talkies("status")
    assert "0 to make" in folder.snakemake("-n"), "the refusal is recorded and stays"

    folder.configure(engine="fomm", crop="face", faceless="allow")
    assert "1 to make" in folder.talkies("status")
    folder.snakemake()
    assert sorted(folder.films()) == ["none/blue", "none/red"]
    assert folder.films()["none/red"] == stood["none/red"]

    folder.configure(engine="fomm", crop="face")
    assert "0 to make" in folder.talkies("status")


def test_the_check_says_so_before(folder: RunFolder) -> None:
    folder.configure(engine="fomm", crop="face")
    told = folder.run("talkies", "check").stdout
    assert "no face in any frame looked at: it is not animated" in told
    folder.configure(engine="fomm", crop={"images": "face", "driving": "center"})
    assert "no face in any frame" not in folder.run("talkies", "check").stdout
