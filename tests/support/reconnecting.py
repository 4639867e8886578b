"""A client that comes back as the documentation of the ``websockets`` package says to, which knows nothing of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


@dataclass(slots=True)
class Visit:
    """One connection: the replies that came, and how the server ended it, None if it did not."""

    replies: list[str] = field(default_factory=list)
    code: int | None = None
    reason: str = ""


async def reconnecting(url: str, visits: list[Visit], is_enough: Callable[[], bool], interval: float = 0.02) -> None:
    """Talk and come back, until it is enough; how long to wait after a connect that failed is the package's own choice.

    Args:
        url: Where to.
        visits: Takes each connection, as soon as it is open.
        is_enough: Asked after each reply.
        interval: Seconds from a reply to the next message.
    """
    async for client in connect(url, proxy=None):
        visit = Visit()
        visits.append(visit)
        try:
            while not is_enough():
                await client.send(f"{len(visit.replies)}")
                visit.replies.append(str(await client.recv()))
                await asyncio.sleep(interval)
            await client.close()
            return
        except ConnectionClosed as closed:
            visit.code, visit.reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
