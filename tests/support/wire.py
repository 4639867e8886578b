"""The edges that a unit test of a session needs: a wire that only takes notes, a request, a handler that takes notes."""

from __future__ import annotations

from collections.abc import Callable

from twistedws.errors import Close
from twistedws.exchange import Endpoints
from twistedws.frames import TEXT
from twistedws.handshake import Request
from twistedws.session import Framed, Session, SlowConsumer

REQUEST = Request("GET", "/chat?room=1", b"/chat", "/chat", b"room=1", "1.1", ((b"host", b"example.com"),))


class FakeWire:
    """A wire that records its calls, and has as much output waiting as a test says.

    Attributes:
        calls: What was called, in order: the name, then the arguments.
        waiting: What ``buffered`` returns.
        kernel: What ``unacknowledged`` returns.
        received: Bytes read from the peer, as a test says.
        written: Bytes written, as a test says.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.waiting = self.kernel = 0
        self.received = 0
        self.written = 0
        self.listening = True
        self.later: list[Callable[[], None]] = []

    def send(self, opcode: int, payload: bytes) -> None:
        self.calls.append(("send", payload, opcode == TEXT))

    def send_framed(self, message: Framed) -> None:
        self.calls.append(("send_framed", message.frame))

    def soon(self, callback: Callable[[], None]) -> None:
        self.later.append(callback)

    def ping(self, payload: bytes) -> None:
        self.calls.append(("ping", payload))

    def close(self, code: int, reason: str) -> None:
        self.calls.append(("close", code, reason))

    def fail(self, code: int, reason: str) -> None:
        self.calls.append(("fail", code, reason))

    def abort(self) -> None:
        self.calls.append(("abort",))

    def pause(self) -> None:
        self.calls.append(("pause",))

    def resume(self) -> None:
        self.calls.append(("resume",))

    def buffered(self) -> int:
        return self.waiting

    def unacknowledged(self) -> int:
        return self.kernel

    def endpoints(self) -> Endpoints:
        return Endpoints(("192.0.2.1", 5), ("192.0.2.80", 80), False)

    def named(self, *names: str) -> list[tuple[object, ...]]:
        """The calls of these names, in order."""
        return [call for call in self.calls if call[0] in names]


class Recorder:
    """A handler with the three callbacks that takes notes, and raises in the callback that a test names."""

    def __init__(self, raises: str = "") -> None:
        self.heard: list[tuple[object, ...]] = []
        self.raises = raises

    def opened(self, session: Session) -> None:
        self._note("opened")

    def received(self, session: Session, message: str | bytes) -> None:
        self._note("received", message)

    def closed(self, session: Session, close: Close) -> None:
        self._note("closed", close)

    def _note(self, *event: object) -> None:
        self.heard.append(event)
        if event[0] == self.raises:
            raise RuntimeError("the application is wrong")


class FlowRecorder(Recorder):
    """One that has the two callbacks of flow as well."""

    def __init__(self, raises: str = "") -> None:
        super().__init__(raises)
        self.proceed: Callable[[], None] | None = None

    def writable(self, session: Session) -> None:
        self._note("writable")

    def draining(self, session: Session, proceed: Callable[[], None]) -> None:
        self.proceed = proceed
        self._note("draining")


def make_session(wire: FakeWire | None = None, *, queue_size: int = 0, slow_consumer: SlowConsumer = "close", peer: str = "") -> Session:
    """A session that is connecting."""
    return Session(wire or FakeWire(), REQUEST, peer=peer or "192.0.2.1:5", scheme="ws", queue_size=queue_size, slow_consumer=slow_consumer)


def open_session(
    wire: FakeWire | None = None, handler: Recorder | None = None, *, queue_size: int = 0, slow_consumer: SlowConsumer = "close"
) -> Session:
    """A session that is open."""
    session = make_session(wire, queue_size=queue_size, slow_consumer=slow_consumer)
    session.open(handler or Recorder(), 0.0)
    return session
