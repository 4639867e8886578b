"""A chat of gevent-websocket's ``WebSocketApplication`` and ``Resource``, beside a page of Flask."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

from flask import Flask
from geventwebsocket import Resource, WebSocketApplication
from geventwebsocket.protocols.base import BaseProtocol

told: dict[str, list[str]] = {}  # by nickname

pages = Flask(__name__)


@pages.route("/")
def page() -> str:
    return "<h1>chat</h1>"


@pages.route("/told/<nickname>")
def tell(nickname: str) -> str:
    return ", ".join(told.get(nickname, []))


class Chat(WebSocketApplication):
    """Everybody gets what anybody says; whoever asks is told who is there."""

    nickname = ""

    def on_open(self) -> None:
        self.ws.handler.active_client.nickname = "anonymous"
        self.ws.send(json.dumps({"clients": len(self.clients())}))

    def on_message(self, message: str | None) -> None:
        if message is None:  # which is how this class tells that the client has gone, before on_close
            self.heard = ["on_message(None)"]
            return
        asked = json.loads(message)
        if "nickname" in asked:
            self.nickname = self.ws.handler.active_client.nickname = asked["nickname"]
            self.ws.send(json.dumps({"here": sorted(each.nickname for each in self.clients())}))
        else:
            for each in self.clients():
                each.ws.send(json.dumps({"from": self.nickname, "said": asked["say"]}))

    def on_close(self, reason: str | None) -> None:
        told[self.nickname] = [*self.heard, f"on_close({reason!r})"]

    def clients(self) -> list[Any]:
        return list(self.ws.handler.server.clients.values())


class Lines(BaseProtocol):
    """A subprotocol."""

    PROTOCOL_NAME = "lines.v1"

    def on_message(self, message: str | None) -> None:
        for line in (message or "").splitlines():
            super().on_message(line)


class Counting(WebSocketApplication):
    """An application of a subprotocol."""

    protocol_class = Lines

    def on_message(self, message: str) -> None:
        self.ws.send(f"{len(message)} {self.protocol.server is self.ws.handler.server}")


class Raising(WebSocketApplication):
    """An application that fails."""

    def on_message(self, message: str) -> None:
        raise RuntimeError("secret")


class Default(WebSocketApplication):
    """What there is if nothing is overridden: an echo, which sends even what says that the client has gone."""


app = Resource(
    OrderedDict([
        ("^/chat$", Chat),
        ("^/counting$", Counting),
        ("^/raising$", Raising),
        ("^/default$", Default),
        ("^/", pages),
    ])
)  # fmt: skip
