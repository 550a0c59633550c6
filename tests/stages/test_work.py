"""What a shard's worker does with files that a killed worker left."""

from __future__ import annotations

from pathlib import Path

from talkies.stages.work import sweep


def test_parts_of_the_shards_films_are_swept_and_no_others(tmp_path: Path) -> None:
    gone = [".a.mp4.12-4.part", ".a.mp4.12-3f.part", "..a.mp4.12-4.part.12-3f.part", ".a.json.12-4.part"]
    kept = [
        "a.mp4",
        "a.json",
        ".b.mp4.12-4.part",
        ".a.mp4.x.mp4.12-4.part",
        "..b.mp4.1-4.part.1-3f.part",
        "notes.part",
    ]
    for name in (*gone, *kept):
        (tmp_path / name).touch()
    sweep([tmp_path / "a.mp4"])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)
