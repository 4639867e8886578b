"""The threads of a WSGI application: how many there are, what they run, and how what they want done comes to the reactor's thread."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

import pytest
from twisted.logger import capturedLogs

from tests.support.wsgi import PATIENCE, Wakes, joined, started, until
from twistedws.gateway.wsgi import threads as module
from twistedws.gateway.wsgi.threads import FromThreads, Job, Latch, Relay, Threads, stack_text

STACK = 2**19


# FromThreads


def test_many_calls_one_wake_up() -> None:
    """What is wanted in one turn of the loop wakes it once, and is carried out in order."""
    wakes, seen = Wakes(), list[int]()
    turns = FromThreads(wakes)
    for number in range(100):
        turns.call(partial(seen.append, number))
    assert (len(wakes.due), seen) == (1, [])
    wakes.turn()
    assert (wakes.due, seen) == ([], list(range(100)))
    turns.call(lambda: seen.append(100))
    wakes.turn()
    assert seen[-1] == 100


def test_calls_of_several_threads() -> None:
    """No call of any thread is lost, and each thread's are carried out in its order, whenever the loop has its turns."""
    wakes: SimpleQueue[Callable[[], None]] = SimpleQueue()
    turns, seen = FromThreads(wakes.put), list[tuple[int, int]]()

    def call(thread: int) -> None:
        for number in range(500):
            turns.call(partial(seen.append, (thread, number)))

    threads = [started(partial(call, thread)) for thread in range(4)]
    while len(seen) < 2000:
        wakes.get(timeout=PATIENCE)()
    for each in threads:
        joined(each)
    for thread in range(4):
        assert [number for each, number in seen if each == thread] == list(range(500))


def test_a_call_that_raises() -> None:
    """A call that raises is logged, and does not lose those behind it."""
    wakes, seen = Wakes(), list[int]()
    turns = FromThreads(wakes)
    turns.call(lambda: seen.append(1))
    turns.call(lambda: seen.append(1 // 0))
    turns.call(lambda: seen.append(2))
    with capturedLogs() as events:
        wakes.turn()
    assert seen == [1, 2]
    assert [each["log_failure"].type for each in events] == [ZeroDivisionError]


def test_calls_that_come_meanwhile() -> None:
    """What is wanted while the loop carries out the rest has a turn of its own: nobody keeps the loop."""
    wakes, seen = Wakes(), list[int]()
    turns = FromThreads(wakes)

    def again() -> None:
        seen.append(len(seen))
        turns.call(again)

    turns.call(again)
    for number in range(1, 4):
        wakes.turn()
        assert (len(seen), len(wakes.due)) == (number, 1)


def test_a_loop_that_is_closed() -> None:
    """When the loop is closed nothing is carried out, and nobody is told off."""

    def closed(function: Callable[[], None]) -> None:
        raise RuntimeError("Event loop is closed")

    seen: list[int] = []
    turns = FromThreads(closed)
    turns.call(lambda: seen.append(1))
    turns.call(lambda: seen.append(2))
    assert seen == []


# Relay


class Sleeper:
    """A thread that waits at a latch until it is woken, so many times, and may wake the next before it waits again."""

    def __init__(self, relay: Relay, *, passes_on: bool = True) -> None:
        self.latch = Latch()
        self.woken = 0

        def run() -> None:
            self.latch.wait()
            self.woken += 1
            if passes_on:
                relay.pass_on()

        self.thread = started(run)


class Loop:
    """A loop whose turns and whose time a test moves."""

    def __init__(self) -> None:
        self.soon, self.later = Wakes(), list[tuple[float, Callable[[], None]]]()

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        self.later.append((seconds, function))

    def pass_time(self) -> None:
        """A moment is over."""
        later, self.later = self.later, []
        for _, each in later:
            each()


def test_a_chain() -> None:
    """Threads are woken after the loop has done its part: one, which wakes the next, and so on."""
    loop = Loop()
    relay = Relay(loop.soon, loop.call_later)
    sleepers = [Sleeper(relay) for _ in range(5)]
    for each in sleepers:
        relay.wake(each.latch)
    assert [each.woken for each in sleepers] == [0] * 5
    assert len(loop.soon.due) == 1
    loop.soon.turn()
    for each in sleepers:
        joined(each.thread)
    assert [each.woken for each in sleepers] == [1] * 5
    loop.pass_time()
    assert (loop.later, loop.soon.due) == ([], [])


def test_a_chain_that_breaks() -> None:
    """When a thread that was woken does something slow, all that wait behind it are woken after a moment."""
    loop = Loop()
    relay = Relay(loop.soon, loop.call_later)
    sleepers = [Sleeper(relay, passes_on=False) for _ in range(3)]
    for each in sleepers:
        relay.wake(each.latch)
    loop.soon.turn()
    joined(sleepers[0].thread)
    assert [each.woken for each in sleepers] == [1, 0, 0]
    assert [seconds for seconds, _ in loop.later] == [module.PATIENCE]
    loop.pass_time()
    for each in sleepers:
        joined(each.thread)
    assert [each.woken for each in sleepers] == [1, 1, 1]


def test_one_alone() -> None:
    """Where nobody waits behind the first, nobody waits for a moment to be over; where nobody waits at all, nobody is woken."""
    loop = Loop()
    relay = Relay(loop.soon, loop.call_later)
    relay.pass_on()
    for _ in range(2):
        sleeper = Sleeper(relay)
        relay.wake(sleeper.latch)
        loop.soon.turn()
        joined(sleeper.thread)
        assert (sleeper.woken, loop.later) == (1, [])


def test_those_that_come_while_a_moment_runs() -> None:
    """A thread that is to be woken while others wait for the moment to be over is woken with them, at the latest."""
    loop = Loop()
    relay = Relay(loop.soon, loop.call_later)
    latches = [Latch() for _ in range(4)]
    relay.wake(latches[0])
    relay.wake(latches[1])
    loop.soon.turn()
    relay.wake(latches[2])
    relay.wake(latches[3])
    loop.soon.turn()
    assert len(loop.later) == 1
    loop.pass_time()
    for each in latches:
        each.wait()


def test_a_latch() -> None:
    """A latch that is opened, once or more often, lets one go on, now or later; then it is shut."""
    latch = Latch()
    latch.open()
    latch.open()
    latch.wait()
    is_through = threading.Event()

    def run() -> None:
        latch.wait()
        is_through.set()

    thread = started(run)
    assert not is_through.is_set()
    latch.open()
    joined(thread)
    assert is_through.is_set()


# Threads


class Work:
    """Jobs that note where they ran, and run until a test lets them go."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, threading.Thread]] = []
        self._gates: dict[str, threading.Event] = {}

    def job(self, name: str, *, waits: bool = True) -> Job:
        gate = self._gates[name] = threading.Event()

        def run() -> None:
            self.ran.append((name, threading.current_thread()))
            if waits:
                gate.wait(PATIENCE)

        return Job(run, name)

    def let_go(self, *names: str) -> None:
        for name in names or tuple(self._gates):
            self._gates[name].set()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.ran]

    def thread(self, name: str) -> threading.Thread:
        return dict(self.ran)[name]


@pytest.fixture
def work() -> Iterator[Work]:
    """Jobs; those that still run when a test is done are let go."""
    found = Work()
    yield found
    found.let_go()


def test_bound(work: Work) -> None:
    """There are as many threads as were allowed; who finds none free is told so, and runs nothing."""
    threads = Threads(2, STACK)
    assert threads.busy == 0
    assert threads.start(work.job("a"))
    assert threads.start(work.job("b"))
    assert not threads.prepare()
    assert not threads.start(work.job("c"))
    until(lambda: len(work.ran) == 2)
    assert sorted(work.names) == ["a", "b"]
    assert threads.busy == 2
    work.let_go("a")
    until(lambda: threads.busy == 1)
    assert threads.start(work.job("d"))
    work.let_go()
    until(lambda: threads.busy == 0)
    assert "c" not in work.names


def test_none_are_allowed(work: Work) -> None:
    """Where no thread is allowed nothing can be run, and nothing waits."""
    threads = Threads(0, STACK)
    assert not threads.prepare()
    assert not threads.start(work.job("a"))
    assert not threads.queue(work.job("b"))
    assert threads.busy == 0


def test_an_idle_thread_is_used_again(work: Work) -> None:
    """A thread that has done with its job runs the next one; only where all are busy another is started."""
    threads = Threads(10, STACK)
    for name in ("a", "b", "c"):
        assert threads.start(work.job(name, waits=False))
        until(lambda: threads.busy == 0)
    assert work.names == ["a", "b", "c"]
    assert len({thread for _, thread in work.ran}) == 1
    assert threads.start(work.job("d"))
    assert threads.start(work.job("e"))
    until(lambda: len(work.ran) == 5)
    assert work.thread("d") is work.thread("a")
    assert work.thread("e") is not work.thread("d")


def test_an_idle_thread_ends(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread with nothing to do ends after a while; the next job gets another."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.001)
    threads = Threads(1, STACK)
    assert threads.start(work.job("a", waits=False))
    until(lambda: work.ran)
    joined(work.thread("a"))
    assert threads.start(work.job("b", waits=False))
    until(lambda: len(work.ran) == 2)
    assert work.thread("b") is not work.thread("a")


def test_what_gevent_has_in_a_thread_ends_with_it(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread whose application has used gevent in it frees what that keeps there."""
    destroyed: list[tuple[threading.Thread, dict[str, bool]]] = []

    class Hub:
        """As gevent's."""

        def destroy(self, **how: bool) -> None:
            destroyed.append((threading.current_thread(), how))

    hub_local = ModuleType("gevent._hub_local")
    hub_local.get_hub_if_exists = Hub  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gevent._hub_local", hub_local)
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.001)
    threads = Threads(1, STACK)
    assert threads.start(work.job("a", waits=False))
    until(lambda: work.ran)
    joined(work.thread("a"))
    # idle threads of other tests may end meanwhile
    assert [how for thread, how in destroyed if thread is work.thread("a")] == [{"destroy_loop": True}]


def test_an_idle_thread_that_ends_in_the_moment_in_which_it_is_taken(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is given to a thread whose time is just over runs all the same."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.001)
    threads = Threads(1, STACK)
    for number in range(50):
        name = str(number)
        assert threads.start(work.job(name, waits=False))
        until(lambda: work.names[-1:] == [name] and not threads.busy)  # noqa: B023 - called before the next round
    assert len(work.ran) == 50


def test_a_taken_thread_waits_for_its_job(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that was taken while its time ran out waits for what it was taken for."""
    places: list[Place] = []

    class Place(SimpleQueue):  # type: ignore[type-arg]  # cannot be subscripted at run time in every Python
        """Where an idle thread waits: its time is over at once, but not before the test says so."""

        def __init__(self) -> None:
            self.is_over = threading.Event()
            places.append(self)

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if timeout is not None:
                self.is_over.wait(PATIENCE)
                raise Empty
            return super().get(timeout=PATIENCE)

    monkeypatch.setattr(module, "SimpleQueue", Place)
    threads = Threads(1, STACK)
    assert threads.prepare()
    until(lambda: threads.busy == 0)
    assert threads.start(work.job("a", waits=False))
    places[0].is_over.set()
    until(lambda: work.names == ["a"])
    joined(work.thread("a"))  # its time is over again
    assert threads.busy == 0


def test_prepare(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that was prepared is idle, and runs the next job; a second one is not prepared beside it."""
    begun: list[threading.Thread] = []
    start = threading.Thread.start

    def noting(self: threading.Thread) -> None:
        begun.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", noting)
    threads = Threads(3, STACK)
    assert threads.prepare()
    assert threads.prepare()
    assert (threads.busy, len(begun)) == (0, 1)
    assert threads.start(work.job("a"))
    until(lambda: work.ran)
    assert begun == [work.thread("a")]
    assert threads.prepare()
    assert len(begun) == 2


def test_a_prepared_thread_that_is_slow_to_start(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that was prepared is there for the next job, though the machine has not let it do anything yet."""
    gate, run = threading.Event(), threading.Thread.run

    def slow(self: threading.Thread) -> None:
        gate.wait(PATIENCE)
        run(self)

    monkeypatch.setattr(threading.Thread, "run", slow)
    threads = Threads(1, STACK)
    try:
        assert threads.prepare()
        assert threads.start(work.job("a"))
        assert not threads.prepare()
    finally:
        gate.set()
    until(lambda: work.names == ["a"])


@pytest.mark.parametrize("scheduler", ["forbidden", "unknown"])
def test_a_scheduler_that_cannot_be_told(work: Work, monkeypatch: pytest.MonkeyPatch, scheduler: str) -> None:
    """Where the kernel takes no hints on threads they run without."""

    def forbid(*_: object) -> None:
        raise PermissionError

    if scheduler == "forbidden":
        monkeypatch.setattr(os, "sched_setscheduler", forbid, raising=False)
    else:
        monkeypatch.delattr(os, "SCHED_BATCH", raising=False)
    threads = Threads(1, STACK)
    assert threads.start(work.job("a", waits=False))
    until(lambda: work.names == ["a"])


def test_the_machine_gives_none(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, who wants one is told so, the log too, and none is counted."""
    stacks = threading.stack_size()

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = Threads(3, STACK)
    monkeypatch.setattr(threading.Thread, "start", start)
    with capturedLogs() as events:
        assert not threads.prepare()
        assert not threads.start(work.job("a"))
        assert not threads.queue(work.job("b"))
    assert threads.busy == 0
    assert "can't start new thread" in str(events[0]["error"])
    assert threading.stack_size() == stacks
    monkeypatch.undo()
    assert threads.start(work.job("c"))
    until(lambda: work.names == ["c"])


def test_the_machine_gives_no_more(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job for which no further thread can be started waits for one of those that there are."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = Threads(3, STACK, most_waiting=1)
    assert threads.start(work.job("a"))
    until(lambda: work.ran)
    monkeypatch.setattr(threading.Thread, "start", start)
    assert threads.queue(work.job("b", waits=False))
    work.let_go("a")
    until(lambda: work.names == ["a", "b"])


def test_queue(work: Work) -> None:
    """Jobs that find no thread free wait, and run in the order in which they came."""
    threads = Threads(1, STACK, most_waiting=6)
    assert threads.queue(work.job("first"))
    for name in "abcdef":
        assert threads.queue(work.job(name, waits=False))
    assert not threads.queue(work.job("one too many"))
    until(lambda: work.ran)
    assert (work.names, threads.busy) == (["first"], 1)
    work.let_go("first")
    until(lambda: threads.busy == 0)
    assert work.names == ["first", *"abcdef"]
    assert len({thread for _, thread in work.ran}) == 1


def test_queue_beside_one_that_stays(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job never waits beside an idle thread: whoever becomes free in the moment in which it is queued takes it."""
    threads = Threads(2, STACK, most_waiting=1)
    assert threads.start(work.job("stays"))
    assert threads.start(work.job("short"))
    until(lambda: len(work.ran) == 2)
    wait = threads._wait

    def slowly(job: Job) -> bool:
        work.let_go("short")
        return wait(job)

    monkeypatch.setattr(threads, "_wait", slowly)
    assert threads.queue(work.job("victim", waits=False))
    until(lambda: "victim" in work.names)


def test_queue_where_the_machine_gives_no_more(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job for which no further thread can be started takes one that has become free meanwhile, and does not wait beside it."""
    threads = Threads(3, STACK, most_waiting=1)
    assert threads.start(work.job("stays"))
    assert threads.start(work.job("short"))
    until(lambda: len(work.ran) == 2)

    def start() -> None:
        work.let_go("short")
        until(lambda: threads._idle)

    monkeypatch.setattr(threads, "_new_thread", start)
    assert threads.queue(work.job("victim", waits=False))
    until(lambda: "victim" in work.names)


def test_the_last_idle_thread_is_kept(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the threads for plain requests one stays, whatever the system gives to others meanwhile."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.001)
    threads = Threads(2, STACK, least=1)
    assert threads.start(work.job("a"))
    assert threads.start(work.job("b"))
    until(lambda: len(work.ran) == 2)
    found = [work.thread("a"), work.thread("b")]
    work.let_go("a")
    work.let_go("b")
    until(lambda: not threads.busy and sum(each.is_alive() for each in found) == 1)
    assert threads.start(work.job("c", waits=False))
    until(lambda: "c" in work.names)
    assert work.thread("c") in found


def test_cancelled(work: Work) -> None:
    """A job that is cancelled while it waits is not run; those behind it are. One that runs, or has run, goes on."""
    threads = Threads(1, STACK, most_waiting=9)
    first = work.job("first")
    assert threads.queue(first)
    jobs = {name: work.job(name, waits=False) for name in "abc"}
    for each in jobs.values():
        assert threads.queue(each)
    assert threads.cancel(jobs["a"])
    assert threads.cancel(jobs["c"])
    until(lambda: work.ran)
    assert not threads.cancel(first)
    work.let_go("first")
    until(lambda: threads.busy == 0)
    assert work.names == ["first", "b"]
    assert not threads.cancel(jobs["b"])


def test_a_job_that_raises(work: Work) -> None:
    """A fault in a job is logged, and its thread goes on."""
    threads = Threads(1, STACK)
    with capturedLogs() as events:
        assert threads.start(Job(lambda: [].clear(1), "faulty"))  # type: ignore[call-arg]
        until(lambda: threads.busy == 0)
    assert [each["log_failure"].type for each in events] == [TypeError]
    assert threads.start(work.job("a", waits=False))
    until(lambda: work.names == ["a"])


def test_contexts() -> None:
    """Each job has context variables of its own, with the values of the time at which the application was loaded."""
    variable: ContextVar[str] = ContextVar("variable", default="default")
    variable.set("loaded")
    threads, seen = Threads(1, STACK, most_waiting=9), list[str]()
    variable.set("later")

    def run() -> None:
        seen.append(variable.get())
        variable.set("a job's own")

    for _ in range(2):
        assert threads.queue(Job(run, "job"))
    until(lambda: len(seen) == 2)
    assert seen == ["loaded", "loaded"]
    assert variable.get() == "later"


def test_stack_size(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread is started with the stack that was asked for; the application's own have theirs."""
    sizes: list[int] = []
    start = threading.Thread.start

    def noting(self: threading.Thread) -> None:
        sizes.append(threading.stack_size())
        start(self)

    monkeypatch.setattr(threading.Thread, "start", noting)
    before = threading.stack_size()
    threads = Threads(1, STACK)
    assert threads.start(work.job("a", waits=False))
    assert sizes == [STACK]
    assert threading.stack_size() == before


def test_names(work: Work) -> None:
    """A thread has the name of what it does, and keeps nobody's process from ending."""
    threads = Threads(1, STACK)
    job = work.job("session abc")
    assert threads.start(job)
    until(lambda: work.ran)
    thread = work.thread("session abc")
    assert (thread.name, thread.daemon, job.thread) == ("twistedws session abc", True, thread)
    work.let_go()
    until(lambda: thread.name == "twistedws idle")
    assert job.thread is None


def test_where_a_job_is() -> None:
    """A job's stack names the places in which it is, outermost first, and nothing of ours; before and after it runs there is none."""
    is_there, gate = threading.Event(), threading.Event()

    def waits_here() -> None:
        is_there.set()
        gate.wait(PATIENCE)

    def runs() -> None:
        waits_here()

    job, threads = Job(runs, "job"), Threads(1, STACK)
    assert job.stack() == "an unknown place"
    assert threads.start(job)
    assert is_there.wait(PATIENCE)
    until(lambda: "waits_here" in job.stack())
    outer, inner = job.stack().split(" > ")
    gate.set()
    assert outer.startswith(f"runs ({__file__}:")
    assert inner.startswith(f"waits_here ({__file__}:")
    until(lambda: job.thread is None)
    assert job.stack() == "an unknown place"


def test_no_place() -> None:
    """Where there is no frame there is no place."""
    assert stack_text(None) == "an unknown place"
