"""A chat in plain WSGI, written as for gevent-websocket: a page, a list and a WebSocket on one port. Its page is wsgi_chat.html.

twistd -n twistedws --port 8000 --app-dir examples wsgi_chat:app        then open http://127.0.0.1:8000/?name=ann

It runs unchanged under gunicorn, too:
gunicorn --chdir examples --worker-class geventwebsocket.gunicorn.workers.GeventWebSocketWorker wsgi_chat:app
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

try:
    from geventwebsocket import WebSocketError
except ImportError:  # it is not needed here; where it is installed, its name goes on to work
    from twistedws import WebSocketError

PAGE = Path(__file__).with_suffix(".html")
HISTORY = 20  # lines that who comes late is shown

members: set[Any] = set()  # a WebSocket for each who is here
names: dict[Any, str] = {}  # theirs
history: deque[str] = deque(maxlen=HISTORY)
guests = itertools.count(1)
lock = threading.Lock()  # each WebSocket has a thread: what belongs together changes under it


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """WebSockets and plain requests come here alike."""
    ws, path = environ.get("wsgi.websocket"), environ["PATH_INFO"]
    if ws is not None and path == "/chat":
        asked = parse_qs(environ["QUERY_STRING"]).get("name")
        chat(ws, asked[0][:20] if asked else f"guest-{next(guests)}")
        return []
    if path == "/":
        return answer(start_response, "200 OK", "text/html; charset=utf-8", PAGE.read_bytes())
    if path == "/people":
        with lock:
            people = sorted(names.values())
        return answer(start_response, "200 OK", "application/json", json.dumps(people).encode())
    return answer(start_response, "404 Not Found", "text/plain", b"There is nothing here.\n")


def answer(start_response: Callable[..., Any], status: str, kind: str, body: bytes) -> list[bytes]:
    """Answer a plain request."""
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


def chat(ws: Any, name: str) -> None:
    """One visit, from the first line to the last."""
    with lock:
        missed = list(history)
        members.add(ws)
        names[ws] = name
    try:
        for line in missed:
            ws.send(line)
        tell(f"* {name} has come")
        while (message := ws.receive()) is not None:  # None: the visitor has gone
            if not isinstance(message, str):
                continue
            if message.startswith("/nick "):
                before, names[ws] = names[ws], message[6:26]
                tell(f"* {before} is {names[ws]} now")
            else:
                tell(f"{names[ws]}: {message[:500]}")
    except WebSocketError:  # gone while something was sent
        pass
    finally:
        with lock:
            members.discard(ws)
            name = names.pop(ws)
        tell(f"* {name} has gone")


def tell(line: str) -> None:
    """Send a line to everybody; who reads slowly delays who speaks, until --write-stall-timeout."""
    with lock:
        history.append(line)
        present = list(members)  # others come and go while this is sent
    for ws in present:  # not under the lock, which would stop everybody while one reader is slow
        with contextlib.suppress(WebSocketError):  # it has gone, and its own thread will say so
            ws.send(line)
