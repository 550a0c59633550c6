"""The README and the pages of docs/: their links work, and the programs accept their commands.

Commands that can run here are run in the order of the page. The others are only parsed by their program.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import clips
import pytest
import yaml
from jsonschema import Draft202012Validator
from PIL import Image
from run_folder import BIN, REPOSITORY, RunFolder

import talkies
from talkies import config_docs
from talkies.cli import build_parser
from talkies.settings import Settings, fields_of

PAGES = [REPOSITORY / "README.md", REPOSITORY / "config/README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
OURS = ("talkies", "snakemake", "python", "make", "pip")
OTHERS = (
    *("apptainer", "cd", "conda", "docker", "git", "ls", "nox", "python3", "snakedeploy", "source", "squeue"),
    *("srun", "ssh", "sbatch", "chmod", "stage.py", "shpc", "cat"),
)
"""Programs whose commands only the shell checks, because they need a cluster, a registry or another folder."""


def blocks(page: Path) -> Iterator[str]:
    """Return a page's code blocks, fenced or indented, without their indent."""
    text = page.read_text()
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^|\n)\n((?:    .*\n(?:\n(?=    ))*)+)", plain)
    yield from fenced
    yield from map(textwrap.dedent, indented)


def is_shell(block: str) -> bool:
    return block.split(maxsplit=1)[0] in OURS + OTHERS


def commands(text: str) -> Iterator[list[str]]:
    """Split lines of shell into commands of words; a command after && or srun counts as a separate one."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            command, words = words[:end], words[end + 1 :]
            if command[0] == "srun":  # the command that srun starts on the node
                command = command[next((i for i, word in enumerate(command) if word in OURS), 0) :]
            yield command


def all_commands() -> list[tuple[str, list[str]]]:
    found = []
    for page in PAGES:
        name = str(page.relative_to(REPOSITORY))
        for block in blocks(page):
            if is_shell(block):
                found += [(name, command) for command in commands(block)]
        prose = re.sub(r"^    .*", "", page.read_text(), flags=re.MULTILINE)
        for span in re.findall(r"`([^`\n]+)`", prose):
            words = span.split()
            if words[0] in OURS and len(words) > 1 and "..." not in span and "VERSION" not in span:
                found += [(name, command) for command in commands(span.replace("<", "").replace(">", ""))]
    return found


COMMANDS = list({shlex.join(words): (page, words) for page, words in all_commands()}.values())


def parse(words: list[str]) -> None:
    """Make the program of a command parse its arguments and do nothing else."""
    program, *arguments = words
    quiet = contextlib.redirect_stdout(io.StringIO())
    if program == "talkies":
        commands_known = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
        if len(arguments) == 1 and arguments[0] in commands_known:
            return  # only a mention of the command
        with quiet, contextlib.suppress(SystemExit if {"-h", "--help"} & {*arguments} else ()):
            build_parser().parse_args(arguments)
    elif program == "snakemake":
        from snakemake.cli import parse_args

        parse_args(arguments)
    elif program == "make":
        subprocess.run(["make", "-n", *arguments], cwd=REPOSITORY, check=True, capture_output=True)
    elif program == "pip":
        from pip._internal.commands import create_command

        create_command(arguments[0]).parse_args(arguments[1:])
    elif arguments[0] == "-m":
        assert arguments[1] in ("venv", "build", "pytest"), arguments
    else:
        assert (REPOSITORY / arguments[0]).is_file(), "a script of ours"


def test_each_command_is_understood_by_its_program(monkeypatch, subtests) -> None:
    monkeypatch.chdir(REPOSITORY)
    for page, words in COMMANDS:
        with subtests.test(f"{page}: {shlex.join(words)}"):
            assert words[0] in OURS + OTHERS
            if words[0] in OURS:
                parse(words)


def test_settings_in_the_pages_are_settings() -> None:
    known = set(fields_of(Settings))
    seen = 0
    for page in PAGES:
        for block in blocks(page):
            with contextlib.suppress(yaml.YAMLError):
                settings = yaml.safe_load(block)
                if isinstance(settings, dict) and not is_shell(block) and set(settings) & known:
                    Draft202012Validator(config_docs.schema()).validate(settings)
                    seen += 1
    assert seen >= 3


# --- links, pages --------------------------------------------------------------------------------------------


def test_the_pages_build_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {"index.html", "configuration.html", "troubleshooting.html"} <= {path.name for path in tmp_path.iterdir()}
    assert "talkies.gif" in (tmp_path / "index.html").read_text()
    linked = re.findall(r'(?:src|href)="(https?:[^"]+)"', (tmp_path / "index.html").read_text())
    assert not [link for link in linked if link.endswith((".css", ".js", ".woff2"))], "the pages need no network"


def test_the_readmes_links_lead_somewhere() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    targets = re.findall(r"\]\(([^)\s]+)\)", readme)
    near = [target.partition("#")[0] for target in targets if not target.startswith("https://")]
    assert len(near) > 8
    for target in near:
        assert (REPOSITORY / target).exists(), target


# --- commands that can run here ------------------------------------------------------------------------------


def test_the_readmes_python_runs(monkeypatch) -> None:
    import torch

    (snippet,) = [block for block in blocks(REPOSITORY / "README.md") if block.startswith("import talkies")]
    real = talkies.load_model
    monkeypatch.setattr(talkies, "load_model", lambda preset, **_: real("demo"))  # the published weights aren't here
    names = {"picture": torch.rand(1, 3, 256, 256), "frames": torch.rand(2, 3, 256, 256)}
    exec(snippet, names)
    assert names["film"].shape == (2, 3, 256, 256)


@pytest.mark.slow
def test_a_folders_life_prints_what_the_page_says(tmp_path: Path) -> None:
    """Each command of the consoles, in one shell, prints the lines below it, in their order; ... is anything."""
    run = RunFolder(tmp_path)
    run.talkies("init", "portraits")
    run.path = tmp_path / "portraits"
    pictures = {"images/me.jpg": "ada.png", "images/you.jpg": "bruno.jpg", "../she.jpg": "nora.jpg"}
    for name, example in pictures.items():
        Image.open(REPOSITORY / "examples/images" / example).convert("RGB").save(run.path / name)
    for name, tone in (("song", 440), ("talk", 880)):
        cut = ["-i", REPOSITORY / "examples/driving/anna.mp4", "-f", "lavfi", "-i", f"sine={tone}"]
        cut += ["-map", "0:v", "-map", "1:a", "-frames:v", "4", "-t", "0.16"]
        clips.ffmpeg(*cut, run.path / f"driving/{name}.mp4")
    assert "4 done" in run.run("snakemake").stdout
    consoles = re.findall(
        r"^```console\n(.*?)^```", (REPOSITORY / "docs/index.md").read_text(), re.DOTALL | re.MULTILINE
    )
    steps = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", "".join(consoles), re.MULTILINE)
    assert len(steps) > 12
    mark = "--- the next command ---"
    script = "set -e\n" + f"\necho {mark}\n".join(command for command, _ in steps)
    printed = run.run("/bin/bash", "-c", script).stdout.split(mark)
    assert len(printed) == len(steps), printed[-1]
    other = []
    for (command, wanted), said in zip(steps, printed, strict=True):
        pattern = ".*".join("^" + re.escape(line).replace(r"\.\.\.", "[^\n]*") for line in wanted.splitlines())
        if not re.search(pattern, said, re.DOTALL | re.MULTILINE):
            other.append(f"{command}\n{wanted}\nis\n{said}")
    assert not other, "\n".join(other)
