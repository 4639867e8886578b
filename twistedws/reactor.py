"""Twisted's asyncio reactor, whose servers use the event loop's own transports. Floor 5.

On a uvloop loop a connection costs half of what it costs on Twisted's own transports: libuv accepts it and reads it, uvloop writes it, and
between the loop and the protocol stands nothing of Python. Everything else that Twisted polls (client connections, UDP, pipes, the waker
of the threads) goes through a selector of this reactor's own, of which the loop polls the one descriptor.

Laws of this module:

- The loop calls ``protocol.dataReceived`` itself, and ``transport.write`` is the loop transport's own bound method. No message passes
  through a function of this module.
- What a protocol or a factory raises ends its own connection, and is logged once.
- A protocol that was told ``makeConnection`` is told ``connectionLost`` exactly once, and its descriptor is closed right after.
- A paused port shows no connection to its factory: they wait in the kernel. A port outlives a want of descriptors.
- Nothing of Twisted is polled with ``loop.add_reader``: uvloop loses resets there (docs/adr/0004).

Lines of uvloop are those of 0.23.0, with libuv 1.52.1.
"""

# mypy: disallow-untyped-calls=False
# (Twisted's reactors and transports have no annotations)

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import selectors
import signal
import socket
import struct
import sys
from asyncio import AbstractEventLoop
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from math import ceil
from types import FrameType
from typing import Any, Protocol, TypeVar, cast

from twisted.internet import main, process, tcp, unix
from twisted.internet.abstract import _dataMustBeBytes
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import DelayedCall, ReactorBase
from twisted.internet.error import ConnectionAborted, FileDescriptorOverrun, UnsupportedAddressFamily
from twisted.internet.interfaces import (
    IConsumer,
    IFileDescriptorReceiver,
    IHalfCloseableProtocol,
    ILoggingContext,
    IPushProducer,
    ISSLTransport,
    ISystemHandle,
    ITCPTransport,
    ITLSTransport,
    IUNIXTransport,
)
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.python.log import callWithLogger
from zope.interface import directlyProvides, implementer

try:
    import uvloop
except ImportError:  # it is made for neither Windows nor PyPy
    uvloop = None  # type: ignore[assignment]

_log = Logger()
_Result = TypeVar("_Result")

# What a connection is told at its end. Shared, as Twisted's own reactors do (posixbase._disconnectSelectable): a Failure costs 2 us.
_DONE, _LOST, _ABORTED = Failure(main.CONNECTION_DONE), Failure(main.CONNECTION_LOST), Failure(ConnectionAborted())

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close(2) sends a reset
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_MOST_DESCRIPTORS = 64  # that wait to be sent before a producer is paused (unix._SendmsgMixin)
_LOOK = 1.0  # seconds between looks for free descriptors

# A connection's state in one small integer: an attribute each would cost 8 bytes, and there are 10,000 connections.
_CONNECTED, _DISCONNECTING, _DISCONNECTED, _ABORTING = 1, 2, 4, 8
_STREAMING, _PRODUCER_PAUSED, _PULLING = 16, 32, 64  # the producer is a push producer; we paused it; we are about to ask a pull producer
_FULL = 128  # the loop's buffer is over its high-water mark
_PAUSED, _READ_CLOSED, _WRITE_CLOSING, _WRITE_CLOSED = 256, 512, 1024, 2048
_NOT_WANTED = _PAUSED | _DISCONNECTING | _DISCONNECTED | _ABORTING
_DELAYED = 4096  # TCP_NODELAY, which both loops set on every connection, was cleared


def _drop(data: bytes) -> None:
    """Be ``write``, or ``data_received``, of a connection that takes no more."""


class _Origin(Protocol):
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
    _held: list[bytes]  # what came before it was wanted; there only as long as _hold has not been undone
    _failure: Failure  # what a protocol raised

    def __init__(self, origin: _Origin) -> None:
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
        self._flags |= _READ_CLOSED
        return "_held" in self.__dict__ or self._end_of_input()

    def pause_writing(self) -> None:
        """The loop's buffer is over its high-water mark."""
        self._flags |= _FULL
        if self.producer is not None and self._flags & _STREAMING:
            self._flags |= _PRODUCER_PAUSED
            self.producer.pauseProducing()

    def resume_writing(self) -> None:
        """The loop's buffer has left."""
        self._flags = flags = self._flags & ~_FULL
        if self.producer is not None and (flags & _PRODUCER_PAUSED or not flags & _STREAMING):
            self._flags = flags & ~_PRODUCER_PAUSED
            self.producer.resumeProducing()
        elif flags & _WRITE_CLOSING:
            self._close_writing()

    def connection_lost(self, error: BaseException | None) -> None:
        """The connection has ended; the loop closes the descriptor when this returns."""
        flags, protocol, producer = self._flags, self._protocol, self.producer
        if flags & _DISCONNECTED:
            return  # connectionLost came before
        self._flags = flags & _DISCONNECTING | _DISCONNECTED
        self._protocol = self.producer = None
        self.write = self.data_received = _drop
        reason = self._reason(error, flags)
        self.__dict__.pop("_held", None)
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
        if self.__dict__:  # it spoke TLS, or raised: break the cycles
            self.__dict__.clear()

    def _reason(self, error: BaseException | None, flags: int) -> Failure:
        if "_failure" in self.__dict__:
            return self._failure
        if error is None:
            return _ABORTED if flags & _ABORTING else _DONE
        if not _is_raised_by_protocol(error):
            return _ABORTED if flags & _ABORTING else _LOST
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
        transport, held = self._loop_transport, "_held" in self.__dict__
        self._protocol = protocol
        self._flags |= _CONNECTED
        self.write = transport.write
        if not held:
            self.data_received = protocol.dataReceived
            transport.set_protocol(self)  # uvloop looks data_received up here, once (basetransport.pyx:_set_protocol)
        self._origin.reactor.connections.add(self)
        protocol.makeConnection(self)
        if held:
            self._call_soon(self._release)
        elif self._flags & _PAUSED:
            self.hold()

    def hold(self) -> None:
        """Keep what comes until it is wanted: uvloop starts to read after ``connection_made``, even if that asked it not to."""
        self._held = []
        self.data_received = self._keep
        self._loop_transport.set_protocol(self)

    def _keep(self, data: bytes) -> None:
        self._held.append(data)
        self._loop_transport.pause_reading()

    def _release(self) -> None:
        """Deliver what was kept, unless it is still not wanted, and have the loop deliver from now on."""
        if "_held" not in self.__dict__:
            return
        while self._held:
            if self._flags & _NOT_WANTED:
                return
            try:
                self._protocol.dataReceived(self._held.pop(0))
            except BaseException:
                self._fail()
                return
            if "_held" not in self.__dict__:
                return  # it was lost meanwhile
        if self._flags & _NOT_WANTED:
            return
        del self._held
        self.data_received = self._protocol.dataReceived
        self._loop_transport.set_protocol(self)
        if self._flags & _READ_CLOSED:
            self._end_of_input()
        else:
            self._loop_transport.resume_reading()

    def _call_soon(self, callback: Callable[..., object]) -> None:
        self._origin.reactor.loop.call_soon(callback)

    def _fail(self) -> None:
        """End the connection since its protocol raised."""
        failure = Failure()
        _log.failure("a protocol or its factory raised", failure)
        self._failure = failure
        self.write = _drop
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
        if not self._flags & _DISCONNECTED:
            self._failure = reason
            self._loop_transport.abort()
            self.connection_lost(None)  # the loop would say so in its next turn, if there is one

    # The transport's state

    @property
    def protocol(self) -> Any:
        """Who is told what comes; assign to it to tell another from now on."""
        return self._protocol

    @protocol.setter
    def protocol(self, protocol: Any) -> None:
        self._protocol = protocol
        if self._flags & _CONNECTED and "_held" not in self.__dict__:
            self.data_received = protocol.dataReceived
            self._loop_transport.set_protocol(self)

    @property
    def connected(self) -> bool:
        """Whether there is a peer."""
        return bool(self._flags & _CONNECTED)

    @property
    def disconnecting(self) -> bool:
        """Whether the connection ends as soon as its output has left."""
        return bool(self._flags & _DISCONNECTING)

    @property
    def disconnected(self) -> bool:
        """Whether the connection has ended."""
        return bool(self._flags & _DISCONNECTED)

    @property
    def streamingProducer(self) -> bool:
        """Whether the registered producer is a push producer."""
        return bool(self._flags & _STREAMING)

    @property
    def producerPaused(self) -> bool:
        """Whether this transport has paused its producer."""
        return bool(self._flags & _PRODUCER_PAUSED)

    @property
    def reactor(self) -> LoopReactor:
        """The reactor."""
        return cast("LoopReactor", self._origin.reactor)

    def get_write_buffer_size(self) -> int:
        """Return the bytes written that the operating system has not taken yet."""
        return 0 if self._flags & _DISCONNECTED else int(self._loop_transport.get_write_buffer_size())

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
        if flags & _CONNECTED and not flags & _DISCONNECTING:
            self._flags = flags | _DISCONNECTING
            if self.producer is None:
                self._close()
            else:
                self._loop_transport.pause_reading()

    def _close(self) -> None:
        self.write = _drop
        self._loop_transport.close()

    def abortConnection(self) -> None:
        """End the connection at once, with a reset."""
        if self._flags & _CONNECTED and not self._flags & _ABORTING:
            self._flags |= _ABORTING
            self.write = _drop
            with contextlib.suppress(OSError):  # macOS says EINVAL where the peer has gone
                self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._loop_transport.abort()

    def loseWriteConnection(self) -> None:
        """Send FIN once our output has left, and read on."""
        flags = self._flags
        if flags & _CONNECTED and not flags & (_DISCONNECTING | _WRITE_CLOSING):
            self._flags = flags | _WRITE_CLOSING
            if self.producer is None or flags & _STREAMING:
                self._close_writing()

    def _close_writing(self) -> None:
        transport = self._loop_transport
        if self._flags & (_WRITE_CLOSED | _DISCONNECTED):
            return
        if transport.get_write_buffer_size():
            transport.set_write_buffer_limits(0)  # then resume_writing comes when everything has left
            return
        self._flags |= _WRITE_CLOSED
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
        if self._flags & _DISCONNECTED:
            producer.stopProducing()
            return
        self.producer = producer
        if streaming:
            self._flags |= _STREAMING
            if self._flags & _FULL:
                self._flags |= _PRODUCER_PAUSED
                producer.pauseProducing()
        else:
            self._flags &= ~_STREAMING
            self._loop_transport.set_write_buffer_limits(0)
            self.write = self._write_pulled
            producer.resumeProducing()

    def _write_pulled(self, data: bytes) -> None:
        """Write for a pull producer, which is asked for more each time that everything it wrote has left."""
        self._loop_transport.write(data)
        if not self._flags & (_FULL | _PULLING):
            self._flags |= _PULLING
            self._call_soon(self._pull)

    def _pull(self) -> None:
        self._flags &= ~_PULLING
        if self.producer is not None and not self._flags & (_STREAMING | _FULL):
            self.producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        pulled = self.producer is not None and not self._flags & _STREAMING
        self.producer = None
        self._flags &= ~_PRODUCER_PAUSED
        if not self._flags & _CONNECTED:
            return
        if pulled and not self._flags & (_ABORTING | _WRITE_CLOSED):
            self.write = self._loop_transport.write
            self._loop_transport.set_write_buffer_limits()
        if self._flags & _DISCONNECTING:
            self._close()
        elif self._flags & _WRITE_CLOSING:
            self._close_writing()

    def stopConsuming(self) -> None:
        """The producer has lost its own source."""
        self.unregisterProducer()
        self.loseConnection()

    # IPushProducer

    def pauseProducing(self) -> None:
        """Read no more until told to."""
        self._flags |= _PAUSED
        if self._flags & _CONNECTED:
            self._loop_transport.pause_reading()

    def resumeProducing(self) -> None:
        """Read again."""
        self._flags = flags = self._flags & ~_PAUSED
        if not flags & _CONNECTED or flags & _DISCONNECTING:
            return
        if "_held" in self.__dict__:
            self._call_soon(self._release)
        elif not flags & _READ_CLOSED:
            self._loop_transport.resume_reading()

    def stopProducing(self) -> None:
        """End the connection."""
        self.loseConnection()

    def is_reading(self) -> bool:
        """Whether what the peer sends is read."""
        return self._flags & (_CONNECTED | _PAUSED | _READ_CLOSED | _DISCONNECTING) == _CONNECTED

    stopReading, startReading = pauseProducing, resumeProducing  # the names that these have in IReactorFDSet's world

    # ITLSTransport

    def startTLS(self, contextFactory: Any, normal: bool = True) -> None:
        """Speak TLS from now on, as ``twisted.internet._newtls`` does for Twisted's own transports.

        Args:
            contextFactory: What makes the TLS connections.
            normal: Whether to be the server.
        """
        producer, streaming = self.producer, self.streamingProducer
        if producer is not None:
            self.unregisterProducer()
        factory = TLSMemoryBIOFactory(contextFactory, not normal, cast("Any", None), self.reactor)
        protocol = factory.protocol(factory, self._protocol, False)
        self.protocol = protocol
        self.write = protocol.write
        self.__dict__.update(
            TLS=True,
            getHandle=protocol.getHandle,
            getPeerCertificate=protocol.getPeerCertificate,
            loseConnection=protocol.loseConnection,
            registerProducer=protocol.registerProducer,
            unregisterProducer=protocol.unregisterProducer,
        )
        directlyProvides(self, ISSLTransport)
        protocol.makeConnection(_BelowTLS(self))
        if producer is not None:
            self.registerProducer(producer, streaming)

    # Addresses and options

    def getPeer(self) -> Any:
        """Return the address of the peer."""
        return _internet_address(self._loop_transport.get_extra_info("peername"))

    def getHost(self) -> Any:
        """Return our own address."""
        return _internet_address(self._loop_transport.get_extra_info("sockname"))

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
        if enabled and not self._flags & _DELAYED:
            return  # both loops have set it
        self._flags = self._flags & ~_DELAYED if enabled else self._flags | _DELAYED
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


class _BelowTLS:
    """What ``startTLS`` gives its TLS protocol for a transport: the connection, with the methods that TLS took over as they were.

    Args:
        connection: The connection.
    """

    def __init__(self, connection: LoopTransport) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def write(self, data: bytes) -> None:
        connection = self._connection
        if connection._flags & (_CONNECTED | _WRITE_CLOSED) == _CONNECTED:  # noqa: SLF001
            connection._loop_transport.write(data)  # noqa: SLF001

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        LoopTransport.loseConnection(self._connection)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        LoopTransport.registerProducer(self._connection, producer, streaming)

    def unregisterProducer(self) -> None:
        LoopTransport.unregisterProducer(self._connection)


@implementer(IUNIXTransport)
class LoopUNIXTransport(LoopTransport):
    """A connection over a UNIX socket.

    The loops cannot pass descriptors. To send them, this class calls the system itself; a protocol that receives them is given one of
    Twisted's own transports.
    """

    __slots__ = ("_descriptors", "_host", "_late", "_peer")

    def __init__(self, origin: _Origin) -> None:
        super().__init__(origin)
        self._descriptors: list[int] = []
        self._late = b""

    def connection_made(self, transport: Any) -> None:
        """The loop has made its transport, which knows its addresses only as long as it is open."""
        self._peer = UNIXAddress(transport.get_extra_info("peername") or None)
        self._host = UNIXAddress(transport.get_extra_info("sockname") or None)
        super().connection_made(transport)

    def _begin(self, protocol: Any) -> None:
        if IFileDescriptorReceiver.providedBy(protocol):
            self._hand_over(protocol)
        else:
            super()._begin(protocol)

    def _hand_over(self, protocol: Any) -> None:
        transport, origin = self._loop_transport, self._origin
        handle = self._socket().dup()
        transport.abort()
        port = origin if isinstance(origin, unix.Port) else None
        server = unix.Server(handle, protocol, self._peer.name, port, 0, origin.reactor)
        if port is None:
            server.repstr = repr(self)
        protocol.makeConnection(server)
        for data in self.__dict__.get("_held", ()):
            protocol.dataReceived(data)

    def sendFileDescriptor(self, fileno: int) -> None:
        """Send a descriptor, with the next bytes that are written."""
        if self._flags & _CONNECTED:
            if not self._descriptors:
                self.write = self._write_late
                self._call_soon(self._send_descriptors)
            self._descriptors.append(fileno)
            if len(self._descriptors) > _MOST_DESCRIPTORS and not self._flags & _FULL:
                self.pause_writing()

    def _write_late(self, data: bytes) -> None:
        self._late += data

    def _send_descriptors(self) -> None:
        if not self._flags & _CONNECTED:
            return
        if len(self._descriptors) > len(self._late):
            self._failure = Failure(FileDescriptorOverrun())
            self._loop_transport.abort()
            return
        if self._loop_transport.get_write_buffer_size():
            sent = 0
        else:
            with socket.socket(fileno=self.fileno()) as handle:
                try:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(self._descriptors)}i", *self._descriptors))
                    sent = handle.sendmsg([self._late], [rights])
                except BlockingIOError:
                    sent = 0
                except OSError:
                    self._failure = _LOST
                    self._loop_transport.abort()
                    return
                finally:
                    handle.detach()
        if not sent:
            self._origin.reactor.loop.call_later(0.01, self._send_descriptors)  # the peer is slow
            return
        if len(self._descriptors) > _MOST_DESCRIPTORS:
            self.resume_writing()
        self._descriptors.clear()
        rest, self._late = self._late[sent:], b""
        self.write = self._loop_transport.write
        self.write(rest)
        if self._flags & _DISCONNECTING and self.producer is None:
            self._close()
        elif self._flags & _WRITE_CLOSING:
            self._close_writing()

    def _close(self) -> None:
        if not self._descriptors:
            super()._close()

    def _close_writing(self) -> None:
        if not self._descriptors:
            super()._close_writing()

    def getPeer(self) -> Any:
        """Return the address of the peer: mostly none."""
        return self._peer

    def getHost(self) -> Any:
        """Return our own address."""
        return self._host

    @property
    def sessionno(self) -> int:
        """A number for the log."""
        return 0

    def _where(self) -> str:
        return os.fsdecode(self._host.name or b"")

    def __repr__(self) -> str:
        return f"<{type(self._protocol).__name__} #{self.sessionno} on {self._where()}>"

    def getTcpNoDelay(self) -> bool:
        """Return False: this is no TCP."""
        return False

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing, as Twisted's own do: callers take every stream for TCP."""


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


def _internet_address(name: Any) -> IPv4Address | IPv6Address:
    """Make an address of what ``getpeername`` returned.

    Raises:
        OSError: There was nothing to return, for the peer has gone.
    """
    if name is None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    if len(name) == 2:
        return IPv4Address("TCP", *name)
    return IPv6Address("TCP", *(tcp._getrealname(name) if name[3] else name))  # noqa: SLF001 - the name of the zone


class _Accepting:
    """What ``tcp.Port`` and ``unix.Port`` do otherwise here: they accept with the loop. The rest of both is Twisted's own.

    On uvloop libuv accepts, one connection in a turn of the loop (stream.c:uv__server_io), and does not say from where: one that was reset
    before its turn came is dropped, and the factory never hears of it. The loop cannot be told to pause: then its server is closed, which
    has a duplicate of the descriptor, and made again. On asyncio's loop this class accepts, also one connection in a turn.
    """

    transport_class: type[LoopTransport]
    backlog: Any
    connected: Any
    factory: Any
    reactor: Any
    socket: Any

    _wanted = False  # whether connections are accepted, as far as pauseProducing and resumeProducing go
    _server: Any = None
    _waiting: list[LoopTransport] | None = None  # accepted in the turn in which the port was paused

    def startReading(self) -> None:
        """Accept."""
        self._wanted = True
        self.reactor.ports.add(self)
        self.reactor.look_later()
        self.serve()
        if self._waiting:
            self.reactor.loop.call_soon(self._admit)

    def stopReading(self) -> None:
        """Accept no more until told to."""
        self._wanted = False
        self.reactor.ports.discard(self)
        self.suspend()

    def serve(self) -> None:
        """Have the loop accept, if it is wanted and there are descriptors."""
        reactor = self.reactor
        if not self._wanted or reactor.starved:
            return
        if not reactor.native:
            reactor.addReader(self)
        elif self._server is None:
            try:
                server = reactor.loop.create_server(
                    partial(self.transport_class, self), sock=self.socket.dup(), backlog=self.backlog or _backlog_of(self.socket)
                )
                self._server = _at_once(server)
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS:
                    raise
                reactor.starve()

    def suspend(self) -> None:
        """Have the loop accept no more."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        elif not self.reactor.native:
            self.reactor.removeReader(self)

    def is_cut_off(self) -> bool:
        """Whether uvloop has closed the server for an error, of which it tells nobody (streamserver.pyx:_fatal_error)."""
        if self._server is None:
            return False
        sockets = self._server.sockets
        return not sockets or sockets[0] is None or sockets[0].fileno() == -1

    def doRead(self) -> None:
        """Accept one connection (asyncio's loop)."""
        try:
            handle, _ = self.socket.accept()
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                self._shed()
                self.reactor.starve()
            elif error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
                raise
            return  # accept(2): other errors are those of the connection, which has gone
        self.reactor.adopt(handle, self.transport_class(cast("Any", self)))

    def _shed(self) -> None:
        """Close what waits, as Twisted does, and libuv (stream.c:uv__emfile_trick): who waits long takes us for dead."""
        if tcp._reservedFD.available():  # noqa: SLF001
            with tcp._reservedFD, contextlib.suppress(OSError):  # noqa: SLF001
                while True:
                    self.socket.accept()[0].close()

    def arrived(self, transport: LoopTransport) -> None:
        """A connection was accepted."""
        if self._wanted:
            transport.introduce(self.factory)
            return
        transport.hold()
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(transport)
        if not self.connected:
            self._refuse()

    def vanished(self, transport: LoopTransport) -> None:
        """A connection ended before the factory heard of it."""
        if self._waiting and transport in self._waiting:
            self._waiting.remove(transport)

    def _admit(self) -> None:
        while self._waiting and self._wanted:
            self._waiting.pop(0).introduce(self.factory)

    def _refuse(self) -> None:
        """End what waits, as the kernel does when a listening socket is closed."""
        waiting, self._waiting = self._waiting or (), None
        for each in waiting:
            each._loop_transport.abort()  # noqa: SLF001

    def connectionLost(self, reason: Failure) -> None:
        """The port is listened on no more."""
        super().connectionLost(reason)  # type: ignore[misc]  # the port's
        self._refuse()


class LoopPort(_Accepting, tcp.Port):
    """A TCP port."""

    transport_class = LoopTransport


class LoopUNIXPort(_Accepting, unix.Port):
    """A UNIX socket that is listened on."""

    transport_class = LoopUNIXTransport


class _Adopted:
    """Where an adopted connection comes from.

    Args:
        reactor: The reactor.
        protocol: The connection's.
    """

    __slots__ = ("protocol", "reactor")

    def __init__(self, reactor: LoopReactor, protocol: Any) -> None:
        self.reactor, self.protocol = reactor, protocol

    def arrived(self, transport: LoopTransport) -> None:
        transport.begin(self.protocol)

    def vanished(self, transport: LoopTransport) -> None:
        pass


def _backlog_of(listening: socket.socket) -> int:
    """Return the backlog of an adopted socket: uvloop calls listen(2) again, which needs one."""
    if sys.platform == "linux" and listening.family != socket.AF_UNIX:
        # tcp_info.tcpi_sacked of a listening socket is its backlog (net/ipv4/tcp.c:tcp_get_info)
        return cast("int", struct.unpack_from("=I", listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 28)[0])
    return socket.SOMAXCONN


def _at_once(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine that never waits, as uvloop's create_server does not where it is given a socket (loop.pyx:1641)."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("_Result", end.value)
    coroutine.close()
    raise RuntimeError(f"{coroutine} waits")


class _ChildSignals:
    """Notices children that end.

    Twisted's own has signal.set_wakeup_fd write to a pipe that it reads; while uvloop runs, it has that for itself
    (loop.pyx:_setup_or_resume_signals).

    Args:
        loop: The loop.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop

    def install(self) -> None:
        signal.signal(signal.SIGCHLD, self._ended)
        signal.siginterrupt(signal.SIGCHLD, False)
        process.reapAllProcesses()  # who ended before

    def uninstall(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _ended(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a signal handler
        self._loop.call_soon_threadsafe(process.reapAllProcesses)


class _Signals:
    """Several kinds of signal handling as one.

    Args:
        kinds: The kinds.
    """

    def __init__(self, *kinds: Any) -> None:
        self._kinds = kinds

    def install(self) -> None:
        for each in self._kinds:
            each.install()

    def uninstall(self) -> None:
        for each in self._kinds:
            each.uninstall()


class LoopReactor(AsyncioSelectorReactor):
    """See the module.

    Args:
        loop: The loop; None for the one that runs, or else a new one of uvloop's, or of asyncio's own where there is no uvloop.

    Attributes:
        loop: The loop.
        native: Whether the loop accepts: whether it is uvloop's.
        ports: The ports that are to accept.
        connections: The connections, each with a protocol.
        starved: Whether no port accepts, for want of descriptors.
    """

    def __init__(self, loop: AbstractEventLoop | None = None) -> None:
        if loop is None:
            loop = _running_loop() or new_event_loop()
            asyncio.set_event_loop(loop)
        self.loop = loop
        self.native = uvloop is not None and isinstance(loop, uvloop.Loop)
        self.ports: set[Any] = set()
        self.connections: set[LoopTransport] = set()
        self.starved = False
        self._look: asyncio.TimerHandle | None = None
        self._selector = selectors.DefaultSelector()
        self._polled: dict[int, list[Any]] = {}  # descriptor: its reader and its writer
        loop.set_exception_handler(partial(_on_loop_error, loop.get_exception_handler()))
        loop.add_reader(cast("Any", self._selector).fileno(), self._poll)
        super().__init__(loop)

    # Servers

    def listenTCP(self, port: Any, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Listen on a TCP port (IReactorTCP)."""
        return _listening(LoopPort(port, factory, backlog, interface, self))

    def listenUNIX(self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: int = 0) -> Any:
        """Listen on a UNIX socket (IReactorUNIX)."""
        return _listening(LoopUNIXPort(address, factory, backlog, mode, self, wantPID))

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> Any:
        """Listen on a duplicate of a descriptor that is listened on (IReactorSocket)."""
        self._check_family(addressFamily)
        if addressFamily == socket.AF_UNIX:
            return _listening(LoopUNIXPort._fromListeningDescriptor(self, fileDescriptor, factory))  # noqa: SLF001
        return _listening(LoopPort._fromListeningDescriptor(self, fileDescriptor, addressFamily, factory))  # noqa: SLF001

    def adoptStreamConnection(self, fileDescriptor: int, addressFamily: int, factory: Any) -> LoopTransport | None:
        """Serve a duplicate of a connection's descriptor (IReactorSocket); return None where the factory does not want it."""
        self._check_family(addressFamily)
        handle = socket.fromfd(fileDescriptor, addressFamily, socket.SOCK_STREAM)
        kind, address = LoopTransport, cast("Any", None)
        try:
            if addressFamily == socket.AF_UNIX:
                kind, address = LoopUNIXTransport, UNIXAddress(handle.getsockname())
            else:
                address = _internet_address(handle.getpeername())
            protocol = factory.buildProtocol(address)
            if protocol is None:
                handle.close()
                return None
            transport = kind(_Adopted(self, protocol))
            self.adopt(handle, transport)
        except BaseException:
            handle.close()
            raise
        return transport

    def _check_family(self, family: int) -> None:
        if family not in self._supportedAddressFamilies:
            raise UnsupportedAddressFamily(family)

    def adopt(self, handle: socket.socket, transport: LoopTransport) -> None:
        """Give a connected socket to the loop."""
        handle.setblocking(False)
        if handle.family != socket.AF_UNIX and not self.native:
            # asyncio's loop does not see that a socket of proto 0 is TCP (base_events._set_nodelay)
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        coroutine: Any = self.loop.connect_accepted_socket(lambda: cast("Any", transport), handle)
        made = coroutine.send(None)  # the loop's transport is there now, and connection_made is due; the future waits for that
        made.add_done_callback(lambda _: _finish(coroutine))

    # Want of descriptors

    def starve(self) -> None:
        """Accept nothing until there are descriptors again: libuv would try again and again, at once."""
        if not self.starved:
            self.starved = True
            _log.warn("out of descriptors: {ports} ports accept no more connections until there are some", ports=len(self.ports))
            for port in self.ports:
                port.suspend()
        self.look_later()

    def look_later(self) -> None:
        """Look for descriptors from time to time, as long as there is a port for which it matters."""
        if self._look is None and self.ports and (self.native or self.starved):
            self._look = self.loop.call_later(_LOOK, self._look_for_descriptors)

    def _look_for_descriptors(self) -> None:
        """See whether there are descriptors. Nobody else tells: libuv accepts in vain, or closes what it accepts, and says nothing."""
        self._look = None
        if not _are_there_descriptors(2 + len(self.ports) if self.starved else 1):
            self.starve()
            return
        if self.starved:
            self.starved = False
            _log.info("there are descriptors again: {ports} ports accept connections", ports=len(self.ports))
        for port in tuple(self.ports):
            if port.is_cut_off():
                port.suspend()
            port.serve()
        self.look_later()

    # What Twisted polls (IReactorFDSet)

    def _poll(self) -> None:
        """Something in our selector is ready."""
        for key, events in self._selector.select(0):
            for which, event in enumerate((selectors.EVENT_READ, selectors.EVENT_WRITE)):
                if events & event and key.data[which] is not None:
                    callWithLogger(key.data[which], self._readOrWrite, key.data[which], which == 0)

    def _watch(self, fd: int, which: int, who: Any) -> None:
        pair = self._polled.get(fd)
        if pair is not None and any(each is not None and each.fileno() != fd for each in pair):
            self._selector.unregister(fd)  # closed without a word, and the number is another file's now
            pair = None
        if pair is None:
            pair = [None, None]
            pair[which] = who
            self._selector.register(fd, _events(pair), pair)
            self._polled[fd] = pair
        else:
            pair[which] = who
            self._selector.modify(fd, _events(pair), pair)

    def _unwatch(self, fd: int, which: int, who: Any) -> None:
        pair = self._polled.get(fd)
        if pair is None or pair[which] is not who:
            return
        pair[which] = None
        events = _events(pair)
        if events:
            self._selector.modify(fd, events, pair)
        else:
            self._selector.unregister(fd)
            del self._polled[fd]

    def addReader(self, reader: Any) -> None:
        """Call ``reader.doRead`` when there is something to read."""
        if reader not in self._readers and not self._continuousPolling.isReading(reader):
            fd = reader.fileno()
            try:
                self._watch(fd, 0, reader)
                self._readers[reader] = fd
            except PermissionError:  # epoll takes no regular files
                self._continuousPolling.addReader(reader)

    def addWriter(self, writer: Any) -> None:
        """Call ``writer.doWrite`` when something can be written."""
        if writer not in self._writers and not self._continuousPolling.isWriting(writer):
            fd = writer.fileno()
            try:
                self._watch(fd, 1, writer)
                self._writers[writer] = fd
            except PermissionError:
                self._continuousPolling.addWriter(writer)
            except BrokenPipeError:  # kqueue says it here
                pass

    def removeReader(self, reader: Any) -> None:
        """Call it no more."""
        if reader in self._readers:
            self._unwatch(self._readers.pop(reader), 0, reader)
        elif isinstance(reader, LoopTransport):
            reader.stopReading()
        else:
            self._continuousPolling.removeReader(reader)

    def removeWriter(self, writer: Any) -> None:
        """Call it no more."""
        if writer in self._writers:
            self._unwatch(self._writers.pop(writer), 1, writer)
        else:
            self._continuousPolling.removeWriter(writer)

    def getReaders(self) -> list[Any]:
        """Return who reads: also what the loop reads for us."""
        ours = [*(self.ports if self.native else ()), *(each for each in self.connections if each.is_reading())]
        return [*super().getReaders(), *ours]

    def removeAll(self) -> list[Any]:
        """Remove readers and writers, but for the reactor's own; return them."""
        ours = [*self.ports, *(each for each in self.connections if each.is_reading() or each.get_write_buffer_size())]
        for each in ours:
            each.stopReading()
        return [*super().removeAll(), *ours]

    def disconnectAll(self) -> None:
        """End everything, since the reactor stops: also what is neither read nor written at the moment."""
        super().disconnectAll()
        for each in tuple(self.connections):
            each.connectionLost(_LOST)

    # Timers and the end

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object) -> DelayedCall:  # noqa: A002
        """Call something later (IReactorTime)."""
        call = ReactorBase.callLater(self, delay, callable, *args, **kwargs)
        if self._scheduledAt is None or call.time < self._scheduledAt:
            self._reschedule()
        return call

    def _reschedule(self) -> None:
        delay = self.timeout()
        if delay is None:
            return
        self._scheduledAt = self.seconds() + delay  # type: ignore[assignment]  # Twisted sets it to None first
        if self._timerHandle is not None:
            self._timerHandle.cancel()
        # Up, to the milliseconds that uvloop knows: it rounds to the nearest (loop.pyx:1289), and would come too early, to no avail.
        self._timerHandle = self.loop.call_later(ceil(delay * 1000) / 1000, self._onTimer)  # type: ignore[assignment]

    def iterate(self, delay: float = 0.0) -> None:
        """Run for some time."""
        super().iterate(delay)

    def run(self, installSignalHandlers: bool = True) -> None:
        """Run until stopped."""
        super().run(installSignalHandlers)
        if not self.loop.is_closed():  # one more turn: connections that disconnectAll has ended are closed in it
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def _signalsFactory(self) -> Any:
        return _Signals(ReactorBase._signalsFactory(self), _ChildSignals(self.loop))  # noqa: SLF001


def _listening(port: Any) -> Any:
    port.startListening()
    return port


def _events(pair: list[Any]) -> int:
    return (selectors.EVENT_READ if pair[0] is not None else 0) | (selectors.EVENT_WRITE if pair[1] is not None else 0)


def _finish(coroutine: Coroutine[Any, Any, object]) -> None:
    """Let ``connect_accepted_socket`` return."""
    with contextlib.suppress(StopIteration):
        coroutine.send(None)


def _are_there_descriptors(number: int) -> bool:
    taken = []
    try:
        for _ in range(number):
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401 - those taken before an error are given back
    except OSError as error:
        return error.errno not in _NO_DESCRIPTORS
    finally:
        for each in taken:
            os.close(each)
    return True


def _on_loop_error(others: Callable[..., object] | None, loop: AbstractEventLoop, context: dict[str, Any]) -> None:
    """Leave out what the loop says of our connections: ``connection_lost`` is told the same, and logs it."""
    if isinstance(context.get("protocol"), LoopTransport):
        return
    if others is None:
        loop.default_exception_handler(context)
    else:
        others(loop, context)


def _running_loop() -> AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def new_event_loop() -> AbstractEventLoop:
    """Make a loop: uvloop's where it can be imported."""
    return asyncio.new_event_loop() if uvloop is None else uvloop.new_event_loop()


def install(loop: AbstractEventLoop | None = None) -> None:
    """Install this reactor.

    Args:
        loop: As for ``LoopReactor``.
    """
    main.installReactor(LoopReactor(loop))
