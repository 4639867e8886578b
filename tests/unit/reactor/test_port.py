"""``twistedws.reactor.port``: ports, paused, stopped, adopted, and out of luck."""

from __future__ import annotations

import errno
import select
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory

from tests.support.reactor import SECONDS, Echo, Recorder, World, descriptors, reset


def test_stop_listening(world: World) -> None:
    """A port that is stopped refuses new connections, keeps the established, and stops its factory."""
    events = []

    class Told(Factory):
        noisy = False
        protocol = Echo

        def startFactory(self) -> None:
            events.append("start")

        def stopFactory(self) -> None:
            events.append("stop")

    port = world.reactor.listenTCP(0, Told(), interface="127.0.0.1")
    address = port.getHost()
    client = world.connect(port)
    client.sendall(b"x")
    assert world.receive(client, 1) == b"x"
    stopped = []
    port.stopListening().addCallback(lambda _: stopped.append(True))
    world.until(lambda: stopped)
    assert events == ["start", "stop"]
    with socket.socket() as late:
        assert late.connect_ex((address.host, address.port)) == errno.ECONNREFUSED
    client.sendall(b"y")
    assert world.receive(client, 1) == b"y"


def test_cannot_listen(world: World) -> None:
    """A port that is in use raises CannotListenError from listenTCP itself."""
    port = world.listen()
    with pytest.raises(CannotListenError):
        world.reactor.listenTCP(port.getHost().port, world.factory(), interface="127.0.0.1")


def test_unix_port(world: World, tmp_path: Path) -> None:
    """A UNIX socket has its mode and its lock while it is listened on, and both are gone after."""
    path = tmp_path / "s"
    port = world.reactor.listenUNIX(str(path), world.factory(), mode=0o600, wantPID=True)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(CannotListenError):
        world.reactor.listenUNIX(str(path), world.factory(), wantPID=True)
    port.stopListening()
    world.until(lambda: not path.exists() and not (tmp_path / "s.lock").is_symlink())


def test_paused_port(world: World) -> None:
    """While a port is paused connections wait in the kernel, and none is refused; resumed, it accepts them."""
    port = world.listen()
    port.pauseProducing()
    waiting = [world.connect(port) for _ in range(10)]
    world.turns(20)
    assert world.made == []
    port.resumeProducing()
    world.until(lambda: len(world.made) == 10)
    port.pauseProducing()
    world.connect(port)
    world.turns(20)
    assert len(world.made) == 10
    assert waiting
    port.resumeProducing()
    world.until(lambda: len(world.made) == 11)


def test_a_bound_on_accepts(world: World) -> None:
    """A factory that pauses all ports as it makes a protocol gets no second connection before they are resumed, from none of them."""
    ports: list[Any] = []

    class One(Factory):
        noisy = False
        count = 0

        def buildProtocol(self, addr: Any) -> Any:
            self.count += 1
            for each in ports:
                each.pauseProducing()
            return Echo()

    one = One()
    ports += [world.reactor.listenTCP(0, one, interface="127.0.0.1") for _ in range(3)]
    clients = [world.connect(port) for port in ports for _ in range(3)]
    for each in clients:
        each.sendall(b"x")
    for number in range(1, 10):
        world.until(lambda: one.count >= number)  # noqa: B023 - it is called at once
        world.turns(3)
        assert one.count == number
        for each in ports:
            each.numberAccepts = 1
            each.resumeProducing()
    for each in clients:
        assert world.receive(each, 1) == b"x"


def test_what_waits_as_a_port_is_stopped(world: World) -> None:
    """A connection that was accepted as the port was paused ends with the port, and its descriptor is closed; its reset harms nobody."""
    world.listen()  # the spare descriptors of Twisted and libuv come with the first port
    before = world.until(descriptors)
    ports: list[Any] = []

    class One(Factory):
        noisy = False

        def buildProtocol(self, addr: Any) -> Any:
            for each in ports:
                each.pauseProducing()
            world.made.append(Recorder())
            return world.made[-1]

    ports += [world.reactor.listenTCP(0, One(), interface="127.0.0.1") for _ in range(4)]
    clients = [world.connect(port) for port in ports]
    world.until(lambda: world.made)
    world.turns()
    reset(clients[1])
    world.turns()
    for each in ports:
        each.stopListening()
    for each in clients:
        each.close()
    world.until(lambda: descriptors() <= before)
    assert len(world.made) == 1


def test_adopted_port(world: World) -> None:
    """An adopted descriptor is duplicated, its backlog kept, and the original stays open when the port is stopped."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(7)
        listening.setblocking(False)
        port = world.reactor.adoptStreamPort(listening.fileno(), socket.AF_INET, world.factory(Echo))
        client, _ = world.pair(port=port)
        client.sendall(b"x")
        assert world.receive(client, 1) == b"x"
        if sys.platform == "linux":
            assert struct.unpack_from("=I", listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 28)[0] == 7
        stopped = []
        port.stopListening().addCallback(lambda _: stopped.append(True))
        world.until(lambda: stopped)
        with socket.create_connection(listening.getsockname()):
            select.select([listening], [], [], SECONDS)
            listening.accept()[0].close()


@pytest.mark.parametrize("world", ["uvloop"], indirect=True)  # on asyncio's loop there is no server: the port accepts
def test_a_server_that_the_loop_has_closed(world: World) -> None:
    """A port whose server uvloop has closed for an error, without a word, listens again within a second or two."""
    port = world.listen(Echo)
    port._server.close()
    client = world.connect(port)
    client.sendall(b"x")
    assert world.receive(client, 1) == b"x"


def test_resets_against_a_port(world: World) -> None:
    """Of clients that reset, before or after they are accepted, each protocol hears, and no descriptor stays."""
    port = world.listen(Echo)
    before = world.until(descriptors)
    for number in range(300):
        client = world.connect(port)
        if number % 3:
            client.sendall(b"x" * 1000)
        if number % 2:
            world.turns(1)
        reset(client)
        world.sockets.clear()
    world.until(lambda: descriptors() <= before)
    assert all(each.told == 1 for each in world.made)
    assert len(world.made) >= 150
    assert not world.reactor.connections
