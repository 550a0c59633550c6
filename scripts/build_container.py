#!/usr/bin/env python3
"""Build the jobs' image for Apptainer and Singularity, and its definition from the Dockerfile.

    python scripts/build_container.py                       talkies-VERSION-cpu.sif, and the link talkies.sif to it
    python scripts/build_container.py --variant cu130       the same for NVIDIA GPUs, Turing to Blackwell
    python scripts/build_container.py --variant cu126       for older ones or an older driver, Maxwell to Hopper
    python scripts/build_container.py --checkpoint vox-adv-256          with a preset's fetched weights inside
    python scripts/build_container.py --checkpoint own.safetensors      with weights of your own inside
    python scripts/build_container.py --check               build twice and compare the file systems' digests
    python scripts/build_container.py --definition          only write containers/talkies.def
    python scripts/build_container.py --context DIR         only make the context for `docker build` or `buildah`

spython turns containers/Dockerfile into containers/talkies.def and calls the builder. This needs `pip install
'.[containers]'`, apptainer (or singularity), and root or --fakeroot. `container: talkies.sif` in config.yaml finds the
image by the link; to keep several images, name one by its version there.

For Docker and Podman:

    python scripts/build_container.py --context build/container
    docker build $(cat build/container/arguments) -t talkies build/container
    docker run --rm --entrypoint talkies-selftest talkies
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTAINERS = ROOT / "containers"
DOCKERFILE, DEFINITION = CONTAINERS / "Dockerfile", CONTAINERS / "talkies.def"
LOCK, SELFTEST = CONTAINERS / "requirements.lock", CONTAINERS / "selftest.py"
TORCH_LOCK = ROOT / "requirements/torch.lock"
WEIGHTS = ROOT / "src/talkies/fomm/model/demo.safetensors"
INDEXES = {name: f"https://download.pytorch.org/whl/{name}" for name in ("cpu", "cu126", "cu130")}
"""The index of each variant's PyTorch."""
VARYING = ".singularity.d/labels.json"
"""The one file that differs between two builds: Apptainer writes the build's date into it."""


class Failed(Exception):
    """The build failed; the message says why in one line."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--definition", action="store_true", help="only write containers/talkies.def")
    only.add_argument("--context", type=Path, metavar="DIR", help="only lay out the build context of the Dockerfile")
    only.add_argument("--check", action="store_true", help="build twice and compare; exit 1 when they differ")
    only.add_argument("--digest", type=Path, metavar="SIF", help="only print the digest of an image's file system")
    parser.add_argument("--variant", choices=sorted(INDEXES), default="cpu", help="which PyTorch (default: cpu)")
    parser.add_argument("-o", "--output", type=Path, metavar="SIF", help="default: talkies-VERSION-VARIANT.sif")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="PRESET|FILE",
        help="weights to put into the image: those that `talkies checkpoint fetch PRESET` got, or a safetensors file",
    )
    parser.add_argument("--base", metavar="IMAGE", help="another base: an address, a .sif or a root folder")
    parser.add_argument("--torch", metavar="REQUIREMENT", help="another PyTorch, e.g. torch==2.9.1")
    parser.add_argument("--torch-index", metavar="URL", help="where it comes from; '' for pip's own settings")
    parser.add_argument(
        "--bind", action="append", default=[], metavar="PATH", help="mount this path during the build: a mirror"
    )
    parser.add_argument(
        "--compression", default="gzip", metavar="NAME", help="of the image (default: gzip, which all systems read)"
    )
    parser.add_argument("--notest", action="store_true", help="without the self-test at the end")
    parser.add_argument("--fakeroot", action="store_true", help="build without being root, where the site allows it")
    chosen = parser.parse_args()
    try:
        if chosen.definition:
            DEFINITION.write_text(make_definition())
            print(f"{DEFINITION} written")
        elif chosen.digest:
            print(file_system_digest(chosen.digest))
        elif chosen.context:
            arguments = lay_out(chosen.context, chosen)
            line = " ".join(f"--build-arg {name}={value}" for name, value in arguments.items())
            (chosen.context / "arguments").write_text(line + "\n")
            print(f"docker build $(cat {chosen.context}/arguments) -t talkies {chosen.context}")
        elif chosen.check:
            return check(chosen)
        else:
            build_and_link(chosen)
    except Failed as error:
        print(f"build_container: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name != "spython":
            raise
        print("build_container: spython is not installed: pip install '.[containers]'", file=sys.stderr)
        return 1
    return 0


# --- the definition --------------------------------------------------------------------------------------


def make_definition() -> str:
    """Return the Apptainer definition of the Dockerfile: spython's translation, corrected."""
    from spython.logger import bot
    from spython.main.parse.parsers import DockerParser
    from spython.main.parse.writers import SingularityWriter

    bot.level = 0  # it warns that `context` is missing, which is made only for a build
    parser = DockerParser(str(DOCKERFILE))
    (recipe,) = parser.recipe.values()
    arguments = parser.args
    recipe.fromHeader = "{{ BASE }}"
    # In %post: arguments as Apptainer fills them in, not with the Dockerfile's defaults, and no assignments of ENV.
    assigned = {*recipe.environ, *(f"{name}={value}" for name, value in arguments.items())}
    commands = [line for line in recipe.install if line.strip() and line not in assigned and not line.startswith("#")]
    recipe.install = [f'{name}="{{{{ {name} }}}}"' for name in arguments if name.startswith("TORCH")] + commands
    # Labels: `name value`, not `name="value"`.
    labels = (label.replace('"', "").partition("=") for (label,) in recipe.labels)
    recipe.labels = [[name, re.sub(r"\$\{(\w+)\}", r"{{ \1 }}", value)] for name, _, value in labels]
    recipe.test = ["talkies-selftest"]
    text = SingularityWriter(parser.recipe).convert()
    text = re.sub(r"^Bootstrap: .*\n(From: .*\n)Stage: .*\n", r"Bootstrap: {{ BOOTSTRAP }}\n\1", text)
    defaults = [f"{name}={value}" for name, value in {"BOOTSTRAP": "docker", **arguments}.items()]
    head, _, sections = re.sub(r"\n+(%\w+)", r"\n\n\1", text).partition("\n\n")
    note = "# Made from containers/Dockerfile by scripts/build_container.py --definition: edit that one."
    return "\n".join([note, head, "", "%arguments", *defaults, "", sections, ""])


# --- what goes in ----------------------------------------------------------------------------------------


def lay_out(folder: Path, chosen: argparse.Namespace) -> dict[str, str]:
    """Write the build context into `folder` (made, or emptied if it was one); return the build arguments."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "Dockerfile").exists():
        raise Failed(f"{folder}: not empty, and no build context: name another folder")
    shutil.rmtree(folder, ignore_errors=True)
    context = folder / "context"
    context.mkdir(parents=True)
    for file, place in (
        (DOCKERFILE, folder),
        (DEFINITION, folder),
        (LOCK, context),
        (TORCH_LOCK, context),
        (SELFTEST, context),
    ):
        shutil.copyfile(file, place / file.name)
    weights, inside = weights_of(chosen.checkpoint)
    if inside:
        (context / inside).parent.mkdir(exist_ok=True)
        shutil.copyfile(weights, context / inside)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(context), str(ROOT)]
    made = subprocess.run(command, env=epoch_environment(), capture_output=True, text=True)
    wheels = list(context.glob("talkies-*.whl"))
    if made.returncode or len(wheels) != 1:
        raise Failed(f"the wheel can't be made: {last_line(made.stderr)}")
    # Modes as in git, whatever the umask, since they are copied into the image.
    for path in (context, *context.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    given = {
        "BASE": chosen.base,
        "TORCH": chosen.torch,
        "TORCH_INDEX": INDEXES[chosen.variant] if chosen.torch_index is None else chosen.torch_index,
        "TORCH_LOCK": "" if chosen.torch or chosen.variant != "cpu" or chosen.torch_index is not None else None,
        "VERSION": wheels[0].name.split("-")[1],
        "REVISION": revision(),
        "LOCK_SHA256": sha256(LOCK),
        "WEIGHTS_SHA256": sha256(weights),
    }
    return {name: value for name, value in given.items() if value is not None}


def weights_of(checkpoint: Path | None) -> tuple[Path, str]:
    """Return the file of the image's weights, and its name in the context; empty: in the package's wheel."""
    if checkpoint is None:
        return WEIGHTS, ""
    sys.path.insert(0, str(ROOT / "src"))
    from talkies.errors import TalkiesError
    from talkies.fomm.model.presets import PRESETS
    from talkies.fomm.model.published import find_weights

    preset = PRESETS.get(str(checkpoint))
    if preset is not None and preset.checkpoint:
        try:
            found = find_weights(preset.name)
        except TalkiesError as error:
            raise Failed(str(error)) from None
        return found, f"weights/{found.name}"
    if not checkpoint.is_file():
        raise Failed(f"{checkpoint}: neither a published preset nor a file: give one of the two")
    if checkpoint.suffix != ".safetensors":
        raise Failed(f"{checkpoint}: not .safetensors: `talkies checkpoint convert` makes that of it")
    return checkpoint, "checkpoint.safetensors"


def epoch_environment() -> dict[str, str]:
    """Return the environment with SOURCE_DATE_EPOCH: the given one, or the time of the last commit."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or git("log", "-1", "--format=%ct") or "1577836800"
    return {**os.environ, "SOURCE_DATE_EPOCH": epoch}


def revision() -> str:
    """Return the commit, marked if files differ from it; unknown outside a clone."""
    commit = git("rev-parse", "HEAD")
    return f"{commit}{'-modified' if git('status', '--porcelain', '-uno') else ''}" if commit else "unknown"


def git(*words: str) -> str:
    """Return git's output in this clone; empty if there is none."""
    try:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"


# --- building --------------------------------------------------------------------------------------------


def build_and_link(chosen: argparse.Namespace) -> None:
    """Build the image under its name, and point the link talkies.sif to it."""
    with tempfile.TemporaryDirectory(prefix="talkies-build-") as name:
        arguments = lay_out(Path(name) / "build", chosen)
        inside = "-with-checkpoint" if chosen.checkpoint else ""
        image = chosen.output or Path(f"talkies-{arguments['VERSION']}-{chosen.variant}{inside}.sif")
        build(Path(name) / "build", arguments, image, chosen)
    print(f"{image}: {image.stat().st_size / 1e6:.0f} MB, file system sha256 {file_system_digest(image)}")
    link = image.with_name("talkies.sif")
    if chosen.output is None and (link.is_symlink() or not link.exists()):
        link.unlink(missing_ok=True)
        link.symlink_to(image.name)
        print(f"{link} leads to it: config.yaml needs no change (container: talkies.sif)")
    elif image.name != "talkies.sif":
        print(f"in config.yaml: container: {image}")


def check(chosen: argparse.Namespace) -> int:
    """Build twice, compare the file systems; return the exit code."""
    digests, files = [], []
    os.environ.update(epoch_environment())  # so that a commit between the two does not count
    with tempfile.TemporaryDirectory(prefix="talkies-build-") as name:
        for number in (1, 2):
            arguments = lay_out(Path(name) / "build", chosen)
            image = Path(name) / f"{number}.sif"
            build(Path(name) / "build", arguments, image, chosen)
            digests.append(file_system_digest(image))
            files.append(sha256(image))
            print(f"build {number}: sha256 {files[-1]}, file system sha256 {digests[-1]}", flush=True)
    if files[0] == files[1]:
        print("equal, byte by byte")
    elif digests[0] == digests[1]:
        print("equal file systems; the files differ in their header (Apptainer 1.5 is said to make them equal too)")
    else:
        print("NOT EQUAL")
    return int(digests[0] != digests[1])


def build(folder: Path, arguments: dict[str, str], image: Path, chosen: argparse.Namespace) -> None:
    """Build the definition in `folder` into an image, with spython's client."""
    from spython.main import get_client

    if not (shutil.which("singularity") or shutil.which("apptainer")):
        raise Failed("neither apptainer nor singularity is here: build on a machine that has one and copy the .sif")
    if not shutil.which("singularity"):
        raise Failed("apptainer is here without its other name, which spython calls: link singularity to it")
    if Path(arguments.get("BASE", "")).exists() and "BASE" in arguments:
        arguments = {**arguments, "BOOTSTRAP": "localimage", "BASE": str(Path(arguments["BASE"]).resolve())}
    options = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    options += [word for path in chosen.bind for word in ("--bind", path)]
    options += ["--fakeroot"] * chosen.fakeroot
    options += ["--notest"] * chosen.notest
    options += ["--mksquashfs-args", f"-comp {chosen.compression}"]
    image = image.absolute()
    part = image.with_name(f".{image.name}.{os.getpid()}.part")
    here, environment = Path.cwd(), dict(os.environ)
    os.environ.update(epoch_environment())  # mksquashfs sets the files' times to it
    os.chdir(folder)  # the definition names the files beside it
    try:
        made = get_client().build(DEFINITION.name, str(part), sudo=False, options=options)
        if made is None:
            registry = "" if "BASE" in arguments else "; where no registry can be reached, name a base: --base IMAGE"
            raise Failed(f"the build failed: the lines above say why{registry}")
        part.replace(image)
    finally:
        part.unlink(missing_ok=True)
        os.chdir(here)
        os.environ.clear()
        os.environ.update(environment)


def file_system_digest(image: Path) -> str:
    """Return the sha256 of an image's file system: names, modes, owners, times, contents; without the build's date.

    Images with the same digest are the same inside; the files themselves differ in their header (an id, times).
    """
    listing = subprocess.run(["apptainer", "sif", "list", str(image)], capture_output=True, text=True).stdout
    partition = re.search(r"\|(\d+)-\d+\s*\|FS \(Squashfs", listing)
    if partition is None:
        raise Failed(f"{image}: no image with a squashfs in it")
    # As a stream of names and contents. (`apptainer sif dump` would be the usual way: 1.4.5 leaves out the end.)
    told = subprocess.Popen(
        ["unsquashfs", "-offset", partition[1], "-pf", "-", "-excludes", str(image), VARYING],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert told.stdout is not None
    found = hashlib.sha256()
    while block := told.stdout.read(1 << 20):
        found.update(block)
    if told.wait():
        raise Failed(f"{image}: unsquashfs (squashfs-tools 4.5 or newer) can't read it")
    return found.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
