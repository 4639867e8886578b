"""Looking at a supervisor's workers from outside."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.raw import Raw
from tests.support.server import Server, wait_until


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that are there, oldest first; no zombies."""
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, *rest = each.read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if int(parent) == pid and state != "Z":
            found.append((int(rest[17]), int(each.parent.name)))
    return [number for _, number in sorted(found)]


def connections(pid: int) -> int:
    """Return how many TCP connections a process has established."""
    inodes = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(each.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return sum(fields[3] == "01" and fields[9] in inodes for fields in map(str.split, lines))


def shares(server: Server) -> list[int]:
    """Return the connections of each worker."""
    return [connections(each) for each in children(server.pid)]


def ready(server: Server, number: int) -> int:
    """Wait until a worker of this number serves, and return its pid."""
    return int(server.wait_for_line(rf"worker {number} \(pid (\d+)\) is ready", 20).group(1))


def numbers(server: Server) -> dict[int, int]:
    """Return of each worker that is there its pid by its number."""
    there = set(children(server.pid))
    found = (re.search(r"worker (\d+) \(pid (\d+)\) is ready", each) for each in server.lines("is ready"))
    return {int(each[1]): int(each[2]) for each in found if each and int(each[2]) in there}


def gone(*pids: int) -> None:
    """Wait until processes have ended."""
    wait_until(lambda: not any(_is_there(each) for each in pids), 20, f"the end of {pids}")


def _is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def readiness(port: int) -> tuple[int, str]:
    """Ask whether the server is ready; return the status and the first line."""
    with Raw(port) as asks:
        asks.send(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        status, _ = asks.read_head()
        return status, asks.read_end().decode().splitlines()[0]
