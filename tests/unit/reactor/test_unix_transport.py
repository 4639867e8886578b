"""``twistedws.reactor.unix_transport``: connections over UNIX sockets."""

from __future__ import annotations

import os
import select
import socket
import sys
from pathlib import Path

import pytest
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IFileDescriptorReceiver, IUNIXTransport
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.support.reactor import Echo, Recorder, World


@pytest.mark.parametrize("bound", [False, True])
def test_unix_addresses(world: World, tmp_path: Path, bound: bool) -> None:
    """Over a UNIX socket the peer has its name, or none, also after the end."""
    path = str(tmp_path / "s")
    port = world.reactor.listenUNIX(path, world.factory(Echo))
    client = socket.socket(socket.AF_UNIX)
    world.sockets.append(client)
    if bound:
        client.bind(str(tmp_path / "c"))
    client.connect(path)
    client.setblocking(False)
    server = world.until(lambda: world.made and world.made[0].transport is not None and world.made[0])
    assert verifyObject(IUNIXTransport, server.transport)
    peer = UNIXAddress(str(tmp_path / "c")) if bound else UNIXAddress(None)
    assert server.transport.getPeer() == peer
    assert server.transport.getHost() == port.getHost() == UNIXAddress(path)
    client.sendall(b"x")
    assert world.receive(client, 1) == b"x"
    client.close()
    world.until(lambda: server.lost)
    assert server.transport.getPeer() == peer


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has abstract names")
def test_abstract_unix_address(world: World) -> None:
    """An abstract name can be listened on."""
    port = world.reactor.listenUNIX(f"\0twistedws-{os.getpid()}", world.factory(Echo))
    client, server = world.pair(port=port)
    client.sendall(b"x")
    assert world.receive(client, 1) == b"x"
    assert server.transport.getHost() == port.getHost()


def test_descriptors_over_a_unix_socket(world: World, tmp_path: Path) -> None:
    """Descriptors are sent with the bytes that follow them, and received by a protocol that takes them."""

    @implementer(IFileDescriptorReceiver)
    class Takes(Recorder):
        def fileDescriptorReceived(self, descriptor: int) -> None:
            os.close(descriptor)
            self.got += b"!"

    port = world.reactor.listenUNIX(str(tmp_path / "s"), world.factory())
    client, server = world.pair(port=port)
    server.transport.sendFileDescriptor(client.fileno())
    server.transport.write(b"with it")
    server.transport.loseConnection()
    world.until(lambda: select.select([client], [], [], 0)[0])
    data, received, _, _ = socket.recv_fds(client, 100, 10)
    assert (data, len(received)) == (b"with it", 1)
    os.close(received[0])
    assert world.receive(client) == b""
    port = world.reactor.listenUNIX(str(tmp_path / "t"), world.factory(Takes))
    client, server = world.pair(port=port)
    socket.send_fds(client, [b"x"], [client.fileno()])
    world.until(lambda: server.got == b"!x")
