"""What Twisted has no public word for: how much waits in a transport, who is at its other end, why it has gone."""

from __future__ import annotations

from fcntl import ioctl
from ipaddress import ip_address
from struct import Struct
from termios import TIOCOUTQ  # of a socket: SIOCOUTQ (tcp(7), unix(7))
from typing import Any

from OpenSSL.SSL import Error as TLSError
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, ISystemHandle, ITransport
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from twistedws.errors import Cause

_COUNT = Struct("i")


def buffered_in(transport: ITransport | None) -> int:
    """Return the bytes that a transport, and those below it, hold for a slow peer.

    Twisted has no public word for it: its producers only hear of two marks.
    """
    octets = 0
    while transport is not None:
        if isinstance(transport, TLSMemoryBIOProtocol):
            octets += sum(map(len, transport._appSendBuffer))  # noqa: SLF001
        elif isinstance(transport, FileDescriptor):
            return octets + len(transport.dataBuffer) - transport.offset + transport._tempDataLen  # noqa: SLF001
        elif hasattr(transport, "get_write_buffer_size"):
            return octets + int(transport.get_write_buffer_size())
        transport = getattr(transport, "transport", None)
    return octets


def unacknowledged_in(transport: ITransport | None) -> int:
    """Return the bytes that the operating system has of a connection's output and the peer's machine has not; 0 where it does not tell.

    A kernel takes output again only when a third of its buffer, some megabytes, is free: of a peer that reads slowly it takes nothing for
    minutes.
    """
    while transport is not None:
        if ISystemHandle.providedBy(transport):
            handle: Any = transport.getHandle()
            try:
                return int(_COUNT.unpack(ioctl(handle.fileno(), TIOCOUTQ, bytes(_COUNT.size)))[0])
            except AttributeError:  # TLS, whose handle is no socket: it is further down
                pass
            except (OSError, ValueError):  # gone, or of a kind that does not count
                return 0
        transport = getattr(transport, "transport", None)
    return 0


def cause_of(reason: Failure) -> Cause:
    """How a connection ended that nobody here has ended: FIN, RST, or a fault of TLS."""
    kind = reason.type  # not Failure.check, which compares names and takes 1 us
    if kind is not None and issubclass(kind, ConnectionDone):
        return Cause.FIN
    return Cause.TLS_ERROR if kind is not None and issubclass(kind, TLSError) else Cause.RESET


def host_of(address: IAddress) -> str:
    """The part of an address that its connections share; "" where there is none."""
    return address.host if isinstance(address, (IPv4Address, IPv6Address)) else ""


def place_of(address: IAddress) -> tuple[str, int | None] | None:
    """An address as ASGI has it: host and port, or the path of a UNIX socket and None; None where it has no name."""
    if isinstance(address, (IPv4Address, IPv6Address)):
        return address.host, address.port
    if isinstance(address, UNIXAddress) and address.name:
        return address.name.decode("utf-8", "replace"), None
    return None


def canonical(address: IAddress) -> IAddress:
    """Return an address with its host as it is written in one way only: a PROXY header, as Twisted reads it, may have any.

    Raises:
        ValueError: It is none: Twisted does not look.
    """
    if not isinstance(address, (IPv4Address, IPv6Address)):
        return address
    if not 0 <= address.port <= 65535:
        raise ValueError(f"port: {address.port}")
    host, percent, zone = address.host.partition("%")
    return type(address)(address.type, str(ip_address(host)) + percent + zone, address.port)


def place_text(host: str, port: int) -> str:
    """A client's address for the log, its port where it is known."""
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_text(address: IAddress) -> str:
    """An address for the log: ``HOST:PORT``, ``unix:PATH``, or a word where there is neither."""
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, UNIXAddress):
        name = address.name
        return f"unix:{name.decode('utf-8', 'replace')}" if name else "unix"
    return "unknown"
