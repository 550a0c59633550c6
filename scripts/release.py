#!/usr/bin/env python3
"""Build the sdist and the wheel, twice with equal digests, try the wheel in an environment of its own, and tag it.

python scripts/release.py wheel           # into dist/
python scripts/release.py tag 1.2.3       # the same, then the tag v1.2.3, if the tree is clean and holds this version
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"


def run(*command: str | Path, cwd: Path = ROOT, **variables: str) -> str:
    """Run a command, which must succeed; return what it wrote."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"{done.stdout}{' '.join(map(str, command))}: exit {done.returncode}")
    return done.stdout.strip()


def check_tree(version: str) -> None:
    """Refuse a version that the package, the changes and the tree do not hold."""
    from talkies import __version__

    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        sys.exit("give the version: make release VERSION=1.2.3")
    if version != __version__:
        sys.exit(f"src/talkies/__init__.py says {__version__}, not {version}: change it there")
    if not re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changes, re.MULTILINE):
        sys.exit(f"CHANGELOG.md has no line `## {version} (YYYY-MM-DD)`: write it, with what a user notices")
    if run("git", "status", "--porcelain"):
        sys.exit("the tree has changes: commit them, or take them away")
    if run("git", "tag", "--list", f"v{version}"):
        sys.exit(f"the tag v{version} is there already: take another version")


def build(folder: Path) -> dict[str, str]:
    """Build both into a folder; return their digests by name. Times in them are the last commit's."""
    stamp = run("git", "log", "-1", "--format=%ct")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, SOURCE_DATE_EPOCH=stamp)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def environment(folder: Path, *installs: tuple[str | Path, ...]) -> Path:
    """Make an environment and install into it, in these steps; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin/python"
    for step in installs:
        run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *step)
    return python


def check_metadata(folder: Path) -> None:
    """Check what PyPI will say of both, in an environment of its own: twine wants newer packages than Snakemake."""
    python = environment(folder / "twine", ("twine",))
    print(run(python, "-m", "twine", "check", "--strict", *DIST.iterdir()))


def try_wheel(wheel: Path, folder: Path) -> None:
    """Install the wheel with the locked packages into an empty environment; make a run folder and animate there.

    PyTorch comes from $TORCH_INDEX, or from PyPI with the libraries for GPUs that its build there needs.
    """
    torch = re.findall(r"^torch==\S+", (ROOT / "requirements/torch.lock").read_text(), re.MULTILINE)[:1]
    index = os.environ.get("TORCH_INDEX")
    if index:
        torch += ["--no-deps", "--index-url", index]
    locked = ("--require-hashes", "-r", ROOT / "requirements/run.lock")
    python = environment(folder / "env", locked, (*torch,), ("--no-deps", wheel))
    run(python, "-c", "import talkies.app.serve, talkies.stages.animate", cwd=folder)
    run(folder / "env/bin/talkies", "init", "--examples", "run", cwd=folder)
    said = run(
        folder / "env/bin/snakemake", "--config", "first=1", cwd=folder / "run", PATH=f"{python.parent}:/usr/bin:/bin"
    )
    films = [path.name for path in (folder / "run/results").glob("*/*.mp4")]
    if len(films) != 1:
        sys.exit(f"{said}\nthe installed wheel made {films}, not one film")
    print(f"the installed wheel made {films[0]}")


def main() -> None:
    action, *rest = sys.argv[1:] or ["wheel"]
    version = rest[0] if rest else ""
    if action == "tag":
        check_tree(version)
    with tempfile.TemporaryDirectory() as name:
        again, trial = Path(name, "again"), Path(name, "trial")
        shutil.rmtree(DIST, ignore_errors=True)
        made = build(DIST)
        if made != build(again):
            sys.exit(f"two builds differ: {made}")
        for file, digest in made.items():
            print(f"{digest}  {file}")
        trial.mkdir()
        check_metadata(trial)
        try_wheel(next(DIST.glob("*.whl")), trial)
    if action == "tag":
        run("git", "tag", "--annotate", f"v{version}", "--message", f"talkies {version}")
        print(f"tagged v{version}: git push origin v{version} publishes it")


if __name__ == "__main__":
    main()
