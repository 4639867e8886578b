"""A chat with rooms, on FastAPI: a page, an HTTP endpoint and a WebSocket on one port. Its page is fastapi_chat.html.

pip install fastapi
twistd -n twistedws --port 8000 --app-dir examples fastapi_chat:app        then open http://127.0.0.1:8000/?room=tea&name=ann
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, TypedDict

from fastapi import FastAPI, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse

PAGE = Path(__file__).with_suffix(".html")
HISTORY, WAITING = 20, 100  # lines that who comes late is shown; lines that a slow reader may be behind


class Room:
    """Who is here, each with the lines that wait for them, and what was said last."""

    def __init__(self) -> None:
        self.members: dict[asyncio.Queue[str], str] = {}
        self.history: deque[str] = deque(maxlen=HISTORY)

    def tell(self, line: str) -> None:
        """Say a line to everybody; who has too much waiting misses it, and delays nobody."""
        self.history.append(line)
        for queue in self.members:
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(line)


class State(TypedDict):
    """What is there from the start to the stop."""

    rooms: dict[str, Room]
    started: float


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[State]:
    """Open the house, and tell how long it was open; connections have ended before that."""
    state = State(rooms={}, started=time.monotonic())
    yield state
    print(f"closed after {time.monotonic() - state['started']:.0f} s, {len(state['rooms'])} rooms in use")


app = FastAPI(title="Chat", lifespan=lifespan)


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The page."""
    return FileResponse(PAGE)


@app.get("/rooms")
async def read_rooms(request: Request) -> dict[str, list[str]]:
    """Who is where."""
    rooms: dict[str, Room] = request.state.rooms
    return {name: sorted(room.members.values()) for name, room in rooms.items()}


@app.websocket("/rooms/{name}")
async def chat(websocket: WebSocket, name: str, who: Annotated[str, Query(alias="name", min_length=1, max_length=20)]) -> None:
    """One visit to a room; a handshake without a name is refused."""
    await websocket.accept()
    rooms: dict[str, Room] = websocket.state.rooms
    room = rooms.setdefault(name, Room())
    queue: asyncio.Queue[str] = asyncio.Queue(WAITING)
    for line in room.history:
        queue.put_nowait(line)
    room.members[queue] = who
    room.tell(f"* {who} has come")
    writer = asyncio.create_task(write(websocket, queue))
    try:
        async for text in websocket.iter_text():
            room.tell(f"{who}: {text[:500]}")
    finally:
        writer.cancel()
        del room.members[queue]
        room.tell(f"* {who} has gone")
        if not room.members:
            del rooms[name]


async def write(websocket: WebSocket, queue: asyncio.Queue[str]) -> None:
    """Send what is said, as fast as the visitor reads; the end is told to who reads from the socket."""
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await websocket.send_text(await queue.get())
