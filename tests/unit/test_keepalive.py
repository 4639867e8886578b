"""The wheel and the keepalive, on a clock that a test turns."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from tests.support.wire import FakeWire, open_session
from twistedws import config
from twistedws.errors import By, Cause, Close
from twistedws.keepalive import MOST_OWED, SLOTS, TICK, KeepaliveService, Wheel


class Item:
    """What stands on the wheel; it notes when it expires, and does then what a test says."""

    def __init__(self, wheel: Wheel, then: Callable[[Item], None] | None = None) -> None:
        self.due = -1
        self.wheel, self.then = wheel, then
        self.expiries: list[float] = []

    def expired(self) -> None:
        assert self.due == -1, "it stands on the wheel no more when it is told"
        self.expiries.append(self.wheel.now)
        if self.then is not None:
            self.then(self)


def _turn(wheel: Wheel, times: int) -> None:
    for _ in range(times):
        wheel.turn()


# --- The wheel -----------------------------------------------------------------------------------------------


def test_a_wheel_starts_empty() -> None:
    """Nothing is on a new wheel, and no time has passed on it."""
    wheel = Wheel()
    assert (len(wheel), wheel.now) == (0, 0.0)
    _turn(wheel, 5)
    assert wheel.now == pytest.approx(5 * TICK)


@pytest.mark.parametrize(
    ("delay", "ticks"),
    [
        (-1, 1), (0, 1), (0.01, 1), (0.1, 1), (0.11, 2), (0.2, 2), (0.3, 3), (0.7, 7), (1.0, 10), (1.1, 11), (5.0, 50),
        (0.1 + 0.2, 3), (SLOTS * TICK, SLOTS), (SLOTS * TICK + 1, SLOTS + 10), (3 * SLOTS * TICK + 0.5, 3 * SLOTS + 5),
    ],
)  # fmt: skip
def test_an_item_expires_at_its_tick(delay: float, ticks: int) -> None:
    """An item expires at the first tick that is no earlier than its deadline, once, beyond a whole round of the wheel too."""
    wheel = Wheel()
    item = Item(wheel)
    wheel.put(item, delay)
    assert (len(wheel), item.due) == (1, ticks)
    _turn(wheel, ticks - 1)
    assert item.expiries == []
    _turn(wheel, 1)
    assert item.expiries == [ticks * TICK]
    assert (len(wheel), item.due) == (0, -1)
    _turn(wheel, 2 * SLOTS)
    assert len(item.expiries) == 1


def test_an_item_has_one_deadline() -> None:
    """The deadline that was given last is the one that holds, be it later or earlier."""
    wheel = Wheel()
    later, earlier = Item(wheel), Item(wheel)
    wheel.put(later, 0.2)
    wheel.put(later, 0.5)
    wheel.put(earlier, 0.5)
    wheel.put(earlier, 0.2)
    assert len(wheel) == 2
    _turn(wheel, 10)
    assert (later.expiries, earlier.expiries) == ([5 * TICK], [2 * TICK])


def test_taking_an_item_off() -> None:
    """What was taken off does not expire; taking it off again does nothing."""
    wheel = Wheel()
    item = Item(wheel)
    wheel.take(item)
    wheel.put(item, 0.2)
    wheel.take(item)
    wheel.take(item)
    assert len(wheel) == 0
    _turn(wheel, 2 * SLOTS)
    assert item.expiries == []


@pytest.mark.parametrize("delay", [0.0, TICK, SLOTS * TICK])
def test_an_item_may_come_back(delay: float) -> None:
    """An item that is put on the wheel again when it expires does so at its new deadline, not in the same turn."""
    wheel = Wheel()
    item = Item(wheel, lambda item: wheel.put(item, delay))
    wheel.put(item, TICK)
    _turn(wheel, 1)
    assert item.expiries == [TICK]
    _turn(wheel, max(1, round(delay / TICK)))
    assert len(item.expiries) == 2


@pytest.mark.parametrize("what", ["take", "put"])
def test_items_of_one_slot_may_move_each_other(what: str) -> None:
    """Of two items that are due in one turn the first may take the second off, or put it off; then it does not expire now."""
    wheel = Wheel()
    items: list[Item] = []

    def disturb(item: Item) -> None:
        for other in items:
            if other is not item:
                if what == "take":
                    wheel.take(other)
                else:
                    wheel.put(other, 1.0)

    items += [Item(wheel, disturb), Item(wheel, disturb)]
    for each in items:
        wheel.put(each, TICK)
    wheel.turn()
    assert sorted(len(each.expiries) for each in items) == [0, 1]
    assert len(wheel) == (what == "put")


def test_a_faulty_item_stops_nobody() -> None:
    """An item that raises is logged, and all others expire."""
    wheel = Wheel()

    def fail(_: Item) -> None:
        raise RuntimeError("faulty")

    items = [Item(wheel, fail), Item(wheel), Item(wheel, fail), Item(wheel)]
    for each in items:
        wheel.put(each, TICK)
    with capturedLogs() as events:
        wheel.turn()
    assert [each.expiries for each in items] == [[TICK]] * 4
    assert [(event["log_failure"].type, event["limit"]) for event in events] == [(RuntimeError, "deadline failed")] * 2


@pytest.mark.parametrize(("within", "slots"), [(1.0, 10), (20.0, 200), (0.1, 1), (0.01, 1), (0.0, 1), (1000.0, SLOTS - 1)])
def test_items_are_spread_evenly(within: float, slots: int) -> None:
    """Items that come at once are spread over all slots of the time given, none more than one ahead of another, none too late."""
    wheel = Wheel()
    items = [Item(wheel) for _ in range(2 * slots + 1)]
    for each in items:
        wheel.put_evenly(each, within)
    dues = [each.due for each in items]
    assert sorted(set(dues)) == list(range(1, slots + 1))
    assert {dues.count(due) for due in range(2, slots + 1)} <= {2}
    assert dues.count(1) == 3


def test_the_spread_goes_round() -> None:
    """The slots are counted on from where the wheel stands, across its end."""
    wheel = Wheel()
    _turn(wheel, SLOTS - 2)
    items = [Item(wheel) for _ in range(5)]
    for each in items:
        wheel.put_evenly(each, 0.5)
    assert [each.due for each in items] == [SLOTS - 1, SLOTS, SLOTS + 1, SLOTS + 2, SLOTS + 3]


class AnyWheel(RuleBasedStateMachine):
    """A wheel, and beside it a dictionary that knows when each item is due."""

    def __init__(self) -> None:
        super().__init__()
        self.wheel = Wheel()
        self.items = [Item(self.wheel) for _ in range(8)]
        self.asked: dict[int, tuple[float, float]] = {}  # the earliest and the latest moment, in seconds of the wheel
        self.heard = [0] * 8

    @rule(which=st.integers(0, 7), delay=st.floats(0, 250) | st.integers(0, 30).map(lambda each: each * TICK))
    def put(self, which: int, delay: float) -> None:
        self.wheel.put(self.items[which], delay)
        self.asked[which] = (self.wheel.now + delay, self.wheel.now + max(delay, 0) + TICK)

    @rule(which=st.integers(0, 7), within=st.floats(TICK, 150))
    def put_evenly(self, which: int, within: float) -> None:
        self.wheel.put_evenly(self.items[which], within)
        self.asked[which] = (self.wheel.now + TICK, self.wheel.now + within)

    @rule(which=st.integers(0, 7))
    def take(self, which: int) -> None:
        self.wheel.take(self.items[which])
        self.asked.pop(which, None)

    @rule(times=st.integers(1, 50) | st.sampled_from([SLOTS - 1, SLOTS, SLOTS + 1]))
    def turn(self, times: int) -> None:
        for _ in range(times):
            self.wheel.turn()
            for which, item in enumerate(self.items):
                if len(item.expiries) != self.heard[which]:
                    self.heard[which] += 1
                    earliest, latest = self.asked.pop(which)
                    assert len(item.expiries) == self.heard[which]
                    assert earliest - 1e-6 <= self.wheel.now <= latest + 1e-6
            assert all(self.wheel.now < latest + 1e-6 for _, latest in self.asked.values())

    @invariant()
    def everybody_is_on_it_once(self) -> None:
        """Exactly those items are on the wheel that have a deadline."""
        assert len(self.wheel) == len(self.asked)
        assert {which for which, item in enumerate(self.items) if item.due >= 0} == set(self.asked)


AnyWheel.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
TestAnyWheel = AnyWheel.TestCase


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 300), min_size=1, max_size=30))
def test_every_item_expires_exactly_once(delays: list[float]) -> None:
    """However many items have whatever deadlines: each expires once, never early, at most one tick late."""
    wheel = Wheel()
    items = [Item(wheel) for _ in delays]
    for item, delay in zip(items, delays, strict=True):
        wheel.put(item, delay)
    _turn(wheel, math.ceil(300 / TICK) + 1)
    for item, delay in zip(items, delays, strict=True):
        (at,) = item.expiries
        assert delay - 1e-6 <= at <= delay + TICK + 1e-6
    assert len(wheel) == 0


# --- The service ---------------------------------------------------------------------------------------------


class Stage:
    """A keepalive on a clock, with one open session on its wheel."""

    def __init__(self, *, interval: float = 20.0, timeout: float = 20.0, stall: float = 0.0) -> None:
        self.clock = Clock()
        self.keepalive = KeepaliveService(config.Keepalive(ping_interval=interval, ping_timeout=timeout), stall, self.clock)
        self.keepalive.startService()
        self.wire = FakeWire()
        self.session = open_session(self.wire)
        self.item = Item(self.keepalive.wheel, lambda item: self.keepalive.sweep(item, self.session))
        self.keepalive.begin(self.item, self.session)
        self.pings: list[float] = []

    def run(self, seconds: float) -> None:
        """Let time pass, tick by tick; pings are noted with the time of the wheel at which they went out."""
        for _ in range(round(seconds / TICK)):
            before = len(self.wire.named("ping"))
            self.clock.advance(TICK)
            self.pings += [self.keepalive.wheel.now] * (len(self.wire.named("ping")) - before)

    @property
    def ping(self) -> bytes:
        """The payload of the latest ping."""
        payload = self.wire.named("ping")[-1][1]
        assert isinstance(payload, bytes)
        return payload

    @property
    def aborted(self) -> Close | None:
        """How the session ended, if it was aborted."""
        return self.session.ending if self.wire.named("abort") else None


STALLED = Close(1006, "", Cause.WRITE_STALL, By.SERVER)
UNHEARD = Close(1006, "", Cause.PONG_TIMEOUT, By.SERVER)


def test_time_is_paid_one_tick_late() -> None:
    """The wheel turns with the clock, one tick behind it; fractions of a tick are kept, and paid when they make a whole one."""
    stage = Stage()
    for seconds in range(1, 61):
        stage.run(1.0)
        assert seconds - 2 * TICK - 1e-6 <= stage.keepalive.wheel.now <= seconds - TICK + 1e-6


@pytest.mark.parametrize("gap", [2.0, 60.0, 86400.0])
def test_a_loop_that_was_blocked_owes_little(gap: float) -> None:
    """Of the time in which the loop was not alive, little is paid, and nothing of it before all that came has been read."""
    stage = Stage(interval=100.0)
    stage.run(1.0)
    before = stage.keepalive.wheel.now
    stage.clock.advance(gap)
    assert stage.keepalive.wheel.now == pytest.approx(before + TICK)
    stage.clock.advance(TICK)
    assert stage.keepalive.wheel.now == pytest.approx(before + TICK + MOST_OWED * TICK)
    stage.clock.advance(TICK)
    assert stage.keepalive.wheel.now == pytest.approx(before + TICK + MOST_OWED * TICK + TICK)


def test_a_late_tick_is_made_up_for() -> None:
    """A delay of less than what can be owed is paid in full: the wheel loses no time over it."""
    stage = Stage()
    stage.run(1.0)
    stage.clock.advance(4 * TICK)
    stage.run(1.0)
    assert stage.keepalive.wheel.now == pytest.approx(2.0 + 4 * TICK - TICK)


def test_the_service_stops_and_starts() -> None:
    """A service that was stopped turns no more, and leaves no timer; started again, it goes on where it was."""
    stage = Stage()
    stage.run(1.0)
    stage.keepalive.stopService()
    assert stage.clock.getDelayedCalls() == []
    stage.clock.advance(50)
    before = stage.keepalive.wheel.now
    stage.keepalive.startService()
    stage.run(1.0)
    assert before + 1.0 - 2 * TICK - 1e-6 <= stage.keepalive.wheel.now <= before + 1.0 + TICK + 1e-6


def test_stopping_what_has_stopped() -> None:
    """A second stop does nothing."""
    stage = Stage()
    stage.keepalive.stopService()
    stage.keepalive.stopService()
    assert not stage.keepalive.running


def test_pings_come_at_the_interval() -> None:
    """The first ping comes within an interval, each further one an interval later, however the peer answers."""
    stage = Stage(interval=5.0, timeout=3.0)
    for _ in range(300):
        stage.run(TICK)
        stage.wire.received += 1
    assert 0 < stage.pings[0] <= 5.0
    assert stage.pings == pytest.approx([stage.pings[0] + 5.0 * count for count in range(len(stage.pings))])
    assert len(stage.pings) >= 5
    assert stage.session.ending is None


def test_every_ping_is_another() -> None:
    """No two pings have the same payload, so that a pong tells which it answers; its four bytes go round."""
    stage = Stage(interval=1.0, timeout=0.0)
    stage.keepalive._pings = 0xFFFFFFFD
    stage.run(5.0)
    payloads = [call[1] for call in stage.wire.named("ping")]
    assert payloads[:4] == [b"\xff\xff\xff\xfe", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\1"]


def test_a_peer_of_which_nothing_is_heard() -> None:
    """With no byte of the peer after a ping, the session is aborted when the timeout is over, no earlier, at most two ticks later."""
    stage = Stage(interval=20.0, timeout=3.0)
    while not stage.pings:
        stage.run(TICK)
    stage.run(3.0 - 2 * TICK)
    assert stage.session.ending is None
    stage.run(3 * TICK)
    assert stage.aborted == UNHEARD
    assert len(stage.keepalive.wheel) == 0


def test_a_timeout_longer_than_the_interval() -> None:
    """Further pings go out meanwhile, and do not put the deadline off."""
    stage = Stage(interval=2.0, timeout=5.0)
    while not stage.pings:
        stage.run(TICK)
    stage.run(5.0 - 2 * TICK)
    assert stage.session.ending is None
    stage.run(3 * TICK)
    assert stage.aborted == UNHEARD
    assert len(stage.pings) == 3


def test_any_byte_of_the_peer_counts() -> None:
    """A byte that is no pong meets the deadline too; the next ping has one of its own."""
    stage = Stage(interval=10.0, timeout=3.0)
    while not stage.pings:
        stage.run(TICK)
    stage.wire.received += 1
    stage.run(10.0 + 2.0)
    assert len(stage.pings) == 2
    assert stage.session.ending is None
    stage.run(2.0)
    assert stage.aborted == UNHEARD


def test_no_deadline() -> None:
    """With no timeout a silent peer is pinged for ever."""
    stage = Stage(interval=2.0, timeout=0.0)
    stage.run(60.0)
    assert len(stage.pings) >= 29
    assert stage.session.ending is None


@pytest.mark.parametrize("stall", [0.0, 4.0])
def test_no_pings(stall: float) -> None:
    """With no interval nobody is pinged, and a silent peer that owes nothing is left alone."""
    stage = Stage(interval=0.0, timeout=2.0, stall=stall)
    stage.run(60.0)
    assert stage.pings == []
    assert stage.session.ending is None
    assert len(stage.keepalive.wheel) == (stall > 0)


def test_nothing_to_look_after() -> None:
    """With neither pings nor a deadline for stalls a session does not stand on the wheel, nor comes to stand there when looked at."""
    stage = Stage(interval=0.0)
    stage.keepalive.sweep(stage.item, stage.session)
    assert len(stage.keepalive.wheel) == 0
    assert stage.wire.calls == []


def test_a_session_that_does_not_read_hears_nothing() -> None:
    """While the application holds the reading no deadline holds; once it reads again the next ping has one."""
    stage = Stage(interval=2.0, timeout=1.0)
    stage.session.pause()
    stage.run(20.0)
    assert stage.session.ending is None
    stage.session.resume()
    stage.run(4.0)
    assert stage.aborted == UNHEARD


def test_a_hold_after_the_ping_forgives_it() -> None:
    """Reading that was held when the deadline would have passed makes no peer miss it, nor does one that was held meanwhile."""
    held, released = Stage(interval=10.0, timeout=2.0), Stage(interval=10.0, timeout=2.0)
    for stage in (held, released):
        while not stage.pings:
            stage.run(TICK)
        stage.run(1.0)
        stage.session.pause()
    released.session.resume()
    for stage in (held, released):
        stage.run(5.0)
        assert stage.session.ending is None


def test_a_blocked_loop_makes_nobody_miss_a_deadline() -> None:
    """A pong that came while the loop was blocked is read before the deadline is looked at."""
    stage = Stage(interval=20.0, timeout=3.0)
    while not stage.pings:
        stage.run(TICK)
    stage.clock.advance(3600.0)
    stage.wire.received += 6  # the turn of the loop that follows the late tick reads what waited
    stage.run(10.0)
    assert stage.session.ending is None


def test_a_pong_tells_the_round_trip() -> None:
    """The pong with the latest ping's payload gives the round trip; it counts once."""
    stage = Stage(interval=20.0)
    while not stage.pings:
        stage.run(TICK)
    stage.clock.advance(0.03)
    assert stage.keepalive.pong(stage.session, stage.ping)
    assert stage.session.rtt == pytest.approx(0.03)
    assert not stage.keepalive.pong(stage.session, stage.ping)
    assert stage.session.rtt == pytest.approx(0.03)


@pytest.mark.parametrize("payload", [b"", b"x", b"\0\0\0\0", b"\0\0\0\1more"])
def test_other_pongs_answer_nothing(payload: bytes) -> None:
    """A pong that nobody asked for, before any ping or beside one, is told from an answer."""
    stage = Stage(interval=20.0)
    assert not stage.keepalive.pong(stage.session, payload)
    while not stage.pings:
        stage.run(TICK)
    assert not stage.keepalive.pong(stage.session, payload)
    assert stage.session.rtt is None


# --- Write stalls --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [0.0, 3.0, 20.0])
def test_output_that_does_not_move(interval: float) -> None:
    """Output of which no byte leaves within the deadline aborts the session, at most a quarter late; nobody is pinged meanwhile."""
    stage = Stage(interval=interval, timeout=2.0, stall=8.0)
    stage.run(1.0)
    stage.wire.received += 1
    pings = len(stage.pings)
    stage.wire.written = stage.wire.waiting = 100_000
    stage.session.congest()
    stage.keepalive.watch(stage.item, stage.session)
    stage.run(8.0 - 2 * TICK)
    assert stage.session.ending is None
    stage.run(2.0 + 2 * TICK)
    assert stage.aborted == STALLED
    assert len(stage.pings) == pings
    assert len(stage.keepalive.wheel) == 0


def test_slow_is_not_stalled() -> None:
    """A peer that takes a byte now and then is slow, and lives, even where more is written than it takes."""
    stage = Stage(interval=0.0, stall=4.0)
    stage.wire.written = stage.wire.waiting = 100_000
    stage.session.congest()
    stage.keepalive.watch(stage.item, stage.session)
    for _ in range(20):
        stage.run(3.0)
        stage.wire.written += 10
        stage.wire.waiting += 9
    assert stage.session.ending is None


def test_what_the_peers_machine_takes_is_progress() -> None:
    """A peer that reads slowly is not stalled while its machine takes what the kernel has, though the kernel takes nothing from us."""
    stage = Stage(interval=0.0, stall=4.0)
    stage.wire.written, stage.wire.waiting, stage.wire.kernel = 200_000, 100_000, 100_000
    stage.session.congest()
    stage.keepalive.watch(stage.item, stage.session)
    for _ in range(20):
        stage.run(3.0)
        stage.wire.kernel -= 10
    assert stage.session.ending is None
    stage.run(6.0)
    assert stage.session.ending is not None


def test_writing_on_is_no_progress() -> None:
    """Output that grows while none of it leaves is stalled."""
    stage = Stage(interval=0.0, stall=4.0)
    stage.wire.written = stage.wire.waiting = 100_000
    stage.session.congest()
    stage.keepalive.watch(stage.item, stage.session)
    for _ in range(6):
        stage.run(1.0)
        stage.wire.written += 10
        stage.wire.waiting += 10
    assert stage.aborted == STALLED


def test_output_that_has_left_is_forgotten() -> None:
    """Time before the output began to wait counts for nothing, nor does a wait that is over."""
    stage = Stage(interval=0.0, stall=4.0)
    for _ in range(10):
        stage.run(3.0)
        stage.wire.written += 10
        stage.wire.waiting = 10
        stage.run(2.0)
        stage.wire.waiting = 0
    assert stage.session.ending is None


@pytest.mark.parametrize("interval", [2.0, 30.0])
def test_no_stall_deadline(interval: float) -> None:
    """With no deadline for stalls output may wait for ever, and the watch does nothing; pings go out all the same."""
    stage = Stage(interval=interval, timeout=0.0)
    due = stage.item.due
    stage.wire.waiting = 10
    stage.keepalive.watch(stage.item, stage.session)
    assert stage.item.due == due
    stage.run(120.0)
    assert stage.session.ending is None
    assert len(stage.pings) >= 120 / interval - 1


def test_pings_go_on_after_a_stall() -> None:
    """When the output that kept pings from going out has left, they go out again, within an interval."""
    stage = Stage(interval=2.0, timeout=0.0, stall=60.0)
    stage.wire.waiting = 10
    stage.run(10.0)
    assert stage.pings == []
    stage.wire.waiting = 0
    stage.run(2.0 + 2 * TICK)
    assert len(stage.pings) == 1


def test_a_deadline_that_fails_comes_again() -> None:
    """An item whose deadline raises is logged, and is not left without a deadline."""

    class Fails:
        due = -1
        calls = 0

        def expired(self) -> None:
            self.calls += 1
            raise OSError("broken")

    wheel, item = Wheel(), Fails()
    wheel.put(item, TICK)
    with capturedLogs() as events:
        for _ in range(25):
            wheel.turn()
    assert item.calls == len(events) == 3
    assert len(wheel) == 1
