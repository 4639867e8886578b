"""A chat room: everybody's lines go to everybody, with the last ones for who comes late. A slow reader delays nobody.

twistd -n twistedws --app-dir examples chat:app        then connect with ?name=ann
"""

from __future__ import annotations

from collections import deque
from urllib.parse import parse_qs

from twistedws import AsyncSession, fan_out

room: dict[AsyncSession, str] = {}
history: deque[str] = deque(maxlen=20)


def tell(line: str) -> None:
    """Send a line to all; what waits for a slow reader is bounded by --queue-size."""
    history.append(line)
    fan_out(room, line)


async def app(session: AsyncSession) -> None:
    """One of these runs for each session."""
    names = parse_qs(session.request.query_string.decode("latin-1")).get("name")
    name = names[0][:20] if names else f"guest-{session.id[:4]}"
    for line in history:
        await session.send(line)
    room[session] = name
    tell(f"* {name} has come")
    try:
        async for message in session:
            if isinstance(message, str):
                tell(f"{name}: {message[:500]}")
    finally:
        del room[session]
        tell(f"* {name} has gone ({session.ending.cause.value if session.ending else 'done'})")
