"""Ports that the loop accepts on.

Owns the listening: what pauses and stops it, what waits meanwhile, what an error does to it. Its laws:

- A port that is not wanted, or has no descriptors to accept with, shows its factory no connection.
- What was accepted and not shown to the factory ends with the port, and its descriptor with it.
"""

# mypy: disallow-untyped-calls=False
# (Twisted's reactors and transports have no annotations)

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from functools import partial
from typing import Any, cast

from twisted.internet import tcp, unix
from twisted.python import log
from twisted.python.failure import Failure

from twistedws.reactor.descriptors import NO_DESCRIPTORS
from twistedws.reactor.loop import at_once
from twistedws.reactor.transport import LoopTransport
from twistedws.reactor.unix_transport import LoopUNIXTransport


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

    holds_accepted = True  # whether what is accepted in the turn in which the port is paused waits until it is resumed
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
                self._server = at_once(server)
            except OSError as error:
                if error.errno not in NO_DESCRIPTORS:
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
            if error.errno in NO_DESCRIPTORS:
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
        if self._wanted or (self.connected and not self.holds_accepted):
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


class _Inherited:
    """What ``unix.Port`` does otherwise where its socket is other processes' too: it leaves the socket, its file, and the file's mode.

    Twisted's own gives the file a mode at the start, which only its owner may; at the end it removes the file, and shuts the socket down
    for everybody. ``tcp.Port`` does nothing of that to a socket that was inherited.
    """

    _shouldShutdown = False
    _bindPath: bytes
    _getLogPrefix: Any
    _preexistingSocket: Any
    factory: Any
    startReading: Any

    def startListening(self) -> None:
        """Accept from the socket, which is listened on."""
        tcp._reservedFD.reserve()  # noqa: SLF001
        name = os.fsdecode(self._bindPath)  # in Twisted's words, for whoever reads its log
        log.msg(f"{self._getLogPrefix(self.factory)} starting on {name!r}")
        self.factory.doStart()
        self.socket, self._preexistingSocket = self._preexistingSocket, None
        self.fileno, self.backlog = self.socket.fileno, socket.SOMAXCONN
        self.connected, self.numberAccepts = True, 100
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        """The port is listened on no more; the file stays."""
        tcp.Port.connectionLost(cast("Any", self), reason)


class InheritedUNIXPort(_Inherited, unix.Port):  # type: ignore[misc]  # attributes that Twisted declares nowhere
    """A UNIX socket of which other processes accept too, for Twisted's own reactors."""


class InheritedLoopUNIXPort(_Accepting, _Inherited, unix.Port):
    """The same, accepted by the loop."""

    transport_class = LoopUNIXTransport


def _backlog_of(listening: socket.socket) -> int:
    """Return the backlog of an adopted socket: uvloop calls listen(2) again, which needs one."""
    if sys.platform == "linux" and listening.family != socket.AF_UNIX:
        # tcp_info.tcpi_sacked of a listening socket is its backlog (net/ipv4/tcp.c:tcp_get_info)
        return cast("int", struct.unpack_from("=I", listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 28)[0])
    return socket.SOMAXCONN
