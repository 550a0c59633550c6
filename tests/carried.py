"""A run folder that is copied to a cluster: the laptop's side, with a stand-in for ssh."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from run_folder import REPOSITORY, RunFolder

STAGE = REPOSITORY / "scripts/stage.py"
SSH = """#!/bin/sh
while :; do
    case $1 in
    -o | -l) shift 2 ;;
    -O) exit 0 ;;
    *) break ;;
    esac
done
host=${1#*@}
shift
[ "$host" = hpc ] || { echo "ssh: Could not resolve hostname $host" >&2; exit 255; }
echo "$*" >> "$HOME/asked"
cd "$HOME/remote home" && exec sh -c "$*"
"""


class Staged(RunFolder):
    """A run folder on a laptop, with stage.py's own programs first on its path."""

    @property
    def bin(self) -> Path:
        return self.path.parent / "bin"

    def environment(self) -> dict[str, str]:
        usual = super().environment()
        return usual | {"PATH": f"{self.bin}:{usual['PATH']}", "HOME": str(self.path.parent)}

    def stage(self, *arguments: str, ok: bool = True) -> str:
        done = subprocess.run(
            [sys.executable, str(STAGE), *arguments],
            cwd=self.path,
            env=self.environment(),
            capture_output=True,
            text=True,
        )
        assert (done.returncode == 0) == ok, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
        if not ok:
            error = [line for line in done.stderr.splitlines() if line.startswith("talkies: error: ")]
            assert len(error) == 1, done.stderr
            return error[0]
        return done.stdout


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
