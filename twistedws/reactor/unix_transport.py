"""A connection over a UNIX socket.

Owns the passing of descriptors, which neither loop knows. Its laws:

- Bytes that were written before a descriptor leave before it, and those after it with it or after it.
- The addresses are kept: the loop knows them only as long as the connection is open.
"""

# mypy: disallow-untyped-calls=False
# (Twisted's reactors and transports have no annotations)

from __future__ import annotations

import os
import socket
import struct
from typing import Any

from twisted.internet import unix
from twisted.internet.address import UNIXAddress
from twisted.internet.error import FileDescriptorOverrun
from twisted.internet.interfaces import IFileDescriptorReceiver, IUNIXTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from twistedws.reactor.state import CONNECTED, DISCONNECTING, FULL, HOLDING, LOST, WRITE_CLOSING
from twistedws.reactor.transport import LoopTransport, Origin

_MOST_DESCRIPTORS = 64  # that wait to be sent before a producer is paused (unix._SendmsgMixin)


@implementer(IUNIXTransport)
class LoopUNIXTransport(LoopTransport):
    """A connection over a UNIX socket.

    The loops cannot pass descriptors. To send them, this class calls the system itself; a protocol that receives them is given one of
    Twisted's own transports.
    """

    __slots__ = ("_descriptors", "_host", "_late", "_peer")

    def __init__(self, origin: Origin) -> None:
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
        for data in self._held if self._flags & HOLDING else ():
            protocol.dataReceived(data)

    def sendFileDescriptor(self, fileno: int) -> None:
        """Send a descriptor, with the next bytes that are written."""
        if self._flags & CONNECTED:
            if not self._descriptors:
                self.write = self._write_late
                self._call_soon(self._send_descriptors)
            self._descriptors.append(fileno)
            if len(self._descriptors) > _MOST_DESCRIPTORS and not self._flags & FULL:
                self.pause_writing()

    def _write_late(self, data: bytes) -> None:
        self._late += data

    def _send_descriptors(self) -> None:
        if not self._flags & CONNECTED:
            return
        if len(self._descriptors) > len(self._late):
            self.abort_for(Failure(FileDescriptorOverrun()))
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
                    self.abort_for(LOST)
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
        if self._flags & DISCONNECTING and self.producer is None:
            self._close()
        elif self._flags & WRITE_CLOSING:
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
