"""``async def app(session)`` as an application: one task for each session, on the asyncio loop below the reactor. Floor 6.

Laws of this module:

- Whatever the coroutine waits for here is woken when the session ends; nothing waits for ever.
- What was received before the end is still delivered; then ``Closed`` is raised, or the iteration stops.
- A coroutine that runs on after its connection is gone gets a grace time, then is cancelled, its stack logged once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from twistedws.errors import By, Cause, Close, Closed
from twistedws.gateway.pump import MESSAGE_OVERHEAD, SHARE, Pump, Share, Tasks
from twistedws.handshake import Request
from twistedws.session import Application, Session

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
    tasks, share = Tasks(close_timeout), Share()

    def build(session: Session) -> _CoroutinePump:
        return _CoroutinePump(session, coroutine, tasks, share, inbox_size)

    return Application(build, name, busy=lambda: len(tasks), **more)


class AsyncSession:
    """A session as a coroutine sees it.

    Iterating over it gives the messages, and stops when the session ends, however it ends; ``ending`` then says how.
    """

    __slots__ = ("_pump", "_session")

    def __init__(self, session: Session, pump: _CoroutinePump) -> None:
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
        share.spent += MESSAGE_OVERHEAD + (len(message) if type(message) is str or type(message) is bytes else 0)
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


class _CoroutinePump(Pump):
    """The handler of a coroutine's session."""

    __slots__ = ("_coroutine",)

    def __init__(self, session: Session, coroutine: Coroutine, tasks: Tasks, share: Share, inbox_size: int) -> None:
        super().__init__(session, tasks, share, inbox_size)
        self._coroutine = coroutine

    async def _run(self) -> None:
        session = self._session
        try:
            await self._coroutine(AsyncSession(session, self))
        except Closed as closed:
            if closed.close is not session.ending:  # another session's: this one's application did not expect it
                self.failed("coroutine")
        except asyncio.CancelledError:
            if not self.is_gone:  # cancelled by the application itself
                session.fail(1011, "", Cause.APPLICATION_ERROR)
        except BaseException:  # a sys.exit() somewhere would end the process, and everybody's sessions
            if not self._loop.is_running():  # the process ends, and Python closes what is left
                raise
            self.failed("coroutine")
        else:
            session.close(1000, cause=Cause.APPLICATION, by=By.APPLICATION)
        finally:
            self.finished()
