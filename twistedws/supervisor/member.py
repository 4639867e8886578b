"""A worker's side of supervision: what it inherited, its turn to accept, its reports.

Owns the member's link. Its laws:

- A report comes from the event loop, never from a thread: a thread would answer for a loop that is stuck.
- Between two turns of this worker nothing is accepted, and whatever was accepted before is served.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Any

import msgspec
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from twistedws import config
from twistedws.listening import ListeningService
from twistedws.metrics import Metrics
from twistedws.registry import Registry
from twistedws.supervisor.control import (
    REPORT,
    Accept,
    Counts,
    Drain,
    Failed,
    Hurry,
    Leaving,
    Link,
    Message,
    Ready,
    Reopen,
    Report,
    Rest,
    ToWorker,
)
from twistedws.supervisor.processes import MARK, Birth
from twistedws.supervisor.sockets import Inherited, adopted_endpoints
from twistedws.supervisor.witness import Witness

_log = Logger()


_ALARM = 1.0  # seconds from one setting of the alarm to the next
_LATE = 5.0  # seconds after which a process ends itself that its supervisor has not killed


class AcceptTurn:
    """A worker's turn to accept.

    Args:
        listening: Its ports.
        report: Tells the supervisor that another may have fewer connections by now; takes how many connections have been accepted that
            are not counted anywhere yet.
    """

    def __init__(self, listening: ListeningService, report: Callable[[int], None]) -> None:
        self.accepted = 0
        self.rests = True
        self._listening, self._report = listening, report
        self._every = self._after = self._until = self._shed = 0
        self._is_last = False

    def begin(self, grant: Accept) -> None:
        """It is this worker's turn."""
        self._every = self._after = grant.after
        self._until, self._is_last, self._shed = grant.until, grant.is_last, grant.shed
        if self._is_over:
            self.end()
            self._report(0)
        elif self.rests:
            self.rests = False
            self._listening.resume()

    def end(self) -> None:
        """It is another's."""
        if not self.rests:
            self.rests = True
            self._listening.rest()

    @property
    def _is_over(self) -> bool:
        """Whether it has accepted as many as it may."""
        return bool(self._until) and self.accepted >= self._until and not self._shed

    def take(self) -> bool:
        """A connection was accepted.

        Returns:
            Whether it is to be served: it is to be refused if more come than can be.
        """
        if self._shed:
            self._shed -= self._shed > 0
            return False
        if self._is_last and self._is_over:
            return False
        self.accepted += 1
        self._after -= 1
        if self._is_over:
            self.end()
            self._report(1)
        elif not self._after:
            self._after = self._every
            self._report(1)
        return True


class Membership:
    """A worker's membership of its supervisor's.

    Args:
        birth: What it was told when it was started.

    Attributes:
        name: What the log calls this process.
        configuration: All settings, as TOML.
        is_trial: Whether this process only tries whether it could be a worker.
    """

    def __init__(self, birth: Birth) -> None:
        self.name = f"worker {birth.number}"
        self.configuration = birth.configuration
        self.is_trial = birth.control < 0
        self._birth = birth
        self._control: socket.socket | None = None
        self._witness: Witness | None = None
        self._turn: AcceptTurn | None = None
        self._sockets = [Inherited(descriptor, family) for descriptor, family in birth.sockets]
        self._link: Link | None = None
        self._make_report: Callable[[int], Report] = lambda new: Report(connections=new)
        self._reports: LoopingCall | None = None  # made late: to make one installs a reactor
        self._alarm: LoopingCall | None = None

    @classmethod
    def of_a_trial(cls) -> Membership:
        """Return a membership of nobody's, for a process that only tries whether it could be a worker."""
        return cls(Birth(0, -1, -1, [], ""))

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Membership | None:
        """Return this process's membership; None if no supervisor has started it.

        Args:
            environment: ``os.environ``. The mark is taken out of it: what the application starts is no worker.
        """
        mark = environment.pop(MARK, None)
        if mark is None:
            return None
        birth = msgspec.json.decode(mark, type=Birth)
        for descriptor in (birth.control, birth.watch, *(each for each, _ in birth.sockets)):
            os.set_inheritable(descriptor, False)
        return cls(birth)

    def start_witness(self) -> None:
        """From now on let the supervisor know where this process is stuck, and end with it."""
        self._control = socket.socket(fileno=self._birth.control)
        self._witness = Witness(socket.socket(fileno=self._birth.watch))
        self._witness.start()

    def endpoints(self, settings: config.Listening, reactor: Any) -> list[tuple[str, IStreamServerEndpoint]]:
        """Make the endpoints, of the sockets that were inherited."""
        return [] if self.is_trial else adopted_endpoints(settings, self._sockets, reactor)

    def take_turns(self, listening: ListeningService) -> Callable[[], bool]:
        """Accept only while it is this worker's turn.

        Args:
            listening: Its ports.

        Returns:
            What is to be called for each connection, and says whether it is to be served.
        """
        listening.rest()
        self._turn = AcceptTurn(listening, self.report)
        return self._turn.take

    def failed(self, status: int, text: str) -> None:
        """Say why the start has failed; the supervisor says it to the user."""
        if self._control is not None:
            with contextlib.suppress(OSError):  # it has gone
                self._control.setblocking(True)
                self._control.sendall(msgspec.json.encode(Failed(status, text)) + b"\n")

    def join(
        self,
        reactor: Any,
        loop: Any,
        *,
        registry: Registry,
        metrics: Metrics,
        drain: Callable[[float], None],
        hurry: Callable[[], None],
        reopen: Callable[[], None],
        longest_silence: float,
    ) -> None:
        """The event loop is about to run: say so, report from now on, and do what the supervisor says.

        Args:
            reactor: The reactor.
            loop: asyncio's, if there is one.
            registry: Whose connections are reported.
            metrics: What is reported beside.
            drain: Begins the end, with the closes spread over so many seconds.
            hurry: Closes all that is left at once.
            reopen: Opens the log file anew.
            longest_silence: Seconds without a sign of life after which the supervisor kills this process; 0 for never. If there is none any
                more to do it, the process ends itself a little later, even in a call that holds the interpreter.
        """
        turn, control, witness = self._turn, self._control, self._witness
        if turn is None or control is None or witness is None:
            raise RuntimeError("the witness is started, and turns are taken, before a worker joins")
        acts: dict[type[Message], Callable[[Any], None]] = {
            Accept: turn.begin,
            Rest: lambda _: turn.end(),
            Drain: lambda message: drain(message.seconds),
            Hurry: lambda _: hurry(),
            Reopen: lambda _: reopen(),
        }

        def orphaned() -> None:
            _log.critical("the supervisor has gone: closing all sessions")
            drain(0.0)
            hurry()

        def make_report(new: int) -> Report:
            return Report(turn.accepted, registry.connections + new, len(registry), turn.rests, counts_of(metrics))

        self._make_report = make_report
        link = self._link = Link(control, ToWorker, reactor)
        link.start(lambda message: acts[type(message)](message), lambda: None)  # its end is the witness's business
        witness.attend(loop, lambda: reactor.callFromThread(orphaned))
        link.send(Ready())
        self._reports = LoopingCall(self._report)
        self._reports.clock = reactor
        self._reports.start(REPORT)
        if longest_silence:
            self._alarm = LoopingCall(faulthandler.dump_traceback_later, longest_silence + _LATE, exit=True, file=control.fileno())
            self._alarm.clock = reactor
            self._alarm.start(_ALARM)

    def report(self, new: int = 0) -> None:
        """Report at once.

        Args:
            new: Connections that have been accepted and are not in the registry yet.
        """
        if self._link is not None:
            self._link.send(self._make_report(new))

    def _report(self) -> None:
        if self._link is not None and not self._link.waiting:  # a supervisor that is stopped need not know all
            self.report()

    def leaves(self) -> None:
        """This process accepts nothing any more."""
        if self._link is not None:
            self._link.send(Leaving())

    def leave(self) -> None:
        """The event loop is about to end: one last report, of all that was counted."""
        if self._alarm is not None and self._alarm.running:
            self._alarm.stop()
            faulthandler.cancel_dump_traceback_later()
        if self._reports is not None and self._reports.running:
            self._reports.stop()
            self.report()


def counts_of(metrics: Metrics) -> Counts:
    """Return what has been counted, as it is reported."""
    return Counts(
        opened=metrics.opened,
        closed={cause.value: count for cause, count in metrics.closed.items()},
        refused={cause.value: count for cause, count in metrics.refused.items()},
        answered=dict(metrics.answered),
        messages_in=metrics.messages_in,
        messages_out=metrics.messages_out,
        octets_in=metrics.octets_in,
        octets_out=metrics.octets_out,
        dropped=metrics.dropped,
        no_thread=metrics.no_thread,
        late_threads=metrics.late_threads,
    )
