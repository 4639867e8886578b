"""Workers that a test plays, and the reactor and the supervisor that take them for real: over real socket pairs, on a clock."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from tests.support import quiet_reactor
from twistedws import config
from twistedws.supervisor import witness
from twistedws.supervisor.control import Accept, Drain, Message, Ready, Report, Rest, ToSupervisor, ToWorker
from twistedws.supervisor.generation import Heritage
from twistedws.supervisor.member import Membership
from twistedws.supervisor.processes import Birth, Spawned
from twistedws.supervisor.service import Supervisor
from twistedws.supervisor.sockets import ListeningSockets
from twistedws.supervisor.worker import STACKS_SIGNAL

STEP = 0.05  # seconds from one sign of life of a played worker to the next
HERE = "tcp:0:interface=127.0.0.1"
DEADLINE = 20.0  # seconds


class Reactor(quiet_reactor.Reactor):
    """One that looks at real descriptors when it is told to."""

    def poll(self) -> None:
        """Read and write all that can be."""
        while True:
            looking = select.poll()
            descriptors = {each.fileno(): each for each in (*self.getReaders(), *self.getWriters())}
            writers = {each.fileno() for each in self.getWriters()}
            for descriptor in descriptors:
                looking.register(descriptor, select.POLLIN | (select.POLLOUT if descriptor in writers else 0))
            found = looking.poll(0)
            if not found:
                return
            for descriptor, event in found:
                each: Any = descriptors[descriptor]
                if event & select.POLLOUT:
                    each.doWrite()
                if event & ~select.POLLOUT and each.fileno() >= 0:
                    each.doRead()


class Played:
    """A worker that a test plays: the process, and the other ends of what connects it.

    Attributes:
        configuration: What it was started with.
        served: The addresses of the sockets that it was given.
        signals: What it was sent, but for SIGKILL, of which it ends.
        status: Its status, once it has ended.
        is_silent: Whether its event loop is stuck.
        is_undying: Whether not even SIGKILL ends it.
        told: All messages, in order.
        report: What it says again and again once it is ready; None before.
    """

    def __init__(self, number: int, configuration: str = "", sockets: Sequence[socket.socket] = ()) -> None:
        self.number, self.configuration = number, configuration
        self.served = [each.getsockname() for each in sockets]
        self.pid = 100_000 + number
        self.signals: list[int] = []
        self.status: int | None = None
        self.is_silent = self.is_undying = False
        self.told: list[Message] = []
        self.report: Report | None = None
        self._unread = b""
        self._heard = 0
        control, self.control = socket.socketpair()
        watch, self.watch = socket.socketpair()
        for each in (control, watch, self.control, self.watch):
            each.setblocking(False)
        self.spawned = Spawned(self, control, watch)

    def poll(self) -> int | None:
        return self.status

    def send_signal(self, number: int) -> None:
        if self.status is not None:
            raise ProcessLookupError
        if number != signal.SIGKILL:
            self.signals.append(number)
        elif not self.is_undying:
            self.end(-signal.SIGKILL)

    def say(self, message: Message) -> None:
        self.control.sendall(msgspec.json.encode(message) + b"\n")

    def say_ready(self, report: Report | None = None) -> None:
        """Be ready, and report from now on."""
        self.report = report or Report()
        self.say(Ready())

    def live(self) -> None:
        """Give a sign of life if there is one to give."""
        if self.report is not None and self.status is None and not self.is_silent:
            self.say(self.report)

    def heard(self) -> list[Message]:
        """What it was told since this was last asked."""
        with contextlib.suppress(OSError):
            while piece := self.control.recv(65536):
                self._unread += piece
        *lines, self._unread = self._unread.split(b"\n")
        new: list[Message] = [msgspec.json.decode(line, type=ToWorker) for line in lines]
        self.told += new
        return new

    def heard_of(self, *kinds: type[Message]) -> list[Message]:
        """The same, of these kinds alone."""
        return [each for each in self.heard() if isinstance(each, kinds)]

    @property
    def has_turn(self) -> bool:
        """Whether it accepts, by all that it was told."""
        self.heard()
        turns = [each for each in self.told if isinstance(each, (Accept, Rest, Drain))]
        return bool(turns) and isinstance(turns[-1], Accept)

    def asked(self) -> bytes:
        """What its witness was asked."""
        with contextlib.suppress(OSError):
            return self.watch.recv(100)
        return b""

    def end(self, status: int = 0) -> None:
        """End; the kernel closes what it has open before its parent can know."""
        self.status = status
        self.control.close()
        self.watch.close()

    def close(self) -> None:
        """Let go of everything."""
        for each in (self.control, self.watch, self.spawned.control, self.spawned.watch):
            each.close()


class Noted:
    """Who is told how the service fares, and notes it; a status only if it is another.

    Attributes:
        heard: Each word, with the status.
        alive_count: How many signs of life there were.
        is_served: Whether there was a worker that may be given connections, when this was last said; None before.
    """

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self.alive_count = 0
        self.is_served: bool | None = None

    @property
    def words(self) -> list[str]:
        """The words alone, without those that come with time."""
        return [word for word, _ in self.heard if word != "status"]

    def ready(self, status: str) -> None:
        self.heard.append(("ready", status))

    def reloading(self, status: str) -> None:
        self.heard.append(("reloading", status))

    def stopping(self, status: str) -> None:
        self.heard.append(("stopping", status))

    def serves(self, is_serving: bool) -> None:
        self.is_served = is_serving

    def status(self, status: str) -> None:
        self.heard.append(("status", status))

    def alive(self) -> None:
        self.alive_count += 1


class Stage:
    """A supervisor, on a clock, whose workers a test plays.

    Args:
        values: Settings, by their names with ``_``.
        heritage: Of a supervisor before it.

    Attributes:
        values: The settings as a reload finds them; an exception there is raised.
        played: All workers that were started, in order.
        no_process: How many more times no process can be started.
        gave_up: What the supervisor has said when its first start failed.
    """

    def __init__(self, values: dict[str, Any], heritage: Heritage | None = None) -> None:
        self.values: dict[str, Any] = {"workers": 2, "endpoint": [HERE], **values}
        self.wrong: Exception | None = None
        self.reactor, self.outside = Reactor(), Noted()
        self.played: list[Played] = []
        self.no_process = 0
        self.gave_up: list[tuple[int, str]] = []
        self.ended: list[None] = []
        self._events: Any = None
        self.sockets = ListeningSockets(self.reactor, heritage.sockets if heritage is not None else None)
        self.supervisor = Supervisor(
            self._resolve, self._resolve(), self._count, self._spawn, self.sockets, self.outside, self.reactor, heritage
        )
        self.supervisor.gave_up = lambda status, text: self.gave_up.append((status, text))

    def __enter__(self) -> Stage:
        self._logs = capturedLogs()
        self._events = self._logs.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._logs.__exit__(None, None, None)
        self.sockets.close()
        for each in self.played:
            each.close()

    def _resolve(self) -> config.Resolved:
        if self.wrong is not None:
            raise self.wrong
        line = {name.replace("_", "-"): value if isinstance(value, list) else str(value) for name, value in self.values.items()}
        return config.resolve(command_line=line, environment={})

    @staticmethod
    def _count(settings: config.Workers) -> int:
        assert isinstance(settings.workers, int)
        return settings.workers

    def _spawn(self, number: int, configuration: str, sockets: Sequence[socket.socket]) -> Spawned:
        if self.no_process:
            self.no_process -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.played.append(Played(number, configuration, sockets))
        return self.played[-1].spawned

    def start(self) -> Stage:
        """Start; the workers are not ready yet."""
        self.supervisor.privilegedStartService()
        self.supervisor.startService()
        return self

    def up(self) -> Stage:
        """Start, and have all workers ready."""
        self.start()
        for each in self.played:
            each.say_ready()
        return self.settle()

    def settle(self) -> Stage:
        """Let all that was said arrive, and what is due for it be done."""
        self.reactor.poll()
        self.reactor.advance(0)
        return self

    def run(self, seconds: float) -> None:
        """Let time pass, for the workers too."""
        for _ in range(round(seconds / STEP)):
            for each in self.played:
                each.live()
            self.reactor.poll()
            self.reactor.advance(STEP)
        self.settle()

    def reload(self, *, ready: bool = True) -> list[Played]:
        """Reload; return the new workers, ready if nothing else is said."""
        before = len(self.played)
        self.supervisor.reload()
        new = self.played[before:]
        for each in new if ready else ():
            each.say_ready()
        self.settle()
        return new

    def stop(self) -> None:
        """Begin the end."""
        stopped: Deferred[None] = self.supervisor.stopService()
        stopped.addCallback(self.ended.append)

    @property
    def alive(self) -> list[Played]:
        """The workers that have not ended."""
        return [each for each in self.played if each.status is None]

    def said(self, *words: str) -> list[str]:
        """The lines of the log that have all these words."""
        lines = [formatEvent(each) for each in self._events]
        return [line for line in lines if all(word in line for word in words)]

    def events(self, words: str) -> list[Any]:
        """The events of the log whose line has these words."""
        return [each for each in self._events if words in formatEvent(each)]


class Parent:
    """The supervisor's ends of what connects it with a worker, as a test plays it.

    Attributes:
        alarms: The seconds after which the worker has said that it ends itself, each time; None where it does no more.
    """

    def __init__(self) -> None:
        self.alarms: list[float | None] = []
        self.control, self.control_there = socket.socketpair()
        self.watch, self.watch_there = socket.socketpair()
        self.control.setblocking(False)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self._unread = b""

    def birth(self, configuration: str = "port = 1\n") -> Birth:
        """What the worker is born with; the descriptors are its own."""
        control, watch, listening = self.control_there.detach(), self.watch_there.detach(), os.dup(self.listening.fileno())
        for each in (control, watch, listening):
            os.set_inheritable(each, True)
        return Birth(7, control, watch, [(listening, int(socket.AF_INET))], configuration)

    def say(self, *messages: Message) -> None:
        self.control.sendall(b"".join(msgspec.json.encode(each) + b"\n" for each in messages))

    def heard(self) -> list[Message]:
        """What the worker has said since this was last asked."""
        with contextlib.suppress(BlockingIOError):
            while piece := self.control.recv(65536):
                self._unread += piece
        *lines, self._unread = self._unread.split(b"\n")
        return [msgspec.json.decode(line, type=ToSupervisor) for line in lines]

    def close(self) -> None:
        """Let go of everything."""
        for each in (self.control, self.control_there, self.watch, self.watch_there, self.listening):
            each.close()


@contextlib.contextmanager
def membership_of(
    parent: Parent, monkeypatch: pytest.MonkeyPatch, configuration: str = "port = 1\n", *, watched: bool = True
) -> Iterator[Membership]:
    """The membership of a worker in this process, which does not end when its supervisor goes.

    Args:
        parent: The supervisor.
        monkeypatch: For the end of the process, and its alarm.
        configuration: All settings, as TOML.
        watched: Whether its witness watches already; if not, the test has it start.
    """
    ended: Future[int] = Future()
    monkeypatch.setattr(witness, "LAST_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", ended.set_result)
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, **_: parent.alarms.append(seconds))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: parent.alarms.append(None))
    birth = parent.birth(configuration)
    membership = Membership(birth)
    if watched:
        membership.start_witness()
    yield membership
    faulthandler.unregister(STACKS_SIGNAL)
    parent.watch.close()
    assert ended.result(DEADLINE) == 1
    for descriptor, _ in birth.sockets:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    if membership._link is not None:
        membership._link.close()
