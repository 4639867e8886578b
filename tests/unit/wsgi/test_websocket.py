"""``environ['wsgi.websocket']`` as an application sees it, in a real thread, over a wire that only takes notes."""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import ModuleType
from typing import Any

import pytest

from tests.support.wsgi import PATIENCE, Live, Stage, until
from twistedws.errors import By, Cause, Close, TwistedWSError
from twistedws.gateway.pump import MESSAGE_OVERHEAD
from twistedws.gateway.wsgi import websocket as module
from twistedws.gateway.wsgi.threads import MOST_UNSENT
from twistedws.gateway.wsgi.websocket import WebSocket, WebSocketError
from twistedws.session import framed


@pytest.fixture
def stage() -> Iterator[Stage]:
    """An application that the test plays."""
    with Stage() as found:
        yield found


def in_thread(function: Callable[[], Any]) -> Future[Any]:
    """Call something in a thread of the application's own."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def held(live: Live, outcome: Future[Any]) -> None:
    """Wait until something waits for a peer that is slow."""
    until(lambda: live.sending or outcome.done())
    assert not outcome.done()


# Receiving


def test_receive(stage: Stage) -> None:
    """Text is received as str, binary as bytearray, in order; an empty message is a message."""
    live, call = stage.opened()
    live.say("text", b"binary", "", b"", "\u20ac")
    messages = [call.do(call.websocket.receive) for _ in range(5)]
    assert messages == ["text", bytearray(b"binary"), "", bytearray(), "\u20ac"]
    assert [type(each) for each in messages] == [str, bytearray, str, bytearray, str]


def test_receive_waits(stage: Stage) -> None:
    """The thread that receives waits for a message, and nobody else does."""
    live, call = stage.opened()
    outcome = call.begin(call.websocket.receive)
    until(lambda: live.is_receiving)
    assert not outcome.done()
    live.say("at last")
    stage.until(outcome.done)
    assert outcome.result() == "at last"


def test_the_end_of_receiving(stage: Stage) -> None:
    """What came before the end is received, then None, once, and from then on ``receive`` raises."""
    live, call = stage.opened()
    live.say("1", "2")
    live.leave()
    websocket = call.websocket
    assert [call.do(websocket.receive) for _ in range(3)] == ["1", "2", None]
    for _ in range(2):
        with pytest.raises(WebSocketError, match="already closed"):
            call.do(websocket.receive)
    with pytest.raises(WebSocketError, match="dead"):
        call.do(websocket.send, "x")


def test_the_end_wakes_who_receives(stage: Stage) -> None:
    """Who waits for a message when the connection is lost gets None."""
    live, call = stage.opened()
    outcome = call.begin(call.websocket.receive)
    until(lambda: live.is_receiving)
    live.leave(Cause.RESET)
    stage.until(outcome.done)
    assert outcome.result() is None


def test_two_receive(stage: Stage) -> None:
    """Two threads may receive: each message goes to one of them, and both hear of the end."""
    live, call = stage.opened()
    websocket = call.websocket

    def drain() -> list[object]:
        found: list[object] = []
        while (message := websocket.receive()) is not None:
            found.append(message)
        return found

    outcomes = [in_thread(drain), in_thread(drain)]
    sent = [str(number) for number in range(200)]
    for each in sent:
        live.say(each)
        stage.reactor.turn()
    live.leave()
    stage.until(lambda: all(each.done() for each in outcomes))
    assert sorted(outcomes[0].result() + outcomes[1].result()) == sorted(sent)
    for outcome in outcomes:
        assert outcome.result() == sorted(outcome.result(), key=int)


def test_receive_after_close(stage: Stage) -> None:
    """Who has closed the connection cannot receive from it, whatever still comes."""
    live, call = stage.opened()
    call.do(call.websocket.close)
    live.say("late")
    with pytest.raises(WebSocketError):
        call.do(call.websocket.receive)


@pytest.mark.parametrize("message", ["", b"x" * 64], ids=["empty", "short"])
def test_the_inbox_is_bounded(message: str | bytes) -> None:
    """Reading pauses while too much waits for the application, and goes on once half of it is gone; empty messages count too."""
    octets = len(message) + MESSAGE_OVERHEAD
    with Stage(inbox_size=10 * octets) as stage:
        live, call = stage.opened()
        live.say(*[message] * 10)
        assert live.wire.named("pause") == []
        live.say(message)
        live.say(message)  # that was read before
        assert live.wire.named("pause") == [("pause",)]
        for _ in range(6):
            call.do(call.websocket.receive)
            stage.reactor.turn()
            assert live.session.held
        call.do(call.websocket.receive)
        stage.until(lambda: not live.session.held)
        assert live.wire.named("resume") == [("resume",)]


def test_an_inbox_that_is_emptied_at_once() -> None:
    """A message that alone is more than may wait pauses reading until it is received."""
    with Stage(inbox_size=100) as stage:
        live, call = stage.opened()
        for _ in range(3):
            live.say("x" * 1000)
            assert live.session.held
            call.do(call.websocket.receive)
            stage.until(lambda: not live.session.held)


def test_an_inbox_without_bound() -> None:
    """With inbox-size 0 reading never pauses."""
    with Stage(inbox_size=0) as stage:
        live, _ = stage.opened()
        live.say(*["x" * 10_000] * 100)
        assert not live.session.held


# Sending


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("text",), "text"),
        (("\u20ac",), "\u20ac"),
        (("",), ""),
        ((b"bytes",), b"bytes"),
        ((bytearray(b"bytearray"),), b"bytearray"),
        ((memoryview(b"memoryview"),), b"memoryview"),
        (("\u20ac", True), b"\xe2\x82\xac"),
        (("text", False), "text"),
        (("text", None), "text"),
        ((b"bytes", True), b"bytes"),
        ((b"\xe2\x82\xac", False), "\u20ac"),
        ((b"x" * 200,), b"x" * 200),
        (("x" * 70_000,), "x" * 70_000),
    ],
    ids=repr,
)
def test_send(stage: Stage, arguments: tuple[Any, ...], expected: str | bytes) -> None:
    """A str is sent as text, bytes of any type as binary, unless the application says otherwise."""
    live, call = stage.opened()
    assert call.do(call.websocket.send, *arguments) is None
    stage.until(lambda: live.sent)
    assert live.sent == [expected]
    assert live.session.messages_out == 1


def test_a_subclass_of_str(stage: Stage) -> None:
    """What is a str of some kind, such as a template engine's, is text."""

    class Markup(str):
        __slots__ = ()

    live, call = stage.opened()
    call.do(call.websocket.send, Markup("<b>"))
    stage.until(lambda: live.sent)
    assert live.sent == ["<b>"]


def test_a_buffer_that_changes(stage: Stage) -> None:
    """What is sent is what was there when it was sent."""
    live, call = stage.opened()
    buffer = bytearray(b"before")

    def send() -> None:
        call.websocket.send(buffer)
        buffer[:] = b"behind"

    call.do(send)
    stage.until(lambda: live.sent)
    assert live.sent == [b"before"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((None,), TypeError),
        ((1,), TypeError),
        (({"a": 1},), TypeError),
        ((["a"], True), TypeError),
        (("\ud800",), UnicodeError),
        (("\ud800", True), UnicodeError),
        ((b"\xff", False), UnicodeError),
    ],
    ids=repr,
)
def test_what_cannot_be_sent(stage: Stage, arguments: tuple[Any, ...], error: type[Exception]) -> None:
    """What is no message is refused, and the connection is none the worse for it."""
    live, call = stage.opened()
    with pytest.raises(error):
        call.do(call.websocket.send, *arguments)
    call.do(call.websocket.send, "good")
    stage.until(lambda: live.sent)
    assert (live.sent, live.ends, call.websocket.closed) == (["good"], [], False)


def test_order(stage: Stage) -> None:
    """Messages leave in the order in which they were sent, and the close frame behind them."""
    live, call = stage.opened()

    def talk() -> None:
        for number in range(100):
            call.websocket.send(str(number))
        call.websocket.close(1001, "enough")

    call.do(talk)
    stage.until(lambda: live.ends)
    assert live.sent == [str(number) for number in range(100)]
    assert live.order == ["send_framed"] * 100 + ["close"]


def test_send_from_another_thread(stage: Stage) -> None:
    """Any thread may send, while the application's own receives."""
    live, call = stage.opened()
    receiving = call.begin(call.websocket.receive)
    until(lambda: live.is_receiving)
    outcome = in_thread(lambda: call.websocket.send("from afar"))
    stage.until(lambda: live.sent)
    assert outcome.result(PATIENCE) is None
    assert (live.sent, receiving.done()) == (["from afar"], False)


def test_many_threads_send(stage: Stage) -> None:
    """Whatever several threads send arrives whole, and each thread's in its order."""
    live, call = stage.opened()

    def talk(thread: int) -> None:
        for number in range(100):
            call.websocket.send(f"{thread} {number}")

    outcomes = [in_thread(lambda thread=thread: talk(thread)) for thread in range(3)]  # type: ignore[misc]
    stage.until(lambda: all(each.done() for each in outcomes) and live.handler.is_empty)
    stage.reactor.turn()
    assert len(live.sent) == 300
    for thread in range(3):
        assert [each for each in live.sent if str(each).startswith(f"{thread} ")] == [f"{thread} {number}" for number in range(100)]


def test_send_waits_for_a_slow_peer(stage: Stage) -> None:
    """While the peer takes less than it is sent, ``send`` waits, and goes on when the peer does."""
    live, call = stage.opened()
    live.session.congest()
    outcome = call.begin(call.websocket.send, "patience")
    held(live, outcome)
    live.session.decongest()
    stage.until(lambda: live.sent)
    assert (outcome.result(PATIENCE), live.sent) == (None, ["patience"])


def test_the_end_wakes_who_sends(stage: Stage) -> None:
    """Who waits for a slow peer to take more when it goes is told so."""
    live, call = stage.opened()
    live.session.congest()
    outcomes = [call.begin(call.websocket.send, "x"), in_thread(lambda: call.websocket.send("y"))]
    until(lambda: live.sending == 2)
    live.leave(Cause.WRITE_STALL)
    stage.until(lambda: all(each.done() for each in outcomes))
    for each in outcomes:
        assert isinstance(each.exception(), WebSocketError)
    assert live.sent == []


def test_a_thread_that_sends_for_ever_waits_for_the_loop(stage: Stage) -> None:
    """To a peer that takes everything no more is sent at once than the loop has handed on."""
    live, call = stage.opened()

    def talk() -> None:
        for _ in range(10):
            call.websocket.send(b"x" * (MOST_UNSENT // 2))

    outcome = call.begin(talk)
    held(live, outcome)
    waiting = live.handler._put - live.handler._taken
    assert MOST_UNSENT < waiting < 2 * MOST_UNSENT
    stage.until(lambda: len(live.sent) == 10)
    assert outcome.result(PATIENCE) is None


def test_send_after_the_end(stage: Stage) -> None:
    """Nothing can be sent on a connection that is lost."""
    live, call = stage.opened()
    live.leave()
    with pytest.raises(WebSocketError, match="Socket is dead"):
        call.do(call.websocket.send, "x")
    assert live.sent == []


def test_send_when_the_peer_has_closed(stage: Stage) -> None:
    """Once the peer has closed nothing more can be sent, though the connection is still there."""
    live, call = stage.opened()
    live.session.peer_closed(1000, "")
    call.do(call.websocket.send, "into the void")
    stage.until(lambda: live.handler.is_ended)
    with pytest.raises(WebSocketError):
        call.do(call.websocket.send, "x")
    assert live.sent == []


def test_answers_to_a_peer_that_has_gone(stage: Stage) -> None:
    """Who answers each message receives all that came before the peer went: only the answer to the last of them is an error."""
    live, call = stage.opened()
    live.say("1", "2", "3")
    live.leave()
    seen: list[str] = []

    def echo() -> None:
        while True:
            message = call.websocket.receive()
            seen.append(message)
            call.websocket.send(message)

    with pytest.raises(WebSocketError, match="Socket is dead"):
        call.do(echo)
    assert (seen, live.sent) == (["1", "2", "3"], [])


def test_a_message_that_is_dropped(stage: Stage) -> None:
    """A message for which a slow consumer's queue has no room ends the session."""
    with Stage() as full:
        live, call = full.opened(queue_size=100)
        call.do(call.websocket.send, "x")
        live.session.congested = True
        live.wire.waiting = 100
        live.handler.take(framed("x"))
        assert live.ends == [("close", 1013, "slow consumer")]
        assert live.handler.is_ended


def test_send_frame(stage: Stage) -> None:
    """A message may be sent by its opcode, a ping too, behind what was sent before."""
    live, call = stage.opened()
    websocket = call.websocket

    def talk() -> None:
        websocket.send_frame("text", websocket.OPCODE_TEXT)
        websocket.send_frame("text", websocket.OPCODE_BINARY)
        websocket.send_frame("ping", websocket.OPCODE_PING)
        websocket.send_frame(b"x" * 125, websocket.OPCODE_PING)

    call.do(talk)
    stage.until(lambda: len(live.order) == 4)
    assert live.sent == ["text", b"text"]
    assert live.order == ["send_framed", "send_framed", "ping", "ping"]
    assert live.wire.named("ping") == [("ping", b"ping"), ("ping", b"x" * 125)]


@pytest.mark.parametrize(("message", "opcode"), [("x", 0), ("x", 8), ("x", 10), (b"x" * 126, 9), ("x" * 126, 9)])
def test_a_frame_that_cannot_be_sent(stage: Stage, message: str | bytes, opcode: int) -> None:
    """Other opcodes, and pings that are too long, are refused."""
    live, call = stage.opened()
    with pytest.raises(ValueError, match="can be sent"):
        call.do(call.websocket.send_frame, message, opcode)
    stage.reactor.turn()
    assert live.order == []


def test_a_ping_after_the_end(stage: Stage) -> None:
    """A connection that is lost is not pinged."""
    live, call = stage.opened()
    live.leave()
    with pytest.raises(WebSocketError, match="Socket is dead"):
        call.do(call.websocket.send_frame, b"", 9)
    assert live.wire.named("ping") == []


# Closing


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), (1000, "")),
        ((1001,), (1001, "")),
        ((3000, "gr\u00fc\u00dfe"), (3000, "gr\u00fc\u00dfe")),
        ((4999, b"bytes"), (4999, "bytes")),
        ((1000, bytearray(b"bytearray")), (1000, "bytearray")),
        ((1000, b"\xff"), (1000, "\ufffd")),
        ((1000, None), (1000, "")),
    ],
    ids=repr,
)
def test_close(stage: Stage, arguments: tuple[Any, ...], expected: tuple[int, str]) -> None:
    """A close has its code and its reason, be it text or bytes; it does not wait."""
    live, call = stage.opened()
    assert call.do(call.websocket.close, *arguments) is None
    assert call.websocket.closed
    stage.until(lambda: live.ends)
    assert live.ends == [("close", *expected)]
    assert live.session.ending == Close(*expected, Cause.APPLICATION, By.APPLICATION)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, "1000", None, 1000.0], ids=repr)
def test_a_code_that_cannot_be_sent(stage: Stage, code: Any) -> None:
    """A code that may stand in no close frame is refused, and nothing is closed."""
    live, call = stage.opened()
    with pytest.raises(ValueError, match="close code"):
        call.do(call.websocket.close, code)
    assert not call.websocket.closed
    call.do(call.websocket.send, "still here")
    stage.until(lambda: live.sent)
    assert live.ends == []


def test_close_twice(stage: Stage) -> None:
    """The first close counts, whatever comes behind it; nothing can be sent any more."""
    live, call = stage.opened()
    call.do(call.websocket.close, 4000)
    call.do(call.websocket.close, 4001)
    with pytest.raises(WebSocketError, match="Socket is dead"):
        call.do(call.websocket.send, "x")
    stage.until(lambda: live.ends)
    assert live.ends == [("close", 4000, "")]


def test_close_after_the_end(stage: Stage) -> None:
    """A connection that is lost is left as it is."""
    live, call = stage.opened()
    live.leave()
    call.do(call.websocket.close, 4000)
    assert call.websocket.closed
    stage.reactor.turn()
    assert live.ends == []


# closed


def test_closed_for_one_that_receives(stage: Stage) -> None:
    """For an application that receives, a lost connection is closed once what came before is received."""
    live, call = stage.opened()
    websocket = call.websocket
    assert websocket.closed is False
    live.say("1", "2", "3")
    assert call.do(websocket.receive) == "1"
    live.leave()
    assert websocket.closed is False
    assert call.do(websocket.receive) == "2"
    assert websocket.closed is False
    assert call.do(websocket.receive) == "3"
    assert websocket.closed is True
    assert call.do(websocket.receive) is None
    assert websocket.closed is True


def test_the_usual_loop(stage: Stage) -> None:
    """The loop of every example, ``while not ws.closed``, receives all that came, though the peer has gone meanwhile."""
    live, call = stage.opened()
    seen: list[object] = []

    def loop() -> None:
        websocket = call.websocket
        while not websocket.closed:
            seen.append(websocket.receive())

    outcome = call.begin(loop)
    live.say("1")
    stage.until(lambda: seen)
    live.say("2", "3")
    live.leave()
    stage.until(outcome.done)
    outcome.result()
    assert [each for each in seen if each is not None] == ["1", "2", "3"]


def test_closed_for_one_that_never_receives(stage: Stage) -> None:
    """For an application that only sends, a lost connection is closed at once, whatever came."""
    live, call = stage.opened()
    live.say("1")
    assert call.websocket.closed is False
    live.leave()
    assert call.websocket.closed is True


# What it knows of the request


def test_request(stage: Stage) -> None:
    """Origin, subprotocols, version and path are those of the opening handshake."""
    _, call = stage.opened(b"Origin: https://example.com", b"Sec-WebSocket-Protocol: chat, superchat", path=b"/a%20b?c")
    websocket = call.websocket
    assert websocket.environ is call.environ
    assert (websocket.origin, websocket.protocol) == ("https://example.com", "chat, superchat")
    assert (websocket.version, websocket.path) == ("13", "/a b")
    assert call.environ["wsgi.websocket_version"] == "13"
    assert isinstance(websocket.logger, logging.Logger)


def test_request_without(stage: Stage) -> None:
    """What the opening handshake does not have is None."""
    _, call = stage.opened()
    assert (call.websocket.origin, call.websocket.protocol) == (None, None)


def test_opcodes() -> None:
    """The opcodes that applications may name are the protocol's."""
    assert (WebSocket.OPCODE_TEXT, WebSocket.OPCODE_BINARY) == (1, 2)


# WebSocketError


def loaded(monkeypatch: pytest.MonkeyPatch, exceptions: ModuleType | None) -> Any:
    """The module as it is where gevent-websocket is what a test says."""
    package = ModuleType("geventwebsocket")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "geventwebsocket", package)
    monkeypatch.setitem(sys.modules, "geventwebsocket.exceptions", exceptions)  # None: it cannot be imported
    spec = importlib.util.spec_from_file_location("another_websocket", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_an_error_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where gevent-websocket is installed, who catches its error catches ours."""

    class TheirError(OSError):
        """What applications catch."""

    exceptions = ModuleType("geventwebsocket.exceptions")
    exceptions.WebSocketError = TheirError  # type: ignore[attr-defined]
    ours = loaded(monkeypatch, exceptions).WebSocketError
    assert issubclass(ours, TheirError)
    assert issubclass(ours, TwistedWSError)
    with pytest.raises(TheirError, match="Socket is dead"):
        raise ours("Socket is dead")


class Broken(ModuleType):
    """A module whose import succeeds, and which fails when it is used."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("it does not work on this Python")


@pytest.mark.parametrize("exceptions", [None, Broken("geventwebsocket.exceptions")], ids=["not installed", "broken"])
def test_an_error_of_ours(monkeypatch: pytest.MonkeyPatch, exceptions: ModuleType | None) -> None:
    """Where gevent-websocket is not installed, or does not work, our error is an OSError as its was."""
    ours = loaded(monkeypatch, exceptions).WebSocketError
    assert ours.__bases__ == (TwistedWSError, OSError)
    with pytest.raises(OSError, match="Socket is dead"):
        raise ours("Socket is dead")


def test_it_is_an_os_error() -> None:
    """Whatever is installed here, the error is an OSError, with its text."""
    assert issubclass(WebSocketError, OSError)
    assert str(WebSocketError("Socket is dead")) == "Socket is dead"


def test_the_public_name() -> None:
    """The package has the error by its name, and no other names than it says."""
    import twistedws

    assert twistedws.WebSocketError is WebSocketError
    with pytest.raises(AttributeError, match="Nothing"):
        _ = twistedws.Nothing
