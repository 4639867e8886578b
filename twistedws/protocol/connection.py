"""A connection: Twisted's side, the way in, the session's side (its ``Wire``) and the end; and the factory that makes it of each accept.

The opening handshake is in ``opening.py``, what Autobahn parses becomes messages in ``messages.py``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from autobahn.websocket.utf8validator import Utf8Validator
from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory, IPushProducer, ISSLTransport
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twistedws.errors import Cause
from twistedws.exchange import Endpoints
from twistedws.frames import COMPRESSED, MAX_CONTROL_PAYLOAD, PING, PONG, SHORT_HEADS, U64, apply_mask, close_frame, frame, is_close_code
from twistedws.protocol.deflate import BoundedDeflate
from twistedws.protocol.messages import MessageAssembly
from twistedws.protocol.opening import Opening
from twistedws.protocol.site import Site
from twistedws.protocol.transports import address_text, buffered_in, cause_of, unacknowledged_in
from twistedws.session import Framed, Handler, Phase, Session

_log = Logger()

MOST_CORKED = 16384  # bytes that wait for the end of a read or a turn of the loop; what is more is written at once
MUCH = 65536  # bytes of short frames that are looked at in one turn of the loop; after so many of any, others have their turn
MOST_SLOW_FRAMES = 256  # through Autobahn, of some 25 us each, before others have their turn


class _Stage(enum.IntEnum):
    """Where a connection is; in brackets what its deadline is for."""

    OPENING = 0  # plain requests (theirs), and the opening handshake: its head, then the application's decision (handshake_timeout)
    OPEN = 1  # messages go both ways (the keepalive's)
    CLOSING = 2  # our close frame is out, the peer's is awaited (close_timeout)
    ENDING = 3  # nothing is read any more; the transport ends (close_timeout)
    LOST = 4  # the transport has gone


@implementer(IPushProducer)
class ServerProtocol(MessageAssembly):
    """One connection, from accept to its end; the ``Wire`` of its session."""

    _slow_frames = 0  # taken since the last time that something was put off for them
    _pong_due: bytes | None = None

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.due = -1
        self.received = self.written = 0
        self._unread = b""  # what was read and is put off until the next turn of the loop; reading is paused meanwhile
        self._corked: bytes | None = None  # what leaves together: not None while a read is looked at, or until the turn ends
        self._stage = _Stage.OPENING
        self._opening: Opening | None = Opening(self)  # until it is open
        self._address: str | None = None  # that it is counted by

    # Twisted's side: the connection begins, brings bytes, ends

    def connectionMade(self) -> None:
        """The transport is there."""
        self.site.registry.connected(self)
        self._set_no_delay()
        if self._opening is not None:
            self._opening.begin()

    def dataReceived(self, data: bytes) -> None:  # noqa: C901 - see below
        """Bytes have come: the hot path, from the transport to the handler and back.

        Whole messages, each one final, masked, uncompressed frame of text or binary data, are taken straight from what was read.
        Whatever else a frame is, and a frame that is not all there, is Autobahn's, at exactly this place. What is sent meanwhile leaves
        in one write.
        """
        # One function, on purpose. With the scan as a function that returns a list, and the session's part as another, a message of 64
        # bytes costs 0.22 us more of Python, of some 5 us in all (16 in a read: 0.02 us).
        size = len(data)
        self.received += size
        if size >= MUCH or self._unread:
            data = self._first_of_much(data)
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
                    if end > size or length < 0 or 0 < most < length or (first != 0x81 and first != 0x82):
                        break
                    message: str | bytes = apply_mask(data[payload_at:end], data[payload_at - 4 : payload_at])
                    if first == 0x81:
                        try:
                            message = message.decode()  # type: ignore[union-attr]  # bytes, so far
                        except UnicodeDecodeError:
                            break
                    start = end
                    if rate is not None and not self._may_speak(rate):
                        return
                    session.messages_in += 1
                    session.octets_in += length
                    try:
                        session.handler.received(session, message)
                    except BaseException:
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

    def _first_of_much(self, data: bytes) -> bytes:
        """Pause reading for a turn, and return what is to be looked at in this one.

        Else one peer keeps the loop: libuv reads a socket up to 32 times in a turn (stream.c:uv__read), uvloop up to 250 KiB each time.
        """
        if not (self.listening or self._stage is _Stage.OPENING):
            return data  # it is thrown away, and reading must go on; see ``_finish``
        if self._unread:  # TLS may bring more though reading is paused
            self._unread += data
            return b""
        if len(data) > MUCH and data[1] & 0x7F < 126:  # short frames: there are thousands of them
            data, self._unread = data[:MUCH], data[MUCH:]
        self._put_off()
        return data

    def _put_off(self) -> None:
        self.transport.pauseProducing()
        self.soon(self._read_on)

    def _read_on(self) -> None:
        """The next turn: look at what was put off, then read on, unless the session has paused reading meanwhile."""
        if not self._reads:
            return
        rest, self._unread = self._unread, b""
        if rest:
            self.received -= len(rest)  # they are counted already
            self.dataReceived(rest)
        if not self._unread and self._reads:
            self.transport.resumeProducing()

    @property
    def _reads(self) -> bool:
        """Whether what the peer sends is wanted now."""
        if self._opening is not None:
            return self._stage is _Stage.OPENING and not self._opening.is_full
        return self.listening and self.session is not None and not self.session.held

    def _receive_otherwise(self, data: bytes) -> bytes:
        """Take what is not to be scanned yet, or any more; return what is to be scanned after all."""
        if self._opening is not None:
            return self._opening.receive(data) if self._stage is _Stage.OPENING else b""
        return self._consume(self.data + data) if self.listening else b""

    def _consume(self, data: bytes) -> bytes:
        """Let Autobahn take what the scan cannot, step by step, until it is between two messages again; return what is left then."""
        self._scanning = False
        self._slow_frames += 1
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
            if self.current_frame is not None:
                continue
            self._slow_frames += 1
            if self._slow_frames > MOST_SLOW_FRAMES:
                self._slow_frames = 0
                self._unread, self.data = self.data + self._unread, b""
                self._put_off()
                break
            if not self.inside_message:
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
        self.leave()
        opening = self._opening
        if opening is not None:
            opening.lost(cause_of(reason))
        if stage is not _Stage.ENDING:
            self._forget_input()
        self._corked = None
        self._perMessageCompress = None
        if session is not None and session.phase > Phase.CONNECTING:
            self._end_session(session, cause_of(reason))
        elif stage is not _Stage.LOST:
            refusal = None if opening is None else opening.refusal
            cause, status, why = refusal or (cause_of(reason), None, "the peer went away before the handshake was done")
            if cause is not None:
                site.metrics.refused[cause] += 1
            site.observer.refused(self.peer, cause, status, why)
        self.session = self._opening = None

    def expired(self) -> None:
        """The wheel: this connection's deadline has come."""
        if self._stage is _Stage.OPEN and self.session is not None:
            self.site.keepalive.sweep(self, self.session)
        elif self._stage is _Stage.OPENING and self._opening is not None:
            self._opening.expired()
        else:
            self.abort()

    def shut(self, *, at_once: bool) -> None:
        """The registry: no session will come of this connection any more."""
        if self._stage is _Stage.OPENING and self._opening is not None:
            self._opening.shut(at_once=at_once)

    @property
    def peer(self) -> str:
        """The client's address as text; behind a PROXY protocol endpoint known once its header has come."""
        if self.session is not None:
            return self.session.peer
        if self._opening is not None and self._opening.peer is not None:
            return self._opening.peer
        return "unknown" if self.transport is None else address_text(self.transport.getPeer())

    # The transport's side: IPushProducer

    def pauseProducing(self) -> None:
        """The transport's buffer is over its high-water mark."""
        if self._stage is _Stage.OPEN and self.session is not None:
            self.session.congest()
            self.site.keepalive.watch(self, self.session)
        elif self._opening is not None:
            self._opening.congest()

    def resumeProducing(self) -> None:
        """The transport's buffer has left."""
        if self._stage is _Stage.OPEN and self.session is not None:
            if self._pong_due is not None:
                self.write(frame(PONG, self._pong_due))
                self._pong_due = None
            self.session.decongest()
        elif self._opening is not None:
            self._opening.decongest()

    def stopProducing(self) -> None:
        """The transport has gone; ``connectionLost`` follows."""

    # The opening handshake's side

    @property
    def is_opening(self) -> bool:
        """Whether it is still to be decided what becomes of this connection."""
        return self._stage is _Stage.OPENING

    def enter(self, address: str) -> int:
        """Count it among the connections from an address, until it ends or enters another; return how many there are now."""
        self.leave()
        self._address = address
        return self.site.registry.enter(address)

    def leave(self) -> None:
        """Count it no more among the connections from an address."""
        if self._address is not None:
            self.site.registry.leave(self._address)
            self._address = None

    def refuse(self, answer: bytes) -> None:
        """Answer with something other than 101, if anything, and end."""
        if self._stage is _Stage.OPENING:
            if answer:
                self.write(answer)
            self._finish(read_on=True)

    def heard(self) -> None:
        """The first bytes have come. Not before: with a producer, the end that a PROXY protocol wrapper asks for would wait for it."""
        self.transport.registerProducer(self, True)

    def hang_up(self) -> None:
        """End between two requests, once what was answered has left."""
        if self._stage is _Stage.OPENING:
            self._finish(read_on=False)

    def put_back(self, data: bytes) -> None:
        """Have bytes looked at in a coming turn of the loop, before any others, and read on then."""
        self._unread = data + self._unread
        self._put_off()

    def answered(self, status: int, octets: int, rest: bytes, *, persistent: bool) -> None:
        """An exchange is over."""
        if self._opening is not None:
            self._opening.answered(status, octets, rest, persistent=persistent)

    def cut(self, cause: Cause, *, at_once: bool = True) -> None:
        """End in the middle of an exchange."""
        if self._opening is not None:
            self._opening.refusal = (cause, None, "cut in the middle of an answer")
        if at_once:
            self.abort()
        elif self._stage is _Stage.OPENING:
            self._finish(read_on=True)

    def endpoints(self) -> Endpoints:
        """Return both ends of the connection, while its session is connecting."""
        if self._opening is None:
            raise RuntimeError("the ends of a connection are known until its session is open")
        return self._opening.endpoints()

    def open(self, session: Session, handler: Handler, answer: bytes, deflate: BoundedDeflate | None, *, paused: bool) -> None:
        """Answer with 101, and open the session.

        Args:
            session: What was admitted.
            handler: What the application made for it.
            answer: The response.
            deflate: The codec agreed on, if any.
            paused: Whether reading was paused meanwhile.
        """
        self.session = session
        self.write(answer)
        is_congested = self._opening is not None and self._opening.congested  # by the answer to an earlier, plain request
        self._opening = None
        self._adopt(deflate)
        self._stage = _Stage.OPEN
        site = self.site
        site.registry.add(session)
        site.metrics.opened += 1
        site.keepalive.begin(self, session)
        site.observer.opened(session)
        if paused:
            self.resume()
        session.open(handler, site.clock.seconds())
        if is_congested:
            self.pauseProducing()

    def put_deadline(self, seconds: float) -> None:
        """Put the connection's one deadline on the wheel; 0 for none."""
        if seconds:
            self.site.keepalive.wheel.put(self, seconds)
        else:
            self.site.keepalive.wheel.take(self)

    # Autobahn's side: control frames

    def _onPing(self, payload: bytes) -> None:
        if self._stage is not _Stage.OPEN or not self._may_control():
            return
        if self.session is not None and self.session.congested:
            self._pong_due = payload  # section 5.5.3: the most recent ping alone may be answered; no queue of pongs
        else:
            self.write(frame(PONG, payload))

    def _onPong(self, payload: bytes) -> None:
        if self._stage is _Stage.OPEN and self.session is not None and not self.site.keepalive.pong(self.session, payload):
            self._may_control()

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
            self.write(close_frame(code))  # section 5.5.1: typically echoes the status code
        if self.session is not None:
            self.session.peer_closed(code, reason)
        self._finish(read_on=False)
        return True

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
        if corked is not None and len(corked) + len(framed) <= MOST_CORKED:
            self._corked = corked + framed if corked else framed
        else:
            self.write(framed)

    def send_framed(self, message: Framed) -> None:
        """Send a message that is framed already: at once, since there is one for each of many sessions."""
        if self._corked is None and self._perMessageCompress is None:
            self.written += len(message.frame)
            self.transport.write(message.frame)
        elif self._perMessageCompress is None:
            self.write(message.frame)
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
            self.write(frame(PING, payload))

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and await the peer's."""
        if self._stage is _Stage.OPEN:
            self.write(close_frame(code, reason))
            self._stage = _Stage.CLOSING
            self.state = self.STATE_CLOSING
            self.put_deadline(self.site.shutdown.close_timeout)

    def fail(self, code: int, reason: str) -> None:
        """Send a close frame, unless one is out, and look at nothing more."""
        if self._stage is _Stage.OPEN:
            self.write(close_frame(code, reason))
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
        if self._unread:
            self.soon(self._read_on)
        elif self._stage is not _Stage.LOST:
            self.transport.resumeProducing()

    def buffered(self) -> int:
        """Return the bytes written that the operating system has not taken yet."""
        self._flush()
        return 0 if self._stage is _Stage.LOST else buffered_in(self.transport)

    def unacknowledged(self) -> int:
        """Return the bytes that the operating system has taken and the peer's has not; 0 where it does not tell."""
        return 0 if self._stage is _Stage.LOST else unacknowledged_in(self.transport)

    # Inside

    def write(self, data: bytes) -> None:
        """Write with what else is sent while one read is looked at, or in one turn of the loop; see ``_corked``."""
        if self._corked is None:
            if self.site.turn is None:
                self.written += len(data)
                self.transport.write(data)
                return
            self._corked = b""
            self.site.turn.add(self)
        if len(self._corked) + len(data) <= MOST_CORKED:
            self._corked += data
        else:  # at once, and uncopied
            self._flush()
            self.written += len(data)
            self.transport.write(data)

    def _flush(self) -> None:
        """Write what waits corked."""
        corked = self._corked
        if corked:
            self._corked = b""
            self.written += len(corked)
            self.transport.write(corked)

    def uncork(self) -> None:
        """The turn of the loop ends in which something was sent."""
        self._flush()
        self._corked = None

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
        self.put_deadline(self.site.shutdown.close_timeout)
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
        self.data = self._payload = self._unread = b""
        if self._opening is not None:
            self._opening.forget()

    def _internal_error(self) -> None:
        """Something of ours raised: harm nobody else."""
        if self._stage in (_Stage.OPEN, _Stage.CLOSING):
            self._fail(1011, "", Cause.INTERNAL_ERROR)
        else:
            if self._opening is not None:
                self._opening.refusal = (Cause.INTERNAL_ERROR, None, "a fault of this server")
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

    def _set_no_delay(self) -> None:
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)  # what is no TCP takes it and does nothing, or has none
        if set_no_delay is not None:
            set_no_delay(True)


@implementer(IProtocolNegotiationFactory)
class SiteFactory(ServerFactory):
    """Makes a ``ServerProtocol`` of each connection.

    Args:
        site: What they share.
        accepted: Called once per connection; whether it is to be served, or is one of too many at once.
    """

    noisy = False
    isServer = True  # Autobahn asks its factory
    protocol = ServerProtocol

    def __init__(self, site: Site, accepted: Callable[[], bool] = lambda: True) -> None:
        self.site, self._accepted = site, accepted

    def acceptableProtocols(self) -> list[bytes]:
        """Name what is spoken over TLS (ALPN): without an answer Twisted ends the handshake of a client that asks, as browsers do."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> ServerProtocol:
        """A connection was accepted."""
        is_served = self._accepted()
        protocol = self.protocol(self.site)
        protocol.factory = self
        opening = protocol._opening  # noqa: SLF001 - its own
        if opening is not None:
            opening.address = addr
            if not is_served:
                opening.is_surplus = True
        return protocol
