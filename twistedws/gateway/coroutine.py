"""``async def app(session)`` as an application: one task for each session, on the asyncio loop below the reactor. Floor 6.

Laws of this module:

- Whatever the coroutine waits for here is woken when the session ends; nothing waits for ever.
- What was received before the end is still delivered; then ``Closed`` is raised, or the iteration stops.
- A coroutine that runs on after its connection is gone gets a grace time, then is cancelled, its stack logged once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from twisted.logger import Logger

from twistedws.errors import By, Cause, Close, Closed
from twistedws.handshake import Request
from twistedws.session import Application, Phase, Session

_log = Logger()

_MESSAGE_OVERHEAD = 64  # bytes that an empty message costs in the queue, so that a flood of them is bounded too

SHARE = 65536  # bytes that an application's coroutines send, all together, before the loop has its turn again

Coroutine = Callable[["AsyncSession"], Awaitable[object]]


def coroutine_application(coroutine: Coroutine, name: str, *, inbox_size: int, close_timeout: float, **more: Any) -> Application:
    """Make an application of a coroutine function.

    Args:
        coroutine: Called with an ``AsyncSession``, once per session.
        name: For the log.
        inbox_size: Bytes of messages that may wait for the coroutine before reading from the peer pauses; 0 for any number.
        close_timeout: Seconds that the coroutine may run on after its connection is gone; 0 for any time.
        more: Further attributes of the ``Application``.
    """
    tasks: set[asyncio.Task[None]] = set()
    share = _Share()

    def build(session: Session) -> _Pump:
        return _Pump(session, coroutine, tasks, share, inbox_size, close_timeout)

    return Application(build, name, busy=lambda: len(tasks), **more)


class _Share:
    """What an application's coroutines have sent since the loop had its turn.

    ``send`` waits only for a peer that is slow. To peers that take everything a coroutine could send for ever, and keep the loop.
    """

    __slots__ = ("spent",)

    def __init__(self) -> None:
        self.spent = 0


class AsyncSession:
    """A session as a coroutine sees it.

    Iterating over it gives the messages, and stops when the session ends, however it ends; ``ending`` then says how.
    """

    __slots__ = ("_pump", "_session")

    def __init__(self, session: Session, pump: _Pump) -> None:
        self._session, self._pump = session, pump

    @property
    def session(self) -> Session:
        """The session itself, as ``fan_out`` and handlers know it."""
        return self._session

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that name the session in the log."""
        return self._session.id

    @property
    def request(self) -> Request:
        """The opening handshake: path, query, headers."""
        return self._session.request

    @property
    def peer(self) -> str:
        """The client's address as text."""
        return self._session.peer

    @property
    def scheme(self) -> str:
        """``ws`` or ``wss``."""
        return self._session.scheme

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol agreed on, or None."""
        return self._session.subprotocol

    @property
    def state(self) -> dict[Any, Any]:
        """A dictionary for the application's own use; ``admit`` sees the same."""
        return self._session.state

    @property
    def rtt(self) -> float | None:
        """The latest round trip of a ping, in seconds; None before the first."""
        return self._session.rtt

    @property
    def ending(self) -> Close | None:
        """How the session ends, once that is decided; None before."""
        return self._session.ending

    async def receive(self) -> str | bytes:
        """Wait for a message: str for text, bytes for binary.

        Raises:
            Closed: The session has ended, and all that came before has been received.
            RuntimeError: Another task is receiving already.
        """
        pump = self._pump
        while not pump.inbox:
            await pump.message()
        return pump.take()

    async def send(self, message: str | bytes | bytearray | memoryview) -> None:
        """Send a message; wait first while the peer takes less than it is sent.

        Raises:
            Closed: The session has ended or is ending.
            TypeError: The message is neither text nor bytes.
        """
        session = self._session
        if session.congested:
            await self._pump.writable_or_closed()
        share = self._pump.share
        share.spent += _MESSAGE_OVERHEAD + (len(message) if type(message) is str or type(message) is bytes else 0)
        if share.spent > SHARE:
            share.spent = 0
            await asyncio.sleep(0)
        if not session.send(message) and session.ending is not None:
            await asyncio.sleep(0)  # also for a loop that takes no notice of it
            raise Closed(session.ending)

    def send_nowait(self, message: str | bytes | bytearray | memoryview) -> bool:
        """Send a message without waiting, as a broadcast must: one slow peer does not hold up the others.

        What waits for a peer is bounded by ``queue-size``; beyond it, ``slow-consumer`` says what happens.

        Returns:
            False if it was not sent: the session is ending, or the message was dropped.
        """
        return self._session.send(message)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, and wait until the connection is gone; the close timeout bounds it.

        Args:
            code: 1000 to 1003, 1007 to 1014, or 3000 to 4999 (RFC 6455 section 7.4).
            reason: Cut to 123 bytes of UTF-8.

        Raises:
            ValueError: The code may not stand in a close frame.
        """
        self._session.close(code, reason)
        await self._pump.gone()

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Iterate over the messages; every iterator takes from the same."""
        return self

    async def __anext__(self) -> str | bytes:
        # Not by way of ``receive``: a coroutine within a coroutine costs 0.2 us a message.
        pump = self._pump
        try:
            while not pump.inbox:
                await pump.message()
        except Closed:
            raise StopAsyncIteration from None
        return pump.take()


class _Pump:
    """The handler of one session: feeds its coroutine, and sees to the coroutine's end."""

    __slots__ = (
        "_close_timeout", "_coroutine", "_gone", "_inbox_octets", "_inbox_size", "_loop", "_paused", "_proceed", "_reader", "_session",
        "_task", "_tasks", "_writers", "inbox", "share",
    )  # fmt: skip

    def __init__(
        self, session: Session, coroutine: Coroutine, tasks: set[asyncio.Task[None]], share: _Share, inbox_size: int, close_timeout: float
    ) -> None:
        self.share = share
        self._session, self._coroutine, self._tasks = session, coroutine, tasks
        self._inbox_size, self._close_timeout = inbox_size, close_timeout
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

    def opened(self, session: Session) -> None:
        """Start the coroutine."""
        self._task = self._loop.create_task(self._run(), name=f"session {session.id}")
        self._tasks.add(self._task)  # also the reference that keeps it alive
        self._task.add_done_callback(self._tasks.discard)

    def received(self, session: Session, message: str | bytes) -> None:
        """Queue a message; pause reading while too much is queued."""
        if self._task is None:  # it has returned
            return
        if self.inbox is None:
            self.inbox = deque()
        self.inbox.append(message)
        self._inbox_octets += len(message) + _MESSAGE_OVERHEAD
        if self._inbox_octets > self._inbox_size > 0:
            self._paused = True
            session.pause()
        reader = self._reader
        if reader is not None:
            self._reader = None
            if not reader.done():
                reader.set_result(None)

    def writable(self, session: Session) -> None:  # noqa: ARG002 - the handler's signature
        """Let those go on who wait to send."""
        self._wake_writers()

    def draining(self, session: Session, proceed: Callable[[], None]) -> None:  # noqa: ARG002
        """Proceed once the coroutine asks for a message that is not there: all that came is answered."""
        if self._task is None or (self._reader is not None and not self._reader.done() and not self.inbox):
            proceed()
        else:
            self._proceed = proceed

    def closed(self, session: Session, close: Close) -> None:  # noqa: ARG002
        """Wake everybody; give the coroutine its grace."""
        _wake(self._reader)
        _wake(self._gone)
        self._wake_writers()
        if self._task is not None and self._close_timeout:
            grace = self._loop.call_later(self._close_timeout, self._cancel)
            self._task.add_done_callback(lambda _: grace.cancel())  # which would keep the session in memory

    # What the AsyncSession calls

    def message(self) -> asyncio.Future[None]:
        """Return what fires once there is a message in ``inbox``, or the session has ended.

        The message waits there, and does not come with the future: a task that is cancelled in the same turn would lose it.
        """
        if self._reader is not None and not self._reader.done():
            raise RuntimeError("receive: another task is receiving from this session already")
        session = self._session
        if session.ending is not None and self._is_gone():
            raise Closed(session.ending)
        if self._proceed is not None:
            proceed, self._proceed = self._proceed, None
            proceed()
        reader = self._reader = self._loop.create_future()
        return reader

    def take(self) -> str | bytes:
        """Take the first message from ``inbox``."""
        message = self.inbox.popleft()  # type: ignore[union-attr]  # the caller has seen it there
        self._inbox_octets -= len(message) + _MESSAGE_OVERHEAD
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
        while not self._is_gone():
            if self._gone is None or self._gone.done():
                self._gone = self._loop.create_future()
            await asyncio.shield(self._gone)

    # Inside

    async def _run(self) -> None:
        session = self._session
        try:
            await self._coroutine(AsyncSession(session, self))
        except Closed as closed:
            if closed.close is not session.ending:  # another session's: this one's application did not expect it
                self._failed()
        except asyncio.CancelledError:
            if not self._is_gone():  # cancelled by the application itself
                session.fail(1011, "", Cause.APPLICATION_ERROR)
        except Exception:
            self._failed()
        else:
            session.close(1000, cause=Cause.APPLICATION, by=By.APPLICATION)
        finally:
            self._task = None
            self.inbox = None
            if self._proceed is not None:
                self._proceed()
            session.resume()

    def _failed(self) -> None:
        session = self._session
        _log.failure(
            "application raised in its coroutine session={session} peer={peer}", session=session.id, peer=session.peer,
            limit="application raised",
        )  # fmt: skip
        if session.ending is None:
            session.fail(1011, "", Cause.APPLICATION_ERROR)

    def _cancel(self) -> None:
        task = self._task
        if task is None:
            return
        _log.warn(
            "cancelling the coroutine of session={session}: it ran on for {seconds:g} s after its connection was gone, at {stack}",
            session=self._session.id, seconds=self._close_timeout, stack=_stack(task), limit="coroutine cancelled",
        )  # fmt: skip
        task.cancel()

    def _is_gone(self) -> bool:
        return self._session.phase is Phase.CLOSED

    def _wake_writers(self) -> None:
        writers, self._writers = self._writers, None
        for each in writers or ():
            _wake(each)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _stack(task: asyncio.Task[None]) -> str:
    """Where a waiting task is, outermost first, in one line; ``Task.get_stack`` shows the outermost frame only."""
    places, awaited = [], cast("Any", task.get_coro())
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None and frame.f_globals.get("__name__") != __name__:
            places.append(f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return " > ".join(places) or repr(task)
