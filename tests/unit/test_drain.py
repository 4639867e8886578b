"""The end of a process's sessions, on a clock that a test turns."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from tests.support.wire import FakeWire, FlowRecorder, Recorder, make_session
from twistedws import config
from twistedws.drain import STEP, Drain, spread_seconds, warn_of_raised_rate
from twistedws.errors import By, Cause, Close
from twistedws.registry import Registry

RESTARTED = Close(1012, "service restart", Cause.DRAIN, By.SERVER)


class Peer(FakeWire):
    """A connection in a registry. Its peer answers a close after so many seconds, or never; an abort ends it in the next turn."""

    def __init__(self, stage: Stage, answers: float | None, handler: Recorder | None) -> None:
        super().__init__()
        self.stage, self.answers = stage, answers
        self.closed_at: float | None = None
        self.session = make_session(self)
        self.shuts = 0
        stage.registry.connected(self)
        if handler is not None:
            stage.registry.add(self.session)
            self.session.open(handler, stage.clock.seconds())

    def close(self, code: int, reason: str) -> None:
        super().close(code, reason)
        self.closed_at = self.stage.clock.seconds()
        if self.answers is not None:
            self.stage.clock.callLater(self.answers, self._gone)

    def abort(self) -> None:
        super().abort()
        self.stage.clock.callLater(0, self._gone)

    def shut(self, *, at_once: bool) -> None:
        self.shuts += 1
        if self.session not in set(self.stage.registry):
            self.stage.clock.callLater(0, self._gone)

    def _gone(self) -> None:
        self.stage.registry.disconnected(self)
        self.stage.registry.remove(self.session)
        self.session.lost(Cause.FIN)


class Stage:
    """A drain on a clock, and connections to drain; the dice always give what a test says."""

    def __init__(
        self,
        *,
        graceful: float = 30.0,
        close: float = 5.0,
        seconds: float = 4.0,
        rate: float = 0.0,
        busy: Callable[[], int] = lambda: 0,
        uniform: Callable[[float, float], float] = lambda low, _: low,
    ) -> None:
        self.clock = Clock()
        self.registry = Registry()
        shutdown = config.Shutdown(graceful_timeout=graceful, close_timeout=close, drain_seconds=seconds, drain_rate=rate)
        self.drain = Drain(self.registry, shutdown, self.clock, busy, uniform)
        self.done_at: list[float] = []

    def peers(self, count: int, *, answers: float | None = 0.0, handler: type[Recorder] = Recorder) -> list[Peer]:
        return [Peer(self, answers, handler()) for _ in range(count)]

    def start(self, seconds: float | None = None) -> None:
        self.drain.start(seconds).addCallback(lambda _: self.done_at.append(self.clock.seconds()))

    def run(self, seconds: float) -> None:
        self.clock.pump([STEP / 2] * round(seconds / STEP * 2))


def test_nothing_to_drain() -> None:
    """With no connection a drain is over as soon as it begins, says nothing, and leaves no timer."""
    stage = Stage()
    with capturedLogs() as events:
        stage.start()
    assert stage.done_at == [0.0]
    assert not stage.drain.active
    assert stage.registry.draining
    assert stage.clock.getDelayedCalls() == []
    assert events == []


def test_closes_are_spread() -> None:
    """Sessions are closed one after the other over the time given, and the drain ends with the last connection."""
    stage = Stage(seconds=4.0)
    peers = stage.peers(4)
    with capturedLogs() as events:
        stage.start()
        assert stage.drain.active
        assert stage.registry.draining
        stage.run(5.0)
    assert sorted(peer.closed_at or 0 for peer in peers) == pytest.approx([0.0, 1.0, 2.0, 3.0], abs=STEP)
    assert [peer.session.ending for peer in peers] == [RESTARTED] * 4
    assert stage.done_at == pytest.approx([3.0], abs=2 * STEP)
    assert not stage.drain.active
    assert stage.clock.getDelayedCalls() == []
    assert [event["sessions"] for event in events] == [4]


@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_each_close_is_within_its_share(count: int, dice: object) -> None:
    """Whatever the dice say, there is one close in each share of the time, to within the steps in which the drain looks."""
    stage = Stage(seconds=4.0, uniform=dice.uniform)  # type: ignore[attr-defined]
    peers = stage.peers(count)
    stage.start()
    stage.run(4.0 + 3 * STEP)
    times = sorted(peer.closed_at for peer in peers if peer.closed_at is not None)
    assert len(times) == count
    share = 4.0 / count
    for index, time in enumerate(times):
        assert index * share - 1e-6 <= time <= (index + 1) * share + 2 * STEP


def test_a_single_session_need_not_wait() -> None:
    """A session that is alone is closed at once, whatever the dice."""
    stage = Stage(seconds=4.0, uniform=lambda _, high: high)
    (peer,) = stage.peers(1)
    stage.start()
    assert peer.closed_at == 0.0


@pytest.mark.parametrize(("graceful", "seconds", "last"), [(4.0, 100.0, 1.5), (0.0, 8.0, 6.0), (30.0, 0.0, 0.0)])
def test_the_spread_leaves_half_of_the_patience(graceful: float, seconds: float, last: float) -> None:
    """Closes take at most half of the time until the deadline; with no deadline as long as was asked for, or no time at all."""
    stage = Stage(graceful=graceful, seconds=seconds)
    peers = stage.peers(4)
    stage.start()
    stage.run(10.0)
    assert max(peer.closed_at or 0 for peer in peers) == pytest.approx(last, abs=STEP)
    assert len(stage.done_at) == 1


# --- A rate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sessions", "values", "seconds"),
    [
        (100, {"drain_seconds": 4.0}, 4.0),
        (100, {"drain_seconds": 4.0, "graceful_timeout": 6.0}, 3.0),
        (100, {"drain_seconds": 4.0, "graceful_timeout": 0.0}, 4.0),
        (100, {"drain_rate": 10.0}, 10.0),
        (100, {"drain_rate": 4.0}, 25.0),
        (100, {"drain_rate": 1.0}, 25.0),
        (100, {"drain_rate": 1.0, "close_timeout": 20.0}, 15.0),
        (100, {"drain_rate": 1.0, "close_timeout": 50.0}, 15.0),
        (100, {"drain_rate": 1.0, "graceful_timeout": 0.0}, 100.0),
        (0, {"drain_rate": 1.0}, 0.0),
    ],
)
def test_spread_seconds(sessions: int, values: dict[str, float], seconds: float) -> None:
    """A rate takes as long as it needs, if the close timeout is left of the patience, or half; ``drain_seconds`` at most half."""
    settings = config.Shutdown(**values)
    assert spread_seconds(sessions, settings) == seconds
    with capturedLogs() as events:
        warn_of_raised_rate(sessions, seconds, settings)
    raised = "drain_rate" in values and seconds < sessions / values["drain_rate"]
    assert [(event["asked"], event["used"]) for event in events] == ([(1.0, sessions / seconds)] if raised else [])


@pytest.mark.parametrize("told", [None, 4.0])
def test_a_rate(told: float | None) -> None:
    """Of two thousand sessions five hundred are closed in each second, to within a tenth."""
    stage = Stage(rate=500.0 if told is None else 0.0, seconds=1.0, uniform=random.Random(7).uniform)
    peers = stage.peers(2000)
    stage.start(told)
    stage.run(5.0)
    closes = Counter(int(peer.closed_at) for peer in peers if peer.closed_at is not None)
    assert sum(closes.values()) == 2000
    assert all(450 <= closes[second] <= 550 for second in range(4)), closes
    assert stage.done_at == pytest.approx([4.0], abs=3 * STEP)


def test_a_rate_that_is_too_low() -> None:
    """A rate at which not all could answer before the deadline is raised, and the log says so, with both and the setting."""
    stage = Stage(rate=0.1, graceful=8.0, close=3.0)
    peers = stage.peers(10)
    with capturedLogs() as events:
        stage.start()
        stage.run(6.0)
    assert max(peer.closed_at or 0 for peer in peers) == pytest.approx(4.5, abs=STEP)
    (warning,) = (event for event in events if event["log_level"].name == "warn")
    text = formatEvent(warning)
    assert "closing 2 sessions a second, and not the 0.1 of drain-rate" in text
    assert "8 s of graceful-timeout" in text


def test_seconds_that_are_told() -> None:
    """Who is told by whoever drains several processes spreads over that, within the deadline, also if it has one session only."""
    stage = Stage(seconds=1.0, graceful=20.0, uniform=lambda _, high: high)
    (peer,) = stage.peers(1)
    with capturedLogs() as events:
        stage.start(100.0)
        stage.run(20.0)
    assert peer.closed_at == pytest.approx(15.0, abs=2 * STEP)
    assert [event for event in events if event["log_level"].name == "warn"] == []


def test_sessions_that_end_by_themselves() -> None:
    """A session that ends before its turn is not closed again."""
    stage = Stage(seconds=4.0)
    peers = stage.peers(4)
    stage.start()
    early = next(peer for peer in peers if peer.closed_at is None)
    early.session.close(4000)
    stage.run(5.0)
    assert early.calls == [("close", 4000, "")]
    assert len(stage.done_at) == 1


def test_connections_that_are_no_sessions() -> None:
    """Connections with no session are shut once the last session is gone, and waited for."""
    stage = Stage(seconds=0.0)
    stage.peers(1, answers=1.0)
    idle = Peer(stage, None, None)
    stage.start()
    stage.run(0.5)
    assert idle.shuts == 0
    stage.run(1.0)
    assert idle.shuts >= 1
    assert len(stage.done_at) == 1


def test_work_that_is_left_is_waited_for() -> None:
    """A drain waits until the application has finished with its sessions, though all connections are gone."""
    work = [2]
    stage = Stage(seconds=0.0, busy=lambda: work[0])
    stage.peers(1)
    stage.start()
    stage.run(3.0)
    assert stage.done_at == []
    work[0] = 0
    stage.run(1.0)
    assert stage.done_at == pytest.approx([3.0], abs=2 * STEP)


@pytest.mark.parametrize("busy", [0, 1])
def test_the_deadline(busy: int) -> None:
    """At the deadline what is left is aborted and logged, and the drain ends, whatever the application still does."""
    stage = Stage(graceful=6.0, seconds=0.0, busy=lambda: busy)
    peers = stage.peers(3, answers=None)
    idle = Peer(stage, None, None)
    stage.start()
    stage.run(6.0 - STEP)
    assert [peer.named("abort") for peer in peers] == [[]] * 3
    with capturedLogs() as events:
        stage.run(4 * STEP)
    assert [peer.named("abort") for peer in peers] == [[("abort",)]] * 3
    assert idle.shuts >= 1
    assert [peer.session.ending for peer in peers] == [RESTARTED] * 3
    assert stage.done_at == pytest.approx([6.0], abs=3 * STEP)
    assert stage.registry.connections == 0
    assert [(event["log_level"].name, event["sessions"]) for event in events] == [("warn", 3)]
    assert stage.clock.getDelayedCalls() == []


def test_only_connections_are_left_at_the_deadline() -> None:
    """A deadline at which no session is left says nothing of any."""
    stage = Stage(graceful=2.0, busy=lambda: 1)
    stage.start()
    with capturedLogs() as events:
        stage.run(3.0)
    assert events == []
    assert stage.done_at == pytest.approx([2.0], abs=2 * STEP)


def test_no_deadline() -> None:
    """With no graceful timeout a drain waits for ever."""
    stage = Stage(graceful=0.0, seconds=1.0)
    (peer,) = stage.peers(1, answers=None)
    stage.start()
    stage.run(100.0)
    assert stage.done_at == []
    assert peer.named("abort") == []


@pytest.mark.parametrize("answers", [True, False])
def test_an_application_that_answers_first(answers: bool) -> None:
    """A handler with ``draining`` is closed when it says so, and at the close timeout when it does not."""
    stage = Stage(seconds=0.0, close=5.0)
    handler = FlowRecorder()
    peer = Peer(stage, 0.0, handler)
    stage.start()
    stage.run(1.0)
    assert handler.heard == [("opened",), ("draining",)]
    assert peer.closed_at is None
    if answers:
        assert handler.proceed is not None
        handler.proceed()
    stage.run(6.0)
    assert peer.closed_at == pytest.approx(1.0 if answers else 5.0, abs=2 * STEP)
    assert peer.named("close") == [("close", 1012, "service restart")]
    assert len(stage.done_at) == 1


def test_an_application_that_answers_first_near_the_deadline() -> None:
    """One that does not say so has half of what is left before the deadline: its peer is told, not cut."""
    stage = Stage(graceful=2.0, seconds=0.0, close=5.0)
    peer = Peer(stage, 0.0, FlowRecorder())
    stage.start()
    stage.run(3.0)
    assert peer.closed_at == pytest.approx(1.0, abs=2 * STEP)
    assert peer.named("close", "abort") == [("close", 1012, "service restart")]


# --- Hurry ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graceful", [0.0, 60.0])
def test_hurrying(graceful: float) -> None:
    """Asked again, a drain closes all that is left at once, and waits no longer than the close timeout."""
    stage = Stage(graceful=graceful, seconds=20.0, close=5.0)
    peers = stage.peers(4, answers=None)
    stage.start()
    stage.run(1.0)
    assert sum(peer.closed_at is not None for peer in peers) == 1
    with capturedLogs() as events:
        stage.drain.hurry()
        stage.run(2 * STEP)
    assert all(peer.closed_at is not None for peer in peers)
    assert [event["sessions"] for event in events] == [4]
    stage.run(4.5)
    assert stage.done_at == []
    stage.run(1.0)
    assert stage.done_at == pytest.approx([6.0], abs=3 * STEP)
    assert stage.clock.getDelayedCalls() == []


@pytest.mark.parametrize("asked", [1.0, 4.0])
def test_hurrying_applications_that_answer_first(asked: float) -> None:
    """Asked again, applications that have not answered yet get half of what is left, so that their peers are told all the same."""
    stage = Stage(graceful=60.0, seconds=0.0, close=5.0)
    peer = Peer(stage, 0.0, FlowRecorder())
    stage.start()
    stage.run(asked)
    stage.drain.hurry()
    stage.run(6.0)
    assert peer.closed_at == pytest.approx(min(asked + 2.5, 5.0), abs=2 * STEP)
    assert peer.named("close", "abort") == [("close", 1012, "service restart")]


def test_hurrying_puts_no_deadline_off() -> None:
    """A deadline that is nearer than the close timeout stays."""
    stage = Stage(graceful=3.0, seconds=1.0, close=5.0)
    stage.peers(2, answers=None)
    stage.start()
    stage.run(1.0)
    stage.drain.hurry()
    stage.run(3.0)
    assert stage.done_at == pytest.approx([3.0], abs=3 * STEP)


def test_hurrying_twice() -> None:
    """Asked a third time, a drain aborts all that is left."""
    stage = Stage(seconds=20.0)
    peers = stage.peers(4, answers=None)
    stage.start()
    stage.run(1.0)
    stage.drain.hurry()
    stage.drain.hurry()
    stage.run(4 * STEP)
    assert [peer.named("abort") for peer in peers] == [[("abort",)]] * 4
    assert stage.done_at == pytest.approx([1.0], abs=3 * STEP)


def test_hurrying_what_does_not_run() -> None:
    """Before a drain and after it there is nothing to hurry."""
    stage = Stage()
    stage.drain.hurry()
    stage.start()
    stage.drain.hurry()
    assert stage.clock.getDelayedCalls() == []
    assert len(stage.done_at) == 1


def test_hurrying_what_has_no_sessions() -> None:
    """Where only the application is busy yet nothing is said of sessions."""
    stage = Stage(busy=lambda: 1)
    with capturedLogs() as events:
        stage.start()
        stage.drain.hurry()
    assert stage.drain.active
    assert not [each for each in events if "asked again" in each["log_format"]]
    stage.run(10.0)
    assert len(stage.done_at) == 1


def test_hurrying_twice_leaves_no_timer() -> None:
    """A drain that has ended early has forgotten its deadline."""
    stage = Stage(seconds=0.0)
    stage.peers(1, answers=None)
    stage.start()
    stage.drain.hurry()
    stage.drain.hurry()
    stage.run(1.0)
    assert len(stage.done_at) == 1
    assert stage.clock.getDelayedCalls() == []


def test_a_session_that_cannot_be_closed() -> None:
    """A session whose closing raises is cut and logged; the others are closed, and the drain ends."""
    stage = Stage(seconds=0.0)
    broken, *others = stage.peers(3)

    def close(code: int, reason: str) -> None:
        raise OSError("broken")

    broken.close = close  # type: ignore[method-assign]
    with capturedLogs() as events:
        stage.start()
        stage.run(2.0)
    assert [event["session"] for event in events if "log_failure" in event] == [broken.session.id]
    assert ("abort",) in broken.calls
    assert [peer.session.ending for peer in others] == [RESTARTED] * 2
    assert len(stage.done_at) == 1
    assert stage.clock.getDelayedCalls() == []
