"""Applications that misbehave, or are made to, by the path of the request; every other path echoes.

What the application hears is written, one JSON object a line, to the file that the variable EVENTS names.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.task import deferLater

from twistedws import AsyncSession, Close, Session, application

SECRET = "hunter2"  # stands in each exception: no peer may ever see it
PIECE = bytes(65536)

_events = os.open(os.environ["EVENTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if "EVENTS" in os.environ else None


def note(session: Session | AsyncSession, event: str, **more: Any) -> None:
    """Write an event down."""
    if _events is not None:
        entry = {"event": event, "session": session.id, "path": session.request.path, **more}
        os.write(_events, json.dumps(entry).encode() + b"\n")


def admit(session: Session) -> Awaitable[None]:
    """Decide at once, or after the seconds that the query names; on any reactor, so no coroutine function."""
    return _admit(session)


async def _admit(session: Session) -> None:
    note(session, "admit", headers=[[name.decode(), value.decode("latin-1")] for name, value in session.request.headers])
    wait = parse_qs(session.request.query_string).get(b"wait")
    if wait:
        seconds = float(wait[0])
        await (asyncio.sleep(seconds) if hasattr(reactor, "_asyncioEventloop") else deferLater(reactor, seconds))
    if session.request.path == "/raise/admit":
        raise RuntimeError(f"{SECRET}\r\nX-Injected: 1")


@application(admit=admit)
class Faults:
    """A handler whose path says what it does."""

    def __init__(self, session: Session) -> None:
        self.path = session.request.path
        self._raise("build")

    def opened(self, session: Session) -> None:
        """Begin."""
        note(session, "opened")
        if self.path == "/flood":
            self._flood(session)
        elif self.path == "/little":  # more than the kernel takes for a small window, less than the high-water mark
            session.send(PIECE[:60_000])
        elif self.path == "/some" or self.path == "/raise/writable":  # more than the kernel takes
            session.send(PIECE * 128)
        self._raise("opened")

    def received(self, session: Session, message: str | bytes) -> None:
        """Echo, or block."""
        note(session, "received", octets=len(message))
        self._raise("received")
        if message == "block":
            time.sleep(5)
        session.send(message)

    def closed(self, session: Session, close: Close) -> None:
        """Note how it ended."""
        note(session, "closed", code=close.code, cause=close.cause.value, by=close.by.value)
        self._raise("closed")

    def writable(self, session: Session) -> None:
        """The output has left."""
        self._raise("writable")

    def _raise(self, name: str) -> None:
        if self.path == f"/raise/{name}":
            raise RuntimeError(SECRET)

    def _flood(self, session: Session) -> None:
        """Send for as long as the session lasts, whatever becomes of it."""
        for _ in range(16):
            session.send(PIECE)
        if session.ending is None:
            reactor.callLater(0.001, self._flood, session)


class RaisesInDraining(Faults):
    """Also wants to hear of the server's going away, and may raise then."""

    def draining(self, session: Session, proceed: Callable[[], None]) -> None:
        """Nothing is left to answer."""
        self._raise("draining")
        proceed()


async def coroutine(session: AsyncSession) -> None:
    """Echo, and raise where the path says."""
    note(session, "opened")
    path = session.request.path
    if path == "/raise/opened":
        raise RuntimeError(SECRET)
    async for message in session:
        note(session, "received", octets=len(message))
        if path == "/raise/received":
            await asyncio.sleep(0.01)
            raise RuntimeError(SECRET)
        await session.send(message)
    assert session.ending is not None
    note(session, "closed", code=session.ending.code, cause=session.ending.cause.value, by=session.ending.by.value)
    if path == "/raise/closed":
        raise RuntimeError(SECRET)
