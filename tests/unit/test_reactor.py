"""``twistedws.reactor``: our transports and ports, on uvloop's loop and on asyncio's, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from OpenSSL import SSL, crypto
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import (
    CannotListenError,
    ConnectError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    UnsupportedAddressFamily,
)
from twisted.internet.interfaces import IFileDescriptorReceiver, IHalfCloseableProtocol, ISSLTransport, ITCPTransport, IUNIXTransport
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from twistedws.reactor import LoopReactor, LoopTransport, new_event_loop

uvloop = pytest.importorskip("uvloop")

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 10.0  # until a condition must hold


class World:
    """A reactor that runs as long as a test waits for something."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.reactor: Any = LoopReactor(loop)
        self.reactor.startRunning(False)
        self.made: list[Recorder] = []
        self.sockets: list[socket.socket] = []

    def until(self, condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
        """Run the reactor until something is true; return it."""

        async def wait() -> Any:
            end = time.monotonic() + seconds
            while not (result := condition()):
                assert time.monotonic() < end, "what was waited for did not happen"
                await asyncio.sleep(0.001)
            return result

        return self.loop.run_until_complete(wait())

    def turns(self, number: int = 5) -> None:
        """Run the reactor for so many turns of the loop, in which nothing is to happen."""

        async def turn() -> None:
            for _ in range(number):
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(turn())

    def factory(self, kind: type[Protocol] | None = None) -> Factory:
        """Return a factory whose protocols are in ``made``."""
        world = self

        class Made(Factory):
            noisy = False

            def buildProtocol(self, addr: Any) -> Any:
                protocol: Any = (kind or Recorder)()
                protocol.address, protocol.world = addr, world
                world.made.append(protocol)
                return protocol

        return Made()

    def listen(self, kind: type[Protocol] | None = None, interface: str = "127.0.0.1") -> Any:
        return self.reactor.listenTCP(0, self.factory(kind), interface=interface)

    def connect(self, port: Any) -> socket.socket:
        """Connect a plain socket to a port: the kernel does it, whether the port accepts or not."""
        host = port.getHost()
        if isinstance(host, UNIXAddress):
            client, address = socket.socket(socket.AF_UNIX), cast("Any", host.name)
        else:
            client = socket.socket(socket.AF_INET6 if isinstance(host, IPv6Address) else socket.AF_INET)
            address = (host.host, host.port)
        client.connect(address)
        client.setblocking(False)
        self.sockets.append(client)
        return client

    def pair(self, kind: type[Protocol] | None = None, port: Any = None) -> tuple[socket.socket, Any]:
        """Connect a plain socket, and return it with the protocol that was made for it."""
        count = len(self.made)
        client = self.connect(port or self.listen(kind))
        self.until(lambda: len(self.made) > count and self.made[-1].transport is not None)
        return client, self.made[-1]

    def receive(self, client: socket.socket, size: int | None = None) -> bytes:
        """Return what a socket receives: so many bytes, or all until FIN."""
        got = bytearray()

        def enough() -> bool:
            while size is None or len(got) < size:
                try:
                    data = client.recv(1 << 20)
                except BlockingIOError:
                    return False
                if not data:
                    return True
                got.extend(data)
            return True

        self.until(enough)
        return bytes(got)

    def close(self) -> None:
        for each in self.sockets:
            each.close()
        self.reactor.disconnectAll()
        self.turns(2)
        self.loop.close()


class Recorder(Protocol):
    """Notes what it is told."""

    address: Any
    world: World
    transport: Any

    def __init__(self) -> None:
        self.got = b""
        self.lost: Any = None
        self.told = 0

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        self.lost = reason
        self.told += 1


class Echo(Recorder):
    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.write(data)


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def readConnectionLost(self) -> None:
        self.events.append("read")

    def writeConnectionLost(self) -> None:
        self.events.append("write")


class Producer:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def pauseProducing(self) -> None:
        self.events.append("pause")

    def resumeProducing(self) -> None:
        self.events.append("resume")

    def stopProducing(self) -> None:
        self.events.append("stop")


@pytest.fixture(params=["uvloop", "asyncio"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A reactor on each kind of loop; at its end no descriptor is left behind."""
    made = World(new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop())
    assert made.reactor.native == (request.param == "uvloop")
    yield made
    made.close()


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    """What is logged."""
    events: list[dict[str, Any]] = []
    observer: Any = events.append
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


def failures(logged: list[dict[str, Any]]) -> list[BaseException]:
    return [each["log_failure"].value for each in logged if each.get("log_failure")]


def reset(client: socket.socket) -> None:
    """Close a socket with a TCP reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def descriptors() -> int:
    """Return how many there are; to be called inside ``until``, since uvloop has a pair of its own as long as it runs."""
    return len(list(Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd").iterdir()))


# The hot path


def test_nothing_stands_between_the_loop_and_the_protocol(world: World) -> None:
    """The transport's write is the loop transport's own, and the loop calls the protocol's own dataReceived."""
    client, server = world.pair(Echo)
    transport = server.transport
    assert transport.write == transport._loop_transport.write
    assert transport.data_received == server.dataReceived
    assert transport._loop_transport.get_protocol() is transport
    client.sendall(b"ping")
    assert world.receive(client, 4) == b"ping"


def test_interfaces(world: World) -> None:
    """The transports provide the interfaces that they claim."""
    _, server = world.pair()
    assert verifyObject(ITCPTransport, server.transport)


# Addresses


def test_ipv4_addresses(world: World) -> None:
    """Over IPv4 both addresses are told, the peer's also to the factory and after the end."""
    port = world.listen()
    client, server = world.pair(port=port)
    peer = IPv4Address("TCP", *client.getsockname())
    assert server.address == server.transport.getPeer() == peer
    assert server.transport.getHost() == port.getHost()
    client.close()
    world.until(lambda: server.lost)
    assert server.transport.getPeer() == peer


def test_ipv6_addresses(world: World) -> None:
    """Over IPv6 likewise."""
    port = world.listen(interface="::1")
    client, server = world.pair(port=port)
    assert server.address == server.transport.getPeer() == IPv6Address("TCP", *client.getsockname())
    assert server.transport.getHost() == port.getHost()


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


# Ends


def test_fin_ends_the_connection_and_drops_output(world: World) -> None:
    """A FIN ends the connection of a protocol that is not half-closeable at once, cleanly, though output waits."""
    client, server = world.pair()
    server.transport.write(b"x" * 20_000_000)
    assert server.transport.get_write_buffer_size() > 0
    client.shutdown(socket.SHUT_WR)
    world.until(lambda: server.lost)
    assert server.lost.check(ConnectionDone)
    assert not server.transport.connected
    assert server.transport.disconnected
    assert server.transport.get_write_buffer_size() == 0
    server.transport.write(b"late")
    server.transport.writeSequence([b"late"])
    server.transport.loseConnection()
    server.transport.abortConnection()
    world.turns()
    assert server.told == 1


def test_data_before_fin_is_delivered(world: World) -> None:
    """What came before a FIN is delivered before the end is told."""
    client, server = world.pair()
    client.sendall(b"x" * 300_000)
    client.close()
    world.until(lambda: server.lost)
    assert len(server.got) == 300_000


def test_reset(world: World) -> None:
    """A reset is told as ConnectionLost."""
    client, server = world.pair()
    reset(client)
    world.until(lambda: server.lost)
    assert server.lost.check(ConnectionLost)


def test_abort_sends_a_reset(world: World) -> None:
    """An abort drops output, resets the peer, and is told as ConnectionAborted, not before it returns."""
    client, server = world.pair()
    server.transport.write(b"x" * 20_000_000)
    server.transport.abortConnection()
    server.transport.abortConnection()
    server.transport.write(b"late")
    assert not server.told
    world.until(lambda: server.lost)
    assert server.lost.check(ConnectionAborted)

    def is_reset() -> bool:
        try:
            while client.recv(1 << 20):
                pass
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        raise AssertionError("it was a FIN")

    world.until(is_reset)
    world.turns()
    assert server.told == 1


def test_abort_after_lose_connection(world: World) -> None:
    """An abort ends also what waits for its output to leave."""
    client, server = world.pair()
    server.transport.write(b"x" * 20_000_000)
    server.transport.loseConnection()
    world.turns()
    assert not server.told
    assert server.transport.disconnecting
    server.transport.abortConnection()
    world.until(lambda: server.lost)
    assert server.lost.check(ConnectionAborted)
    assert client


def test_lose_connection_flushes(world: World) -> None:
    """Whatever was written before loseConnection arrives, and what comes after it does not."""
    client, server = world.pair()
    data = os.urandom(1 << 20) * 16
    server.transport.write(data)
    server.transport.loseConnection()
    server.transport.write(b"late")
    assert world.receive(client) == data
    world.until(lambda: server.lost)
    assert server.lost.check(ConnectionDone)


def test_write_sequence(world: World) -> None:
    """A sequence is written whole; what is no bytes is refused."""
    client, server = world.pair()
    server.transport.writeSequence(iter([b"ab", b"", b"cd"]))
    assert world.receive(client, 4) == b"abcd"
    with pytest.raises(TypeError):
        server.transport.writeSequence(["text"])
    with pytest.raises(TypeError):
        server.transport.write("text")


def test_our_half_close(world: World) -> None:
    """LoseWriteConnection sends FIN when the output has left, tells so, and reads on."""
    client, server = world.pair(HalfCloseable)
    server.transport.write(b"x" * 20_000_000)
    server.transport.loseWriteConnection()
    server.transport.loseWriteConnection()
    assert server.events == []
    assert len(world.receive(client)) == 20_000_000
    world.until(lambda: server.events == ["write"])
    client.sendall(b"still here")
    world.until(lambda: server.got == b"still here")
    server.transport.write(b"late")
    client.close()
    world.until(lambda: server.events == ["write", "read"])
    server.transport.loseConnection()
    world.until(lambda: server.lost)
    assert server.lost.check(ConnectionDone)


def test_our_half_close_of_one_that_is_not_half_closeable(world: World) -> None:
    """A protocol that is not half-closeable can close its half; the peer's FIN ends the connection."""
    client, server = world.pair()
    server.transport.write(b"bye")
    server.transport.loseWriteConnection()
    assert world.receive(client) == b"bye"
    client.sendall(b"more")
    world.until(lambda: server.got == b"more")
    client.close()
    world.until(lambda: server.lost)
    assert server.lost.check(ConnectionDone)


def test_the_peers_half_close(world: World) -> None:
    """A half-closeable protocol is told of a FIN, and goes on writing."""
    client, server = world.pair(HalfCloseable)
    client.sendall(b"ask")
    client.shutdown(socket.SHUT_WR)
    world.until(lambda: server.events == ["read"])
    assert server.got == b"ask"
    server.transport.resumeProducing()
    server.transport.write(b"answer")
    assert world.receive(client, 6) == b"answer"
    server.transport.loseConnection()
    assert world.receive(client) == b""
    assert server.events == ["read"]


@pytest.mark.parametrize("which", ["read", "write"])
def test_half_close_raises(world: World, logged: list[dict[str, Any]], which: str) -> None:
    """What a half-closeable protocol raises as it is told of a half close ends its connection, and is logged once."""

    @implementer(IHalfCloseableProtocol)
    class Raises(Recorder):
        def readConnectionLost(self) -> None:
            raise ValueError("ours")

        writeConnectionLost = readConnectionLost

    client, server = world.pair(Raises)
    if which == "read":
        client.shutdown(socket.SHUT_WR)
    else:
        server.transport.loseWriteConnection()
    world.until(lambda: server.lost)
    assert server.lost.check(ValueError)
    assert len(failures(logged)) == 1


def test_the_end_of_the_reactor(world: World) -> None:
    """A reactor that stops tells each protocol, once, and closes each descriptor."""
    world.listen()  # the spare descriptors of Twisted and libuv come with the first port
    before = world.until(descriptors)
    port = world.listen(HalfCloseable)
    pairs = [world.pair(port=port) for _ in range(4)]
    pairs[0][1].transport.pauseProducing()
    pairs[1][0].shutdown(socket.SHUT_WR)
    world.until(lambda: pairs[1][1].events)
    world.reactor.disconnectAll()
    assert [server.lost.check(ConnectionLost) for _, server in pairs] == [ConnectionLost] * 4
    for client, _ in pairs:
        client.close()
    world.until(lambda: descriptors() <= before)
    assert [server.told for _, server in pairs] == [1] * 4


# What raises


@pytest.mark.parametrize("error", [ValueError("ours"), OSError(errno.ENOENT, "ours"), ConnectionResetError("ours")])
def test_data_received_raises(world: World, logged: list[dict[str, Any]], error: Exception) -> None:
    """What dataReceived raises ends its own connection, is told to it as the reason, and is logged once."""

    class Raises(Recorder):
        def dataReceived(self, data: bytes) -> None:
            raise error

    port = world.listen(Raises)
    client, server = world.pair(port=port)
    _, other = world.pair(port=port)
    client.sendall(b"x")
    world.until(lambda: server.lost)
    assert server.lost.value is error
    assert failures(logged) == [error]
    assert other.lost is None
    assert world.receive(client) == b""


def test_connection_made_raises(world: World, logged: list[dict[str, Any]]) -> None:
    """What connectionMade raises ends its own connection, and is logged once."""

    class Raises(Recorder):
        def connectionMade(self) -> None:
            raise ValueError("ours")

    client, server = world.pair(Raises)
    world.until(lambda: server.lost)
    assert server.lost.check(ValueError)
    assert len(failures(logged)) == 1
    assert world.receive(client) == b""


def test_connection_lost_raises(world: World, logged: list[dict[str, Any]]) -> None:
    """What connectionLost raises is logged, and the descriptor is closed."""

    class Raises(Recorder):
        def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
            raise ValueError("ours")

    client, server = world.pair(Raises)
    server.transport.loseConnection()
    assert world.receive(client) == b""
    assert len(failures(logged)) == 1


def test_build_protocol_raises_or_returns_none(world: World, logged: list[dict[str, Any]]) -> None:
    """A factory that raises, or wants no protocol, ends that connection alone; the port goes on."""

    class Choosy(Factory):
        answers: tuple[Any, ...] = ()

        def buildProtocol(self, addr: Any) -> Any:
            answer, *self.answers = self.answers  # type: ignore[assignment]
            if isinstance(answer, Exception):
                raise answer
            return answer

    factory, last = Choosy(), Echo()
    factory.answers = (ValueError("ours"), None, last)
    port = world.reactor.listenTCP(0, factory, interface="127.0.0.1")
    assert world.receive(world.connect(port)) == b""
    assert world.receive(world.connect(port)) == b""
    client = world.connect(port)
    client.sendall(b"x")
    assert world.receive(client, 1) == b"x"
    assert len(failures(logged)) == 1


# Reading and its pauses


def test_pause_and_resume(world: World) -> None:
    """A paused transport delivers nothing, neither data nor FIN; resumed, it delivers both."""
    client, server = world.pair()
    server.transport.pauseProducing()
    server.transport.pauseProducing()
    client.sendall(b"later")
    client.close()
    world.turns()
    assert (server.got, server.lost) == (b"", None)
    server.transport.resumeProducing()
    world.until(lambda: server.lost)
    assert server.got == b"later"


def test_pause_in_connection_made(world: World) -> None:
    """A protocol that pauses as its connection is made gets nothing until it resumes; uvloop would read."""

    class Pauses(Recorder):
        def connectionMade(self) -> None:
            self.transport.pauseProducing()

    port = world.listen(Pauses)
    client = world.connect(port)
    client.sendall(b"early")
    client.shutdown(socket.SHUT_WR)
    server = world.until(lambda: world.made and world.made[0])
    world.turns()
    assert (server.got, server.lost) == (b"", None)
    server.transport.resumeProducing()
    assert server.got == b""  # never before resumeProducing returns
    world.until(lambda: server.lost)
    assert server.got == b"early"
    assert server.lost.check(ConnectionDone)


def test_pause_in_connection_made_and_an_end(world: World) -> None:
    """What was kept for a protocol that paused is dropped with the connection."""

    class Pauses(Recorder):
        def connectionMade(self) -> None:
            self.transport.pauseProducing()

    port = world.listen(Pauses)
    client = world.connect(port)
    client.sendall(b"early")
    server = world.until(lambda: world.made and world.made[0])
    world.turns()
    server.transport.resumeProducing()
    server.transport.abortConnection()
    world.until(lambda: server.lost)
    world.turns()
    assert server.got == b""
    assert server.lost.check(ConnectionAborted)


def test_pause_inside_data_received(world: World) -> None:
    """A protocol that pauses on the first piece gets no second one."""

    class Pauses(Recorder):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            self.transport.pauseProducing()

    client, server = world.pair(Pauses)
    client.sendall(b"x" * 1_000_000)
    world.until(lambda: server.got)
    size = len(server.got)
    world.turns()
    assert len(server.got) == size < 1_000_000


def test_another_protocol(world: World) -> None:
    """Once another protocol is assigned, it alone gets the data and hears of the end, also from within dataReceived."""
    other = Recorder()

    class Switches(Recorder):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            self.transport.protocol = other
            other.makeConnection(self.transport)

    client, server = world.pair(Switches)
    client.sendall(b"first")
    world.until(lambda: server.got == b"first")
    assert server.transport.protocol is other
    client.sendall(b"second")
    world.until(lambda: other.got == b"second")
    client.close()
    world.until(lambda: other.lost)
    assert (server.got, server.lost) == (b"first", None)


# Producers


def test_push_producer(world: World) -> None:
    """A push producer is paused as the buffer fills, resumed as it leaves, and stopped with the connection."""
    client, server = world.pair()
    producer = Producer()
    server.transport.registerProducer(producer, True)
    with pytest.raises(RuntimeError):
        server.transport.registerProducer(Producer(), True)
    server.transport.write(b"x" * 20_000_000)
    assert producer.events == ["pause"]
    world.receive(client, 20_000_000)
    world.until(lambda: producer.events == ["pause", "resume"])
    client.close()
    world.until(lambda: server.lost)
    assert producer.events == ["pause", "resume", "stop"]
    late = Producer()
    server.transport.registerProducer(late, True)
    assert late.events == ["stop"]


def test_push_producer_that_comes_late(world: World) -> None:
    """A push producer that is registered while the buffer is full is paused."""
    client, server = world.pair()
    server.transport.write(b"x" * 20_000_000)
    producer = Producer()
    server.transport.registerProducer(producer, True)
    assert producer.events == ["pause"]
    world.receive(client, 20_000_000)
    world.until(lambda: producer.events == ["pause", "resume"])


def test_a_producer_that_raises_or_ends(world: World, logged: list[dict[str, Any]]) -> None:
    """A producer that raises as it is stopped does not keep the protocol from hearing of the end; stopConsuming ends the connection."""

    class Raises(Producer):
        def stopProducing(self) -> None:
            raise ValueError("ours")

    port = world.listen()
    client, server = world.pair(port=port)
    server.transport.registerProducer(Raises(), True)
    client.close()
    world.until(lambda: server.lost)
    assert len(failures(logged)) == 1
    client, server = world.pair(port=port)
    server.transport.registerProducer(Producer(), True)
    server.transport.stopConsuming()
    assert world.receive(client) == b""


def test_lose_connection_waits_for_the_producer(world: World) -> None:
    """With a producer, loseConnection ends the connection once the producer is done, and sends what it wrote till then."""
    client, server = world.pair()
    producer = Producer()
    server.transport.registerProducer(producer, True)
    server.transport.write(b"begin ")
    server.transport.loseConnection()
    world.turns()
    assert server.lost is None
    server.transport.write(b"end")
    server.transport.unregisterProducer()
    assert world.receive(client) == b"begin end"
    world.until(lambda: server.lost)
    assert producer.events == []


@pytest.mark.parametrize("size", [1, 3_000_000])
def test_pull_producer(world: World, size: int) -> None:
    """A pull producer is asked for more each time that what it wrote has left, and never within its own call."""
    client, server = world.pair()
    transport = server.transport

    class Pulled(Producer):
        left, inside = 5, False

        def resumeProducing(self) -> None:
            assert not self.inside
            self.inside = True
            transport.write(b"x" * size)
            self.left -= 1
            if not self.left:
                transport.unregisterProducer()
                transport.write(b"end")
                transport.loseConnection()
            self.inside = False

    transport.registerProducer(Pulled(), False)
    assert world.receive(client) == b"x" * size * 5 + b"end"


def test_half_close_waits_for_a_pull_producer(world: World) -> None:
    """With a pull producer, loseWriteConnection closes our half once the producer is done."""
    client, server = world.pair(HalfCloseable)
    producer = Producer()
    server.transport.registerProducer(producer, False)
    server.transport.loseWriteConnection()
    server.transport.write(b"all")
    world.until(lambda: producer.events == ["resume", "resume"])
    assert server.events == []
    server.transport.unregisterProducer()
    assert world.receive(client) == b"all"
    world.until(lambda: server.events == ["write"])


# Options


def test_options(world: World) -> None:
    """TCP_NODELAY is set at first, and can be cleared and set; so can keepalive; the socket gives all others."""
    _, server = world.pair()
    transport = server.transport
    assert transport.getTcpNoDelay()
    transport.setTcpNoDelay(True)
    transport.setTcpNoDelay(False)
    assert not transport.getTcpNoDelay()
    transport.setTcpNoDelay(True)
    assert transport.getTcpNoDelay()
    assert not transport.getTcpKeepAlive()
    transport.setTcpKeepAlive(True)
    assert transport.getTcpKeepAlive()
    handle = transport.getHandle()
    assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    assert handle.fileno() == transport.fileno() > 0
    assert "Recorder" in transport.logPrefix()
    assert "Recorder" in repr(transport)


# Ports


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


def test_adopted_connection(world: World) -> None:
    """An adopted connection is served on a duplicate of its descriptor."""
    ours, client = socket.socketpair()
    with ours, client:
        client.setblocking(False)
        transport = world.reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, world.factory(Echo))
        assert isinstance(transport, LoopTransport)
        ours.close()
        client.sendall(b"x")
        assert world.receive(client, 1) == b"x"
    with pytest.raises(UnsupportedAddressFamily):
        world.reactor.adoptStreamConnection(0, 12345, world.factory())


def test_a_server_that_the_loop_has_closed(world: World) -> None:
    """A port whose server uvloop has closed for an error, without a word, listens again within a second or two."""
    if not world.reactor.native:
        pytest.skip("asyncio's loop has no server here")
    port = world.listen(Echo)
    port._server.close()
    client = world.connect(port)
    client.sendall(b"x")
    assert world.receive(client, 1) == b"x"


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


# Storms


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


def test_resets_against_clients(world: World) -> None:
    """Clients of connectTCP that are reset, with data unread before the reset, each hear of it, and no descriptor stays."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        listening.setblocking(False)
        before = world.until(descriptors)
        ends = []

        class Client(Recorder):
            def connectionMade(self) -> None:
                self.transport.write(b"x" * 1000)

            def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
                ends.append(reason)

        class Clients(ClientFactory):
            noisy = False
            protocol = Client

            def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
                ends.append(reason)  # the reset was there before the connection was noticed

        factory = Clients()
        for number in range(100):
            world.reactor.connectTCP("127.0.0.1", listening.getsockname()[1], factory)
            world.until(lambda: select.select([listening], [], [], 0)[0])
            accepted, _ = listening.accept()
            accepted.sendall(b"y" * 1000)
            if number % 2:
                world.turns(1)
            reset(accepted)
        world.until(lambda: len(ends) == 100)
        world.until(lambda: descriptors() <= before)
        assert all(each.check(ConnectionLost, ConnectionDone, ConnectError) for each in ends)


OUT_OF_DESCRIPTORS = """
    import os, resource, socket, subprocess, sys, time, asyncio
    from twistedws.reactor import LoopReactor, new_event_loop
    loop = new_event_loop() if sys.argv[1] == "uvloop" else asyncio.new_event_loop()
    reactor = LoopReactor(loop)
    from twisted.internet.protocol import Factory, Protocol
    from twisted.logger import globalLogPublisher
    logged = []
    globalLogPublisher.addObserver(lambda event: logged.append(str(event.get("log_format", ""))))

    class Echo(Protocol):
        def dataReceived(self, data):
            self.transport.write(data)

    async def until(condition, seconds=10):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    def answers(client):
        try:
            return client.recv(1) == b"x"
        except BlockingIOError:
            return False

    async def main():
        reactor.startRunning(False)
        port = reactor.listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1", backlog=200)
        clients = [socket.socket() for _ in range(40)]
        await until(lambda: reactor.ports)
        free = os.open(os.devnull, os.O_RDONLY)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        # first at the limit, then, which is worse, below what is open already: then even libuv's spare descriptor cannot be had again
        for most, more in ((200, 8), (300, -4)):
            while (top := os.dup(free)) < most:  # so that there are no gaps below it
                pass
            limit = top + more
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            for each in clients[:20]:
                each.setblocking(False)
                each.connect_ex(("127.0.0.1", port.getHost().port))
            await until(lambda: reactor.starved)
            burnt = time.process_time()
            await asyncio.sleep(1.5)
            assert time.process_time() - burnt < 0.5, "it spins"
            assert reactor.starved
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            await until(lambda: not reactor.starved, 2)
            with socket.socket() as client:
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port.getHost().port))
                await until(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0)
                client.send(b"x")
                await until(lambda: answers(client))
            for each in clients[:20]:
                each.close()
            await until(lambda: not reactor.connections)
            clients = clients[20:]
        about = [each for each in logged if "descriptors" in each]
        assert len(about) == 4, about
        print("survived")

    loop.run_until_complete(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_out_of_descriptors(loop: str, tmp_path: Path) -> None:
    """Without descriptors a port neither spins nor dies, says so in one line, and accepts within a second of there being some again."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(OUT_OF_DESCRIPTORS))
    done = subprocess.run([sys.executable, str(script), loop], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert "survived" in done.stdout, done.stdout + done.stderr


# TLS and PROXY


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
    import ssl

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
    import ssl

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
    import ssl

    def came() -> bool:
        try:
            return bool(tls.recv(1) == b"")
        except ssl.SSLWantReadError:
            return False

    world.until(came)
    tls.close()


def listen_on(world: World, description: str, kind: type[Protocol] = Echo) -> Any:
    ports: list[Any] = []
    serverFromString(world.reactor, description).listen(world.factory(kind)).addCallback(ports.append)
    return world.until(lambda: ports)[0]


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


def test_haproxy_endpoint(world: World) -> None:
    """A ``haproxy:`` endpoint tells the address that the PROXY header names."""
    port = listen_on(world, "haproxy:tcp:0:interface=127.0.0.1")
    client = world.connect(port)
    client.sendall(b"PROXY TCP4 198.51.100.7 192.0.2.1 1234 80\r\nhello")
    assert world.receive(client, 5) == b"hello"
    assert world.made[0].transport.getPeer() == IPv4Address("TCP", "198.51.100.7", 1234)


# The rest of the reactor


def test_timers_are_not_early(world: World) -> None:
    """A timer comes at its time, not before it, by a clock that can be replaced, and without a spin before it."""
    world.reactor.seconds = time.monotonic
    for delay in (0.0004, 0.0014, 0.0106, 0.02):
        came: list[float] = []
        begun = time.monotonic()
        world.reactor.callLater(delay, lambda: came.append(time.monotonic()))  # noqa: B023 - it is called in this round
        world.until(lambda: came)  # noqa: B023
        assert came[0] - begun >= delay


def test_an_earlier_timer(world: World) -> None:
    """A timer that is set after a later one comes first."""
    came: list[str] = []
    late = world.reactor.callLater(60, came.append, "late")
    world.reactor.callLater(0.01, came.append, "soon")
    world.until(lambda: came)
    assert came == ["soon"]
    late.reset(0)
    world.until(lambda: len(came) == 2)


def test_a_descriptor_that_was_closed_without_a_word(world: World) -> None:
    """A reader whose descriptor was closed does not keep the next with that number from being read."""
    from twisted.internet.abstract import FileDescriptor

    class Reads(FileDescriptor):
        def __init__(self, handle: socket.socket) -> None:
            super().__init__(world.reactor)
            self.handle, self.reads = handle, 0
            self.fileno = handle.fileno  # type: ignore[method-assign]

        def doRead(self) -> None:
            self.handle.recv(10)
            self.reads += 1

    ours, theirs = socket.socketpair()
    stale = Reads(ours)
    world.reactor.addReader(stale)
    ours.close()
    theirs.close()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fresh = Reads(ours)
        world.reactor.addReader(fresh)
        world.reactor.removeReader(stale)
        theirs.send(b"x")
        world.until(lambda: fresh.reads)
        world.reactor.removeReader(fresh)
    assert stale.reads == 0


CHILD = """
    import asyncio, sys
    from twistedws.reactor import install, new_event_loop
    install(new_event_loop() if sys.argv[1] == "uvloop" else asyncio.new_event_loop())
    from twisted.internet import reactor
    from twisted.internet.protocol import ProcessProtocol

    class Child(ProcessProtocol):
        def outReceived(self, data):
            print(data.decode(), end="", flush=True)

        def processEnded(self, reason):
            print("with status", reason.value.exitCode, flush=True)
            reactor.stop()

    reactor.callWhenRunning(reactor.spawnProcess, Child(), sys.executable, [sys.executable, "-c", "print('ended'); raise SystemExit(3)"])
    reactor.run()
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_child_that_ends(loop: str) -> None:
    """The end of a child is noticed, though uvloop takes the signals' descriptor for itself; a reactor that stops returns from run."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(CHILD), loop], capture_output=True, text=True, timeout=30, check=False,
                          cwd=ROOT)  # fmt: skip
    assert done.stdout == "ended\nwith status 3\n", done.stderr
    assert done.returncode == 0


def test_twistd_knows_it() -> None:
    """``twistd --reactor=uvloop`` is offered, and installs it."""
    done = subprocess.run([sys.executable, "-m", "twisted", "--help"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "uvloop" in done.stdout, done.stdout + done.stderr
    script = "from twistedws.reactor import *; install(); from twisted.internet import reactor as r; print(type(r).__name__, r.native)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.split() == ["LoopReactor", "True"], done.stderr
