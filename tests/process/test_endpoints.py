"""Where a real server listens: TCP, TLS, UNIX sockets, IPv6, PROXY protocol, inherited descriptors; and how fast it accepts."""

from __future__ import annotations

import asyncio
import socket
import ssl
import stat
import subprocess
import time
from pathlib import Path

import pytest
import websockets

from tests.support.memory import masked, request
from tests.support.proxies import free_port
from tests.support.server import Server, wait_until
from tests.support.tools import needs


async def _echo(connection: websockets.connect) -> int | None:
    async with connection as client:
        for message in ("text", b"\x00" * 900_000):
            await client.send(message)
            assert await client.recv() == message
    return client.close_code


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a self-signed certificate for localhost."""
    place = tmp_path_factory.mktemp("certificate")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(place / "key.pem"), "-out", str(place / "cert.pem")]
    command = [needs("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *names]
    subprocess.run(command, check=True, capture_output=True)
    return place


def _tls_endpoint(certificate: Path) -> str:
    return f"ssl:0:interface=127.0.0.1:privateKey={certificate}/key.pem:certKey={certificate}/cert.pem"


def test_several_at_once(certificate: Path, tmp_path: Path) -> None:
    """One server listens on TLS, a UNIX socket with its mode, and IPv6, and serves all of them."""
    path = tmp_path / "server.sock"
    endpoints = [_tls_endpoint(certificate), f"unix:{path}:mode=600", "tcp6:0:interface=\\:\\:1"]
    trust = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with Server(*(f"--endpoint={each}" for each in endpoints)) as server:
        wait_until(lambda: len(server.lines("listening on")) == 3, what="three endpoints")
        assert asyncio.run(_echo(websockets.connect(f"wss://localhost:{server.port}", ssl=trust))) == 1000
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert asyncio.run(_echo(websockets.unix_connect(str(path)))) == 1000
        port = server.wait_for_line(r"listening on \[::1\]:(\d+)").group(1)
        assert asyncio.run(_echo(websockets.connect(f"ws://[::1]:{port}"))) == 1000
        server.wait_for_line(r"closed session=\w+ peer=unix ")


def test_tls_peer_that_never_says_goodbye(certificate: Path) -> None:
    """A TLS peer that sends no close_notify holds its descriptor no longer than the close timeout."""
    trust = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with Server(f"--endpoint={_tls_endpoint(certificate)}", "--close-timeout=1") as server:
        port, before = server.port, server.descriptors()
        with trust.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost") as peer:
            peer.sendall(request())
            assert peer.recv(4096).startswith(b"HTTP/1.1 101")
            peer.sendall(b"\x81\x01x")  # unmasked: a violation
            assert peer.recv(4096)[2:4] == (1002).to_bytes(2, "big")
            wait_until(lambda: server.descriptors() == before, 5, "the descriptor's return")
        server.wait_for_line("cause=protocol_error")


def test_stale_unix_socket(tmp_path: Path) -> None:
    """The socket that a killed server left does not keep the next from starting; one that is in use does."""
    path = tmp_path / "server.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with Server(f"--endpoint=unix:{path}") as server:
        assert asyncio.run(_echo(websockets.unix_connect(str(path)))) == 1000
        second = subprocess.run(server.command, capture_output=True, text=True, timeout=30, check=False)
        assert second.returncode == 1
        assert "another process listens there" in second.stderr
        assert asyncio.run(_echo(websockets.unix_connect(str(path)))) == 1000


def test_proxy_protocol() -> None:
    """Behind a ``haproxy:`` endpoint the log has the client's address, and limits per address count it."""
    with Server("--endpoint=haproxy:tcp:0:interface=127.0.0.1", "--max-connections-per-address=1") as server:

        def connect(address: str) -> tuple[socket.socket, bytes]:
            peer = socket.create_connection(("127.0.0.1", server.port))
            peer.sendall(f"PROXY TCP4 {address} 127.0.0.1 5555 80\r\n".encode() + request())
            return peer, peer.recv(4096)

        first, answer = connect("203.0.113.7")
        assert b" 101 " in answer
        assert b" 429 " in connect("203.0.113.7")[1]
        assert b" 101 " in connect("203.0.113.8")[1]
        first.sendall(masked(0x88, b"\x03\xe8"))
        server.wait_for_line(r"closed session=\w+ peer=203\.0\.113\.7:5555 .*code=1000")


def test_inherited_descriptor() -> None:
    """A ``systemd:`` endpoint serves the socket that it was started with."""
    systemd = needs("systemd-socket-activate", package="systemd")
    port = free_port()
    prefix = (systemd, "-l", f"127.0.0.1:{port}", "--fdname=web", "-E", "PATH", "-E", "PYTHONPATH")
    server = Server("--endpoint=systemd:domain=INET:index=0", prefix=prefix)
    waker = socket.socket()
    try:
        server.start_process()
        wait_until(lambda: not waker.connect_ex(("127.0.0.1", port)), what="the socket")  # starts the server
        with server:
            assert asyncio.run(_echo(websockets.connect(f"ws://127.0.0.1:{port}"))) == 1000
    finally:
        waker.close()


def test_accept_rate() -> None:
    """Accepts are bounded to the rate; who waits is served later, nobody is refused."""
    with Server("--accept-rate=20") as server:

        async def scenario() -> float:
            start = time.monotonic()
            clients = await asyncio.gather(*(websockets.connect(server.url, open_timeout=30) for _ in range(30)))
            elapsed = time.monotonic() - start
            await asyncio.gather(*(each.close() for each in clients))
            return elapsed

        # 30 connections at 20 a second, of which a tenth of a second's worth at once: never in less than that
        assert asyncio.run(scenario()) >= (30 - 2 - 1) / 20


@pytest.mark.parametrize("reactor", ["uvloop", "epoll", "asyncio", "poll"])
def test_named_reactors(reactor: str) -> None:
    """The server works, and ends with status 0, on our reactor by its name, and on Twisted's own."""
    with Server(twistd=(f"--reactor={reactor}",)) as server:
        assert asyncio.run(_echo(websockets.connect(server.url))) == 1000
        assert server.stop() == 0


def test_daemon(tmp_path: Path) -> None:
    """As a daemon it writes its pid and its log, opens the log anew on SIGUSR1, and ends on SIGTERM."""
    import os
    import signal

    port = free_port()
    pidfile, log = tmp_path / "server.pid", tmp_path / "server.log"
    command = [Server().command[0], f"--pidfile={pidfile}", f"--logfile={log}", "twistedws", "--port", str(port)]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=30)
    pid = int(pidfile.read_text())
    try:
        assert asyncio.run(_echo(websockets.connect(f"ws://127.0.0.1:{port}"))) == 1000
        wait_until(lambda: "code=1000" in log.read_text(), what="the session's line")
        moved = log.rename(tmp_path / "server.log.1")
        os.kill(pid, signal.SIGUSR1)
        wait_until(log.exists, what="the new log")
        assert subprocess.run(command, cwd=tmp_path, check=False, timeout=30, capture_output=True).returncode == 1
        assert asyncio.run(_echo(websockets.connect(f"ws://127.0.0.1:{port}"))) == 1000
        wait_until(lambda: "code=1000" in log.read_text(), what="a line in the new log")
        assert moved.read_text().count("code=1000") == 1
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not pidfile.exists(), what="the daemon's end")
