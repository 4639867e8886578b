"""A session: one WebSocket connection as an application sees it, from the request that asks for it to its one close.

Floor 2. It owns the life cycle (``connecting -> open -> closing -> closed``), the counters, the bounds on output, and the guard around
every call into the application. It knows nothing of Autobahn or sockets: it speaks to a ``Wire``, which ``protocol`` implements.

Laws of this module:

- The handler hears ``opened`` at most once, ``closed`` exactly once after ``opened``, and ``received`` only in between.
- The first cause of an end is the cause: whatever happens afterwards changes neither code nor cause.
- Whatever a handler raises ends this session with 1011, is logged once, and touches no other session.
"""

from __future__ import annotations

import enum
import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from twisted.logger import Logger

from twistedws.errors import By, Cause, Close
from twistedws.exchange import Answerer, Endpoints
from twistedws.frames import BINARY, TEXT, cut, frame, is_close_code
from twistedws.handshake import Request

_log = Logger()

# Ids look random and cost a tenth of secrets.token_hex: each next number, times an odd one, of which no two are equal modulo 2**48.
_numbers = itertools.count(secrets.randbits(48))
_STRIDE = secrets.randbits(48) | 1


class Handler(Protocol):
    """What a native application gives for each session. See ``FlowHandler`` for two more, optional, callbacks."""

    def opened(self, session: Session) -> None:
        """The opening handshake is done; messages may be sent from now on."""

    def received(self, session: Session, message: str | bytes) -> None:
        """A whole message has come: str for text, bytes for binary."""

    def closed(self, session: Session, close: Close) -> None:
        """The session has ended."""


class FlowHandler(Handler, Protocol):
    """A handler that also wants to hear of backpressure and of a shutdown. A handler may have either callback alone."""

    def writable(self, session: Session) -> None:
        """The output that made ``session.congested`` true has left."""

    def draining(self, session: Session, proceed: Callable[[], None]) -> None:
        """The server is going away: call ``proceed`` once the messages received so far are answered; reading has stopped."""


class Framed(msgspec.Struct, frozen=True, gc=False):
    """A message as its frame.

    Attributes:
        frame: The frame, uncompressed.
        opcode: TEXT or BINARY.
        payload: What is in it.
    """

    frame: bytes
    opcode: int
    payload: bytes


def framed(message: str | bytes | bytearray | memoryview) -> Framed:
    """Frame a message for any number of sessions; raises what ``Session.send`` does."""
    payload, opcode = _encoded(message)
    return Framed(frame(opcode, payload), opcode, payload)


class _Nobody:
    """The handler of a session that is not open."""

    def opened(self, session: Session) -> None: ...

    def received(self, session: Session, message: str | bytes) -> None: ...

    def closed(self, session: Session, close: Close) -> None: ...


_NOBODY = _Nobody()


class Wire(Protocol):
    """What a session needs of its connection."""

    received: int  # bytes read from the peer so far
    written: int  # bytes handed to the transport so far
    listening: bool  # whether messages of the peer's are still to be delivered

    def send(self, opcode: int, payload: bytes) -> None:
        """Send a message: TEXT or BINARY."""

    def send_framed(self, message: Framed) -> None:
        """Send a message of which the frame is made already, for many; a wire that compresses makes its own."""

    def soon(self, callback: Callable[[], None]) -> None:
        """Have a function called in a coming turn of the loop."""

    def ping(self, payload: bytes) -> None:
        """Send a ping of at most 125 bytes."""

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, go on reading until the peer's, at most until the close deadline."""

    def fail(self, code: int, reason: str) -> None:
        """Send a close frame and look at no further input (RFC 6455 section 7.1.7)."""

    def abort(self) -> None:
        """End the connection at once, whatever is buffered."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Read again."""

    def buffered(self) -> int:
        """Return the bytes written that the operating system has not taken yet."""

    def unacknowledged(self) -> int:
        """Return the bytes that the operating system has taken and the peer's has not; 0 where it does not tell."""

    def endpoints(self) -> Endpoints:
        """Return both ends of the connection, while the session is connecting."""


@dataclass(frozen=True, slots=True)
class Application:
    """An application, ready to be served.

    Attributes:
        build: Makes the handler of a session; it may raise ``Refused``.
        name: For the log.
        admit: Decides on an opening handshake before it is answered; it may raise ``Refused``, set ``session.subprotocol``, add to
            ``session.response_headers``, and be a coroutine.
        subprotocols: What the application speaks; a client's first choice among them is taken.
        page: An HTML document that answers ``GET /``.
        busy: Counts what still runs for sessions, those that have ended too; a shutdown waits for it.
        answerer: Answers requests that are no upgrades; None where they are told to be ones.
        startup: Called before connections are accepted; what it awaits is waited for. It may raise ``StartupError``.
        shutdown: Called when all connections have gone.
    """

    build: Callable[[Session], Handler]
    name: str
    admit: Callable[[Session], Awaitable[None] | None] | None = None
    subprotocols: tuple[str, ...] = ()
    page: bytes | None = None
    busy: Callable[[], int] = lambda: 0
    answerer: Answerer | None = None
    startup: Callable[[], Awaitable[None]] | None = None
    shutdown: Callable[[], Awaitable[None]] | None = None

    def __call__(self, session: Session) -> Handler:
        """Return the handler of a session."""
        return self.build(session)


_Hosted = TypeVar("_Hosted")


def application(
    *, admit: Callable[[Session], Awaitable[None] | None] | None = None, subprotocols: Sequence[str] = ()
) -> Callable[[_Hosted], _Hosted]:
    """Say more of a handler class or a coroutine than its signature does; a decorator.

    Args:
        admit: Called with the session before its opening handshake is answered; a function or a coroutine function that raises
            ``Refused`` to answer with something other than 101.
        subprotocols: The subprotocols that the application speaks (RFC 6455 section 1.9).
    """

    def mark(hosted: _Hosted) -> _Hosted:
        if admit is not None:
            hosted.admit = admit  # type: ignore[attr-defined]  # a function or class takes any attribute
        if subprotocols:
            hosted.subprotocols = tuple(subprotocols)  # type: ignore[attr-defined]
        return hosted

    return mark


class Phase(enum.IntEnum):
    """Where in its life a session is."""

    CONNECTING = 0
    OPEN = 1
    CLOSING = 2
    CLOSED = 3


_OPEN = Phase.OPEN  # a name of its own: to look a member up costs the hot path 30 ns each time


class Hold(enum.IntFlag):
    """Who wants reading to pause. Reading goes on when nobody does."""

    APPLICATION = 1
    OUTPUT = 2
    DRAIN = 4


SlowConsumer = Literal["close", "drop-newest", "abort"]


class Session:
    """One WebSocket connection.

    Args:
        wire: The connection.
        request: The opening handshake.
        peer: The client's address as text, ``HOST:PORT`` or ``unix:PATH``.
        scheme: ``ws`` or ``wss``.
        queue_size: Bytes of output that may wait for the peer; 0 for any number.
        slow_consumer: What to do with a message that would exceed them.

    Attributes:
        request: The opening handshake.
        peer: The client's address as text.
        scheme: ``ws`` or ``wss``.
        subprotocol: The subprotocol agreed on, or None.
        response_headers: Pairs that ``admit`` may add to the answer of the opening handshake; unused afterwards.
        rtt: The latest round trip of a ping, in seconds; None before the first.
        congested: True while the peer takes less than it is sent; sending goes on into a bounded queue.
        ending: How the session ends, as soon as that is decided; None before.
        handler: What the application made for this session.
    """

    __slots__ = (
        "_holds", "_number", "_phase", "_queue_size", "_slow_consumer", "_state", "congested", "dropped", "ending", "handler",
        "messages_in", "messages_out", "moved", "moved_at", "octets_in", "octets_out", "opened_at", "peer",
        "ping_due", "ping_payload", "ping_sent",
        "pinged_at", "pinged_mark", "request", "response_headers", "rtt", "scheme", "subprotocol", "wire",
    )  # fmt: skip

    def __init__(self, wire: Wire, request: Request, *, peer: str, scheme: str, queue_size: int, slow_consumer: SlowConsumer) -> None:
        self._number = next(_numbers)
        self.wire, self.request, self.peer, self.scheme = wire, request, peer, scheme
        self.subprotocol: str | None = None
        self.response_headers: list[tuple[str, str]] = []
        self.rtt: float | None = None
        self.congested = False
        self.ending: Close | None = None
        self.messages_in = self.messages_out = self.octets_in = self.octets_out = self.dropped = 0
        self.opened_at = 0.0
        self.handler: Handler = _NOBODY
        self._phase = Phase.CONNECTING
        self._holds = 0
        self._state: dict[Any, Any] | None = None
        self._queue_size, self._slow_consumer = queue_size, slow_consumer
        # The keepalive's notes; it alone writes them.
        self.ping_payload = b""
        self.ping_due = self.ping_sent = self.pinged_at = self.moved_at = 0.0
        self.pinged_mark = self.moved = -1

    # What an application uses

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits, unique enough to find a session in the log; no secret."""
        return f"{self._number * _STRIDE & 0xFFFFFFFFFFFF:012x}"

    @property
    def phase(self) -> Phase:
        """Where in its life the session is."""
        return self._phase

    @property
    def state(self) -> dict[Any, Any]:
        """A dictionary for the application's own use, made when first asked for."""
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def buffered(self) -> int:
        """Bytes sent that the operating system has not taken yet."""
        return self.wire.buffered()

    def send(self, message: str | bytes | bytearray | memoryview) -> bool:
        """Send a message: text for a str, binary for bytes.

        Returns:
            False if nothing was sent: the session is not open (any more), or the slow-consumer policy dropped the message. So a loop
            over many sessions needs no ``try``.

        Raises:
            TypeError: The message is neither text nor bytes.
            UnicodeEncodeError: The text holds lone surrogates, which UTF-8 cannot carry.
        """
        kind = type(message)  # exact types first: isinstance with a tuple takes three times as long
        if kind is str:
            payload, opcode = message.encode(), TEXT  # type: ignore[union-attr]
        elif kind is bytes:
            payload, opcode = message, BINARY
        else:
            payload, opcode = _encoded(message)
        if self._phase is not _OPEN or (self.congested and not self._has_room(len(payload))):
            return False
        self.messages_out += 1
        self.octets_out += len(payload)
        self.wire.send(opcode, payload)
        return True

    def send_framed(self, message: Framed) -> bool:
        """Send a message that is framed already; see ``send``, and ``fanout.fan_out``, which calls this."""
        octets = len(message.payload)
        if self._phase is not _OPEN or (self.congested and not self._has_room(octets)):
            return False
        self.messages_out += 1
        self.octets_out += octets
        self.wire.send_framed(message)
        return True

    def close(
        self,
        code: int = 1000,
        reason: str = "",
        *,
        cause: Cause = Cause.APPLICATION,
        by: By = By.APPLICATION,
    ) -> None:
        """Start the closing handshake; nothing happens on a session that is closing or closed.

        What the peer sends before it answers is still delivered.

        Args:
            code: 1000 to 1003, 1007 to 1014, or 3000 to 4999 (RFC 6455 section 7.4).
            reason: Cut to 123 bytes of UTF-8.
            cause: Why; an application has no need to say.
            by: Who; likewise.

        Raises:
            ValueError: The code may not stand in a close frame.
            RuntimeError: The session is not open yet; to refuse it, raise ``Refused``.
        """
        if not isinstance(code, int) or not is_close_code(code):
            raise ValueError(f"close code: {code!r}: 1000 to 1003, 1007 to 1014 or 3000 to 4999 can be sent")
        if self._phase is Phase.CONNECTING:
            raise RuntimeError("the session is not open yet; to refuse it, raise twistedws.Refused")
        if self._phase is Phase.OPEN:
            self._begin_end(Close(code, cut(reason), cause, by))
            self.wire.close(code, reason)

    def abort(self, cause: Cause = Cause.APPLICATION, by: By = By.APPLICATION) -> None:
        """End the connection at once; what is buffered is lost, and the peer sees no close frame (1006)."""
        if self._phase is not Phase.CLOSED:
            if self.ending is None:
                self._begin_end(Close(1006, "", cause, by))
            self.wire.abort()

    def pause(self) -> None:
        """Stop reading from the peer until ``resume``."""
        self.hold(Hold.APPLICATION)

    def resume(self) -> None:
        """Undo ``pause``."""
        self.release(Hold.APPLICATION)

    # What the protocol, the keepalive and the drain use

    @property
    def held(self) -> bool:
        """Whether reading is paused."""
        return self._holds != 0

    def hold(self, who: Hold) -> None:
        """Pause reading for one reason; ignored once the session ends, when all that comes is read."""
        if self._phase is Phase.OPEN:
            if not self._holds:
                self.wire.pause()
            self._holds |= who

    def release(self, who: Hold) -> None:
        """Take one reason back; reading goes on with the last."""
        if self._holds & who:
            self._holds &= ~who
            if not self._holds:
                self.pinged_mark = -1  # a pong may be waiting unread: no deadline on the ping that is out
                self.wire.resume()

    def open(self, handler: Handler, now: float) -> None:
        """The opening handshake is done; a no-op on a session that has ended meanwhile, or is open."""
        if self._phase is not Phase.CONNECTING or self.ending is not None:
            return
        self.handler, self._phase, self.opened_at = handler, Phase.OPEN, now
        self.response_headers = []
        self._guarded("opened", handler.opened, self)

    def deliver(self, message: str | bytes, octets: int) -> None:
        """Hand a message of so many bytes to the application, unless the session has ended."""
        if self._phase is Phase.CLOSED:
            return
        self.messages_in += 1
        self.octets_in += octets
        try:
            self.handler.received(self, message)
        except BaseException:  # a sys.exit() somewhere would end the process, and everybody's sessions
            self.raised("received")

    def fail(self, code: int, reason: str, cause: Cause) -> None:
        """End the session for something that the peer, or the application, did wrong."""
        if self._phase is Phase.OPEN:
            self._begin_end(Close(code, cut(reason), cause, By.SERVER))
        self.wire.fail(code, reason)

    def peer_closed(self, code: int | None, reason: str) -> None:
        """The peer's close frame has come; a no-op where we closed first."""
        if self._phase is Phase.OPEN:
            self._begin_end(Close(1005 if code is None else code, reason, Cause.CLIENT, By.CLIENT))

    def lost(self, cause: Cause) -> None:
        """The connection is gone, for this cause unless one is known already."""
        if self.ending is None:
            self.ending = Close(1006, "", cause, By.CLIENT)
        was, self._phase, self._holds = self._phase, Phase.CLOSED, 0
        if was in (Phase.OPEN, Phase.CLOSING):
            self._guarded("closed", self.handler.closed, self, self.ending)

    def congest(self) -> None:
        """The transport's buffer has passed its high-water mark: read no more from a peer that does not take the replies."""
        self.congested = True
        self.hold(Hold.OUTPUT)

    def decongest(self) -> None:
        """The transport's buffer has left."""
        self.congested = False
        self.release(Hold.OUTPUT)
        if self._phase is Phase.CLOSED:
            return
        writable = getattr(self.handler, "writable", None)
        if writable is not None:
            self._guarded("writable", writable, self)

    def drain(self, code: int, reason: str, proceed: Callable[[Callable[[], None]], None]) -> None:
        """Close for a shutdown, once the application has answered what it was given.

        Args:
            code: The close code.
            reason: The close reason.
            proceed: Called with the function that closes, where the application asked to be heard first; the caller sees to a deadline.
        """
        if self._phase is not Phase.OPEN:
            return

        def close() -> None:
            self.close(code, reason, cause=Cause.DRAIN, by=By.SERVER)

        draining = getattr(self.handler, "draining", None)
        if draining is None:
            close()
        else:
            self.hold(Hold.DRAIN)
            proceed(close)
            self._guarded("draining", draining, self, close)

    def raised(self, name: str) -> None:
        """The application raised: say so once, tell the peer nothing (1011), end this session only."""
        _log.failure(
            "application raised in {callback} session={session} peer={peer}",
            callback=name, session=self.id, peer=self.peer, limit="application raised",
        )  # fmt: skip
        if self._phase is Phase.OPEN:
            self.fail(1011, "", Cause.APPLICATION_ERROR)

    # Inside

    def _begin_end(self, close: Close) -> None:
        self.ending, self._phase = close, Phase.CLOSING
        if self._holds:
            self._holds = 0
            self.wire.resume()

    def _has_room(self, octets: int) -> bool:
        """Apply the bound on waiting output, for a message of so many bytes."""
        if not self._queue_size or self.wire.buffered() + octets <= self._queue_size:
            return True
        self.dropped += 1
        if self._slow_consumer == "close":
            self.close(1013, "slow consumer", cause=Cause.SLOW_CONSUMER, by=By.SERVER)
        elif self._slow_consumer == "abort":
            self.abort(Cause.SLOW_CONSUMER, By.SERVER)
        return False

    def _guarded(self, name: str, callback: Callable[..., object], *arguments: object) -> None:
        try:
            callback(*arguments)
        except BaseException:
            self.raised(name)


def _encoded(message: str | bytes | bytearray | memoryview) -> tuple[bytes, int]:
    """Return a message's payload, and its opcode: TEXT for a str, BINARY for bytes.

    Raises:
        TypeError: The message is neither text nor bytes.
        UnicodeEncodeError: The text holds lone surrogates, which UTF-8 cannot carry.
    """
    if isinstance(message, str):
        return message.encode(), TEXT
    if isinstance(message, (bytes, bytearray, memoryview)):
        return bytes(message), BINARY
    raise TypeError(f"message: {type(message).__name__}: str is sent as text, bytes as binary")
