"""A plain ASGI 3 application, with no framework, that does by path what a test needs; what it has heard is told on ``/heard``.

A *gate* is a name on which an application waits until another request opens it: ``/open?gate=NAME``. So nothing here waits for time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

SECRET = "hunter2"  # stands in every exception that is raised here, so that a test sees where it must not stand
TEXT: Headers = [(b"content-type", b"text/plain")]

seen: list[str] = []  # "METHOD target" of each request whose body was read, and how many bytes that was, or "cut"
heard: defaultdict[str, list[Any]] = defaultdict(list)  # by the request's `id`
gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
streams: set[asyncio.Queue[int]] = set()  # of /sse

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>events</title><p id="state">connecting</p><ol id="events"></ol>
<script>
const source = new EventSource("/sse"), show = (text) => document.getElementById("state").textContent = text
source.onopen = () => show("open")
source.onerror = () => show(["connecting", "open", "closed"][source.readyState])
source.onmessage = (event) => {
  const entry = document.createElement("li")
  entry.textContent = `${event.lastEventId}: ${event.data}`
  document.getElementById("events").append(entry)
}
</script>
"""


class Exchange:
    """One request, and the answer to it."""

    def __init__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        self.id = self.query.get("id", scope["path"])

    def note(self, what: object) -> None:
        """Keep something for ``/heard``."""
        heard[self.id].append(what)

    async def gate(self) -> None:
        """Wait for the gate that the query names, if it names one."""
        if "gate" in self.query:
            await gates[self.query["gate"]].wait()

    async def body(self, each: Callable[[bytes], object]) -> bool:
        """Hand over the body piece by piece; return whether it came to its end."""
        size = 0
        while True:
            event = await self.receive()
            if event["type"] == "http.disconnect":
                self._saw("cut")
                self.note("disconnect")
                return False
            each(event.get("body", b""))
            size += len(event.get("body", b""))
            if not event.get("more_body", False):
                self._saw(str(size))
                return True
            await self.gate()

    async def start(self, headers: Headers, status: int = 200) -> None:
        """Begin the answer."""
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """Go on with it."""
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(self, body: bytes, headers: Headers = TEXT, status: int = 200) -> None:
        """Give the whole answer."""
        await self.start(headers, status)
        await self.write(body, more=False)

    async def answer_json(self, content: object) -> None:
        """Give the whole answer, as JSON."""
        await self.answer(json.dumps(content).encode(), [(b"content-type", b"application/json")])

    def _saw(self, what: str) -> None:
        target = self.scope["raw_path"].partition(b"?")[0].decode("latin-1")
        query = self.scope["query_string"].decode("latin-1")
        seen.append(f"{self.scope['method']} {target}{'?' if query else ''}{query} {what}")


async def echo(exchange: Exchange) -> None:
    """Tell what was asked."""
    body = bytearray()
    if not await exchange.body(body.extend):
        return
    scope = exchange.scope
    await exchange.answer_json(
        {
            "method": scope["method"],
            "path": scope["path"],
            "raw_path": scope["raw_path"].decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "http_version": scope["http_version"],
            "scheme": scope["scheme"],
            "root_path": scope.get("root_path", ""),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
            "body": body.decode("latin-1"),
            "state": sorted(scope.get("state", {})),
        }
    )


async def healthy(exchange: Exchange) -> None:
    """Answer, and note nothing."""
    await exchange.answer(b"healthy\n")


async def sha(exchange: Exchange) -> None:
    """Hash a body of any size; with a gate, wait for it after every piece."""
    digest, sizes = hashlib.sha256(), [0]

    def take(data: bytes) -> None:
        digest.update(data)
        sizes[0] += len(data)

    if await exchange.body(take):
        await exchange.answer_json({"sha256": digest.hexdigest(), "size": sizes[0]})


async def stream(exchange: Exchange) -> None:
    """Answer in pieces, ``chunks`` of ``size`` bytes, with ``length`` announced or not; wait for the gate before the last."""
    chunks, size = int(exchange.query.get("chunks", 3)), int(exchange.query.get("size", 5))
    length = [(b"content-length", str(chunks * size).encode())] if "length" in exchange.query else []
    await exchange.start(TEXT + length)
    for index in range(chunks):
        if index == chunks - 1:
            await exchange.gate()
        await exchange.write(b"x" * size, more=index < chunks - 1)
        heard[exchange.id] = [index + 1]


async def duplex(exchange: Exchange) -> None:
    """Answer each piece of the body as it comes, so that the client decides when the answer ends."""
    await exchange.start(TEXT)
    while True:
        event = await exchange.receive()
        if event["type"] == "http.disconnect":
            exchange.note("disconnect")
            return
        await exchange.write(event.get("body", b""), more=event.get("more_body", False))
        if not event.get("more_body", False):
            return


async def hang(exchange: Exchange) -> None:
    """Wait for the peer to go; with ``start``, after the answer has begun."""
    if "start" in exchange.query:
        await exchange.start(TEXT)
        await exchange.write(b"begun")
    exchange.note("waits")
    while (await exchange.receive())["type"] != "http.disconnect":
        pass
    exchange.note("disconnect")


async def flood(exchange: Exchange) -> None:
    """Answer with no end, until that is refused (ASGI 2.4: ``send`` raises an ``OSError`` once the peer is gone)."""
    await exchange.start(TEXT)
    try:
        while True:
            await exchange.write(bytes(65536))
    except OSError:
        exchange.note("OSError")


async def short(exchange: Exchange) -> None:
    """Say 10 bytes, give 5; with ``parts``, in two pieces."""
    await exchange.start([*TEXT, (b"content-length", b"10")])
    if "parts" in exchange.query:
        await exchange.write(b"sho")
        await exchange.write(b"rt", more=False)
    else:
        await exchange.write(b"short", more=False)


async def long(exchange: Exchange) -> None:
    """Say 5 bytes, give 10; with ``parts``, in two pieces."""
    await exchange.start([*TEXT, (b"content-length", b"5")])
    if "parts" in exchange.query:
        await exchange.write(b"12345")
        await exchange.write(b"67890", more=False)
    else:
        await exchange.write(b"1234567890", more=False)


async def raises(exchange: Exchange) -> None:
    """Raise before the answer."""
    raise RuntimeError(SECRET)


async def raises_after_start(exchange: Exchange) -> None:
    """Raise in the middle of the answer; with ``length``, of one of known length."""
    await exchange.start(TEXT + ([(b"content-length", b"100")] if "length" in exchange.query else []))
    await exchange.write(b"part")
    raise RuntimeError(SECRET)


async def nothing(exchange: Exchange) -> None:
    """Return with no answer."""


async def twice(exchange: Exchange) -> None:
    """Begin two answers."""
    await exchange.start(TEXT)
    await exchange.write(b"part")
    await exchange.start(TEXT)


async def no_body(exchange: Exchange) -> None:
    """Answer with a ``status`` that has no body; with ``body``, give one all the same."""
    await exchange.answer(b"none" if "body" in exchange.query else b"", [(b"x-kept", b"yes")], int(exchange.query["status"]))


async def head(exchange: Exchange) -> None:
    """Answer HEAD as GET, which ASGI leaves to the server to cut: in one piece, in several, or of known length."""
    shape = exchange.query.get("shape", "one")
    await exchange.start(TEXT + ([(b"content-length", b"10")] if shape == "length" else []))
    if shape != "one":
        await exchange.write(b"12345")
    await exchange.write(b"67890", more=False)


async def continues(exchange: Exchange) -> None:
    """Answer without reading the body, or with ``read`` after having read it."""
    if "read" not in exchange.query or await exchange.body(len):
        await exchange.answer(b"done\n")


async def bad_header(exchange: Exchange) -> None:
    """Give a header that would be two."""
    await exchange.answer(b"", [(b"x-bad", b"a\r\nx-forged: 1")])


async def own_headers(exchange: Exchange) -> None:
    """Give headers that are the server's matter as well: ``name`` and ``value`` of the query."""
    await exchange.answer(
        b"own\n", [(exchange.query["name"].encode(), exchange.query["value"].encode()), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    )


async def page(exchange: Exchange) -> None:
    """Give the page that shows the events of ``/sse``."""
    await exchange.answer(PAGE.encode(), [(b"content-type", b"text/html; charset=utf-8")])


async def sse(exchange: Exchange) -> None:
    """Send events, each when ``/next`` asks for it, numbered on from the last that the client has had."""
    last = dict(exchange.scope["headers"]).get(b"last-event-id", b"0").decode()
    exchange.note(last)
    number, queue = int(last), asyncio.Queue[int]()
    await exchange.start([(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")])
    await exchange.write(b"retry: 50\n\n")
    streams.add(queue)
    gone = asyncio.create_task(_until_gone(exchange))
    try:
        while True:
            asked = asyncio.create_task(queue.get())
            await asyncio.wait({gone, asked}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                asked.cancel()
                return
            number += 1
            await exchange.write(f"id: {number}\ndata: event {number}\n\n".encode())
    finally:
        streams.discard(queue)
        gone.cancel()


async def _until_gone(exchange: Exchange) -> None:
    while (await exchange.receive())["type"] != "http.disconnect":
        pass


async def next_event(exchange: Exchange) -> None:
    """Have every ``/sse`` send an event; tell how many those are."""
    for each in streams:
        each.put_nowait(1)
    await exchange.answer_json(len(streams))


async def tell(exchange: Exchange) -> None:
    """Tell what was heard and seen; with ``clear``, forget it then."""
    await exchange.answer_json({"seen": seen, **heard})
    if "clear" in exchange.query:
        seen.clear()
        heard.clear()


async def open_gate(exchange: Exchange) -> None:
    """Open a gate."""
    gates[exchange.query["gate"]].set()
    await exchange.answer(b"open\n")


ROUTES: dict[str, Callable[[Exchange], Awaitable[None]]] = {
    "/healthy": healthy,
    "/sha": sha,
    "/stream": stream,
    "/duplex": duplex,
    "/early": continues,
    "/continue": continues,
    "/hang": hang,
    "/heard": tell,
    "/open": open_gate,
    "/flood": flood,
    "/short": short,
    "/long": long,
    "/raise": raises,
    "/raise-after-start": raises_after_start,
    "/nothing": nothing,
    "/twice": twice,
    "/page": page,
    "/sse": sse,
    "/next": next_event,
    "/no-body": no_body,
    "/head": head,
    "/bad-header": bad_header,
    "/own-headers": own_headers,
}


async def _lifespan(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    while True:
        event = (await receive())["type"]
        print(f"heard {event}", flush=True)
        scope.get("state", {})["started"] = True
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def _websocket(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] != "/ws":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """The application."""
    if scope["type"] == "lifespan":
        await _lifespan(scope, receive, send)
    elif scope["type"] == "websocket":
        await _websocket(scope, receive, send)
    else:
        await ROUTES.get(scope["path"], echo)(Exchange(scope, receive, send))
