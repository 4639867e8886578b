"""An HTTP exchange: one plain request and its response, on a connection that may carry more of them, or become a WebSocket. Floor 1½.

Only the words that the two sides have for each other: the connection (``protocol``), which reads every request head and decides on
every upgrade, and whoever answers what is no upgrade (``http``). Neither imports the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from twistedws.errors import Cause
from twistedws.handshake import Request

Address = tuple[str, int | None]  # of TCP: host and port; of a UNIX socket: its path and None


class Endpoints(msgspec.Struct, frozen=True, gc=False):
    """Both ends of a connection, as of the request that has just come on it.

    Attributes:
        client: The client's: behind a trusted proxy what the proxy says, with port 0 where it says none; None where there is none.
        server: Ours.
        secure: Whether the client speaks TLS, to us or to a trusted proxy.
    """

    client: Address | None
    server: Address | None
    secure: bool


class Carrier(Protocol):
    """What an exchange needs of its connection.

    Attributes:
        transport: Twisted's, for whoever must know it (``twisted.web``); what is written goes through ``write``.
        written: Bytes handed to the transport so far.
    """

    transport: Any
    written: int

    def write(self, data: bytes) -> None:
        """Write, together with all else of this turn of the loop."""

    def buffered(self) -> int:
        """Return the bytes written that the operating system has not taken yet."""

    def unacknowledged(self) -> int:
        """Return the bytes that the operating system has taken and the peer's has not; 0 where it does not tell."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Read again."""

    def put_back(self, data: bytes) -> None:
        """Have bytes looked at in a coming turn of the loop, before any others, and read on then."""

    def put_deadline(self, seconds: float) -> None:
        """Have ``expired`` called after so many seconds; 0 for never. There is one deadline: the latest."""

    def answered(self, status: int, octets: int, rest: bytes, *, persistent: bool) -> None:
        """The exchange is over.

        Args:
            status: Of the response; 0 if there was none.
            octets: The bytes of its body.
            rest: What came behind the request, unseen.
            persistent: Whether another request may follow; otherwise the connection ends.
        """

    def cut(self, cause: Cause, *, at_once: bool = True) -> None:
        """End the connection in the middle of an exchange; ``lost`` follows.

        Args:
            cause: Why.
            at_once: Whether what is written and has not left is thrown away.
        """


class Exchange(Protocol):
    """What a connection needs of whoever answers a request."""

    @property
    def progress(self) -> tuple[int, int]:
        """The status of the response and the bytes of its body so far; 0 and 0 before it has begun."""

    @property
    def held(self) -> bool:
        """Whether reading is paused."""

    def begin(self, head: bytes) -> None:
        """Begin with the request head as it came."""

    def received(self, data: bytes) -> None:
        """Bytes have come behind the head."""

    def congested(self) -> None:
        """The transport's buffer is over its high-water mark."""

    def decongested(self) -> None:
        """The transport's buffer has left."""

    def expired(self) -> None:
        """The deadline has come."""

    def shut(self) -> None:
        """The server goes away: let this be the last exchange of the connection."""

    def lost(self) -> None:
        """The connection has gone."""


Answerer = Callable[[Carrier, Request, Endpoints], Exchange]


def taken_of(carrier: Carrier) -> int:
    """Return how much of a connection's output the peer's machine has."""
    return carrier.written - carrier.buffered() - carrier.unacknowledged()
