"""A plain request as a WSGI application sees it (PEP 3333), answered through ``twisted.web``. Floor 6.

Twisted's own ``twisted.web.wsgi`` is not used, for reasons that ADR 11 gives: what it sends to a slow peer has no bound, and an
application that never calls ``start_response`` is waited for without end.

Laws of this module:

- The application is called once the whole request is here, so that a slow upload has no thread.
- What it sends waits while the peer is slow; a peer that has gone ends its iteration, and ``close`` is called in any case.
- A response that is not what its head says is cut, never made to look complete.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from tempfile import TemporaryFile
from typing import IO, Any
from wsgiref.util import FileWrapper

from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twistedws import config
from twistedws.errors import Cause, Disconnected
from twistedws.exchange import Answerer, Carrier, Endpoints, Exchange
from twistedws.gateway.pump import MESSAGE_OVERHEAD
from twistedws.gateway.wsgi.environ import environ_of
from twistedws.gateway.wsgi.session_thread import Hosted
from twistedws.gateway.wsgi.threads import Job, Outbox
from twistedws.handshake import Request, check_header
from twistedws.http import Channel, Header, StreamedRequest

_log = Logger()

BODY_IN_MEMORY = 65536  # bytes; what is more of a request's body is in a temporary file
_BY = "WSGI response"


def answerer(hosted: Hosted, settings: config.Http, stall_timeout: float) -> Answerer:
    """Return what answers a plain request by the application."""

    def answer(carrier: Carrier, head: Request, endpoints: Endpoints) -> Exchange:
        return Channel(carrier, head, endpoints, settings, stall_timeout, lambda channel: HttpRequest(channel, hosted))

    return answer


@implementer(IPushProducer)
class HttpRequest(StreamedRequest):
    """One request, in the reactor's thread: Twisted's."""

    awaits_body = True

    def __init__(self, channel: Channel, hosted: Hosted) -> None:
        super().__init__(channel)
        self._hosted = hosted
        self._what = f"{channel.head.method} {channel.head.path}"
        self._octets = 0  # of the body
        self._response = Response(self, hosted)
        self._job = Job(self._run, f"request {self._what}")
        self._has_begun = self._is_done = False  # whether a thread has it, or had it
        self._late: IDelayedCall | None = None
        self._input: IO[bytes] = BytesIO()  # what the body is in

    # Twisted's side

    def begin(self) -> None:
        """The head is complete."""
        self.registerProducer(self, True)

    def body(self, data: bytes) -> None:
        """A piece of the body has come."""
        self._octets += len(data)
        self._keep(data, is_whole=False)

    def end_of_body(self) -> None:
        """The request is complete: call the application as soon as a thread is free."""
        self._keep(b"", is_whole=True)
        if self._response.is_ended:  # that, or a piece before it, has failed
            return
        self._has_begun = self._hosted.http_threads.queue(self._job)
        if not self._has_begun:
            self.exchange.fail(503, "no thread is free", Cause.INTERNAL_ERROR)

    def _keep(self, data: bytes, *, is_whole: bool) -> None:
        """Keep a piece of the body; make it ready to be read once it is whole."""
        if self._response.is_ended:
            return
        try:
            if self._octets > BODY_IN_MEMORY and isinstance(self._input, BytesIO):
                data = self._input.getvalue() + data
                self._input = TemporaryFile()  # noqa: SIM115 - closed when the application has done with it
            self._input.write(data)
            if is_whole:
                self._input.seek(0)
        except OSError as error:
            _log.error("a request body cannot be kept: {error}", error=error, limit="request body")
            self.exchange.fail(503, "The request body cannot be kept.", Cause.INTERNAL_ERROR)

    def _close_input(self) -> None:
        with suppress(OSError):  # what the disk does not take, again
            self._input.close()

    def connectionLost(self, reason: object) -> None:  # noqa: ARG002 - Twisted's signature
        """The connection has gone, or the exchange was ended."""
        self._response.end()
        self.producer = None
        if not self._has_begun or self._hosted.http_threads.cancel(self._job):
            self._close_input()
        elif not self._is_done:
            self._late = self._hosted.watch(self._job, self._what)

    def pauseProducing(self) -> None:
        """The peer takes less than it is sent: the threads look at the channel."""

    def resumeProducing(self) -> None:
        """It has taken all."""
        self._response.flush()

    def stopProducing(self) -> None:
        """The connection goes: ``connectionLost`` follows."""

    def failed(self, failure: Failure) -> None:
        """The application has raised, or answers what cannot be sent."""
        head = self.exchange.head
        if self._response.is_ended and failure.check(Disconnected):
            _log.debug("application ended by a write to a peer that has gone {what}", what=self._what)
        else:
            _log.failure(
                "application raised method={method} path={path}", failure, method=head.method, path=head.target, limit="application raised",
            )  # fmt: skip

    def _done(self) -> None:
        """The application has done with the request."""
        self._is_done = True
        self._hosted.unwatch(self._late, self._what)
        self._close_input()

    # The thread's side

    def _run(self) -> None:
        """Run the application."""
        exchange, response = self.exchange, self._response
        try:
            environ = environ_of(exchange.head, exchange.endpoints, self._hosted.root_path, self._input, self._octets)
            environ["wsgi.file_wrapper"] = FileWrapper
            response.iterate(self._hosted.app(environ, response.start))
        except BaseException:  # a sys.exit() somewhere would end the thread only, and nobody would know
            failure = Failure()
            failure.cleanFailure()
            self._hosted.turns.call(lambda: self.failed(failure))
            if not response.is_complete:  # else only ``close`` has raised, behind it
                response.put_nowait(None, 0)
        self._hosted.turns.call(self._done)


class Response(Outbox):
    """The response to one request: what the application makes of it in its thread, and what is sent of it in the reactor's."""

    __slots__ = ("_has_left", "_head", "_request", "is_complete")

    def __init__(self, request: HttpRequest, hosted: Hosted) -> None:
        super().__init__(hosted.turns, hosted.most_unsent)
        self._request = request
        self._head: tuple[int, list[Header], bytes] | None = None
        self._has_left = False  # the head has
        self.is_complete = False  # all of it is on its way

    # The thread's side

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        """``start_response`` (PEP 3333).

        Raises:
            RuntimeError: It was called already.
            TypeError: A value is of the wrong type.
            ValueError: A value cannot be sent.
        """
        try:
            if exc_info is not None and self._has_left:
                raise exc_info[1].with_traceback(exc_info[2])
            if exc_info is None and self._head is not None:
                raise RuntimeError("start_response: it was called already; to replace its response, exc_info is needed")
        finally:
            exc_info = None  # a cycle, as PEP 3333 says
        self._head = checked(status, headers)
        return self.write

    def write(self, data: bytes) -> None:
        """Send a piece of the body, the head before the first.

        Raises:
            Disconnected: The peer has gone.
        """
        if data and not self._piece(data, is_last=False):
            raise Disconnected("the peer has gone, or the exchange was ended")

    def iterate(self, result: Any) -> None:
        """Send what the application has returned."""
        try:
            is_whole = isinstance(result, (list, tuple)) and len(result) == 1
            for piece in result:
                if self.is_ended:
                    return
                if is_whole and not self._has_left:
                    self._piece(piece, is_last=True)  # its length can be said
                elif piece:
                    self._piece(piece, is_last=False)
            if not self.is_complete:
                self._piece(b"", is_last=True)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _piece(self, data: bytes, *, is_last: bool) -> bool:
        if not isinstance(data, bytes):
            raise TypeError(f"{_BY}: {type(data).__name__}: bytes are accepted")
        if self._head is None:
            raise RuntimeError(f"{_BY}: start_response was not called before the response")
        head = None if self._has_left else self._head
        self._has_left, self.is_complete = True, is_last
        return self.put((head, data, is_last), len(data) + MESSAGE_OVERHEAD)

    # The reactor's thread

    @property
    def is_congested(self) -> bool:
        """Whether the peer takes less than it is sent."""
        return self._request.exchange.is_full

    @property
    def waits_now(self) -> bool:
        """Whether threads wait: no sooner than much waits here, so that a slow client seldom keeps a thread."""
        return False

    def take(self, item: tuple[tuple[int, list[Header], bytes] | None, bytes, bool] | None) -> None:
        """Send what was put; None if there will be no more, and it is incomplete."""
        request = self._request
        if item is None:
            request.exchange.fail_application()
            return
        head, data, is_last = item
        try:
            if head is not None:
                request.put_head(head[0], head[1], _BY, head[2])
            request.put_body(data, _BY, is_last=is_last)
        except ValueError:
            self.end()
            request.failed(Failure())
            request.exchange.fail_application()
            return
        if is_last:
            self.end()


def checked(status: str, headers: list[tuple[str, str]]) -> tuple[int, list[Header], bytes]:
    """Return the status, the headers and the reason phrase of a response.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: A value cannot be sent.
    """
    if not isinstance(status, str):
        raise TypeError(f"start_response: status: {type(status).__name__}: str is accepted")
    code, _, reason = status.partition(" ")
    if not (len(code) == 3 and code.isascii() and code.isdigit() and 200 <= int(code) <= 599) or not (
        reason.isprintable() and reason.isascii()
    ):
        raise ValueError(f"start_response: status: {status!r}: a number from 200 to 599 and a reason phrase are accepted, as in '200 OK'")
    pairs: list[Header] = []
    for pair in headers:
        name, value = pair
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"start_response: headers: {pair!r}: pairs of str are accepted")
        encoded = name.encode("latin-1"), value.encode("latin-1")
        check_header(*encoded)
        pairs.append(encoded)
    return int(code), pairs, reason.encode()
