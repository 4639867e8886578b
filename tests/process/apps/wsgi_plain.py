"""A WSGI application for gevent-websocket with no framework."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

from geventwebsocket import WebSocketError

from tests.process.apps.wsgi_handlers import HANDLERS, announce, arrived, broken, chunks, told

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]

TOLD = ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL", "REMOTE_ADDR", "HTTP_COOKIE", "HTTP_ORIGIN",
        "HTTP_X_TAG", "HTTP_X_NAME", "CONTENT_TYPE", "CONTENT_LENGTH", "wsgi.url_scheme", "wsgi.version",
        "wsgi.multithread", "wsgi.run_once", "wsgi.websocket_version")  # fmt: skip


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """WebSockets by path; whatever else there is, over HTTP."""
    ws = environ.get("wsgi.websocket")
    return http(environ, start_response) if ws is None else websocket(ws, environ, start_response)


def websocket(ws: Any, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer a WebSocket request."""
    path, query = environ["PATH_INFO"].lstrip("/"), dict(parse_qsl(environ["QUERY_STRING"]))
    if path == "denied":
        return status(start_response, "401 Unauthorized")
    if path == "unavailable":
        return status(start_response, "503 Service Unavailable")
    if path.startswith("environ"):
        ws.send(json.dumps({"path": ws.path, "origin": ws.origin, "protocol": ws.protocol, "version": ws.version}))
        ws.send(json.dumps({name: environ.get(name) for name in TOLD}))
        return []
    if path not in HANDLERS:
        return status(start_response, "404 Not Found")
    with contextlib.suppress(WebSocketError):  # the peer has gone
        HANDLERS[path](ws, query.get("visit", ""))
    return []


def http(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer a plain request."""
    path, _, rest = environ["PATH_INFO"].lstrip("/").partition("/")
    if path in PAGES:
        return PAGES[path](environ, start_response)
    if path in ("endless", "breaks"):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return chunks(rest) if path == "endless" else broken(rest)
    if path == "arrived":
        return answer(start_response, arrived(rest).encode())
    if path == "told":
        return answer(start_response, told.get(rest, "").encode())
    if path.startswith("environ"):
        return answer(start_response, json.dumps({name: environ.get(name) for name in TOLD}).encode())
    if path in HANDLERS:
        return status(start_response, "400 Bad Request", b"Expected a WebSocket request.")
    return status(start_response, "404 Not Found")


def page(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    return answer(start_response, b"<h1>hello</h1>", "text/html; charset=utf-8")


def items(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    item = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    return answer(start_response, json.dumps(item).encode(), "application/json", "201 Created")


def upload(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    return answer(start_response, hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode())


def stream(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (f"{number}\n".encode() for number in range(100))


def written(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"written ")
    write(b"twice")
    return [b", then returned"]


def failing(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    raise RuntimeError("secret")


def announced(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    announce(environ["wsgi.input"].read().decode())
    return answer(start_response, b"announced")


def answer(start_response: Any, body: bytes, kind: str = "text/plain", code: str = "200 OK") -> list[bytes]:
    """Give a whole answer."""
    start_response(code, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


def status(start_response: Any, code: str, body: bytes = b"") -> list[bytes]:
    """Answer with an error."""
    return answer(start_response, body or code.encode(), code=code)


PAGES: dict[str, Application] = {
    "": page, "items": items, "upload": upload, "stream": stream, "written": written, "failing": failing,
    "announce": announced,
}  # fmt: skip
