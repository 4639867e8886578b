"""A worker as its supervisor sees it: how far it is, whether it lives, what its stacks are when it does not.

Owns one worker's stage and time; the supervisor decides what becomes of it. Its laws:

- Silence is counted in time for which the supervisor itself ran: one that was stopped, or a machine that slept, takes no worker for stuck.
- A worker that has ended is told once.
"""

from __future__ import annotations

import contextlib
import enum
import signal
from collections.abc import Callable

from twisted.internet.interfaces import IReactorFDSet
from twisted.logger import Logger

from twistedws import config
from twistedws.supervisor.control import Counts, Drain, Failed, Link, Message, Ready, Report, ToSupervisor
from twistedws.supervisor.processes import Spawned

_log = Logger()

BUSY = 0.3  # seconds without a report after which a worker gets no connection if there is another
STACKS_SIGNAL = signal.SIGUSR2  # on which faulthandler writes the stacks, if the witness cannot
_WITNESS_TIME = 0.3  # seconds for the witness to answer; then the interpreter is held by what blocks, and faulthandler is asked
_STACKS_TIME = 0.7  # seconds for all of it
_PIECE = 65536


def _ignore(worker: Worker, stacks: str) -> None:
    """Be told of stacks that nobody has asked for."""


class Stage(enum.Enum):
    """How far a worker is."""

    STARTING = "starting"
    SERVING = "serving"
    LEAVING = "leaving"  # told to drain and end
    ENDED = "ended"


class Worker:
    """A worker.

    Args:
        number: By which the log knows it.
        spawned: Its process, and what connects it.
        settings: When it is taken for stuck.
        reactor: For the link.
        now: Seconds: when it was started.

    Attributes:
        stage: How far it is.
        silence: Seconds for which it has given no sign of life, once it serves.
        has_gone: Whether its link has ended: its process is about to.
        is_killed: Whether it has been sent SIGKILL.
        is_told: Whether it has been told to drain.
        report: The latest.
        has_reported: Whether there was one.
        failed: What it said of a start that failed.
        ready_at: When it was ready; None before.
        leaves_by: When it is killed if it has not ended; None for never.
    """

    def __init__(self, number: int, spawned: Spawned, settings: config.Workers, reactor: IReactorFDSet, now: float) -> None:
        self.number, self.spawned, self._settings = number, spawned, settings
        self.pid = spawned.process.pid
        self.link = Link(spawned.control, ToSupervisor, reactor)
        self.stage = Stage.STARTING
        self.started_at = now
        self.ready_at: float | None = None
        self.leaves_by: float | None = None
        self.silence = 0.0
        self.is_killed = False
        self.has_gone = False
        self.is_told = False
        self.report = Report()
        self.has_reported = False
        self.failed: Failed | None = None
        self._stacks: str | None = None  # so far, while they are awaited
        self._stacks_since = 0.0
        self._is_fault_asked = False
        self._tell_stacks: Callable[[Worker, str], None] = _ignore

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"worker {self.number} (pid {self.pid})"

    @property
    def load(self) -> int:
        """Connections that it has."""
        return self.report.connections

    @property
    def accepted(self) -> int:
        """Connections that it has accepted since its start."""
        return self.report.accepted

    @property
    def is_busy(self) -> bool:
        """Whether it has given no sign of life for longer than usual."""
        return self.silence > BUSY

    @property
    def counts(self) -> Counts:
        """What it has counted so far."""
        return self.report.counts

    def send(self, message: Message) -> None:
        """Tell it something."""
        self.link.send(message)

    def received(self, message: Message, now: float) -> None:
        """It has said something: a sign of life."""
        self.silence = 0.0
        if isinstance(message, Report):
            self.report, self.has_reported = message, True
        elif isinstance(message, Ready):
            self.ready_at = now
            if self.stage is Stage.STARTING:
                self.stage = Stage.SERVING
        elif isinstance(message, Failed):
            self.failed = message

    def retire(self, seconds: float, leaves_by: float | None) -> None:
        """Have it drain over so many seconds, and end."""
        self.stage, self.leaves_by, self.is_told = Stage.LEAVING, leaves_by, True
        self.send(Drain(seconds))

    def kill(self) -> None:
        """End it at once."""
        self.is_killed = True
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            self.spawned.process.send_signal(number)

    def pass_time(self, seconds: float) -> None:
        """So much time has passed for the supervisor."""
        if self.ready_at is not None and self.stage is not Stage.ENDED:
            self.silence += seconds

    def is_late(self, now: float) -> bool:
        """Whether it has started for longer than it may."""
        return self.stage is Stage.STARTING and 0 < self._settings.worker_start_timeout <= now - self.started_at

    @property
    def is_stuck(self) -> bool:
        """Whether it has been silent for so long that it is not to have connections."""
        return self.silence >= self._settings.stuck_after

    @property
    def should_be_killed(self) -> bool:
        """Whether it has been silent for as long as is borne at all."""
        return 0 < self._settings.worker_timeout <= self.silence

    # Its stacks

    @property
    def is_asked(self) -> bool:
        """Whether its stacks are awaited."""
        return self._stacks is not None

    def ask_for_stacks(self, now: float, tell: Callable[[Worker, str], None]) -> None:
        """Have it say where it is.

        Args:
            now: Seconds.
            tell: Called with its stacks, or with what is known of them in time; "" for nothing.
        """
        if self.is_asked:
            return
        self._stacks, self._stacks_since, self._is_fault_asked, self._tell_stacks = "", now, False, tell
        self._read_stacks()  # what an earlier question was answered too late
        self._stacks = ""
        with contextlib.suppress(OSError):
            self.spawned.watch.send(b"s")

    def look_for_stacks(self, now: float) -> None:
        """See whether they have come."""
        if self._stacks is None:
            return
        self._read_stacks()
        waited = now - self._stacks_since
        if not self._stacks and not self._is_fault_asked and waited >= _WITNESS_TIME:
            self._is_fault_asked = True
            self.signal(STACKS_SIGNAL)
        if self._stacks.endswith("\0") or waited >= _STACKS_TIME:
            stacks, self._stacks = self._stacks.rstrip("\0"), None
            self._tell_stacks(self, stacks)

    def _read_stacks(self) -> None:
        with contextlib.suppress(OSError):
            while piece := self.spawned.watch.recv(_PIECE):
                self._stacks = (self._stacks or "") + piece.decode("utf-8", "replace")

    def close(self) -> None:
        """Let go of what connects the two."""
        self.link.close()
        self.spawned.watch.close()
        self.stage = Stage.ENDED


def accepts(worker: Worker) -> bool:
    """Whether a worker may be given connections."""
    return worker.stage is Stage.SERVING and not (worker.is_stuck or worker.is_killed or worker.has_gone)
