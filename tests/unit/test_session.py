"""The life of a session, on a wire that takes notes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.logger import LogLevel, capturedLogs

from tests.support.wire import REQUEST, FakeWire, FlowRecorder, Recorder, make_session, open_session
from twistedws.errors import By, Cause, Close
from twistedws.session import Application, Hold, Phase, Session, SlowConsumer, application

APPLICATION_RAISED = Close(1011, "", Cause.APPLICATION_ERROR, By.SERVER)


# --- The life ------------------------------------------------------------------------------------------------


def test_a_session_starts_connecting() -> None:
    """A new session knows its request and its peer, and nothing has happened on it."""
    wire = FakeWire()
    session = make_session(wire)
    assert (session.phase, session.request, session.peer, session.scheme) == (Phase.CONNECTING, REQUEST, "192.0.2.1:5", "ws")
    assert (session.subprotocol, session.rtt, session.ending, session.congested, session.held) == (None, None, None, False, False)
    assert (session.messages_in, session.messages_out, session.octets_in, session.octets_out, session.dropped) == (0, 0, 0, 0, 0)
    assert wire.calls == []


def test_each_session_has_a_name() -> None:
    """Sessions are told apart by twelve hexadecimal digits."""
    names = {make_session().id for _ in range(100)}
    assert len(names) == 100
    assert all(len(each) == 12 and int(each, 16) >= 0 for each in names)


def test_state_is_kept_and_not_shared() -> None:
    """The application's dictionary is the same each time, and each session's own."""
    one, other = make_session(), make_session()
    one.state["user"] = 1
    assert one.state == {"user": 1}
    assert other.state == {}


def test_buffered_is_what_the_wire_holds() -> None:
    """``buffered`` is the wire's own count."""
    wire = FakeWire()
    wire.waiting = 17
    assert make_session(wire).buffered == 17


def test_opening() -> None:
    """The handler hears of the opening; the time is noted, the headers of the answer are dropped."""
    handler, session = Recorder(), make_session()
    session.response_headers.append(("Set-Cookie", "a=b"))
    session.open(handler, 12.5)
    assert (session.phase, session.opened_at, session.response_headers) == (Phase.OPEN, 12.5, [])
    assert handler.heard == [("opened",)]


def test_messages_are_delivered_and_counted() -> None:
    """The handler gets each message as it came; messages and the octets of their payloads are counted."""
    handler = Recorder()
    session = open_session(handler=handler)
    session.deliver("grün", 5)
    session.deliver(b"\x00\xff", 2)
    assert handler.heard[1:] == [("received", "grün"), ("received", b"\x00\xff")]
    assert (session.messages_in, session.octets_in) == (2, 7)


def test_messages_come_in_until_the_peer_has_closed_too() -> None:
    """What the peer sends before it answers our close is still delivered."""
    handler = Recorder()
    session = open_session(handler=handler)
    session.close()
    session.deliver("late", 4)
    assert ("received", "late") in handler.heard


@pytest.mark.parametrize("cause", [Cause.FIN, Cause.RESET, Cause.TLS_ERROR])
def test_a_lost_connection_is_1006(cause: Cause) -> None:
    """With no close before it, a connection that is gone ended with 1006 and the wire's cause."""
    handler = Recorder()
    session = open_session(handler=handler)
    session.lost(cause)
    assert session.phase is Phase.CLOSED
    assert handler.heard[1:] == [("closed", Close(1006, "", cause, By.CLIENT))]


def test_a_connection_lost_twice_is_told_once() -> None:
    """``closed`` is heard once, with the first cause."""
    handler = Recorder()
    session = open_session(handler=handler)
    session.lost(Cause.FIN)
    session.lost(Cause.RESET)
    assert handler.heard[1:] == [("closed", Close(1006, "", Cause.FIN, By.CLIENT))]


def test_a_lost_session_holds_nothing() -> None:
    """A session that was paused when its connection went is paused no more, and asks the wire for nothing."""
    wire = FakeWire()
    session = open_session(wire)
    session.pause()
    session.lost(Cause.RESET)
    assert not session.held
    session.resume()
    assert wire.calls == [("pause",)]


def test_who_never_opened_is_never_closed() -> None:
    """A connection that is lost while connecting has an ending, and no handler that hears of it."""
    session = make_session()
    session.lost(Cause.FIN)
    assert (session.phase, session.ending) == (Phase.CLOSED, Close(1006, "", Cause.FIN, By.CLIENT))


# --- Sending -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "payload", "text"),
    [
        ("grün", b"gr\xc3\xbcn", True),
        ("", b"", True),
        (b"\x00\xff", b"\x00\xff", False),
        (bytearray(b"ab"), b"ab", False),
        (memoryview(b"abcd")[1:3], b"bc", False),
        (memoryview(b"abcdef")[::2], b"ace", False),
    ],
)
def test_sending(message: str | bytes, payload: bytes, text: bool) -> None:
    """Text goes as UTF-8 text, any kind of bytes as binary; what went is counted."""
    wire = FakeWire()
    session = open_session(wire)
    assert session.send(message) is True
    assert wire.calls == [("send", payload, text)]
    assert (session.messages_out, session.octets_out) == (1, len(payload))


def test_what_is_sent_is_a_copy() -> None:
    """A buffer that changes after it was sent changes nothing of the message."""
    wire, buffer = FakeWire(), bytearray(b"before")
    open_session(wire).send(buffer)
    buffer[:] = b"after!"
    assert wire.calls == [("send", b"before", False)]


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("message", [None, 1, ["a"], {"a": 1}])
def test_only_text_and_bytes_are_sent(message: Any, phase: Phase) -> None:
    """Anything else is the application's mistake, and told as such whatever the phase."""
    session = _in_phase(phase)
    with pytest.raises(TypeError, match=type(message).__name__):
        session.send(message)


def test_lone_surrogates_are_not_sent() -> None:
    """Text that UTF-8 cannot carry raises where it is sent, and the session lives on."""
    wire = FakeWire()
    session = open_session(wire)
    with pytest.raises(UnicodeEncodeError):
        session.send("a\ud800")
    assert (wire.calls, session.messages_out, session.phase) == ([], 0, Phase.OPEN)


@pytest.mark.parametrize("phase", [Phase.CONNECTING, Phase.CLOSING, Phase.CLOSED])
def test_nothing_is_sent_unless_open(phase: Phase) -> None:
    """Before the opening and after the end ``send`` says that it did nothing, and raises nothing."""
    session = _in_phase(phase)
    assert session.send("x") is False
    assert session.messages_out == 0
    assert _wire(session).named("send") == []


# --- Bounds on output ----------------------------------------------------------------------------------------

BOUNDS: list[tuple[SlowConsumer, list[tuple[object, ...]], Close | None]] = [
    ("drop-newest", [], None),
    ("close", [("close", 1013, "slow consumer")], Close(1013, "slow consumer", Cause.SLOW_CONSUMER, By.SERVER)),
    ("abort", [("abort",)], Close(1006, "", Cause.SLOW_CONSUMER, By.SERVER)),
]


@pytest.mark.parametrize(("policy", "calls", "ending"), BOUNDS)
def test_a_slow_consumer(policy: SlowConsumer, calls: list[tuple[object, ...]], ending: Close | None) -> None:
    """A message that would exceed the queue of a congested session is not sent but counted, and the policy says what else."""
    wire = FakeWire()
    session = open_session(wire, queue_size=10, slow_consumer=policy)
    session.congest()
    wire.waiting = 6
    assert session.send("four")
    wire.calls.clear()
    assert not session.send("5 and")
    assert [each for each in wire.calls if each[0] not in ("pause", "resume")] == calls
    assert (session.dropped, session.messages_out, session.ending) == (1, 1, ending)


@pytest.mark.parametrize(("queue_size", "congested"), [(10, False), (0, True), (0, False)])
def test_no_bound_without_congestion_or_size(queue_size: int, congested: bool) -> None:
    """The bound holds only where there is one, and only while the peer takes less than it is sent."""
    wire = FakeWire()
    session = open_session(wire, queue_size=queue_size)
    wire.waiting = 10**9
    if congested:
        session.congest()
    assert session.send(b"x" * 100)
    assert session.dropped == 0


def test_after_drops_there_is_room_again() -> None:
    """With ``drop-newest`` the session lives on, and sends as soon as there is room."""
    wire = FakeWire()
    session = open_session(wire, queue_size=10, slow_consumer="drop-newest")
    session.congest()
    wire.waiting = 10
    assert [session.send("x"), session.send("y")] == [False, False]
    wire.waiting = 9
    assert session.send("z")
    assert (session.dropped, session.messages_out) == (2, 1)


# --- Ends ----------------------------------------------------------------------------------------------------


def test_closing() -> None:
    """``close`` sends code and reason once; the handler hears of the end when the connection is gone, with that code."""
    wire, handler = FakeWire(), Recorder()
    session = open_session(wire, handler)
    session.close(4000, "bye")
    session.close(4001, "again")
    assert session.phase is Phase.CLOSING
    assert wire.calls == [("close", 4000, "bye")]
    assert handler.heard == [("opened",)]
    session.lost(Cause.FIN)
    assert handler.heard[1:] == [("closed", Close(4000, "bye", Cause.APPLICATION, By.APPLICATION))]


def test_closing_for_another() -> None:
    """Whoever closes on behalf of somebody else says why and who."""
    session = open_session()
    session.close(1012, cause=Cause.OPERATOR, by=By.OPERATOR)
    assert session.ending == Close(1012, "", Cause.OPERATOR, By.OPERATOR)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, "1000", 1000.0, None, True])
def test_codes_that_cannot_be_sent(code: Any, phase: Phase) -> None:
    """A code that may not stand in a close frame raises whatever the phase, and changes nothing."""
    session = _in_phase(phase)
    before = list(_wire(session).calls)
    with pytest.raises(ValueError, match="close code"):
        session.close(code)
    assert session.phase is phase
    assert _wire(session).calls == before


def test_closing_what_is_not_open_yet() -> None:
    """A session that is connecting is refused, not closed."""
    with pytest.raises(RuntimeError, match="Refused"):
        make_session().close()


def test_closing_what_has_ended() -> None:
    """``close`` on a session that is gone does nothing."""
    session = _in_phase(Phase.CLOSED)
    session.close()
    assert _wire(session).named("close") == []


@pytest.mark.parametrize(("reason", "kept"), [("x" * 124, "x" * 123), ("x" * 122 + "é", "x" * 122), ("a\ud800", "a?")])
def test_a_long_reason_is_cut(reason: str, kept: str) -> None:
    """The reason that is told is the one that fits into the frame, whoever closes."""
    closed, failed = open_session(), open_session()
    closed.close(1000, reason)
    failed.fail(1002, reason, Cause.PROTOCOL_ERROR)
    assert [each.ending and each.ending.reason for each in (closed, failed)] == [kept, kept]


def test_failing() -> None:
    """``fail`` sends the code, looks at no further input, and is the server's."""
    wire = FakeWire()
    session = open_session(wire)
    session.fail(1002, "why", Cause.PROTOCOL_ERROR)
    assert wire.calls == [("fail", 1002, "why")]
    assert (session.phase, session.ending) == (Phase.CLOSING, Close(1002, "why", Cause.PROTOCOL_ERROR, By.SERVER))


def test_failing_while_closing() -> None:
    """What the peer breaks after our close ends the reading, and leaves the cause."""
    wire = FakeWire()
    session = open_session(wire)
    session.close(1000)
    session.fail(1002, "why", Cause.PROTOCOL_ERROR)
    assert wire.calls == [("close", 1000, ""), ("fail", 1002, "why")]
    assert session.ending == Close(1000, "", Cause.APPLICATION, By.APPLICATION)


@pytest.mark.parametrize("phase", [Phase.CONNECTING, Phase.OPEN])
def test_aborting(phase: Phase) -> None:
    """``abort`` ends the connection at once, with 1006 and the application's cause, before the opening too."""
    session = _in_phase(phase)
    session.abort()
    assert session.phase is Phase.CLOSING
    assert session.ending == Close(1006, "", Cause.APPLICATION, By.APPLICATION)
    assert _wire(session).calls == [("abort",)]


def test_aborting_while_closing() -> None:
    """``abort`` cuts a close short, and leaves code and cause."""
    session = _in_phase(Phase.CLOSING)
    ending = session.ending
    session.abort(Cause.DRAIN, By.SERVER)
    assert session.ending is ending
    assert _wire(session).named("abort") == [("abort",)]


def test_aborting_what_has_ended() -> None:
    """``abort`` on a session that is gone does nothing."""
    session = _in_phase(Phase.CLOSED)
    session.abort()
    assert _wire(session).calls == []


@pytest.mark.parametrize(("code", "told"), [(1000, 1000), (1001, 1001), (4999, 4999), (None, 1005)])
def test_the_peer_closes(code: int | None, told: int) -> None:
    """The peer's code and reason are the end's; a close frame without a code is 1005."""
    session = open_session()
    session.peer_closed(code, "bye")
    assert session.phase is Phase.CLOSING
    assert session.ending == Close(told, "bye", Cause.CLIENT, By.CLIENT)


def test_the_peer_answers() -> None:
    """The peer's answer to our close changes nothing."""
    session = open_session()
    session.close(4000, "ours")
    session.peer_closed(1000, "theirs")
    assert session.ending == Close(4000, "ours", Cause.APPLICATION, By.APPLICATION)


# --- Pausing -------------------------------------------------------------------------------------------------


def test_pausing() -> None:
    """Reading stops with ``pause`` and goes on with ``resume``; doing either twice is doing it once."""
    wire = FakeWire()
    session = open_session(wire)
    session.pause()
    session.pause()
    assert session.held
    session.resume()
    session.resume()
    assert not session.held
    assert wire.calls == [("pause",), ("resume",)]


def test_reading_goes_on_when_nobody_minds() -> None:
    """Of several who hold the reading, the last that lets go lets it go on; a pong that waited unread is not missed."""
    wire = FakeWire()
    session = open_session(wire)
    session.pinged_mark = 5
    session.pause()
    session.congest()
    session.hold(Hold.DRAIN)
    session.resume()
    session.release(Hold.DRAIN)
    assert (wire.calls, session.pinged_mark) == ([("pause",)], 5)
    session.decongest()
    assert (wire.calls, session.pinged_mark) == ([("pause",), ("resume",)], -1)


@pytest.mark.parametrize("phase", [Phase.CONNECTING, Phase.CLOSING, Phase.CLOSED])
def test_only_an_open_session_pauses(phase: Phase) -> None:
    """Before the opening, and once the session ends, reading is nobody's to stop."""
    session = _in_phase(phase)
    before = list(_wire(session).calls)
    session.pause()
    session.resume()
    assert not session.held
    assert _wire(session).calls == before


ENDS: list[Callable[[Session], None]] = [
    lambda session: session.close(),
    lambda session: session.abort(),
    lambda session: session.fail(1002, "", Cause.PROTOCOL_ERROR),
    lambda session: session.peer_closed(1000, ""),
]


@pytest.mark.parametrize("end", ENDS, ids=["close", "abort", "fail", "peer_closed"])
def test_a_paused_session_reads_on_to_its_end(end: Callable[[Session], None]) -> None:
    """When a session begins to end its reading goes on, since the peer's close frame must be heard; later holds are ignored."""
    wire = FakeWire()
    session = open_session(wire)
    session.pause()
    session.congest()
    end(session)
    session.pause()
    session.release(Hold.OUTPUT)
    assert not session.held
    assert wire.named("pause", "resume") == [("pause",), ("resume",)]


def test_congestion_stops_reading() -> None:
    """While the peer takes less than it is sent, it is not listened to; a handler without ``writable`` hears nothing of it."""
    wire, handler = FakeWire(), Recorder()
    session = open_session(wire, handler)
    session.congest()
    assert (session.congested, session.held) == (True, True)
    session.decongest()
    assert (session.congested, session.held) == (False, False)
    assert wire.calls == [("pause",), ("resume",)]
    assert handler.heard == [("opened",)]


def test_a_handler_hears_that_there_is_room() -> None:
    """``writable`` is called when the output has left, and may send."""
    handler = FlowRecorder()
    session = open_session(handler=handler)
    session.congest()
    session.decongest()
    assert handler.heard == [("opened",), ("writable",)]


# --- Draining ------------------------------------------------------------------------------------------------


def _never(_: Callable[[], None]) -> None:
    raise AssertionError("nobody asked to be heard first")


def test_draining_closes() -> None:
    """A handler without ``draining`` is closed at once, for the server's cause."""
    wire = FakeWire()
    session = open_session(wire)
    session.drain(1012, "service restart", _never)
    assert wire.calls == [("close", 1012, "service restart")]
    assert session.ending == Close(1012, "service restart", Cause.DRAIN, By.SERVER)


@pytest.mark.parametrize("who", ["handler", "deadline"])
def test_draining_waits_for_the_handler(who: str) -> None:
    """A handler with ``draining`` answers what it has got while nothing more is read; then it, or the deadline, closes once."""
    wire, handler, deadlines = FakeWire(), FlowRecorder(), list[Callable[[], None]]()
    session = open_session(wire, handler)
    session.drain(1012, "service restart", deadlines.append)
    assert handler.heard == [("opened",), ("draining",)]
    assert (wire.calls, session.phase) == ([("pause",)], Phase.OPEN)
    assert session.send("the answer")
    assert handler.proceed is not None
    closes = [handler.proceed, *deadlines]
    for close in closes if who == "handler" else closes[::-1]:
        close()
    assert wire.calls == [("pause",), ("send", b"the answer", True), ("resume",), ("close", 1012, "service restart")]


@pytest.mark.parametrize("phase", [Phase.CONNECTING, Phase.CLOSING, Phase.CLOSED])
def test_only_an_open_session_is_drained(phase: Phase) -> None:
    """A session that is ending anyway, or is none yet, is left alone."""
    session = _in_phase(phase, FlowRecorder())
    before = list(_wire(session).calls)
    session.drain(1012, "service restart", _never)
    assert _wire(session).calls == before


# --- An application that raises ------------------------------------------------------------------------------

RAISES: dict[str, Callable[[Session], None]] = {
    "opened": lambda _: None,
    "received": lambda session: session.deliver("x", 1),
    "writable": lambda session: session.decongest(),
    "draining": lambda session: session.drain(1012, "", lambda _: None),
}


@pytest.mark.parametrize("callback", RAISES)
def test_an_application_that_raises(callback: str) -> None:
    """Whatever raises is logged once with the session's name, and ends the session with 1011 and no word of why."""
    wire, handler = FakeWire(), FlowRecorder(raises=callback)
    with capturedLogs() as events:
        session = open_session(wire, handler)
        RAISES[callback](session)
        session.lost(Cause.FIN)
    assert wire.named("fail", "close", "abort") == [("fail", 1011, "")]
    assert handler.heard[-1] == ("closed", APPLICATION_RAISED)
    (event,) = events
    assert (event["log_level"], event["callback"], event["session"], event["peer"]) == (
        LogLevel.critical, callback, session.id, session.peer,
    )  # fmt: skip
    assert event["limit"] == "application raised"
    assert event["log_failure"].type is RuntimeError


def test_an_application_that_raises_at_the_end() -> None:
    """A fault in ``closed`` is logged, and changes nothing of the end."""
    wire = FakeWire()
    with capturedLogs() as events:
        session = open_session(wire, Recorder(raises="closed"))
        session.lost(Cause.FIN)
    assert (wire.calls, session.phase) == ([], Phase.CLOSED)
    assert session.ending == Close(1006, "", Cause.FIN, By.CLIENT)
    assert [event["callback"] for event in events] == ["closed"]


def test_an_application_that_raises_while_closing() -> None:
    """A fault after the close is logged, and the close goes on."""
    wire = FakeWire()
    with capturedLogs() as events:
        session = open_session(wire, Recorder(raises="received"))
        session.close(4000)
        session.deliver("late", 4)
    assert wire.calls == [("close", 4000, "")]
    assert session.ending is not None
    assert session.ending.code == 4000
    assert len(events) == 1


# --- Applications --------------------------------------------------------------------------------------------


def test_an_application_builds_handlers() -> None:
    """An application is called with a session and gives its handler; of itself it is not busy, and admits everybody."""
    session, handler = make_session(), Recorder()
    seen: list[Session] = []

    def build(given: Session) -> Recorder:
        seen.append(given)
        return handler

    made = Application(build, "name")
    assert made(session) is handler
    assert seen == [session]
    assert (made.admit, made.subprotocols, made.page, made.busy()) == (None, (), None, 0)


def test_the_decorator_marks() -> None:
    """The decorator gives its object back, marked with what was said."""

    def admit(_: Session) -> None: ...

    class Marked(Recorder):
        pass

    marked: Any = Marked
    assert application(admit=admit, subprotocols=["a", "b"])(marked) is marked
    assert (marked.admit, marked.subprotocols) == (admit, ("a", "b"))


def test_the_decorator_marks_only_what_is_said() -> None:
    """What was not said is not set."""

    @application()
    class Plain(Recorder):
        pass

    assert not hasattr(Plain, "admit")
    assert not hasattr(Plain, "subprotocols")


# --- Any order -----------------------------------------------------------------------------------------------

CAUSES = st.sampled_from(Cause)
CODES = st.sampled_from([1000, 1001, 1011, 4000])


class Meddler(FlowRecorder):
    """A handler that, in whatever callback, does what it was told to do next, and may raise."""

    def __init__(self) -> None:
        super().__init__()
        self.next: Callable[[Session], object] | None = None

    def opened(self, session: Session) -> None:
        super().opened(session)
        self._meddle(session)

    def received(self, session: Session, message: str | bytes) -> None:
        super().received(session, message)
        self._meddle(session)

    def closed(self, session: Session, close: Close) -> None:
        super().closed(session, close)
        self._meddle(session)

    def writable(self, session: Session) -> None:
        super().writable(session)
        self._meddle(session)

    def draining(self, session: Session, proceed: Callable[[], None]) -> None:
        super().draining(session, proceed)
        self._meddle(session)

    def _meddle(self, session: Session) -> None:
        action, self.next = self.next, None
        if action is not None:
            action(session)


def _raise(_: Session) -> None:
    raise RuntimeError("the application is wrong")


ACTIONS: list[Callable[[Session], object]] = [
    lambda session: session.send("x"),
    lambda session: session.send(b"y" * 20),
    lambda session: session.close(4321, "meddled"),
    lambda session: session.abort(),
    lambda session: session.pause(),
    lambda session: session.resume(),
    _raise,
]


class AnyOrder(RuleBasedStateMachine):
    """One session, with calls of the application at any time, and of the connection in any order that a connection can make."""

    def __init__(self) -> None:
        super().__init__()
        self.wire, self.handler = FakeWire(), Meddler()
        self.session = make_session(self.wire, queue_size=30, slow_consumer="close")
        self.first: Close | None = None
        self.opened = self.lost = False
        self.deadlines: list[Callable[[], None]] = []

    # What a connection does: it opens once, and delivers nothing before or after

    @precondition(lambda self: self.session.phase is Phase.CONNECTING)
    @rule()
    def open(self) -> None:
        self.opened = True
        self.session.open(self.handler, 1.0)

    @precondition(lambda self: self.opened and not self.lost)
    @rule(message=st.sampled_from(["text", b"bytes"]))
    def deliver(self, message: str | bytes) -> None:
        self.session.deliver(message, len(message))

    @precondition(lambda self: self.opened and not self.lost)
    @rule(code=CODES, cause=CAUSES)
    def fail(self, code: int, cause: Cause) -> None:
        self.session.fail(code, "", cause)

    @precondition(lambda self: self.opened and not self.lost)
    @rule(code=CODES | st.none())
    def peer_closed(self, code: int | None) -> None:
        self.session.peer_closed(code, "theirs")

    @precondition(lambda self: self.opened and not self.lost)
    @rule(waiting=st.integers(0, 40))
    def congest(self, waiting: int) -> None:
        self.wire.waiting = waiting
        self.session.congest()

    @precondition(lambda self: self.opened and not self.lost)
    @rule()
    def decongest(self) -> None:
        self.wire.waiting = 0
        self.session.decongest()

    @rule(cause=CAUSES)
    def lose(self, cause: Cause) -> None:
        self.lost = True
        self.session.lost(cause)

    @rule()
    def drain(self) -> None:
        self.session.drain(1012, "", self.deadlines.append)

    @precondition(lambda self: self.deadlines)
    @rule()
    def drain_deadline(self) -> None:
        self.deadlines.pop()()

    # What an application does: anything, at any time

    @rule(action=st.sampled_from(ACTIONS))
    def meddle_next(self, action: Callable[[Session], object]) -> None:
        self.handler.next = action

    @rule(action=st.sampled_from(ACTIONS[:-1]))
    def meddle(self, action: Callable[[Session], object]) -> None:
        try:
            action(self.session)
        except RuntimeError:
            assert self.session.phase is Phase.CONNECTING

    # What holds

    @invariant()
    def life_is_in_order(self) -> None:
        """Opened first and once, closed last and once, everything else in between."""
        names = [each[0] for each in self.handler.heard]
        assert names.count("opened") == self.opened
        assert names.count("closed") == (self.opened and self.lost)
        assert not names or names[0] == "opened"
        assert "closed" not in names[:-1]

    @invariant()
    def the_first_cause_is_the_cause(self) -> None:
        """An ending, once decided, never changes, and is what the handler hears."""
        if self.first is None:
            self.first = self.session.ending
        assert self.session.ending is self.first
        assert (self.first is None) == (self.session.phase < Phase.CLOSING)
        for each in self.handler.heard:
            if each[0] == "closed":
                assert each[1] is self.first

    @invariant()
    def reading_is_paused_exactly_while_held(self) -> None:
        """Pauses and resumes alternate, and an ending session reads; one that is gone has no reading."""
        flow = [each[0] for each in self.wire.named("pause", "resume")]
        assert flow == (["pause", "resume"] * len(flow))[: len(flow)]
        if not self.lost:
            assert (flow[-1:] == ["pause"]) == self.session.held
        assert not self.session.held or self.session.phase is Phase.OPEN

    @invariant()
    def at_most_one_close_frame_is_asked_for(self) -> None:
        """Our own close is said once; nothing is sent after it."""
        names = [each[0] for each in self.wire.named("send", "close")]
        assert "close" not in names[:-1]

    @invariant()
    def what_was_sent_is_counted(self) -> None:
        """The counters agree with the wire and the handler."""
        assert self.session.messages_out == len(self.wire.named("send"))
        assert self.session.messages_in == [each[0] for each in self.handler.heard].count("received")


AnyOrder.TestCase.settings = settings(deadline=None, max_examples=200, stateful_step_count=30)
TestAnyOrder = AnyOrder.TestCase


# --- Helpers -------------------------------------------------------------------------------------------------


def _in_phase(phase: Phase, handler: Recorder | None = None) -> Session:
    """A session in this phase that has got there by the usual way."""
    session = make_session()
    if phase > Phase.CONNECTING:
        session.open(handler or Recorder(), 0.0)
    if phase is Phase.CLOSING:
        session.close()
    if phase is Phase.CLOSED:
        session.lost(Cause.FIN)
    assert session.phase is phase
    return session


def _wire(session: Session) -> FakeWire:
    assert isinstance(session.wire, FakeWire)
    return session.wire


def test_nothing_is_heard_after_the_end() -> None:
    """What comes after the end is not delivered, and a session that has ended does not open again."""
    handler = FlowRecorder()
    session = open_session(handler=handler)
    session.lost(Cause.FIN)
    session.deliver("x", 1)
    session.decongest()
    session.open(handler, 1.0)
    assert [each[0] for each in handler.heard] == ["opened", "closed"]
    assert session.phase is Phase.CLOSED
