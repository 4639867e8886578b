"""The contract's application, in Starlette."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypedDict

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

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


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[State]:
    yield {"greeting": "made at the start"}
    (DIRECTORY / "stopped").touch()


# WebSocket


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    while (message := await websocket.receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await websocket.send_text(message["text"])
        else:
            await websocket.send_bytes(message["bytes"])


async def listen(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("listening")
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect as gone:
        closes[websocket.path_params["visit"]] = {"code": gone.code, "reason": gone.reason}


async def enough(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("welcome")
    await websocket.receive_text()
    await websocket.close(4002, "enough")


async def chat(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol="chat.v2")
    await websocket.send_json(websocket.scope["subprotocols"])


async def room(websocket: WebSocket) -> None:
    await websocket.accept(headers=[(b"x-room", b"7"), (b"set-cookie", b"seen=1"), (b"set-cookie", b"theme=dark")])
    await websocket.send_json({
        "room": websocket.path_params["name"],
        "query": websocket.query_params.multi_items(),
        "tags": websocket.headers.getlist("x-tag"),
        "cookies": websocket.cookies,
    })  # fmt: skip


async def refused(websocket: WebSocket) -> None:
    await websocket.close()


async def denied(websocket: WebSocket) -> None:
    await websocket.send_denial_response(PlainTextResponse("Who are you?", 401, {"WWW-Authenticate": "Bearer"}))


async def raises(_: WebSocket) -> None:
    raise RuntimeError("secret")


async def breaks(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("welcome")
    await websocket.receive_text()
    raise RuntimeError("secret")


async def greet(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(websocket.state.greeting)


# HTTP


async def read_closes(request: Request) -> Response:
    return JSONResponse(closes.get(request.path_params["visit"], {}))


async def read_item(request: Request) -> Response:
    return JSONResponse({"name": request.path_params["name"], "tags": request.query_params.getlist("tag")})


async def create_item(request: Request) -> Response:
    return JSONResponse(await request.json(), status_code=201)


async def cookies(request: Request) -> Response:
    response = JSONResponse(request.cookies)
    response.set_cookie("seen", "1")
    response.set_cookie("theme", "dark")
    return response


async def failing(_: Request) -> Response:
    raise RuntimeError("secret")


async def upload(request: Request) -> Response:
    visit, digest = request.path_params["visit"], hashlib.sha256()
    async for chunk in request.stream():
        digest.update(chunk)
        received[visit] = received.get(visit, 0) + len(chunk)
    return JSONResponse({"sha256": digest.hexdigest(), "size": received[visit]})


async def progress(request: Request) -> Response:
    return JSONResponse({"received": received.get(request.path_params["visit"], 0)})


async def numbers(request: Request) -> Response:
    async def lines(count: int) -> AsyncIterator[str]:
        for number in range(count):
            yield f"{number}\n"

    return StreamingResponse(lines(int(request.query_params["count"])), media_type="text/plain")


async def wait(visit: str) -> None:
    await tasks[visit].wait()
    done.add(visit)


async def begin_task(request: Request) -> Response:
    visit = request.path_params["visit"]
    tasks[visit] = asyncio.Event()
    return JSONResponse({}, status_code=202, background=BackgroundTask(wait, visit))


async def read_task(request: Request) -> Response:
    return JSONResponse({"state": "done" if request.path_params["visit"] in done else "waiting"})


async def end_task(request: Request) -> Response:
    tasks[request.path_params["visit"]].set()
    return JSONResponse({})


async def stream_events(request: Request) -> Response:
    visit = request.path_params["visit"]

    async def stream() -> AsyncIterator[str]:
        try:
            yield "data: welcome\n\n"
            while True:
                yield f"event: news\ndata: {await events[visit].get()}\n\n"
        finally:
            ended.add(visit)

    return StreamingResponse(stream(), media_type="text/event-stream")


async def send_event(request: Request) -> Response:
    events[request.path_params["visit"]].put_nowait((await request.json())["data"])
    return JSONResponse({})


async def read_ended(request: Request) -> Response:
    gc.collect()  # some frameworks drop a generator whose response has ended, and do not close it
    return JSONResponse({"ended": request.path_params["visit"] in ended})


async def state(request: Request) -> Response:
    return JSONResponse({"greeting": request.state.greeting})


app = Starlette(
    lifespan=lifespan,
    routes=[
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/listen/{visit}", listen),
        WebSocketRoute("/enough", enough),
        WebSocketRoute("/chat", chat),
        WebSocketRoute("/rooms/{name}", room),
        WebSocketRoute("/refused", refused),
        WebSocketRoute("/denied", denied),
        WebSocketRoute("/raises", raises),
        WebSocketRoute("/breaks", breaks),
        WebSocketRoute("/state", greet),
        Route("/closes/{visit}", read_closes),
        Route("/items/{name}", read_item),
        Route("/items", create_item, methods=["POST"]),
        Route("/cookies", cookies),
        Route("/failing", failing),
        Route("/uploads/{visit}", upload, methods=["POST"]),
        Route("/uploads/{visit}", progress),
        Route("/numbers", numbers),
        Mount("/files", StaticFiles(directory=DIRECTORY)),
        Route("/tasks/{visit}", begin_task, methods=["POST"]),
        Route("/tasks/{visit}", read_task),
        Route("/tasks/{visit}", end_task, methods=["PUT"]),
        Route("/events/{visit}", stream_events),
        Route("/events/{visit}", send_event, methods=["POST"]),
        Route("/ended/{visit}", read_ended),
        Route("/state", state),
    ],
)
