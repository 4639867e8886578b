"""One message to many sessions, on wires that note."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.logger import LogLevel, capturedLogs

from tests.support.wire import FakeWire, open_session
from twistedws import fanout
from twistedws.fanout import BATCH, MOST_OCTETS, MOST_WAITING, fan_out
from twistedws.frames import BINARY, TEXT, frame
from twistedws.session import Session


class Crowd:
    """Many sessions, and the turns of a loop."""

    def __init__(self, number: int) -> None:
        self.wires = [FakeWire() for _ in range(number)]
        self.sessions = [open_session(each, queue_size=1000) for each in self.wires]

    def turn(self) -> int:
        """Run what was put off until the next turn; say how much that was."""
        callbacks = [callback for wire in self.wires for callback in wire.later]
        for wire in self.wires:
            wire.later.clear()
        for each in callbacks:
            each()
        return len(callbacks)

    def reached(self, message: bytes = frame(TEXT, b"x")) -> int:
        """How many were sent a frame."""
        return sum(("send_framed", message) in wire.calls for wire in self.wires)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    assert not fanout._queue


@pytest.mark.parametrize(
    ("message", "expected"),
    [("grün", frame(TEXT, "grün".encode())), (b"\x00", frame(BINARY, b"\x00")), (bytearray(b"ab"), frame(BINARY, b"ab"))],
)
def test_each_gets_one_frame(message: str | bytes, expected: bytes) -> None:
    """Each session is sent the same frame, once, and counts it."""
    crowd, done = Crowd(3), list[int]()
    fan_out(crowd.sessions, message).addCallback(done.append)
    assert [wire.calls for wire in crowd.wires] == [[("send_framed", expected)]] * 3
    assert done == [3]
    assert {(each.messages_out, each.octets_out) for each in crowd.sessions} == {(1, len(expected) - 2)}


def test_nobody() -> None:
    """A fan-out to nobody is done at once."""
    done = list[int]()
    fan_out([], "x").addCallback(done.append)
    assert done == [0]


@pytest.mark.parametrize("number", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH, 3 * BATCH + 1])
def test_batches(number: int) -> None:
    """No more than a batch is sent in one turn of the loop, and all in the end; the Deferred fires then, once."""
    crowd, done = Crowd(number), list[int]()
    fan_out(crowd.sessions, "x").addCallback(done.append)
    turns = [crowd.reached()]
    while not done:
        assert crowd.turn() == 1
        turns.append(crowd.reached() - sum(turns))
    assert done == [number]
    assert max(turns) <= BATCH
    assert sum(turns) == number
    assert len(turns) == -(-number // BATCH)
    assert crowd.turn() == 0


def test_order() -> None:
    """Two fan-outs reach everybody in the order in which they were called, though the second's first batch is the first's last."""
    crowd, done = Crowd(2 * BATCH), list[str]()
    fan_out(crowd.sessions, "a").addCallback(lambda _: done.append("a"))
    fan_out(crowd.sessions[::-1], "b").addCallback(lambda _: done.append("b"))
    while crowd.turn():
        pass
    expected = [("send_framed", frame(TEXT, b"a")), ("send_framed", frame(TEXT, b"b"))]
    assert all(wire.calls == expected for wire in crowd.wires)
    assert done == ["a", "b"]


def test_who_comes_later_is_left_out() -> None:
    """The sessions are those of the moment of the call, though the set changes while batches are sent."""
    crowd, done = Crowd(BATCH + 1), list[int]()
    members = set(crowd.sessions)
    fan_out(members, "x").addCallback(done.append)
    late = open_session(FakeWire())
    members.add(late)
    members.discard(crowd.sessions[0])
    while crowd.turn():
        pass
    assert done == [BATCH + 1]
    assert late.messages_out == 0


def test_bounds_of_each() -> None:
    """A session that is closing is left out, one over its bound is treated by its policy, and the others get it all the same."""
    crowd, done = Crowd(4), list[int]()
    crowd.sessions[0].close()
    crowd.sessions[1].congested = True
    crowd.wires[1].waiting = 1000
    crowd.sessions[2].congested = True  # with room
    fan_out(crowd.sessions, "x").addCallback(done.append)
    assert done == [2]
    assert crowd.wires[1].named("close") == [("close", 1013, "slow consumer")]
    assert [("send_framed", frame(TEXT, b"x")) in wire.calls for wire in crowd.wires] == [False, False, True, True]


def test_a_faulty_wire_harms_nobody() -> None:
    """A wire that raises loses its session, with one line in the log; the others are sent the message."""
    crowd, done = Crowd(3), list[int]()

    def fail(message: object) -> None:
        raise OSError("broken")

    crowd.wires[1].send_framed = fail  # type: ignore[method-assign]
    with capturedLogs() as events:
        fan_out(crowd.sessions, "x").addCallback(done.append)
    assert done == [2]
    assert crowd.wires[1].named("abort") == [("abort",)]
    assert [event["log_level"] for event in events] == [LogLevel.critical]


@pytest.mark.parametrize(("message", "error"), [(1, TypeError), ("\ud800", UnicodeEncodeError)])
def test_what_is_no_message(message: object, error: type[Exception]) -> None:
    """What cannot be sent is refused before anybody is sent anything."""
    crowd = Crowd(1)
    with pytest.raises(error):
        fan_out(crowd.sessions, message)  # type: ignore[arg-type]
    assert crowd.wires[0].calls == []


def test_addressees() -> None:
    """What wraps a session will do in its place, as a coroutine's session does."""
    crowd = Crowd(1)

    class Wrapper:
        session: Session = crowd.sessions[0]

    fan_out([Wrapper()], "x")
    assert crowd.reached() == 1


def test_what_waits_is_bounded() -> None:
    """Behind a fan-out that is under way only so many others wait; one more is dropped at once, with a line in the log."""
    crowd, done = Crowd(BATCH + 1), list[int]()
    for _ in range(MOST_WAITING + 1):
        fan_out(crowd.sessions, "x")
    with capturedLogs() as events:
        fan_out(crowd.sessions, "one too many").addCallback(done.append)
    assert done == [0]
    assert [event["log_level"] for event in events] == [LogLevel.warn]
    while crowd.turn():
        pass
    assert {each.messages_out for each in crowd.sessions} == {MOST_WAITING + 1}


def test_octets_that_wait_are_bounded() -> None:
    """Few fan-outs of large messages are too much, too."""
    crowd, done = Crowd(BATCH + 1), list[int]()
    for _ in range(6):
        fan_out(crowd.sessions, bytes(MOST_OCTETS // 4)).addCallback(done.append)
    assert done == [0, 0]
    while crowd.turn():
        pass
    assert sorted(done) == [0, 0, *[BATCH + 1] * 4]


def test_no_next_turn() -> None:
    """Where nothing can be put off any more, what waits is given up, and the next fan-out begins anew."""
    crowd, done = Crowd(BATCH + 1), list[int]()

    def fail(callback: object) -> None:
        raise RuntimeError("stopped")

    for each in crowd.wires:
        each.soon = fail  # type: ignore[method-assign]
    fan_out(crowd.sessions, "x").addCallback(done.append)
    assert done == [BATCH]
