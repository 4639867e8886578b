"""What a task that serves one connection needs: messages that wait for it, waiting that always ends, and its own end. Floor 6.

Laws of this module:

- Whatever a task waits for here is woken when its session ends; nothing waits for ever.
- What was received before the end is still there to be taken.
- A task that runs on after its connection is gone gets a grace time, then is cancelled, its stack logged once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, cast

from twisted.logger import Logger

from twistedws.errors import Cause, Close, Closed
from twistedws.session import Phase, Session

_log = Logger()

MESSAGE_OVERHEAD = 64  # bytes that an empty message costs in a queue, so that a flood of them is bounded too
OURS = "twistedws.gateway."  # whose frames are no news to whoever looks for what an application waits for
SHARE = 65536  # bytes that an application's tasks send, all together, before the loop has its turn again


class Share:
    """What an application's tasks have sent since the loop had its turn.

    Sending waits only for a peer that is slow. To peers that take everything a task could send for ever, and keep the loop.
    """

    __slots__ = ("spent",)

    def __init__(self) -> None:
        self.spent = 0


class Tasks:
    """The tasks of one application, and how long one may run on after its connection is gone.

    Args:
        close_timeout: Seconds; 0 for any time.
    """

    def __init__(self, close_timeout: float) -> None:
        self._running: set[asyncio.Task[None]] = set()  # also the references that keep them alive
        self._close_timeout = close_timeout
        self._context = copy_context()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task."""
        # In the context that the application was loaded in: what calls this may be another task, that of the connection's request before.
        task = self._context.run(asyncio.get_running_loop().create_task, coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def limit(self, task: asyncio.Task[None], what: str) -> None:
        """Cancel a task whose connection is gone, unless it ends in time."""
        if self._close_timeout:
            grace = asyncio.get_running_loop().call_later(self._close_timeout, self._cancel, task, what)
            task.add_done_callback(lambda _: grace.cancel())  # which would keep the session in memory

    def _cancel(self, task: asyncio.Task[None], what: str) -> None:
        _log.warn(
            "cancelling the application of {what}: it ran on for {seconds:g} s after its connection was gone, at {stack}",
            what=what, seconds=self._close_timeout, stack=where_waiting(task), limit="application cancelled",
        )  # fmt: skip
        task.cancel()


class Pump:
    """The handler of one session: feeds its task, and sees to the task's end. To be subclassed.

    Args:
        session: Whose it is.
        tasks: The application's.
        share: The application's.
        inbox_size: Bytes of messages that may wait for the task before reading from the peer pauses; 0 for any number.
    """

    __slots__ = (
        "_gone", "_inbox_octets", "_inbox_size", "_loop", "_paused", "_proceed", "_reader", "_session", "_task", "_tasks", "_writers",
        "inbox", "share",
    )  # fmt: skip

    def __init__(self, session: Session, tasks: Tasks, share: Share, inbox_size: int) -> None:
        self.share = share
        self._session, self._tasks, self._inbox_size = session, tasks, inbox_size
        self.inbox: deque[str | bytes] | None = None  # made for the first message: an empty one takes 600 bytes
        self._inbox_octets = 0
        self._paused = False
        self._loop = asyncio.get_running_loop()
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] | None = None
        self._gone: asyncio.Future[None] | None = None
        self._proceed: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None

    # What the session calls

    def opened(self, session: Session) -> None:  # noqa: ARG002 - the handler's signature
        """Start the task."""
        self.start()

    def received(self, session: Session, message: str | bytes) -> None:
        """Queue a message; pause reading while too much is queued."""
        if self._task is None:  # it has returned
            return
        if self.inbox is None:
            self.inbox = deque()
        self.inbox.append(message)
        self._inbox_octets += len(message) + MESSAGE_OVERHEAD
        if self._inbox_octets > self._inbox_size > 0:
            self._paused = True
            session.pause()
        reader = self._reader
        if reader is not None:
            self._reader = None
            if not reader.done():
                reader.set_result(None)

    def writable(self, session: Session) -> None:  # noqa: ARG002
        """Let those go on who wait to send."""
        self._wake_writers()

    def draining(self, session: Session, proceed: Callable[[], None]) -> None:  # noqa: ARG002
        """Proceed once the task asks for a message that is not there: all that came is answered."""
        if self._task is None or (self._reader is not None and not self._reader.done() and not self.inbox):
            proceed()
        else:
            self._proceed = proceed

    def closed(self, session: Session, close: Close) -> None:  # noqa: ARG002
        """Wake everybody; give the task its grace."""
        self.wake()
        if self._task is not None:
            self._tasks.limit(self._task, f"session={self._session.id}")

    # What the task calls

    @property
    def is_gone(self) -> bool:
        """Whether the connection is gone."""
        return self._session.phase is Phase.CLOSED

    def message(self) -> asyncio.Future[None]:
        """Return what fires once there is a message in ``inbox``, or the session has ended.

        The message waits there, and does not come with the future: a task that is cancelled in the same turn would lose it.
        """
        if self._reader is not None and not self._reader.done():
            raise RuntimeError("receive: another task is receiving from this session already")
        session = self._session
        if session.ending is not None and self.is_gone:
            raise Closed(session.ending)
        if self._proceed is not None:
            proceed, self._proceed = self._proceed, None
            proceed()
        reader = self._reader = self._loop.create_future()
        return reader

    def take(self) -> str | bytes:
        """Take the first message from ``inbox``."""
        message = self.inbox.popleft()  # type: ignore[union-attr]  # the caller has seen it there
        self._inbox_octets -= len(message) + MESSAGE_OVERHEAD
        if self._paused and self._inbox_octets * 2 <= self._inbox_size:
            self._paused = False
            self._session.resume()
        return message

    async def writable_or_closed(self) -> None:
        """Wait while the output is congested."""
        while self._session.congested and self._session.ending is None:
            waiting: asyncio.Future[None] = self._loop.create_future()
            if self._writers is None:
                self._writers = []
            self._writers.append(waiting)
            try:
                await waiting
            finally:  # one that was cancelled waits no more
                if self._writers is not None and waiting in self._writers:
                    self._writers.remove(waiting)

    async def gone(self) -> None:
        """Wait until the connection is gone."""
        while not self.is_gone:
            if self._gone is None or self._gone.done():
                self._gone = self._loop.create_future()
            await asyncio.shield(self._gone)

    # The subclass's side

    def start(self) -> None:
        """Start the task."""
        self._task = self._tasks.start(self._run(), f"session {self._session.id}")

    def wake(self) -> None:
        """Wake whoever waits."""
        wake(self._reader)
        wake(self._gone)
        self._wake_writers()

    def failed(self, what: str) -> None:
        """The task has raised: log it, once, and end the session."""
        session = self._session
        _log.failure(
            "application raised in its {what} session={session} peer={peer}", what=what, session=session.id, peer=session.peer,
            limit="application raised",
        )  # fmt: skip
        if session.ending is None:
            session.fail(1011, "", Cause.APPLICATION_ERROR)

    def finished(self) -> None:
        """The task has ended, however."""
        self._task = None
        self.inbox = None
        if self._proceed is not None:
            self._proceed()
        self._session.resume()

    async def _run(self) -> None:
        raise NotImplementedError

    def _wake_writers(self) -> None:
        writers, self._writers = self._writers, None
        for each in writers or ():
            wake(each)


def wake(future: asyncio.Future[None] | None) -> None:
    """Let a future fire, if there is one that has not."""
    if future is not None and not future.done():
        future.set_result(None)


def where_waiting(task: asyncio.Task[None]) -> str:
    """Where a waiting task is, outermost first, in one line; ``Task.get_stack`` shows the outermost frame only."""
    places, awaited = [], cast("Any", task.get_coro())
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None and not str(frame.f_globals.get("__name__")).startswith(OURS):
            places.append(f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return " > ".join(places) or repr(task)
