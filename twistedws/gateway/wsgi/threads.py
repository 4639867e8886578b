"""The threads in which a WSGI application runs, and the way back from them to the reactor's. Floor 6.

Laws of this module:

- There are never more threads than the bound; who finds none free is told so at once, or waits in a queue.
- What a thread hands to the reactor's thread is carried out there in the order in which it was handed over.
- No thread keeps the process from ending.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from twisted.logger import Logger

from twistedws.gateway.pump import OURS, SHARE

_log = Logger()

MOST_UNSENT = 65536  # bytes that may wait in an outbox before threads wait
PATIENCE = 0.001  # seconds in which threads wake each other before all are woken
_STACK_UNIT = 65536  # bytes: a multiple of every platform's pages
IDLE_SECONDS = 10.0  # that a thread with nothing to do is kept


class FromThreads:
    """What threads want done in the reactor's thread: many calls, one wake-up.

    To be made in the reactor's thread.

    Args:
        call_from_thread: Has a function called there, as ``reactor.callFromThread``.
    """

    __slots__ = ("_calls", "_is_due", "_thread", "_wake")

    def __init__(self, call_from_thread: Callable[[Callable[[], None]], object]) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._is_due = False
        self._thread = threading.get_ident()
        self._wake = call_from_thread

    @property
    def is_here(self) -> bool:
        """Whether this is the reactor's thread, which may wait for nobody.

        Code of the application runs here too: handlers of signals, and what the garbage collector calls, wherever it happens to start.
        """
        return threading.get_ident() == self._thread

    def call(self, function: Callable[[], None]) -> None:
        """Have a function called, in a coming turn of the loop."""
        self._calls.append(function)  # before the look at the flag, which ``_run`` takes back before it looks here
        if not self._is_due:
            self._is_due = True
            try:
                self._wake(self._run)
            except RuntimeError:  # the loop is closed: the process ends
                self._calls.clear()

    def _run(self) -> None:
        self._is_due = False
        calls = self._calls
        for _ in range(len(calls)):  # those that come meanwhile have a turn of their own
            try:
                calls.popleft()()
            except Exception:
                _log.failure("a fault of this server", limit="server fault")


class Relay:
    """Wakes threads that wait for what has come: one, which wakes the next before it waits again, and so on.

    Woken all together they would queue for Python's one lock, and the kernel would switch between them three times as often: that costs
    more than all else that a message needs. The chain is broken by a thread that does anything slow; after a moment all are woken.

    Args:
        soon: Has a function called in a coming turn of the loop.
        later: Has a function called in so many seconds.
    """

    __slots__ = ("_is_begun", "_is_timed", "_later", "_soon", "_waiting")

    def __init__(self, soon: Callable[[Callable[[], None]], object], later: Callable[[float, Callable[[], None]], object]) -> None:
        self._soon, self._later = soon, later
        self._waiting: deque[Latch] = deque()
        self._is_begun = self._is_timed = False

    def wake(self, latch: Latch) -> None:
        """Wake a thread, after others. For the reactor's thread."""
        self._waiting.append(latch)
        if not self._is_begun:
            self._is_begun = True
            self._soon(self._begin)  # when the loop has done its part, and is about to let go of Python's lock

    def pass_on(self) -> None:
        """Wake the next. For a thread that is about to wait."""
        try:
            latch = self._waiting.popleft()
        except IndexError:
            return
        latch.open()

    def _begin(self) -> None:
        self._is_begun = False
        self.pass_on()
        if self._waiting and not self._is_timed:
            self._is_timed = True
            self._later(PATIENCE, self._wake_all)

    def _wake_all(self) -> None:
        self._is_timed = False
        for _ in range(len(self._waiting)):
            self.pass_on()


class Latch:
    """Where one thread waits until another lets it go on."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self) -> None:
        """Wait until it is opened, and shut it again."""
        self._lock.acquire()

    def open(self) -> None:
        """Let whoever waits, or waits next, go on."""
        with suppress(RuntimeError):  # it is open already
            self._lock.release()


class Job:
    """A call of the application, which waits for a thread, runs, or is done.

    Args:
        function: What to call; it must not raise.
        name: What for, as a debugger shows it.

    Attributes:
        thread: Where it runs; None before and after.
    """

    __slots__ = ("function", "name", "thread")

    def __init__(self, function: Callable[[], None], name: str) -> None:
        self.function, self.name = function, name
        self.thread: threading.Thread | None = None

    def stack(self) -> str:
        """Where it is, outermost first, in one line."""
        thread = self.thread  # it may be None in the next moment
        frame = sys._current_frames().get(thread.ident or 0) if thread is not None else None  # noqa: SLF001 - documented
        return stack_text(frame)


class Threads:
    """A bounded number of threads, started when needed and ended when idle.

    All that is called here is called in the reactor's thread.

    Args:
        most: How many there may be.
        stack_size: Bytes of stack for each.
        least: How many are kept when idle.
        most_waiting: How many jobs may wait for a thread.
    """

    def __init__(self, most: int, stack_size: int, *, least: int = 0, most_waiting: int = 0) -> None:
        self.most = most
        self._least, self._most_waiting = least, most_waiting
        self._stack_size = -(-stack_size // _STACK_UNIT) * _STACK_UNIT
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Job]] = []  # of each idle thread: where it waits for its next job
        self._waiting: deque[Job] = deque()
        self._busy = 0
        self._context = copy_context()

    @property
    def busy(self) -> int:
        """How many threads run something."""
        return self._busy

    def prepare(self) -> bool:
        """Have a thread ready for the job that is about to be started; say whether there is one."""
        if self._busy >= self.most:
            return False
        with self._lock:
            if self._idle:
                return True
        place = self._new_thread()
        if place is not None:
            with self._lock:
                self._idle.append(place)
        return place is not None

    def start(self, job: Job) -> bool:
        """Run a job now; say whether a thread was free, and could be had."""
        with self._lock:
            if self._busy >= self.most:
                return False
            self._busy += 1
            place = self._idle.pop() if self._idle else None
        return self._run_in(place, job)

    def queue(self, job: Job) -> bool:
        """Run a job now or as soon as a thread is free; False if none can be had, or too many wait already."""
        with self._lock:  # for all of it: a thread that becomes free meanwhile would not see the job
            if self._busy >= self.most:
                return self._wait(job)
            self._busy += 1
            place = self._idle.pop() if self._idle else None
        if self._run_in(place, job):
            return True
        with self._lock:  # no other can be had
            if not self._idle:
                return self._busy > 0 and self._wait(job)
            self._busy += 1
            place = self._idle.pop()
        place.put(job)
        return True

    def _wait(self, job: Job) -> bool:
        if len(self._waiting) >= self._most_waiting:
            return False
        self._waiting.append(job)
        return True

    def _run_in(self, place: SimpleQueue[Job] | None, job: Job) -> bool:
        """Run a job, which is counted, in an idle thread, or else in a new one; say whether there is one."""
        if place is None:
            place = self._new_thread()
        if place is None:
            with self._lock:
                self._busy -= 1
            return False
        place.put(job)
        return True

    def cancel(self, job: Job) -> bool:
        """Take a job back; say whether it still waited for a thread."""
        with self._lock:
            if job not in self._waiting:
                return False
            self._waiting.remove(job)
            return True

    def _new_thread(self) -> SimpleQueue[Job] | None:
        """Start a thread; return where it waits for its jobs, None if it cannot be had."""
        place: SimpleQueue[Job] = SimpleQueue()
        before = threading.stack_size(self._stack_size)  # of threads that start from now on: the application's own too
        try:
            threading.Thread(target=self._work, args=(place,), name="twistedws idle", daemon=True).start()
        except RuntimeError as error:  # the machine's, the user's or the service's bound
            _log.error("cannot start a thread beside {busy}: {error}", busy=self._busy, error=error, limit="cannot start a thread")
            return None
        finally:
            threading.stack_size(before)
        return place

    def _work(self, place: SimpleQueue[Job]) -> None:
        """A thread's life."""
        _yield_to_waker()
        thread = threading.current_thread()
        while True:
            try:
                job: Job | None = place.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._lock:
                    is_idle = place in self._idle
                    if is_idle and self._busy + len(self._idle) <= self._least:
                        continue
                    if is_idle:
                        self._idle.remove(place)
                if is_idle:
                    hub = gevent_hub()
                    if hub is not None:  # two descriptors, which gevent never frees by itself
                        hub.destroy(destroy_loop=True)
                    return
                job = place.get()  # it was taken in this moment
            while job is not None:
                job.thread, thread.name = thread, f"twistedws {job.name}"
                try:
                    self._context.copy().run(job.function)
                except BaseException:
                    _log.failure("a fault of this server", limit="server fault")
                job.thread = None
                with self._lock:
                    job = self._waiting.popleft() if self._waiting else None
                    if job is None:
                        self._busy -= 1
                        self._idle.append(place)
            thread.name = "twistedws idle"


class Outbox:
    """What an application's threads send to one peer, in their order; they wait while it takes less. To be subclassed.

    Args:
        turns: The way to the reactor's thread.
        most: Bytes that may wait here before threads wait.
    """

    __slots__ = ("_condition", "_is_due", "_items", "_lock", "_most", "_put", "_taken", "_turns", "_waiting", "is_ended")

    def __init__(self, turns: FromThreads, most: int = MOST_UNSENT) -> None:
        self._turns, self._most = turns, most
        self._items: deque[tuple[int, Any]] = deque()
        # The collector may run what the application has for it while a thread is in here, and that may send too.
        self._lock = threading.RLock()
        self._condition: threading.Condition | None = None
        self._waiting = 0  # threads
        self._put = self._taken = 0  # bytes, so far: by threads under the lock, and by the reactor's thread
        self._is_due = False
        self.is_ended = False

    # The application's threads

    def put(self, item: Any, octets: int) -> bool:
        """Send something; wait first while more waits than may. False if nobody takes it any more."""
        if self._put - self._taken > self._most or self.waits_now:
            self._wait()
        return self.put_nowait(item, octets)

    def put_nowait(self, item: Any, octets: int) -> bool:
        """Send something, however much waits. False if nobody takes it any more."""
        if self.is_ended:
            return False
        with self._lock:
            self._put += octets
            self._items.append((octets, item))
        if not self._is_due:
            self._is_due = True
            self._turns.call(self.flush)
        return True

    def _wait(self) -> None:
        if self._turns.is_here:
            return
        with self._lock:
            if self._condition is None:
                self._condition = threading.Condition(self._lock)
            self._waiting += 1  # before the look at what it waits for, which ``_wake`` changes before it looks here
            while (self._put - self._taken > self._most or self.waits_now) and not self.is_ended:
                self._condition.wait()
            self._waiting -= 1

    # The reactor's thread

    def flush(self) -> None:
        """Hand on what waits, as far as the peer takes it."""
        self._is_due = False
        items, share = self._items, SHARE
        if self.is_ended:
            items.clear()
        while items and not self.is_ended and not self.is_congested:
            if share <= 0:
                self._is_due = True
                self._turns.call(self.flush)
                break
            octets, item = items.popleft()
            self._taken += octets
            share -= octets
            self.take(item)
        self._wake()

    def end(self) -> None:
        """Nobody takes anything any more: let go on who waits."""
        self.is_ended = True
        self._items.clear()
        self._wake()

    def _wake(self) -> None:
        if self._waiting and self._condition is not None:
            with self._condition:
                self._condition.notify_all()

    # The subclass's side

    @property
    def is_congested(self) -> bool:
        """Whether the peer takes less than it is sent."""
        raise NotImplementedError

    @property
    def waits_now(self) -> bool:
        """Whether threads wait though no more waits here than may."""
        return self.is_congested

    @property
    def is_empty(self) -> bool:
        """Whether all that was put has been handed on."""
        return not self._items

    def take(self, item: Any) -> None:
        """Hand one thing on."""
        raise NotImplementedError


def _yield_to_waker() -> None:
    """Have the kernel not interrupt whoever wakes this thread: it could not run before that one waits, for Python's lock (Linux)."""
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # a container may forbid it
            if os.sched_getscheduler(0) != os.SCHED_OTHER:  # somebody has chosen another
                return
            os.sched_setscheduler(0, os.SCHED_BATCH | os.SCHED_RESET_ON_FORK, os.sched_param(0))


def gevent_hub() -> Any:
    """Return what gevent has in this thread, if the application uses it here; None otherwise."""
    hub_local: Any = sys.modules.get("gevent._hub_local")
    return hub_local.get_hub_if_exists() if hub_local is not None else None


def stack_text(frame: FrameType | None) -> str:
    """Where a frame is, outermost first, in one line, without what is of this package."""
    places: list[str] = []
    while frame is not None:
        code, module = frame.f_code, str(frame.f_globals.get("__name__"))
        if not module.startswith(OURS) and module != "threading":
            places.append(f"{code.co_name} ({code.co_filename}:{frame.f_lineno})")
        frame = frame.f_back
    return " > ".join(reversed(places)) or "an unknown place"
