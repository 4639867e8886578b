"""Django Channels on a real server, over each of its channel layers: what its consumers and Django's views rely on."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.sync.client import ClientConnection as Client
from websockets.sync.client import connect

from tests.support.redis import Redis
from tests.support.server import ROOT, Server, wait_until

PROJECT = ROOT / "tests" / "process"
COLUMNS = {
    "memory": ("channels (memory)", "channels django"),
    "redis": ("channels (Redis)", "channels channels_redis redis django"),
    "redis pub/sub": ("channels (Redis pub/sub)", "channels channels_redis redis django"),
}
CROWD = 200
DEADLINE = 10.0

Record = Callable[[str, object], None]


class Site:
    """The test project on a server; use it as a context manager.

    Attributes:
        server: The server.
        http: A client that keeps its connections and its cookies.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, timeout=DEADLINE)

    def __enter__(self) -> Site:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.http.close()

    def connect(self, path: str, **options: Any) -> Client:
        """Return a connection, to be entered."""
        client: Client = connect(f"{self.server.url}{path}", proxy=None, open_timeout=DEADLINE, **options)
        return client

    def refusal(self, path: str, **options: Any) -> int:
        """Return the status with which a handshake is refused."""
        with pytest.raises(websockets.InvalidStatus) as caught:
            self.connect(path, **options)
        return caught.value.response.status_code

    def ended(self, visit: str, count: int = 1) -> list[int | str]:
        """Wait until a visit has ended, and return what was noted of it, so many things."""

        def notes() -> list[int | str] | None:
            told: list[int | str] = self.http.get(f"/ended/{visit}/").json()
            return told if len(told) >= count else None

        return wait_until(notes, DEADLINE, "the application's note")


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    """A Redis for all tests that want one."""
    with Redis() as server:
        yield server


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users and sessions."""
    path = tmp_path_factory.mktemp("channels") / "database"
    variables = {"DATABASE": str(path), "DJANGO_SETTINGS_MODULE": "channels_project.settings", "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-m", "django", "migrate", "--verbosity=0"], env={**os.environ, **variables}, check=True)
    return path


@pytest.fixture(scope="module", params=list(COLUMNS))
def layer(request: pytest.FixtureRequest, database: Path) -> dict[str, str]:
    """The variables of the environment for one of the channel layers."""
    name: str = request.param
    variables = {"DATABASE": str(database), "LAYER": name}
    if name != "memory":
        variables["REDIS_URL"] = request.getfixturevalue("redis").url
    return variables


def project(layer: dict[str, str], *options: str) -> Server:
    """Return a server of the test project, not started yet."""
    return Server("--app-dir", str(PROJECT), *options, "channels_project.asgi:application", environment=layer)


@pytest.fixture(scope="module")
def served(layer: dict[str, str]) -> Iterator[Site]:
    """The test project, served for all tests of a layer."""
    with project(layer) as server, Site(server) as site:
        yield site


@pytest.fixture
def column(layer: dict[str, str], record_property: Record) -> Record:
    """Record for which column of the table a test counts, and return what records the row."""
    name, distributions = COLUMNS[layer["LAYER"]]
    record_property("framework", name)
    record_property("distributions", distributions)
    return record_property


@pytest.fixture
def site(served: Site, column: Record) -> Iterator[Site]:
    """The test project; the server must still be well after the test."""
    served.http.cookies.clear()
    yield served
    with served.connect("/echo/after/") as client:
        client.send("still there")
        assert client.recv(DEADLINE) == "still there"


@pytest.fixture
def visit() -> str:
    """A name that no other test uses."""
    return uuid.uuid4().hex


# Messages


@pytest.mark.parametrize("consumer", ["echo", "sync/echo"])
def test_text(site: Site, column: Record, consumer: str, visit: str) -> None:
    """Texts come back the same and in order, from an async and from a sync consumer, also one of 200 KiB."""
    column("feature", "text")
    texts = ["hello", "Grüße, 世界 🙂", "x" * 200 * 1024, "last"]
    with site.connect(f"/{consumer}/{visit}/") as client:
        for text in texts:
            client.send(text)
        assert [client.recv(DEADLINE) for _ in texts] == texts


@pytest.mark.parametrize("consumer", ["echo", "sync/echo"])
def test_binary(site: Site, column: Record, consumer: str, visit: str) -> None:
    """Binary messages come back as binary, the empty one too."""
    column("feature", "binary")
    messages = [b"\x00\xff\x80", b"", os.urandom(200 * 1024)]
    with site.connect(f"/{consumer}/{visit}/") as client:
        for message in messages:
            client.send(message)
        assert [client.recv(DEADLINE) for _ in messages] == messages


@pytest.mark.parametrize("consumer", ["echo", "sync/echo"])
def test_empty_text(site: Site, column: Record, consumer: str, visit: str) -> None:
    """A text without characters is a text, and not taken for something binary."""
    column("feature", "empty text")
    with site.connect(f"/{consumer}/{visit}/") as client:
        client.send("")
        assert client.recv(DEADLINE) == ""


def test_json(site: Site, column: Record) -> None:
    """A JSON consumer takes and sends JSON; what is none raises in it, and the client is closed with 1011."""
    column("feature", "JSON consumer")
    with site.connect("/json/") as client:
        client.send("[1, 2, 39]")
        assert json.loads(client.recv(DEADLINE)) == {"sum": 42}
        client.send("[1,")
        assert closing(client) == (1011, "")


def test_slow_reader(site: Site, column: Record) -> None:
    """A consumer that sends 32 MB at once to a reader who is slow to begin waits for it, and loses nothing."""
    column("feature", "slow reader")
    with site.connect("/pouring/", max_queue=1) as client:
        for number in range(1000):
            message = client.recv(DEADLINE)
            assert isinstance(message, bytes)
            assert (len(message), int.from_bytes(message[:4], "big")) == (32 * 1024 + 4, number)


# Groups


@pytest.mark.parametrize("consumers", [("group", "group"), ("sync/group", "sync/group"), ("group", "sync/group")])
def test_group(site: Site, column: Record, consumers: tuple[str, str], visit: str) -> None:
    """What one client says to a group, in text or binary, comes to both."""
    column("feature", "group")
    with site.connect(f"/{consumers[0]}/{visit}/") as ann, site.connect(f"/{consumers[1]}/{visit}/") as bob:
        assert [each.recv(DEADLINE) for each in (ann, bob)] == ["joined", "joined"]
        for message in ("hi", b"\x00\xff"):
            ann.send(message)
            assert [each.recv(DEADLINE) for each in (ann, bob)] == [message, message]


def test_crowd(site: Site, column: Record, visit: str) -> None:
    """What is said to a group of 200 clients comes to each of them once."""
    column("feature", "group of 200: exactly once each")
    asyncio.run(crowd([f"{site.server.url}/group/{visit}/"] * CROWD))


def test_two_processes(layer: dict[str, str], site: Site, column: Record, visit: str) -> None:
    """What is said to a group on one server comes to its members on another too, to each once."""
    column("feature", "group over two server processes")
    with project(layer) as second, Site(second) as other:
        if layer["LAYER"] == "memory":
            column("note", "it is in the memory of one process: each process has its own group")
            with site.connect(f"/group/{visit}/") as ann, other.connect(f"/group/{visit}/") as bob:
                assert [each.recv(DEADLINE) for each in (ann, bob)] == ["joined", "joined"]
                ann.send("here")
                bob.send("there")
                assert [each.recv(DEADLINE) for each in (ann, bob)] == ["here", "there"]
        else:
            asyncio.run(crowd([f"{each.url}/group/{visit}/" for each in (site.server, second) for _ in range(CROWD // 2)]))


async def crowd(addresses: list[str]) -> None:
    """Join a group with a client for each address, have the first and the last speak, and see that each hears them once."""
    clients = await asyncio.gather(*(websockets.connect(each, proxy=None, open_timeout=30) for each in addresses))

    async def hear(client: ClientConnection, count: int) -> list[str | bytes]:
        return [await asyncio.wait_for(client.recv(), 30) for _ in range(count)]

    assert await asyncio.gather(*(hear(each, 1) for each in clients)) == [["joined"]] * len(clients)
    for speaker, text in ((clients[0], "first"), (clients[-1], "last")):
        await speaker.send(text)
        assert await asyncio.gather(*(hear(each, 1) for each in clients)) == [[text]] * len(clients)
    await asyncio.gather(*(each.close() for each in clients))
    for each in clients:
        assert [message async for message in each] == [], "something came more than once"


# Closing


def closing(client: Client) -> tuple[int, str]:
    """Return code and reason with which the server closes; nothing else may come before."""
    with pytest.raises(websockets.ConnectionClosed) as caught:
        client.recv(DEADLINE)
    assert caught.value.rcvd is not None, "the connection was cut"
    return caught.value.rcvd.code, caught.value.rcvd.reason


@pytest.mark.parametrize("consumer", ["echo", "sync/echo"])
def test_client_closes(site: Site, column: Record, consumer: str, visit: str) -> None:
    """The code with which the client closes comes to ``disconnect``; Channels has no place for the reason."""
    column("feature", "client closes: code and reason")
    column("note", "disconnect() is given the code alone")
    with site.connect(f"/{consumer}/{visit}/") as client:
        client.close(4001, "bye")
    assert site.ended(visit) == [4001]


def test_consumer_closes(site: Site, column: Record) -> None:
    """Code and reason with which a consumer closes come to the client."""
    column("feature", "application closes: code and reason")
    with site.connect("/close/4002/") as client:
        client.send("genug für heute")
        assert closing(client) == (4002, "genug für heute")


@pytest.mark.parametrize("consumer", ["echo", "sync/echo"])
def test_cut(site: Site, column: Record, consumer: str, visit: str) -> None:
    """A connection that ends without a close frame is told to the consumer with 1006."""
    column("feature", "connection cut: 1006")
    with site.connect(f"/{consumer}/{visit}/") as client:
        client.send("one")
        assert client.recv(DEADLINE) == "one"
        client.socket.shutdown(socket.SHUT_RDWR)
    assert site.ended(visit) == [1006]


def test_closed_without_code(site: Site, column: Record, visit: str) -> None:
    """A close frame without a code is told to the consumer with 1005."""
    column("feature", "client closes without a code: 1005")
    with site.connect(f"/echo/{visit}/") as client, client.protocol_mutex:
        client.protocol.send_close()
        client.send_data()
    assert site.ended(visit) == [1005]


def test_sending_to_one_who_has_gone(site: Site, column: Record, visit: str) -> None:
    """A consumer that sends to a client that has gone gets the specification's OSError, and nobody is harmed."""
    column("feature", "sending after the disconnect: OSError")
    with site.connect(f"/late/{visit}/"):
        pass
    assert site.ended(visit, 2) == [1000, "OSError"]


def test_staying(layer: dict[str, str], column: Record, visit: str) -> None:
    """A consumer that ignores its disconnect hears of it once, is ended after ``--application-close-timeout``, and delays no stop."""
    column("feature", "consumer that ignores its disconnect")
    with project(layer, "--application-close-timeout=1", "--drain-seconds=0") as server:
        with Site(server) as site:
            with site.connect(f"/staying/{visit}/"):
                pass
            assert site.ended(visit, 2) == [1000, "over"]
            with site.connect(f"/staying/{visit}/last/") as client:
                server.send_signal(signal.SIGTERM)
                assert closing(client)[0] == 1012
        assert server.wait() == 0
        assert server.lines(f"ended /staying/{visit}/last/ over")


def test_drained(layer: dict[str, str], column: Record, visit: str) -> None:
    """A server that is stopped closes its clients with 1012, each consumer hears of that, and the process ends with status 0."""
    column("feature", "stop: 1012")
    with project(layer, "--drain-seconds=0") as server, Site(server) as site, ExitStack() as stack:
        clients = [stack.enter_context(site.connect(f"/echo/{visit}/")) for _ in range(20)]
        server.send_signal(signal.SIGTERM)
        assert [closing(each)[0] for each in clients] == [1012] * 20
        assert server.wait() == 0
        assert len(server.lines(f"ended /echo/{visit}/ 1012")) == 20


# The handshake


@pytest.mark.parametrize("consumer", ["refusing", "denying"])
def test_refusal(site: Site, column: Record, consumer: str, visit: str) -> None:
    """A consumer that closes before it has accepted, or denies the connection, refuses with 403, and hears of the end with 1006."""
    column("feature", "refusal: 403")
    assert site.refusal(f"/{consumer}/{visit}/") == 403
    assert site.ended(visit) == [1006]


def test_subprotocol(site: Site, column: Record) -> None:
    """The consumer sees the subprotocols that are offered, in order, and the client the one that is chosen; there may be none."""
    column("feature", "subprotocol")
    offered = [websockets.Subprotocol("chat.v1"), websockets.Subprotocol("chat.v2")]
    with site.connect("/choosing/", subprotocols=offered) as client:
        assert client.subprotocol == "chat.v2"
        assert json.loads(client.recv(DEADLINE)) == ["chat.v1", "chat.v2"]
    with site.connect("/choosing/") as client:
        assert client.subprotocol is None
        assert json.loads(client.recv(DEADLINE)) == []


def handshake(site: Site) -> tuple[dict[str, Any], Client]:
    """Do a handshake that has everything, and return what the consumer has understood of it."""
    headers = [("X-Tag", "one"), ("Cookie", 'a=1; b="two"'), ("X-Tag", "two")]
    path = "/handshake/caf%C3%A9%20%F0%9F%99%82/?greeting=gr%C3%BC%C3%9F+dich&tag=1&tag=2&empty="
    with site.connect(path, additional_headers=headers) as client:
        seen: dict[str, Any] = json.loads(client.recv(DEADLINE))
        return seen, client


def test_path_and_query(site: Site, column: Record) -> None:
    """The router finds the argument in the decoded path; the query is there as it was sent."""
    column("feature", "path and query")
    seen, _ = handshake(site)
    assert seen["route"] == {"name": "café 🙂"}
    assert seen["path"] == "/handshake/café 🙂/"
    assert seen["raw path"] == "/handshake/caf%C3%A9%20%F0%9F%99%82/"
    assert seen["query"] == [["greeting", "grüß dich"], ["tag", "1"], ["tag", "2"], ["empty", ""]]
    assert seen["client"] == "127.0.0.1"


def test_request_headers(site: Site, column: Record) -> None:
    """A header that comes twice is there twice, in order; cookies are taken apart."""
    column("feature", "request headers and cookies")
    seen, _ = handshake(site)
    assert seen["tags"] == ["one", "two"]
    assert seen["cookies"] == {"a": "1", "b": "two"}


def test_accept_headers(site: Site, column: Record) -> None:
    """The client sees the headers with which the consumer accepts, two cookies among them."""
    column("feature", "response headers on accept")
    _, client = handshake(site)
    assert client.response is not None
    assert client.response.headers["X-Answer"] == "42"
    assert client.response.headers.get_all("Set-Cookie") == ["seen=1", "theme=dark"]


def test_no_route(site: Site, column: Record) -> None:
    """A path without a consumer, at which Channels raises, is answered with 500."""
    column("feature", "exception before accept: 500")
    assert site.refusal("/nowhere/") == 500


def test_origin_validator(site: Site, column: Record, visit: str) -> None:
    """Channels' own validator lets a page of an allowed host in, and refuses a client that states no origin."""
    column("feature", "AllowedHostsOriginValidator")
    with site.connect(f"/guarded/echo/{visit}/", origin=f"http://127.0.0.1:{site.server.port}") as client:
        client.send("one")
        assert client.recv(DEADLINE) == "one"
    assert site.refusal(f"/guarded/echo/{visit}/") == 403
    assert site.refusal(f"/guarded/echo/{visit}/", origin="http://evil.example") == 403


def test_user_and_session(site: Site, column: Record, visit: str) -> None:
    """Who has logged in by a view is known to a consumer by the cookie; what a consumer writes into the session is there later."""
    column("feature", "user and session")
    with site.connect("/user/") as client:
        assert client.recv(DEADLINE) == ", visit 1"
    assert site.http.post("/login/", data={"name": visit}).text == "welcome"
    cookie = {"Cookie": f"sessionid={site.http.cookies['sessionid']}"}
    for number in (1, 2):
        with site.connect("/user/", additional_headers=cookie) as client:
            assert client.recv(DEADLINE) == f"{visit}, visit {number}"


# Consumers that raise


def test_failing_before(site: Site, column: Record) -> None:
    """A consumer that raises before it has accepted is answered for with 500."""
    column("feature", "exception before accept: 500")
    assert site.refusal("/failing/before/") == 500


def test_failing_later(site: Site, column: Record) -> None:
    """A consumer that raises later is answered for with 1011, and the log has its traceback."""
    column("feature", "exception after accept: 1011")
    with site.connect("/failing/later/") as client:
        client.send("go on")
        assert closing(client) == (1011, "")
    site.server.wait_for_line("RuntimeError: at a message")


def test_failing_last(site: Site, column: Record, visit: str) -> None:
    """A consumer that raises when its client has gone is logged, and harms nobody."""
    column("feature", "exception in disconnect")
    with site.connect(f"/failing/last/{visit}/"):
        pass
    assert site.ended(visit) == [1000]
    site.server.wait_for_line("RuntimeError: at the end")


# HTTP beside


def test_http_get(site: Site, column: Record) -> None:
    """An async view sees path, query, host, cookies and address; two cookies that it sets are two fields."""
    column("feature", "HTTP: JSON, path and query")
    response = site.http.get("/hello/caf%C3%A9%20%F0%9F%99%82/?tag=1&tag=%C3%BC", headers={"Cookie": "a=1; b=2"})
    assert response.status_code == 200
    assert response.json() == {
        "name": "café 🙂", "tags": ["1", "ü"], "cookies": {"a": "1", "b": "2"},
        "host": f"127.0.0.1:{site.server.port}", "scheme": "http", "address": "127.0.0.1",
    }  # fmt: skip
    assert [each.partition(";")[0] for each in response.headers.get_list("Set-Cookie")] == ["seen=1", "theme=dark"]


def test_http_sync_view(site: Site, column: Record) -> None:
    """A sync view answers; HEAD has the same header and no body, and the connection serves on."""
    column("feature", "HTTP: HEAD")
    head, get = site.http.head("/sync/hello/ann/"), site.http.get("/sync/hello/ann/")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == get.headers["Content-Length"] == "9"
    assert get.text == "hello ann"


def test_http_form(site: Site, column: Record) -> None:
    """A form is taken with its token, and refused without."""
    column("feature", "HTTP: form with CSRF token")
    assert site.http.post("/form/", data={"name": "ann"}).status_code == 403
    token = site.http.get("/form/").text
    response = site.http.post("/form/", data={"name": "ann", "csrfmiddlewaretoken": token})
    assert (response.status_code, response.text) == (200, "thank you, ann")


def test_http_json(site: Site, column: Record) -> None:
    """A JSON body of many parts comes whole; several requests share a connection."""
    column("feature", "HTTP: JSON body")
    for _ in range(3):
        response = site.http.post("/json/", json=[1] * 100_000)
        assert (response.status_code, response.json()) == (201, {"sum": 100_000})


def test_http_upload(site: Site, column: Record) -> None:
    """A file of 5 MB in a form comes whole, through Django's temporary file."""
    column("feature", "HTTP: file upload")
    content = os.urandom(5_000_000)
    response = site.http.post("/upload/", files={"file": ("a.bin", content)})
    assert response.json() == {"name": "a.bin", "size": 5_000_000, "sha256": hashlib.sha256(content).hexdigest()}


def test_http_streaming(site: Site, column: Record) -> None:
    """A streaming response comes whole and in order, and the connection serves on."""
    column("feature", "HTTP: streamed response")
    response = site.http.get("/numbers/", params={"count": 20_000})
    assert "Content-Length" not in response.headers
    assert response.text.split() == [str(each) for each in range(20_000)]
    assert site.http.get("/sync/hello/ann/").text == "hello ann"


def test_http_streaming_client_leaves(site: Site, column: Record, visit: str) -> None:
    """The first event of a stream comes while the next is not there; when its client has gone, Django ends the generator."""
    column("feature", "Server-Sent Events: the client leaves")
    with site.http.stream("GET", f"/events/{visit}/") as response:
        assert next(response.iter_lines()) == "data: welcome"
    assert site.ended(visit) == ["ended"]


def test_http_file(site: Site, column: Record) -> None:
    """A FileResponse comes whole, with its length and name."""
    column("feature", "HTTP: file")
    content = (PROJECT / "channels_project" / "views.py").read_bytes()
    response = site.http.get("/file/")
    assert response.content == content
    assert response.headers["Content-Length"] == str(len(content))
    assert response.headers["Content-Disposition"] == 'attachment; filename="views.py"'


def test_http_consumer(site: Site, column: Record) -> None:
    """An AsyncHttpConsumer streams its response, beside Django's views."""
    column("feature", "AsyncHttpConsumer")
    response = site.http.get("/ticks/")
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.text == "".join(f"data: {number}\n\n" for number in range(5))


def test_http_failing(site: Site, column: Record) -> None:
    """A view that raises is answered by Django with 500, without its inside; a path that leads nowhere with 404."""
    column("feature", "HTTP: exception: 500")
    response = site.http.get("/failing/")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert site.http.get("/nowhere/").status_code == 404


# Lifespan


def test_no_lifespan(site: Site, column: Record) -> None:
    """The server starts, without a traceback, though Channels' router raises at the scope of a lifespan."""
    column("feature", "lifespan: startup and state")
    column("note", "Channels and Django know no lifespan, and the server starts without")
    assert not [line for line in takewhile(lambda line: "ready" not in line, site.server.lines()) if "Traceback" in line]
