"""A plain request as an ASGI application sees it (WWW specification, "HTTP"). Floor 6.

Laws of this module:

- The body comes while the application takes it; what it does not take pauses reading.
- Nothing of the response is sent before its first body message, so that an application that raises until then is answered with 500.
- What the application says of its response's length holds: more is refused, less cuts the connection.
"""

from __future__ import annotations

import asyncio
import enum
from typing import IO, Any

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from twistedws import config
from twistedws.errors import Disconnected
from twistedws.exchange import Answerer, Carrier, Endpoints, Exchange
from twistedws.gateway.asgi.scope import Event, Hosted, checked_body, checked_headers, checked_status, described
from twistedws.gateway.asgi.websocket import is_disconnected
from twistedws.gateway.pump import MESSAGE_OVERHEAD, SHARE, wake
from twistedws.handshake import Request
from twistedws.http import Channel, StreamedRequest

_log = Logger()

_FILE_PIECE = 65536
_FAREWELLS = 16  # disconnects that come as fast as they are asked for: frameworks ask in several places; a loop may ask for ever


def answerer(hosted: Hosted, settings: config.Http, stall_timeout: float) -> Answerer:
    """Return what answers a plain request by the application."""

    def answer(carrier: Carrier, head: Request, endpoints: Endpoints) -> Exchange:
        return Channel(carrier, head, endpoints, settings, stall_timeout, lambda channel: HttpRequest(channel, hosted))

    return answer


class _Stage(enum.IntEnum):
    """What the application has sent."""

    NOTHING = 0
    STARTED = 1  # the head of the response, which waits here
    SENDING = 2  # some of its body
    FILE = 3  # its body is being sent from a file
    COMPLETE = 4


_ACCEPTS = {
    _Stage.NOTHING: "http.response.start is accepted",
    _Stage.STARTED: "http.response.body or http.response.pathsend is accepted",
    _Stage.SENDING: "http.response.body is accepted",
    _Stage.FILE: "nothing is accepted while a file is sent",
    _Stage.COMPLETE: "nothing is accepted after a complete response",
}


@implementer(IPushProducer)
class HttpRequest(StreamedRequest):
    """One request: Twisted's, and what the application calls: ``receive`` and ``send``."""

    def __init__(self, channel: Channel, hosted: Hosted) -> None:
        super().__init__(channel)
        self._hosted = hosted
        self._stage = _Stage.NOTHING
        self._pieces: list[bytes] = []  # of the body, not received by the application yet
        self._waiting_octets = 0
        self._has_whole_body = self._is_gone = False
        self._body_received = False  # by the application, to its end
        self._farewells = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None

    # Twisted's side

    def begin(self) -> None:
        """The head is complete: start the application."""
        head = self.exchange.head
        self.registerProducer(self, True)
        self._task = self._hosted.tasks.start(self._run(), f"request {head.method} {head.path}")

    def body(self, data: bytes) -> None:
        """A piece of the body has come."""
        self._pieces.append(data)
        self._waiting_octets += len(data) + MESSAGE_OVERHEAD
        if self._waiting_octets > self._hosted.inbox_size > 0:
            self.exchange.hold()
        self._wake()

    def end_of_body(self) -> None:
        """The body is complete."""
        self._has_whole_body = True
        self._wake()

    def connectionLost(self, reason: object) -> None:  # noqa: ARG002 - Twisted's signature
        """The connection has gone, or the exchange was ended."""
        self._is_gone = True
        self._pieces.clear()
        self.producer = None
        self._wake()
        if self._task is not None and self._stage is not _Stage.COMPLETE:
            head = self.exchange.head
            self._hosted.tasks.limit(self._task, f"{head.method} {head.path}")

    def pauseProducing(self) -> None:
        """The peer takes less than it is sent: ``send`` looks at the channel."""

    def resumeProducing(self) -> None:
        """It has taken all."""
        self._wake()

    def stopProducing(self) -> None:
        """The connection goes: ``connectionLost`` follows."""

    # What the application calls

    async def receive(self) -> Event:
        """Wait for the next event: the request's body in pieces, then disconnect, for ever."""
        self.exchange.proceed()
        while True:
            if self._is_gone or self._stage is _Stage.COMPLETE:
                self._farewells += 1
                await asyncio.sleep(0 if self._farewells < _FAREWELLS else 1)
                return {"type": "http.disconnect"}
            if self._pieces or (self._has_whole_body and not self._body_received):
                body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
                self._pieces.clear()
                self._waiting_octets = 0
                self._body_received = self._has_whole_body
                self.exchange.release()
                return {"type": "http.request", "body": body, "more_body": not self._body_received}
            await self._wait()

    async def send(self, event: Event) -> None:
        """Send the head of the response, or a piece of its body.

        Raises:
            Disconnected: The peer has gone.
            RuntimeError: The message is out of order.
            TypeError: A value is of the wrong type.
            ValueError: A value cannot be sent, or the body is longer than its Content-Length.
        """
        kind = event["type"] if isinstance(event, dict) and "type" in event else None
        stage = self._stage
        if self._is_gone:
            await asyncio.sleep(0)  # what follows raises, and a loop may take no notice of it
        if stage is _Stage.COMPLETE and kind in ("http.response.start", "http.response.body", "http.response.pathsend"):
            return  # as the specification asks: a response that is complete is followed by nothing
        if stage is _Stage.NOTHING and kind == "http.response.start":
            self._check_peer()
            self.put_head(checked_status(event), checked_headers(event), "http.response.start")
            self._stage = _Stage.STARTED
        elif stage in (_Stage.STARTED, _Stage.SENDING) and kind == "http.response.body":
            self._check_peer()
            await self._send_body(checked_body(event), is_last=not event.get("more_body", False))
        elif stage is _Stage.STARTED and kind == "http.response.pathsend":
            self._check_peer()
            await self._send_file(event.get("path"))
        else:
            raise RuntimeError(f"ASGI message {described(event)}: {_ACCEPTS[stage]}")

    # Inside

    async def _send_body(self, body: bytes, *, is_last: bool) -> None:
        self.put_body(body, "http.response.body", is_last=is_last)
        if is_last:
            self._stage = _Stage.COMPLETE
            self._wake()
            return
        if self._stage is _Stage.STARTED:
            self._stage = _Stage.SENDING
        share = self._hosted.share
        share.spent += MESSAGE_OVERHEAD + len(body)
        if share.spent > SHARE:
            share.spent = 0
            await asyncio.sleep(0)
        while self.exchange.is_full and not self._is_gone:
            await self._wait()
        self._check_peer()

    async def _send_file(self, path: object) -> None:
        """Send a file's content (ASGI's "Path Send" extension)."""
        if not isinstance(path, str):
            raise TypeError(f"http.response.pathsend: path: {type(path).__name__}: str is accepted")
        file = await asyncio.to_thread(open, path, "rb")
        try:
            if self._stage is not _Stage.STARTED:
                raise RuntimeError("ASGI message 'http.response.pathsend': another task has sent a body meanwhile")
            self._stage = _Stage.FILE
            if self.may_say_length:
                await self._measure(file)
            while piece := await asyncio.to_thread(file.read, _FILE_PIECE):
                self._check_peer()
                await self._send_body(piece, is_last=False)
            self._check_peer()
            await self._send_body(b"", is_last=True)
        finally:
            file.close()

    async def _measure(self, file: IO[bytes]) -> None:
        size = await asyncio.to_thread(file.seek, 0, 2)
        await asyncio.to_thread(file.seek, 0)
        self.responseHeaders.addRawHeader(b"content-length", b"%d" % size)
        if not self.is_head:
            self.length = size

    def _check_peer(self) -> None:
        if self._is_gone:
            raise Disconnected("the peer has gone, or the exchange was ended")

    async def _wait(self) -> None:
        """Wait until something has happened."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:  # one that was cancelled waits no more
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for each in waiters:
            wake(each)

    async def _run(self) -> None:
        exchange, loop = self.exchange, asyncio.get_running_loop()
        head = exchange.head
        extensions: dict[str, dict[str, Any]] = {"http.response.pathsend": {}}
        scope = self._hosted.scope("http", "https" if exchange.endpoints.secure else "http", head, exchange.endpoints, extensions)
        scope["method"] = head.method.upper()
        try:
            await self._hosted.app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self._is_gone and self._stage is not _Stage.COMPLETE:
                _log.error(
                    "application cancelled itself method={method} path={path}", method=head.method, path=head.path,
                    limit="application cancelled itself",
                )  # fmt: skip
        except BaseException as error:  # a sys.exit() somewhere would end the process, and everybody's sessions
            if not loop.is_running():  # the process ends, and Python closes what is left
                raise
            if self._is_gone and is_disconnected(error):
                _log.debug(
                    "application ended by a send to a peer that has gone method={method} path={path}", method=head.method, path=head.path
                )
            else:
                _log.failure(
                    "application raised method={method} path={path}", method=head.method, path=head.target, limit="application raised",
                )  # fmt: skip
        else:
            if self._stage is not _Stage.COMPLETE and not self._is_gone:
                _log.error(
                    "application returned without a complete response method={method} path={path}", method=head.method, path=head.target,
                    limit="application returned early",
                )  # fmt: skip
        finally:
            self._task = None
            if self._stage is not _Stage.COMPLETE:
                exchange.fail_application()
