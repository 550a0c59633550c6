"""The console output of a run on this machine: short, but with everything that matters."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from run_folder import BIN, REPOSITORY, RunFolder, processes, wait_for

SNAKEFILE = str(REPOSITORY / "Snakefile")
START = "Using workflow specific profile profiles/default for setting default command line arguments."
PLAN = "talkies: jobs: crop 1, cut 1, motion 1, animate 1, remux 1, gallery 1, gallery_report 1, verdict 1"
PAIRS = ["a/blue", "a/green", "a/red", "b/blue", "b/green", "b/red"]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = RunFolder.create(tmp_path / "run")
    made.configure(engine="fomm")
    return made


def lines_of(run: RunFolder, *arguments: str, ok: bool = True) -> list[str]:
    return run.snakemake(*arguments, ok=ok).splitlines()


def complaints(run: RunFolder) -> set[str]:
    """Return the warnings and errors in all logs of the jobs."""
    told = set()
    for log in (run.path / ".talkies/logs").rglob("*.log"):
        told |= set(re.findall(r"^\S+ \S+ (?:WARNING|ERROR) (.+)$", log.read_text(), re.MULTILINE))
    return told


def whole_log(run: RunFolder) -> str:
    return max((run.path / ".snakemake/log").glob("*.log")).read_text()


def test_a_dry_run_tells_its_plan(run: RunFolder) -> None:
    lines = lines_of(run, "-n")
    assert lines[0] == START
    assert re.match(r"talkies: 3 pictures, 2 videos: 6 pairs in 1 job; 6 to make: about ", lines[1])
    assert lines[2] == PLAN
    assert "nothing was made" in lines[3]
    assert len(lines) == 4
    assert not (run.path / "results").exists()
    assert [path.name for path in (run.path / ".talkies").iterdir()] == ["inputs.json"]
    told = run.snakemake("-n", "-p")
    assert "rule animate:" in told, "Snakemake's own output, on request"
    assert "exec talkies shard animate" in told
    assert "rule animate:" in run.snakemake("-n", "--verbose")
    quiet = run.snakemake("-n", "--quiet").splitlines()
    assert len(quiet) == 2, "no more than Snakemake itself prints"
    assert [line.partition(" MB; ")[0] for line in quiet] == [line.partition(" MB; ")[0] for line in lines[:2]]


def test_a_run_tells_its_plan_and_films(run: RunFolder) -> None:
    lines = lines_of(run)
    assert len(lines) < 40
    assert lines[2] == PLAN
    assert [line for line in lines if ": done, sound: " in line] == [f"talkies: {p}: done, sound: copy" for p in PAIRS]
    assert lines[-5] == "talkies: 6 pairs: 6 done, 0 failed, 0 to make"
    assert lines[-4].startswith("talkies: the last run: 6 made in ")
    assert "talkies checkpoint fetch vox-adv-256" in lines[-3]
    assert lines[-2] == "talkies: the films: results/index.html"
    assert Path(lines[-1].removeprefix("talkies: the whole log: ")).is_file()
    assert all(line.startswith("talkies: ") for line in lines[1:])
    assert "\r" not in "".join(lines)
    log = whole_log(run)
    for said in (
        *lines[1:2],
        "rule animate:",
    ):
        assert said in log, "the log holds all that Snakemake says"
    again = lines_of(run)
    assert len(again) == 3
    assert again[2].startswith("Nothing to be done")


def test_what_fails_is_told_once_with_its_reason(run: RunFolder) -> None:
    run.configure()
    (run.path / "images/broken.png").write_bytes(b"no picture")
    with (run.path / "driving/b.mp4").open("r+b") as clip:  # the sound is at the end of the file
        clip.truncate(clip.seek(0, os.SEEK_END) * 3 // 4)
    lines = lines_of(run, ok=False)
    assert len(lines) < 60
    text = "\n".join(lines)
    told = complaints(run)
    assert any("broken.png: not a picture" in each for each in told)
    for each in told:
        assert sum(line.endswith(f": {each}") for line in lines) == 1, each
    assert "WorkflowError" not in text
    assert "RuleException" not in text
    counts = r"talkies: 8 pairs: (\d) done, \d failed, 0 to make\ntalkies: the last run: \1 made in "
    assert re.search(counts, text), text
    assert re.search(r"\(\d pairs: .*a/broken", text), text
    assert lines[-2] == "talkies: the films: results/index.html"
    assert lines[-1].startswith("talkies: the whole log: ")
    summary = {re.sub("^talkies: (error: (?=images|driving))?", "", line) for line in lines}
    assert {line.removeprefix("failed: ") for line in run.talkies("status").splitlines()} <= summary, "the same words"


def without_a_film(finished: RunFolder, tmp_path: Path) -> RunFolder:
    """Copy a finished run in which a film is to be made again."""
    run = finished.copy(tmp_path / "copy")
    run.film("a/red").unlink()
    return run


def test_a_worker_that_crashes_is_named_with_its_end_and_its_log(finished: RunFolder, tmp_path: Path) -> None:
    run = without_a_film(finished, tmp_path)
    snakemake = run.start("snakemake", "--snakefile", SNAKEFILE)
    wait_for(lambda: processes("shard animate", run.path))
    os.kill(processes("shard animate", run.path)[0], signal.SIGSEGV)
    output, _ = snakemake.communicate(timeout=300)
    assert snakemake.returncode == 1
    errors = [line for line in output.splitlines() if "error" in line.lower()]
    assert len(errors) == 1, output
    found_log = re.fullmatch(
        r"talkies: error: animate pairs-0001 failed \(died with SIGSEGV\): see (\S+); "
        r"what is finished stays: run snakemake again",
        errors[0],
    )
    assert found_log, errors
    assert (run.path / found_log[1]).parent.is_dir()
    assert "6 pairs: 5 done, 0 failed, 1 to make" in output
    assert len(output.splitlines()) < 20
    assert "Error in rule animate" in whole_log(run)


def test_an_error_is_its_one_line(run: RunFolder) -> None:
    run.configure(chek=True)
    said = "talkies: error: config.yaml: chek: unknown key: write check, or take it away"
    assert lines_of(run, ok=False) == [START, said]
    assert lines_of(run, "-n", ok=False) == [START, said]
    (run.path / "config.yaml").write_text("a: [")
    lines = lines_of(run, ok=False)
    assert lines[0] == START
    assert lines[1].startswith("talkies: error: config.yaml: not valid YAML, mend it: ")
    assert len(lines) == 2
    run.configure(results="config.yaml")
    assert len(lines_of(run, ok=False)) == 2
    (run.path / "config.yaml").write_text("crop: face\ncrop: center")
    (run.path / "Snakefile").write_text((REPOSITORY / "workflow/run_folder/Snakefile").read_text())
    said = "talkies: error: config.yaml: not valid YAML, mend it: crop is given twice, in lines 1 and 2"
    assert run.run("snakemake", "-n").stdout.splitlines()[1:] == [said]
    assert not (run.path / "results").exists()


def test_what_nobody_has_foreseen_is_shown(run: RunFolder) -> None:
    """For the user's own rule: the output of its command, the error, and its place."""
    (run.path / "Snakefile").write_text(
        (REPOSITORY / "workflow/run_folder/Snakefile").read_text()
        + "\nrule mine:\n    input: 'config.yaml'\n    output: 'mine.txt'\n"
        + "    shell: 'echo a word of mine >&2; sort no-such-file'\n"
    )
    result = run.run("snakemake", "mine")
    assert result.returncode == 1
    assert "a word of mine\n" in result.stdout
    assert "no-such-file" in result.stdout
    assert "Error in rule mine:" in result.stdout
    assert "CalledProcessError in file" in result.stdout, "the line in the user's Snakefile"
    (run.path / "Snakefile").write_text("this is no Snakefile\n")
    assert f'file "{run.path}/Snakefile", line 1' in run.run("snakemake").stdout


def on_terminal(run: RunFolder, *arguments: str, **more: str) -> tuple[int, str]:
    """Run snakemake on a terminal; return its exit code and everything it wrote."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(run.path)
        os.execve(
            BIN / "snakemake", ["snakemake", "-s", SNAKEFILE, *arguments], run.environment() | {"TERM": "xterm"} | more
        )
    written = b""
    while True:
        try:
            read = os.read(terminal, 65536)
        except OSError:  # Linux raises this when the other side is closed
            break
        if not read:
            break
        written += read
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), written.decode()


def screen(written: str) -> list[str]:
    """Return the lines that a terminal shows in the end, after moves up, clearing and new text."""
    lines = [""]
    for part in re.split(r"(\033\[\d+F|\033\[J|\r\n)", written):
        if part == "\r\n":
            lines.append("")
        elif part.endswith("F") and part.startswith("\033"):
            del lines[len(lines) - int(part[2:-1]) :]
            lines[-1] = ""
        elif part != "\033[J":
            lines[-1] += re.sub(r"\033\[[?\d]+[a-z]", "", part)
    return lines


def test_on_a_terminal_the_progress_is_a_live_line(finished: RunFolder, tmp_path: Path) -> None:
    run = without_a_film(finished, tmp_path)
    (run.path / "images/broken.png").write_bytes(b"no picture")
    code, written = on_terminal(run)
    assert code == 1
    assert re.search(r"\d of 8 pairs done", written)
    lines = screen(written)
    assert not [line for line in lines if " of 8 pairs done" in line], "no live line stays"
    assert [line for line in lines if "done, sound: " in line] == ["talkies: a/red: done, sound: copy"]
    assert "\033[31mtalkies: error: images/broken.png: not a picture" in written, "red"
    assert lines[-2].startswith("talkies: the whole log: ")
    assert lines[-1] == ""
    _, again = on_terminal(run, NO_COLOR="1")
    assert "talkies: error: " in again
    assert "\033[31m" not in again


def test_the_console_is_a_logger_plugin_of_snakemake(run: RunFolder) -> None:
    """The profile chooses it; without the profile Snakemake's own prints; a dry run for a cluster prints as little."""
    usual = lines_of(run, "-n")
    assert "rule animate:" in run.snakemake("-n", "--workflow-profile", "none", "--cores", "1")
    on_cluster = ("-n", "--executor", "slurm", "--jobs", "2")
    assert len(lines_of(run, *on_cluster)) == len(usual)
    assert "rule animate:" in run.snakemake(*on_cluster, "--verbose")


@pytest.mark.slow
def test_a_stopped_run_says_so_in_a_line_and_how_to_go_on(long_run: RunFolder) -> None:
    snakemake = long_run.start("snakemake", "--snakefile", SNAKEFILE)
    wait_for(lambda: long_run.events("animate"))
    os.killpg(snakemake.pid, signal.SIGINT)
    output, _ = snakemake.communicate(timeout=120)
    lines = output.splitlines()
    assert lines.count("talkies: stopped; what is finished stays: run snakemake again to go on") == 1
    assert not [line for line in lines if "error" in line.lower() or "Exiting" in line], output
    animated = len(long_run.events("animate"))
    assert f"3 to make ({animated} of them animated)" in long_run.talkies("status")
    assert f"; 3 to make, {3 - animated} of them to animate" in long_run.snakemake("-n")


@pytest.mark.slow
def test_a_run_goes_on_where_its_log_of_the_workers_is_gone(run: RunFolder) -> None:
    snakemake = run.start("snakemake", "--snakefile", SNAKEFILE)
    wait_for(lambda: (run.path / ".talkies/logs/workers.log").exists())
    shutil.rmtree(run.path / ".talkies/logs")
    output, _ = snakemake.communicate(timeout=300)
    assert snakemake.returncode == 0, output
    run.whole(PAIRS)


def test_output_that_nobody_reads_on_ends_the_dry_run_without_a_word(run: RunFolder) -> None:
    command = f"{BIN}/snakemake -s {SNAKEFILE} -n 2>&1 | head -1"
    done = subprocess.run(command, shell=True, cwd=run.path, env=run.environment(), capture_output=True, text=True)  # noqa: S602
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
