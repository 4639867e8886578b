"""A WSGI application that does what applications should not, by path.

What each has seen it writes to the log. One that waits for its release gets it over HTTP at ``/release/PATH``, or by a WebSocket at
``/free/PATH``.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from twistedws.gateway.wsgi import WebSocketError

releases: defaultdict[str, threading.Event] = defaultdict(threading.Event)


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Do what the path says."""
    name = environ["PATH_INFO"].lstrip("/")
    ws = environ.get("wsgi.websocket")
    if ws is not None:
        BEHAVIOURS.get(name.partition("/")[0], echo)(ws, name)
        return []
    what, _, rest = name.partition("/")
    return REQUESTS[what](start_response, rest)


def note(name: str, text: str) -> None:
    """Write to the log what was seen, in one piece, as other threads do the same."""
    sys.stdout.write(f"heard {name}: {text}\n")


def echo(ws: Any, name: str) -> None:
    """Give each message back, and note the end."""
    while (message := ws.receive()) is not None:
        ws.send(message)
    note(name, "received None")


def sleep(ws: Any, name: str) -> None:
    """Sleep as many seconds as a message says."""
    while (message := ws.receive()) is not None:
        ws.send("begun")
        time.sleep(float(message))
        ws.send("done")


def fail(ws: Any, name: str) -> None:
    """Raise what a message says: at once where the path does."""
    what = name.partition("/")[2] or ws.receive()
    if what == "exit":
        sys.exit(3)
    raise {"error": RuntimeError, "interrupt": KeyboardInterrupt, "memory": MemoryError}[what]("secret")


def hang(ws: Any, name: str) -> None:
    """Take no notice of the end, until released."""
    ws.send("hung")
    releases[name].wait()
    note(name, "released")


def spin(ws: Any, name: str) -> None:
    """Compute, in Python, until released."""
    ws.send("spinning")
    turns = 0
    while not releases[name].is_set():
        turns += 1
    ws.send("done")


def chorus(ws: Any, name: str) -> None:
    """Have eight threads send a thousand messages each, while this one receives; send on after the end."""

    def sing(voice: int) -> None:
        for number in range(1000):
            ws.send(f"{voice} {number}")
        ended.wait()
        try:
            ws.send("late")
        except WebSocketError as error:
            note(name, f"send raised {error}")

    ended = threading.Event()
    voices = [threading.Thread(target=sing, args=(voice,)) for voice in range(8)]
    for each in voices:
        each.start()
    while (message := ws.receive()) is not None:
        ws.send(message)
    ended.set()
    for each in voices:
        each.join()
    note(name, "returned")


def ticker(ws: Any, name: str) -> None:
    """Send for ever, never receive, and note how that ended."""
    try:
        while True:
            ws.send("tick")
            time.sleep(0.01)
    finally:
        note(name, f"{type(sys.exc_info()[1]).__name__}: {sys.exc_info()[1]}")


def flood(ws: Any, name: str) -> None:
    """The same as fast as it can."""
    sent = 0
    try:
        while True:
            ws.send(b"x" * 10_000)
            sent += 1
    finally:
        note(name, f"{sent} sent")
        note(name, f"{type(sys.exc_info()[1]).__name__}: {sys.exc_info()[1]}")


def stubborn(ws: Any, name: str) -> None:
    """Send on, whatever that raises, until released."""
    raised = 0
    while not releases[name].is_set():
        try:
            ws.send("more")
        except WebSocketError:
            raised += 1
        time.sleep(0.001)
    note(name, f"raised {raised > 1}")


def deaf(ws: Any, name: str) -> None:
    """Receive nothing until released; then all, and say how much that was, and whether it was in order."""
    ws.send("deaf")
    releases[name].wait()
    number = 0
    while (message := ws.receive()) is not None:
        assert int(message[:8]) == number, message[:8]
        number += 1
        if len(message) == 8:
            ws.send(f"{number} in order")
    note(name, f"received None after {number}")


def parse(ws: Any, name: str) -> None:
    """Parse each message as JSON, and say what came of it."""
    while (message := ws.receive()) is not None:
        try:
            json.loads(message)
            ws.send("parsed")
        except (RecursionError, ValueError) as error:
            ws.send(type(error).__name__)


class Nested:
    """Something whose text is the text of what is in it: a recursion through C and Python by turns."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"<{self.inner!r}>"

    def __lt__(self, other: Any) -> bool:
        return bool(sorted([self.inner, other.inner]))


def recurse(ws: Any, name: str) -> None:
    """Recurse without end, as a message says, and say what came of it, or leave that to the server."""
    inner: Any = 0
    for _ in range(100_000):
        inner = Nested(inner)

    def endless(depth: int) -> int:
        return endless(depth + 1) + 1

    ways: dict[str, Callable[[], object]] = {"python": lambda: endless(0), "repr": lambda: repr(inner), "sort": lambda: inner < inner}
    try:
        while (message := ws.receive()) is not None:
            if message == "uncaught":
                endless(0)
            try:
                ways[message]()
            except RecursionError as error:
                ws.send(type(error).__name__)
    finally:
        while isinstance(inner, Nested):  # or its deallocation would be the test
            inner = inner.inner


def free(ws: Any, name: str) -> None:
    """Release who waits for it."""
    releases[name.partition("/")[2]].set()


def printing(ws: Any, name: str) -> None:
    """Print for ever, whatever happens."""
    ws.send("printing")
    while True:
        print("x" * 100, flush=True)


def pooled(ws: Any, name: str) -> None:
    """Leave something to a pool of threads, and wait for it for ever."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(releases[name].wait)
        ws.send("pooled")
        done.result()


BEHAVIOURS: dict[str, Callable[[Any, str], None]] = {
    each.__name__: each
    for each in (
        echo, sleep, fail, hang, spin, chorus, ticker, flood, stubborn, deaf, parse, recurse, free, printing, pooled,
    )
}  # fmt: skip


# Plain requests


def page(start_response: Any, name: str) -> Iterable[bytes]:
    """Answer."""
    return answer(start_response, b"a page")


def release(start_response: Any, name: str) -> Iterable[bytes]:
    """Release who waits for it."""
    releases[name].set()
    return answer(start_response, b"released")


def block(start_response: Any, name: str) -> Iterable[bytes]:
    """Answer once released."""
    note("block", name)
    releases["block"].wait()
    return answer(start_response, name.encode())


def stream(start_response: Any, name: str) -> Iterable[bytes]:
    """Answer for ever, and note how that ended."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return pieces(name)


def pieces(name: str) -> Iterator[bytes]:
    """Pieces of an answer without end."""
    sent = 0
    try:
        while True:
            yield b"x" * 10_000
            sent += 1
    finally:
        note(f"stream/{name}", f"{sent} sent")


def answer(start_response: Any, body: bytes) -> list[bytes]:
    """Give a whole answer."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


REQUESTS: dict[str, Callable[[Any, str], Iterable[bytes]]] = {
    "": page, "release": release, "block": block, "stream": stream,
}  # fmt: skip
