"""The quick tests with each Python, and with the oldest and newest versions of what is installed: `nox` (with uv)."""

import nox

nox.options.default_venv_backend = "uv"
PYTHONS = ["3.11", "3.12", "3.13"]
QUICK = ("python", "-m", "pytest", "-n", "logical", "-m", "not slow and not cluster")


@nox.session(python=PYTHONS)
def quick(session: nox.Session) -> None:
    """Run the quick tests with the locked versions."""
    session.install("--require-hashes", "-r", "requirements/dev.lock")
    session.install("--no-deps", "-r", "requirements/torch.lock")
    session.install("--no-deps", "--no-build-isolation", "-e", ".")
    session.run(*QUICK, *session.posargs, env={"OMP_WAIT_POLICY": "passive"})


@nox.session(python=[PYTHONS[0], PYTHONS[-1]])
@nox.parametrize("resolution", ["lowest-direct", "highest"])
def versions(session: nox.Session, resolution: str) -> None:
    """Run the quick tests with the oldest allowed or the newest versions; PyTorch without libraries for GPUs."""
    session.install("--no-deps", "-r", "requirements/torch.lock")
    session.install("--resolution", resolution, "--overrides", "requirements/no-torch.txt", "-e", ".[app,dev]",
                    "-r", "requirements/torch.in")  # fmt: skip
    session.run(*QUICK, *session.posargs, env={"OMP_WAIT_POLICY": "passive"})
