"""What a supervisor and its workers tell each other, and the link over which they do.

Owns the words and their way; decides nothing. Its laws:

- A message is one line of JSON. Whoever reads one that it does not understand passes over it: the two may be of different versions, after
  the supervisor has replaced itself.
- Writing never waits: what the other side does not take is kept, and ``waiting`` says so.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.interfaces import IReactorFDSet, IReadWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_log = Logger()

REPORT = 0.1  # seconds from one report of a worker to its next
_PIECE = 65536  # bytes read at once


class Message(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is"):
    """What one tells the other."""


# A worker to its supervisor


class Ready(Message, frozen=True, tag="ready"):
    """The application has started, and the event loop runs."""


class Failed(Message, frozen=True, tag="failed"):
    """The start has failed.

    Attributes:
        status: The exit status.
        text: Why, in one line.
    """

    status: int
    text: str


class Counts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker has counted since it started; see ``twistedws.metrics.Metrics``, whose causes are texts here."""

    opened: int = 0
    closed: dict[str, int] = {}
    refused: dict[str, int] = {}
    answered: dict[int, int] = {}
    messages_in: int = 0
    messages_out: int = 0
    octets_in: int = 0
    octets_out: int = 0
    dropped: int = 0
    no_thread: int = 0
    late_threads: int = 0

    def __add__(self, other: Counts) -> Counts:
        total: dict[str, Any] = {}
        for name in self.__struct_fields__:
            left, right = getattr(self, name), getattr(other, name)
            both = isinstance(left, dict)
            total[name] = {key: left.get(key, 0) + right.get(key, 0) for key in (*left, *right)} if both else left + right
        return Counts(**total)


class Report(Message, frozen=True, tag="report"):
    """A sign of life of a worker's event loop, and how it fares.

    Attributes:
        accepted: Connections accepted since the start.
        connections: Connections now.
        sessions: Sessions now.
        rests: Whether it accepts none, as told or since it has accepted as many as it was allowed.
        counts: What has been counted.
    """

    accepted: int = 0
    connections: int = 0
    sessions: int = 0
    rests: bool = False
    counts: Counts = Counts()


class Leaving(Message, frozen=True, tag="leaving"):
    """It accepts nothing any more, and drains: since it was told to, or somebody has sent it SIGTERM."""


# A supervisor to a worker


class Accept(Message, frozen=True, tag="accept"):
    """It is this worker's turn to accept connections, until it is told to rest.

    Attributes:
        after: Connections after each of which it is to report.
        until: Of all connections accepted since its start, the number at which it is to rest of itself; 0 for any number. Not how many
            more: it may have accepted some that the supervisor has not heard of yet.
        is_last: Whether what is accepted beyond ``until`` is to be refused: a port that is told to pause may bring one more.
        shed: Connections that are to be refused first, since more wait than can be served in time; -1 for all.
    """

    after: int = 1
    until: int = 0
    is_last: bool = False
    shed: int = 0


class Rest(Message, frozen=True, tag="rest"):
    """It is another's turn to accept."""


class Drain(Message, frozen=True, tag="drain"):
    """Close all sessions, and end.

    Attributes:
        seconds: Over which the closes are to be spread.
    """

    seconds: float


class Hurry(Message, frozen=True, tag="hurry"):
    """Close all that is left at once; said again, abort it."""


class Reopen(Message, frozen=True, tag="reopen"):
    """Open the log file anew."""


ToSupervisor = Ready | Failed | Report | Leaving
ToWorker = Accept | Rest | Drain | Hurry | Reopen

_encode = msgspec.json.Encoder().encode


def _ignore(message: object) -> None:
    """Be told before anybody listens."""


@implementer(IReadWriteDescriptor)
class Link:
    """One end of the socket over which a supervisor and a worker speak.

    Args:
        end: A connected stream socket; it belongs to the link from here on.
        kinds: Which messages come: ``ToSupervisor`` or ``ToWorker``.
        reactor: Polls the socket, once ``start`` was called.
    """

    def __init__(self, end: socket.socket, kinds: Any, reactor: IReactorFDSet) -> None:
        end.setblocking(False)
        self.socket = end
        self._decoder = msgspec.json.Decoder(kinds)
        self._reactor = reactor
        self._unread = b""
        self._unwritten = b""
        self._received: Callable[[Any], None] = _ignore
        self._ended: Callable[[], None] = lambda: None

    def start(self, received: Callable[[Any], None], ended: Callable[[], None]) -> None:
        """Have messages read.

        Args:
            received: Called with each.
            ended: Called once, when the other end has gone.
        """
        self._received, self._ended = received, ended
        self._reactor.addReader(self)

    @property
    def waiting(self) -> bool:
        """Whether the other side has not taken all that was sent."""
        return bool(self._unwritten)

    def send(self, message: Message) -> None:
        """Send a message. To an end that has gone it goes nowhere: ``ended`` says so."""
        if self.fileno() < 0:
            return
        was_waiting = self.waiting
        self._unwritten += _encode(message) + b"\n"
        if not was_waiting:
            self.doWrite()
            if self.waiting:
                self._reactor.addWriter(self)

    def close(self) -> None:
        """End it; ``ended`` is not called."""
        if self.fileno() >= 0:
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            self.socket.close()

    # What the reactor calls

    def fileno(self) -> int:
        """The descriptor."""
        return self.socket.fileno()

    def logPrefix(self) -> str:
        """Twisted's name for it."""
        return "supervision"

    def doRead(self) -> None:
        """Something has come."""
        try:
            data = self.socket.recv(_PIECE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            if self.fileno() >= 0:  # the one before may have ended it
                self._read_line(line)
        if not data and self.fileno() >= 0:
            self.close()
            self._ended()

    def _read_line(self, line: bytes) -> None:
        try:
            message = self._decoder.decode(line)
        except msgspec.MsgspecError:
            _log.debug("a message of another version: {line}", line=line)
            return
        self._received(message)

    def doWrite(self) -> None:
        """Something can be written."""
        with contextlib.suppress(BlockingIOError, InterruptedError):
            try:
                sent = self.socket.send(self._unwritten)
            except (BlockingIOError, InterruptedError):
                raise
            except OSError:  # it has gone; reading says so
                sent = len(self._unwritten)
            self._unwritten = self._unwritten[sent:]
        if not self._unwritten:
            self._reactor.removeWriter(self)

    def connectionLost(self, reason: Failure) -> None:  # noqa: ARG002
        """The reactor stops, or the descriptor is none any more."""
        if self.fileno() >= 0:
            self.close()
            self._ended()
