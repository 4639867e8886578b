"""A chat with rooms, on python-socketio: long polling and WebSocket on the same port, and a page beside.

pip install python-socketio
twistd -n twistedws --port 8000 --app-dir examples socketio_chat:app        then open http://127.0.0.1:8000/

Who joins says so in the handshake, as ``{"name": "ann", "room": "lobby"}``. Pages of other origins are let in by both: by the server
with --origin, and by Socket.IO with cors_allowed_origins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import socketio
from socketio.exceptions import ConnectionRefusedError as Refused

sio = socketio.AsyncServer(async_mode="asgi")
app = socketio.ASGIApp(sio, static_files={"/": str(Path(__file__).with_suffix(".html"))})


async def tell(room: str, line: str) -> None:
    """Send a line to everybody in a room."""
    await sio.emit("line", line, room=room)


@sio.event
async def connect(sid: str, _environ: dict[str, Any], auth: object) -> None:
    """Let in who says a name and a room; what others are told comes as ``connect_error``."""
    match auth:
        case {"name": str(name), "room": str(room)} if name and room:
            await sio.save_session(sid, {"name": name[:20], "room": room[:20]})
            await sio.enter_room(sid, room[:20])
            await tell(room[:20], f"* {name[:20]} has come")
        case _:
            raise Refused("a name and a room are wanted")


@sio.event
async def say(sid: str, text: object) -> bool:
    """Tell the room; who says it gets an acknowledgement: whether it was told."""
    if not isinstance(text, str) or not text:
        return False
    visitor = await sio.get_session(sid)
    await tell(visitor["room"], f"{visitor['name']}: {text[:500]}")
    return True


@sio.event
async def disconnect(sid: str, reason: str) -> None:
    """Tell the room who has gone, and why: ``client disconnect``, ``transport close``, ``ping timeout``."""
    visitor = await sio.get_session(sid)
    await tell(visitor["room"], f"* {visitor['name']} has gone ({reason})")
