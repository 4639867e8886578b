"""One connection: bytes from a transport into a session, and back. Floor 5; the only server module that knows Autobahn.

Autobahn owns the semantics of frames, compression and the incremental check of UTF-8. This module owns everything else: the opening
handshake (``handshake.py`` decides, Autobahn never sees it), assembly of messages and their bounds, the close handshake and its
deadlines, the bounds on output. What of Autobahn is overridden, and why, stands at each place.

Laws of this module:

- A connection has one ``_Stage`` at a time, and in each stage one deadline on the wheel.
- After a failure nothing that the peer sends is looked at or kept (RFC 6455 section 7.1.7): it is read, so that our close frame is not
  lost to a TCP reset, and thrown away.
- Every end goes through ``_finish`` or ``abort``; ``connectionLost`` is the one place where a session is told.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any
from typing import Protocol as TypingProtocol

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflate, PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.protocol import TrafficStats
from autobahn.websocket.utf8validator import Utf8Validator
from OpenSSL.SSL import Error as TLSError
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory, IPushProducer, IReactorTime, ISSLTransport, ITransport
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from twistedws import config
from twistedws.errors import Cause, Refused
from twistedws.frames import COMPRESSED, MAX_CONTROL_PAYLOAD, PING, PONG, SHORT_HEADS, U64, apply_mask, close_frame, frame, is_close_code
from twistedws.handshake import (
    BadRequest,
    HeadParser,
    Request,
    Upgrade,
    check_upgrade,
    choose_subprotocol,
    response,
    switching_protocols,
    wants_upgrade,
)
from twistedws.keepalive import KeepaliveService
from twistedws.limits import TokenBucket
from twistedws.metrics import Metrics
from twistedws.origin import OriginPolicy
from twistedws.registry import Registry
from twistedws.session import Application, Framed, Phase, Session

_log = Logger()

RETRY_AFTER = "5"  # seconds, sent with every 503
MOST_CORKED = 16384  # bytes; where more wait for the end of the turn, they are written at once
MOST_IN_TURN = 65536  # bytes; a session that has sent more in one turn of the loop counts as congested until it ends
INFLATED_AT_ONCE = 65536  # bytes
MOST_REFUSALS = 64  # refused connections that may linger at once; above, they are aborted
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self' ws: wss:"
_PAGE_HEADERS = (("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", _PAGE_POLICY))
_UPGRADE_NEEDED = "This is a WebSocket endpoint: connect to it with a WebSocket client (RFC 6455), at ws:// or wss:// and this address.\n"

_CAUSES = {1002: Cause.PROTOCOL_ERROR, 1007: Cause.INVALID_UTF8, 1009: Cause.TOO_BIG}


class _Stage(enum.IntEnum):
    """Where a connection is; in brackets what its deadline is for."""

    HEAD = 0  # reading the request head (handshake_timeout)
    DECIDING = 1  # the application decides (handshake_timeout)
    OPEN = 2  # messages go both ways (the keepalive's)
    CLOSING = 3  # our close frame is out, the peer's is awaited (close_timeout)
    ENDING = 4  # nothing is read any more; the transport ends (close_timeout)
    LOST = 5  # the transport has gone


class Observer(TypingProtocol):
    """Who wants to hear of beginnings and ends: the log."""

    def opened(self, session: Session) -> None:
        """A session has opened."""

    def closed(self, session: Session, duration: float) -> None:
        """A session has ended, after so many seconds."""

    def refused(self, peer: str, cause: Cause | None, status: int | None, why: str) -> None:
        """A connection ended that never became a session; with no cause if it never asked to."""


class Turn:
    """The connections for which something was sent in this turn of the loop, outside of any read of theirs.

    One callback writes for all of them, so that what a task sends piece by piece leaves in one write (RFC 6455 does not care, TCP does).

    Args:
        call_soon: asyncio's.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._waiting: list[ServerProtocol] = []

    def add(self, connection: ServerProtocol) -> None:
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
    most_connections: int = 0
    turn: Turn | None = None


class BoundedDeflate(PerMessageDeflate):  # type: ignore[misc]  # Autobahn has no types
    """permessage-deflate with a bound of ours on what a message may inflate to.

    Autobahn has one since 26.7.1, which needs Python 3.11; on 3.10 there are only versions that inflate a frame whole. With this the bound
    is the same on both.
    """

    def bound(self, limit: int, fail: Callable[[int, str, Cause], None]) -> None:
        """Set the bound.

        Args:
            limit: Bytes of one inflated message; 0 for any number.
            fail: Called with close code, reason and cause when a message is larger, or is no deflate data.
        """
        self._limit, self._fail, self._inflated, self._failed = limit, fail, 0, False

    def start_decompress_message(self) -> None:
        """A compressed message begins."""
        super().start_decompress_message()
        self._inflated = 0

    def decompress_message_data(self, data: bytes, max_output_len: int | None = None) -> bytes:  # noqa: ARG002 - the bound is ours
        """Inflate a piece of a message; nothing once it has failed."""
        inflated: list[bytes] = []
        while data or (inflated and len(inflated[-1]) == INFLATED_AT_ONCE):  # a full buffer: zlib may hold more, with all input taken
            try:
                # in steps: zlib's own buffer for all at once takes twice the limit before a bomb is seen to be one
                inflated.append(self._decompressor.decompress(data, INFLATED_AT_ONCE))
            except zlib.error:
                return self._give_up(1007, "invalid payload", Cause.INVALID_UTF8)
            self._inflated += len(inflated[-1])
            if 0 < self._limit < self._inflated:
                return self._give_up(1009, "message too big", Cause.TOO_BIG)
            data = self._decompressor.unconsumed_tail
        return inflated[0] if len(inflated) == 1 else b"".join(inflated)

    def end_decompress_message(self) -> None:
        """A compressed message ends: feed what the sender left out (RFC 7692 section 7.2.2)."""
        if not self._failed:
            try:
                self._decompressor.decompress(b"\x00\x00\xff\xff")
            except zlib.error:
                self._give_up(1007, "invalid payload", Cause.INVALID_UTF8)

    def _give_up(self, code: int, reason: str, cause: Cause) -> bytes:
        self._failed = True
        self._fail(code, reason, cause)
        return b""


@implementer(IPushProducer)
class ServerProtocol(WebSocketServerProtocol):  # type: ignore[misc]  # Autobahn has no types
    """One connection, from accept to its end; the ``Wire`` of its session."""

    # What Autobahn copies into each instance with a formatted debug line (protocol.py:_connectionMade, 70 % of its handshake): the
    # same for all, so on the class.
    logOctets = logFrames = False
    trackTimings = False
    trackedTimings = None
    utf8validateIncoming = True
    applyMask = True
    requireMaskedClientFrames = True
    maskServerFrames = False
    maxFramePayloadSize = 0
    maxMessagePayloadSize = 0  # Autobahn would judge a compressed message by its compressed length; we bound it, below and in the codec
    failByDrop = False  # with True, 1002, 1007 and 1009 never reach the peer
    autoPingTimeoutCall = None
    autoPingPending = None
    autoPingRestartOnAnyTraffic = False
    websocket_version = 13
    trafficStats = TrafficStats()  # counted by Autobahn, read by nobody: one for all
    _perMessageCompress: BoundedDeflate | None = None
    utf8validator = None  # made with the first frame that is Autobahn's

    _full = False  # the transport's buffer is over its high-water mark
    _in_turn = False  # the connection waits for the end of this turn of the loop
    _sent_in_turn = 0  # bytes, meanwhile
    current_frame: Any  # Autobahn's, which has no types; so are the next two
    inside_message: bool
    state: int

    def __init__(self, site: Site) -> None:
        # Not Autobahn's: it makes two Deferreds and a table of listeners that nobody uses here.
        self.site = site
        self.due = -1
        self.received = self.written = 0
        self.session: Session | None = None
        self._scanning = False  # messages may be scanned: Autobahn holds no part of any
        self._corked: bytes | None = None  # what leaves together: not None while a read is looked at, or until the turn ends
        self.failedByMe = False
        self._stage = _Stage.HEAD
        self._parser: HeadParser | None = HeadParser(site.handshake.max_head_size, site.handshake.max_headers)
        self._peer: str | None = None
        self._address: str | None = None
        self._decision: Deferred[None] | None = None
        self._early = b""  # what came behind the head while the application decides
        self._answer: tuple[Cause | None, int | None, str] | None = None  # what ended the connection before it was a session
        self._rate: TokenBucket | None = None
        self._control_rate: TokenBucket | None = None
        self._pong_due: bytes | None = None
        self._payload: bytes | bytearray = b""
        self._frames = 0
        self._is_text = False

    # Twisted's side: the connection begins, brings bytes, ends

    def connectionMade(self) -> None:
        """The transport is there."""
        site = self.site
        site.registry.connected(self)
        self._set_no_delay()
        self.transport.registerProducer(self, True)
        self._put_deadline(site.handshake.handshake_timeout)
        if site.most_connections and site.registry.connections > site.most_connections:
            self._refuse(503, "the server is full", "max-connections", [("Retry-After", RETRY_AFTER)])
            if site.registry.connections > site.most_connections + MOST_REFUSALS:
                self.abort()

    def dataReceived(self, data: bytes) -> None:  # noqa: C901 - see below
        """Bytes have come: the hot path, from the transport to the handler and back.

        Whole messages, each one final, masked, uncompressed frame of text or binary data, are taken straight from what was read.
        Whatever else a frame is, and a frame that is not all there, is Autobahn's, at exactly this place. What is sent meanwhile leaves
        in one write.
        """
        # One function, on purpose. With the scan as a function that returns a list, and the session's part as another, a message of 64
        # bytes costs 0.22 us more of Python, of some 5 us in all (16 in a read: 0.02 us).
        self.received += len(data)
        if self._corked is None:
            self._corked = b""
        try:
            if not self._scanning:
                data = self._receive_otherwise(data)
            while data:
                session: Session = self.session  # type: ignore[assignment]  # it is there while messages are
                rate, most, size, start = self._rate, self.site.limits.max_message_size, len(data), 0
                while size - start >= 6:  # RFC 6455 section 5.2: two bytes, a length of up to eight, four bytes of mask, the payload
                    first, length = data[start], data[start + 1] - 0x80  # MASK is the highest bit, and a client must set it
                    if length < 126:
                        payload_at = start + 6
                    elif length == 126 and size - start >= 8:
                        length, payload_at = data[start + 2] << 8 | data[start + 3], start + 8
                        if length < 126:  # not the shortest encoding
                            break
                    elif length == 127 and size - start >= 14:
                        length, payload_at = U64.unpack_from(data, start + 2)[0], start + 14
                        if length < 65536:
                            break
                    else:
                        break
                    end = payload_at + length
                    if end > size or length < 0 or 0 < most < length:
                        break
                    message: str | bytes = apply_mask(data[payload_at:end], data[payload_at - 4 : payload_at])
                    if first == 0x81:
                        try:
                            message = message.decode()  # type: ignore[union-attr]  # bytes, so far
                        except UnicodeDecodeError:
                            break
                    elif first != 0x82:
                        break
                    start = end
                    if rate is not None and not self._may_speak(rate):
                        return
                    session.messages_in += 1
                    session.octets_in += length
                    try:
                        session.handler.received(session, message)
                    except Exception:
                        session.raised("received")
                    if session.ending is not None and not self.listening:
                        return
                data = self._consume(data[start:]) if start < size else b""
        except Exception:
            _log.failure("a fault of this server: peer={peer}", peer=self.peer, limit="server fault")
            self._internal_error()
        finally:
            corked, self._corked = self._corked, None
            if corked:
                self.written += len(corked)
                self.transport.write(corked)

    def _receive_otherwise(self, data: bytes) -> bytes:
        """Take what is not to be scanned yet, or any more; return what is to be scanned after all."""
        if self.listening:
            return self._consume(self.data + data)
        if self._stage is _Stage.HEAD:
            return self._read_head(data)
        if self._stage is _Stage.DECIDING:
            self._hold_early(data)
        return b""

    def _consume(self, data: bytes) -> bytes:
        """Let Autobahn take what the scan cannot, step by step, until it is between two messages again; return what is left then."""
        self._scanning = False
        while self.current_frame is None and (end := self._take_control(data)):
            data = data[end:]
            if not self.listening:
                return b""
            if not self.inside_message:
                self.data = b""
                self._scanning = True
                return data
        if self.utf8validator is None:
            self.utf8validator = Utf8Validator()
        self.data = data
        while self.processData() and self.listening:  # True: it can go on
            if self.current_frame is None and not self.inside_message:
                rest, self.data = self.data, b""
                self._scanning = True
                return rest
        self._scanning = self.listening and not self.data and self.current_frame is None and not self.inside_message
        return b""

    def _take_control(self, data: bytes) -> int:
        """Take a whole, valid control frame (section 5.5) from the beginning, without Autobahn's 20 us; return its length, 0 for none."""
        size = len(data)
        if size < 6:
            return 0
        opcode, length = data[0], data[1] - 0x80
        end = 6 + length
        if not (0x88 <= opcode <= 0x8A and 0 <= length <= MAX_CONTROL_PAYLOAD and end <= size) or (opcode == 0x88 and length == 1):
            return 0
        payload = apply_mask(data[6:end], data[2:6])
        if opcode == 0x89:
            self._onPing(payload)
        elif opcode == 0x8A:
            self._onPong(payload)
        else:
            self.onCloseFrame(payload[0] << 8 | payload[1] if payload else None, payload[2:])
        return end

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The transport has gone: the one place where a session ends."""
        stage, self._stage = self._stage, _Stage.LOST
        site, session = self.site, self.session
        site.keepalive.wheel.take(self)
        site.registry.disconnected(self)
        if self._address is not None:
            site.registry.leave(self._address)
        if self._decision is not None:
            self._decision.cancel()
        if stage is not _Stage.ENDING:
            self._forget_input()
        self._corked = None
        self._perMessageCompress = None
        if session is not None and session.phase > Phase.CONNECTING:
            self._end_session(session, _cause_of(reason))
        elif stage is not _Stage.LOST:
            cause, status, why = self._answer or (_cause_of(reason), None, "the peer went away before the handshake was done")
            if cause is not None:
                site.metrics.refused[cause] += 1
            site.observer.refused(self.peer, cause, status, why)
        self.session = None

    def expired(self) -> None:
        """The wheel: this connection's deadline has come."""
        if self._stage is _Stage.OPEN and self.session is not None:
            self.site.keepalive.sweep(self, self.session)
        elif self._stage is _Stage.HEAD:
            self._refuse(408, "the request took too long", "no whole request head in time", cause=Cause.HANDSHAKE_TIMEOUT)
        elif self._stage is _Stage.DECIDING:
            self._cancel_decision()
            self._refuse(
                503, "the server took too long", "the application did not decide in time", [("Retry-After", RETRY_AFTER)],
                cause=Cause.HANDSHAKE_TIMEOUT,
            )  # fmt: skip
        else:
            self.abort()

    def shut(self) -> None:
        """The registry: no session will come of this connection any more."""
        if self._stage in (_Stage.HEAD, _Stage.DECIDING):
            self._cancel_decision()
            self._answer = (Cause.DRAIN, None, "the server goes away")
            self.abort()

    @property
    def peer(self) -> str:
        """The client's address as text; behind a PROXY protocol endpoint known once its header has come."""
        if self._peer is None and self.transport is not None:
            return _address_text(self.transport.getPeer())
        return self._peer or "unknown"

    # The transport's side: IPushProducer

    def pauseProducing(self) -> None:
        """The transport's buffer is over its high-water mark."""
        if self._stage is _Stage.OPEN and self.session is not None:
            self._full = True
            self.session.congest()
            self.site.keepalive.watch(self, self.session)

    def resumeProducing(self) -> None:
        """The transport's buffer has left."""
        if self._stage is _Stage.OPEN and self.session is not None:
            if self._pong_due is not None:
                self._write(frame(PONG, self._pong_due))
                self._pong_due = None
            self._full = False
            if self._sent_in_turn <= MOST_IN_TURN:
                self.session.decongest()

    def stopProducing(self) -> None:
        """The transport has gone; ``connectionLost`` follows."""

    # The opening handshake

    def _read_head(self, data: bytes) -> bytes:
        """Read the request head; return what came behind it, if the session is open already."""
        parser = self._parser
        assert parser is not None  # noqa: S101 - it is there in this stage
        if self._address is None and not self._enter():
            return b""
        try:
            request = parser.feed(data)
            if request is None:
                return b""
            self._parser = None
            if wants_upgrade(request):
                self._upgrade(request, check_upgrade(request), parser.rest)
            else:
                self._answer_plain(request)
        except BadRequest as bad:
            self._refuse(bad.status, bad.text, bad.text, bad.headers)
        return self._take_early()

    def _enter(self) -> bool:
        """Count the connection by its address, now known also behind a PROXY protocol; refuse it if it is one too many."""
        peer = self.transport.getPeer()
        self._peer, self._address = _address_text(peer), _host_of(peer)
        most = self.site.limits.max_connections_per_address
        if self.site.registry.enter(self._address) > most > 0 and self._address:
            self._refuse(429, "too many connections from this address", "max-connections-per-address", [("Retry-After", RETRY_AFTER)])
            return False
        return True

    def _answer_plain(self, request: Request) -> None:
        page = self.site.application.page
        if page is not None and request.path == "/" and request.method in ("GET", "HEAD"):
            self._refuse(200, page, "the page", _PAGE_HEADERS, cause=None, head_only=request.method == "HEAD")
        else:
            self._refuse(
                426, _UPGRADE_NEEDED, "not a WebSocket request", [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
                cause=None, head_only=request.method == "HEAD",
            )  # fmt: skip

    def _upgrade(self, request: Request, upgrade: Upgrade, rest: bytes) -> None:
        site = self.site
        if site.registry.draining:
            self._refuse(503, "the server is restarting", "draining", [("Retry-After", RETRY_AFTER)], cause=Cause.DRAIN)
            return
        if upgrade.origin is not None and not site.origins.allows(upgrade.origin, request.header("host") or ""):
            self._refuse(403, "this origin may not connect", "origin not allowed")
            return
        self.session = session = Session(
            self,
            request,
            peer=self.peer,
            scheme="wss" if ISSLTransport.providedBy(self.transport) else "ws",
            queue_size=site.output.queue_size,
            slow_consumer=site.output.slow_consumer,
        )
        session.subprotocol = choose_subprotocol(upgrade.subprotocols, site.application.subprotocols or site.handshake.subprotocol)
        self._stage, self._early = _Stage.DECIDING, rest
        admit = site.application.admit
        if admit is None:
            self._admitted(session, upgrade)
            return
        self._put_deadline(site.handshake.handshake_timeout)
        try:
            outcome = admit(session)
        except Exception:
            self._not_admitted(Failure(), session)
            return
        if isawaitable(outcome):
            # Deferred.addCallbacks runs at once where the awaitable did not have to wait
            self._decision = decision = site.start(outcome)
            decision.addCallbacks(lambda _: self._admitted_late(session, upgrade), self._not_admitted, errbackArgs=(session,))
            decision.addErrback(lambda failure: self._not_admitted(failure, session))
        else:
            self._admitted(session, upgrade)

    def _hold_early(self, data: bytes) -> None:
        """Keep what a peer sends before it is answered, unseen. Reading goes on, so that its leaving is noticed; within bounds."""
        self.received -= len(data)  # it counts when it is looked at
        self._early += data
        if len(self._early) > self.site.limits.inbox_size > 0:
            self.pause()

    def _admitted(self, session: Session, upgrade: Upgrade) -> None:
        self._decision = None
        if self._stage is not _Stage.DECIDING:  # the peer, or the deadline, was faster
            return
        try:
            if session.subprotocol is not None and session.subprotocol not in upgrade.subprotocols:
                raise ValueError(f"subprotocol: {session.subprotocol!r}: the client offered {upgrade.subprotocols}")
            handler = self.site.application(session)
            deflate, extensions = self._negotiate_deflate(upgrade.extensions)
            answer = switching_protocols(upgrade, session.subprotocol, extensions, session.response_headers)
        except Exception:
            self._not_admitted(Failure(), session)
            return
        self._write(answer)
        self._adopt(deflate)
        self._stage = _Stage.OPEN
        site = self.site
        site.registry.add(session)
        site.metrics.opened += 1
        site.keepalive.begin(self, session)
        site.observer.opened(session)
        if len(self._early) > site.limits.inbox_size > 0:
            self.resume()
        session.open(handler, site.clock.seconds())

    def _admitted_late(self, session: Session, upgrade: Upgrade) -> None:
        self._admitted(session, upgrade)
        early = self._take_early()
        if early:
            self.dataReceived(early)

    def _take_early(self) -> bytes:
        """Return what came behind the head, once the session is open."""
        if not self.listening:
            return b""
        early, self._early = self._early, b""
        return early

    def _not_admitted(self, failure: Failure, session: Session) -> None:
        self._decision = None
        if self._stage is not _Stage.DECIDING:
            return
        refused = failure.value
        if isinstance(refused, Refused):
            try:
                self._refuse(refused.status, refused.body, "the application refused", refused.headers)
                return
            except ValueError as error:  # a header that must not be sent
                failure = Failure(error)
        _log.failure(
            "application raised in the opening handshake session={session} peer={peer}", failure, session=session.id, peer=session.peer,
            limit="application raised",
        )  # fmt: skip
        self._refuse(500, "internal server error", "the application raised", cause=Cause.APPLICATION_ERROR)

    def _refuse(
        self,
        status: int,
        body: bytes | str,
        why: str,
        headers: Sequence[tuple[str, str]] = (),
        *,
        cause: Cause | None = Cause.HANDSHAKE_REFUSED,
        head_only: bool = False,
    ) -> None:
        """Answer with something other than 101 and end the connection; no cause if it never asked to be a session."""
        answer = response(status, headers, body, head_only=head_only)
        self._answer = (cause, status, why)
        self._write(answer)
        self._finish(read_on=True)

    def _cancel_decision(self) -> None:
        decision, self._decision = self._decision, None
        if decision is not None:
            self._stage = _Stage.HEAD  # so that the cancelled decision, when it comes, is not heard
            decision.cancel()

    def _negotiate_deflate(self, offers: str) -> tuple[BoundedDeflate | None, str]:
        """Accept the first usable offer of permessage-deflate (RFC 7692 section 7), if compression is on.

        Returns:
            Autobahn's codec, or None, and the value for Sec-WebSocket-Extensions, "" for none.
        """
        handshake = self.site.handshake
        if handshake.compression == "off" or not offers:
            return None, ""
        bits = handshake.compression_window_bits
        for name, parameters in self._parseExtensionsHeader(offers):
            if name != PerMessageDeflate.EXTENSION_NAME:
                continue
            try:
                offer = PerMessageDeflateOffer.parse(parameters)
            except Exception:  # noqa: S112 - Autobahn's plain Exception; section 5.1: an invalid offer is declined
                continue
            accept = PerMessageDeflateOfferAccept(
                offer,
                request_max_window_bits=bits if offer.accept_max_window_bits else 0,
                window_bits=min(bits, offer.request_max_window_bits or bits),
                mem_level=max(1, bits - 7),  # zlib's hash table in proportion to its window, as its own default of 15 and 8
            )
            codec: BoundedDeflate = BoundedDeflate.create_from_offer_accept(True, accept)
            codec.bound(self.site.limits.max_message_size, self._fail)
            return codec, accept.get_extension_string()
        return None, ""

    def _adopt(self, deflate: BoundedDeflate | None) -> None:
        """Put Autobahn into the state that its own handshake would have left (protocol.py:succeedHandshake)."""
        self.state = self.STATE_OPEN
        self.data = b""
        self.current_frame = None
        self.inside_message = False
        self._scanning = True
        if deflate is not None:
            self._perMessageCompress = deflate
        rate = self.site.limits.message_rate
        if rate:
            self._rate = TokenBucket(rate, rate, self.site.clock.seconds())

    # Autobahn's side: frames become messages

    def _onMessageBegin(self, isBinary: bool) -> None:
        self._is_text = not isBinary
        self._payload = b""
        self._frames = 0
        self.message_data_total_length = 0  # Autobahn bounds inflation by it

    def _onMessageFrameBegin(self, length: int) -> None:
        limits = self.site.limits
        self._frames += 1
        self.message_data_total_length += length
        most = limits.max_message_size
        if most and self._isMessageCompressed:
            most += (most >> 8) + 64  # deflate adds a little to what it cannot compress; the codec bounds what comes of it
        if 0 < most < self.message_data_total_length:
            self._fail(1009, "message too big", Cause.TOO_BIG)
        elif 0 < limits.max_frames_per_message < self._frames:
            self._fail(1008, "too many frames in a message", Cause.TOO_BIG)

    def _onMessageFrameData(self, payload: bytes) -> None:
        # One buffer, not Autobahn's list of pieces: a message that trickles in would cost some forty times its size.
        if not self._payload:
            self._payload = payload
        elif isinstance(self._payload, bytearray):
            self._payload += payload
        else:
            self._payload = bytearray(self._payload) + payload

    def _onMessageFrameEnd(self) -> None:
        pass

    def _onMessageEnd(self) -> None:
        session = self.session
        if self.failedByMe or session is None:
            return
        payload, self._payload = self._payload, b""
        if self._rate is None or self._may_speak(self._rate):
            session.deliver(payload.decode() if self._is_text else bytes(payload), len(payload))

    def _may_speak(self, rate: TokenBucket) -> bool:
        """Count a message against the rate limit."""
        if rate.take(self.site.clock.seconds()):
            return True
        self._fail(1008, "too many messages", Cause.RATE_LIMIT)
        return False

    def _onPing(self, payload: bytes) -> None:
        if self._stage is not _Stage.OPEN or not self._may_control():
            return
        if self.session is not None and self.session.congested:
            self._pong_due = payload  # section 5.5.3: the most recent ping alone may be answered; no queue of pongs
        else:
            self._write(frame(PONG, payload))

    def _onPong(self, payload: bytes) -> None:
        if self._stage is _Stage.OPEN and self.session is not None and not self.site.keepalive.pong(self.session, payload):
            self._may_control()

    def _may_control(self) -> bool:
        """Count a ping, or a pong that nobody asked for, against the rate limit."""
        rate = self.site.limits.control_frame_rate
        if rate:
            now = self.site.clock.seconds()
            if self._control_rate is None:
                self._control_rate = TokenBucket(rate, rate, now)
            if not self._control_rate.take(now):
                self._fail(1008, "too many control frames", Cause.RATE_LIMIT)
                return False
        return True

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool:
        """The peer's close frame. Autobahn's own refuses 1014, and ends in a TCP reset where we closed first (protocol.py:819)."""
        if code is not None and not is_close_code(code):
            self._fail(1002, "invalid close code", Cause.PROTOCOL_ERROR)
            return True
        try:
            reason = (reasonRaw or b"").decode()
        except UnicodeDecodeError:
            self._fail(1007, "close reason is not UTF-8", Cause.INVALID_UTF8)
            return True
        if self._stage is _Stage.OPEN:
            self._write(close_frame(code))  # section 5.5.1: typically echoes the status code
        if self.session is not None:
            self.session.peer_closed(code, reason)
        self._finish(read_on=False)
        return True

    def _protocol_violation(self, reason: str) -> bool:
        self._fail(1002, reason, Cause.PROTOCOL_ERROR)
        return True  # Autobahn: look at nothing more

    def _invalid_payload(self, reason: str) -> bool:  # noqa: ARG002 - it quotes offsets; the code says enough
        self._fail(1007, "invalid payload", Cause.INVALID_UTF8)
        return True

    def _fail_connection(self, code: int = 1002, reason: str = "") -> None:
        """Autobahn found the peer at fault in a way of its own."""
        self._fail(code, reason, _CAUSES.get(code, Cause.PROTOCOL_ERROR))

    def _fail(self, code: int, reason: str, cause: Cause) -> None:
        if self.session is not None:
            self.session.fail(code, reason, cause)

    # The session's side: Wire

    def send(self, opcode: int, payload: bytes) -> None:
        """Send a message. Framed here: Autobahn bounds outgoing messages by the limit on incoming ones (protocol.py:2621)."""
        deflate = self._perMessageCompress
        if deflate is None:
            length = len(payload)
            framed = (SHORT_HEADS[opcode][length] + payload) if length < 126 else frame(opcode, payload)
        else:
            deflate.start_compress_message()
            framed = frame(opcode, deflate.compress_message_data(payload) + deflate.end_compress_message(), COMPRESSED)
        corked = self._corked
        if corked:
            if len(corked) < MOST_CORKED:
                self._corked = corked + framed
            else:
                self._write(framed)
        elif corked is None:
            self._write(framed)
        else:
            self._corked = framed

    def send_framed(self, message: Framed) -> None:
        """Send a message that is framed already: at once, since there is one for each of many sessions."""
        if self._corked is None and self._perMessageCompress is None:
            self.written += len(message.frame)
            self.transport.write(message.frame)
        elif self._perMessageCompress is None:
            self._write(message.frame)
        else:
            self.send(message.opcode, message.payload)

    def soon(self, callback: Callable[[], None]) -> None:
        """Have a function called in a coming turn of the loop."""
        self.site.clock.callLater(0, callback)

    @property
    def listening(self) -> bool:
        """Whether messages of the peer's are still to be delivered."""
        return self._stage in (_Stage.OPEN, _Stage.CLOSING)

    def ping(self, payload: bytes) -> None:
        """Send a ping."""
        if self._stage is _Stage.OPEN:
            self._write(frame(PING, payload))

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and await the peer's."""
        if self._stage is _Stage.OPEN:
            self._write(close_frame(code, reason))
            self._stage = _Stage.CLOSING
            self.state = self.STATE_CLOSING
            self._put_deadline(self.site.shutdown.close_timeout)

    def fail(self, code: int, reason: str) -> None:
        """Send a close frame, unless one is out, and look at nothing more."""
        if self._stage is _Stage.OPEN:
            self._write(close_frame(code, reason))
        if self._stage in (_Stage.OPEN, _Stage.CLOSING):
            self._finish(read_on=True)

    def abort(self) -> None:
        """End the connection at once."""
        if self._stage is not _Stage.LOST:
            self._stage = _Stage.ENDING
            self._forget_input()
            self._corked = None
            self.site.keepalive.wheel.take(self)
            self.transport.unregisterProducer()
            self.transport.abortConnection()

    def pause(self) -> None:
        """Stop reading."""
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read again."""
        if self._stage is not _Stage.LOST:
            self.transport.resumeProducing()

    def buffered(self) -> int:
        """Return the bytes written that the operating system has not taken yet."""
        self._flush()
        return 0 if self._stage is _Stage.LOST else buffered_in(self.transport)

    # Inside

    def _write(self, data: bytes) -> None:
        """Write with what else is sent while one read is looked at, or in one turn of the loop; see ``_corked``."""
        if self._corked is None:
            if self.site.turn is None:
                self.written += len(data)
                self.transport.write(data)
                return
            self._corked = b""
            self._in_turn = True
            self.site.turn.add(self)
        self._corked += data
        if len(self._corked) > MOST_CORKED:
            self._flush()

    def _flush(self) -> None:
        """Write what waits corked."""
        corked = self._corked
        if corked:
            self._corked = b""
            self.written += len(corked)
            self.transport.write(corked)
            if self._in_turn:
                # A peer that takes everything never congests the transport: a coroutine that only sends would keep the loop for ever.
                self._sent_in_turn += len(corked)
                if self._sent_in_turn > MOST_IN_TURN and self.session is not None:
                    self.session.congested = True

    def uncork(self) -> None:
        """The turn of the loop ends in which something was sent."""
        self._flush()
        self._corked = None
        sent, self._sent_in_turn, self._in_turn = self._sent_in_turn, 0, False
        if sent > MOST_IN_TURN and self.session is not None and not self._full:
            self.session.decongest()

    def _finish(self, *, read_on: bool) -> None:
        """Let the transport end once its buffer has left, or at the deadline.

        Args:
            read_on: Whether the peer may still be sending. Then only our half is closed, and what comes is thrown away until the peer
                closes its own: a socket closed with bytes unread sends a reset, which can destroy the answer that is on its way (RFC
                9112 section 9.6).
        """
        self._stage = _Stage.ENDING
        self._forget_input()
        self._flush()
        self._put_deadline(self.site.shutdown.close_timeout)
        transport = self.transport
        transport.unregisterProducer()
        if read_on and not ISSLTransport.providedBy(transport):
            transport.resumeProducing()
            transport.loseWriteConnection()
        else:  # TLS ends with its close_notify, and reads on by itself
            transport.loseConnection()

    def _forget_input(self) -> None:
        """Stop Autobahn, and drop what it and the handshake hold."""
        self.state = self.STATE_CLOSED
        self.failedByMe = True
        self._scanning = False
        self.data = self._early = self._payload = b""
        self._parser = None

    def _internal_error(self) -> None:
        """Something of ours raised: harm nobody else."""
        if self._stage in (_Stage.OPEN, _Stage.CLOSING):
            self._fail(1011, "", Cause.INTERNAL_ERROR)
        else:
            self._answer = (Cause.INTERNAL_ERROR, None, "a fault of this server")
            self.abort()

    def _end_session(self, session: Session, cause: Cause) -> None:
        site = self.site
        session.lost(cause)
        site.registry.remove(session)
        metrics = site.metrics
        assert session.ending is not None  # noqa: S101 - lost has set it
        metrics.closed[session.ending.cause] += 1
        metrics.messages_in += session.messages_in
        metrics.messages_out += session.messages_out
        metrics.octets_in += session.octets_in
        metrics.octets_out += session.octets_out
        metrics.dropped += session.dropped
        site.observer.closed(session, site.clock.seconds() - session.opened_at)

    def _put_deadline(self, seconds: float) -> None:
        """Put the connection's one deadline on the wheel; 0 for none."""
        if seconds:
            self.site.keepalive.wheel.put(self, seconds)
        else:
            self.site.keepalive.wheel.take(self)

    def _set_no_delay(self) -> None:
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)  # what is no TCP takes it and does nothing, or has none
        if set_no_delay is not None:
            set_no_delay(True)


@implementer(IProtocolNegotiationFactory)
class SiteFactory(ServerFactory):
    """Makes a ``ServerProtocol`` of each connection.

    Args:
        site: What they share.
        accepted: Called once per connection.
    """

    noisy = False
    isServer = True  # Autobahn asks its factory
    protocol = ServerProtocol

    def __init__(self, site: Site, accepted: Callable[[], None] = lambda: None) -> None:
        self.site, self._accepted = site, accepted

    def acceptableProtocols(self) -> list[bytes]:
        """Name what is spoken over TLS (ALPN): without an answer Twisted ends the handshake of a client that asks, as browsers do."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> ServerProtocol:  # noqa: ARG002 - Twisted's signature
        """A connection was accepted."""
        self._accepted()
        protocol = self.protocol(self.site)
        protocol.factory = self
        return protocol


def buffered_in(transport: ITransport | None) -> int:
    """Return the bytes that a transport, and those below it, hold for a slow peer.

    Twisted has no public word for it: its producers only hear of two marks.
    """
    octets = 0
    while transport is not None:
        if isinstance(transport, TLSMemoryBIOProtocol):
            octets += sum(map(len, transport._appSendBuffer))  # noqa: SLF001
        elif isinstance(transport, FileDescriptor):
            return octets + len(transport.dataBuffer) - transport.offset + transport._tempDataLen  # noqa: SLF001
        elif hasattr(transport, "get_write_buffer_size"):
            return octets + int(transport.get_write_buffer_size())
        transport = getattr(transport, "transport", None)
    return octets


def _cause_of(reason: Failure) -> Cause:
    kind = reason.type  # not Failure.check, which compares names and takes 1 us
    if kind is not None and issubclass(kind, ConnectionDone):
        return Cause.FIN
    return Cause.TLS_ERROR if kind is not None and issubclass(kind, TLSError) else Cause.RESET


def _host_of(address: IAddress) -> str:
    """The part of an address that its connections share; "" where there is none."""
    return address.host if isinstance(address, (IPv4Address, IPv6Address)) else ""


def _address_text(address: IAddress) -> str:
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, UNIXAddress):
        name = address.name
        return f"unix:{name.decode('utf-8', 'replace')}" if name else "unix"
    return "unknown"
