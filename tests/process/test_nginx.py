"""Behind the real nginx, on ``etc/nginx.conf``: what passes, what keeps a connection alive, and that both read every head alike."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.memory import request
from tests.support.proxies import Proxy, nginx
from tests.support.raw import Raw
from tests.support.server import Server, wait_until
from tests.unit.test_handshake import FORGERIES, SMUGGLING

SIZES = [0, 125, 126, 65_535, 65_536, 1 << 20]


def join(proxy: Proxy, path: str = "/", **options: Any) -> ClientConnection:
    """Connect a client that sends no pings of its own, and has no limit on what it receives."""
    client: ClientConnection = connect(proxy.url + path, ping_interval=None, max_size=None, proxy=None, compression=None, **options)
    return client


def test_echo(tmp_path: Path) -> None:
    """Text and binary messages of all lengths come back through nginx, and the close code passes both ways."""
    with Server() as server, nginx(tmp_path, server.port) as proxy:
        with join(proxy) as client:
            for size in SIZES:
                for message in ("x" * size, os.urandom(size)):
                    client.send(message)
                    assert client.recv(timeout=20) == message
            client.close(4001, "goodbye")
        assert client.close_code == 4001
        server.wait_for_line(r"closed session=.* code=4001 cause=client by=client reason='goodbye'")


def test_plain_requests(tmp_path: Path) -> None:
    """What asks for no upgrade gets the server's own answer: the page, or the advice to upgrade."""
    with Server() as server, nginx(tmp_path, server.port) as proxy:
        base = f"http://127.0.0.1:{proxy.port}"
        with urllib.request.urlopen(f"{base}/", timeout=20) as page:
            assert page.status == 200
            assert page.headers["Content-Type"].startswith("text/html")
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{base}/elsewhere", timeout=20)
        assert refusal.value.code == 426
        refusal.value.close()


def test_forwarded_headers(tmp_path: Path) -> None:
    """The application sees the Host with its port and nginx's word on the client, not the client's own word."""
    with Server("mirror:Mirror") as server, nginx(tmp_path, server.port) as proxy:
        origin = f"http://127.0.0.1:{proxy.port}"
        forged = {"X-Forwarded-For": "203.0.113.1", "X-Forwarded-Proto": "https"}
        with join(proxy, "/room?a=b", origin=origin, additional_headers=forged) as client:
            seen = json.loads(client.recv(timeout=20))
        headers = dict(seen["headers"])
        assert (seen["target"], seen["origin"], headers["host"]) == ("/room?a=b", origin, f"127.0.0.1:{proxy.port}")
        assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.1", "http")
        with pytest.raises(InvalidStatus) as refusal:
            join(proxy, origin="http://127.0.0.1.example")
        assert refusal.value.response.status_code == 403


def test_cut_without_pings(tmp_path: Path) -> None:
    """With no pings nginx cuts an idle connection after its read timeout, and the server says that it ended with no close frame."""
    with Server("--ping-interval=0") as server, nginx(tmp_path, server.port, read_timeout="1s") as proxy, join(proxy) as client:
        with pytest.raises(ConnectionClosedError):
            client.recv(timeout=20)
        assert client.close_code == 1006
        server.wait_for_line(r"closed session=.* code=1006 cause=(fin|reset) by=client")


def test_alive_with_pings(tmp_path: Path) -> None:
    """With pings more frequent than nginx's read timeout an idle connection is there after four times that timeout."""
    with Server("--ping-interval=0.5") as server, nginx(tmp_path, server.port, read_timeout="2s") as proxy, join(proxy) as client:
        with pytest.raises(TimeoutError):
            client.recv(timeout=8)
        client.send("still here")
        assert client.recv(timeout=10) == "still here"
        assert not server.lines("closed session=")


def test_drain(tmp_path: Path) -> None:
    """Behind nginx too, SIGTERM closes sessions with 1012 after they had their answers, and the server exits with 0."""
    with Server("--drain-seconds=0") as server, nginx(tmp_path, server.port) as proxy:
        with join(proxy) as client:
            client.send("before")
            assert client.recv(timeout=10) == "before"
            server.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                client.recv(timeout=20)
        assert client.close_code == 1012
        assert server.wait() == 0


class Views:
    """What nginx and the server understood of the same requests, by their targets.

    Args:
        directory: Where nginx logs.
        proxy: The nginx.
        server: With the application ``mirror``.
    """

    def __init__(self, directory: Path, proxy: Proxy, server: Server) -> None:
        self._log, self._proxy, self._server = directory / "access", proxy, server

    def send(self, data: bytes) -> tuple[int, dict[str, Any]]:
        """Send bytes on a connection of their own; return the status, and what the application saw if that is 101."""
        with Raw(self._proxy.port) as peer:
            peer.send(data)
            status, _ = peer.read_head()
            return status, json.loads(peer.read_message()) if status == 101 else {}

    def nginx(self, *targets: str) -> dict[str, dict[str, str]]:
        """Return what nginx logged, once these are among it."""

        def logged() -> dict[str, dict[str, str]]:
            entries = [json.loads(line) for line in self._log.read_text(encoding="latin-1").split("\n") if line]
            return {each["target"]: each for each in entries}

        wait_until(lambda: set(targets) <= set(logged()), 10, f"nginx's log of {targets}")
        return logged()

    def server(self) -> set[str]:
        """Return the targets of all sessions that there were."""
        wait_until(lambda: len(self._server.lines("opened session=")) == len(self._server.lines("closed session=")), what="their ends")
        return {found.group(1) for line in self._server.lines("closed session=") if (found := re.search(r" path=(\S+) ", line))}


ACCESS = 'log_format views escape=json \'{{"target":"$request_uri","origin":"$http_origin","x_a":"$http_x_a"}}\'; access_log {} views;'


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Views]:
    """A server and an nginx for all vectors."""
    directory = tmp_path_factory.mktemp("nginx")
    options = ("--log-level=debug", "--origin=https://good.example", "mirror:Mirror")
    with Server(*options) as server, nginx(directory, server.port, http=ACCESS.format(directory / "access")) as proxy:
        yield Views(directory, proxy, server)


@pytest.mark.parametrize("vector", [row[1] for row in FORGERIES], ids=[row[0] for row in FORGERIES])
def test_no_header_is_forged(views: Views, vector: bytes) -> None:
    """Whatever nginx lets through, the server takes it apart as nginx did: no field comes into being between them."""
    target = f"/{time.monotonic_ns()}"
    status, seen = views.send(request(vector, path=target.encode()))
    assert status in (101, 400, 403), status  # 403: `Origin` with no colon is an empty Origin to nginx
    if status == 101:
        understood = views.nginx(target)[target]
        assert (seen["origin"] or "") == understood["origin"]
        assert dict(seen["headers"]).get("x-a", "") == understood["x_a"]


@pytest.mark.parametrize("lines", [row[1] for row in SMUGGLING], ids=[row[0] for row in SMUGGLING])
def test_no_request_is_smuggled(views: Views, lines: list[bytes]) -> None:
    """The server never sees a request that nginx did not: not in what one of them may take for a body."""
    first, inner = f"/{time.monotonic_ns()}", f"/{time.monotonic_ns()}-smuggled"
    status, _ = views.send(request(*lines, path=first.encode()) + b"0\r\n\r\n" + request(path=inner.encode()))
    assert status in (101, 400, 405, 411, 426, 501), status
    views.nginx(first)
    views.nginx(*(views.server() & {first, inner}))
