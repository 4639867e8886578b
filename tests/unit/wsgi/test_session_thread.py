"""One session of a WSGI application: how it begins, how it ends, and what the server hears of its thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from twisted.logger import LogLevel, capturedLogs

from tests.support.wsgi import Call, Live, Stage, until
from twistedws.errors import By, Cause, Close, Refused
from twistedws.exchange import Endpoints
from twistedws.gateway import wsgi as module
from twistedws.gateway.pump import MESSAGE_OVERHEAD, SHARE
from twistedws.gateway.wsgi.clients import Client, Clients
from twistedws.gateway.wsgi.threads import MOST_UNSENT
from twistedws.gateway.wsgi.websocket import WebSocketError
from twistedws.session import Phase


@pytest.fixture
def stage() -> Iterator[Stage]:
    """An application that the test plays."""
    with Stage() as found:
        yield found


def errors(events: Any) -> list[Any]:
    return [each for each in events if each["log_level"] in (LogLevel.error, LogLevel.critical)]


# How it begins


def test_environ(stage: Stage) -> None:
    """The application is called with the environ of the opening handshake, in a thread of its own, and can take its call for WSGI's."""
    live, call = stage.opened(path=b"/chat?x=1")
    assert call.environ["PATH_INFO"] == "/chat"
    assert call.environ["QUERY_STRING"] == "x=1"
    assert call.environ["wsgi.websocket"] is call.websocket
    assert call.environ["wsgi.input"].read() == b""
    assert call.thread is not threading.current_thread()
    assert call.thread.name == f"twistedws session {live.session.id}"
    write = call.do(call.start_response, "101 Switching Protocols", [])
    assert call.do(write, b"nothing of this leaves") is None
    call.end()
    stage.idle()
    assert (live.sent, live.ends) == ([], [("close", 1000, "")])


def test_root_path() -> None:
    """The path below which a proxy serves the application is said in sessions too."""
    with Stage(root_path="/chat") as stage:
        _, call = stage.opened(path=b"/room")
        assert (call.environ["SCRIPT_NAME"], call.environ["PATH_INFO"]) == ("/chat", "/room")


@pytest.mark.parametrize("before", [module.SWITCH_INTERVAL / 2, module.SWITCH_INTERVAL * 2])
def test_threads_that_compute(before: float) -> None:
    """Threads that compute give way sooner than Python's own ones; where somebody has said still sooner, that stands."""
    kept = sys.getswitchinterval()
    try:
        sys.setswitchinterval(before)
        with Stage():
            assert sys.getswitchinterval() == pytest.approx(min(before, module.SWITCH_INTERVAL))
    finally:
        sys.setswitchinterval(kept)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [((b"Sec-WebSocket-Protocol: other, chat",), "chat"), ((b"Sec-WebSocket-Protocol: other",), None), ((), None)],
    ids=["asked for", "not asked for", "nothing asked for"],
)
def test_subprotocol(asked: tuple[bytes, ...], chosen: str | None) -> None:
    """The subprotocol that the application names for a path is taken, if the client has asked for it."""
    paths: list[str] = []

    class Resource:
        """As geventwebsocket.Resource."""

        def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
            return []

        def app_protocol(self, path: str) -> str:
            paths.append(path)
            return "chat"

    with Stage(Resource()) as stage:
        live = stage.open(*asked, path=b"/room?x")
        assert (live.session.subprotocol, paths) == (chosen, ["/room"])


def test_no_subprotocol() -> None:
    """An application may name none for a path."""

    class Resource:
        """As geventwebsocket.Resource."""

        def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
            return []

        def app_protocol(self, path: str) -> str:
            return ""

    with Stage(Resource()) as stage:
        assert stage.open(b"Sec-WebSocket-Protocol: chat").session.subprotocol is None


def test_no_thread_is_free() -> None:
    """A client for which there is no thread is refused with 503, told when to come again, and counted; one that comes then is served."""
    with Stage(threads=1) as stage:
        live, call = stage.opened()
        assert stage.busy == 1
        with capturedLogs() as events, pytest.raises(Refused) as refused:
            stage.open()
        assert (refused.value.status, dict(refused.value.headers)) == (503, {"Retry-After": "5"})
        assert stage.metrics.no_thread == 1
        assert [each["most"] for each in events] == [1]
        call.end()
        live.leave()
        stage.idle()
        again, _ = stage.opened()
        assert again.session.phase is Phase.OPEN
        assert stage.metrics.no_thread == 1


def test_a_thread_that_cannot_be_had_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session whose thread cannot be had once it is open is closed with 1013, and hears nothing."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Stage() as stage:
        live = stage.connecting()
        monkeypatch.setattr(threading.Thread, "start", start)
        with capturedLogs():
            live.session.open(stage.application(live.session), 0.0)
        monkeypatch.undo()
        assert live.ends == [("fail", 1013, "no thread is free")]
        assert live.session.ending == Close(1013, "no thread is free", Cause.INTERNAL_ERROR, By.SERVER)
        assert stage.metrics.no_thread == 1
        live.say("nobody hears it")
        live.leave()
        assert (stage.busy, stage.played.calls) == (0, [])
        stage.clock.advance(1000)
        assert stage.metrics.late_threads == 0


# How it ends


def test_returning(stage: Stage) -> None:
    """An application that returns closes its session with 1000; messages that come later are dropped, and it cannot be used any more."""
    live, call = stage.opened()
    with capturedLogs() as events:
        call.end()
        stage.idle()
    live.say("late")
    assert live.ends == [("close", 1000, "")]
    assert live.session.ending == Close(1000, "", Cause.APPLICATION, By.APPLICATION)
    assert call.environ["wsgi.websocket"] is None
    assert events == []


@pytest.mark.parametrize("error", [ZeroDivisionError("a secret"), SystemExit("a secret"), KeyboardInterrupt("a secret")], ids=repr)
def test_raising(stage: Stage, error: BaseException) -> None:
    """An application that raises, whatever it raises, fails its session with 1011, is logged once, and tells the peer nothing."""
    live, call = stage.opened()
    with capturedLogs() as events:
        call.end_with(error)
        stage.idle()
    assert live.ends == [("fail", 1011, "")]
    assert live.session.ending == Close(1011, "", Cause.APPLICATION_ERROR, By.SERVER)
    assert [each["log_failure"].value for each in events] == [error]
    assert "secret" not in repr(live.wire.calls)


def test_raising_the_error_of_another_session(stage: Stage) -> None:
    """An application that lets through the error of a send elsewhere has failed, while its own session is there."""
    live, call = stage.opened()
    with capturedLogs() as events:
        call.end_with(WebSocketError("Socket is dead"))
        stage.idle()
    assert live.ends == [("fail", 1011, "")]
    assert len(errors(events)) == 1


def test_its_own_end_is_no_fault(stage: Stage) -> None:
    """An application that lets through the error that tells it of the end of its own session has ended as expected."""
    live, call = stage.opened()
    live.leave()
    with capturedLogs() as events:
        with pytest.raises(WebSocketError) as caught:
            call.do(call.websocket.send, "x")
        call.end_with(caught.value)
        stage.idle()
    assert (events, live.ends) == ([], [])


def test_raising_after_the_end(stage: Stage) -> None:
    """An application that raises when its session has ended is logged, and changes nothing."""
    live, call = stage.opened()
    live.leave()
    with capturedLogs() as events:
        call.end_with(ZeroDivisionError())
        stage.idle()
    assert len(errors(events)) == 1
    assert live.ends == []


@pytest.mark.parametrize(
    ("status", "end", "logged"),
    [
        ("200 OK", ("close", 1000, ""), 0),
        ("101 Switching Protocols", ("close", 1000, ""), 0),
        ("302 Found", ("close", 1000, ""), 0),
        ("404 Not Found", ("close", 1008, ""), 1),
        ("403", ("close", 1008, ""), 1),
        ("500 Internal Server Error", ("fail", 1011, ""), 1),
        ("nonsense", ("close", 1000, ""), 0),
    ],
)
def test_an_answer(stage: Stage, status: str, end: tuple[object, ...], logged: int) -> None:
    """An application that answers as if to a plain request closes its session accordingly, and the log has the status of an error."""
    live, call = stage.opened(path=b"/nowhere")
    with capturedLogs() as events:
        call.do(call.start_response, status, [("Content-Type", "text/plain")])
        call.end([b"not found"])
        stage.idle()
    assert live.ends == [end]
    assert [each["path"] for each in events] == ["/nowhere"] * logged
    assert live.sent == []


def test_an_answer_after_the_end(stage: Stage) -> None:
    """An answer to a peer that has gone is no news."""
    live, call = stage.opened()
    live.leave()
    with capturedLogs() as events:
        call.do(call.start_response, "404 Not Found", [])
        call.end()
        stage.idle()
    assert (events, live.ends) == ([], [])


def test_the_latest_answer(stage: Stage) -> None:
    """An answer that an error page replaces is not the one that counts."""
    live, call = stage.opened()
    with capturedLogs():
        call.do(call.start_response, "200 OK", [])
        call.do(call.start_response, "500 Oops", [], (None, None, None))
        call.end()
        stage.idle()
    assert live.ends == [("fail", 1011, "")]


class Result:
    """What an application returns: it is iterated over, and closed."""

    def __init__(self, websocket: Any = None, *, raises: bool = False) -> None:
        self.websocket, self.raises = websocket, raises
        self.seen: list[str] = []

    def __iter__(self) -> Iterator[bytes]:
        for number in range(3):
            self.seen.append(str(number))
            if self.websocket is not None:
                self.websocket.send(str(number))
            yield b"nothing of this leaves"
        if self.raises:
            raise ZeroDivisionError

    def close(self) -> None:
        self.seen.append("closed")


def test_a_result_is_iterated_over(stage: Stage) -> None:
    """An application may do its work while its result is iterated over, which is then closed; then its session ends."""
    live, call = stage.opened()
    result = Result(call.websocket)
    call.end(result)
    stage.idle()
    assert result.seen == ["0", "1", "2", "closed"]
    assert (live.sent, live.ends) == (["0", "1", "2"], [("close", 1000, "")])


def test_a_result_that_raises(stage: Stage) -> None:
    """A result that raises is closed, and the session fails."""
    live, call = stage.opened()
    result = Result(raises=True)
    with capturedLogs() as events:
        call.end(result)
        stage.idle()
    assert result.seen == ["0", "1", "2", "closed"]
    assert (live.ends, len(errors(events))) == ([("fail", 1011, "")], 1)


def test_a_result_when_the_peer_has_gone(stage: Stage) -> None:
    """The result is not iterated over to its end for a peer that has gone, but it is closed."""
    live, call = stage.opened()
    live.leave()
    result = Result()
    call.end(result)
    stage.idle()
    assert result.seen == ["0", "closed"]


def test_no_result(stage: Stage) -> None:
    """An application may return nothing at all."""
    live, call = stage.opened()
    call.end(None)
    stage.idle()
    assert live.ends == [("close", 1000, "")]


def test_what_was_sent_leaves_first(stage: Stage) -> None:
    """All that the application sent before it returned leaves before the close frame, however slow the peer is."""
    live, call = stage.opened()

    def slow() -> None:
        if len(live.sent) == 2:
            live.session.congest()

    live.wire.on_send = slow  # type: ignore[attr-defined]

    def talk() -> None:
        for number in range(5):
            call.websocket.send(str(number))

    call.do(talk)
    call.end()
    stage.idle()  # its thread is free already
    assert (live.sent, live.ends) == (["0", "1"], [])
    live.session.decongest()
    assert (live.sent, live.ends) == (["0", "1", "2", "3", "4"], [("close", 1000, "")])
    assert live.order[-1] == "close"


def test_what_was_sent_leaves_before_a_failure(stage: Stage) -> None:
    """So it is when the application raises."""
    live, call = stage.opened()
    with capturedLogs():
        call.do(call.websocket.send, "last words")
        call.end_with(ZeroDivisionError())
        stage.idle()
    assert live.order == ["send_framed", "fail"]


def test_a_close_of_its_own(stage: Stage) -> None:
    """The close that the application asked for is the one that its peer sees, when it returns thereafter too."""
    live, call = stage.opened()
    call.do(call.websocket.close, 4000, "enough")
    call.end()
    stage.idle()
    assert live.ends == [("close", 4000, "enough")]


def test_reading_goes_on_when_it_has_returned() -> None:
    """Reading that was paused for an application that returns goes on: the peer's close frame is behind what it did not receive."""
    with Stage(inbox_size=100) as stage:
        live, call = stage.opened()
        live.session.congested = True  # so that its session does not end at once
        live.say("x" * 1000)
        assert live.session.held
        call.end()
        stage.idle()
        assert not live.session.held
        live.say("y" * 1000)
        assert not live.session.held


# A thread that runs on


def test_a_thread_that_runs_on() -> None:
    """A thread that does not return after its connection was gone is reported once, with its place; when it returns, that is told."""
    with Stage(application_close_timeout=3) as stage:
        live, call = stage.opened()
        gate = threading.Event()

        def waits_here() -> None:
            gate.wait()

        outcome = call.begin(waits_here)
        until(lambda: "waits_here" in live.handler._job.stack())
        live.leave()
        with capturedLogs() as events:
            stage.clock.advance(2.9)
            assert events == []
            stage.clock.advance(0.2)
            stage.clock.advance(100)
        (event,) = events
        assert event["log_level"] is LogLevel.warn
        assert event["what"] == f"session={live.session.id}"
        assert event["seconds"] == 3
        assert f"waits_here ({__file__}:" in event["stack"]
        assert stage.metrics.late_threads == 1
        assert stage.busy == 1
        with capturedLogs() as events:
            gate.set()
            call.end()
            stage.idle()
        assert outcome.done()
        assert [each["log_format"] for each in events] == ["the thread of {what} has returned after all"]
        assert stage.metrics.late_threads == 1


def test_a_thread_that_returns_in_time() -> None:
    """A thread that returns in its time after the connection is not reported."""
    with Stage(application_close_timeout=3) as stage:
        live, call = stage.opened()
        live.leave()
        with capturedLogs() as events:
            stage.clock.advance(2.9)
            call.end()
            stage.idle()
            stage.clock.advance(100)
        assert (events, stage.metrics.late_threads, stage.clock.getDelayedCalls()) == ([], 0, [])


def test_a_thread_that_has_returned_before() -> None:
    """A connection that goes after its application has returned is not waited for by anybody."""
    with Stage(application_close_timeout=3) as stage:
        live, call = stage.opened()
        call.end()
        stage.idle()
        live.leave()
        assert stage.clock.getDelayedCalls() == []


def test_no_report() -> None:
    """With application-close-timeout 0 a thread may run on for ever."""
    with Stage(application_close_timeout=0) as stage:
        live, _ = stage.opened()
        live.leave()
        assert stage.clock.getDelayedCalls() == []


# Drains


class Drain:
    """A drain of one session, that notes when it goes on."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.sent: list[list[str | bytes]] = []  # what had left when it went on
        live.session.drain(1001, "going away", lambda close: setattr(self, "close", close))
        self.close: Any

    @property
    def has_proceeded(self) -> bool:
        return bool(self.live.ends)


def test_draining_an_idle_session(stage: Stage) -> None:
    """A session whose application waits for a message goes at once."""
    live, call = stage.opened()
    receiving = call.begin(call.websocket.receive)
    until(lambda: live.is_receiving)
    Drain(live)
    assert live.ends == [("close", 1001, "going away")]
    assert live.session.ending == Close(1001, "going away", Cause.DRAIN, By.SERVER)
    assert not receiving.done()


def test_draining_a_busy_session(stage: Stage) -> None:
    """A session goes once all messages that came are answered, and not before the answers have left."""
    live, call = stage.opened()
    live.say("1", "2")
    assert call.do(call.websocket.receive) == "1"
    drain = Drain(live)
    stage.reactor.turn()
    assert not drain.has_proceeded
    call.do(call.websocket.send, "answer 1")
    assert call.do(call.websocket.receive) == "2"
    stage.reactor.turn()
    assert not drain.has_proceeded
    call.do(call.websocket.send, "answer 2")
    assert not drain.has_proceeded
    call.begin(call.websocket.receive)
    stage.until(lambda: drain.has_proceeded)
    assert live.order[-3:] == ["send_framed", "send_framed", "close"]
    assert live.ends == [("close", 1001, "going away")]


def test_draining_one_that_never_receives(stage: Stage) -> None:
    """A session whose application only sends, and to which nothing came, goes at once; the application hears it by its next send."""
    live, call = stage.opened()
    call.do(call.websocket.send, "x")
    stage.until(lambda: live.sent)
    Drain(live)
    assert live.ends == [("close", 1001, "going away")]
    call.do(call.websocket.send, "y")
    stage.until(lambda: live.handler.is_ended)
    with pytest.raises(WebSocketError):
        call.do(call.websocket.send, "z")


def test_draining_one_that_has_not_asked_yet(stage: Stage) -> None:
    """A session goes when what came is answered, also if its application has not come to ask for it before the drain."""
    live, call = stage.opened()
    live.say("a")
    drain = Drain(live)
    assert not drain.has_proceeded
    call.do(call.websocket.send, call.do(call.websocket.receive))
    outcome = call.begin(call.websocket.receive)
    until(lambda: live.is_receiving)
    stage.until(lambda: drain.has_proceeded)
    assert (live.sent, live.ends) == (["a"], [("close", 1001, "going away")])
    live.leave()
    stage.until(outcome.done)


def test_in_the_reactors_thread(stage: Stage) -> None:
    """Handlers of signals and finalizers may send in the reactor's thread, which waits for nobody; nothing is received there."""
    live, call = stage.opened()
    live.session.congest()
    for _ in range(3):
        call.websocket.send("x" * MOST_UNSENT)
    with pytest.raises(RuntimeError, match="the reactor's thread"):
        call.websocket.receive()
    live.session.decongest()
    stage.until(lambda: len(live.sent) == 3)


def test_draining_one_that_returns(stage: Stage) -> None:
    """A session whose application returns meanwhile goes with the drain's code, behind what it sent."""
    live, call = stage.opened()
    live.say("1")
    call.do(call.websocket.receive)
    drain = Drain(live)
    assert not drain.has_proceeded
    call.do(call.websocket.send, "answer")
    call.end()
    stage.idle()
    assert live.ends == [("close", 1001, "going away")]
    assert live.order[-2:] == ["send_framed", "close"]


def test_draining_one_that_raises(stage: Stage) -> None:
    """A session whose application raises meanwhile fails as ever."""
    live, call = stage.opened()
    live.say("1")
    call.do(call.websocket.receive)
    Drain(live)
    with capturedLogs():
        call.end_with(ZeroDivisionError())
        stage.idle()
    assert live.ends == [("fail", 1011, "")]


def test_draining_one_whose_last_words_wait(stage: Stage) -> None:
    """A session whose application has returned, and whose peer is slow, goes once it has taken what was sent."""
    live, call = stage.opened()
    live.say("1")
    call.do(call.websocket.receive)

    def talk() -> None:
        call.websocket.send("a")
        call.websocket.send("b")

    live.wire.on_send = live.session.congest  # type: ignore[attr-defined]
    call.do(talk)
    call.end()
    stage.idle()
    Drain(live)
    assert (live.sent, live.ends) == (["a"], [])
    live.wire.on_send = lambda: None  # type: ignore[attr-defined]
    live.session.decongest()
    assert (live.sent, live.ends) == (["a", "b"], [("close", 1001, "going away")])


def waiting_answers(stage: Stage, *, receives: bool) -> tuple[Live, Call]:
    """A session some of whose output waits in its outbox when a drain begins, because its peer is slow."""
    live, call = stage.opened()
    if receives:
        live.say("1")
        call.do(call.websocket.receive)

    def talk() -> None:
        call.websocket.send("a")
        call.websocket.send("b")

    live.wire.on_send = live.session.congest  # type: ignore[attr-defined]
    call.do(talk)
    stage.reactor.turn()
    live.wire.on_send = lambda: None  # type: ignore[attr-defined]
    assert (live.sent, live.handler.is_empty) == (["a"], False)
    return live, call


@pytest.mark.parametrize("receives", [True, False])
def test_draining_one_whose_peer_is_slow(stage: Stage, receives: bool) -> None:
    """A session whose messages are all answered goes once a slow peer has taken the answers."""
    live, call = waiting_answers(stage, receives=receives)
    drain = Drain(live)
    if receives:
        call.begin(call.websocket.receive)
        until(lambda: live.is_receiving)
    stage.reactor.turn()
    assert not drain.has_proceeded
    live.session.decongest()
    stage.reactor.turn()
    assert (live.sent, live.ends) == (["a", "b"], [("close", 1001, "going away")])


def test_draining_one_that_has_just_sent(stage: Stage) -> None:
    """A session whose application only sends, and has just sent something, goes behind that."""
    live, call = stage.opened()
    outcome = call.begin(call.websocket.send, "x")
    until(outcome.done)
    assert not live.handler.is_empty
    Drain(live)
    stage.reactor.turn()
    assert (live.sent, live.ends) == (["x"], [("close", 1001, "going away")])


def test_draining_one_that_has_sent_much(stage: Stage) -> None:
    """A session goes behind answers that take more than one turn of the loop."""
    live, call = stage.opened()
    live.say("1")
    call.do(call.websocket.receive)
    Drain(live)

    def talk() -> None:
        call.websocket.send(b"x" * (SHARE // 2 - MESSAGE_OVERHEAD))
        call.websocket.send(b"x" * (SHARE // 2 - MESSAGE_OVERHEAD))
        call.websocket.send(b"end")
        call.websocket.receive()

    call.begin(talk)
    until(lambda: live.is_receiving)
    stage.until(lambda: len(live.sent) == 3)
    stage.reactor.turn()
    assert live.order[-2:] == ["send_framed", "close"]
    assert live.ends == [("close", 1001, "going away")]


def test_gevent_in_a_thread(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that uses gevent in its threads is told, once, that greenlets stand still there."""
    hub_local = ModuleType("gevent._hub_local")
    hub_local.get_hub_if_exists = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gevent._hub_local", hub_local)
    with capturedLogs() as events:
        stage.opened()[1].end()
        stage.idle()
        assert events == []
        monkeypatch.setattr(hub_local, "get_hub_if_exists", Hub)
        for _ in range(2):
            stage.opened()[1].end()
            stage.idle()
    assert ["gevent" in each["log_format"] for each in events] == [True]


class Hub:
    """As gevent's, which a thread has if it uses it."""

    def destroy(self, **how: bool) -> None: ...


# The other sessions


def test_active_client(stage: Stage) -> None:
    """A session has its entry among the server's clients while it lives: by its address, with its WebSocket."""
    _, call = stage.opened()
    handler = call.websocket.handler
    assert handler.client_address == ("192.0.2.1", 5)
    assert handler.server.application is stage.played
    client = handler.server.clients["192.0.2.1", 5]
    assert client is handler.active_client
    assert (client.address, client.ws) == (("192.0.2.1", 5), call.websocket)
    client.nickname = "anybody"
    call.end()
    stage.idle()
    assert dict(handler.server.clients) == {}


def test_clients_of_one_address(stage: Stage) -> None:
    """Clients that cannot be told apart by their address, as behind a proxy or a UNIX socket, are all there."""
    nobody = Endpoints(None, None, False)
    _, first = stage.opened()
    _, second = stage.opened()
    third, by_proxy = stage.opened(endpoints=Endpoints(("203.0.113.7", 0), None, False))
    fourth, by_path = stage.opened(endpoints=nobody)
    clients = first.websocket.handler.server.clients
    assert len(clients) == 4
    assert clients["192.0.2.1", 5].ws is first.websocket
    assert clients[second.websocket.handler.client_address].ws is second.websocket
    assert by_proxy.websocket.handler.client_address == ("203.0.113.7", 0, third.session.id)
    assert by_path.websocket.handler.client_address == ("", 0, fourth.session.id)
    assert by_path.websocket.handler.active_client.address == ("", 0)


def test_clients_of_a_session_that_raises(stage: Stage) -> None:
    """A session whose application raises is no client any more."""
    _, call = stage.opened()
    clients = call.websocket.handler.server.clients
    with capturedLogs():
        call.end_with(ZeroDivisionError())
        stage.idle()
    assert len(clients) == 0


def test_a_broadcast(stage: Stage) -> None:
    """A message to all, as applications write it, reaches each session."""
    lives, calls = zip(*[stage.opened(endpoints=Endpoints(("192.0.2.1", port), None, False)) for port in range(1, 5)], strict=True)

    def broadcast() -> None:
        for client in calls[0].websocket.handler.server.clients.values():
            client.ws.send("to all")

    calls[0].do(broadcast)
    stage.until(lambda: all(each.sent for each in lives))
    assert [each.sent for each in lives] == [["to all"]] * 4


def test_iterating_while_others_come_and_go() -> None:
    """Who iterates over the clients in any of the usual ways sees those of the beginning, though others come and go meanwhile."""
    websocket: Any = object()
    clients = Clients({number: Client(("192.0.2.1", number), websocket) for number in range(10)})
    for ways in (clients.__iter__, clients.keys, clients.values, clients.items):
        seen = 0
        for each in ways():
            clients[f"beside {each}"] = Client(("192.0.2.2", seen), websocket)
            clients.pop(next(iter(clients)))
            seen += 1
        assert seen == len(clients) == 10
    assert list(clients) == [key for key, _ in clients.items()]


def test_threads_come_and_go_among_the_clients() -> None:
    """Two threads that add and remove clients without end disturb no third one that iterates."""
    clients, is_over = Clients(), threading.Event()
    websocket: Any = object()

    def come_and_go(host: str) -> None:
        while not is_over.is_set():
            for number in range(50):
                clients[host, number] = Client((host, number), websocket)
            for number in range(50):
                clients.pop((host, number))

    threads = [threading.Thread(target=come_and_go, args=(host,), daemon=True) for host in ("192.0.2.1", "192.0.2.2")]
    for each in threads:
        each.start()
    try:
        for _ in range(200):
            assert all(isinstance(client, Client) for client in clients.values())
            assert all(client.address == address for address, client in clients.items())
            assert all(len(address) == 2 for address in clients)
    finally:
        is_over.set()
        for each in threads:
            each.join()
