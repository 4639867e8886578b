"""A Socket.IO server that has one event for each thing that test_socketio.py asks of a server.

``CORS`` names an origin, beside the own one, whose pages may connect.
"""

from __future__ import annotations

import os
from typing import Any

import socketio
from socketio.exceptions import ConnectionRefusedError as Refused

sio = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins=os.environ.get("CORS"))
endings: dict[str, str] = {}  # the reason of the disconnect, by the name that the client gave


async def beside(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer what is not Socket.IO's."""
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"beside"})


app = socketio.ASGIApp(sio, beside)


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: dict[str, str] | None) -> None:
    """Greet by name; refuse Mallory."""
    name = (auth or {}).get("name", "nobody")
    if name == "mallory":
        raise Refused("not you", {"status": 4001})
    await sio.save_session(sid, {"name": name})
    await sio.emit("welcome", name, to=sid)


@sio.event
async def disconnect(sid: str, reason: str) -> None:
    """Note why."""
    endings[(await sio.get_session(sid))["name"]] = reason
    print(f"ended {(await sio.get_session(sid))['name']} {reason}")


@sio.event
async def echo(sid: str, *data: Any) -> Any:
    """Acknowledge with what has come."""
    return data


@sio.event
async def ask_me(sid: str, question: Any) -> Any:
    """Ask the client back, and acknowledge with its answer."""
    return await sio.call("question", question, to=sid, timeout=10)


@sio.event
async def transport(sid: str) -> str:
    """Acknowledge with the transport, as the server knows it."""
    name: str = sio.transport(sid)
    return name


@sio.event
async def join(sid: str, room: str) -> None:
    """Enter a room."""
    await sio.enter_room(sid, room)


@sio.event
async def leave(sid: str, room: str) -> None:
    """Leave a room."""
    await sio.leave_room(sid, room)


@sio.event
async def say(sid: str, room: str, data: Any) -> None:
    """Tell a room; everybody in it, the speaker too."""
    await sio.emit("said", data, room=room)


@sio.event
async def send_me_off(sid: str) -> None:
    """Disconnect the client."""
    await sio.disconnect(sid)


@sio.event
async def ending(sid: str, name: str) -> str:
    """Acknowledge with the reason why somebody has gone; nothing if nobody of that name has."""
    return endings.get(name, "")


@sio.event
async def fail(sid: str) -> None:
    """Raise."""
    raise RuntimeError("at an event")


class News(socketio.AsyncNamespace):
    """The namespace ``/news``."""

    async def on_connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        """Greet otherwise."""
        await self.emit("welcome", "news", to=sid)

    async def on_echo(self, sid: str, *data: Any) -> Any:
        """Acknowledge with something that the other namespace does not."""
        return ["news", *data]


sio.register_namespace(News("/news"))
