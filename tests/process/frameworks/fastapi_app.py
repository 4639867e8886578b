"""The contract's application, in FastAPI."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

from fastapi import BackgroundTasks, FastAPI, HTTPException, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

DIRECTORY = Path(os.environ["CONTRACT_DIRECTORY"])

closes: dict[str, dict[str, object]] = {}
received: dict[str, int] = {}
tasks: dict[str, asyncio.Event] = {}
done: set[str] = set()
events: defaultdict[str, asyncio.Queue[str]] = defaultdict(asyncio.Queue)
ended: set[str] = set()


class State(TypedDict):
    """What is there from the start to the stop."""

    greeting: str


class Item(BaseModel):
    """The body of a request."""

    name: str
    number: int


class News(BaseModel):
    """An event to be sent."""

    data: str


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[State]:
    yield {"greeting": "made at the start"}
    (DIRECTORY / "stopped").touch()


app = FastAPI(lifespan=lifespan)


# WebSocket


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    while (message := await websocket.receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await websocket.send_text(message["text"])
        else:
            await websocket.send_bytes(message["bytes"])


@app.websocket("/listen/{visit}")
async def listen(websocket: WebSocket, visit: str) -> None:
    await websocket.accept()
    await websocket.send_text("listening")
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect as gone:
        closes[visit] = {"code": gone.code, "reason": gone.reason}


@app.websocket("/enough")
async def enough(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("welcome")
    await websocket.receive_text()
    await websocket.close(4002, "enough")


@app.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol="chat.v2")
    await websocket.send_json(websocket.scope["subprotocols"])


@app.websocket("/rooms/{name}")
async def room(websocket: WebSocket, name: str) -> None:
    await websocket.accept(headers=[(b"x-room", b"7"), (b"set-cookie", b"seen=1"), (b"set-cookie", b"theme=dark")])
    await websocket.send_json({
        "room": name,
        "query": websocket.query_params.multi_items(),
        "tags": websocket.headers.getlist("x-tag"),
        "cookies": websocket.cookies,
    })  # fmt: skip


@app.websocket("/refused")
async def refused(websocket: WebSocket) -> None:
    await websocket.close()


@app.websocket("/denied")
async def denied() -> None:
    raise HTTPException(401, "Who are you?", headers={"WWW-Authenticate": "Bearer"})


@app.websocket("/raises")
async def raises() -> None:
    raise RuntimeError("secret")


@app.websocket("/breaks")
async def breaks(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("welcome")
    await websocket.receive_text()
    raise RuntimeError("secret")


@app.websocket("/state")
async def greet(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(websocket.state.greeting)


# HTTP


@app.get("/closes/{visit}")
async def read_closes(visit: str) -> dict[str, object]:
    return closes.get(visit, {})


@app.api_route("/items/{name}", methods=["GET", "HEAD"])  # unlike Starlette, FastAPI adds no HEAD to GET
async def read_item(name: str, tag: Annotated[list[str], Query(default_factory=list)]) -> dict[str, Any]:
    return {"name": name, "tags": tag}


@app.post("/items", status_code=201)
async def create_item(item: Item) -> Item:
    return item


@app.get("/cookies")
async def cookies(request: Request, response: Response) -> dict[str, str]:
    response.set_cookie("seen", "1")
    response.set_cookie("theme", "dark")
    return request.cookies


@app.get("/failing")
async def failing() -> None:
    raise RuntimeError("secret")


@app.post("/uploads/{visit}")
async def upload(visit: str, request: Request) -> dict[str, Any]:
    digest = hashlib.sha256()
    async for chunk in request.stream():
        digest.update(chunk)
        received[visit] = received.get(visit, 0) + len(chunk)
    return {"sha256": digest.hexdigest(), "size": received[visit]}


@app.get("/uploads/{visit}")
async def progress(visit: str) -> dict[str, int]:
    return {"received": received.get(visit, 0)}


@app.get("/numbers")
async def numbers(count: int) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(count):
            yield f"{number}\n"

    return StreamingResponse(lines(), media_type="text/plain")


@app.api_route("/files/{name}", methods=["GET", "HEAD"])
async def read_file(name: str) -> FileResponse:
    return FileResponse(DIRECTORY / Path(name).name)


async def wait(visit: str) -> None:
    await tasks[visit].wait()
    done.add(visit)


@app.post("/tasks/{visit}", status_code=202)
async def begin_task(visit: str, background: BackgroundTasks) -> None:
    tasks[visit] = asyncio.Event()
    background.add_task(wait, visit)


@app.get("/tasks/{visit}")
async def read_task(visit: str) -> dict[str, str]:
    return {"state": "done" if visit in done else "waiting"}


@app.put("/tasks/{visit}")
async def end_task(visit: str) -> None:
    tasks[visit].set()


@app.get("/events/{visit}", response_class=EventSourceResponse)
async def stream_events(visit: str) -> AsyncIterable[ServerSentEvent]:
    try:
        yield ServerSentEvent(raw_data="welcome")
        while True:
            yield ServerSentEvent(event="news", raw_data=await events[visit].get())
    finally:
        ended.add(visit)


@app.post("/events/{visit}")
async def send_event(visit: str, news: News) -> None:
    events[visit].put_nowait(news.data)


@app.get("/ended/{visit}")
async def read_ended(visit: str) -> dict[str, bool]:
    gc.collect()  # some frameworks drop a generator whose response has ended, and do not close it
    return {"ended": visit in ended}


@app.get("/state")
async def state(request: Request) -> dict[str, str]:
    return {"greeting": request.state.greeting}
