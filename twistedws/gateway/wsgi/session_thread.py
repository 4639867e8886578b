"""One session of a WSGI application: its handler in the reactor's thread, and the thread of its own. Floor 6.

Laws of this module:

- A thread that runs on after its connection is gone is reported with its stack, once, and keeps its place among the threads.
- What the application sent before it returned, or closed, leaves before the close frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from twistedws.errors import Cause, Close, Refused
from twistedws.exchange import Endpoints
from twistedws.gateway.pump import MESSAGE_OVERHEAD
from twistedws.gateway.wsgi.clients import Handler, Server
from twistedws.gateway.wsgi.environ import Environ, environ_of
from twistedws.gateway.wsgi.threads import FromThreads, Job, Latch, Outbox, Relay, Threads, gevent_hub
from twistedws.gateway.wsgi.websocket import WebSocket, WebSocketError
from twistedws.handshake import requested_subprotocols
from twistedws.metrics import Metrics
from twistedws.session import Framed, Session

_log = Logger()

RETRY_AFTER = "5"  # seconds, for a client that found no thread free

StartResponse = Callable[..., Callable[[bytes], object]]
WSGI = Callable[[Environ, StartResponse], Any]


@dataclass(frozen=True, slots=True)
class Hosted:
    """A WSGI application and what all its sessions and requests share.

    Attributes:
        app: The application.
        turns: The way from its threads to the reactor's.
        relay: The way back.
        threads: Those of its sessions.
        http_threads: Those of its plain requests.
        root_path: The path below which a proxy serves it, and which the proxy strips.
        inbox_size: Bytes of messages that may wait for it in a session.
        most_unsent: Bytes of a response that may wait for the peer before the application does.
        late_after: Seconds after which a thread whose connection is gone is reported; 0 for never.
        clock: For that.
        metrics: Where refusals and late threads are counted.
        server: What all its sessions see as ``handler.server``.
        hints: What the log has said of the application already, and need not again.
    """

    app: WSGI
    turns: FromThreads
    relay: Relay
    threads: Threads
    http_threads: Threads
    root_path: str
    inbox_size: int
    most_unsent: int
    late_after: float
    clock: IReactorTime
    metrics: Metrics
    server: Server
    hints: set[str] = field(default_factory=set)

    def watch(self, job: Job, what: str) -> IDelayedCall | None:
        """The connection of a job is gone: report the job if it runs on too long, unless what is returned is cancelled."""
        return self.clock.callLater(self.late_after, self._report, job, what) if self.late_after else None

    def _report(self, job: Job, what: str) -> None:
        self.metrics.late_threads += 1
        _log.warn(
            "the thread of {what} runs on, {seconds:g} s after its connection was gone, at {stack}",
            what=what, seconds=self.late_after, stack=job.stack(), limit="thread runs on",
        )  # fmt: skip

    def unwatch(self, late: IDelayedCall | None, what: str) -> None:
        """The job has ended."""
        if late is not None and late.active():
            late.cancel()
        elif late is not None:
            _log.info("the thread of {what} has returned after all", what=what, limit="thread returned")


def admission(hosted: Hosted) -> tuple[Callable[[Session], None], Callable[[Session], SessionThread]]:
    """Return what decides on a session, and what gives it its handler then."""
    app_protocol = getattr(hosted.app, "app_protocol", None)  # geventwebsocket.Resource has it

    def admit(session: Session) -> None:
        hosted.http_threads.prepare()  # as long as the system gives one: sessions may take all others
        if not hosted.threads.prepare():
            hosted.metrics.no_thread += 1
            if hosted.threads.busy >= hosted.threads.most:
                _log.warn("all {most} threads are in use (--threads)", most=hosted.threads.most, limit="no thread")
            raise Refused(503, [("Retry-After", RETRY_AFTER)], "no thread is free", why="no thread is free")
        if app_protocol is not None:
            protocol = app_protocol(session.request.path)
            if protocol and protocol in requested_subprotocols(session.request):
                session.subprotocol = protocol

    def build(session: Session) -> SessionThread:
        return SessionThread(session, hosted, session.wire.endpoints())

    return admit, build


class SessionThread(Outbox):
    """The handler of one session, and what its thread runs."""

    __slots__ = (
        "_endpoints", "_has_closed", "_hosted", "_inbox", "_inbox_put", "_inbox_taken", "_is_over", "_is_waiting", "_job", "_latch",
        "_late", "_paused", "_proceed", "_session", "has_received", "is_gone",
    )  # fmt: skip

    def __init__(self, session: Session, hosted: Hosted, endpoints: Endpoints) -> None:
        super().__init__(hosted.turns)
        self._session, self._hosted, self._endpoints = session, hosted, endpoints
        self._job = Job(self._run, f"session {session.id}")
        self._late: IDelayedCall | None = None
        self._proceed: Callable[[], None] | None = None
        self._paused = False
        self._inbox_put = 0  # bytes, so far
        self._inbox: deque[str | bytes | None] = deque()  # None: there will be no more
        self._latch = Latch()
        self._inbox_taken = 0
        self.has_received = self._is_waiting = False  # whether the application has asked for messages at all, and does now
        self.is_gone = self._has_closed = False  # by anybody; by the application
        self._is_over = False  # the application has returned

    # The reactor's thread: what the session calls

    def opened(self, session: Session) -> None:
        """Start the thread."""
        if not self._hosted.threads.start(self._job):  # the one that was prepared has ended in this moment, and no other can be had
            self._is_over = True
            self._hosted.metrics.no_thread += 1
            session.fail(1013, "no thread is free", Cause.INTERNAL_ERROR)

    def received(self, session: Session, message: str | bytes) -> None:
        """Hand a message to the thread; pause reading while too many wait."""
        if self._is_over:
            return
        self._inbox_put += len(message) + MESSAGE_OVERHEAD
        self._inbox.append(message)
        self._wake_reader()
        if self._inbox_put - self._inbox_taken > self._hosted.inbox_size > 0:
            self._paused = True  # before the second look: the thread looks here after it has taken
            session.pause()
            self._resume()

    def writable(self, session: Session) -> None:  # noqa: ARG002 - the handler's signature
        """The peer takes more again."""
        self.flush()

    def draining(self, session: Session, proceed: Callable[[], None]) -> None:  # noqa: ARG002
        """Proceed once the thread asks for a message that is not there: all is answered. At once where nothing came, and it never asks."""
        self._proceed = proceed
        self._proceed_if_answered()

    def closed(self, session: Session, close: Close) -> None:  # noqa: ARG002
        """Let the thread go on, from wherever it waits."""
        self.is_gone = True
        self._inbox.append(None)
        self._wake_reader()
        self.end()
        if not self._is_over:
            self._late = self._hosted.watch(self._job, f"session={self._session.id}")

    # The reactor's thread: what the application's wants done

    def take(self, item: Framed | Callable[[], None]) -> None:
        """Send what was put."""
        if type(item) is Framed:
            if not self._session.send_framed(item) and self._session.ending is not None:
                self.end()
        else:
            item()  # type: ignore[operator]  # it is none of the two then

    def flush(self) -> None:
        """Send what waits, as far as the peer takes it; with the last of it a drain may go on."""
        super().flush()
        if self._proceed is not None:
            self._proceed_if_answered()

    @property
    def is_congested(self) -> bool:
        """Whether the peer takes less than it is sent."""
        return self._session.congested

    @property
    def has_messages(self) -> bool:
        """Whether messages wait to be received."""
        return self._inbox_taken != self._inbox_put

    def _wake_reader(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._hosted.relay.wake(self._latch)

    def _resume(self) -> None:
        if self._paused and (self._inbox_put - self._inbox_taken) * 2 <= self._hosted.inbox_size:
            self._paused = False
            self._session.resume()

    def _proceed_if_answered(self) -> None:
        proceed = self._proceed
        is_answered = self._is_waiting and self._inbox_taken == self._inbox_put
        never_asks = not (self.has_received or self.has_messages)
        if proceed is not None and (is_answered or never_asks) and self.is_empty:
            self._proceed = None
            proceed()

    def _returned(self, failure: Failure | None, status: int) -> None:
        """The application has returned, with an HTTP status if it gave one, or has raised."""
        self._is_over = True
        session = self._session
        self._hosted.unwatch(self._late, f"session={session.id}")
        if self._paused:
            self._paused = False
            session.resume()
        is_closed = session.ending is not None or self._has_closed
        if failure is not None and not (is_closed and failure.check(WebSocketError)):
            _log.failure(
                "application raised in its WebSocket session={session} peer={peer}", failure, session=session.id, peer=session.peer,
                limit="application raised",
            )  # fmt: skip
        elif status >= 400 and session.ending is None:
            _log.warn(
                "application answered {status} to a WebSocket session={session} path={path}", status=status, session=session.id,
                path=session.request.path, limit="application answered",
            )  # fmt: skip
        self.put_nowait(lambda: self._end_session(status, has_failed=failure is not None), 0)

    def _end_session(self, status: int, *, has_failed: bool) -> None:
        """All that the application has sent has left: end its session, unless it has ended."""
        session = self._session
        if session.ending is not None:
            return
        if has_failed or status >= 500:
            session.fail(1011, "", Cause.APPLICATION_ERROR)
        elif self._proceed is not None:
            self._proceed()
        else:
            session.close(1008 if status >= 400 else 1000)

    # The application's threads

    def receive(self) -> str | bytes | None:
        """Wait for a message; None if there will be no more."""
        if self._turns.is_here:
            raise RuntimeError("receive: it would wait in the reactor's thread, for that itself; call it in another")
        self.has_received = True
        inbox = self._inbox
        while not inbox:
            self._is_waiting = True  # before the second look, and that at the drain: the reactor's thread looks here after its own part
            if inbox:
                break
            if self._proceed is not None:
                self._turns.call(self._proceed_if_answered)
            self._hosted.relay.pass_on()
            self._latch.wait()
        self._is_waiting = False
        message = inbox.popleft()
        if message is None:
            inbox.append(None)
            return None
        self._inbox_taken += len(message) + MESSAGE_OVERHEAD
        if self._paused:
            self._turns.call(self._resume)
        return message

    def send(self, framed: Framed) -> bool:
        """Send a message; wait first while the peer is slow. False if the connection has ended."""
        return self.put(framed, len(framed.payload) + MESSAGE_OVERHEAD)

    def ping(self, payload: bytes) -> bool:
        """Send a ping, as ``send`` does."""
        return self.put(lambda: self._session.wire.ping(payload), MESSAGE_OVERHEAD)

    def close(self, code: int, reason: str) -> None:
        """Close, behind what was sent."""
        self._has_closed = True
        self.put_nowait(lambda: self._session.close(code, reason), 0)

    def _run(self) -> None:
        """Run the application."""
        hosted, session = self._hosted, self._session
        websocket = WebSocket(self)
        handler = Handler(hosted.server, websocket, self._endpoints, session.id)
        websocket.handler = handler
        failure, status = None, 0

        def start_response(code: str, headers: object, exc_info: object = None) -> Callable[[bytes], None]:  # noqa: ARG001 - PEP 3333
            nonlocal status
            status = int(code[:3]) if code[:3].isascii() and code[:3].isdigit() else 0
            return lambda _: None

        clients = hosted.server.clients
        try:
            environ = websocket.environ = environ_of(session.request, self._endpoints, hosted.root_path)
            environ["wsgi.websocket"], environ["wsgi.websocket_version"] = websocket, websocket.version
            clients[handler.client_address] = handler.active_client
            result = hosted.app(environ, start_response)
            try:
                for _ in result or ():  # whatever it is: the response was the 101
                    if self.is_gone:
                        break
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
            environ["wsgi.websocket"] = None
        except BaseException:  # a sys.exit() somewhere would end the thread only, and nobody would know
            failure = Failure()
            failure.cleanFailure()
        finally:
            clients.pop(handler.client_address, None)
        if "gevent" not in hosted.hints and gevent_hub() is not None:
            hosted.hints.add("gevent")
            _log.warn("the application uses gevent in its thread: greenlets stand still while receive or send waits (docs/migrating.md)")
        self._turns.call(lambda: self._returned(failure, status))
        self._hosted.relay.pass_on()
