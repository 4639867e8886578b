"""The reactor: ``PollingReactor``, with servers on the loop's own transports.

Owns the set of ports, the set of connections, and the want of descriptors, which is all ports' at once. Its law: who is in a set is in it
from its beginning to its end, and a reactor that stops ends all of them.

``install`` stands here, beside the class: Twisted's own tests, and others, look for it in the module that the reactor's class names.
"""

# mypy: disallow-untyped-calls=False
# (Twisted's reactors and transports have no annotations)

from __future__ import annotations

import asyncio
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet import main
from twisted.internet.address import UNIXAddress
from twisted.internet.error import UnsupportedAddressFamily
from twisted.logger import Logger

from twistedws.reactor.descriptors import are_there_descriptors
from twistedws.reactor.loop import finish, is_uvloop, new_event_loop, running_loop
from twistedws.reactor.polling import PollingReactor
from twistedws.reactor.port import InheritedLoopUNIXPort, LoopPort, LoopUNIXPort
from twistedws.reactor.state import LOST
from twistedws.reactor.transport import LoopTransport, internet_address
from twistedws.reactor.unix_transport import LoopUNIXTransport

_log = Logger()

_LOOK = 1.0  # seconds between looks for free descriptors


class LoopReactor(PollingReactor):
    """See the module.

    Args:
        loop: The loop; None for the one that runs, or else a new one of uvloop's, or of asyncio's own where there is no uvloop.

    Attributes:
        native: Whether the loop accepts: whether it is uvloop's.
        ports: The ports that are to accept.
        connections: The connections, each with a protocol.
        starved: Whether no port accepts, for want of descriptors.
    """

    def __init__(self, loop: AbstractEventLoop | None = None) -> None:
        if loop is None:
            loop = running_loop() or new_event_loop()
            asyncio.set_event_loop(loop)
        self.native = is_uvloop(loop)
        self.ports: set[Any] = set()
        self.connections: set[LoopTransport] = set()
        self.starved = False
        self._look: asyncio.TimerHandle | None = None
        loop.set_exception_handler(partial(_on_loop_error, loop.get_exception_handler()))
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
            return _listening(InheritedLoopUNIXPort._fromListeningDescriptor(self, fileDescriptor, factory))  # noqa: SLF001
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
                address = internet_address(handle.getpeername())
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
        made.add_done_callback(lambda _: finish(coroutine))

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
        if not are_there_descriptors(2 + len(self.ports) if self.starved else 1):
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

    # What is read and written (IReactorFDSet)

    def removeReader(self, reader: Any) -> None:
        """Call it no more."""
        if isinstance(reader, LoopTransport):
            reader.stopReading()
        else:
            super().removeReader(reader)

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
            each.connectionLost(LOST)


def _listening(port: Any) -> Any:
    port.startListening()
    return port


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


def _on_loop_error(others: Callable[..., object] | None, loop: AbstractEventLoop, context: dict[str, Any]) -> None:
    """Leave out what the loop says of our connections: ``connection_lost`` is told the same, and logs it."""
    if isinstance(context.get("protocol"), LoopTransport):
        return
    if others is None:
        loop.default_exception_handler(context)
    else:
        others(loop, context)


def install(loop: AbstractEventLoop | None = None) -> None:
    """Install this reactor.

    Args:
        loop: As for ``LoopReactor``.
    """
    main.installReactor(LoopReactor(loop))
