"""The contract's application, in Quart."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from quart import Quart, Response, abort, make_response, request, send_from_directory, websocket
from werkzeug.datastructures import Headers

DIRECTORY = Path(os.environ["CONTRACT_DIRECTORY"])

closes: dict[str, dict[str, object]] = {}
received: dict[str, int] = {}
tasks: dict[str, asyncio.Event] = {}
done: set[str] = set()
events: defaultdict[str, asyncio.Queue[str]] = defaultdict(asyncio.Queue)
ended: set[str] = set()

app = Quart(__name__, static_folder=None)


@app.before_serving
async def start() -> None:
    app.config["GREETING"] = "made at the start"


@app.after_serving
async def stop() -> None:
    (DIRECTORY / "stopped").touch()


# WebSocket


@app.websocket("/echo")
async def echo() -> None:
    while True:
        await websocket.send(await websocket.receive())


@app.websocket("/listen/<visit>")
async def listen(visit: str) -> None:
    await websocket.send("listening")
    try:
        while True:
            await websocket.receive()
    except asyncio.CancelledError:
        closes[visit] = {"code": None, "reason": None}
        raise


@app.websocket("/enough")
async def enough() -> None:
    await websocket.send("welcome")
    await websocket.receive()
    await websocket.close(4002, "enough")


@app.websocket("/chat")
async def chat() -> None:
    await websocket.accept(subprotocol="chat.v2")
    await websocket.send_json(websocket.requested_subprotocols)


@app.websocket("/rooms/<name>")
async def room(name: str) -> None:
    await websocket.accept(headers=Headers([("X-Room", "7"), ("Set-Cookie", "seen=1"), ("Set-Cookie", "theme=dark")]))
    await websocket.send_json({
        "room": name,
        "query": list(websocket.args.items(multi=True)),
        "tags": websocket.headers.getlist("X-Tag"),
        "cookies": websocket.cookies,
    })  # fmt: skip


@app.websocket("/refused")
async def refused() -> None:
    await websocket.close(1000)


@app.websocket("/denied")
async def denied() -> None:
    abort(Response("Who are you?", 401, {"WWW-Authenticate": "Bearer"}))


@app.websocket("/raises")
async def raises() -> None:
    raise RuntimeError("secret")


@app.websocket("/breaks")
async def breaks() -> None:
    await websocket.send("welcome")
    await websocket.receive()
    raise RuntimeError("secret")


@app.websocket("/state")
async def greet() -> None:
    await websocket.send(app.config["GREETING"])


# HTTP


@app.get("/closes/<visit>")
async def read_closes(visit: str) -> dict[str, object]:
    return closes.get(visit, {})


@app.get("/items/<name>")
async def read_item(name: str) -> dict[str, Any]:
    return {"name": name, "tags": request.args.getlist("tag")}


@app.post("/items")
async def create_item() -> tuple[dict[str, Any], int]:
    return await request.get_json(), 201


@app.get("/cookies")
async def cookies() -> Response:
    response = await make_response(dict(request.cookies))
    assert isinstance(response, Response)
    response.set_cookie("seen", "1")
    response.set_cookie("theme", "dark")
    return response


@app.get("/failing")
async def failing() -> str:
    raise RuntimeError("secret")


@app.post("/uploads/<visit>")
async def upload(visit: str) -> dict[str, Any]:
    digest = hashlib.sha256()
    async for chunk in request.body:
        digest.update(chunk)
        received[visit] = received.get(visit, 0) + len(chunk)
    return {"sha256": digest.hexdigest(), "size": received[visit]}


@app.get("/uploads/<visit>")
async def progress(visit: str) -> dict[str, int]:
    return {"received": received.get(visit, 0)}


@app.get("/numbers")
async def numbers() -> Response:
    async def lines(count: int) -> AsyncIterator[str]:
        for number in range(count):
            yield f"{number}\n"

    return Response(lines(int(request.args["count"])), mimetype="text/plain")


@app.get("/files/<name>")
async def read_file(name: str) -> Response:
    return await send_from_directory(DIRECTORY, name, conditional=True)


async def wait(visit: str) -> None:
    await tasks[visit].wait()
    done.add(visit)


@app.post("/tasks/<visit>")
async def begin_task(visit: str) -> tuple[dict[str, str], int]:
    tasks[visit] = asyncio.Event()
    app.add_background_task(wait, visit)
    return {}, 202


@app.get("/tasks/<visit>")
async def read_task(visit: str) -> dict[str, str]:
    return {"state": "done" if visit in done else "waiting"}


@app.put("/tasks/<visit>")
async def end_task(visit: str) -> dict[str, str]:
    tasks[visit].set()
    return {}


@app.get("/events/<visit>")
async def stream_events(visit: str) -> Response:
    async def stream() -> AsyncIterator[str]:
        try:
            yield "data: welcome\n\n"
            while True:
                yield f"event: news\ndata: {await events[visit].get()}\n\n"
        finally:
            ended.add(visit)

    response = Response(stream(), mimetype="text/event-stream")
    response.timeout = None  # no end is set to it
    return response


@app.post("/events/<visit>")
async def send_event(visit: str) -> dict[str, str]:
    events[visit].put_nowait((await request.get_json())["data"])
    return {}


@app.get("/ended/<visit>")
async def read_ended(visit: str) -> dict[str, bool]:
    gc.collect()  # some frameworks drop a generator whose response has ended, and do not close it
    return {"ended": visit in ended}


@app.get("/state")
async def state() -> dict[str, str]:
    return {"greeting": app.config["GREETING"]}
