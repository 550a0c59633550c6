#!/usr/bin/env python3
"""Write requirements/torch.lock and requirements/gpu.lock: PyTorch, and the GPU libraries it brings, with digests.

    python scripts/lock_torch.py torch==2.13.0        (`make lock` calls it; it needs uv and the network)

torch.lock gets the digests of two indexes: PyPI, and PyTorch's own for processors. If that one can't be reached, its
digests in the lock stay, if they are for the same version. gpu.lock has what PyPI's PyTorch needs on Linux in addition
to requirements/dev.lock, as `uv pip compile` finds it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "requirements"
INDEXES = {"PyPI": "https://pypi.org/simple/torch/", "whl/cpu": "https://download.pytorch.org/whl/cpu/torch/"}
PYTHONS = "cp31[1-4]"
SYSTEMS = "manylinux_2_28_x86_64|manylinux_2_28_aarch64|macosx_14_0_arm64"
GPU = re.compile(r"(cuda|nvidia)-|triton==")


def digests_of(page: str, version: str) -> dict[str, str]:
    """Return the sha256 of each wheel of a version by name, from an index's page (PEP 503)."""
    links = re.findall(r'href="[^"#]*/([^"/#]+\.whl)#sha256=([0-9a-f]{64})', page)
    wheel = re.compile(rf"torch-{re.escape(version)}(\+cpu)?-({PYTHONS})-\2-({SYSTEMS})\.whl")
    named = ((name.replace("%2B", "+"), digest) for name, digest in links)
    return {name: digest for name, digest in named if wheel.fullmatch(name)}


def known(lock: Path, version: str, index: str) -> dict[str, str]:
    """Return an index's digests in a lock for the same version."""
    text = lock.read_text() if lock.exists() else ""
    if f"torch=={version} " not in text:
        return {}
    return {name: digest for digest, name, of in re.findall(r"# ([0-9a-f]{64}) (\S+) \((.+)\)", text) if of == index}


def main() -> int:
    requirement = sys.argv[1]
    version = requirement.partition("==")[2]
    lock = ROOT / "torch.lock"
    found: dict[str, dict[str, str]] = {}
    for index, address in INDEXES.items():
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                found[index] = digests_of(answer.read().decode(), version)
        except (urllib.error.URLError, TimeoutError) as error:
            found[index] = known(lock, version, index)
            print(f"{address}: {error}: {len(found[index])} digests stay as they were", file=sys.stderr)
    if not found["PyPI"]:
        print(f"lock_torch: PyPI has no wheels of torch {version}", file=sys.stderr)
        return 1
    rows = [(digest, name, index) for index, wheels in found.items() for name, digest in sorted(wheels.items())]
    hashes = sorted({digest for digest, _, _ in rows})
    lock.write_text(
        "# Written by scripts/lock_torch.py (make lock). Of each wheel that pip may take the bytes are known:\n"
        + "".join(f"# {digest} {name} ({index})\n" for digest, name, index in rows)
        + " \\\n".join([f"torch=={version}", *(f"    --hash=sha256:{digest}" for digest in hashes)])
        + "\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder, "torch.in")
        asked.write_text(f"torch=={version}\n")
        command = [
            "uv",
            "pip",
            "compile",
            "--universal",
            "--python-version",
            "3.11",
            "--generate-hashes",
            "--no-header",
        ]
        command += ["--no-annotate", "--constraints", str(ROOT / "dev.lock"), str(asked)]
        compiled = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    entries = re.split(r"\n(?=[a-z])", compiled)
    gpu = [entry.rstrip("\n") for entry in entries if GPU.match(entry)]
    note = (
        "# Written by scripts/lock_torch.py (make lock): what PyTorch of PyPI brings for NVIDIA cards, on Linux alone."
    )
    (ROOT / "gpu.lock").write_text("\n".join([note, *gpu]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
