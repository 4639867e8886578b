"""What applications written for gevent-websocket do with a WebSocket, whatever framework brings it to them.

Each is a function of the WebSocket and, where a client has to learn what the application has seen, of a visit: a name under which this
is kept in ``told``. Nothing here knows which server runs it.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from geventwebsocket import WebSocketError

ORDERS = os.environ.get("ORDERS", ":memory:")  # a file with a table of orders
Visits = dict[str, Callable[[Any, str], None]]

told: dict[str, str] = {}  # by visit, once its application has ended
sockets: set[Any] = set()  # of the chat
events: defaultdict[str, threading.Event] = defaultdict(threading.Event)


def echo(ws: Any, visit: str) -> None:
    """Give each message back."""
    while True:
        message = ws.receive()
        if message is None:
            break
        ws.send(message)


def kinds(ws: Any, visit: str) -> None:
    """Say of each message what it is to Python."""
    while not ws.closed:
        message = ws.receive()
        if message is not None:
            ws.send(type(message).__name__)


def chat(ws: Any, visit: str) -> None:
    """Give each message to everybody who is here."""
    sockets.add(ws)
    try:
        announce(f"{len(sockets)} here")
        while not ws.closed:
            message = ws.receive()
            if message is not None:
                announce(message)
    finally:
        sockets.discard(ws)
        announce(f"{len(sockets)} here")


def announce(message: str) -> None:
    """Send to everybody in the chat."""
    for each in list(sockets):
        try:
            each.send(message)
        except WebSocketError:
            sockets.discard(each)


def orders(ws: Any, visit: str) -> None:
    """Carry out each message in a database: whoever finds it locked is blocked, in C, until it is free or the timeout is over."""
    database = sqlite3.connect(ORDERS, timeout=2, isolation_level=None)
    try:
        while (message := ws.receive()) is not None:
            ws.send(f"begun: {message}")
            try:
                database.execute(message)
                ws.send(f"done: {message}")
            except sqlite3.OperationalError as error:
                ws.send(str(error))
    finally:
        database.close()


def meeting(ws: Any, visit: str) -> None:
    """``wait`` for another WebSocket's ``come``."""
    while (message := ws.receive()) is not None:
        if message == "wait":
            ws.send("waiting")
            ws.send("met" if events[visit].wait(10) else "nobody came")
        else:
            events[visit].set()


def ticker(ws: Any, visit: str) -> None:
    """Send for ever, and never receive."""
    try:
        while True:
            ws.send("tick")
            time.sleep(0.002)
    except WebSocketError:
        told[visit] = "send raised WebSocketError"


def greenlets(ws: Any, visit: str) -> None:
    """The same with gevent's own sleep, while the WebSocket is open."""
    try:
        while not ws.closed:
            ws.send("tick")
            gevent.sleep(0.002)
    except WebSocketError:
        pass
    told[visit] = "the loop ended"


def spawned(ws: Any, visit: str) -> None:
    """Echo, while a greenlet sends."""
    greenlet = gevent.spawn(ws.send, "from a greenlet")
    try:
        echo(ws, visit)
    finally:
        greenlet.kill()


def patient(ws: Any, visit: str) -> None:
    """Wait for a message for a short time only, as gevent can."""
    message = "nothing in time"
    with gevent.Timeout(0.05, False):
        message = ws.receive()
    ws.send(message)


def later(ws: Any, visit: str) -> None:
    """Send, when what is ``patient`` has lost its patience."""
    time.sleep(0.3)
    ws.send("later")


def careless(ws: Any, visit: str) -> None:
    """Echo without a look at what is echoed."""
    try:
        while True:
            ws.send(ws.receive())
    except WebSocketError:
        told[visit] = "WebSocketError ends it"
    except BaseException as error:
        told[visit] = f"{type(error).__name__} ends it, which it does not expect"
        raise


def pinging(ws: Any, visit: str) -> None:
    """Ping the client."""
    ws.send_frame("", ws.OPCODE_PING)
    echo(ws, visit)


def many(ws: Any, visit: str) -> None:
    """Send more than waits anywhere."""
    for number in range(2000):
        ws.send(f"{number} {'x' * 4096}")


def large(ws: Any, visit: str) -> None:
    """Send a large message."""
    ws.send(bytes(8 * 1024 * 1024))


def goodbye(ws: Any, visit: str) -> None:
    """Receive until the end and beyond, and send then."""
    seen = []
    ws.send("listening")
    while True:
        message = ws.receive()
        seen.append(f"received {message!r}")
        if message is None:
            break
        ws.send("heard")
    seen.append("closed" if ws.closed else "not closed")
    for name, call in {"receive": ws.receive, "send": lambda: ws.send("late")}.items():
        try:
            seen.append(f"{name} returned {call()!r}")
        except WebSocketError:
            seen.append(f"{name} raised WebSocketError")
    told[visit] = ", ".join(seen)


def deaf(ws: Any, visit: str) -> None:
    """Receive one message, and send from then on, whoever is there."""
    ws.receive()
    ticker(ws, visit)


def worker(ws: Any, visit: str) -> None:
    """Receive in this thread, and send from another."""
    work: queue.Queue[str | None] = queue.Queue()

    def run() -> None:
        while (item := work.get()) is not None:
            ws.send(f"worked on {item}")
        try:
            ws.send("late")
        except WebSocketError:
            told[visit] = "its send after the end raised WebSocketError"

    thread = threading.Thread(target=run)
    thread.start()
    while (message := ws.receive()) is not None:
        work.put(message)
    work.put(None)
    thread.join()


def survivor(ws: Any, visit: str) -> None:
    """Return at once, and leave a thread behind that sends."""
    threading.Thread(target=ticker, args=(ws, visit), daemon=True).start()


def close_plain(ws: Any, visit: str) -> None:
    """Close, and once more."""
    ws.receive()
    ws.close()
    ws.close()
    told[visit] = "closed" if ws.closed else "not closed"


def close_code(ws: Any, visit: str) -> None:
    """Close with a code."""
    ws.receive()
    ws.close(4001)


def close_reason(ws: Any, visit: str) -> None:
    """Close with a code and a reason."""
    ws.receive()
    ws.close(4001, "enough")


def raises(ws: Any, visit: str) -> None:
    """Fail in the middle."""
    ws.send("welcome")
    ws.receive()
    raise RuntimeError("secret")


def raises_at_once(ws: Any, visit: str) -> None:
    """Fail at the beginning."""
    raise RuntimeError("secret")


def nothing(ws: Any, visit: str) -> None:
    """Return at once."""


def binary(ws: Any, visit: str) -> None:
    """Send each type that is sent as binary, and a text as text."""
    ws.send(b"bytes")
    ws.send(bytearray(b"bytearray"))
    ws.send(b"binary", binary=True)
    ws.send("text")
    ws.send("text", binary=False)


HANDLERS: Visits = {
    each.__name__.replace("_", "-"): each
    for each in (
        echo, kinds, binary, large, many, chat, orders, meeting, worker, survivor, spawned, patient, later, pinging, ticker, greenlets,
        goodbye, careless, deaf, nothing, close_plain, close_code, close_reason, raises, raises_at_once,
    )
}  # fmt: skip


def chunks(visit: str) -> Iterator[bytes]:
    """A response for ever, which tells when it is closed."""
    try:
        while True:
            yield b"chunk\n"
            time.sleep(0.002)
    finally:
        told[visit] = "the response was closed"


def broken(visit: str) -> Iterator[bytes]:
    """A response that fails, once its beginning has arrived."""
    yield b"begun"
    events[visit].wait(10)
    raise RuntimeError("secret")


def arrived(visit: str) -> str:
    """Let a response fail."""
    events[visit].set()
    return "so be it"
