"""HTTP beside WebSocket: a request that is no upgrade, read and answered through ``twisted.web``. Floor 5.

The connection has read the request head, decided that it is plain, and hands it on with its bytes. Here its body is taken apart, and the
response put together, by Twisted's channel: one ``Channel`` for each exchange. It never sees a second head: what comes behind the
request goes back to the connection, whose parser alone decides what that is.

Laws of this module:

- A request is handled while its body comes; what the application does not take pauses reading.
- A body has a bound and a pace, a response that its peer does not take has a deadline. What is late ends the exchange, and the
  application hears it.
- A response that cannot be completed is never made to look complete: the connection is cut.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twisted.internet.interfaces import IPushProducer, ITransport
from twisted.web import http
from twisted.web.http_headers import Headers
from zope.interface import implementer

from twistedws import config
from twistedws.errors import Cause
from twistedws.exchange import Carrier, Endpoints, taken_of
from twistedws.handshake import BadRequest, Request, check_trailers, connection_tokens, http_date, response

_PIECE = 2048  # bytes of a chunked body that are decoded before the chunks are counted
MOST_CHUNKS = 256  # of some 4 us each, before others have their turn
BODY_STEP = 65536  # bytes of a request body that must come within body_timeout
_DECIDED_HERE = (b"connection", b"transfer-encoding", b"keep-alive")  # how a response is carried

Header = tuple[bytes, bytes]


class _TooLarge(Exception):  # noqa: N818 - caught in this module
    """The request body exceeds its bound."""


class _InOrder(Headers):
    """Response headers in the order in which they were added, as ASGI asks; Twisted's own puts those of one name together."""

    def __init__(self) -> None:
        super().__init__()
        self._pairs: list[Header] = []

    def addRawHeader(self, name: str | bytes, value: str | bytes) -> None:
        """Add one."""
        super().addRawHeader(name, value)
        self._pairs.append((_bytes(name), _bytes(value)))

    def setRawHeaders(self, name: str | bytes, values: Any) -> None:
        """Put some in place of those of the name."""
        super().setRawHeaders(name, values)
        key = _bytes(name).lower()
        self._pairs = [pair for pair in self._pairs if pair[0].lower() != key] + [(key, _bytes(value)) for value in values]

    def getAllRawHeaders(self) -> Iterator[tuple[bytes, Sequence[bytes]]]:
        """Return them as they are to be written."""
        return ((name, (value,)) for name, value in self._pairs)


def _bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


class StreamedRequest(http.Request):
    """A request whose body is handed on while it comes, with bounds, and the response to it. To be subclassed.

    Args:
        channel: The exchange.

    Attributes:
        exchange: The same; Twisted's ``channel`` goes away with the end of the response.
        is_head: Whether the response has no body, whatever it says of it.
        length: Bytes of the response's body that are still to come; None for any.
        awaits_body: Whether the body is wanted before anything is answered.
    """

    awaits_body = False
    channel: Channel

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self.responseHeaders = _InOrder()
        self.exchange = channel
        self.is_head = channel.head.method.upper() == "HEAD"
        self.length: int | None = None

    # Twisted's channel

    def gotLength(self, length: int | None) -> None:  # noqa: ARG002 - Twisted's signature
        """Twisted's channel: the head is complete."""
        self.clientproto = b"HTTP/" + self.channel.head.version.encode()
        self.method, self.uri = self.channel.head.method.upper().encode(), self.channel.head.target.encode()
        self.begin()

    def parseCookies(self) -> None:
        """Twisted's channel: nothing is taken from the head here."""

    def handleContentChunk(self, data: bytes) -> None:
        """Twisted's channel: a piece of the body."""
        self.channel.count(len(data))
        self.body(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:  # noqa: ARG002 - Twisted's signature
        """Twisted's channel: the body is complete."""
        self.end_of_body()

    # The subclass's part

    def begin(self) -> None:
        """Start to handle the request; its body is still to come."""
        raise NotImplementedError

    def body(self, data: bytes) -> None:
        """Take a piece of the body."""
        raise NotImplementedError

    def end_of_body(self) -> None:
        """The body is complete."""
        raise NotImplementedError

    # The response

    def put_head(self, status: int, headers: Sequence[Header], by: str, reason: bytes | None = None) -> None:
        """Note the head of the response, which leaves with the first of its body.

        Args:
            status: 200 to 599.
            headers: Pairs that can be sent. How the response is carried is decided here, but for its Content-Length.
            by: What of the application's says so, for an error.
            reason: The reason phrase; None for the status's own.

        Raises:
            ValueError: The Content-Length is none.
        """
        lengths = [value for name, value in headers if name.lower() == b"content-length"]
        if len(lengths) > 1 or not all(value.isdigit() for value in lengths):
            raise ValueError(f"{by}: content-length: {lengths!r}: one decimal number is accepted")
        self.setResponseCode(status, reason or None)
        has_body = status not in http.NO_BODY_CODES and not self.is_head
        for name, value in headers:
            lower = name.lower()
            if lower in _DECIDED_HERE:
                if lower == b"connection" and b"close" in value.lower():
                    self.exchange.persistent = False
                continue
            if lower == b"content-length":
                if status == 204:  # RFC 9110 section 8.6
                    continue
                self.length = int(value) if has_body else None
            self.responseHeaders.addRawHeader(name, value)
        if not self.responseHeaders.hasHeader(b"date"):
            self.responseHeaders.addRawHeader(b"date", date())

    def put_body(self, body: bytes, by: str, *, is_last: bool) -> None:
        """Send a piece of the response's body, behind its head if it is the first.

        Args:
            body: The piece.
            by: What of the application's says so, for an error.
            is_last: Whether the response is complete with it.

        Raises:
            ValueError: It is longer than the Content-Length, or the last and shorter.
        """
        if self.length is not None:
            left = self.length - len(body)
            if left < 0:
                raise ValueError(f"{by}: {-left} bytes more than the Content-Length of this response")
            if is_last and left:
                raise ValueError(f"{by}: {left} bytes fewer than the Content-Length of this response")
            self.length = left
        if not self.startedWriting:
            if is_last and self.may_say_length and (body or not self.is_head):
                self.responseHeaders.addRawHeader(b"content-length", b"%d" % len(body))
            self._settle_persistence(is_last=is_last)
        self.write(body)
        if is_last:
            self.unregisterProducer()
            self.finish()

    @property
    def may_say_length(self) -> bool:
        """Whether the length of the body is to be said, and the application has not."""
        return self.code not in http.NO_BODY_CODES and not self.responseHeaders.hasHeader(b"content-length")

    @property
    def says_its_end(self) -> bool:
        """Whether the client can tell that a response is incomplete when the connection ends."""
        return bool(self.chunked) or self.responseHeaders.hasHeader(b"content-length")

    def _settle_persistence(self, *, is_last: bool) -> None:
        """Say in the head whether the connection goes on: not if the response is complete before the request is."""
        exchange = self.exchange
        if is_last and not exchange.body_ended:
            exchange.persistent = False
        if exchange.head.version == "1.1" and not exchange.persistent:
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])


class Channel(http.HTTPChannel):
    """One exchange, as ``twisted.web`` knows it and as the connection knows it.

    Args:
        carrier: The connection.
        head: The request.
        endpoints: Who has sent it.
        settings: Bounds of a body.
        stall_timeout: Seconds in which a peer must take some of the response; 0 for any time.
        request: Makes Twisted's request.
    """

    totalHeadersSize = MAX_LENGTH = 2**24  # the head is bounded already, by the connection's parser
    maxHeaders = 2**24
    factory = None
    persistent: bool  # Twisted has an int

    def __init__(
        self,
        carrier: Carrier,
        head: Request,
        endpoints: Endpoints,
        settings: config.Http,
        stall_timeout: float,
        request: Callable[[Channel], http.Request],
    ) -> None:
        super().__init__()
        self.head, self.endpoints = head, endpoints
        self.awaits_continue = False  # the peer sends no body before it is told to (RFC 9110 section 10.1.1)
        self._make_request = request
        self._carrier, self._settings, self._stall_timeout = carrier, settings, stall_timeout
        self._octets = 0  # of the body, so far
        self._chunks = 0  # in this turn of the loop
        self._behind = b""  # what was read behind the part of it that is looked at
        self._step = BODY_STEP
        self._is_full = self._is_held = self._body_ended = self._is_over = self._is_last = False
        self._taken = 0  # of what was written, when the deadline for it was put

    @property
    def progress(self) -> tuple[int, int]:
        """The status of the response and the bytes of its body so far; 0 and 0 before it has begun."""
        for request in self.requests:
            if request.startedWriting:
                return request.code, request.sentLength
        return 0, 0

    @property
    def held(self) -> bool:
        """Whether reading is paused."""
        return self._is_held

    # The connection's side: Exchange

    def begin(self, head: bytes) -> None:
        """Begin with the request head as it came."""
        length = next((value for name, value in self.head.headers if name == b"content-length"), None)
        self.makeConnection(_Transport(self, self._carrier))
        if length is not None and int(length) > self._settings.max_body_size > 0:
            self.fail(413, "The request body is too large.")
            return
        self._arm()
        # Of the version Twisted knows what we know of it, and no higher 1.x; ours has made it one of two.
        method, target = self.head.method.encode(), self.head.target.encode()
        self.dataReceived(b"%b %b HTTP/%b%b" % (method, target, self.head.version.encode(), head[head.index(b"\r\n") :]))

    def received(self, data: bytes) -> None:
        """Bytes of the body, or behind it, have come."""
        if self._is_over:
            return
        try:
            if self._body_ended or any(name == b"content-length" for name, _ in self.head.headers):
                self.dataReceived(data)
            else:
                self._receive_chunks(data)
        except _TooLarge:
            self.fail(413, "The request body is too large.")

    def _receive_chunks(self, data: bytes) -> None:
        """Take chunks, of which there may be ten thousand in 64 KiB, in parts; leave what is too much for one turn to the next."""
        self._chunks = 0
        self._behind = data
        while self._behind and not self._is_over:
            piece, self._behind = self._behind[:_PIECE], self._behind[_PIECE:]
            self.dataReceived(piece)
            if self._chunks > MOST_CHUNKS and self._behind and not self._is_over:
                behind, self._behind = self._behind, b""
                self._carrier.put_back(behind)

    def congested(self) -> None:
        """The peer takes less than it is sent."""
        self._is_full = True
        self._arm()
        if self._requestProducer is not None:
            self._requestProducer.pauseProducing()

    def decongested(self) -> None:
        """It has taken all of it."""
        self._is_full = False
        self._arm()
        if self._requestProducer is not None:
            self._requestProducer.resumeProducing()

    def expired(self) -> None:
        """The deadline has come: of a response that is not taken, or of a body that does not come."""
        if self._is_full:
            taken = taken_of(self._carrier)
            if taken > self._taken:
                self._arm()
            else:
                self._carrier.cut(Cause.WRITE_STALL)
        else:
            self.fail(408, "The request body took too long.", Cause.REQUEST_TIMEOUT)

    def shut(self) -> None:
        """The server goes away."""
        self._is_last = True
        if self.requests:
            self.persistent = False

    def lost(self) -> None:
        """The connection has gone."""
        if not self._is_over:
            self._is_over = True
            self._let_go()

    def requestFactory(self, channel: Channel, queued: object) -> http.Request:  # type: ignore[override]  # noqa: ARG002 - Twisted's call
        """Twisted's channel: make its request."""
        return self._make_request(channel)

    # The request's side

    @property
    def body_ended(self) -> bool:
        """Whether the whole request has come."""
        return self._body_ended

    @property
    def is_full(self) -> bool:
        """Whether the peer takes less than it is sent."""
        return self._is_full

    def count(self, octets: int) -> None:
        """Count bytes of the body, before they are used."""
        self._octets += octets
        self._chunks += 1
        if self._octets > self._settings.max_body_size > 0:
            raise _TooLarge
        if self._octets >= self._step:
            self._step = self._octets + BODY_STEP
            self._arm()

    def hold(self) -> None:
        """Read no more of the body until ``release``."""
        if not self._is_held and not self._is_over:
            self._is_held = True
            self._carrier.pause()
            self._arm()

    def release(self) -> None:
        """Read on."""
        if self._is_held:
            self._is_held = False
            if not self._is_over:
                self._step = self._octets + BODY_STEP
                self._arm()
                self._carrier.resume()

    def proceed(self) -> None:
        """The body is wanted: tell a peer that waits to be told (RFC 9110 section 10.1.1)."""
        if self.awaits_continue and not self._is_over:
            self.awaits_continue = False
            if not self._octets and not self._body_ended and not self._has_begun:
                self._carrier.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._arm()

    def fail_application(self) -> None:
        """End the exchange for something that the application did wrong."""
        self.fail(500, "internal server error", Cause.APPLICATION_ERROR)

    def fail(self, status: int, text: str, cause: Cause = Cause.PROTOCOL_ERROR) -> None:
        """End the exchange: with an answer if none has begun, else by cutting it, for a cause; by default something of the peer's."""
        if self._is_over:
            return
        if self._has_begun:
            self._is_over = True
            # What has been sent may leave, unless its end would make it look complete (RFC 9112 section 8).
            self._carrier.cut(cause, at_once=not any(request.says_its_end for request in self.requests))
            self._let_go()
            return
        self._carrier.write(response(status, (), text, now=time.time(), head_only=self.head.method.upper() == "HEAD"))
        self._end(status, len(text), b"", persistent=False)
        self._let_go()

    # Twisted's side

    def lineReceived(self, line: bytes) -> None:
        """A line of the head; none is looked at any more once the exchange is over."""
        if not self._is_over:
            super().lineReceived(line)

    def _finishRequestBody(self, data: bytes) -> None:
        """The body is complete, chunked or not; the decoder of chunks leaves what follows it unchecked."""
        try:
            check_trailers(getattr(self._transferDecoder, "_trailerHeaders", ()))
        except BadRequest as bad:
            self.fail(bad.status, bad.text)
            return
        super()._finishRequestBody(data)

    def allContentReceived(self) -> None:
        """The request is complete."""
        self._body_ended = True
        self._arm()
        super().allContentReceived()

    def checkPersistence(self, request: http.Request, version: bytes) -> bool:  # noqa: ARG002 - Twisted's signature
        """Say whether the connection may go on; decided from our own parser's head. Until it is asked, Twisted must think that it may."""
        return self._may_persist()

    def requestDone(self, request: http.Request) -> None:
        """The response is complete."""
        self.requests.remove(request)
        rest = b"".join([*self._dataBuffer, self._behind])
        self._behind = b""
        # A body that is still coming is not awaited: whoever answers early may have reason to.
        self._end(request.code, request.sentLength, rest, persistent=self.persistent and self._body_ended)

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.fail(400, "The request body is not as the request head says.")

    def _send100Continue(self) -> None:
        self.awaits_continue = True  # sent once the application asks for the body; see ``proceed``
        if any(request.awaits_body for request in self.requests):
            self.proceed()

    # Inside

    def _let_go(self) -> None:
        """Tell the request that nobody takes its response any more."""
        for request in self.requests:
            request.connectionLost(None)

    @property
    def _has_begun(self) -> bool:
        """Whether something of the response is out."""
        return any(request.startedWriting for request in self.requests)

    def _may_persist(self) -> bool:
        """RFC 9112 section 9.3. An HTTP/1.0 client's ``keep-alive`` is not taken up, as the section allows: proxies pass it on wrongly."""
        return not self._is_last and self.head.version == "1.1" and b"close" not in connection_tokens(self.head)

    def _arm(self) -> None:
        """Put the deadline that holds now."""
        if self._is_over:
            return
        if self._is_full:
            self._taken = taken_of(self._carrier)
            self._carrier.put_deadline(self._stall_timeout)
        elif self._body_ended or self._is_held or self.awaits_continue:
            self._carrier.put_deadline(0)
        else:
            self._carrier.put_deadline(self._settings.body_timeout)

    def _end(self, status: int, octets: int, rest: bytes, *, persistent: bool) -> None:
        self._is_over, self._is_held = True, False
        self._dataBuffer = []
        self.transport = None  # a cycle, which would wait for the collector
        self._networkProducer: Any = None
        self._carrier.answered(status, octets, rest, persistent=persistent)


@implementer(ITransport, IPushProducer)
class _Transport:
    """The connection, as Twisted's channel knows its transport."""

    disconnecting = False

    def __init__(self, channel: Channel, carrier: Carrier) -> None:
        self._channel, self._carrier = channel, carrier
        self.write = carrier.write

    def writeSequence(self, data: Any) -> None:
        """Write several pieces."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Nothing: ``Channel`` sees to the end."""

    def getPeer(self) -> Any:
        """Return the transport's."""
        return self._carrier.transport.getPeer()

    def getHost(self) -> Any:
        """Return the transport's."""
        return self._carrier.transport.getHost()

    def pauseProducing(self) -> None:
        """Read no more in this exchange: more is pipelined behind it than is kept."""
        self._channel.hold()

    def resumeProducing(self) -> None:
        """Nothing: the end of the exchange sees to it."""

    def stopProducing(self) -> None:
        """Nothing: ``Channel`` sees to the end."""

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Nothing: the connection tells ``Channel`` of backpressure."""

    def unregisterProducer(self) -> None:
        """Nothing, likewise."""


def date() -> bytes:
    """Return the Date field of a response (RFC 9110 section 6.6.1)."""
    return http_date(time.time()).encode()
