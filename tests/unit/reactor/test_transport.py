"""``twistedws.reactor.transport``: connections over TCP, on uvloop's loop and on asyncio's."""

from __future__ import annotations

import errno
import gc
import os
import socket
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, ITCPTransport
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.support.reactor import Echo, HalfCloseable, Producer, Recorder, World, failures, reset

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


def test_an_ordinary_connection_has_no_dictionary(world: World) -> None:
    """A connection that is made, served, paused, resumed and ended has no ``__dict__``, which costs memory."""

    def dictionaries() -> list[Any]:
        return [each for each in gc.get_referents(transport) if isinstance(each, dict)]

    client, server = world.pair(Echo)
    transport = server.transport
    transport.setTcpNoDelay(True)
    client.sendall(b"ping")
    assert world.receive(client, 4) == b"ping"
    transport.pauseProducing()
    transport.resumeProducing()
    transport.write(b"x" * 5_000_000)
    assert len(world.receive(client, 5_000_000)) == 5_000_000
    assert dictionaries() == []
    client.close()
    world.until(lambda: server.lost)
    assert dictionaries() == []
    assert transport.__dict__ == {}  # this makes it
    assert len(dictionaries()) == 1


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
