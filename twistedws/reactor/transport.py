"""A connection on the loop's own transport, as Twisted sees it.

Owns the way between the two: data, ends, pauses, producers, half-closes. Its laws:

- Nothing stands between the loop and the protocol: see ``LoopTransport``.
- A connection's state is in the bits of ``state``, and a connection with nothing out of the ordinary has no ``__dict__``: ask a bit.
- It knows neither ports nor the reactor, only where it comes from: an ``Origin``.
"""

# mypy: disallow-untyped-calls=False
# (Twisted's reactors and transports have no annotations)

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

from twisted.internet import tcp
from twisted.internet.abstract import _dataMustBeBytes
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    ILoggingContext,
    IPushProducer,
    ISystemHandle,
    ITCPTransport,
    ITLSTransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twistedws.reactor import tls
from twistedws.reactor.state import (
    ABORTED,
    ABORTING,
    CONNECTED,
    DELAYED,
    DISCONNECTED,
    DISCONNECTING,
    DONE,
    FAILED,
    FULL,
    HOLDING,
    LOST,
    NOT_WANTED,
    PAUSED,
    PRODUCER_PAUSED,
    PULLING,
    READ_CLOSED,
    SECURE,
    STREAMING,
    WRITE_CLOSED,
    WRITE_CLOSING,
)

_log = Logger()

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close(2) sends a reset


def _drop(data: bytes) -> None:
    """Be ``write``, or ``data_received``, of a connection that takes no more."""


class Origin(Protocol):
    """Where a connection comes from: a listening port, or an adopted descriptor."""

    reactor: Any

    def arrived(self, transport: LoopTransport) -> None:
        """The loop has made its transport."""

    def vanished(self, transport: LoopTransport) -> None:
        """The connection has ended, and no protocol was told that there was one."""


@implementer(ITCPTransport, ITLSTransport, ISystemHandle, IConsumer, IPushProducer, ILoggingContext)
class LoopTransport:
    """A connection: the asyncio protocol of the loop's transport, and the transport of Twisted's protocol.

    One object is both, to spare memory. ``protocol.dataReceived`` is looked up once, when the protocol is made or is assigned to
    ``protocol``: who replaces the method later must assign the protocol again. Twisted's own transports look it up for each piece.

    Args:
        origin: Where it comes from.
    """

    __slots__ = ("__dict__", "__weakref__", "_flags", "_loop_transport", "_origin", "_protocol", "data_received", "producer", "write")

    TLS = False
    bufferSize = 65536  # what a Twisted transport buffers before it pauses a producer: both loops' high-water mark

    data_received: Callable[[bytes], None]
    write: Callable[[bytes], None]
    _loop_transport: Any
    _held: list[bytes]  # what came before it was wanted; there only while it is HOLDING
    _failure: Failure  # what a protocol raised, or what else the end is for; there only once it has FAILED

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._flags = 0
        self._protocol: Any = None
        self.producer: Any = None

    # The loop's side: asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        """The loop has made its transport."""
        self._loop_transport = transport
        self._origin.arrived(self)

    def eof_received(self) -> bool:
        """The peer has sent FIN.

        Returns:
            Whether the loop is to leave the connection open.
        """
        self._flags |= READ_CLOSED
        return bool(self._flags & HOLDING) or self._end_of_input()

    def pause_writing(self) -> None:
        """The loop's buffer is over its high-water mark."""
        self._flags |= FULL
        if self.producer is not None and self._flags & STREAMING:
            self._flags |= PRODUCER_PAUSED
            self.producer.pauseProducing()

    def resume_writing(self) -> None:
        """The loop's buffer has left."""
        self._flags = flags = self._flags & ~FULL
        if self.producer is not None and (flags & PRODUCER_PAUSED or not flags & STREAMING):
            self._flags = flags & ~PRODUCER_PAUSED
            self.producer.resumeProducing()
        elif flags & WRITE_CLOSING:
            self._close_writing()

    def connection_lost(self, error: BaseException | None) -> None:
        """The connection has ended; the loop closes the descriptor when this returns."""
        flags, protocol, producer = self._flags, self._protocol, self.producer
        if flags & DISCONNECTED:
            return  # connectionLost came before
        self._flags = flags & DISCONNECTING | DISCONNECTED
        self._protocol = self.producer = None
        self.write = self.data_received = _drop
        reason = self._reason(error, flags)
        if flags & HOLDING:
            del self._held
        if protocol is None:
            self._origin.vanished(self)
            return
        self._origin.reactor.connections.discard(self)
        try:
            if producer is not None:
                producer.stopProducing()
        except BaseException:
            _log.failure("a producer raised while it was stopped")
        try:
            protocol.connectionLost(reason)
        except BaseException:
            _log.failure("a protocol raised while it was told of its connection's end")
        if flags & (SECURE | FAILED):  # break the cycles
            self.__dict__.clear()

    def _reason(self, error: BaseException | None, flags: int) -> Failure:
        if flags & FAILED:
            return self._failure
        if error is None:
            return ABORTED if flags & ABORTING else DONE
        if not _is_raised_by_protocol(error):
            return ABORTED if flags & ABORTING else LOST
        failure = Failure(error)
        _log.failure("a protocol raised on data", failure)
        return failure

    # The beginning

    def introduce(self, factory: Any) -> None:
        """Ask the factory for a protocol, and make the two known to each other."""
        transport = self._loop_transport
        try:
            address = self.getPeer()
        except OSError:  # it has gone: libuv accepts without asking for the address (stream.c:uv__server_io)
            transport.abort()
            return
        try:
            protocol = factory.buildProtocol(address)
            if protocol is None:
                transport.abort()
            else:
                self._begin(protocol)
        except BaseException:
            self._fail()

    def begin(self, protocol: Any) -> None:
        """Begin with a protocol that was made before."""
        try:
            self._begin(protocol)
        except BaseException:
            self._fail()

    def _begin(self, protocol: Any) -> None:
        transport, held = self._loop_transport, self._flags & HOLDING
        self._protocol = protocol
        self._flags |= CONNECTED
        self.write = transport.write
        if not held:
            self.data_received = protocol.dataReceived
            transport.set_protocol(self)  # uvloop looks data_received up here, once (basetransport.pyx:_set_protocol)
        self._origin.reactor.connections.add(self)
        protocol.makeConnection(self)
        if held:
            self._call_soon(self._release)
        elif self._flags & PAUSED:
            self.hold()

    def hold(self) -> None:
        """Keep what comes until it is wanted: uvloop starts to read after ``connection_made``, even if that asked it not to."""
        self._held = []
        self._flags |= HOLDING
        self.data_received = self._keep
        self._loop_transport.set_protocol(self)

    def _keep(self, data: bytes) -> None:
        self._held.append(data)
        self._loop_transport.pause_reading()

    def _release(self) -> None:
        """Deliver what was kept, unless it is still not wanted, and have the loop deliver from now on."""
        if not self._flags & HOLDING:
            return
        while self._held:
            if self._flags & NOT_WANTED:
                return
            try:
                self._protocol.dataReceived(self._held.pop(0))
            except BaseException:
                self._fail()
                return
            if not self._flags & HOLDING:
                return  # it was lost meanwhile
        if self._flags & NOT_WANTED:
            return
        del self._held
        self._flags &= ~HOLDING
        self.data_received = self._protocol.dataReceived
        self._loop_transport.set_protocol(self)
        if self._flags & READ_CLOSED:
            self._end_of_input()
        else:
            self._loop_transport.resume_reading()

    def _call_soon(self, callback: Callable[..., object]) -> None:
        self._origin.reactor.loop.call_soon(callback)

    def _fail(self) -> None:
        """End the connection since its protocol raised."""
        failure = Failure()
        _log.failure("a protocol or its factory raised", failure)
        self.write = _drop
        self.abort_for(failure)

    def abort_for(self, reason: Failure) -> None:
        """End the connection at once; its protocol is to be told this reason."""
        self._failure = reason
        self._flags |= FAILED
        self._loop_transport.abort()

    def _end_of_input(self) -> bool:
        half_closeable = IHalfCloseableProtocol(self._protocol, None)
        if half_closeable is None:
            self._loop_transport.abort()  # not close(), which would wait until the peer has taken our output
            return False
        try:
            half_closeable.readConnectionLost()
        except BaseException:
            self._fail()
        return True

    def connectionLost(self, reason: Failure) -> None:
        """End the connection at once, for this reason (IReadDescriptor): the reactor stops."""
        if not self._flags & DISCONNECTED:
            self.abort_for(reason)
            self.connection_lost(None)  # the loop would say so in its next turn, if there is one

    # The transport's state

    @property
    def protocol(self) -> Any:
        """Who is told what comes; assign to it to tell another from now on."""
        return self._protocol

    @protocol.setter
    def protocol(self, protocol: Any) -> None:
        self._protocol = protocol
        if self._flags & (CONNECTED | HOLDING) == CONNECTED:
            self.data_received = protocol.dataReceived
            self._loop_transport.set_protocol(self)

    @property
    def connected(self) -> bool:
        """Whether there is a peer."""
        return bool(self._flags & CONNECTED)

    @property
    def disconnecting(self) -> bool:
        """Whether the connection ends as soon as its output has left."""
        return bool(self._flags & DISCONNECTING)

    @property
    def disconnected(self) -> bool:
        """Whether the connection has ended."""
        return bool(self._flags & DISCONNECTED)

    @property
    def streamingProducer(self) -> bool:
        """Whether the registered producer is a push producer."""
        return bool(self._flags & STREAMING)

    @property
    def producerPaused(self) -> bool:
        """Whether this transport has paused its producer."""
        return bool(self._flags & PRODUCER_PAUSED)

    @property
    def reactor(self) -> Any:
        """The reactor."""
        return self._origin.reactor

    def get_write_buffer_size(self) -> int:
        """Return the bytes written that the operating system has not taken yet."""
        return 0 if self._flags & DISCONNECTED else int(self._loop_transport.get_write_buffer_size())

    # ITransport

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Write several pieces."""
        pieces = tuple(iovec)
        for each in pieces:
            _dataMustBeBytes(each)
        self.write(b"".join(pieces))

    def loseConnection(self) -> None:
        """Let the connection end once its output has left and no producer is registered."""
        flags = self._flags
        if flags & CONNECTED and not flags & DISCONNECTING:
            self._flags = flags | DISCONNECTING
            if self.producer is None:
                self._close()
            else:
                self._loop_transport.pause_reading()

    def _close(self) -> None:
        self.write = _drop
        self._loop_transport.close()

    def abortConnection(self) -> None:
        """End the connection at once, with a reset."""
        if self._flags & CONNECTED and not self._flags & ABORTING:
            self._flags |= ABORTING
            self.write = _drop
            with contextlib.suppress(OSError):  # macOS says EINVAL where the peer has gone
                self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._loop_transport.abort()

    def loseWriteConnection(self) -> None:
        """Send FIN once our output has left, and read on."""
        flags = self._flags
        if flags & CONNECTED and not flags & (DISCONNECTING | WRITE_CLOSING):
            self._flags = flags | WRITE_CLOSING
            if self.producer is None or flags & STREAMING:
                self._close_writing()

    def _close_writing(self) -> None:
        transport = self._loop_transport
        if self._flags & (WRITE_CLOSED | DISCONNECTED):
            return
        if transport.get_write_buffer_size():
            transport.set_write_buffer_limits(0)  # then resume_writing comes when everything has left
            return
        self._flags |= WRITE_CLOSED
        self.write = _drop
        with contextlib.suppress(OSError):  # asyncio's loop calls shutdown(2) at once; the peer may have gone
            transport.write_eof()
        self._call_soon(self._tell_write_closed)

    def _tell_write_closed(self) -> None:
        half_closeable = IHalfCloseableProtocol(self._protocol, None)
        if half_closeable is not None:
            try:
                half_closeable.writeConnectionLost()
            except BaseException:
                self._fail()

    # IConsumer

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Have a producer paused and resumed as the output leaves."""
        if self.producer is not None:
            raise RuntimeError(f"Cannot register producer {producer}, because producer {self.producer} was never unregistered.")
        if self._flags & DISCONNECTED:
            producer.stopProducing()
            return
        self.producer = producer
        if streaming:
            self._flags |= STREAMING
            if self._flags & FULL:
                self._flags |= PRODUCER_PAUSED
                producer.pauseProducing()
        else:
            self._flags &= ~STREAMING
            self._loop_transport.set_write_buffer_limits(0)
            self.write = self._write_pulled
            producer.resumeProducing()

    def _write_pulled(self, data: bytes) -> None:
        """Write for a pull producer, which is asked for more each time that everything it wrote has left."""
        self._loop_transport.write(data)
        if not self._flags & (FULL | PULLING):
            self._flags |= PULLING
            self._call_soon(self._pull)

    def _pull(self) -> None:
        self._flags &= ~PULLING
        if self.producer is not None and not self._flags & (STREAMING | FULL):
            self.producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        pulled = self.producer is not None and not self._flags & STREAMING
        self.producer = None
        self._flags &= ~PRODUCER_PAUSED
        if not self._flags & CONNECTED:
            return
        if pulled and not self._flags & (ABORTING | WRITE_CLOSED):
            self.write = self._loop_transport.write
            self._loop_transport.set_write_buffer_limits()
        if self._flags & DISCONNECTING:
            self._close()
        elif self._flags & WRITE_CLOSING:
            self._close_writing()

    def stopConsuming(self) -> None:
        """The producer has lost its own source."""
        self.unregisterProducer()
        self.loseConnection()

    # IPushProducer

    def pauseProducing(self) -> None:
        """Read no more until told to."""
        self._flags |= PAUSED
        if self._flags & CONNECTED:
            self._loop_transport.pause_reading()

    def resumeProducing(self) -> None:
        """Read again."""
        self._flags = flags = self._flags & ~PAUSED
        if not flags & CONNECTED or flags & DISCONNECTING:
            return
        if flags & HOLDING:
            self._call_soon(self._release)
        elif not flags & READ_CLOSED:
            self._loop_transport.resume_reading()

    def stopProducing(self) -> None:
        """End the connection."""
        self.loseConnection()

    def is_reading(self) -> bool:
        """Whether what the peer sends is read."""
        return self._flags & (CONNECTED | PAUSED | READ_CLOSED | DISCONNECTING) == CONNECTED

    stopReading, startReading = pauseProducing, resumeProducing  # the names that these have in IReactorFDSet's world

    # ITLSTransport

    def startTLS(self, contextFactory: Any, normal: bool = True) -> None:
        """Speak TLS from now on, as ``twisted.internet._newtls`` does for Twisted's own transports.

        Args:
            contextFactory: What makes the TLS connections.
            normal: Whether to be the server.
        """
        tls.start(self, contextFactory, normal)

    # Addresses and options

    def getPeer(self) -> Any:
        """Return the address of the peer."""
        return internet_address(self._loop_transport.get_extra_info("peername"))

    def getHost(self) -> Any:
        """Return our own address."""
        return internet_address(self._loop_transport.get_extra_info("sockname"))

    def _socket(self) -> Any:
        return self._loop_transport.get_extra_info("socket")

    def getHandle(self) -> Any:
        """Return the socket, for its options and its descriptor; neither loop lets others read it or write to it."""
        return _Handle(self)

    @property
    def socket(self) -> Any:
        """The socket."""
        return _Handle(self)

    def fileno(self) -> int:
        """Return the descriptor; -1 once it is closed."""
        handle = self._socket()
        return -1 if handle is None else int(handle.fileno())

    @property
    def sessionno(self) -> int:
        """A number for the log: the peer's port, as Twisted has it for adopted connections."""
        return cast("int", self.getPeer().port)

    def getTcpNoDelay(self) -> bool:
        """Return whether small pieces are sent without delay: so it is at first, unlike with Twisted's own transports."""
        return bool(self._socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Send small pieces without delay, or not."""
        if enabled and not self._flags & DELAYED:
            return  # both loops have set it
        self._flags = self._flags & ~DELAYED if enabled else self._flags | DELAYED
        self._socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, enabled)

    def getTcpKeepAlive(self) -> bool:
        """Return whether the kernel probes an idle peer."""
        return bool(self._socket().getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Have the kernel probe an idle peer, or not."""
        self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, enabled)

    def logPrefix(self) -> str:
        """Name the connection in the log."""
        protocol = self._protocol
        name = protocol.logPrefix() if ILoggingContext.providedBy(protocol) else type(protocol).__name__
        return f"{name},{self.sessionno},{self._where()}"

    logstr = property(logPrefix)

    def _where(self) -> str:
        return cast("str", self.getPeer().host)

    def __repr__(self) -> str:
        return f"<{type(self._protocol).__name__} #{self.sessionno} on {self.getHost().port}>"


class _Handle:
    """A connection's socket as others see it: its options, its addresses, its descriptor, and ``close``.

    Args:
        transport: The connection.
    """

    __slots__ = ("_transport",)

    def __init__(self, transport: LoopTransport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport._socket(), name)  # noqa: SLF001

    def fileno(self) -> int:
        """Return the descriptor; -1 once it is closed."""
        return self._transport.fileno()

    def close(self) -> None:
        """Close the descriptor, if not its duplicates: the connection may go on in another process."""
        self._transport._loop_transport.abort()  # noqa: SLF001


def _is_raised_by_protocol(error: BaseException) -> bool:
    """Whether an error came out of ``dataReceived``: both loops hand that on as they do an error of the socket."""
    if not isinstance(error, OSError):
        return True
    trace = error.__traceback__
    if trace is None:
        return False  # uvloop makes its own errors without raising them (stream.pyx:__uv_stream_on_read_common)
    while trace.tb_next is not None:
        trace = trace.tb_next
    return not trace.tb_frame.f_code.co_filename.endswith((".pyx", "selector_events.py"))


def internet_address(name: Any) -> IPv4Address | IPv6Address:
    """Make an address of what ``getpeername`` returned.

    Raises:
        OSError: There was nothing to return, for the peer has gone.
    """
    if name is None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    if len(name) == 2:
        return IPv4Address("TCP", *name)
    return IPv6Address("TCP", *(tcp._getrealname(name) if name[3] else name))  # noqa: SLF001 - the name of the zone
