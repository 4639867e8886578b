"""The plain requests of one connection, one after another: who answers them, how long one is waited for, what the log hears."""

from __future__ import annotations

from typing import Protocol

from twistedws.errors import Cause
from twistedws.exchange import Answerer, Carrier, Endpoints, Exchange
from twistedws.handshake import Request
from twistedws.protocol.site import Site


class Connection(Carrier, Protocol):
    """What plain requests need of their connection, which also carries them."""

    site: Site


class PlainRequests:
    """The plain requests of a connection.

    Args:
        connection: Whose they are.

    Attributes:
        exchange: The one that is under way, if any.
        is_last: Whether the connection ends with it.
    """

    __slots__ = ("_connection", "_peer", "_request", "_started", "exchange", "is_last")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._request: Request | None = None
        self._peer = ""
        self._started = 0.0
        self.exchange: Exchange | None = None
        self.is_last = False

    def answer(self, answerer: Answerer, request: Request, head: bytes, rest: bytes, endpoints: Endpoints, peer: str) -> bytes:
        """Hand a request on.

        Args:
            answerer: To whom.
            request: The request.
            head: The same, as it came.
            rest: What came behind it.
            endpoints: Between whom.
            peer: The client's address for the log.

        Returns:
            What came behind the request, if it is answered already.
        """
        site = self._connection.site
        self._request, self._peer, self._started = request, peer, site.clock.seconds()
        self.exchange = exchange = answerer(self._connection, request, endpoints)
        if site.registry.draining or self.is_last:
            self.shut()
        exchange.begin(head)
        if self.exchange is not exchange:  # it is over already
            return rest
        if rest:
            exchange.received(rest)
        return b""

    def done(self, status: int, octets: int, *, persistent: bool) -> bool:
        """One is answered; say whether another may follow."""
        self._log(status, octets, None)
        self.exchange = self._request = None
        return persistent and not self.is_last

    def shut(self) -> None:
        """The server goes away: let the one that is under way be the last."""
        self.is_last = True
        if self.exchange is not None:
            self.exchange.shut()

    def lost(self, cause: Cause) -> None:
        """The connection has gone."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self._log(*exchange.progress, cause)
            exchange.lost()

    def _log(self, status: int, octets: int, cause: Cause | None) -> None:
        site = self._connection.site
        site.metrics.answered[status // 100] += 1
        if self._request is not None:
            site.observer.answered(self._peer, self._request, status, octets, site.clock.seconds() - self._started, cause)
