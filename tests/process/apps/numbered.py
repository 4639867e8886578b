"""Answers each message with its own text, and writes down what it read and answered, while it was open."""

from __future__ import annotations

import asyncio

from twistedws import AsyncSession, Close, Closed, Session


class Handler:
    """Answers at once."""

    def __init__(self, session: Session) -> None: ...

    def opened(self, session: Session) -> None: ...

    def received(self, session: Session, message: str | bytes) -> None:
        answered = session.send(message)
        print(f"{'answered' if answered else 'late'} {session.request.path} {message!r}", flush=True)

    def closed(self, session: Session, close: Close) -> None:
        print(f"ended {session.request.path} {close.code} {close.cause.value}", flush=True)


async def coroutine(session: AsyncSession) -> None:
    """Answers after a little while, as one that asks a database."""
    async for message in session:
        was_open = session.ending is None
        await asyncio.sleep(0.005)
        try:
            await session.send(message)
        except Closed:
            print(f"{'lost' if was_open else 'late'} {session.request.path} {message!r}", flush=True)
        else:
            print(f"answered {session.request.path} {message!r}", flush=True)
    await asyncio.sleep(0.05)  # what an application does when a session has ended
    print(f"ended {session.request.path}", flush=True)


async def flood(session: AsyncSession) -> None:
    """Sends for ever."""
    while True:
        await session.send("x" * 10_000)
