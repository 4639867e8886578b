"""Our reactor for a test that uses real sockets, run only as long as the test waits for something; and protocols that take notes."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from twisted.internet.address import IPv6Address, UNIXAddress
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from twistedws.reactor import LoopReactor

ROOT = Path(__file__).resolve().parents[2]
LOOPS = ("uvloop", "asyncio")
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


def listen_on(world: World, description: str, kind: type[Protocol] = Echo) -> Any:
    ports: list[Any] = []
    serverFromString(world.reactor, description).listen(world.factory(kind)).addCallback(ports.append)
    return world.until(lambda: ports)[0]


def failures(logged: list[dict[str, Any]]) -> list[BaseException]:
    return [each["log_failure"].value for each in logged if each.get("log_failure")]


def reset(client: socket.socket) -> None:
    """Close a socket with a TCP reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def descriptors() -> int:
    """Return how many there are; to be called inside ``until``, since uvloop has a pair of its own as long as it runs."""
    return len(list(Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd").iterdir()))
