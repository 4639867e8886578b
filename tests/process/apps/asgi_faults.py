"""An ASGI application that does what applications should not, by path; ``/heard`` tells what each of them has heard."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

heard: dict[str, list[str]] = {}


async def app(scope: Event, receive: Receive, send: Send) -> None:
    """Do what the path says."""
    if scope["type"] == "lifespan":
        return
    name = scope["path"].strip("/")
    notes = heard.setdefault(name, [])
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": json.dumps(heard).encode()})
        return
    await receive()
    if name == "raise-before":
        raise RuntimeError("the application is wrong")
    await send({"type": "websocket.accept"})
    await BEHAVIOURS.get(name, echo)(receive, send, notes)


async def echo(receive: Receive, send: Send, notes: list[str]) -> None:
    """Echo."""
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})
    notes.append(f"{event['code']} {event['reason']}")


async def flood(receive: Receive, send: Send, notes: list[str]) -> None:
    """Send for ever, and note how that ended."""
    sent = 0
    try:
        while True:
            await send({"type": "websocket.send", "bytes": b"x" * 10_000})
            sent += 1
    except OSError:
        notes.append(f"{sent} sent")
        notes.append(f"{(await receive())['code']}")


async def ignore(receive: Receive, send: Send, notes: list[str]) -> None:
    """Take no notice of the disconnect, and none of being cancelled once."""
    await receive()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        notes.append("cancelled")
        raise


async def send_on(receive: Receive, send: Send, notes: list[str]) -> None:
    """Send on, whatever that raises."""
    await receive()
    notes.append("gone")
    while True:
        with suppress(OSError):
            await send({"type": "websocket.send", "text": "more"})


async def raise_after(receive: Receive, send: Send, notes: list[str]) -> None:
    """Raise on the first message."""
    await receive()
    raise RuntimeError("the application is wrong")


BEHAVIOURS = {"flood": flood, "ignore": ignore, "send-on": send_on, "raise-after": raise_after}
