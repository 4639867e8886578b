"""TLS that begins on a connection, as ``twisted.internet._newtls`` begins it on Twisted's own transports.

Owns what a connection's attributes become, and what the TLS protocol sees below it. Its laws:

- What TLS takes over is set on the connection itself, which is then ``SECURE``; its class stays as it is.
- What TLS writes goes to the loop's transport, whatever ``write`` of the connection has become.
"""

# mypy: disallow-untyped-calls=False
# (Twisted's TLS has no annotations)
# ruff: noqa: SLF001 - a part of LoopTransport, in a module of its own

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import directlyProvides

from twistedws.reactor.state import CONNECTED, SECURE, WRITE_CLOSED


def start(connection: Any, contextFactory: Any, normal: bool) -> None:
    """Speak TLS on a connection from now on.

    Args:
        connection: A ``LoopTransport``.
        contextFactory: What makes the TLS connections.
        normal: Whether to be the server.
    """
    producer, streaming = connection.producer, connection.streamingProducer
    if producer is not None:
        connection.unregisterProducer()
    factory = TLSMemoryBIOFactory(contextFactory, not normal, cast("Any", None), connection.reactor)
    protocol = factory.protocol(factory, connection.protocol, False)
    connection.protocol = protocol
    connection.write = protocol.write
    connection._flags |= SECURE
    connection.__dict__.update(
        TLS=True,
        getHandle=protocol.getHandle,
        getPeerCertificate=protocol.getPeerCertificate,
        loseConnection=protocol.loseConnection,
        registerProducer=protocol.registerProducer,
        unregisterProducer=protocol.unregisterProducer,
    )
    directlyProvides(connection, ISSLTransport)
    protocol.makeConnection(_BelowTLS(connection))
    if producer is not None:
        connection.registerProducer(producer, streaming)


class _BelowTLS:
    """What ``start`` gives its TLS protocol for a transport: the connection, with the methods that TLS took over as they were.

    Args:
        connection: A ``LoopTransport``.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def write(self, data: bytes) -> None:
        connection = self._connection
        if connection._flags & (CONNECTED | WRITE_CLOSED) == CONNECTED:
            connection._loop_transport.write(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        type(self._connection).loseConnection(self._connection)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        type(self._connection).registerProducer(self._connection, producer, streaming)

    def unregisterProducer(self) -> None:
        type(self._connection).unregisterProducer(self._connection)
