"""An ASGI application that blocks its loop where the message says so ("block 3": three seconds), and echoes every message."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any


def wait_for_a_slow_database(seconds: float) -> None:
    """Block, as no coroutine may."""
    time.sleep(seconds)


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """Answer WebSockets."""
    assert scope["type"] == "websocket"
    while (event := await receive())["type"] != "websocket.disconnect":
        if event["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
            continue
        text = event.get("text")
        if text is not None and text.startswith("block "):
            wait_for_a_slow_database(float(text.split()[1]))
        await send({"type": "websocket.send", "text": text, "bytes": event.get("bytes")})
