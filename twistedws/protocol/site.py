"""What all connections of a process share, and whom they tell of their beginnings and ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from twistedws import config
from twistedws.errors import Cause
from twistedws.handshake import Request
from twistedws.keepalive import KeepaliveService
from twistedws.metrics import Metrics
from twistedws.origin import OriginPolicy
from twistedws.proxy import TrustedProxies
from twistedws.registry import Registry
from twistedws.session import Application, Session

_log = Logger()


class Observer(Protocol):
    """Who wants to hear of beginnings and ends: the log."""

    def opened(self, session: Session) -> None:
        """A session has opened."""

    def closed(self, session: Session, duration: float) -> None:
        """A session has ended, after so many seconds."""

    def refused(self, peer: str, cause: Cause | None, status: int | None, why: str) -> None:
        """A connection ended that never became a session; with no cause if it never asked to."""

    def answered(self, peer: str, request: Request, status: int, octets: int, duration: float, cause: Cause | None) -> None:
        """A plain request was answered with so many bytes, in so many seconds; or was not, for a cause."""


class Corked(Protocol):
    """A connection as a turn knows it."""

    peer: str

    def uncork(self) -> None:
        """Write what was sent in this turn."""

    def abort(self) -> None:
        """End at once."""


class Turn:
    """The connections for which something was sent in this turn of the loop, outside of any read of theirs.

    One callback writes for all of them, so that what a task sends piece by piece leaves in one write, and one packet.

    Args:
        call_soon: asyncio's.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._waiting: list[Corked] = []

    def add(self, connection: Corked) -> None:
        """Have a connection's ``uncork`` called at the end of this turn."""
        if not self._waiting:
            self._call_soon(self._end)
        self._waiting.append(connection)

    def _end(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            try:
                each.uncork()
            except Exception:  # one connection's fault is no other's
                _log.failure("cannot write: peer={peer}", peer=each.peer, limit="server fault")
                each.abort()


@dataclass(frozen=True, slots=True)
class Site:
    """All that the connections of one process share.

    Attributes:
        application: What is served.
        configuration: The sections that concern a connection; so are the next three.
        limits: Bounds on what comes in.
        output: Bounds on what goes out.
        shutdown: Whose ``close_timeout`` holds for every close.
        origins: Which browser origins may connect.
        keepalive: The wheel.
        registry: The connections and sessions.
        metrics: The counters.
        observer: The log.
        clock: The reactor, or a ``Clock``.
        start: Turns the awaitable that an application's ``admit`` returned into a Deferred; what that takes depends on the reactor.
        proxies: Whose forwarding headers are believed.
        http: Bounds of plain requests.
        most_connections: How many connections may be there at once; 0 for any number.
        turn: Where connections wait for the end of a turn of the loop to write; None where the reactor knows of no turns, and what is
            sent is written at once.
    """

    application: Application
    handshake: config.Handshake
    limits: config.Limits
    output: config.Output
    shutdown: config.Shutdown
    origins: OriginPolicy
    keepalive: KeepaliveService
    registry: Registry
    metrics: Metrics
    observer: Observer
    clock: IReactorTime
    start: Callable[[Awaitable[None]], Deferred[None]]
    proxies: TrustedProxies
    http: config.Http
    most_connections: int = 0
    turn: Turn | None = None
