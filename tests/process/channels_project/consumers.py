"""A consumer for each thing that a server must be able to do. What ends is noted in ``endings``, which a view tells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from asgiref.sync import async_to_sync
from channels.exceptions import DenyConnection
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, WebsocketConsumer

Event = dict[str, Any]

endings: dict[str, list[int | str]] = {}


def note(scope: dict[str, Any], what: int | str) -> None:
    """Note how a visit ends: its disconnect code, or what else came."""
    endings.setdefault(scope["url_route"]["kwargs"]["visit"], []).append(what)
    print(f"ended {scope['path']} {what}")  # for tests in which nobody can ask any more


class Echo(AsyncWebsocketConsumer):
    """Sends back what comes, as the same kind."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data, bytes_data)

    async def disconnect(self, code: int) -> None:
        note(self.scope, code)


class SyncEcho(WebsocketConsumer):
    """Likewise, in a thread."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.send(text_data, bytes_data)

    def disconnect(self, code: int) -> None:
        note(self.scope, code)


class Sum(AsyncJsonWebsocketConsumer):
    """Adds the numbers that come."""

    async def receive_json(self, content: list[int]) -> None:
        await self.send_json({"sum": sum(content)})


class Group(AsyncWebsocketConsumer):
    """Tells its group what comes; says ``joined`` when it is in."""

    async def connect(self) -> None:
        self.group = f"group.{self.scope['url_route']['kwargs']['name']}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send("joined")

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send(self.group, {"type": "group.message", "text": text_data, "bytes": bytes_data})

    async def group_message(self, event: Event) -> None:
        await self.send(event["text"], event["bytes"])

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)


class SyncGroup(WebsocketConsumer):
    """Likewise, in a thread."""

    def connect(self) -> None:
        self.group = f"group.{self.scope['url_route']['kwargs']['name']}"
        async_to_sync(self.channel_layer.group_add)(self.group, self.channel_name)
        self.accept()
        self.send("joined")

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        event = {"type": "group.message", "text": text_data, "bytes": bytes_data}
        async_to_sync(self.channel_layer.group_send)(self.group, event)

    def group_message(self, event: Event) -> None:
        self.send(event["text"], event["bytes"])

    def disconnect(self, code: int) -> None:
        async_to_sync(self.channel_layer.group_discard)(self.group, self.channel_name)


class Closing(AsyncWebsocketConsumer):
    """Closes with the code of its address, and what comes for a reason."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.close(self.scope["url_route"]["kwargs"]["code"], text_data)


class Refusing(AsyncWebsocketConsumer):
    """Closes before it has accepted."""

    async def connect(self) -> None:
        await self.close(4003, "not you")

    async def disconnect(self, code: int) -> None:
        note(self.scope, code)


class Denying(AsyncWebsocketConsumer):
    """Raises what Channels has for a refusal."""

    async def connect(self) -> None:
        raise DenyConnection

    async def disconnect(self, code: int) -> None:
        note(self.scope, code)


class Choosing(AsyncWebsocketConsumer):
    """Chooses the last subprotocol that the client offers, and tells them all."""

    async def connect(self) -> None:
        offered = self.scope["subprotocols"]
        await self.accept(offered[-1] if offered else None)
        await self.send(json.dumps(offered))


class Handshake(AsyncWebsocketConsumer):
    """Tells what it has understood of the handshake, and accepts with headers of its own."""

    async def connect(self) -> None:
        scope = self.scope
        await self.accept(headers=[(b"x-answer", b"42"), (b"set-cookie", b"seen=1"), (b"set-cookie", b"theme=dark")])
        told = {
            "route": scope["url_route"]["kwargs"],
            "path": scope["path"],
            "raw path": scope["raw_path"].decode("ascii"),
            "query": parse_qsl(scope["query_string"].decode("ascii"), keep_blank_values=True),
            "tags": [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-tag"],
            "cookies": scope["cookies"],
            "client": scope["client"][0],
        }
        await self.send(json.dumps(told))


class User(AsyncWebsocketConsumer):
    """Tells who has logged in, and counts the visits in the session."""

    async def connect(self) -> None:
        await self.accept()
        session = self.scope["session"]
        await session.aset("visits", await session.aget("visits", 0) + 1)
        await session.asave()
        await self.send(f"{self.scope['user'].username}, visit {await session.aget('visits')}")


class FailingBefore(AsyncWebsocketConsumer):
    """Raises before it has accepted."""

    async def connect(self) -> None:
        raise RuntimeError("before the accept")


class FailingLater(AsyncWebsocketConsumer):
    """Raises at the first message."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        raise RuntimeError("at a message")


class FailingLast(AsyncWebsocketConsumer):
    """Raises when it hears of the end."""

    async def disconnect(self, code: int) -> None:
        note(self.scope, code)
        raise RuntimeError("at the end")


class Staying(AsyncWebsocketConsumer):
    """Does not stop when its client has gone."""

    async def __call__(self, scope: Event, receive: Callable[[], Any], send: Callable[[Event], Any]) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            note(scope, "over")

    async def websocket_disconnect(self, message: Event) -> None:
        note(self.scope, message["code"])  # and no StopConsumer, which the method overridden here raises


class Late(AsyncWebsocketConsumer):
    """Sends to a client that has gone, and notes what comes of it."""

    async def disconnect(self, code: int) -> None:
        note(self.scope, code)
        try:
            await self.send("still there?")
        except OSError:  # what the specification asks for since its version 2.4
            note(self.scope, "OSError")
        else:
            note(self.scope, "nothing")


class Pouring(AsyncWebsocketConsumer):
    """Sends a thousand messages of 32 KiB, each beginning with its number."""

    async def connect(self) -> None:
        await self.accept()
        for number in range(1000):
            await self.send(bytes_data=number.to_bytes(4, "big") + bytes(32 * 1024))


class Ticks(AsyncHttpConsumer):
    """Streams five events, each when the one before is on its way."""

    async def handle(self, body: bytes) -> None:
        await self.send_headers(headers=[(b"Content-Type", b"text/event-stream")])
        for number in range(5):
            await self.send_body(f"data: {number}\n\n".encode(), more_body=True)
            await asyncio.sleep(0)
        await self.send_body(b"")
