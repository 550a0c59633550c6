#!/usr/bin/env python3
"""A SLURM cluster on this machine to test on: two nodes, four simulated GPUs, Apptainer, an ordinary user.

    cluster.py up                       bring it up (the first time it fetches Debian's packages: about a minute)
    cluster.py up --accounting          with slurmdbd and MariaDB: accounts, QOS, limits, sacct
    cluster.py run [--user U] COMMAND   run a command on its login node
    cluster.py node n1 down|up          pull a node's plug, or put it in again
    cluster.py down                     end it; only the cached base stays

Scheduling, accounts, limits and containers are real; the GPUs are character devices that compute nothing.
It needs root, Linux namespaces, overlay and /dev/fuse, and Debian's archive. The cluster runs in its own namespaces
and its own Debian root, so it does not touch the machine's files, packages and services. It writes into the folder
given by --folder; home/ in it is the cluster's /home, shared by all nodes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[1] / ".testcluster"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "talkies-testcluster"

SUITE = "trixie"
MIRROR = "http://deb.debian.org/debian"
SLURM = ["slurm-wlm", "munge", "slurmdbd", "mariadb-server"]
CONTAINERS = ["apptainer", "buildah", "netavark", "squashfs-tools", "squashfuse", "fuse2fs", "fuse-overlayfs", "uidmap"]
USUAL = ["ca-certificates", "git", "iproute2", "make", "mmdebstrap", "procps", "python3", "python3-venv", "rsync"]
PACKAGES = [*SLURM, *CONTAINERS, *USUAL, "openssh-client"]
IMAGE_SUITE = "bookworm"  # Python 3.11, as the Dockerfile's base has
IMAGE_PACKAGES = ["python3", "python3-venv", "ca-certificates"]
USERS = {"ada": 1000, "bob": 1001}
NODES = {"n1": "t4", "n2": "3g.40gb"}
"""The nodes, and the type of their simulated GPUs."""
ACCOUNTS = """
add cluster talkies
add qos short set MaxWall=00:20:00 GrpTRES=cpu=6
add account lab Description=lab Organization=lab
add account other Description=other Organization=other
add user ada Account=lab QOS=normal,short DefaultQOS=normal
add user bob Account=other
modify user ada where Account=lab set MaxTRES=mem=6000
"""
"""Commands of `sacctmgr` for --accounting: ada belongs to the lab, bob to another account."""
CORES, MEGABYTES = 4, 16_000
"""Of a node, for SLURM; all nodes share the machine's own cores and memory."""
START_SECONDS = 180
CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("freezer", "memory", "cpuacct", "cpuset", "cpu", "devices")
"""Of cgroup v1: what SLURM needs to track a job's processes and to hold it to its memory."""
WITH_CGROUPS = """
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/cgroup
"""
WITHOUT_CGROUPS = """
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# No cgroups can be made here: SLURM looks every two seconds at the memory that a job has taken.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
"""
PORTS = 4
"""slurmctld's, slurmdbd's and each node's."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where it writes (default: .testcluster/)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring the cluster up")
    up.add_argument("--accounting", action="store_true", help="keep accounts, and enforce their limits")
    up.add_argument("--bind", type=Path, action="append", default=[], help="a host path to show inside, read-only")
    commands.add_parser("check", help="say whether this machine can run it")
    commands.add_parser("image-base", help="print a root folder to build images on where no registry can be reached")
    commands.add_parser("down", help="end it and remove its folder")
    run = commands.add_parser("run", help="run a command on the login node")
    run.add_argument("--user", default="ada", help="who runs it (default: ada; root may be)")
    run.add_argument("--cwd", default=None, help="in which folder (default: the user's home)")
    run.add_argument("words", nargs=argparse.REMAINDER)
    node = commands.add_parser("node", help="pull a node's plug, or put it in again")
    node.add_argument("name", choices=list(NODES))
    node.add_argument("action", choices=("up", "down"))
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    try:
        if chosen.command == "check":
            check()
        elif chosen.command == "image-base":
            check()
            print(image_base())
        elif chosen.command == "up":
            began = time.monotonic()
            bring_up(folder, chosen.bind, accounting=chosen.accounting)
            print(f"the cluster is up after {time.monotonic() - began:.0f} s: {Path(sys.argv[0])} run sinfo")
        elif chosen.command == "down":
            bring_down(folder)
        elif chosen.command == "node":
            command = ["/etc/testcluster/node.sh", chosen.action, chosen.name]
            return subprocess.run(entering(folder, *command, user="root")).returncode
        else:
            words = chosen.words[1:] if chosen.words[:1] == ["--"] else chosen.words
            os.execvp("nsenter", entering(folder, *words, user=chosen.user, cwd=chosen.cwd))
    except (Unfit, subprocess.CalledProcessError) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


class Unfit(Exception):
    """This machine can't run the cluster now; the message says what is missing."""


def check() -> None:
    """Raise Unfit, in one line, if this machine can't run the cluster; install missing packages."""
    if os.geteuid() != 0:
        raise Unfit("NO CLUSTER HERE: it needs root (namespaces with devices, Debian's packages)")
    if not Path("/dev/fuse").exists():
        raise Unfit("NO CLUSTER HERE: /dev/fuse is missing, and Apptainer mounts images by it")
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        subprocess.run(["modprobe", "overlay"], capture_output=True)
        if "overlay" not in Path("/proc/filesystems").read_text().split():
            raise Unfit("NO CLUSTER HERE: this kernel has no overlay file system")
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "--uts", "true"], capture_output=True).returncode:
        raise Unfit("NO CLUSTER HERE: namespaces can't be made (a container without the right to?)")
    if not shutil.which("mmdebstrap"):
        if not shutil.which("apt-get"):
            raise Unfit("NO CLUSTER HERE: mmdebstrap is missing, and there is no apt-get to install it by")
        install = ["apt-get", "install", "-y", "--no-install-recommends", "mmdebstrap"]
        if subprocess.run(install, capture_output=True).returncode:
            subprocess.run(["apt-get", "update"], capture_output=True)
            if subprocess.run(install, capture_output=True).returncode:
                raise Unfit("NO CLUSTER HERE: mmdebstrap can't be installed (apt-get install mmdebstrap tells why)")


def base_root() -> Path:
    """Return the cached Debian root of all nodes; make it from packages if needed."""
    # Only unstable has Apptainer. Everything else, including its dependencies, comes from the release.
    # unstable's index has an expiry date, which must not fail on a machine with a wrong clock.
    sources = f"deb {MIRROR} {SUITE} main\ndeb [check-valid-until=no] {MIRROR} unstable main\n"
    sources += f"deb {MIRROR} {IMAGE_SUITE} main\n"
    users = "; ".join(f'chroot "$1" useradd --create-home --uid {uid} -s /bin/bash {u}' for u, uid in USERS.items())
    # The release's slurmdbd fails with its own MariaDB library (11.8.9: "exceeds maximum number of columns (=0)").
    # It works with the library of the release before.
    older = f"cd /opt && apt-get download libmariadb3/{IMAGE_SUITE} && dpkg -x libmariadb3_*.deb libmariadb"
    hooks = (users, f"chroot \"$1\" sh -c '{older} && rm *.deb'")
    options = [f'--aptopt=APT::Default-Release "{SUITE}"', *(f"--customize-hook={hook}" for hook in hooks)]
    return debian("base", SUITE, PACKAGES, options, sources)


def image_base() -> Path:
    """Return a Debian root with Python, used as the base of images in place of the Dockerfile's.

    It has this machine's pip settings and certificates, and empty folders on which to bind the folders they name.
    """
    root = debian("image-base", IMAGE_SUITE, IMAGE_PACKAGES, [], f"deb {MIRROR} {IMAGE_SUITE} main\n")
    settings = pip_settings()
    write_pip_settings(root, settings)
    for path in local_folders(settings):
        place = root / str(path).lstrip("/")
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)
    return root


def debian(name: str, suite: str, packages: list[str], options: list[str], sources: str) -> Path:
    """Return the cached root folder of a Debian release with these packages; make it if needed."""
    key = hashlib.sha256(repr((suite, packages, options, sources)).encode()).hexdigest()[:12]
    root = CACHE / f"{name}-{key}"
    if root.is_dir():
        return root
    CACHE.mkdir(parents=True, exist_ok=True)
    for old in CACHE.glob(f"{name}-*"):
        shutil.rmtree(old)
    part = CACHE / f".{name}-{key}.{os.getpid()}"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io"]
    command += [*(f"--dpkgopt=path-exclude=/usr/share/{unread}/*" for unread in ("man", "doc", "locale"))]
    command += [f"--include={','.join(packages)}", *options, suite, str(part), "-"]
    made = subprocess.run(command, input=sources, capture_output=True, text=True)
    if made.returncode:
        shutil.rmtree(part, ignore_errors=True)
        lines = [line for line in made.stderr.splitlines() if line.startswith("E:")] or made.stderr.splitlines()
        raise Unfit(f"Debian's packages can't be had: {lines[0] if lines else 'mmdebstrap failed'}")
    part.rename(root)
    return root


def bring_up(folder: Path, binds: list[Path], *, accounting: bool = False) -> None:
    """Start the cluster in `folder`; return when both nodes accept jobs.

    accounting: with a database of accounts (`ACCOUNTS`), whose associations and limits are enforced.
    """
    check()
    if is_up(folder):
        raise Unfit(f"a cluster is up in {folder} already (cluster.py down ends it)")
    bring_down(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise Unfit(f"{folder} is not empty, and no cluster's: name another folder by --folder")
    base = base_root()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base").symlink_to(base)
    upper = folder / "upper"
    settings = pip_settings()
    paths = {path.resolve() for path in binds} | local_folders(settings)
    (folder / "binds").write_text("".join(f"{path}\n" for path in sorted(paths)))
    cgroups = make_cgroups(folder)
    write_configuration(upper, settings, accounting=accounting, cgroups=cgroups)
    shutil.copytree(base / "home", folder / "home", symlinks=True)
    for user, uid in USERS.items():
        for path in (folder / "home" / user, *(folder / "home" / user).rglob("*")):
            os.lchown(path, uid, uid)
    command = ["unshare", "--mount", "--pid", "--fork", "--uts", "--kill-child=KILL", "--propagation", "private"]
    with (folder / "init.log").open("w") as log:
        init = subprocess.Popen(
            [*command, str(HERE / "init.sh"), str(folder)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            stdout=log,
            stderr=log,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        )
    (folder / "pid").write_text(f"{init.pid}\n")
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if init.poll() is not None:
            raise Unfit(f"it did not start: {last_line(folder / 'init.log')}")
        if (folder / "upper/run/testcluster-up").exists():
            states = subprocess.run(entering(folder, "sinfo", "-hN", "-o", "%T"), capture_output=True, text=True)
            if states.stdout.split() == ["idle"] * len(NODES):
                return
        time.sleep(0.3)
    raise Unfit(f"its nodes did not come up in {START_SECONDS} s: see {folder}/upper/var/log/slurm")


def cgroup_name(folder: Path) -> str:
    """Return the name of a cluster's own cgroups."""
    return f"testcluster-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


def make_cgroups(folder: Path) -> bool:
    """Make a cgroup of each controller for the cluster; return False if that is not possible.

    Only cgroup v1 is used: with v2, SLURM needs systemd, which does not run here.
    """
    made = [CGROUPS / controller / cgroup_name(folder) for controller in CONTROLLERS]
    try:
        for path in made:
            path.mkdir(exist_ok=True)
            (path / "tasks").stat()  # an ordinary folder has none
    except OSError:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        return False
    return True


def remove_cgroups(folder: Path) -> None:
    """Remove the cluster's cgroups, whose processes have ended."""
    for controller in CONTROLLERS:
        own = CGROUPS / controller / cgroup_name(folder)
        for path in sorted([own, *own.rglob("*/")], reverse=True):  # inner ones first
            with suppress(OSError):
                path.rmdir()


def write_configuration(upper: Path, pip: dict[str, str], *, accounting: bool, cgroups: bool) -> None:
    """Write what the base root lacks: SLURM's configuration, names, keys, certificates, pip's settings."""
    control, database, *of_nodes = free_ports()
    account = "AccountingStorageType=accounting_storage/none"
    if accounting:
        account = f"""
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={database}
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu"""
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} "
        f"CPUs={CORES} RealMemory={MEGABYTES} Gres=gpu:{kind}:2,shard:4 State=UNKNOWN"
        for (name, kind), port in zip(NODES.items(), of_nodes, strict=False)
    )
    files = {
        "etc/slurm/slurm.conf": f"""
ClusterName=talkies
SlurmctldHost=login(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
AuthType=auth/munge
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd-%n.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd-%n.log
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd-%n
# The machine has fewer cores than its nodes pretend.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
{WITH_CGROUPS if cgroups else WITHOUT_CGROUPS}
{account}
GresTypes=gpu,shard
MpiDefault=none
ReturnToService=2
SlurmdTimeout=20
KillWait=10
InactiveLimit=0
SchedulerParameters=sched_interval=2,bf_interval=2
{nodes}
PartitionName=gpu Nodes={",".join(NODES)} Default=YES MaxTime=1-00:00:00 DefMemPerCPU=1000 State=UP
""",
        "etc/slurm/gres.conf": "".join(
            f"NodeName={name} Name=gpu Type={kind} File=/dev/fakegpu[0-1]\nNodeName={name} Name=shard Count=4\n"
            for name, kind in NODES.items()
        ),
        "etc/slurm/slurmdbd.conf": f"""
AuthType=auth/munge
DbdHost=login
DbdAddr=127.0.0.1
DbdPort={database}
SlurmUser=root
PidFile=/run/slurmdbd.pid
LogFile=/var/log/slurm/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
""",
        "etc/testcluster/accounts": ACCOUNTS,
        "etc/slurm/cgroup.conf": (
            "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/run/cgroup\nConstrainRAMSpace=yes\n"
            if cgroups
            else "CgroupPlugin=disabled\n"
        ),
        # buildah would raise these limits, which not every root is allowed to do.
        "etc/containers/containers.conf": '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n',
        "etc/hosts": f"127.0.0.1 localhost login {' '.join(NODES)}\n",
        "etc/hostname": "login\n",
        "etc/resolv.conf": Path("/etc/resolv.conf").read_text() if Path("/etc/resolv.conf").exists() else "",
    }
    for name, text in files.items():
        path = upper / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip())
    (upper / "etc/slurm/slurmdbd.conf").chmod(0o600)  # slurmdbd accepts no other mode
    if not accounting:
        (upper / "etc/testcluster/accounts").unlink()
    (upper / "etc/munge").mkdir(mode=0o700)
    (upper / "etc/munge/munge.key").write_bytes(os.urandom(128))
    (upper / "etc/munge/munge.key").chmod(0o600)
    if cgroups:
        mounts = "".join(f"{CGROUPS / each / cgroup_name(upper.parent)} /run/cgroup/{each}\n" for each in CONTROLLERS)
        (upper / "etc/testcluster/cgroups").write_text(mounts)
    write_pip_settings(upper, pip)
    shutil.copy(HERE / "node.sh", upper / "etc/testcluster")


def pip_settings() -> dict[str, str]:
    """Return this machine's pip settings, from files and environment, so that pip inside finds the same packages."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    settings: dict[str, str] = {}
    for line in sorted(listed.stdout.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in ("global", ":env:"):
            settings[key] = value.strip("'\"")
    return settings


def write_pip_settings(root: Path, settings: dict[str, str]) -> None:
    """Write pip's settings and this machine's certificates into a root."""
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/pip.conf").write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.exists():
        (root / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
        shutil.copy2(certificates, root / "etc/ssl/certs")


def local_folders(settings: dict[str, str]) -> set[Path]:
    """Return the files and folders of this machine that pip's settings name."""
    certificates = Path(settings.get("cert", ""))
    found = {Path(path) for value in settings.values() for path in re.findall(r"(?:^|\s|file://)(/[^\s]+)", value)}
    # An index's pages link to files elsewhere in its folder: bind the folder that both share.
    found = {path.parent if path.name == "simple" else path for path in found if path != certificates}
    return {path for path in found if path.exists()}


def free_ports() -> list[int]:
    """Return ports that nobody listens on, so that two clusters can run at once."""
    sockets = [socket.socket() for _ in range(PORTS)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def bring_down(folder: Path) -> None:
    """End the cluster, with every process and mount of it, and remove its folder."""
    if is_up(folder):
        # The starter first: its child is process 1 of the namespace, and all others die with it.
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
        end = time.monotonic() + 20
        while is_up(folder) and time.monotonic() < end:
            time.sleep(0.1)
    remove_cgroups(folder)
    if (folder / "base").is_symlink():  # ours
        for _ in range(50):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)


def is_up(folder: Path) -> bool:
    """Tell whether the cluster of this folder runs."""
    try:
        command = Path(f"/proc/{(folder / 'pid').read_text().strip()}/cmdline").read_bytes()
    except OSError:
        return False
    return str(folder).encode() in command.split(b"\0")


def entering(folder: Path, *command: str, user: str = "ada", cwd: str | None = None) -> list[str]:
    """Return the command line that runs a command on the login node, in a new environment of a user."""
    if not is_up(folder):
        raise Unfit(f"no cluster is up in {folder}: cluster.py up brings it up")
    starter = (folder / "pid").read_text().strip()
    children = Path(f"/proc/{starter}/task/{starter}/children").read_text().split()
    if not children:
        raise Unfit(f"the cluster in {folder} is going down")
    home = "/root" if user == "root" else f"/home/{user}"
    uid = str(USERS.get(user, 0))
    environment = [f"HOME={home}", f"USER={user}", f"LOGNAME={user}", "SHELL=/bin/bash", "LANG=C.UTF-8"]
    environment.append("PATH=/usr/local/bin:/usr/bin:/bin" + (":/usr/local/sbin:/usr/sbin:/sbin" if uid == "0" else ""))
    if uid == "0":
        environment.append("APPTAINER_USERNS=1")  # rootless mode for root too; the other needs more rights
    words = ["nsenter", "--target", children[0], "--mount", "--uts", "--pid"]
    words += ["setpriv", "--reuid", uid, "--regid", uid, "--init-groups", "env", "-i", *environment]
    return [*words, "sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", cwd or home, *command]


def last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines()
    return lines[-1] if lines else f"{path} is empty"


if __name__ == "__main__":
    sys.exit(main())
