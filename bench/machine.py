"""What the kernel tells: the machine, its cores, a process tree's CPU clock and memory. Linux only."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core the server runs on and which the load; None where they cannot be told apart, and why."""

    server: int | None
    load: int | None
    note: str


def choose_cores() -> Cores:
    """Give the server and the load generator a core each, if there are two and we may."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return Cores(None, None, "one core: server and load generator share it")
    try:
        os.sched_setaffinity(0, {allowed[1]})  # this process too keeps off the server's core
    except PermissionError:
        return Cores(None, None, "not allowed to pin processes to cores")
    return Cores(allowed[0], allowed[1], "the server on one core, the load generator on another")


def raise_descriptor_limit() -> int:
    """Raise it to the hard limit, for this process and those that it starts, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def tree(pid: int) -> list[int]:
    """Return the process and all its descendants."""
    children: dict[int, list[int]] = {}
    for each in PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(each.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(each.parent.name))
    found = [pid]
    for each_pid in found:
        found.extend(children.get(each_pid, ()))
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time of processes, user and system, all threads, those that have ended too.

    It is the clock of ``clock_getcpuclockid(3)``, which has nanoseconds where ``/proc/PID/stat`` has ticks of 10 ms.
    """
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def pss_bytes(pids: list[int]) -> int:
    """Return the proportional set size of processes: what they share counts once."""
    total = 0
    for pid in pids:
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def description() -> dict[str, object]:
    """Describe the machine."""
    information = (PROC / "cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in information if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": f"{platform.system()} {platform.release()}",
        "load_average": os.getloadavg(),
    }


VERSIONS = """
import importlib.metadata, json, platform
found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
print(json.dumps({"python": platform.python_version(), **dict(sorted(found.items(), key=lambda pair: pair[0].lower()))}))
"""


def versions(python: Path, directory: Path) -> dict[str, str]:
    """Return the versions of a Python and of what is installed for it."""
    done = subprocess.run([str(python), "-c", VERSIONS], cwd=directory, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
