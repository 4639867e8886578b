"""The WebSocket side: one consumer for each socket, one group for each room."""

from __future__ import annotations

from typing import TypedDict

from channels.exceptions import DenyConnection
from channels.generic.websocket import AsyncWebsocketConsumer


class Line(TypedDict):
    """What goes through the channel layer: its type names the method that gets it."""

    type: str
    text: str


class ChatConsumer(AsyncWebsocketConsumer):
    """Tells a room what its members say, who comes and who goes."""

    room = ""  # until one is in it

    async def connect(self) -> None:
        """Let in who has a name; the others' handshakes are refused with 403."""
        self.name = await self.scope["session"].aget("name")
        if not self.name:
            raise DenyConnection
        self.room = f"room.{self.scope['url_route']['kwargs']['room']}"
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.tell(f"* {self.name} has come")

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Tell the room what was said."""
        if text_data is None:
            await self.close(1003, "only text is understood here")  # RFC 6455 section 7.4.1
        else:
            await self.tell(f"{self.name}: {text_data[:500]}")

    async def disconnect(self, code: int) -> None:
        """Leave the room; one who was refused has not been in any."""
        if self.room:
            await self.channel_layer.group_discard(self.room, self.channel_name)
            await self.tell(f"* {self.name} has gone")

    async def tell(self, text: str) -> None:
        """Send a line to everybody in the room, on every server."""
        await self.channel_layer.group_send(self.room, Line(type="chat.line", text=text))

    async def chat_line(self, line: Line) -> None:
        """Pass on what somebody has told the room."""
        await self.send(line["text"])
