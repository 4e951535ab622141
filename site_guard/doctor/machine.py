"""Whether the machine suffices: disk and its speed, memory and limits, GPU, clock, versions."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from site_guard.doctor.checks import Check, ok, problem, unknown
from site_guard.settings import SiteSettings
from site_guard.supernode import TESTED

GB, MB = 10**9, 10**6
LEAST_FREE, LEAST_MEMORY = 2 * GB, 2 * GB
PROBE, SLOW = 32 * MB, 10.0  # bytes written to measure the disk; MB/s
DEFAULT_CACHE_GB = 20
LEAST_PIDS = 128
NO_LIMIT = 1 << 60  # bytes: what version 1 of cgroups says where there is no limit
PYTHON, LEAST_TORCH = ((3, 11), (3, 13)), (2, 11)
CGROUP = Path("/sys/fs/cgroup")
# What a site and its server must have alike for the same last digits, or to speak at all.
COMPARED = ("flwr", "fedstrata", "torch", "torchvision", "numpy", "grpcio", "safetensors")
TORCH = (
    "import json, torch\n"
    "seen = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]\n"
    "print(json.dumps({'version': torch.__version__, 'cuda': torch.version.cuda, 'seen': seen}))\n"
)
TORCH_SECONDS = 120.0


def check_machine(settings: SiteSettings, constraints: Path | None) -> Iterator[Check]:
    """Check what the machine has, and what is installed on it."""
    yield from check_disk(settings)
    yield check_memory()
    yield check_processes()
    yield from check_device(settings)
    yield check_synchronized()
    yield from check_versions(constraints)


def check_disk(settings: SiteSettings) -> Iterator[Check]:
    """Check the room for state and cache, and how fast the cache's disk takes data."""
    state, cache = _existing(Path(settings.state)), _existing(Path(settings.cache))
    free = shutil.disk_usage(state).free
    if free < LEAST_FREE:
        text = f"{free / GB:.1f} GB are free at {state}, for personal layers and the audit log"
        yield problem("disk, state", text, "make room there, or name another folder in site.yaml")
    else:
        yield ok("disk, state", f"{free / GB:.0f} GB are free at {state}")
    wanted = DEFAULT_CACHE_GB if settings.cache_gb is None else settings.cache_gb
    room = shutil.disk_usage(cache).free + _size(Path(settings.cache))
    if room < wanted * GB + LEAST_FREE:
        yield problem(
            "disk, cache",
            f"the cache may take {wanted} GB, and {room / GB:.1f} GB are there for it at {cache}",
            f"cache-gb: {max(0, int((room - LEAST_FREE) / GB))} in site.yaml, or make room",
        )
    else:
        yield ok("disk, cache", f"{room / GB:.0f} GB are there for {wanted} GB at {cache}")
    yield check_speed(cache)


def check_speed(folder: Path) -> Check:
    """Check that data can be written, and how fast it reaches the disk."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            before = time.perf_counter()
            for _ in range(PROBE // MB):
                file.write(os.urandom(MB))
            file.flush()
            os.fsync(file.fileno())
            speed = PROBE / MB / max(time.perf_counter() - before, 1e-9)
    except OSError as error:
        text = f"{PROBE // MB} MB cannot be written to {folder}: {error.strerror}"
        return problem("disk's speed", text, "make room there, or raise the quota of this user")
    if speed < SLOW:
        text = f"{speed:.0f} MB/s at {folder}: rounds wait for the disk"
        return problem(
            "disk's speed", text, "name a folder on a local disk as `cache` in site.yaml"
        )
    return ok("disk's speed", f"{speed:.0f} MB/s at {folder}")


def check_memory() -> Check:
    """Check how much memory this process may take: what is free, and the cgroup's limit."""
    free = _free_memory()
    limit = cgroup_limit("memory.max", "memory/memory.limit_in_bytes")
    if free is None and limit is None:
        return unknown("memory", "this system does not say how much there is")
    least = min(each for each in (free, limit) if each is not None)
    by = "the cgroup allows" if least == limit else "are free"
    text = f"{least / GB:.1f} GB {by}"
    if least < LEAST_MEMORY:
        mend = "mem_limit in compose.yml, MemoryMax= of the systemd unit, or other programs"
        return problem("memory", f"{text}; the app needs {LEAST_MEMORY / GB:.0f} GB or more", mend)
    return ok("memory", text)


def check_processes() -> Check:
    """Check that the app may start the threads that torch needs."""
    limit = cgroup_limit("pids.max", "pids/pids.max")
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = [each for each in (limit, None if soft < 0 else soft) if each is not None]
    least = min(limits, default=None)
    if least is not None and least < LEAST_PIDS:
        text = f"at most {least} processes and threads may run; torch needs {LEAST_PIDS} or more"
        return problem("processes", text, "pids_limit in compose.yml, TasksMax= or ulimit -u")
    return ok("processes", f"at most {least}" if least else "no limit")


def check_device(settings: SiteSettings) -> Iterator[Check]:
    """Check that torch starts, and sees the device of site.yaml."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", TORCH],
            capture_output=True,
            text=True,
            timeout=TORCH_SECONDS,
            check=False,
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        yield unknown("torch", f"it did not start within {TORCH_SECONDS:g} s: a slow disk?")
        return
    except (OSError, ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        yield problem("torch", f"it does not start: {last[:200]!a}", "pip install fedstrata again")
        return
    built = f"for CUDA {found['cuda']}" if found["cuda"] else "for CPU"
    yield ok("torch", f"{found['version']}, built {built}")
    yield _device(settings.device, found["seen"], found["cuda"])


def _device(device: str, seen: list[str], cuda: str | None) -> Check:
    driver = _driver()
    if device == "cpu":
        return ok("GPU", "not used: device is cpu")
    number = int(device.partition(":")[2] or 0)
    if len(seen) > number:
        return ok("GPU", f"{device} is {seen[number]}, driver {driver or 'unknown'}")
    if device == "auto" and not driver:
        return ok("GPU", "there is none: the site trains on the CPU")
    if seen:
        text = f"device is {device}, and torch sees {len(seen)} GPUs"
        return problem("GPU", text, f"device: cuda:{len(seen) - 1} in site.yaml, or less")
    if driver and cuda is None:
        text = f"driver {driver} has a GPU, and torch is built for CPU"
        return problem("GPU", text, "pip install torch and torchvision from PyPI, or device: cpu")
    if driver:
        text = f"torch, built for CUDA {cuda}, does not see the GPU of driver {driver}"
        mend = "a newer driver; in a container the NVIDIA runtime (compose.gpu.yml); or device: cpu"
        return problem("GPU", text, mend)
    text = f"device is {device}, and there is no GPU with a driver here"
    return problem("GPU", text, "install the driver until nvidia-smi works, or device: auto")


def check_synchronized() -> Check:
    """Check that something keeps this machine's clock right."""
    try:
        done = subprocess.run(
            ["timedatectl", "show", "--property=NTPSynchronized", "--value"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return unknown("time service", "timedatectl does not answer here", "see to it on the host")
    if done.stdout.strip() == "yes":
        return ok("time service", "the clock is synchronized")
    return problem("time service", "the clock is not synchronized", "timedatectl set-ntp true")


def check_versions(constraints: Path | None) -> Iterator[Check]:
    """Check the versions that are installed, against those that were tested and the coordinator's."""
    now = sys.version_info[:2]
    if not PYTHON[0] <= now <= PYTHON[1]:
        text = f"Python {platform.python_version()} was not tested"
        yield problem("Python", text, "install Python 3.11 to 3.13")
    else:
        yield ok("Python", platform.python_version())
    flower = _version("flwr")
    if ".".join(flower.split(".")[:2]) not in TESTED:
        text = f"Flower {flower or 'is not installed'}; tested is {' and '.join(TESTED)}"
        yield problem("Flower", text, f"pip install 'flwr=={TESTED[-1]}.*'")
    else:
        yield ok("Flower", flower)
    torch = tuple(int(part) for part in re.findall(r"\d+", _version("torch"))[:2])
    if torch < LEAST_TORCH:
        text = f"torch {_version('torch') or 'is not installed'}; 2.11 is the oldest that works"
        yield problem("torch's version", text, "pip install 'torch>=2.11' torchvision")
    yield _against(constraints)


def _against(constraints: Path | None) -> Check:
    name = "coordinator's versions"
    if constraints is None:
        return unknown(name, "no --constraints", "give the coordinator's constraints.txt")
    try:
        text = constraints.read_text()
    except (OSError, UnicodeDecodeError) as error:
        return problem(name, f"{constraints}: {error}", "ask the coordinator for constraints.txt")
    python = re.search(r"^#.*\bPython (\d+\.\d+)", text, re.MULTILINE)
    here = platform.python_version()
    beside = f"; Python {here} here, {python[1]} there" if python else ""
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.+!-]+)", text, re.MULTILINE))
    other = [
        f"{package} {_version(package) or 'missing'} (there {pinned[package]})"
        for package in COMPARED
        if package in pinned
        and _version(package).partition("+")[0] != pinned[package].partition("+")[0]
    ]
    if other:
        return problem(
            name,
            f"others here: {', '.join(other)}{beside}",
            f"pip install -c {constraints} fedstrata",
        )
    compared = [package for package in COMPARED if package in pinned]
    if not compared:
        return problem(
            name,
            f"{constraints} names none of our packages",
            "ask the coordinator for constraints.txt",
        )
    return ok(name, f"the same for {', '.join(compared)}{beside}")


def cgroup_limit(
    new: str, old: str, root: Path = CGROUP, own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Return the least limit of the groups that this process is in; None where there is none.

    Parameters
    ----------
    new, old : str
        Files of the limit: in each group of cgroup version 2, and under ``root`` in version 1.
    root : Path
        Where the system shows its groups; in a container, the container's own.
    own : Path
        Says in which group this process is.
    """
    try:
        group = re.search(r"^0::(/.*)$", own.read_text(), re.MULTILINE)
    except OSError:
        group = None
    inside = Path(group[1].lstrip("/")) if group else Path()
    limits = []
    for path in (root / old, *(root / each / new for each in (inside, *inside.parents))):
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # "max"
            continue
    return min((limit for limit in limits if limit < NO_LIMIT), default=None)


def _free_memory() -> int | None:
    try:
        found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout.splitlines() or [""])[0].strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _size(folder: Path) -> int:
    sizes = 0
    for path in folder.rglob("*"):
        try:
            sizes += path.lstat().st_size
        except OSError:
            continue
    return sizes
