"""Behind the real HAProxy, on ``etc/haproxy.cfg``: with the PROXY protocol and without, tunnels, health checks."""

from __future__ import annotations

import http.client
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.sync.client import ClientConnection, connect

from tests.support.memory import masked, request
from tests.support.proxies import Proxy, haproxy
from tests.support.raw import Raw
from tests.support.server import Server, wait_until

PROXIED = "--endpoint=haproxy:tcp:0:interface=127.0.0.1"
SIZES = [0, 125, 126, 65_535, 65_536, 1 << 20]


def join(proxy: Proxy, source: str = "127.0.0.1", **options: Any) -> ClientConnection:
    """Connect a client from an address; it sends no pings of its own, and has no limit on what it receives."""
    client: ClientConnection = connect(
        proxy.url, source_address=(source, 0), ping_interval=None, max_size=None, proxy=None, compression=None, **options
    )
    return client


def address(client: ClientConnection) -> str:
    """Return a client's own address and port."""
    host, port = client.local_address
    return f"{host}:{port}"


def test_client_address(tmp_path: Path) -> None:
    """With send-proxy-v2 the application and the log have the client's address and port, and limits per address count it."""
    with (
        Server(PROXIED, "--max-connections-per-address=1", "mirror:Mirror") as server,
        haproxy(tmp_path, server.port) as proxy,
        join(proxy, "127.0.0.9") as first,
    ):
        own = address(first)
        assert json.loads(first.recv(timeout=20))["peer"] == own
        with join(proxy, "127.0.0.10") as other:
            assert json.loads(other.recv(timeout=20))["peer"] == address(other)
        with Raw(proxy.port, source="127.0.0.9") as second:
            second.send(request())
            assert second.read_head()[0] == 429
        first.close()
        server.wait_for_line(rf"closed session=\w+ peer={own} .* code=1000 cause=client")


def test_plain_backend(tmp_path: Path) -> None:
    """Without the PROXY protocol the application has HAProxy's word on the client, not the client's own word."""
    with Server("mirror:Mirror") as server, haproxy(tmp_path, server.port, "twistedws_plain") as proxy:
        forged = {"X-Forwarded-For": "203.0.113.1", "X-Forwarded-Proto": "https"}
        with join(proxy, "127.0.0.9", additional_headers=forged) as client:
            headers = dict(json.loads(client.recv(timeout=20))["headers"])
            assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.9", "http")
            for size in SIZES:
                for message in ("x" * size, os.urandom(size)):
                    client.send(message)
                    assert client.recv(timeout=20) == message
            client.close(4001, "goodbye")
        assert client.close_code == 4001
        server.wait_for_line(r"closed session=.* code=4001 cause=client by=client reason='goodbye'")


def test_echo(tmp_path: Path) -> None:
    """Text and binary messages of all lengths come back through HAProxy with the PROXY protocol."""
    with Server(PROXIED) as server, haproxy(tmp_path, server.port) as proxy, join(proxy) as client:
        for size in SIZES:
            for message in ("x" * size, os.urandom(size)):
                client.send(message)
                assert client.recv(timeout=20) == message


def test_tunnel_timeout(tmp_path: Path) -> None:
    """With no pings HAProxy cuts an idle tunnel after its timeout."""
    with Server(PROXIED, "--ping-interval=0") as server, haproxy(tmp_path, server.port, tunnel="2s") as proxy, join(proxy) as client:
        with pytest.raises(ConnectionClosedError):
            client.recv(timeout=20)
        assert client.close_code == 1006
        server.wait_for_line(r"closed session=.* code=1006 cause=(fin|reset) by=client")


def test_alive_with_pings(tmp_path: Path) -> None:
    """With pings more frequent than the tunnel's timeout an idle tunnel is there after four times that timeout."""
    with Server(PROXIED, "--ping-interval=0.5") as server, haproxy(tmp_path, server.port, tunnel="2s") as proxy, join(proxy) as client:
        with pytest.raises(TimeoutError):
            client.recv(timeout=8)
        client.send("still here")
        assert client.recv(timeout=10) == "still here"


def test_upgrade_after_plain_requests(tmp_path: Path) -> None:
    """A client's connection on which plain requests were answered can still become a WebSocket."""
    with Server(PROXIED) as server, haproxy(tmp_path, server.port) as proxy, Raw(proxy.port) as peer:
        for _ in range(2):
            peer.send(b"HEAD /elsewhere HTTP/1.1\r\nHost: example.com\r\n\r\n")
            assert peer.read_head()[0] == 426
        peer.upgrade()
        peer.send(masked(0x81, b"hello"))
        assert peer.read_message() == b"hello"


def test_health(tmp_path: Path) -> None:
    """Health checks find that a server serves, and that it has gone, and leave nothing but debug lines in its log."""
    with Server(PROXIED, "--drain-seconds=0", "--log-level=debug") as server, haproxy(tmp_path, server.port) as proxy:

        def status() -> int:
            connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
            connection.request("GET", "/")
            return connection.getresponse().status

        assert status() == 200
        checks = wait_until(lambda: server.lines(r"peer=unknown|answered peer=")[2:], 20, "checks")
        assert "DOWN" not in proxy.output
        with join(proxy) as client:
            server.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                client.recv(timeout=20)
        assert client.close_code == 1012
        assert server.wait() == 0
        wait_until(lambda: "/ws1 is DOWN" in proxy.output, 20, "HAProxy's opinion")
        assert status() == 503
        assert all("debug" in each and "status=200" in each for each in checks), checks
        assert not server.lines(r"refused peer=|Traceback|Z (warn|error)")
