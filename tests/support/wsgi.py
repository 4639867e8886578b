"""WSGI applications that a test plays itself, each call in its real thread, and what stands around them.

The test's own thread is the reactor's: what threads want done there waits until the test lets it run (``Reactor``). ``App`` is an
application that does nothing by itself: each call of it is a ``Call``, and the test says what is done in its thread. So a test is one line
after another, whatever runs where.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, NoReturn

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock

from tests.support.asgi import ENDPOINTS, FakeCarrier, configured, parsed
from tests.support.memory import request as opening_handshake
from tests.support.wire import FakeWire
from twistedws.errors import Cause
from twistedws.exchange import Endpoints
from twistedws.frames import CLOSE
from twistedws.gateway.wsgi import wsgi_application
from twistedws.metrics import Metrics
from twistedws.session import Application, Framed, Session

MOMENT = 0.01
PATIENCE = 30.0  # real seconds after which something never happens


class Reactor:
    """The reactor's thread, as threads know it: it is the test's, and carries their calls out when the test has the time."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def call_from_thread(self, function: Callable[[], None]) -> None:
        self._calls.put(function)

    def turn(self) -> None:
        """Carry out what waits."""
        while not self._calls.empty():
            self._calls.get()()

    def until(self, condition: Callable[[], object]) -> None:
        """Carry out what comes until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it never happens"
            try:
                self._calls.get(timeout=0.002)()
            except Empty:
                continue


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread brings about, while the reactor's does nothing."""
    Reactor().until(condition)


class Wakes:
    """A way to the reactor's thread that notes when it is taken."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def __call__(self, function: Callable[[], None]) -> None:
        self.due.append(function)

    def turn(self) -> None:
        """One turn of the loop."""
        due, self.due = self.due, []
        for each in due:
            each()


def joined(thread: threading.Thread) -> None:
    """Wait for the end of a thread."""
    thread.join(PATIENCE)
    assert not thread.is_alive()


def started(function: Callable[[], object]) -> threading.Thread:
    """A thread that runs something."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


class Call:
    """One call of an application: what it was given, and its thread, which does what it is told.

    Attributes:
        environ: Its environ.
        start_response: As the application has it.
        thread: Where it runs.
    """

    def __init__(self, reactor: Reactor, environ: dict[str, Any], start_response: Callable[..., Any]) -> None:
        self._reactor = reactor
        self.environ, self.start_response = environ, start_response
        self.thread = threading.current_thread()
        self._steps: SimpleQueue[tuple[Callable[[], Any], Future[Any] | None]] = SimpleQueue()
        self.is_over = False

    @property
    def websocket(self) -> Any:
        return self.environ["wsgi.websocket"]

    def begin(self, function: Callable[..., Any], *arguments: Any, **more: Any) -> Future[Any]:
        """Have something called in the thread; return its outcome."""
        outcome: Future[Any] = Future()
        self._steps.put((lambda: function(*arguments, **more), outcome))
        return outcome

    def do(self, function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """Have something called in the thread, and wait for its outcome."""
        outcome = self.begin(function, *arguments, **more)
        self._reactor.until(outcome.done)
        return outcome.result()

    def end(self, result: Any = ()) -> None:
        """Have the application return."""
        self._steps.put((lambda: result, None))

    def end_with(self, error: BaseException) -> None:
        """Have the application raise."""

        def fail() -> NoReturn:
            raise error

        self._steps.put((fail, None))

    def run(self) -> Any:
        """Do what the test says, in the application's thread."""
        while True:
            function, outcome = self._steps.get()
            if outcome is None:
                self.is_over = True
                return function()
            try:
                result = function()
            except BaseException as error:
                outcome.set_exception(error)
            else:
                outcome.set_result(result)


class App:
    """A WSGI application that a test plays."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self.calls: list[Call] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        call = Call(self._reactor, environ, start_response)
        self.calls.append(call)
        return call.run()

    def wait(self, number: int = 1) -> Call:
        """Wait for a call."""
        self._reactor.until(lambda: len(self.calls) >= number)
        return self.calls[number - 1]


class Live:
    """A session on a wire that only takes notes, with its thread behind it."""

    def __init__(self, wire: FakeWire, session: Session) -> None:
        self.wire, self.session = wire, session

    @property
    def handler(self) -> Any:
        return self.session.handler

    def say(self, *messages: str | bytes) -> None:
        """Messages of the peer's come."""
        for each in messages:
            self.session.deliver(each, len(each))

    def leave(self, cause: Cause = Cause.FIN) -> None:
        """The connection is gone."""
        self.session.lost(cause)

    @property
    def is_receiving(self) -> bool:
        """Whether a thread waits for a message."""
        return bool(self.handler._is_waiting)

    @property
    def sending(self) -> int:
        """How many threads wait for the peer to take more."""
        return int(self.handler._waiting)

    @property
    def sent(self) -> list[str | bytes]:
        """The messages that have left: text as str, binary as bytes."""
        return [_message(frame) for name, frame in self.wire.named("send_framed") if isinstance(frame, bytes) and name]

    @property
    def ends(self) -> list[tuple[object, ...]]:
        """How the session was ended."""
        return self.wire.named("close", "fail", "abort")

    @property
    def order(self) -> list[str]:
        """The names of what left, in order."""
        return [str(call[0]) for call in self.wire.calls if call[0] not in ("pause", "resume")]


def _message(frame: bytes) -> str | bytes:
    length, start = frame[1], 2
    if length == 126:
        length, start = int.from_bytes(frame[2:4], "big"), 4
    elif length == 127:
        length, start = int.from_bytes(frame[2:10], "big"), 10
    payload = frame[start:]
    assert len(payload) == length
    assert frame[0] & 15 < CLOSE
    return payload.decode() if frame[0] & 15 == 1 else payload


class Wire(FakeWire):
    """One that can become congested by what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.on_send: Callable[[], None] = lambda: None

    def send_framed(self, message: Framed) -> None:
        super().send_framed(message)
        self.on_send()


class Time(Clock):
    """Time that a test moves; but what is due in a moment is due in the next turn of the loop."""

    def __init__(self, reactor: Reactor) -> None:
        super().__init__()
        self._reactor = reactor

    def callLater(self, delay: float, callable: Callable[..., object], *arguments: object, **more: object) -> IDelayedCall:  # noqa: A002
        call = super().callLater(delay, callable, *arguments, **more)
        if delay <= MOMENT:

            def run() -> None:
                if call.active():
                    call.reset(0)
                    self.advance(0)

            self._reactor.call_from_thread(run)
        return call


class Stage:
    """A WSGI application and what stands around it. When a test is done with it, every connection goes and every call returns.

    Args:
        app: The application; by default one that the test plays.
        settings: Values by the name of their setting.
    """

    def __init__(self, app: Any = None, **settings: Any) -> None:
        self.reactor, self.metrics = Reactor(), Metrics()
        self.clock = Time(self.reactor)
        self.played = App(self.reactor)
        configuration = configured(**settings)
        self.application: Application = wsgi_application(
            self.played if app is None else app,
            configuration.hosting,
            threads=configuration.threads,
            limits=configuration.limits,
            output=configuration.output,
            http=configuration.http,
            clock=self.clock,
            call_from_thread=self.reactor.call_from_thread,
            call_soon=self.reactor.call_from_thread,
            metrics=self.metrics,
        )
        self.lives: list[Live] = []
        self.exchanges: list[Exchange] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for live in self.lives:
            live.leave()
        for exchange in self.exchanges:
            exchange.leave()
        for call in self.played.calls:
            call.end()
        self.reactor.until(lambda: not self.application.busy())
        self.reactor.turn()

    @property
    def busy(self) -> int:
        return self.application.busy()

    def until(self, condition: Callable[[], object]) -> None:
        self.reactor.until(condition)

    def idle(self) -> None:
        """Wait until no call runs, and all that was to be done is done."""
        self.reactor.until(lambda: not self.application.busy())
        self.reactor.turn()

    # Sessions

    def connecting(self, *lines: bytes, path: bytes = b"/", endpoints: Endpoints = ENDPOINTS, queue_size: int = 0) -> Live:
        """A session that is connecting."""
        wire = Wire()
        wire.endpoints = lambda: endpoints  # type: ignore[method-assign]
        request = parsed(opening_handshake(*lines, path=path))
        return Live(wire, Session(wire, request, peer="192.0.2.1:5", scheme="ws", queue_size=queue_size, slow_consumer="close"))

    def open(self, *lines: bytes, path: bytes = b"/", endpoints: Endpoints = ENDPOINTS, queue_size: int = 0) -> Live:
        """A session that is open."""
        live = self.connecting(*lines, path=path, endpoints=endpoints, queue_size=queue_size)
        assert self.application.admit is not None
        assert self.application.admit(live.session) is None
        self.lives.append(live)
        live.session.open(self.application(live.session), 0.0)
        return live

    def opened(self, *lines: bytes, **more: Any) -> tuple[Live, Call]:
        """A session that is open, and the application's call for it."""
        number = len(self.played.calls) + 1
        live = self.open(*lines, **more)
        return live, self.played.wait(number)

    # Plain requests

    def request(self, head: bytes, *pieces: bytes, endpoints: Endpoints = ENDPOINTS) -> Exchange:
        """A plain request whose head has come, and pieces of its body behind it."""
        exchange = Exchange(self, head, endpoints)
        self.exchanges.append(exchange)
        for each in pieces:
            exchange.channel.received(each)
        return exchange

    def requested(self, head: bytes, *pieces: bytes) -> tuple[Exchange, Call]:
        """One that is complete, and the application's call for it."""
        number = len(self.played.calls) + 1
        exchange = self.request(head, *pieces)
        return exchange, self.played.wait(number)


class Exchange:
    """A plain request on a carrier that only takes notes, with its thread behind it."""

    def __init__(self, stage: Stage, head: bytes, endpoints: Endpoints) -> None:
        self.carrier = FakeCarrier()
        assert stage.application.answerer is not None
        self.channel: Any = stage.application.answerer(self.carrier, parsed(head), endpoints)
        self.carrier.exchange = self.channel
        self.channel.begin(head)

    def leave(self) -> None:
        """The connection is gone, if the exchange is not over."""
        if self.carrier.ended is None and self.carrier.cause is None:
            self.channel.lost()

    @property
    def is_over(self) -> bool:
        return self.carrier.ended is not None or self.carrier.cause is not None
