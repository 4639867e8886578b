"""Socket.IO (python-socketio) on a real server, with Python's and Node's client, over long polling, WebSocket, and the upgrade between."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import websockets

from tests.process.clients.socket_io import CLIENTS, DEADLINE, Client
from tests.support.proxies import free_port
from tests.support.server import ROOT, Server

TRANSPORTS = {"polling": ("polling",), "websocket": ("websocket",), "upgrade": ("polling", "websocket")}
ATTACHMENT = os.urandom(300 * 1024)
OTHER = "https://front.example"

Record = Callable[[str, object], None]


class Visitors:
    """Clients of one kind, on one server, which end with the block that is entered.

    Args:
        kind: The name of the client.
        transports: What each of them may use.
    """

    def __init__(self, kind: str, transports: Sequence[str]) -> None:
        self.transports = transports
        self._kind, self._stack = kind, AsyncExitStack()

    def play(self, scenario: Callable[[], Awaitable[None]]) -> None:
        """Run a scenario, and end its clients."""

        async def run() -> None:
            async with self._stack:
                await scenario()

        asyncio.run(run())

    async def begin(self, server: Server, name: str, namespaces: Sequence[str] = ("/",)) -> Client:
        """Return a client that has begun to connect."""
        client: Client = await self._stack.enter_async_context(CLIENTS[self._kind]())
        await client.connect(f"http://127.0.0.1:{server.port}", self.transports, namespaces, {"name": name})
        return client

    async def come(self, server: Server, name: str, namespaces: Sequence[str] = ("/",)) -> Client:
        """Return a client that is connected."""
        client = await self.begin(server, name, namespaces)
        for namespace in namespaces:
            await client.inbox.take("connect", namespace)
        return client


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The test's application."""
    with Server("socketio_app:app") as running:
        yield running


@pytest.fixture(params=list(TRANSPORTS))
def transports(request: pytest.FixtureRequest) -> Sequence[str]:
    """What a client may use."""
    return TRANSPORTS[request.param]


@pytest.fixture(params=list(CLIENTS))
def visitors(request: pytest.FixtureRequest, transports: Sequence[str], record_property: Record) -> Visitors:
    """Whoever comes."""
    framework(record_property)
    return Visitors(request.param, transports)


def framework(record: Record) -> None:
    """Record for which column of the table a test counts."""
    record("framework", "socketio")
    record("distributions", "python-socketio python-engineio")


def fresh(name: str) -> str:
    """Return a name that no other test uses."""
    return f"{name}-{uuid.uuid4().hex}"


async def eventually(question: Callable[[], Awaitable[Any]], *answers: Any) -> None:
    """Ask again and again until the answer is one of those expected."""
    deadline = time.monotonic() + DEADLINE
    while (given := await question()) not in answers:
        assert time.monotonic() < deadline, f"{given!r} is still the answer, not one of {answers}"


def test_connect(server: Server, visitors: Visitors, record_property: Record) -> None:
    """The server sees what the client authenticates itself with, greets it, and both come to the transport that was asked for."""
    record_property("feature", "Socket.IO: auth, and upgrade from polling to WebSocket")

    async def scenario() -> None:
        client = await visitors.come(server, "ann")
        assert await client.inbox.take("welcome") == ["ann"]
        await eventually(lambda: client.call("transport"), visitors.transports[-1])

    visitors.play(scenario)


def test_refused(server: Server, visitors: Visitors, record_property: Record) -> None:
    """Whom the application refuses is told so, with its words."""
    record_property("feature", "Socket.IO: refusal")

    async def scenario() -> None:
        client = await visitors.begin(server, "mallory")
        assert await client.inbox.take("connect_error") == ["not you"]
        assert client.inbox.is_empty("connect")

    visitors.play(scenario)


def test_acknowledgements(server: Server, visitors: Visitors, record_property: Record) -> None:
    """Events are acknowledged both ways, with one value, several, or none; ten at once each get their own."""
    record_property("feature", "Socket.IO: acknowledgements both ways")

    async def scenario() -> None:
        client = await visitors.come(server, "ann")
        assert await client.call("echo", "grüß dich 🙂") == "grüß dich 🙂"
        assert await client.call("echo", 1, {"two": [2, None]}) == (1, {"two": [2, None]})
        assert await client.call("ask_me", {"how": "are you"}) == {"answer": {"how": "are you"}}
        assert await client.inbox.take("question") == [{"how": "are you"}]
        # Ten, as python-engineio takes 16 packets in a request, and no more.
        assert await asyncio.gather(*(client.call("echo", number) for number in range(10))) == list(range(10))

    visitors.play(scenario)


def test_attachments(server: Server, visitors: Visitors, record_property: Record) -> None:
    """Bytes within an event come back as bytes, both as an acknowledgement and as an answer to a question; 300 KiB, and none."""
    record_property("feature", "Socket.IO: binary attachments")

    async def scenario() -> None:
        client = await visitors.come(server, "ann")
        data = {"file": ATTACHMENT, "also": [b"", b"\x00\xff"], "name": "a"}
        assert await client.call("echo", data) == data
        assert await client.call("ask_me", data) == {"answer": data}

    visitors.play(scenario)


def test_rooms(server: Server, visitors: Visitors, record_property: Record) -> None:
    """What is said in a room comes to everybody in it, in order, once, and to nobody else; also to those who come over other transports."""
    record_property("feature", "Socket.IO: rooms")
    room = fresh("room")

    async def scenario() -> None:
        ann, bob, eve = [await visitors.come(server, name) for name in ("ann", "bob", "eve")]
        for each in (ann, bob):
            await each.call("join", room)
        for number in range(10):
            await ann.call("say", room, [number, b"\xff"])
        for each in (ann, bob):
            assert [await each.inbox.take("said") for _ in range(10)] == [[[number, b"\xff"]] for number in range(10)]
        await bob.call("leave", room)
        await ann.call("say", room, "alone")
        assert await ann.inbox.take("said") == ["alone"]
        assert [await each.call("echo", "heard") for each in (bob, eve)] == ["heard", "heard"]
        assert [each.inbox.is_empty("said") for each in (ann, bob, eve)] == [True] * 3

    visitors.play(scenario)


def test_namespaces(server: Server, visitors: Visitors, record_property: Record) -> None:
    """Two namespaces over one connection are two, each with its own events; one that the server has not is refused."""
    record_property("feature", "Socket.IO: namespaces")

    async def scenario() -> None:
        client = await visitors.come(server, "ann", ["/", "/news"])
        assert [await client.inbox.take("welcome", each) for each in ("/", "/news")] == [["ann"], ["news"]]
        assert await client.call("echo", 1) == 1
        assert await client.call("echo", 1, namespace="/news") == ["news", 1]
        other = await visitors.begin(server, "bob", ["/nowhere"])
        await other.inbox.take("connect_error", "/nowhere")

    visitors.play(scenario)


def test_client_leaves(server: Server, visitors: Visitors, record_property: Record) -> None:
    """The server hears at once that a client has gone, as does the client itself."""
    record_property("feature", "Socket.IO: disconnect by the client")
    name = fresh("ann")

    async def scenario() -> None:
        ann, bob = await visitors.come(server, name), await visitors.come(server, "bob")
        await ann.call("echo")
        await ann.leave()
        # Python's closes its WebSocket before it has sent the goodbye that it has written.
        await eventually(lambda: bob.call("ending", name), "client disconnect", "transport close")
        await ann.inbox.take("disconnect")

    visitors.play(scenario)


def test_server_sends_off(server: Server, visitors: Visitors, record_property: Record) -> None:
    """A client that the server disconnects hears so, and the server as well."""
    record_property("feature", "Socket.IO: disconnect by the server")
    name = fresh("ann")

    async def scenario() -> None:
        ann, bob = await visitors.come(server, name), await visitors.come(server, "bob")
        going = asyncio.ensure_future(ann.call("send_me_off"))  # which nobody may be there to have acknowledged
        await ann.inbox.take("disconnect")
        await eventually(lambda: bob.call("ending", name), "server disconnect")
        going.cancel()

    visitors.play(scenario)


def test_failing(server: Server, visitors: Visitors, record_property: Record) -> None:
    """An event's handler that raises is logged, and its client goes on, as does everybody else."""
    record_property("feature", "Socket.IO: exception in a handler")

    async def scenario() -> None:
        client = await visitors.come(server, "ann")
        failing = asyncio.ensure_future(client.call("fail"))
        assert await client.call("echo", "still here") == "still here"
        failing.cancel()

    visitors.play(scenario)
    server.wait_for_line("RuntimeError: at an event")


def test_restart(visitors: Visitors, record_property: Record) -> None:
    """Clients of a server that is stopped come back to the next one; the first ends in good time, with status 0."""
    record_property("feature", "Socket.IO: reconnect after a restart")
    line = (f"--port={free_port()}", "--drain-seconds=0", "--graceful-timeout=2", "socketio_app:app")

    async def scenario() -> None:
        with Server(*line) as first:
            clients = [await visitors.come(first, f"visitor {number}") for number in range(3)]
            for each in clients:
                await eventually(lambda each=each: each.call("transport"), visitors.transports[-1])  # type: ignore[misc]
            assert await asyncio.to_thread(first.stop) == 0
        for each in clients:
            await each.inbox.take("disconnect")
        with Server(*line):
            for each in clients:
                await each.inbox.take("connect")
                assert await each.call("echo", "again") == "again"
                await each.leave()

    visitors.play(scenario)


# Requests without a client


@pytest.fixture
def http(server: Server, record_property: Record) -> Iterator[httpx.Client]:
    """An HTTP client on the test's application."""
    framework(record_property)
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, timeout=DEADLINE) as client:
        yield client


def test_beside(http: httpx.Client, record_property: Record) -> None:
    """What is not Socket.IO's goes to the application beside."""
    record_property("feature", "Socket.IO: an application beside")
    assert http.get("/anything").text == "beside"


def test_polling_of_bytes(http: httpx.Client, record_property: Record) -> None:
    """Long polling is plain HTTP: a session is opened, posted to and asked, on one connection; a wrong one is answered with 400."""
    record_property("feature", "Socket.IO: long polling")
    opened = http.get("/socket.io/", params={"EIO": "4", "transport": "polling"})
    assert (opened.status_code, opened.text[0]) == (200, "0")
    session = {"EIO": "4", "transport": "polling", "sid": opened.text.partition('"sid":"')[2].partition('"')[0]}
    assert http.post("/socket.io/", params=session, content="40").text == "OK"
    assert http.get("/socket.io/", params=session).text.startswith('42["welcome","nobody"]\x1e40{')
    assert http.post("/socket.io/", params=session, content='420["echo","ä"]').text == "OK"
    assert http.get("/socket.io/", params=session).text == '430["\\u00e4"]'
    assert http.get("/socket.io/", params={**session, "sid": "wrong"}).status_code == 400


def test_origin(server: Server, http: httpx.Client, record_property: Record) -> None:
    """A page of the same origin gets in by polling and by WebSocket, a page of another by neither."""
    record_property("feature", "Socket.IO: foreign origins refused")
    own = f"http://127.0.0.1:{server.port}"
    assert [polling_of(http, each) for each in (own, OTHER)] == [(200, own), (400, None)]
    assert [asyncio.run(socket_of(server, each)) for each in (own, OTHER)] == [101, 403]


def test_origin_allowed(record_property: Record) -> None:
    """A page of an origin that both the server and the application let in gets in, its preflight request too."""
    framework(record_property)
    record_property("feature", "Socket.IO: CORS")
    with Server("--origin", OTHER, "socketio_app:app", environment={"CORS": OTHER}) as server:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as http:
            headers = {"Origin": OTHER, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
            preflight = http.options("/socket.io/", params={"EIO": "4", "transport": "polling"}, headers=headers)
            assert preflight.status_code == 200
            assert preflight.headers["Access-Control-Allow-Methods"] == "OPTIONS, GET, POST"
            assert preflight.headers["Access-Control-Allow-Headers"] == "content-type"
            assert polling_of(http, OTHER) == (200, OTHER)
        assert asyncio.run(socket_of(server, OTHER)) == 101


def polling_of(http: httpx.Client, origin: str) -> tuple[int, str | None]:
    """Begin to poll from a page, and return the status, and the origin that is allowed."""
    response = http.get("/socket.io/", params={"EIO": "4", "transport": "polling"}, headers={"Origin": origin})
    return response.status_code, response.headers.get("Access-Control-Allow-Origin")


async def socket_of(server: Server, origin: str) -> int:
    """Open a WebSocket from a page, and return the status."""
    address = f"{server.url}/socket.io/?EIO=4&transport=websocket"
    try:
        async with websockets.connect(address, origin=websockets.Origin(origin), proxy=None) as client:
            assert str(await client.recv()).startswith('0{"sid":')
            return 101
    except websockets.InvalidStatus as refused:
        return refused.response.status_code


# The example


@pytest.fixture(scope="module")
def example() -> Iterator[Server]:
    """The example, run as it says."""
    with Server("--app-dir", str(ROOT / "examples"), "socketio_chat:app") as running:
        yield running


def test_example(example: Server) -> None:
    """Two people talk in a room; who says nothing is told, who has no name is refused, and a departure is told with its reason."""

    async def come(client: Client, auth: dict[str, str]) -> None:
        await client.connect(f"http://127.0.0.1:{example.port}", ("websocket",), auth=auth)

    async def scenario() -> None:
        kind = CLIENTS["python-socketio"]
        async with kind() as ann, kind() as bob, kind() as nobody:
            await come(ann, {"name": "ann", "room": "lobby"})
            assert await ann.inbox.take("line") == ["* ann has come"]
            await come(bob, {"name": "bob", "room": "lobby"})
            assert [await each.inbox.take("line") for each in (ann, bob)] == [["* bob has come"]] * 2
            await bob.inbox.take("connect")
            assert [await bob.call("say", each) for each in ("grüß dich", "")] == [True, False]
            assert [await each.inbox.take("line") for each in (ann, bob)] == [["bob: grüß dich"]] * 2
            await come(nobody, {"room": "lobby"})
            assert await nobody.inbox.take("connect_error") == ["a name and a room are wanted"]
            await bob.leave()
            assert await ann.inbox.take("line") == ["* bob has gone (transport close)"]

    asyncio.run(scenario())


def test_example_page(example: Server) -> None:
    """Its page is served beside."""
    response = httpx.get(f"http://127.0.0.1:{example.port}/", trust_env=False)
    assert response.headers["Content-Type"] == "text/html"
    assert response.text == (ROOT / "examples" / "socketio_chat.html").read_text(encoding="utf-8")
