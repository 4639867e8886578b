"""What threads send to one peer: its order, its bound, who waits, and who is let go on."""

from __future__ import annotations

import pytest

from tests.support.wsgi import Wakes, joined, started, until
from twistedws.gateway.pump import SHARE
from twistedws.gateway.wsgi.threads import MOST_UNSENT, FromThreads, Outbox


class Box(Outbox):
    """An outbox that notes what it hands on, and whose peer is as slow as a test says."""

    __slots__ = ("full", "most", "taken")

    def __init__(self, turns: FromThreads) -> None:
        super().__init__(turns)
        self.taken: list[object] = []
        self.full = False
        self.most = 10**9  # things that are handed on before the peer is slow

    @property
    def is_congested(self) -> bool:
        return self.full

    @property
    def waits_now(self) -> bool:
        return self.full

    def take(self, item: object) -> None:
        self.taken.append(item)
        self.full = len(self.taken) >= self.most


class Sender:
    """A thread that puts things into an outbox, one after another."""

    def __init__(self, box: Outbox, *items: tuple[object, int]) -> None:
        self.outcomes: list[bool] = []

        def run() -> None:
            for item, octets in items:
                self.outcomes.append(box.put(item, octets))

        self.thread = started(run)


def test_order() -> None:
    """What is put is handed on in its order, all that there is in one turn of the loop, for one wake-up."""
    wakes = Wakes()
    box = Box(FromThreads(wakes))
    assert box.is_empty
    assert [box.put(number, 10) for number in range(5)] == [True] * 5
    assert (box.taken, box.is_empty, len(wakes.due)) == ([], False, 1)
    wakes.turn()
    assert (box.taken, box.is_empty, wakes.due) == ([0, 1, 2, 3, 4], True, [])


def test_a_slow_peer_is_waited_for() -> None:
    """While the peer takes less than it is sent, who puts something waits; it goes on when the peer does."""
    wakes = Wakes()
    box = Box(FromThreads(wakes))
    box.full = True
    sender = Sender(box, ("a", 1), ("b", 1))
    until(lambda: box._waiting == 1)
    assert (sender.outcomes, box.is_empty) == ([], True)
    box.flush()  # it is slow still
    assert box._waiting == 1
    box.full = False
    box.flush()
    joined(sender.thread)
    assert sender.outcomes == [True, True]
    wakes.turn()
    assert box.taken == ["a", "b"]


def test_the_bound() -> None:
    """Who puts something waits while more waits than may, though the peer is quick, until the reactor's thread has handed it on."""
    wakes = Wakes()
    box = Box(FromThreads(wakes))
    sender = Sender(box, ("a", MOST_UNSENT), ("b", 1), ("c", 1))
    until(lambda: box._waiting == 1)
    assert sender.outcomes == [True, True]
    wakes.turn()
    joined(sender.thread)
    wakes.turn()
    assert box.taken == ["a", "b", "c"]


def test_several_wait() -> None:
    """All threads that wait go on."""
    wakes = Wakes()
    box = Box(FromThreads(wakes))
    box.full = True
    senders = [Sender(box, (name, 1)) for name in "abc"]
    until(lambda: box._waiting == 3)
    box.full = False
    box.flush()
    for each in senders:
        joined(each.thread)
    wakes.turn()
    assert sorted(map(str, box.taken)) == ["a", "b", "c"]


def test_without_waiting() -> None:
    """What must not wait is put however much waits."""
    wakes = Wakes()
    box = Box(FromThreads(wakes))
    box.full = True
    assert box.put_nowait("a", MOST_UNSENT)
    assert box.put_nowait("b", 1)
    assert box.put_nowait("c", 1)
    wakes.turn()
    assert box.taken == []
    box.full = False
    box.flush()
    wakes.turn()
    assert box.taken == ["a", "b", "c"]


def test_a_peer_that_becomes_slow() -> None:
    """What is left when the peer becomes slow waits for it, in its order, with what comes later."""
    wakes = Wakes()
    box = Box(FromThreads(wakes))
    box.most = 2
    for item in "abcd":
        box.put_nowait(item, 1)
    wakes.turn()
    assert box.taken == ["a", "b"]
    box.put_nowait("e", 1)
    wakes.turn()
    assert box.taken == ["a", "b"]
    box.most, box.full = 10, False
    box.flush()
    assert box.taken == ["a", "b", "c", "d", "e"]


def test_the_share_of_a_turn() -> None:
    """One turn of the loop hands on so much of one outbox, and the rest in the turns that follow."""
    wakes = Wakes()
    box = Box(FromThreads(wakes))
    for number in range(6):
        box.put_nowait(number, SHARE // 2)
    counts = []
    while wakes.due:
        wakes.turn()
        counts.append(len(box.taken))
    assert counts == [2, 4, 6]
    assert box.taken == [0, 1, 2, 3, 4, 5]


def test_end() -> None:
    """When nobody takes anything any more, who waits goes on and is told so; what waits is dropped, and nothing is put."""
    wakes = Wakes()
    box = Box(FromThreads(wakes))
    box.put_nowait("a", 1)
    box.full = True
    sender = Sender(box, ("b", 1), ("c", 1))
    until(lambda: box._waiting == 1)
    box.end()
    joined(sender.thread)
    assert (sender.outcomes, box.is_ended, box.is_empty) == ([False, False], True, True)
    assert not box.put_nowait("d", 1)
    box.full = False
    wakes.turn()
    assert box.taken == []


def test_what_is_put_in_the_moment_of_the_end() -> None:
    """What a thread puts while the outbox ends is dropped."""
    wakes = Wakes()
    box = Box(FromThreads(wakes))
    box.put_nowait("a", 1)
    box.is_ended = True
    wakes.turn()
    assert (box.taken, box.is_empty) == ([], True)


def test_what_a_subclass_says() -> None:
    """An outbox by itself knows neither its peer nor how to reach it."""
    box = Outbox(FromThreads(Wakes()))
    with pytest.raises(NotImplementedError):
        _ = box.is_congested
    with pytest.raises(NotImplementedError):
        box.take(None)
