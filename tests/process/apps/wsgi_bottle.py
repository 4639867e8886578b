"""A Bottle application for gevent-websocket, as Bottle's documentation shows one."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

from bottle import Bottle, abort, request, response
from geventwebsocket import WebSocketError

from tests.process.apps.wsgi_handlers import HANDLERS, announce, arrived, broken, chunks, told

app = Bottle()


def websocket() -> Any:
    """The WebSocket of this request; without one, it is a bad request."""
    ws = request.environ.get("wsgi.websocket")
    if not ws:
        abort(400, "Expected a WebSocket request.")
    return ws


@app.route("/denied")
def denied() -> None:
    websocket()
    abort(401, "Who are you?")


@app.route("/unavailable")
def unavailable() -> None:
    websocket()
    abort(503, "Later.")


@app.route("/environ")
def environ() -> None:
    told_of = f"{request.path} {request.query.name} {request.get_cookie('seen')} {request.get_header('X-Tag')} {request.urlparts.scheme}"
    websocket().send(f"{told_of} {request.urlparts.netloc.replace(request.get_header('Host'), 'HOST')}")


@app.route("/")
def page() -> str:
    return "<h1>hello</h1>"


@app.post("/items")
def items() -> Any:
    response.status = 201
    return request.json


@app.post("/upload")
def upload() -> str:
    return hashlib.sha256(request.body.read()).hexdigest()


@app.route("/stream")
def stream() -> Iterator[str]:
    response.content_type = "text/plain"
    for number in range(100):
        yield f"{number}\n"


@app.route("/endless/<visit>")
def endless(visit: str) -> Any:
    return chunks(visit)


@app.route("/breaks/<visit>")
def breaks(visit: str) -> Iterator[bytes]:
    return broken(visit)


@app.route("/arrived/<visit>")
def let_break(visit: str) -> str:
    return arrived(visit)


@app.route("/failing")
def failing() -> None:
    raise RuntimeError("secret")


@app.post("/announce")
def announced() -> str:
    announce(request.body.read().decode())
    return "announced"


@app.route("/told/<visit>")
def tell(visit: str) -> str:
    return told.get(visit, "")


@app.route("/<name>")
def handle(name: str) -> None:
    if name not in HANDLERS:
        abort(404)
    ws = websocket()
    with contextlib.suppress(WebSocketError):  # the peer has gone
        HANDLERS[name](ws, request.query.get("visit", ""))
