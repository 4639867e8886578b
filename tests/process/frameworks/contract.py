"""What each framework's application offers, as scenarios that a client plays: one for each feature, the same for all frameworks.

A scenario is an async function of the ``Site`` to talk to; it returns if all is as it must be. ``EXCEPTIONS`` says where a framework
cannot do it, why, and which scenario holds instead. Nothing here knows which server runs the application.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.frames import Close
from websockets.http11 import Response

DEADLINE = 10.0  # seconds, for whatever is waited for
DIRECTORY = "CONTRACT_DIRECTORY"  # the variable that tells the application where FILE is, and where to write STOPPED
FILE, STOPPED = "data.bin", "stopped"
CONTENT = random.Random(1).randbytes(300 * 1024)  # of the file
LARGE = random.Random(2).randbytes(200 * 1024)
UPLOAD = random.Random(3).randbytes(3 * 1024 * 1024)
SHUTDOWN = "lifespan: shutdown"  # the one feature that takes a server of its own
QUESTION = "Who are you?"  # the body of a denial


@dataclass(frozen=True, slots=True)
class Site:
    """Where an application is served.

    Attributes:
        address: Host and port.
        tls: Whom the client trusts; None for a connection in clear.
    """

    address: str
    tls: ssl.SSLContext | None = None

    def connect(self, path: str, **options: Any) -> websockets.connect:
        """A WebSocket connection, with options of ``websockets.connect``; to be awaited or entered."""
        scheme = "wss" if self.tls else "ws"
        return websockets.connect(f"{scheme}://{self.address}{path}", ssl=self.tls, proxy=None, open_timeout=DEADLINE, **options)

    def client(self) -> httpx.AsyncClient:
        """An HTTP client, which keeps its connections open."""
        scheme = "https" if self.tls else "http"
        verify = self.tls or False
        return httpx.AsyncClient(base_url=f"{scheme}://{self.address}", verify=verify, timeout=DEADLINE, trust_env=False)


Scenario = Callable[[Site], Coroutine[Any, Any, None]]
SCENARIOS: dict[str, Scenario] = {}


def feature(name: str) -> Callable[[Scenario], Scenario]:
    """Make a function the scenario of a feature."""

    def register(scenario: Scenario) -> Scenario:
        SCENARIOS[name] = scenario
        return scenario

    return register


async def eventually(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Ask again and again until a condition holds; fail after the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not await condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE} s"


def visit() -> str:
    """A name that no other scenario uses."""
    return uuid.uuid4().hex


# Messages


async def _echoed(site: Site, *messages: str | bytes) -> None:
    async with site.connect("/echo") as client:
        for message in messages:
            await client.send(message)
            assert await client.recv() == message


@feature("text")
async def text(site: Site) -> None:
    """A text comes back the same, whatever characters it has."""
    await _echoed(site, "hello", "Grüße, 世界 🙂", "a\0b\n")


@feature("binary")
async def binary(site: Site) -> None:
    """A binary message comes back the same, as binary."""
    await _echoed(site, b"\x00\xff\x80binary", "é".encode("latin-1"))


@feature("empty text")
async def empty_text(site: Site) -> None:
    """A text without characters is a message."""
    await _echoed(site, "", "next")


@feature("empty binary")
async def empty_binary(site: Site) -> None:
    """A binary message without bytes is a message, and binary."""
    await _echoed(site, b"", b"next")


@feature("message of 200 KiB")
async def large_message(site: Site) -> None:
    """A message that comes in many reads is one message."""
    await _echoed(site, LARGE, LARGE.hex())


@feature("pipelined messages")
async def pipelined_messages(site: Site) -> None:
    """Messages sent without waiting for an answer are answered in their order."""
    messages: list[str | bytes] = [each for number in range(100) for each in (f"text {number}", f"binary {number}".encode())]
    async with site.connect("/echo") as client:
        for message in messages:
            await client.send(message)
        assert [await client.recv() for _ in messages] == messages


# Closing


async def _hears(site: Site, name: str, **expected: object) -> None:
    """Wait until the application has told of this visit's end, and compare what it heard."""
    async with site.client() as http:
        heard: dict[str, object] = {}

        async def told() -> bool:
            heard.update((await http.get(f"/closes/{name}")).json())
            return bool(heard)

        await eventually(told, "the application hears of the close")
    assert {key: heard[key] for key in expected} == expected


async def _closed_by_client(site: Site, **expected: object) -> None:
    name = visit()
    async with site.connect(f"/listen/{name}") as client:
        assert await client.recv() == "listening"
        await client.close(4001, "bye")
    await _hears(site, name, **expected)


@feature("client closes: code and reason")
async def closed_by_client(site: Site) -> None:
    """The application hears the code and the reason with which the client closes."""
    await _closed_by_client(site, code=4001, reason="bye")


async def _close(client: ClientConnection) -> Close:
    """The close frame that comes next."""
    with pytest.raises(websockets.ConnectionClosed) as closed:
        await asyncio.wait_for(client.recv(), DEADLINE)
    assert closed.value.rcvd is not None, "the connection was cut"
    return closed.value.rcvd


async def _closed_by_application(site: Site, path: str) -> Close:
    async with site.connect(path) as client:
        assert await client.recv() == "welcome"
        await client.send("go on")
        return await _close(client)


@feature("application closes: code and reason")
async def closed_by_application(site: Site) -> None:
    """The client hears the code and the reason with which the application closes."""
    assert await _closed_by_application(site, "/enough") == Close(4002, "enough")


async def _cut(site: Site, **expected: object) -> None:
    name = visit()
    async with site.connect(f"/listen/{name}") as client:
        assert await client.recv() == "listening"
        client.transport.abort()
    await _hears(site, name, **expected)


@feature("connection cut: 1006")
async def cut(site: Site) -> None:
    """A connection that ends without a close frame is told to the application with code 1006."""
    await _cut(site, code=1006)


# The handshake


@feature("subprotocol")
async def subprotocol(site: Site) -> None:
    """The application picks one of the subprotocols that the client offers, not the first."""
    offered = [websockets.Subprotocol("chat.v1"), websockets.Subprotocol("chat.v2")]
    async with site.connect("/chat", subprotocols=offered) as client:
        assert client.subprotocol == "chat.v2"
        assert json.loads(await client.recv()) == ["chat.v1", "chat.v2"]


async def _handshake(site: Site) -> tuple[dict[str, Any], ClientConnection]:
    path = "/rooms/caf%C3%A9%20%F0%9F%99%82?greeting=gr%C3%BC%C3%9F+dich&tag=1&tag=2&empty="
    headers = [("X-Tag", "one"), ("Cookie", 'a=1; b="two"'), ("X-Tag", "two")]
    async with site.connect(path, additional_headers=headers) as client:
        seen: dict[str, Any] = json.loads(await client.recv())
        return seen, client


@feature("path and query")
async def path_and_query(site: Site) -> None:
    """The application sees the path's parameter and the query decoded, repeated and empty values included."""
    seen, _ = await _handshake(site)
    assert seen["room"] == "café 🙂"
    assert sorted(seen["query"]) == [["empty", ""], ["greeting", "grüß dich"], ["tag", "1"], ["tag", "2"]]


@feature("request headers and cookies")
async def request_headers(site: Site) -> None:
    """The application sees a header that comes twice, twice, in order, and the cookies."""
    seen, _ = await _handshake(site)
    assert seen["tags"] == ["one", "two"]
    assert seen["cookies"] == {"a": "1", "b": "two"}


@feature("response headers on accept")
async def accept_headers(site: Site) -> None:
    """The client sees the headers with which the application accepts, two cookies among them."""
    _, client = await _handshake(site)
    assert client.response is not None
    assert client.response.headers["X-Room"] == "7"
    assert client.response.headers.get_all("Set-Cookie") == ["seen=1", "theme=dark"]


async def _refused(site: Site, path: str, status: int) -> Response:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await site.connect(path)
    assert refused.value.response.status_code == status
    return refused.value.response


@feature("refusal: 403")
async def refused(site: Site) -> None:
    """A close before the accept is answered with 403."""
    await _refused(site, "/refused", 403)


@feature("denial response")
async def denied(site: Site) -> None:
    """The application answers the handshake with a response of its own."""
    response = await _refused(site, "/denied", 401)
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert QUESTION in response.body.decode()


@feature("exception before accept: 500")
async def raised_before_accept(site: Site) -> None:
    """An application that fails before it accepts is answered for with 500, and others are served."""
    await _refused(site, "/raises", 500)
    await _echoed(site, "still there")


@feature("exception after accept: 1011")
async def raised_after_accept(site: Site) -> None:
    """An application that fails later is answered for with a close frame of 1011, and others are served."""
    assert (await _closed_by_application(site, "/breaks")).code == 1011
    await _echoed(site, "still there")


# HTTP


@feature("HTTP: JSON, path and query")
async def http_get(site: Site) -> None:
    """A request's path and query are decoded, and its answer is JSON."""
    async with site.client() as http:
        response = await http.get("/items/caf%C3%A9%20%F0%9F%99%82?tag=1&tag=%C3%BC")
    assert response.status_code == 200
    assert response.headers["Content-Type"].split(";")[0] == "application/json"
    assert response.json() == {"name": "café 🙂", "tags": ["1", "ü"]}


@feature("HTTP: JSON body")
async def http_post(site: Site) -> None:
    """A body is received whole; several requests share a connection."""
    async with site.client() as http:
        for number in range(3):
            item = {"name": "å" * 40_000, "number": number}
            response = await http.post("/items", json=item)
            assert (response.status_code, response.json()) == (201, item)


@feature("HTTP: HEAD")
async def http_head(site: Site) -> None:
    """HEAD has the header of GET and no body: what follows on the connection is the next response."""
    async with site.client() as http:
        head, get = await http.head("/items/x"), await http.get("/items/x")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert get.json() == {"name": "x", "tags": []}


@feature("HTTP: cookies")
async def http_cookies(site: Site) -> None:
    """The application sees the cookies; two that it sets are two fields."""
    async with site.client() as http:
        response = await http.get("/cookies", headers={"Cookie": "a=1; b=2"})
    assert response.json() == {"a": "1", "b": "2"}
    fields = response.headers.get_list("Set-Cookie")
    assert [each.partition(";")[0] for each in fields] == ["seen=1", "theme=dark"]


@feature("HTTP: 404")
async def http_not_found(site: Site) -> None:
    """A path that the application has not is answered by the application with 404."""
    async with site.client() as http:
        assert (await http.get("/nowhere")).status_code == 404


@feature("HTTP: exception: 500")
async def http_failing(site: Site) -> None:
    """An application that fails is answered for with 500, without its inside, and the next request is served."""
    async with site.client() as http:
        response = await http.get("/failing")
        assert response.status_code == 500
        assert "secret" not in response.text
        assert (await http.get("/items/x")).status_code == 200


@feature("HTTP: streamed request body")
async def http_upload(site: Site) -> None:
    """The application hears the beginning of a body before the client has sent the rest of it, and in the end the whole."""
    name, first = visit(), 64 * 1024
    async with site.client() as http:

        async def arrived() -> bool:
            progress: int = (await http.get(f"/uploads/{name}")).json()["received"]
            return progress == first

        async def body() -> AsyncIterator[bytes]:
            yield UPLOAD[:first]
            await eventually(arrived, "the beginning of the body arrives")
            for start in range(first, len(UPLOAD), 100_000):
                yield UPLOAD[start : start + 100_000]

        response = await http.post(f"/uploads/{name}", content=body())
    assert response.json() == {"sha256": hashlib.sha256(UPLOAD).hexdigest(), "size": len(UPLOAD)}


@feature("HTTP: streamed response")
async def http_download(site: Site) -> None:
    """A response of unknown length comes whole and in order, and the connection serves the next request."""
    async with site.client() as http:
        response = await http.get("/numbers?count=20000")
        assert "Content-Length" not in response.headers
        assert response.text.split() == [str(each) for each in range(20_000)]
        assert (await http.get("/items/x")).status_code == 200


@feature("HTTP: file")
async def http_file(site: Site) -> None:
    """A file comes whole, with its length; HEAD tells the length."""
    async with site.client() as http:
        head, get = await http.head(f"/files/{FILE}"), await http.get(f"/files/{FILE}")
    assert get.content == CONTENT
    assert head.status_code == get.status_code == 200
    assert head.headers["Content-Length"] == get.headers["Content-Length"] == str(len(CONTENT))
    assert head.headers["ETag"] == get.headers["ETag"]


@feature("HTTP: range of a file")
async def http_range(site: Site) -> None:
    """The part of a file that is asked for comes alone."""
    async with site.client() as http:
        response = await http.get(f"/files/{FILE}", headers={"Range": "bytes=1000-200999"})
    assert response.status_code == 206
    assert response.headers["Content-Range"] == f"bytes 1000-200999/{len(CONTENT)}"
    assert response.content == CONTENT[1000:201_000]


@feature("HTTP: background task")
async def http_background(site: Site) -> None:
    """The response is complete, and the connection serves on, while the task that the request began still runs."""
    name = visit()
    async with site.client() as http:

        async def state(expected: str) -> bool:
            return bool((await http.get(f"/tasks/{name}")).json()["state"] == expected)

        assert (await http.post(f"/tasks/{name}")).status_code == 202
        await eventually(lambda: state("waiting"), "the task begins")
        assert (await http.put(f"/tasks/{name}")).status_code == 200
        await eventually(lambda: state("done"), "the task ends")


# Server-Sent Events


async def _event(lines: AsyncIterator[str]) -> dict[str, str]:
    """The next event: its fields."""
    fields: dict[str, str] = {}
    async for line in lines:
        if not line and fields:
            return fields
        if line and not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
    raise AssertionError("the response ended")


@feature("Server-Sent Events")
async def server_sent_events(site: Site) -> None:
    """Each event arrives while the response is open, before the next one is there."""
    name = visit()
    async with site.client() as http, http.stream("GET", f"/events/{name}") as response:
        assert response.headers["Content-Type"].split(";")[0] == "text/event-stream"
        lines = response.aiter_lines()
        assert (await _event(lines))["data"] == "welcome"
        for number in range(3):
            await http.post(f"/events/{name}", json={"data": f"event {number}"})
            assert await _event(lines) == {"event": "news", "data": f"event {number}"}


async def _client_leaves(site: Site, *, then_send: bool) -> None:
    name = visit()
    async with site.client() as http:
        async with http.stream("GET", f"/events/{name}") as response:
            assert (await _event(response.aiter_lines()))["data"] == "welcome"

        async def ended() -> bool:
            if then_send:
                await http.post(f"/events/{name}", json={"data": "anybody?"})
            return bool((await http.get(f"/ended/{name}")).json()["ended"])

        await eventually(ended, "the stream ends")


@feature("Server-Sent Events: the client leaves")
async def client_leaves(site: Site) -> None:
    """A stream whose client has gone is ended, at the latest by an event that is sent into it."""
    await _client_leaves(site, then_send=True)


@feature("Server-Sent Events: the client leaves, quietly")
async def client_leaves_quietly(site: Site) -> None:
    """A stream whose client has gone is ended, though no event is sent into it."""
    await _client_leaves(site, then_send=False)


# Lifespan


@feature("lifespan: startup and state")
async def startup(site: Site) -> None:
    """What the application made at its start is there for requests and for WebSockets."""
    async with site.client() as http:
        assert (await http.get("/state")).json() == {"greeting": "made at the start"}
    async with site.connect("/state") as client:
        assert await client.recv() == "made at the start"


FEATURES = (*SCENARIOS, SHUTDOWN)  # in the order of the table


# What a framework cannot do, or does otherwise


@dataclass(frozen=True, slots=True)
class Exceptional:
    """A framework's own way with a feature.

    Attributes:
        reason: Why it is not as with the others.
        scenario: What holds instead.
    """

    reason: str
    scenario: Scenario


async def _cut_tells_nothing(site: Site) -> None:
    await _cut(site, code=None)


async def _close_tells_nothing(site: Site) -> None:
    await _closed_by_client(site, code=None, reason=None)


async def _close_tells_the_code(site: Site) -> None:
    await _closed_by_client(site, code=4001, reason=None)


async def _empty_binary_ends_it(site: Site) -> None:
    async with site.connect("/echo") as client:
        await client.send(b"")
        assert (await _close(client)).code == 1011


async def _denied_403(site: Site) -> None:
    await _refused(site, "/denied", 403)


async def _raised_403(site: Site) -> None:
    await _refused(site, "/raises", 403)


async def _raised_1000(site: Site) -> None:
    assert await _closed_by_application(site, "/breaks") == Close(1000, "")


async def _raised_4500(site: Site) -> None:
    assert await _closed_by_application(site, "/breaks") == Close(4500, "Internal Server Error")


async def _range_is_ignored(site: Site) -> None:
    async with site.client() as http:
        response = await http.get(f"/files/{FILE}", headers={"Range": "bytes=1000-200999"})
    assert (response.status_code, response.content) == (200, CONTENT)


EXCEPTIONS: dict[tuple[str, str], Exceptional] = {
    ("quart", "client closes: code and reason"): Exceptional(
        "Quart cancels the handler, and passes neither code nor reason on", _close_tells_nothing
    ),
    ("quart", "connection cut: 1006"): Exceptional("Quart cancels the handler, and passes no code on", _cut_tells_nothing),
    ("quart", "empty binary"): Exceptional("Quart takes no bytes for no message, and fails: 1011", _empty_binary_ends_it),
    ("quart", "exception after accept: 1011"): Exceptional("Quart handles the exception, and closes with 1000", _raised_1000),
    ("litestar", "client closes: code and reason"): Exceptional("Litestar's WebSocketDisconnect has the code only", _close_tells_the_code),
    ("litestar", "denial response"): Exceptional("Litestar closes, which is answered with 403", _denied_403),
    ("litestar", "exception before accept: 500"): Exceptional("Litestar closes, which is answered with 403", _raised_403),
    ("litestar", "exception after accept: 1011"): Exceptional("Litestar handles the exception, and closes with 4500", _raised_4500),
    ("litestar", "HTTP: range of a file"): Exceptional("Litestar's File ignores Range and sends the whole", _range_is_ignored),
}


def scenario(framework: str, name: str) -> tuple[Scenario, str]:
    """Return the scenario that holds for a feature in a framework, and the reason where it is an exception."""
    exceptional = EXCEPTIONS.get((framework, name))
    return (exceptional.scenario, exceptional.reason) if exceptional else (SCENARIOS[name], "")
