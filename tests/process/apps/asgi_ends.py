"""A plain ASGI 3 application that tells what its scope says of both ends, over HTTP and over WebSocket, and what it has heard.

Nothing here waits for time: an event of ``/events`` is sent when another request asks for it on ``/next``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

disconnects: dict[str, list[Any]] = {}  # by path: code and reason of each session that its client has ended
streams: set[asyncio.Queue[None]] = set()  # of /events


def ends(scope: dict[str, Any]) -> bytes:
    """What a scope says of the connection and the request, as JSON."""
    told = {name: scope[name] for name in ("type", "client", "server", "scheme", "path", "root_path", "http_version")}
    told["method"] = scope.get("method")
    told["raw_path"] = scope["raw_path"].decode("latin-1")
    told["query"] = scope["query_string"].decode("latin-1")
    told["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    return json.dumps(told).encode()


async def answer(send: Send, body: bytes, kind: bytes = b"application/json") -> None:
    """Give a whole answer."""
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def upload(receive: Receive, send: Send) -> None:
    """Hash a body while it comes."""
    digest, size, more = hashlib.sha256(), 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        digest.update(event.get("body", b""))
        size += len(event.get("body", b""))
        more = event.get("more_body", False)
    await answer(send, json.dumps({"sha256": digest.hexdigest(), "size": size}).encode())


async def echo(receive: Receive, send: Send) -> None:
    """Give each piece of the body back as it comes, in an answer of no known length."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/octet-stream")]})
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        more = event.get("more_body", False)
        await send({"type": "http.response.body", "body": event.get("body", b""), "more_body": more})


async def events(receive: Receive, send: Send) -> None:
    """Send an event for each call of ``/next``, until the client goes."""
    asked: asyncio.Queue[None] = asyncio.Queue()
    streams.add(asked)
    gone = asyncio.create_task(_until_gone(receive))
    try:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b": begun\n\n", "more_body": True})
        number = 0
        while True:
            waiter = asyncio.create_task(asked.get())
            await asyncio.wait({gone, waiter}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                waiter.cancel()
                return
            number += 1
            await send({"type": "http.response.body", "body": f"data: {number}\n\n".encode(), "more_body": True})
    finally:
        streams.discard(asked)
        gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def http(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer a request by its path; one of any other path is told its scope."""
    path = scope["path"]
    if path == "/upload":
        await upload(receive, send)
    elif path == "/echo":
        await echo(receive, send)
    elif path == "/events":
        await events(receive, send)
    elif path == "/next":
        for each in streams:
            each.put_nowait(None)
        await answer(send, json.dumps(len(streams)).encode())
    elif path == "/disconnects":
        await answer(send, json.dumps(disconnects).encode())
    else:
        await answer(send, ends(scope))


async def websocket(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Tell the scope in the first message, then echo; ``close CODE REASON`` is obeyed, a path of ``/denied`` is refused."""
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/denied":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": ends(scope).decode()})
    while (event := await receive())["type"] == "websocket.receive":
        text = event.get("text")
        if text is not None and text.startswith("close "):
            _, code, reason = text.split(" ", 2)
            await send({"type": "websocket.close", "code": int(code), "reason": reason})
        else:
            await send({"type": "websocket.send", "text": text, "bytes": event.get("bytes")})
    disconnects.setdefault(scope["path"], []).append([event["code"], event.get("reason", "")])


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """The application."""
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        await http(scope, receive, send)
