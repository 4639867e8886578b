"""``twistedws.reactor.tls``: TLS that begins on a connection, and TLS from a connection's beginning."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.ssl import CertificateOptions

from tests.support.reactor import Echo, Producer, World, listen_on


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its key."""
    place = tmp_path_factory.mktemp("tls")
    key, made = place / "key.pem", place / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    subprocess.run([*command.split(), "-keyout", str(key), "-out", str(made)], check=True, capture_output=True)
    return made, key


def handshake(world: World, client: socket.socket) -> Any:
    """Make a TLS client of a socket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls = context.wrap_socket(client, do_handshake_on_connect=False)
    world.sockets.append(tls)

    def done() -> bool:
        try:
            tls.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        return True

    world.until(done)
    return tls


def exchange(world: World, tls: Any, data: bytes) -> bytes:
    """Send, and return what comes back."""
    left, got = data, b""

    def all_came() -> bool:
        nonlocal left, got
        with contextlib.suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
            while left:
                left = left[tls.send(left[:16384]) :]
        with contextlib.suppress(ssl.SSLWantReadError):
            got += tls.recv(1 << 20)
        return len(got) >= len(data)

    world.until(all_came)
    return got


def end_of(world: World, tls: Any) -> None:
    """Await the peer's close_notify, and close."""

    def came() -> bool:
        try:
            return bool(tls.recv(1) == b"")
        except ssl.SSLWantReadError:
            return False

    world.until(came)
    tls.close()


def test_tls_endpoint(world: World, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """An ``ssl:`` endpoint serves TLS."""
    monkeypatch.setattr("twisted.protocols.tls._get_default_clock", lambda: world.reactor)  # otherwise the one that is installed
    port = listen_on(world, f"ssl:0:interface=127.0.0.1:certKey={certificate[0]}:privateKey={certificate[1]}")
    tls = handshake(world, world.connect(port))
    data = os.urandom(200_000)
    assert exchange(world, tls, data) == data
    world.made[0].transport.loseConnection()
    end_of(world, tls)
    world.until(lambda: world.made[0].lost)


def test_start_tls(world: World, certificate: tuple[Path, Path]) -> None:
    """A connection that starts TLS speaks it from then on, with its producer and its end."""
    options = CertificateOptions(
        privateKey=crypto.load_privatekey(crypto.FILETYPE_PEM, certificate[1].read_bytes()),
        certificate=crypto.load_certificate(crypto.FILETYPE_PEM, certificate[0].read_bytes()),
    )

    class Starts(Echo):
        def connectionMade(self) -> None:
            self.producer = Producer()
            self.transport.registerProducer(self.producer, True)
            self.transport.startTLS(options)

    client, server = world.pair(Starts)
    assert cast("Any", ISSLTransport).providedBy(server.transport)
    tls = handshake(world, client)
    data = os.urandom(200_000)
    assert exchange(world, tls, data) == data
    assert isinstance(server.transport.getHandle(), SSL.Connection)
    server.transport.unregisterProducer()
    server.transport.loseConnection()
    end_of(world, tls)
    world.until(lambda: server.lost)
    assert server.told == 1
