"""The processes of workers: how one is started, and what the supervisor holds of it.

Owns the descriptors that a worker is born with, and the command line. Its laws:

- A worker is a new program, not a fork of a running reactor: it loads the application, and its configuration, by itself.
- It inherits the listening sockets, one end of the link, one end of the socket that its witness watches, and nothing else.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

MARK = "_TWISTEDWS_WORKER"  # not TWISTEDWS_…: that would be a setting
_SYSTEMDS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")  # the supervisor's only


class Birth(msgspec.Struct, frozen=True):
    """What a worker is told when it is started, in the variable ``MARK``.

    Attributes:
        number: Its number, by which the log knows it.
        control: The descriptor of its end of the link.
        watch: The descriptor of its end of the socket that its witness watches.
        sockets: Descriptor and family of each listening socket, in the order of the endpoints.
        configuration: All settings, as TOML.
    """

    number: int
    control: int
    watch: int
    sockets: list[tuple[int, int]]
    configuration: str


class Process(Protocol):
    """A process that was started."""

    pid: int

    def poll(self) -> int | None:
        """Return its status once it has ended: negative for a signal."""

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """A worker's process, and the supervisor's ends of what connects the two.

    Attributes:
        process: The process.
        control: The link's.
        watch: The witness's: it answers each byte with the stacks, and the end with the end of the worker.
    """

    process: Process
    control: socket.socket
    watch: socket.socket


@dataclass(frozen=True, slots=True)
class Launch:
    """How workers are started, and this program itself anew.

    Attributes:
        command: The command line of a worker.
        directory: Where it runs.
        environment: Its variables, beside the mark.
        options_at: Where in the command line our options begin.
    """

    command: Sequence[str]
    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)
    options_at: int = 1

    def checking(self) -> list[str]:
        """Return the command line with ``--check-config``: the process says whether all is right, and ends."""
        return [*self.command[: self.options_at], "--check-config", *self.command[self.options_at :]]

    def inherited(self) -> dict[str, str]:
        """Return the variables that a process that is started has."""
        return {name: value for name, value in self.environment.items() if name not in _SYSTEMDS}

    def spawn(self, number: int, configuration: str, sockets: Sequence[socket.socket]) -> Spawned:
        """Start a worker.

        Args:
            number: Its number.
            configuration: All settings, as TOML.
            sockets: What it is to listen on.

        Raises:
            OSError: There are no processes, or no descriptors, to be had.
        """
        with contextlib.ExitStack() as theirs:
            pairs = []
            try:
                for _ in range(2):
                    pair = socket.socketpair()
                    pairs.append(pair[0])
                    theirs.enter_context(pair[1])
                    pairs.append(pair[1])
                control, control_there, watch, watch_there = pairs
                birth = Birth(
                    number,
                    control_there.fileno(),
                    watch_there.fileno(),
                    [(each.fileno(), int(each.family)) for each in sockets],
                    configuration,
                )
                mark = {MARK: msgspec.json.encode(birth).decode()}
                process = subprocess.Popen(  # noqa: S603 - our own command line
                    list(self.command),
                    cwd=self.directory,
                    env={**self.inherited(), **mark},
                    pass_fds=[birth.control, birth.watch, *(descriptor for descriptor, _ in birth.sockets)],
                    stdin=subprocess.DEVNULL,
                )
            except BaseException:
                for each in pairs:
                    each.close()
                raise
        watch.setblocking(False)
        return Spawned(process, control, watch)


class AdoptedProcess:
    """A process that the supervisor before this one has started: the same process that it is, so also its child.

    Args:
        pid: Its number.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return its status once it has ended."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._status = 0
            else:
                if pid:
                    self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def ending(status: int) -> str:
    """Say how a process ended, by its status.

    Args:
        status: As ``subprocess`` has it.
    """
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = ", as the kernel does when memory runs out" if -status == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


def usable_cores() -> int:
    """Return how many cores this process may use: of those that it may run on, as many as its control group's quota pays for."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    quota = _quota()
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _quota(group: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the cores that the control group may use (cgroup v2, ``cpu.max``: microseconds of microseconds); None for all."""
    try:
        own = next(line.partition("::")[2] for line in group.read_text().splitlines() if line.startswith("0::"))
        place = root / own.strip().lstrip("/")
        quotas = []
        for each in (place, *place.parents):  # the tightest of all groups that it is in
            if root in (each, *each.parents) and (each / "cpu.max").is_file():
                allowed, _, period = (each / "cpu.max").read_text().partition(" ")
                if allowed != "max":
                    quotas.append(int(allowed) / int(period))
    except (OSError, ValueError, StopIteration):
        return None
    return min(quotas, default=None)
