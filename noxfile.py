"""The quick tests with each Python, and with the oldest and newest versions of what is installed: `nox` (with uv).

Each session has an environment of its own, which `make` sets up; TORCH_INDEX counts here too. `nox -s quick -- TESTS`
runs only these tests.
"""

import nox

nox.options.default_venv_backend = "none"
PYTHONS = ["3.11", "3.12", "3.13"]


def make(session: nox.Session, target: str, environment: str, python: str) -> None:
    """Make a target with this Python in this environment."""
    session.run("make", target, f"VENV={environment}", f"PYTHON=python{python}", f"TESTS={' '.join(session.posargs)}")


@nox.session
@nox.parametrize("version", PYTHONS)
def quick(session: nox.Session, version: str) -> None:
    """Run the quick tests with the locked versions."""
    make(session, "test", f".nox/quick-{version}", version)


@nox.session
@nox.parametrize(("version", "resolution"), [(PYTHONS[0], "lowest-direct"), (PYTHONS[-1], "highest")])
def versions(session: nox.Session, version: str, resolution: str) -> None:
    """Run the quick tests with the oldest allowed or the newest versions of what a run needs, but PyTorch."""
    environment = f".nox/{resolution}-{version}"
    make(session, "setup", environment, version)
    options = ("--resolution", resolution, "--upgrade", "--overrides", "requirements/no-torch.txt")
    session.run("uv", "pip", "install", "--python", f"{environment}/bin/python", *options, "-e", ".[app]")
    make(session, "test", environment, version)
