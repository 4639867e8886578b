"""The contract's application, in Litestar."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litestar import Litestar, Request, Response, WebSocket, get, head, post, put, websocket
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import Cookie, State
from litestar.exceptions import NotAuthorizedException, WebSocketDisconnect
from litestar.params import FromPath, FromQuery
from litestar.response import ServerSentEvent, ServerSentEventMessage, Stream
from litestar.static_files import create_static_files_router

DIRECTORY = Path(os.environ["CONTRACT_DIRECTORY"])

closes: dict[str, dict[str, object]] = {}
received: dict[str, int] = {}
tasks: dict[str, asyncio.Event] = {}
done: set[str] = set()
events: defaultdict[str, asyncio.Queue[str]] = defaultdict(asyncio.Queue)
ended: set[str] = set()

Socket = WebSocket[Any, Any, State]
Asked = Request[Any, Any, State]


@dataclass
class Item:
    """The body of a request."""

    name: str
    number: int


@dataclass
class News:
    """An event to be sent."""

    data: str


@contextlib.asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    app.state.greeting = "made at the start"
    yield
    (DIRECTORY / "stopped").touch()


# WebSocket


@websocket("/echo")
async def echo(socket: Socket) -> None:
    await socket.accept()
    while (message := await socket.receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await socket.send_text(str(message["text"]))
        else:
            await socket.send_bytes(message["bytes"] or b"")


@websocket("/listen/{visit:str}")
async def listen(socket: Socket, visit: FromPath[str]) -> None:
    await socket.accept()
    await socket.send_text("listening")
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect as gone:
        closes[visit] = {"code": gone.code, "reason": None}


@websocket("/enough")
async def enough(socket: Socket) -> None:
    await socket.accept()
    await socket.send_text("welcome")
    await socket.receive_text()
    await socket.close(4002, "enough")


@websocket("/chat")
async def chat(socket: Socket) -> None:
    await socket.accept(subprotocols="chat.v2")
    await socket.send_json(socket.scope["subprotocols"])


@websocket("/rooms/{name:str}")
async def room(socket: Socket, name: FromPath[str]) -> None:
    await socket.accept(headers=[(b"x-room", b"7"), (b"set-cookie", b"seen=1"), (b"set-cookie", b"theme=dark")])
    await socket.send_json({
        "room": name,
        "query": list(socket.query_params.multi_items()),
        "tags": socket.headers.getall("x-tag"),
        "cookies": socket.cookies,
    })  # fmt: skip


@websocket("/refused")
async def refused(socket: Socket) -> None:
    await socket.close()


@websocket("/denied")
async def denied(socket: Socket) -> None:
    raise NotAuthorizedException("Who are you?")


@websocket("/raises")
async def raises(socket: Socket) -> None:
    raise RuntimeError("secret")


@websocket("/breaks")
async def breaks(socket: Socket) -> None:
    await socket.accept()
    await socket.send_text("welcome")
    await socket.receive_text()
    raise RuntimeError("secret")


@websocket("/state")
async def greet(socket: Socket, state: State) -> None:
    await socket.accept()
    await socket.send_text(state.greeting)


# HTTP


@get("/closes/{visit:str}")
async def read_closes(visit: FromPath[str]) -> dict[str, object]:
    return closes.get(visit, {})


@get("/items/{name:str}")
async def read_item(name: FromPath[str], tag: FromQuery[list[str] | None] = None) -> dict[str, Any]:
    return {"name": name, "tags": tag or []}


@head("/items/{name:str}", media_type="application/json")
async def head_item(name: FromPath[str]) -> None:
    return None


@post("/items")
async def create_item(data: Item) -> Item:
    return data


@get("/cookies")
async def cookies(request: Asked) -> Response[dict[str, str]]:
    return Response(dict(request.cookies), cookies=[Cookie(key="seen", value="1"), Cookie(key="theme", value="dark")])


@get("/failing")
async def failing() -> str:
    raise RuntimeError("secret")


@post("/uploads/{visit:str}", status_code=200)
async def upload(request: Asked, visit: FromPath[str]) -> dict[str, Any]:
    digest = hashlib.sha256()
    async for chunk in request.stream():
        digest.update(chunk)
        received[visit] = received.get(visit, 0) + len(chunk)
    return {"sha256": digest.hexdigest(), "size": received[visit]}


@get("/uploads/{visit:str}")
async def progress(visit: FromPath[str]) -> dict[str, int]:
    return {"received": received.get(visit, 0)}


@get("/numbers")
async def numbers(count: FromQuery[int]) -> Stream:
    async def lines() -> AsyncIterator[str]:
        for number in range(count):
            yield f"{number}\n"

    return Stream(lines(), media_type="text/plain")


async def wait(visit: str) -> None:
    await tasks[visit].wait()
    done.add(visit)


@post("/tasks/{visit:str}", status_code=202)
async def begin_task(visit: FromPath[str]) -> Response[None]:
    tasks[visit] = asyncio.Event()
    return Response(None, background=BackgroundTask(wait, visit))


@get("/tasks/{visit:str}")
async def read_task(visit: FromPath[str]) -> dict[str, str]:
    return {"state": "done" if visit in done else "waiting"}


@put("/tasks/{visit:str}")
async def end_task(visit: FromPath[str]) -> None:
    tasks[visit].set()


@get("/events/{visit:str}")
async def stream_events(visit: FromPath[str]) -> ServerSentEvent:
    async def stream() -> AsyncIterator[ServerSentEventMessage]:
        try:
            yield ServerSentEventMessage(data="welcome")
            while True:
                yield ServerSentEventMessage(event="news", data=await events[visit].get())
        finally:
            ended.add(visit)

    return ServerSentEvent(stream())


@post("/events/{visit:str}")
async def send_event(visit: FromPath[str], data: News) -> None:
    events[visit].put_nowait(data.data)


@get("/ended/{visit:str}")
async def read_ended(visit: FromPath[str]) -> dict[str, bool]:
    gc.collect()  # some frameworks drop a generator whose response has ended, and do not close it
    return {"ended": visit in ended}


@get("/state")
async def read_state(state: State) -> dict[str, str]:
    return {"greeting": state.greeting}


app = Litestar(
    route_handlers=[
        echo, listen, enough, chat, room, refused, denied, raises, breaks, greet,
        read_closes, read_item, head_item, create_item, cookies, failing, upload, progress, numbers,
        create_static_files_router("/files", [DIRECTORY]),
        begin_task, read_task, end_task, stream_events, send_event, read_ended, read_state,
    ],
    lifespan=[lifespan],
    openapi_config=None,
)  # fmt: skip
