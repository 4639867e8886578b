"""Whose turn it is to accept: a small world of connections and workers on a clock, in which messages take their time.

The workers count as the real ones do, with ``member.AcceptTurn``; what is played is their listening, and the way of what they say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from twistedws.listening import MOST_WAIT
from twistedws.supervisor.balance import _FEW, BURST, MOVES, PATIENCE, Balance
from twistedws.supervisor.control import REPORT, Accept, Message, Rest
from twistedws.supervisor.member import AcceptTurn

ACCEPT = 0.0002  # seconds that a worker takes to accept one connection and to answer its handshake
WAY = 0.0001  # seconds from the sending of a message until its end is told


class Member:
    """A worker: it accepts while it has the turn, one connection after the other, and reports."""

    def __init__(self, world: World, first_report: float = REPORT) -> None:
        self.world = world
        self.load = self.accepted = 0  # as the supervisor knows them
        self.is_busy = self.is_dead = False
        self.connections = 0
        self.told: list[Message] = []
        self.turn = AcceptTurn(self, self.report)  # type: ignore[arg-type]  # it listens itself
        self._is_accepting = False
        world.clock.callLater(first_report, self._report_again)

    @property
    def served(self) -> int:
        """Connections that it has served since its start."""
        return self.turn.accepted

    # What the supervisor does

    def send(self, message: Message) -> None:
        self.told.append(message)
        self.world.sent.append((self, message))
        self.world.clock.callLater(self.world.way, self._hear, message)

    def _hear(self, message: Message) -> None:
        if self.is_dead:
            return
        if isinstance(message, Accept):
            self.turn.begin(message)
        else:
            self.turn.end()

    # What its listening does

    def resume(self) -> None:
        self.wake()

    def rest(self) -> None:
        """It stops by itself."""

    def wake(self) -> None:
        """Accept, if there is anything to be accepted, and it may."""
        if self._is_accepting or self.is_dead or self.is_busy or self.turn.rests or not self.world.waiting:
            return
        self._is_accepting = True
        self.world.waiting -= 1
        self.world.clock.callLater(self.world.accept, self._has_accepted)

    def _has_accepted(self) -> None:
        self._is_accepting = False
        if self.is_dead:
            return
        if self.turn.take():
            self.connections += 1
            self.world.most = max(self.world.most, self.world.connections)
        else:
            self.world.refused += 1
        self.wake()

    # What it says

    def report(self, new: int = 0) -> None:
        self.world.clock.callLater(self.world.way, self.world.hear, self, self.served, self.connections + new, self.turn.rests)

    def _report_again(self) -> None:
        if not self.is_dead:
            if not self.is_busy:
                self.report()
            self.world.clock.callLater(REPORT, self._report_again)

    def lose(self, number: int) -> None:
        """So many of its connections end."""
        self.connections -= min(number, self.connections)


class World:
    """A balance, workers, and what waits in the kernel's queue."""

    def __init__(
        self, workers: int = 4, *, rate: float = 0.0, most: int = 0, others: int = 0, accept: float = ACCEPT, way: float = WAY
    ) -> None:
        self.clock = Clock()
        self.accept, self.way = accept, way
        self.waiting = self.refused = self.most = 0
        self.sent: list[tuple[Member, Message]] = []
        self.balance = Balance(self.clock, lambda: self.waiting, rate, most)
        self.workers: list[Member] = []
        self.others = others
        for index in range(workers):
            self.workers.append(Member(self, REPORT * (index + 1) / workers))
        self.offer()

    @property
    def connections(self) -> int:
        return sum(each.connections for each in self.workers)

    @property
    def loads(self) -> list[int]:
        return sorted(each.connections for each in self.workers)

    @property
    def served(self) -> int:
        return sum(each.served for each in self.workers)

    @property
    def spread(self) -> float:
        return self.loads[-1] / self.loads[0]

    @property
    def moves(self) -> int:
        """How often the turn went from one to another."""
        return sum(isinstance(message, Rest) for _, message in self.sent)

    def offer(self) -> None:
        self.balance.candidates([each for each in self.workers if not each.is_dead], self.others)

    def hear(self, member: Member, accepted: int, connections: int, rests: bool) -> None:
        """A report has come; what follows is what the supervisor does."""
        if member.is_dead:
            return
        more, member.accepted, member.load = accepted - member.accepted, accepted, connections
        self.balance.accepted(more)
        if member is self.balance.holder and rests:
            self.balance.spent()
        self.balance.decide_soon()

    def arrive(self, number: int) -> None:
        """So many connections come."""
        self.waiting += number
        for each in self.workers:
            each.wake()

    def run(self, seconds: float, rate: float = 0.0) -> None:
        """Let time pass, in which so many connections come in each second, and nothing happens late."""
        end, between = self.clock.seconds() + seconds, 1 / rate if rate else seconds
        while (now := self.clock.seconds()) < end - 1e-9:
            upto = min(end, now + between)
            self.settle(upto)
            if rate:
                self.arrive(1)

    def settle(self, upto: float) -> None:
        """Run all that is due until then, each at its time."""
        while self.clock.calls and self.clock.calls[0].getTime() <= upto:
            self.clock.advance(max(0.0, self.clock.calls[0].getTime() - self.clock.seconds()))
        self.clock.advance(max(0.0, upto - self.clock.seconds()))

    def until(self, condition: Callable[[], Any], seconds: float = 600.0) -> None:
        """Let time pass until something is true."""
        end = self.clock.seconds() + seconds
        while not condition():
            assert self.clock.seconds() < end
            self.settle(self.clock.calls[0].getTime())

    def is_served(self) -> bool:
        return not self.waiting and not any(each._is_accepting for each in self.workers)

    def take(self, number: int) -> None:
        """Serve a crowd."""
        self.arrive(number)
        self.until(self.is_served)

    def kill(self, member: Member) -> int:
        """End a worker with all of its connections, of which the supervisor learns.

        Returns:
            How many it had.
        """
        member.is_dead = True
        lost, member.connections = member.connections, 0
        self.workers.remove(member)
        self.balance.lost(member.load)
        self.offer()
        return lost


def holders(sent: list[tuple[Member, Message]]) -> Member | None:
    """Return who has the turn after all of these; at no time have two, but for between the one's word and the other's."""
    holder: Member | None = None
    previous: Member | None = None
    for member, message in sent:
        if previous is not None:
            assert (member, message) == (previous, Rest()), "the old one's rest comes right after the new one's turn"
            previous = None
        elif isinstance(message, Rest):
            assert member is holder, "none rests that has not had the turn"
            holder = None
        else:
            previous, holder = (holder if holder is not member else None), member
    assert previous is None
    return holder


# --- Who has the turn ----------------------------------------------------------------------------------------


def test_nobody_is_there() -> None:
    """With no worker nobody has the turn, and nothing is to come."""
    world = World(0)
    world.balance.decide()
    assert world.balance.holder is None
    assert world.clock.getDelayedCalls() == []


def test_one_alone() -> None:
    """A worker that is alone has the turn for good."""
    world = World(1)
    world.take(1000)
    assert world.loads == [1000]
    assert world.sent == [(world.workers[0], Accept(after=1_000_000))]


events = st.one_of(
    st.tuples(st.just("arrive"), st.integers(1, 60)),
    st.tuples(st.just("run"), st.sampled_from([0.0, 0.0001, 0.001, 0.02, 0.3, 4.0])),
    st.tuples(st.just("lose"), st.integers(0, 100)),
    st.tuples(st.just("busy"), st.integers(0, 9)),
    st.tuples(st.just("kill"), st.integers(0, 9)),
    st.tuples(st.just("start"), st.just(0)),
    st.tuples(st.just("stop"), st.just(0)),
)


def play(world: World, kind: str, number: Any) -> None:
    """Have something happen."""
    member = world.workers[number % len(world.workers)] if kind in ("lose", "busy", "kill") and world.workers else None
    if kind == "arrive":
        world.arrive(number)
    elif kind == "run":
        world.settle(world.clock.seconds() + number)
    elif kind == "start":
        world.workers.append(Member(world))
        world.balance.replaced()
        world.offer()
    elif kind == "stop":
        world.balance.stop()
    elif member is not None and kind == "lose":
        member.lose(number)
    elif member is not None and kind == "busy":
        member.is_busy = not member.is_busy
        member.wake()
        world.balance.decide()
    elif member is not None:
        world.kill(member)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.sampled_from([0.0, 1.0, 50.0]), st.sampled_from([0, 1, 20]), st.lists(events, max_size=12))
def test_one_at_a_time(workers: int, rate: float, most: int, happens: list[tuple[str, Any]]) -> None:
    """Whatever happens, at most one worker has the turn, and it is the one of which the balance says so."""
    world = World(workers, rate=rate, most=most)
    for kind, number in happens:
        play(world, kind, number)
        assert holders(world.sent) is world.balance.holder
        assert world.balance.holder is None or not world.balance.holder.is_dead


def test_stopping() -> None:
    """A balance that has stopped has taken the turn away, and gives it to nobody, whatever it is told."""
    world = World()
    world.take(50)
    world.arrive(100)
    world.clock.advance(0)
    world.balance.stop()
    assert isinstance(world.sent[-1][1], Rest)
    world.settle(world.clock.seconds() + 0.01)
    served, sent = world.served, len(world.sent)
    world.run(5.0)
    assert (world.served, len(world.sent)) == (served, sent)
    assert world.balance.holder is None
    world.balance.stop()
    assert len(world.sent) == sent


def test_a_worker_that_leaves() -> None:
    """A worker that is no candidate any more loses the turn, to another if there is one."""
    world = World(2)
    first = world.balance.holder
    other = next(each for each in world.workers if each is not first)
    world.balance.candidates([other], 0)
    assert world.sent[-2:] == [(first, Rest()), (other, Accept(after=1_000_000))]
    world.balance.candidates([], 0)
    assert world.sent[-1] == (other, Rest())
    assert world.balance.holder is None


# --- How even it is ------------------------------------------------------------------------------------------


def test_a_steady_stream() -> None:
    """Of 4,000 connections in a second no worker gets a tenth more than another."""
    world = World()
    world.run(1.0, 4000)
    world.until(world.is_served)
    assert sum(world.loads) == 4000
    assert world.spread <= 1.1, world.loads


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 8), st.floats(20, 4000), st.integers(0, 100))
def test_a_stream(workers: int, rate: float, closing: int) -> None:
    """At any rate, also while others end, loads stay within a tenth of each other, or within what comes until the turn can be moved."""
    world = World(workers)
    for _ in range(10):
        world.run(0.1, rate)
        world.workers[0].lose(closing)
    world.run(0.5, rate)
    world.until(world.is_served)
    slack = max(6.0, 4 * rate / MOVES) + closing
    assert world.loads[-1] - world.loads[0] <= max(slack, world.loads[-1] * 0.1), world.loads


def test_a_burst_after_quiet() -> None:
    """Forty connections that come at once are spread to within two."""
    world = World()
    world.run(5.0)
    world.take(40)
    assert world.loads[-1] - world.loads[0] <= 2, world.loads


@pytest.mark.parametrize("number", [1, 4, 8, 400])
def test_a_slow_stream_is_spread_one_by_one(number: int) -> None:
    """Where there is time between connections each goes to the worker with the fewest."""
    world = World()
    world.run(number / 50, 50)
    world.until(world.is_served)
    assert world.loads[-1] - world.loads[0] <= 1, world.loads


def test_a_storm() -> None:
    """Whatever comes, the turn is moved as often as is allowed, and no more; and what comes is spread within a tenth all the same."""
    world = World(accept=0.001)  # twenty seconds of it, as a hundred thousand at full speed would be
    start = world.clock.seconds()
    world.take(20_000)
    seconds = world.clock.seconds() - start
    assert world.served == 20_000
    assert world.moves <= BURST + MOVES * seconds + 1
    assert world.moves >= 100
    assert world.spread <= 1.1, world.loads


def test_little_is_no_reason() -> None:
    """Of workers with many connections one may have a hundredth more than another: then the turn is moved far less often."""
    world = World()
    world.take(8000)
    world.run(10.0)
    before = world.moves
    world.run(2.0, 400)
    assert world.moves - before <= 800 / 4
    assert world.spread <= 1.02


def test_connections_that_come_and_go() -> None:
    """A worker whose connections end as fast as others come keeps reporting, so that another gets what comes once it has more."""
    world = World(2)
    for _ in range(400):
        world.arrive(1)
        world.run(0.0025)
        for each in world.workers:
            each.lose(1 if each is world.balance.holder else 0)
    world.take(40)
    assert world.loads[-1] - world.loads[0] <= 2, world.loads


def test_one_that_comes_late() -> None:
    """A worker that has fewer than the others gets all that comes until it has as many."""
    world = World(3)
    world.take(300)
    world.run(5.0)
    late = Member(world)
    world.workers.append(late)
    world.offer()
    world.take(100)
    assert late.connections >= 98
    world.take(400)
    assert world.spread <= 1.1, world.loads


# --- Workers that are busy, or die ---------------------------------------------------------------------------


def test_a_busy_one() -> None:
    """A worker that is busy loses the turn to one that is not, though that has more; if all are busy the one with the fewest has it."""
    world = World(2)
    world.take(20)
    world.run(5.0)
    holder = world.balance.holder
    assert isinstance(holder, Member)
    (other,) = (each for each in world.workers if each is not holder)
    other.load += 50
    holder.is_busy = True
    world.balance.decide()
    assert world.balance.holder is other
    world.arrive(10)
    world.run(0.1)
    assert world.waiting == 0
    other.is_busy = True
    world.balance.decide()
    assert world.balance.holder is holder


def test_a_worker_that_died() -> None:
    """The clients of one that died are left to its replacement: the others take their share of them, and the replacement the rest."""
    world = World()
    world.take(4000)
    world.run(1.0)
    lost = world.kill(world.workers[0])
    assert 950 <= lost <= 1050
    world.arrive(lost)
    world.run(PATIENCE - 1)
    assert world.waiting > 0.8 * lost
    assert world.loads[-1] <= 1000 * 1.03 + 2
    world.workers.append(Member(world))
    world.balance.replaced()
    world.offer()
    world.run(1.0)
    assert world.waiting == 0
    assert world.spread <= 1.12, "each of the others may have a fiftieth more than its share"


@settings(max_examples=8, deadline=None)
@given(st.integers(2, 6), st.integers(0, 300), st.integers(0, 300))
def test_no_replacement_in_time(workers: int, before: int, back: int) -> None:
    """As long as there is patience, and it is worth it, nobody takes more than its share; after that the others take all that waits."""
    world = World(workers)
    world.take(before)
    world.run(1.0)
    total = world.connections
    lost = world.kill(world.workers[0])
    world.arrive(back)
    share = total / workers * 1.02 + 4  # reports are a little late
    highest = world.loads[-1]
    world.run(PATIENCE - 0.01)
    assert lost < _FEW or world.loads[-1] <= max(highest, share), (world.loads, lost)
    world.run(0.5)
    world.until(world.is_served)
    assert world.connections == total - lost + back
    assert world.loads[-1] - world.loads[0] <= max(32, 0.2 * world.loads[-1])


# --- The rate of accepts, and how many there may be ----------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4), st.sampled_from([1.0, 7.0, 40.0, 500.0]), st.lists(st.tuples(st.integers(0, 300), st.floats(0.0, 1.0)), max_size=6)
)
def test_accept_rate(workers: int, rate: float, crowds: list[tuple[int, float]]) -> None:
    """All workers together accept no more than the rate allows, at any time."""
    world = World(workers, rate=rate)
    burst = max(1.0, rate / 10)
    for number, seconds in crowds:
        world.arrive(number)
        end = world.clock.seconds() + seconds
        while world.clock.seconds() < end:
            world.run(min(0.01, end - world.clock.seconds() + 1e-6))
            assert world.served <= rate * world.clock.seconds() + burst + 1e-6


def test_accept_rate_is_used() -> None:
    """What is allowed is had: as long as connections wait, nearly as many are accepted as may be, evenly."""
    world = World(rate=400.0)
    world.arrive(1900)
    world.run(4.0)
    assert 0.9 * 1600 <= world.served <= 1640
    assert world.refused == 0
    assert world.spread <= 1.1, world.loads


def test_shedding() -> None:
    """Of a crowd that waits longer than is borne at the rate, those above are refused, and no more; the rest are served in time."""
    world = World(rate=100.0)
    world.arrive(2000)
    world.run(MOST_WAIT + 1)
    assert world.waiting == 0
    assert world.served == pytest.approx(100 * MOST_WAIT, abs=20)
    assert world.served + world.refused == 2000


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 120), st.integers(0, 60), st.lists(st.tuples(st.integers(0, 80), st.floats(0.0, 0.4)), max_size=6))
def test_max_connections(workers: int, most: int, others: int, crowds: list[tuple[int, float]]) -> None:
    """There are never more connections than there may be, those of other workers counted; none waits, the rest are refused."""
    world = World(workers, most=most, others=others)
    for number, seconds in crowds:
        world.arrive(number)
        world.run(seconds)
        world.workers[0].lose(number // 3)
    world.run(1.0)
    assert world.most <= max(0, most - others)
    assert world.waiting == 0


def test_full_and_not_full() -> None:
    """Who comes when there are as many as there may be is refused; when some have left, as many are accepted again."""
    world = World(most=100)
    world.take(150)
    assert (world.connections, world.refused) == (100, 50)
    assert world.sent[-1][1] == Accept(after=1_000_000, shed=-1)
    for each in world.workers:
        each.lose(5)
    world.run(2 * REPORT)
    world.take(30)
    assert (world.connections, world.refused) == (100, 60)


@pytest.mark.parametrize(("most", "come"), [(100, 3000), (1000, 2000), (3000, 5000)])
def test_a_crowd_at_the_limit(most: int, come: int) -> None:
    """However many come at once, there are never more connections in all than there may be; the others are refused."""
    world = World(most=most)
    world.arrive(come)
    world.run(2.0)
    assert world.most == most
    assert world.connections == most
