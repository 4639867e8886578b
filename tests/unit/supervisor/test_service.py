"""The supervisor on a clock: its workers are played over real socket pairs, its listening sockets are real, nothing is spawned."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.played import HERE, STEP, Played, Stage
from twistedws.errors import ConfigurationError, ListenError
from twistedws.supervisor.control import Accept, Counts, Drain, Failed, Hurry, Leaving, Message, Reopen, Report, Rest
from twistedws.supervisor.generation import Heritage
from twistedws.supervisor.service import _GRACE, _LAST_PATIENCE, _MORE_PATIENCE, MOST_WORKERS, TICK, _ignore
from twistedws.supervisor.worker import STACKS_SIGNAL
from twistedws.supervisor.worker import Stage as Of

Make = Callable[..., Stage]
ALL = Accept(after=0, shed=-1)  # are refused


@pytest.fixture
def make() -> Iterator[Make]:
    """Supervisors, by their settings."""
    with contextlib.ExitStack() as stack:
        yield lambda heritage=None, **values: stack.enter_context(Stage(values, heritage))


def holders(stage: Stage) -> list[int]:
    """The numbers of the workers that have the turn."""
    return [each.number for each in stage.played if each.has_turn and each.status is None]


# --- The start -----------------------------------------------------------------------------------------------


def test_start(make: Make) -> None:
    """So many workers are started, each with all settings and all sockets; the turn is given when the last one is ready."""
    stage = make(workers=3, endpoint=[HERE, "tcp:0:interface=127.0.0.1:backlog=7"]).start()
    assert [each.number for each in stage.played] == [1, 2, 3]
    assert all("workers = 3 " in each.configuration for each in stage.played)
    assert len({tuple(each.served) for each in stage.played}) == 1
    assert len(stage.played[0].served) == 2
    for each in stage.played[:2]:
        each.say_ready()
        stage.run(1.0)
    assert (holders(stage), stage.outside.words) == ([], [])
    assert stage.outside.heard[-1] == ("status", "2 of 3 workers serve, 0 sessions, 1 starting")
    stage.played[2].say_ready()
    stage.settle()
    assert len(holders(stage)) == 1
    assert stage.outside.heard[-1] == ("ready", "ready: 3 of 3 workers serve, 0 sessions")
    assert stage.said("worker 3 (pid 100003) is ready, 2.0 s after its start")
    assert stage.said("ready: 3 workers")


def test_the_turn_goes_round(make: Make) -> None:
    """Whoever has the fewest connections gets the turn, and whoever had it is told to rest."""
    stage = make().up()
    (first,) = holders(stage)
    holder = stage.played[first - 1]
    holder.report = Report(accepted=10, connections=10, sessions=10)
    stage.run(0.1)
    assert holders(stage) == [3 - first]
    assert isinstance(holder.told[-1], Rest)


def test_a_worker_that_has_accepted_all_that_it_may(make: Make) -> None:
    """A holder that rests of itself is given the turn anew."""
    stage = make(workers=1, accept_rate=100).up()
    (worker,) = stage.played
    worker.heard()
    worker.report = Report(accepted=10, connections=10, rests=True)
    stage.run(1.0)
    assert worker.heard_of(Accept)


def test_first_start_fails_with_words(make: Make) -> None:
    """A worker that says why it cannot start ends the start for all, with its status and its words."""
    stage = make(workers=3).start()
    stage.played[0].say(Failed(2, "no module named x"))
    stage.played[1].say(Failed(2, "no module named x"))
    stage.played[1].end(2)
    stage.settle()
    assert stage.gave_up == [(2, "no module named x")]
    assert [each.status for each in stage.played] == [-signal.SIGKILL, 2, -signal.SIGKILL]
    stage.run(1.0)
    stage.stop()
    stage.run(1.0)
    assert (stage.gave_up, stage.ended) == ([(2, "no module named x")], [None])
    assert len(stage.played) == 3


def test_first_start_fails_without_a_word(make: Make) -> None:
    """A worker that just ends is named with how it ended, and the status is 1."""
    stage = make(workers=1).start()
    stage.played[0].end(-signal.SIGSEGV)
    stage.settle()
    assert stage.gave_up == [(1, "worker 1 (pid 100001) was ended by SIGSEGV")]
    _ignore(1, "")


def test_no_process_at_the_start(make: Make) -> None:
    """Where no process can be had at the start there is none."""
    stage = make(workers=4)
    stage.supervisor.privilegedStartService()
    stage.no_process = 1
    stage.supervisor.startService()
    ((status, text),) = stage.gave_up
    assert status == 1
    assert text.startswith("cannot start a worker: ")
    assert stage.alive == []


def test_no_process_later(make: Make) -> None:
    """Where no process can be had for a replacement it is tried again, until there are as many workers as there should be."""
    stage = make(workers=4).up()
    stage.run(3.0)
    stage.no_process = 3
    for each in stage.played[:2]:
        each.end(1)
    stage.settle()
    assert len(stage.said("cannot start a worker: ", "temporarily unavailable")) == 2
    stage.run(1.2)
    assert len(stage.alive) == 2
    stage.run(1.5)
    assert len(stage.alive) == 4
    assert stage.gave_up == []


def test_cannot_listen(make: Make) -> None:
    """An endpoint in use, or none, ends the start before any worker."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        stage = make(endpoint=[f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"])
        with pytest.raises(ListenError, match="in use"):
            stage.supervisor.privilegedStartService()
    with pytest.raises(ConfigurationError, match="nonsense"):
        make(endpoint=["tcp:nonsense"]).supervisor.privilegedStartService()


@pytest.mark.parametrize("answers", [True, False])
def test_start_timeout(make: Make, answers: bool) -> None:
    """A worker that is not ready in time is killed, and the log says where it was, or that it does not say."""
    stage = make(workers=1, worker_start_timeout="3s").start()
    (worker,) = stage.played
    stage.run(2.8)
    assert worker.asked() == b""
    stage.run(0.3)
    assert worker.asked() == b"s"
    if answers:
        worker.watch.send(b"at app.py:5 in connect\nmain thread\0")
    stage.run(1.0)
    assert worker.status == -signal.SIGKILL
    (event,) = stage.events("killing worker 1 (pid 100001), which was not ready in 3.")
    assert event["place"] == ("at app.py:5 in connect" if answers else "and does not say where it is")
    assert event["stack"] == ("main thread" if answers else "")
    assert stage.gave_up == [(1, "worker 1 (pid 100001) was killed")]


def test_no_start_timeout(make: Make) -> None:
    """With no deadline a start may take as long as it likes."""
    stage = make(workers=1, worker_start_timeout=0).start()
    stage.run(200)
    assert stage.played[0].status is None


# --- Workers that end ----------------------------------------------------------------------------------------


def test_a_worker_dies(make: Make) -> None:
    """One that dies is replaced at once, and the sessions that it had are counted as lost; the others have the turn meanwhile."""
    stage = make().up()
    stage.played[0].report = Report(connections=8, sessions=7, counts=Counts(opened=9, closed={"fin": 2}, answered={2: 1}))
    stage.run(3.0)
    stage.played[0].end(-signal.SIGKILL)
    stage.settle()
    assert stage.said("worker 1 (pid 100001) was ended by SIGKILL", "7 sessions lost: another is started at once")
    assert [each.number for each in stage.alive] == [2, 3]
    assert holders(stage) == [2]
    counts = stage.supervisor.counts()
    assert (counts.opened, counts.closed, counts.answered) == (9, {"fin": 2, "worker_lost": 7}, {2: 1})
    stage.played[2].say_ready()
    stage.run(1.1)
    assert stage.outside.heard[-1] == ("status", "2 of 2 workers serve, 0 sessions")
    assert not stage.said("crash loop")


def test_a_worker_that_leaves_of_itself(make: Make) -> None:
    """One that drains because somebody has sent it SIGTERM has no turn, a deadline, and a successor; it is not told to drain too."""
    stage = make(graceful_timeout=10, close_timeout=2, application_close_timeout=1).up()
    first = stage.played[0]
    first.report = Report(sessions=3)
    stage.run(0.2)
    first.heard()
    first.say(Leaving())
    stage.settle()
    assert holders(stage) == [2]
    assert [each.number for each in stage.alive] == [1, 2, 3]
    assert stage.said("worker 1 (pid 100001) leaves, and was not told to: another is started")
    stage.run(2.0)
    assert first.heard_of(Drain) == []
    stage.run(10 + 2 + 1 + _GRACE + _MORE_PATIENCE - 1.8)
    assert first.status == -signal.SIGKILL
    stage.run(1.0)
    assert len(stage.played) == 3


def test_a_worker_that_leaves_in_the_delay(make: Make) -> None:
    """Once the end has begun nobody takes the place of one that leaves; who was told to leave says nothing new with it."""
    stage = make(ready_delay=4).up()
    stage.stop()
    stage.played[0].say(Leaving())
    stage.run(0.2)
    assert len(stage.played) == 2
    assert holders(stage) == [2]
    stage.run(5.0)
    stage.played[1].say(Leaving())
    stage.run(0.2)
    assert len(stage.said("was not told to")) == 1
    for each in stage.played:
        each.end()
    stage.run(0.2)
    assert stage.ended == [None]


def test_a_worker_whose_end_is_not_seen_yet(make: Make) -> None:
    """Between the end of its link and that of its process a worker has no turn; one that does not end then is killed."""
    stage = make().up()
    first, second = stage.played
    first.report = Report(connections=4)
    stage.run(3.0)
    first.report = None
    first.control.close()
    stage.settle()
    assert holders(stage) == [2]
    assert len(stage.played) == 2
    stage.run(1.8)
    assert first.status is None
    stage.run(0.5)
    assert first.status == -signal.SIGKILL
    assert len(stage.played) == 3
    assert second.status is None


def test_a_worker_whose_link_does_not_end(make: Make) -> None:
    """The end of a worker is seen also where a child of its own holds the link; its last words are heard before."""
    stage = make(accept_rate=100).up()
    first = stage.played[0]
    first.report = Report(connections=4, sessions=3)
    stage.run(3.0)
    childs = first.control.dup()
    first.say(Report(connections=4, sessions=2, counts=Counts(opened=9)))
    first.end(-signal.SIGSEGV)
    stage.reactor.advance(TICK)  # before the reactor has looked at the link
    stage.run(0.1)
    assert stage.said("worker 1 (pid 100001) was ended by SIGSEGV", "2 sessions lost: another is started at once")
    assert stage.supervisor.counts().opened == 9
    assert len(stage.played) == 3
    childs.close()
    stage.run(1.0)
    assert len(stage.played) == 3


def test_crash_loop(make: Make) -> None:
    """Workers that end again and again are started later and later, which is reported; one that lives ends it."""
    stage = make(workers=1).up()
    delays: list[float] = []
    for _ in range(8):
        stage.run(0.1)
        before = len(stage.played)
        stage.alive[0].end(1)
        since = stage.reactor.seconds()
        stage.settle()
        for _ in range(220):
            if len(stage.played) > before:
                break
            stage.run(STEP)
        delays.append(stage.reactor.seconds() - since)
        stage.played[-1].say_ready()
    assert delays == pytest.approx([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0], abs=0.16)
    assert stage.said("another is started in 0.5 s")
    assert stage.said("crash loop: 8 workers in a row", "the last one ended with status 1")
    assert "crash loop" in stage.outside.heard[-1][1]
    stage.run(3.0)
    assert stage.said("the crash loop has ended: workers live again")
    assert "crash loop" not in stage.outside.heard[-1][1]
    stage.alive[0].end(1)
    stage.settle()
    assert len(stage.alive) == 1


def test_the_last_word_of_a_worker_in_a_crash_loop(make: Make) -> None:
    """A replacement that says why it does not start is quoted."""
    stage = make(workers=1).up()
    stage.run(3.0)
    stage.alive[0].end(1)
    stage.settle()
    stage.alive[0].say(Failed(2, "no module named x"))
    stage.alive[0].end(2)
    stage.settle()
    assert stage.said("worker 2 (pid 100002) no module named x, 0 sessions lost")
    assert stage.gave_up == []


# --- Workers that are stuck ----------------------------------------------------------------------------------


def test_stuck(make: Make) -> None:
    """A worker that gives no sign of life loses the turn and its stacks are logged; once it answers it may have the turn again."""
    stage = make().up()
    first, second = stage.played
    second.report = Report(connections=100, accepted=100)
    stage.run(1.0)
    assert holders(stage) == [1]
    first.is_silent = True
    stage.run(5.2)
    assert holders(stage) == [2]
    assert first.asked() == b"s"
    first.watch.send(b"at app.py:7 in compute, for session=4f\nmain thread, most recent call first:\n  app.py:7\0")
    stage.run(0.2)
    (event,) = stage.events("worker 1 (pid 100001) is stuck: its event loop has given no sign of life for 5.")
    assert event["place"] == "at app.py:7 in compute, for session=4f"
    assert event["stack"].startswith("main thread")
    stage.run(1.0)
    assert stage.outside.heard[-1] == ("status", "1 of 2 workers serve, 0 sessions, stuck: worker 1")
    assert [each["stage"] for each in stage.supervisor.facts()["workers"]] == ["stuck", "serving"]  # type: ignore[attr-defined]
    first.is_silent = False
    stage.run(0.2)
    assert stage.said("worker 1 (pid 100001) answers again, after 6.")
    assert holders(stage) == [1]
    assert len(stage.events("is stuck")) == 1


def test_stuck_no_more_when_it_says_where(make: Make) -> None:
    """A worker that answers again before its stacks are there is not reported as stuck."""
    stage = make().up()
    first = stage.played[0]
    first.is_silent = True
    stage.run(5.2)
    first.is_silent = False
    stage.run(0.1)
    first.watch.send(b"at app.py:7 in compute\nmain thread\0")
    stage.run(1.0)
    assert stage.said("answers again")
    assert not stage.said("is stuck")


def test_stuck_in_a_call_that_holds_the_interpreter(make: Make) -> None:
    """Where the witness cannot answer, faulthandler's stacks are parted in the same way."""
    stage = make(workers=1).up()
    (worker,) = stage.played
    worker.is_silent = True
    stage.run(5.5)
    assert worker.signals == [STACKS_SIGNAL]
    worker.watch.send(b'Thread 0x1 (most recent call first):\n  File "a.py", line 1 in f\n\n')
    worker.watch.send(b'Current thread 0x2 (most recent call first):\n  File "b.py", line 2 in g\n')
    stage.run(0.6)
    (event,) = stage.events("is stuck")
    assert event["place"] == "at b.py:2 in g, in a call that holds the interpreter"
    assert 'File "a.py"' in event["stack"]


def test_stuck_for_too_long(make: Make) -> None:
    """A worker that is stuck for as long as is borne is killed and replaced."""
    stage = make(workers=2, stuck_after="2s", worker_timeout="10s").up()
    stage.played[0].is_silent = True
    stage.run(9.8)
    assert stage.played[0].status is None
    stage.run(0.5)
    assert stage.played[0].status == -signal.SIGKILL
    assert stage.said("killing worker 1 (pid 100001): no sign of life for 10.")
    assert [each.number for each in stage.alive] == [2, 3]


def test_stuck_and_killed_at_once(make: Make) -> None:
    """Where a worker is killed as soon as it is stuck, it says where it is first."""
    stage = make(workers=2, stuck_after="2s", worker_timeout="2s").up()
    stage.played[0].is_silent = True
    stage.run(2.1)
    assert stage.played[0].status is None
    stage.played[0].watch.send(b"at main.py:1 in f\n\0")
    stage.run(0.3)
    (event,) = stage.events("is stuck")
    assert event["place"] == "at main.py:1 in f"
    assert stage.played[0].status == -signal.SIGKILL


def test_killed_and_not_gone(make: Make) -> None:
    """One that does not even end of SIGKILL is killed once, logged once, and has no turn."""
    stage = make(workers=2, stuck_after="2s", worker_timeout="4s").up()
    stage.played[0].is_silent = stage.played[0].is_undying = True
    stage.run(10.0)
    assert holders(stage) == [2]
    assert len(stage.said("killing worker 1")) == 1


def test_a_pause_of_its_own(make: Make) -> None:
    """A supervisor that was stopped, or a machine that slept, takes nobody for stuck."""
    stage = make().up()
    stage.run(1.0)
    stage.reactor.advance(60)
    stage.run(1.0)
    assert [each.asked() for each in stage.played] == [b"", b""]
    assert not stage.said("stuck")
    assert not stage.said("killing")


def test_whether_there_is_one_that_serves(make: Make) -> None:
    """Those outside are told again and again whether there is a worker that may be given connections."""
    stage = make().start()
    stage.played[0].say_ready()
    stage.run(0.2)
    assert stage.outside.is_served is False
    stage.played[1].say_ready()
    stage.run(0.2)
    assert stage.outside.is_served
    stage.played[0].is_silent = True
    stage.run(6.0)
    assert stage.outside.is_served
    stage.played[1].is_silent = True
    stage.run(6.0)
    assert stage.outside.is_served is False
    stage.played[0].is_silent = False
    stage.run(0.5)
    assert stage.outside.is_served


def test_the_watchdog_where_nobody_is_left(make: Make) -> None:
    """While a crash loop has workers wait for their start the watchdog is told all the same."""
    stage = make(workers=1).up()
    for _ in range(4):
        stage.alive[0].end(1)
        stage.run(2.5)
    stage.alive[0].end(1)
    stage.settle()
    assert stage.alive == []
    count = stage.outside.alive_count
    stage.run(2.0)
    assert stage.alive == []
    assert stage.outside.alive_count > count


def test_the_watchdog(make: Make) -> None:
    """The watchdog is told again and again as long as one worker answers, or starts, and not when all are stuck."""
    stage = make().start()
    stage.run(3.3)
    assert stage.outside.alive_count >= 3  # while it starts
    for each in stage.played:
        each.say_ready()
    stage.played[0].is_silent = True
    stage.run(8.0)
    count = stage.outside.alive_count
    assert count >= 10
    stage.played[1].is_silent = True
    stage.run(6.5)
    count = stage.outside.alive_count
    stage.run(5.0)
    assert stage.outside.alive_count == count
    stage.played[1].is_silent = False
    stage.run(1.2)
    assert stage.outside.alive_count > count


# --- Reload --------------------------------------------------------------------------------------------------


def test_reload(make: Make) -> None:
    """New workers start beside the old; when the last is ready they have the turn, and the old rest and drain."""
    stage = make(drain_seconds=4).up()
    old = list(stage.played)
    old[0].report = Report(connections=3, sessions=3)
    stage.run(1.0)
    stage.values["workers"] = 3
    stage.values["ping_interval"] = "7s"
    new = stage.reload(ready=False)
    assert len(new) == 3
    assert all("ping-interval = 7" in each.configuration for each in new)
    assert new[0].served == old[0].served
    new[0].say_ready()
    new[1].say_ready()
    stage.run(1.1)
    assert holders(stage) == [2]
    assert stage.outside.heard[-1] == ("status", "2 of 2 workers serve, 3 sessions, 1 starting")
    assert stage.outside.words == ["ready", "reloading"]
    new[2].say_ready()
    stage.settle()
    assert stage.outside.heard[-1][0] == "ready"
    old[1].heard()
    assert isinstance(old[1].told[-1], Rest)
    assert len(holders(stage)) == 1
    assert holders(stage)[0] in [each.number for each in new]
    assert old[0].heard_of(Drain) == []
    stage.run(_GRACE + 0.1)
    assert [each.heard_of(Drain) for each in old] == [[Drain(4.0)]] * 2
    for each in old:
        each.end()
    stage.run(1.1)
    assert stage.outside.heard[-1] == ("status", "3 of 3 workers serve, 0 sessions")
    assert not stage.said("sessions lost")


def test_reload_drains_at_a_rate(make: Make) -> None:
    """The rate of a drain is that of all workers together."""
    stage = make(drain_rate=10).up()
    for each, sessions in zip(stage.played, (120, 30), strict=True):
        each.report = Report(connections=sessions, sessions=sessions)
    stage.run(0.2)
    stage.reload()
    stage.run(_GRACE + 0.1)
    assert [each.heard_of(Drain) for each in stage.played[:2]] == [[Drain(15.0)]] * 2


def test_who_leaves_too_slowly(make: Make) -> None:
    """A worker that does not end before its deadline is killed."""
    stage = make(graceful_timeout=10, close_timeout=2, application_close_timeout=1).up()
    stage.reload()
    deadline = 10 + 2 + 1 + _GRACE + _MORE_PATIENCE
    stage.run(deadline - 0.2)
    assert [each.status for each in stage.played[:2]] == [None, None]
    stage.run(0.5)
    assert [each.status for each in stage.played[:2]] == [-signal.SIGKILL] * 2
    assert len(stage.said("killing worker", "did not end in time")) == 2
    stage.run(0.1)
    assert not stage.said("was ended by SIGKILL")  # it has been said that we did


def test_who_leaves_by_its_own_settings(make: Make) -> None:
    """Workers leave as fast and by when the settings say that they were started with, not those of a reload."""
    stage = make(graceful_timeout=10, close_timeout=2, application_close_timeout=1, drain_seconds=4).up()
    stage.values.update(graceful_timeout=100, close_timeout=20, application_close_timeout=10, drain_seconds=40)
    stage.played[0].report = Report(sessions=2)
    stage.run(0.2)
    new = stage.reload()
    stage.run(_GRACE + 0.1)
    assert [each.heard_of(Drain) for each in stage.played[:2]] == [[Drain(4.0)]] * 2
    stage.run(10 + 2 + 1 + _MORE_PATIENCE)
    assert [each.status for each in stage.played[:2]] == [-signal.SIGKILL] * 2
    stage.supervisor.fewer()
    stage.run(_GRACE + 0.1)
    assert [each.heard_of(Drain) for each in new] == [[Drain(40.0)], []]


def test_who_leaves_and_crashes(make: Make) -> None:
    """Of a worker that ends as it should not while it leaves it is said how, and with how many sessions."""
    stage = make().up()
    stage.played[0].report = Report(sessions=3)
    stage.run(0.2)
    stage.reload()
    stage.played[0].end(-signal.SIGSEGV)
    stage.settle()
    assert stage.said("worker 1 (pid 100001) was ended by SIGSEGV, 3 sessions lost")


def test_who_may_leave_slowly(make: Make) -> None:
    """With no graceful timeout a worker leaves as slowly as it likes, while it gives signs of life."""
    stage = make(graceful_timeout=0).up()
    stage.reload()
    stage.run(200)
    assert [each.status for each in stage.played[:2]] == [None, None]


def test_leaving_is_over_before_it_has_begun(make: Make) -> None:
    """A worker that ends before it was told to drain is told nothing."""
    stage = make().up()
    stage.reload()
    stage.played[0].end(0)
    stage.run(1.0)
    assert stage.played[1].heard_of(Drain) == [Drain(5.0)]
    assert not stage.said("pid 100001) ended")


@pytest.mark.parametrize(
    ("values", "wrong", "reason"),
    [
        ({}, ConfigurationError("--port", "x", "a number is accepted"), "--port: x"),
        ({"workers": 0}, None, "workers: 0"),
        ({"endpoint": ["tcp:nonsense"]}, None, "nonsense"),
        ({"endpoint": [HERE, "IN USE"]}, None, "in use"),
    ],
)
def test_reload_refused(make: Make, values: dict[str, Any], wrong: Exception | None, reason: str) -> None:
    """A configuration that is wrong, or asks for what cannot be had, changes nothing; the log has the reason."""
    stage = make().up()
    held = stage.sockets.descriptors()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
        if "endpoint" in values:
            values = {"endpoint": [taken if each == "IN USE" else each for each in values["endpoint"]]}
        stage.values.update(values)
        stage.wrong = wrong
        assert stage.reload() == []
    assert stage.said("reload refused, nothing is changed: ", reason)
    assert stage.sockets.descriptors() == held
    assert stage.outside.words == ["ready", "reloading", "ready"]
    assert "ready, but the last reload was refused: 2 of 2 workers serve" in stage.outside.heard[-1][1]
    assert len(holders(stage)) == 1


@pytest.mark.parametrize("words", [True, False])
def test_reload_with_a_broken_application(make: Make, words: bool) -> None:
    """Where one new worker does not start the others are killed, sockets that only they had are closed, and the old ones go on."""
    stage = make().up()
    held = stage.sockets.descriptors()
    stage.values["endpoint"] = [HERE, "tcp:0:interface=127.0.0.1:backlog=9"]
    first, second = stage.reload(ready=False)
    assert len(stage.sockets.descriptors()) == 2 * len(held) + 1 - len(held)
    first.say_ready()
    stage.settle()
    if words:
        second.say(Failed(2, "no module named x"))
    second.end(2)
    stage.settle()
    assert first.status == -signal.SIGKILL
    assert stage.said("reload refused", "no module named x" if words else "worker 4 (pid 100004) ended with status 2 before it was ready")
    assert stage.sockets.descriptors() == held
    stage.run(1.0)
    assert [each.number for each in stage.alive] == [1, 2]
    assert stage.supervisor.heritage() is not None


def test_reload_without_processes(make: Make) -> None:
    """Where no process can be had for a new worker the reload is refused, and does not wait for ever."""
    stage = make().up()
    stage.no_process = 1
    assert stage.reload() == []
    assert stage.said("reload refused", "cannot start a worker: ", "temporarily unavailable")
    stage.run(3.0)
    assert [each.number for each in stage.alive] == [1, 2]
    assert len(stage.reload()) == 2
    assert holders(stage)[0] in (3, 4)


def test_reload_in_a_reload(make: Make) -> None:
    """However often it is asked for during a reload, there is one more reload after it."""
    stage = make().up()
    first = stage.reload(ready=False)
    assert stage.reload(ready=False) == []
    assert stage.reload(ready=False) == []
    for each in first:
        each.say_ready()
    stage.settle()
    assert len(stage.played) == 6
    for each in stage.played[4:]:
        each.say_ready()
    stage.settle()
    assert len(stage.played) == 6
    assert stage.outside.words == ["ready", "reloading", "ready", "reloading", "ready"]


def test_reload_in_a_reload_that_is_refused(make: Make) -> None:
    """The one that was asked for meanwhile comes after a refused one too."""
    stage = make().up()
    (first, _) = stage.reload(ready=False)
    assert stage.reload(ready=False) == []
    first.end(1)
    stage.settle()
    assert [each.number for each in stage.alive] == [1, 2, 5, 6]


def test_reload_during_the_start(make: Make) -> None:
    """A reload whose workers are ready before the first ones makes the service ready; before, nobody outside is told of it."""
    stage = make().start()
    new = stage.reload(ready=False)
    assert stage.outside.words == []
    for each in new:
        each.say_ready()
    stage.settle()
    assert stage.outside.words == ["ready"]
    assert [each.status for each in stage.played[:2]] == [-signal.SIGKILL] * 2  # they never served
    assert holders(stage)[0] in [each.number for each in new]


def test_reload_refused_during_the_start(make: Make) -> None:
    """One that is refused before the service is ready does not make it so."""
    stage = make().start()
    stage.wrong = ConfigurationError("--port", "x", "a number is accepted")
    stage.reload()
    assert stage.said("reload refused")
    assert (stage.outside.words, len(stage.played)) == ([], 2)


def test_reload_with_another_text_of_an_endpoint(make: Make, tmp_path: Path) -> None:
    """An endpoint whose backlog or mode alone changes goes on: with the socket, and its file, that there are."""
    path = tmp_path / "socket"
    stage = make(endpoint=[f"unix:{path}"]).up()
    stage.values["endpoint"] = [f"unix:{path}:mode=600:backlog=9"]
    with socket.socket(socket.AF_UNIX) as client:
        new = stage.reload()
        assert not stage.said("reload refused")
        assert [each.served for each in new] == [[str(path)]] * 2
        client.connect(str(path))
    assert list(stage.sockets.descriptors()) == [f"unix:{path}:mode=600:backlog=9"]


def test_reload_before_the_start(make: Make) -> None:
    """Nothing is reloaded that does not run."""
    stage = make()
    stage.supervisor.reload()
    assert (stage.played, stage.outside.heard) == ([], [])


def test_reload_with_other_endpoints(make: Make, tmp_path: Path) -> None:
    """Sockets of endpoints that are the same stay, new ones are opened before, old ones closed after the new workers are ready."""
    path = tmp_path / "socket"
    stage = make(endpoint=[HERE, f"unix:{path}"]).up()
    held = stage.sockets.descriptors()
    (same, _) = held
    stage.values["endpoint"] = [HERE, "tcp:0:interface=127.0.0.1:backlog=9"]
    new = stage.reload(ready=False)
    assert len(stage.sockets.descriptors()) == 3
    assert path.exists()
    for each in new:
        each.say_ready()
    stage.settle()
    assert len(stage.sockets.descriptors()) == 2
    assert stage.sockets.descriptors()[same] == held[same]
    assert not path.exists()


def test_start_timeout_of_a_reload(make: Make) -> None:
    """New workers may take as long as the new configuration says."""
    stage = make(worker_start_timeout="3s").up()
    stage.values["worker_start_timeout"] = "10s"
    new = stage.reload(ready=False)
    stage.run(5.0)
    assert [each.status for each in new] == [None, None]
    stage.run(6.5)
    assert [each.status for each in new] == [-signal.SIGKILL] * 2
    assert len(stage.said("reload refused")) == 1


# --- More and fewer ------------------------------------------------------------------------------------------


def test_more(make: Make) -> None:
    """One worker more is started beside the others, and gets the turn when it is ready; there are bounds."""
    stage = make().up()
    for each in stage.played:
        each.report = Report(connections=9, accepted=9)
    stage.run(0.2)
    stage.supervisor.more()
    assert len(stage.played) == 3
    stage.played[2].say_ready()
    stage.run(0.2)
    assert holders(stage) == [3]
    stage.supervisor._current.target = MOST_WORKERS
    stage.supervisor.more()
    assert len(stage.played) == 3


def test_fewer(make: Make) -> None:
    """One worker less: that with the fewest sessions drains; the last one stays."""
    stage = make().up()
    stage.played[0].report = Report(connections=5, sessions=5)
    stage.run(0.2)
    stage.supervisor.fewer()
    stage.settle()
    assert holders(stage) == [1]
    stage.run(_GRACE + 0.1)
    assert stage.played[1].heard() == [Drain(5.0)]
    stage.played[1].end()
    stage.run(1.0)
    assert [each.number for each in stage.alive] == [1]
    stage.supervisor.fewer()
    assert stage.said("the last worker stays")
    assert len(stage.alive) == 1


def test_fewer_in_a_crash_loop(make: Make) -> None:
    """One that is waited for is the first to be missed."""
    stage = make(workers=2).up()
    for _ in range(3):
        stage.played[-1].end(1)
        stage.settle()
        if stage.played[-1].status is None:
            stage.played[-1].say_ready()
            stage.settle()
    stage.supervisor.fewer()
    stage.run(20)
    assert [each.number for each in stage.alive] == [1]
    assert stage.played[0].heard_of(Drain) == []


def test_reopen(make: Make) -> None:
    """All workers open their log files anew, those that leave too."""
    stage = make().up()
    stage.reload()
    for each in stage.played:
        each.heard()
    stage.supervisor.reopen()
    assert [each.heard_of(Reopen) for each in stage.played] == [[Reopen()]] * 4


# --- The end -------------------------------------------------------------------------------------------------


def test_stop(make: Make) -> None:
    """What waits is answered 503, then nobody listens, all drain, and it is over when all have ended."""
    stage = make(drain_seconds=3).up()
    for each in stage.played:
        each.report = Report(sessions=2, counts=Counts(opened=3, closed={"fin": 1}))
    stage.run(0.2)
    (holder,) = holders(stage)
    for each in stage.played:
        each.heard()
    stage.stop()
    assert stage.outside.heard[-1] == ("stopping", "stopping: 2 of 2 workers serve, 4 sessions")
    assert stage.played[holder - 1].heard() == [Rest(), ALL]
    assert stage.sockets.descriptors()
    stage.run(0.3)
    assert not stage.sockets.descriptors()
    stage.run(0.3)
    assert [each.heard() for each in stage.played] == [[Drain(3.0)]] * 2
    stage.supervisor.reload()
    stage.supervisor.more()
    stage.supervisor.fewer()
    stage.played[0].report = Report(counts=Counts(opened=3, closed={"fin": 1, "drain": 2}))
    stage.run(0.1)
    stage.played[0].end()
    stage.run(0.1)
    assert stage.ended == []
    stage.played[1].say(Report(counts=Counts(opened=3, closed={"fin": 1, "drain": 2})))
    stage.played[1].end()
    stage.run(0.1)
    assert stage.ended == [None]
    assert stage.said("served 6 sessions: drain 4, fin 2")
    assert len(stage.played) == 2
    stage.supervisor.hurry()
    stage.supervisor.more()
    stage.reactor.advance(10)
    assert stage.reactor.getDelayedCalls() == []


def test_stop_with_nobody(make: Make) -> None:
    """A service of which nobody was served says so."""
    stage = make(workers=1).up()
    stage.stop()
    stage.played[0].end()
    stage.run(1.0)
    assert stage.said("served 0 sessions: none ended")


def test_ready_delay(make: Make) -> None:
    """After the notice the workers go on for a while; one that dies meanwhile is not replaced; then all is as without a delay."""
    stage = make(ready_delay=4).up()
    stage.run(3.0)
    stage.stop()
    assert stage.said("not ready any more; listening for 4 s yet")
    assert stage.outside.words[-1] == "stopping"
    stage.played[0].end(1)
    stage.run(3.8)
    assert len(stage.played) == 2
    assert holders(stage) == [2]
    assert stage.sockets.descriptors()
    stage.run(0.3)
    assert stage.played[1].heard()[-1] == ALL
    stage.run(0.5)
    assert stage.played[1].heard() == [Drain(5.0)]
    stage.played[1].end()
    stage.run(0.1)
    assert stage.ended == [None]


def test_hurry_in_the_delay(make: Make) -> None:
    """Asked again during the delay, it is over, and all sessions are closed at once."""
    stage = make(ready_delay=30).up()
    stage.stop()
    stage.run(1.0)
    for each in stage.played:
        each.heard()
    stage.supervisor.hurry()
    for each in stage.played:
        assert each.heard()[-1] == Hurry()
        each.end()
    stage.run(0.5)
    assert stage.ended == [None]


def test_hurry(make: Make) -> None:
    """Before the end there is nothing to hurry; then workers are told each time, and have until a nearer deadline."""
    stage = make(close_timeout=2, application_close_timeout=1, graceful_timeout=0).up()
    stage.supervisor.hurry()
    stage.stop()
    stage.run(1.0)
    for each in stage.played:
        each.heard()
    stage.supervisor.hurry()
    assert [each.heard()[-1] for each in stage.played] == [Hurry()] * 2
    stage.run(2 + 1 + _MORE_PATIENCE - 0.2)
    assert stage.ended == []
    stage.run(0.5)
    assert [each.status for each in stage.played] == [-signal.SIGKILL] * 2
    assert stage.ended == [None]


def test_hurry_twice(make: Make) -> None:
    """Workers that were asked to cut everything have a second for it."""
    stage = make(close_timeout=20, application_close_timeout=10).up()
    stage.stop()
    stage.run(1.0)
    stage.supervisor.hurry()
    stage.run(3.0)
    for each in stage.played:
        each.heard()
    stage.supervisor.hurry()
    assert [each.heard()[-1] for each in stage.played] == [Hurry()] * 2
    stage.run(_LAST_PATIENCE - 0.2)
    assert [each.status for each in stage.played] == [None, None]
    stage.run(0.5)
    assert [each.status for each in stage.played] == [-signal.SIGKILL] * 2
    assert stage.ended == [None]


def test_stop_when_nobody_has_the_turn(make: Make) -> None:
    """What waits is answered 503 by a worker that can, though none has the turn: not by one that is stuck."""
    stage = make().up()
    stage.played[0].is_silent = True
    stage.run(5.5)
    stage.supervisor._balance.stop()
    assert holders(stage) == []
    for each in stage.played:
        each.heard()
    stage.stop()
    assert [each.heard_of(Accept) for each in stage.played] == [[], [ALL]]


def test_stop_during_a_reload(make: Make) -> None:
    """New workers are killed, the others drain."""
    stage = make(ready_delay=2).up()
    new = stage.reload(ready=False)
    stage.stop()
    assert [each.status for each in new] == [-signal.SIGKILL] * 2
    stage.run(3.0)
    for each in stage.played[:2]:
        assert each.heard()[-1] == Drain(5.0)
        each.end()
    stage.run(0.2)
    assert stage.ended == [None]


def test_stop_during_the_start(make: Make) -> None:
    """Workers that are not ready yet are killed: they serve nobody; those that are drain; and there is no delay."""
    stage = make(ready_delay=20).start()
    stage.played[0].say_ready()
    stage.settle()
    stage.stop()
    stage.run(1.0)
    assert [each.status for each in stage.played] == [None, -signal.SIGKILL]
    assert stage.played[0].heard() == [ALL, Drain(5.0)]
    stage.played[0].end()
    stage.run(0.1)
    assert (stage.ended, stage.gave_up) == ([None], [])
    assert not stage.said("SIGKILL")


def test_stop_in_a_crash_loop(make: Make) -> None:
    """What was to be started later is not."""
    stage = make(workers=1).up()
    for _ in range(2):
        stage.alive[0].end(1)
        stage.settle()
    assert stage.alive == []
    stage.stop()
    stage.run(3.0)
    assert (stage.ended, stage.alive) == ([None], [])


# --- The succession ------------------------------------------------------------------------------------------


def test_when_there_is_a_heritage(make: Make) -> None:
    """A supervisor that starts, reloads or stops leaves none; else it leaves its sockets, workers and counts."""
    stage = make()
    assert stage.supervisor.heritage() is None
    stage.up()
    new = stage.reload(ready=False)
    assert stage.supervisor.heritage() is None
    for each in new:
        each.say_ready()
    stage.settle()
    stage.played[0].say(Report(counts=Counts(opened=4)))
    stage.played[0].end()
    stage.settle()
    heritage = stage.supervisor.heritage()
    assert heritage is not None
    assert heritage.sockets == stage.sockets.descriptors()
    assert (heritage.number, heritage.counts.opened) == (4, 4)
    assert [(number, leaves) for number, _, _, _, leaves, *_ in heritage.workers] == [(3, False), (4, False), (2, True)]
    stage.stop()
    assert stage.supervisor.heritage() is None


def test_no_heritage_while_one_starts(make: Make) -> None:
    """While a worker starts, which the next supervisor would take for ready, there is none."""
    stage = make().up()
    stage.supervisor.more()
    assert stage.supervisor.heritage() is None
    stage.played[2].say_ready()
    stage.settle()
    assert stage.supervisor.heritage() is not None


def test_who_has_gone_is_not_left(make: Make) -> None:
    """A worker whose link has ended is nothing to leave."""
    stage = make().up()
    stage.played[0].control.close()
    stage.settle()
    heritage = stage.supervisor.heritage()
    assert heritage is not None
    assert [each[0] for each in heritage.workers] == [2]


def copied(heritage: Heritage) -> Heritage:
    """What the same process has after execve(2): the same sockets, none of the objects."""
    workers = [each._replace(control=os.dup(each.control), watch=os.dup(each.watch)) for each in heritage.workers]
    return Heritage({name: os.dup(each) for name, each in heritage.sockets.items()}, workers, heritage.number, heritage.counts)


def test_adopted(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of the supervisor before are taken over: they serve on, and are replaced by new ones as in a reload."""
    monkeypatch.setattr(os, "waitpid", lambda pid, options: (0, 0))
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    stage = make(accept_rate=100).up()
    stage.played[0].say(Report(accepted=1_000_000, connections=5, sessions=5))
    stage.settle()
    stage.supervisor.fewer()
    heritage = stage.supervisor.heritage()
    assert heritage is not None
    before = [each.number for each in stage.played if each.has_turn]
    heir = make(copied(heritage), accept_rate=100)
    heir.start()
    serving, leaving = stage.played[0], stage.played[1]
    assert [each.number for each in heir.played] == [3, 4]
    assert heir.sockets.descriptors().keys() == heritage.sockets.keys()
    assert before == [1]
    serving.heard()
    serving.say(Report(accepted=1_000_000, connections=5, sessions=5))
    heir.run(0.5)
    assert serving.has_turn  # what it had accepted before is no debt
    assert heir.supervisor.facts()["sessions"] == 5
    for each in heir.played:
        each.say_ready()
    heir.settle()
    assert isinstance(serving.heard()[-1], Rest)
    heir.run(_GRACE + 0.1)
    assert serving.heard_of(Drain) == [Drain(5.0)]
    assert heir.outside.words == ["ready", "reloading", "ready"]  # workers serve already
    serving.say(Report(accepted=1_000_000, counts=Counts(opened=7)))
    heir.settle()
    monkeypatch.setattr(os, "waitpid", lambda pid, options: (pid, 0))
    serving.control.close()
    leaving.control.close()
    heir.run(0.2)
    assert heir.supervisor.counts().opened == 7
    assert len(heir.supervisor._all()) == 2
    assert killed == []


def test_adopted_and_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor whose own workers do not start goes on with those of the one before, and has as many as it wants."""
    monkeypatch.setattr(os, "waitpid", lambda pid, options: (0, 0))
    stage = make(workers=1).up()
    heritage = stage.supervisor.heritage()
    assert heritage is not None
    heir = make(copied(heritage), workers=2).start()
    heir.played[0].say(Failed(2, "no module named x"))
    heir.played[0].end(2)
    heir.settle()
    assert heir.said("reload refused", "no module named x")
    assert [each.number for each in heir.supervisor._current.workers] == [1, 4]
    assert [each.status for each in heir.played] == [2, -signal.SIGKILL, None]
    assert heir.outside.words == ["ready", "reloading", "ready"]


def test_who_may_succeed(make: Make) -> None:
    """A configuration with workers can be taken over with; for one with none it takes a restart."""
    stage = make()
    assert stage.supervisor.may_be_succeeded_by(stage._resolve()) == ""
    stage.values["workers"] = 0
    assert stage.supervisor.may_be_succeeded_by(stage._resolve()).startswith("workers: 0: ")


def test_an_adopted_worker_that_leaves_too_slowly(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was leaving has a deadline with the next supervisor too."""
    monkeypatch.setattr(os, "waitpid", lambda pid, options: (0, 0))
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    stage = make(graceful_timeout=5, close_timeout=1, application_close_timeout=1, worker_timeout=0).up()
    stage.supervisor.fewer()
    heritage = stage.supervisor.heritage()
    assert heritage is not None
    heir = make(copied(heritage), **stage.values)
    heir.start()
    heir.run(5 + 1 + 1 + _GRACE + _MORE_PATIENCE + 0.2)
    (leaving,) = [pid for number, pid, *_, leaves in heritage.workers if leaves]
    assert killed[-1] == (leaving, signal.SIGKILL)


def test_stages() -> None:
    """What operators are shown are the words of the documentation."""
    assert [each.value for each in Of] == ["starting", "serving", "leaving", "ended"]


def test_what_nobody_waits_for(make: Make) -> None:
    """A word of a worker's that decides nothing, decides nothing."""
    stage = make().up()
    before: list[Message] = [*stage.played[0].heard(), *stage.played[1].heard()]
    assert before
    stage.played[0].say(Failed(1, "too late"))
    stage.settle()
    assert (stage.played[0].heard(), stage.played[1].heard()) == ([], [])


def test_a_played_worker_that_has_gone() -> None:
    """A process that has ended takes no signal, as ``subprocess`` has it."""
    played = Played(1)
    played.end(0)
    with pytest.raises(ProcessLookupError):
        played.send_signal(signal.SIGTERM)
    played.close()
