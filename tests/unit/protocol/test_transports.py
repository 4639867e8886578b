"""What is asked of transports, of each kind there is."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from OpenSSL.SSL import Error as TLSError
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISystemHandle
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from twistedws.errors import Cause
from twistedws.protocol.transports import address_text, buffered_in, canonical, cause_of, host_of, place_of, place_text, unacknowledged_in


class Descriptor(FileDescriptor):
    """One of Twisted's own transports, which never gets to write."""

    def __init__(self) -> None:
        clock: Any = Clock()  # no reactor: it is never asked to poll
        super().__init__(clock)
        self.connected = True

    def startWriting(self) -> None: ...


@implementer(ISystemHandle)
class Socket:
    """A transport of a socket."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def getHandle(self) -> Any:
        return self.handle


class Buffering:
    """A transport that says itself what waits in it, as our reactor's do."""

    def get_write_buffer_size(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("address", "text", "host"),
    [
        (IPv4Address("TCP", "192.0.2.1", 5), "192.0.2.1:5", "192.0.2.1"),
        (IPv6Address("TCP", "2001:db8::1", 5), "[2001:db8::1]:5", "2001:db8::1"),
        (UNIXAddress(b"/run/a"), "unix:/run/a", ""),
        (UNIXAddress(None), "unix", ""),
        (HostnameAddress(b"example.com", 5), "unknown", ""),
    ],
)
def test_addresses(address: Any, text: str, host: str) -> None:
    """Each kind of address has a text for the log; only those of the internet have a part to be counted by."""
    assert (address_text(address), host_of(address)) == (text, host)


def test_causes() -> None:
    """An end is told as FIN, as a fault of TLS, or as RST."""
    causes = [cause_of(Failure(each)) for each in (ConnectionDone(), TLSError(), ConnectionLost())]
    assert causes == [Cause.FIN, Cause.TLS_ERROR, Cause.RESET]


def test_what_waits_in_a_descriptor() -> None:
    """All that a transport of Twisted's was given and has not written counts."""
    transport = Descriptor()
    transport.write(b"12345")
    assert buffered_in(transport) == 5


def test_what_waits_below_others() -> None:
    """What waits in TLS counts, and so does what waits below it; what says nothing holds nothing."""
    tls: Any = TLSMemoryBIOProtocol(None, Protocol(), False)
    tls._appSendBuffer = [b"ab", b"c"]
    tls.transport = Buffering()
    assert buffered_in(tls) == 10
    assert buffered_in(StringTransport()) == 0
    assert buffered_in(None) == 0


@pytest.mark.parametrize(
    ("address", "place"),
    [
        (IPv4Address("TCP", "192.0.2.1", 5), ("192.0.2.1", 5)),
        (IPv6Address("TCP", "2001:db8::1", 5), ("2001:db8::1", 5)),
        (UNIXAddress("/run/ws.sock"), ("/run/ws.sock", None)),
        (UNIXAddress(None), None),
        (HostnameAddress(b"example.com", 80), None),
    ],
)
def test_places(address: Any, place: object) -> None:
    """An address is host and port, or a path, as ASGI has it."""
    assert place_of(address) == place


def test_places_as_text() -> None:
    """A place has brackets where it has colons and a port."""
    assert [place_text("192.0.2.1", 5), place_text("2001:db8::1", 5), place_text("2001:db8::1", 0)] == [
        "192.0.2.1:5",
        "[2001:db8::1]:5",
        "2001:db8::1",
    ]


def test_one_way_to_write_an_address() -> None:
    """However a PROXY header writes an address, it is the same."""
    assert canonical(IPv6Address("TCP", "0:0:0:0:0:0:0:1", 5)) == IPv6Address("TCP", "::1", 5)
    assert canonical(IPv6Address("TCP", "FE80::1%eth0", 5)) == IPv6Address("TCP", "fe80::1%eth0", 5)
    assert canonical(UNIXAddress("/a")) == UNIXAddress("/a")


@pytest.mark.parametrize("address", [IPv4Address("TCP", "nowhere", 5), IPv4Address("TCP", "192.0.2.1", 65536)])
def test_addresses_that_are_none(address: IPv4Address) -> None:
    """What is no address is told."""
    with pytest.raises(ValueError, match=r"nowhere|65536"):
        canonical(address)


def test_what_the_peer_has_not_read() -> None:
    """What the system has and the peer's has not is asked of the socket, below TLS too; who has none, or a closed one, has nothing."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.send(b"12345")
        tls: Any = TLSMemoryBIOProtocol(None, Protocol(), False)
        tls._tlsConnection = object()
        tls.transport = Socket(ours)
        assert unacknowledged_in(Socket(ours)) == unacknowledged_in(tls) > 0  # type: ignore[arg-type]
        theirs.recv(100)
        assert unacknowledged_in(tls) == 0
    ours.close()
    assert unacknowledged_in(tls) == unacknowledged_in(StringTransport()) == unacknowledged_in(None) == 0
