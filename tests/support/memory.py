"""A network in memory, on a ``Clock``: our protocol at one end, a real Autobahn client or raw bytes at the other; no reactor.

A ``Link`` joins two ``MemoryTransport``s. Bytes written at one end wait there, as in a socket's buffer, until ``flush`` carries them
over; an end that has paused reading, or a link that is ``cut``, lets them wait. Ends are told of each other's FIN and RST the way
Twisted's own TCP tells them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from twistedws import config
from twistedws.drain import Drain
from twistedws.errors import Cause, Close
from twistedws.exchange import Answerer
from twistedws.handshake import Request
from twistedws.keepalive import TICK, KeepaliveService
from twistedws.metrics import Metrics
from twistedws.origin import OriginPolicy
from twistedws.protocol import Site, SiteFactory
from twistedws.proxy import TrustedProxies
from twistedws.registry import Registry
from twistedws.session import Application, Handler, Session

HIGH_WATER = 65536  # as Twisted's own transports


@implementer(ITCPTransport)
class MemoryTransport:
    """One end of a link."""

    def __init__(self, host: IPv4Address, peer: IPv4Address) -> None:
        self._host, self._peer = host, peer
        self.other: MemoryTransport
        self.protocol: Any = None
        self.out = bytearray()
        self.reading = True
        self.disconnecting = self.half_closed = self.aborted = self.lost = False
        self.no_delay: bool | None = None
        self._producer: Any = None
        self._producer_paused = False

    def write(self, data: bytes) -> None:
        if self.disconnecting or self.half_closed or self.aborted or self.lost:
            return
        self.out += data
        if self._producer is not None and len(self.out) > HIGH_WATER and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.disconnecting = True
        self.reading = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = not self.disconnecting

    def stopProducing(self) -> None:
        self.loseConnection()

    def getPeer(self) -> IPv4Address:
        return self._peer

    def getHost(self) -> IPv4Address:
        return self._host

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def getTcpNoDelay(self) -> bool:
        return bool(self.no_delay)

    def setTcpKeepAlive(self, enabled: bool) -> None: ...

    def getTcpKeepAlive(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return len(self.out)

    def taken(self, octets: int) -> None:
        """The peer's machine has taken so many bytes, out of sight of the peer."""
        del self.out[:octets]
        self._after_writing()

    def carry(self) -> bool:
        """Carry what waits here to the other end; say whether anything happened."""
        if self.lost:
            return False
        if self.aborted:
            self.lose(ConnectionAborted())
            self.other.lose(ConnectionLost())
            return True
        if self.out:
            if not self.other.reading or self.other.lost:
                return False
            data = bytes(self.out)
            self.out.clear()
            self.other.protocol.dataReceived(data)
            self._after_writing()
            return True
        if (self.disconnecting or self.half_closed) and (self.other.reading or self.other.disconnecting or self.other.lost):
            # neither end takes half a connection: its FIN answers ours
            if self.disconnecting or not self.other.out:
                self.lose(ConnectionDone())
            self.other.lose(ConnectionDone())
            return True
        return False

    def lose(self, error: Exception) -> None:
        """The connection is gone."""
        if not self.lost:
            self.lost = True
            self.protocol.connectionLost(Failure(error))

    def _after_writing(self) -> None:
        if not self.out and self._producer_paused:
            self._producer_paused = False
            if self._producer is not None:
                self._producer.resumeProducing()


class Link:
    """Two ends and what joins them."""

    def __init__(self, server: Any, client: Any, address: str = "192.0.2.1", port: int = 50000) -> None:
        here, there = IPv4Address("TCP", "192.0.2.80", 80), IPv4Address("TCP", address, port)
        self.server, self.client = MemoryTransport(here, there), MemoryTransport(there, here)
        self.server.other, self.client.other = self.client, self.server
        self.server.protocol, self.client.protocol = server, client
        self.cut = False

    def flush(self) -> bool:
        if self.cut:
            return self.server.aborted and self.server.carry()
        moved = self.client.carry()
        return self.server.carry() or moved


class RawPeer(Protocol):
    """A peer of bytes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended: type[BaseException] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = reason.type

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class Client(WebSocketClientProtocol):  # type: ignore[misc]
    """A real WebSocket client that notes what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str | bytes] = []
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.is_opened = False
        self.response: Any = None
        self.ended: tuple[bool, int | None, str | None] | None = None
        self.answers_pings = True

    def onConnect(self, response: Any) -> None:
        self.response = response

    def onOpen(self) -> None:
        self.is_opened = True

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.messages.append(payload if isBinary else payload.decode())

    def onPing(self, payload: bytes) -> None:
        self.pings.append(payload)
        if self.answers_pings:
            self.sendPong(payload)

    def onPong(self, payload: bytes) -> None:
        self.pongs.append(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.ended = (wasClean, code, reason)

    def say(self, message: str | bytes) -> None:
        self.sendMessage(message.encode() if isinstance(message, str) else message, isBinary=isinstance(message, bytes))


class Recorder:
    """A handler that notes what it hears, and echoes if told so."""

    def __init__(self, session: Session, *, echo: bool = True) -> None:
        self.session, self.echo = session, echo
        self.heard: list[Any] = []

    def opened(self, session: Session) -> None:
        self.heard.append("opened")

    def received(self, session: Session, message: str | bytes) -> None:
        self.heard.append(message)
        if self.echo:
            session.send(message)

    def closed(self, session: Session, close: Close) -> None:
        self.heard.append(close)

    @property
    def close(self) -> Close:
        """How the session ended."""
        last = self.heard[-1]
        assert isinstance(last, Close), f"not closed: {self.heard}"
        return last


class Ledger:
    """Notes what the log would be told."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.refusals: list[tuple[Cause | None, int | None, str]] = []
        self.ends: list[Close] = []
        self.answers: list[tuple[str, str, int, Cause | None]] = []  # peer, target, status, why it was cut

    def opened(self, session: Session) -> None:
        self.sessions.append(session)

    def closed(self, session: Session, duration: float) -> None:
        assert session.ending is not None
        self.ends.append(session.ending)

    def refused(self, peer: str, cause: Cause | None, status: int | None, why: str) -> None:
        self.refusals.append((cause, status, why))

    def answered(self, peer: str, request: Request, status: int, octets: int, duration: float, cause: Cause | None) -> None:
        self.answers.append((peer, request.target, status, cause))


def _start(awaitable: Awaitable[None]) -> Deferred[None]:
    async def run() -> None:
        await awaitable

    return Deferred.fromCoroutine(run())


class World:
    """A server's parts on a clock, and the links to it.

    Args:
        build: Makes the handlers; by default ``Recorder``s.
        settings: Values by the name of their setting, as ``ping_interval=1``.
    """

    def __init__(
        self,
        build: Callable[[Session], Handler] | None = None,
        *,
        admit: Callable[[Session], Awaitable[None] | None] | None = None,
        subprotocols: tuple[str, ...] = (),
        page: bytes | None = None,
        answerer: Answerer | None = None,
        most_connections: int = 0,
        **settings: Any,
    ) -> None:
        self.clock, self.ledger, self.registry, self.metrics = Clock(), Ledger(), Registry(), Metrics()
        self.clock.advance(1000.0)
        self.handlers: list[Any] = []
        self.links: list[Link] = []
        make = build or Recorder

        def remember(session: Session) -> Handler:
            handler = make(session)
            self.handlers.append(handler)
            return handler

        line = {name.replace("_", "-"): value if isinstance(value, list) else str(value) for name, value in settings.items()}
        configuration = config.resolve(command_line=line, environment={}).configuration
        self.shutdown = configuration.shutdown
        keepalive = KeepaliveService(configuration.keepalive, configuration.output.write_stall_timeout, self.clock)
        keepalive.startService()
        self.wheel = keepalive.wheel
        self.factory = SiteFactory(
            Site(
                application=Application(remember, "test", admit, subprotocols, page, answerer=answerer),
                handshake=configuration.handshake,
                limits=configuration.limits,
                output=configuration.output,
                shutdown=configuration.shutdown,
                origins=OriginPolicy(configuration.handshake.origin),
                keepalive=keepalive,
                registry=self.registry,
                metrics=self.metrics,
                observer=self.ledger,
                clock=self.clock,
                start=_start,
                proxies=TrustedProxies(configuration.proxying.trusted_proxies, configuration.proxying.proxy_headers),
                http=configuration.http,
                most_connections=most_connections,
            )
        )

    @property
    def handler(self) -> Any:
        """The handler of the only session."""
        (handler,) = self.handlers
        return handler

    def join(self, peer: Any, address: str = "192.0.2.1") -> Link:
        """Connect a peer."""
        server = self.factory.buildProtocol(None)
        link = Link(server, peer, address, 50000 + len(self.links))
        self.links.append(link)
        server.makeConnection(link.server)
        peer.makeConnection(link.client)
        self.flush()
        return link

    def raw(self, data: bytes = b"", address: str = "192.0.2.1") -> RawPeer:
        """Connect a peer of bytes, and send some."""
        peer = RawPeer()
        self.join(peer, address)
        if data:
            peer.send(data)
            self.flush()
        return peer

    def client(self, path: str = "/", *, protocols: list[str] | None = None, origin: str | None = None, deflate: Any = None) -> Client:
        """Connect a real WebSocket client."""
        factory = WebSocketClientFactory(f"ws://example.com{path}", origin=origin, protocols=protocols, reactor=self.clock)
        factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0, failByDrop=False)
        if deflate is not None:
            factory.setProtocolOptions(perMessageCompressionOffers=deflate[0], perMessageCompressionAccept=deflate[1])
        client = Client()
        client.factory = factory
        self.join(client)
        return client

    def flush(self) -> None:
        """Carry everything that can be carried, in as many turns of the loop as that takes."""
        while any([link.flush() for link in self.links]):  # noqa: C419 - every link, not only up to the first that moved
            self.clock.advance(0)

    def advance(self, seconds: float) -> None:
        """Let time pass, the network working all the while."""
        for _ in range(round(seconds / TICK)):
            self.clock.advance(TICK)
            self.flush()

    def drain(self) -> tuple[Drain, list[float]]:
        """Start a drain; the list gets the time when it is done."""
        drain, done = Drain(self.registry, self.shutdown, self.clock), list[float]()
        drain.start().addCallback(lambda _: done.append(self.clock.seconds()))
        self.flush()
        return drain, done


KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


def request(*more: bytes, path: bytes = b"/", host: bytes = b"example.com") -> bytes:
    """The head of an opening handshake, with further header lines."""
    lines = [b"GET " + path + b" HTTP/1.1", b"Host: " + host, b"Upgrade: websocket", b"Connection: Upgrade"]
    lines += [b"Sec-WebSocket-Key: " + KEY, b"Sec-WebSocket-Version: 13", *more]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def masked(first: int, payload: bytes = b"", *, mask: bytes = b"\x00\x00\x00\x00", length: int | None = None) -> bytes:
    """A client's frame, with a declared length that may be a lie."""
    size = len(payload) if length is None else length
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + mask + bytes(each ^ mask[index % 4] for index, each in enumerate(payload))
