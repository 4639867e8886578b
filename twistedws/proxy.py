"""Who the client of a request is, where reverse proxies stand between it and us.

Floor 1: no I/O, and nothing of the package. Its laws:

- What a header says counts only as far as hops that we trust have said it. So the addresses are read from the
  right, where the nearest hop has appended its own, and reading ends at the first that is not trusted: what
  stands to the left of it is the client's own text, and is not even looked at.
- Nothing that a peer sends raises. A header holds any bytes; what cannot be understood is not believed, and
  neither is anything to the left of it.
- Every byte is looked at a bounded number of times, and so are the elements.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from itertools import islice
from typing import Literal

import msgspec

_MOST_ELEMENTS = 100  # the longest chain of proxies that we follow; real ones have two or three
_REMEMBERED = 1024  # the answers kept: proxies are asked for with every request, clients whenever they reconnect
_LONGEST_NODE = 63  # an address in brackets with its port has 53 characters, a port that is hidden any number

_OWS = b" \t"
_BACKSLASH = ord("\\")
_SECURE = {b"http": False, b"ws": False, b"https": True, b"wss": True}

# None of these takes more than linear time: after a repetition, the next character is none that it could take.
_ADDRESS = rb"(?:\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|([0-9.]+))"
_x_forwarded_node = re.compile(rb"%b(?::([0-9]{1,5}))?" % _ADDRESS).fullmatch
_forwarded_node = re.compile(rb"%b(?::(?:([0-9]{1,5})|_[\w.-]+))?" % _ADDRESS).fullmatch  # RFC 7239 section 6
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 section 5.6.2
_QDTEXT = rb"[\t !#-\[\]-~\x80-\xff]*"  # RFC 9110 section 5.6.4
_QUOTED = rb'"(%b(?:\\[\t -~\x80-\xff]%b)*)"' % (_QDTEXT, _QDTEXT)
# RFC 7239 section 4, where pairs may be missing. It has no white space around the semicolon; people write it.
_forwarded_pair = re.compile(rb"[ \t]*(?:(%b)=(?:(%b)|%b)[ \t]*)?(;|\Z)" % (_TOKEN, _TOKEN, _QUOTED)).match
_unescape = re.compile(rb"\\(.)", re.DOTALL).sub

_Headers = Sequence[tuple[bytes, bytes]]


class Client(msgspec.Struct, frozen=True, gc=False):
    """The far end of a request.

    Attributes:
        host: The IP address as text, with no brackets; "" for a UNIX socket.
        port: The TCP port; 0 where it is not known.
        secure: Whether the client's own connection is TLS.
    """

    host: str
    port: int
    secure: bool


class TrustedProxies:
    """Decides who the client of a request is, by what the proxies before us have said.

    Only one family of headers is read, and it must be the one that the proxies write. A proxy that sets
    X-Forwarded-For passes a client's own ``Forwarded`` on as it came, and the reverse: whoever reads both
    believes the client. For the same reason a proxy must set or append to each header of the family, with
    X-Forwarded-Proto as well as with X-Forwarded-For.

    Args:
        trusted: Addresses and networks of the proxies (``127.0.0.1``, ``10.0.0.0/8``, ``2001:db8::/32``); ``unix``
            for peers on a UNIX socket; ``*`` for everybody, where the leftmost address is taken: that is safe
            only where nobody but the proxy can connect, and the proxy replaces what its clients send.
        headers: ``x-forwarded`` for X-Forwarded-For and X-Forwarded-Proto, ``forwarded`` for RFC 7239.

    Raises:
        ValueError: An entry, or the family, is none of these.
    """

    __slots__ = ("_any", "_elements", "_networks", "_read", "_remembered", "_unix")

    def __init__(self, trusted: Sequence[str], headers: Literal["x-forwarded", "forwarded"] = "x-forwarded") -> None:
        if headers not in ("x-forwarded", "forwarded"):
            raise ValueError(f"forwarding headers {headers!r}: must be x-forwarded or forwarded")
        self._any, self._unix = "*" in trusted, "unix" in trusted
        # by IP version and by the number of bits that a network leaves to its hosts: a look-up takes time by the
        # different sizes of networks, not by their number, which is some hundreds for a public CDN
        self._networks: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for entry in trusted:
            if entry not in ("*", "unix"):
                network = _network(entry)
                bits = network.max_prefixlen - network.prefixlen
                self._networks[network.version].setdefault(bits, set()).add(int(network.network_address) >> bits)
        forwarded = headers == "forwarded"
        self._elements: Callable[[_Headers], Iterator[tuple[bytes, bytes]]] = _forwarded if forwarded else _x_forwarded
        # with them client() takes 1.4 us where it knows all the addresses; one that is new takes some 4 us more, an IPv6 one 7.5
        self._remembered: Callable[[str], bool] = lru_cache(_REMEMBERED)(self._looked_up)
        self._read: Callable[[bytes], tuple[str, int, bool] | None] = lru_cache(_REMEMBERED)(
            self._read_forwarded if forwarded else self._read_x_forwarded
        )

    def __bool__(self) -> bool:
        return self._any or self._unix or any(self._networks.values())

    def trusts(self, host: str) -> bool:
        """Say whether a peer is one of the proxies.

        Args:
            host: Its address, "" for a UNIX socket. An IPv4-mapped one (RFC 4291 section 2.5.5.2), which is what
                a socket for both versions gives, counts as its IPv4 address.
        """
        return self._any or self._remembered(host)

    def client(self, host: str, port: int, secure: bool, headers: _Headers) -> Client:
        """Return who has sent a request.

        Its address is the first from the right that is not a trusted proxy's; the leftmost, if all are. What is
        no address, such as ``unknown`` or ``_hidden`` (RFC 7239 section 6), ends the walk: the address before it
        counts. Its scheme is the one stated for the same hop; where no hop has an address, for the nearest.

        Args:
            host: The address of the peer: of the connection, or what the PROXY protocol has said of it.
            port: The peer's port.
            secure: Whether the peer's connection is TLS.
            headers: Pairs of name, in lower case, and value. Those of a peer that is not trusted change nothing.
        """
        if not self.trusts(host):
            return Client(host, port, secure)
        scheme: bytes | None = None
        for element, stated in islice(self._elements(headers), _MOST_ELEMENTS):
            # what is too long for an address shall not stay in memory as one that is remembered
            node = self._read(element) if len(element) <= _LONGEST_NODE else None
            if node is None:
                if scheme is None:  # the nearest hop has hidden the address, but it is trusted
                    scheme = stated
                break
            scheme = stated
            host, port, trusted = node
            if not trusted:
                break
        return Client(host, port, secure if scheme is None else _SECURE.get(scheme.lower(), secure))

    def _looked_up(self, host: str) -> bool:
        if not host:
            return self._unix
        address = _address(host)
        return address is not None and self._holds(address)

    def _holds(self, address: IPv4Address | IPv6Address) -> bool:
        number = int(address)
        return any(number >> bits in prefixes for bits, prefixes in self._networks[address.version].items())

    def _read_x_forwarded(self, element: bytes) -> tuple[str, int, bool] | None:
        if element.count(b":") > 1 and not element.startswith(b"["):
            element = b"[%b]" % element  # with no brackets, there is no telling a port: all of it is the address
        return self._node(_x_forwarded_node(element))

    def _read_forwarded(self, element: bytes) -> tuple[str, int, bool] | None:
        return self._node(_forwarded_node(element))

    def _node(self, found: re.Match[bytes] | None) -> tuple[str, int, bool] | None:
        """Return an element's address in normal form, its port, and whether it is trusted; None if it has none."""
        if found is None:
            return None
        address = _address((found[1] or found[2]).decode())
        port = int(found[3] or 0)
        if address is None or port > 65535:
            return None
        return str(address), port, self._any or self._holds(address)


def _network(entry: str) -> IPv4Network | IPv6Network:
    """Return the network that an entry of the setting stands for, an IPv4-mapped one as IPv4."""
    try:
        if "%" in entry:  # a zone has no meaning for a network, and ipaddress would let it count for nothing
            raise ValueError
        interface = ip_interface(entry)
    except ValueError:
        raise ValueError(f"trusted proxy {entry!r}: must be an address, a network such as 10.0.0.0/8, unix or *") from None
    network = interface.network
    if interface.ip != network.network_address:
        raise ValueError(f"trusted proxy {entry!r}: must be a network with no bits of a host in it, such as {network}, or an address")
    # its prefix has at least 96 bits: fewer would leave some of the ones in ::ffff:0:0 to the host, see above
    if isinstance(network, IPv6Network) and (mapped := network.network_address.ipv4_mapped):
        return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address, an IPv4-mapped one as its IPv4 address; None if it is none."""
    try:
        if ":" not in text:
            return IPv4Address(text)
        address = IPv6Address(text)
    except AddressValueError:
        return None
    return address.ipv4_mapped or address


def _x_forwarded(headers: _Headers) -> Iterator[tuple[bytes, bytes]]:
    """Yield the address and the scheme of each hop, the nearest first. There is at least one, be it empty.

    Some proxies append to X-Forwarded-Proto, most replace it: the leftmost then stands for all further hops.
    """
    hosts, schemes = [], []
    for name, value in headers:
        if name == b"x-forwarded-for":
            hosts.append(value)
        elif name == b"x-forwarded-proto":
            schemes.append(value)
    # several fields are one list (RFC 9110 section 5.3)
    protos = b",".join(schemes).rsplit(b",", _MOST_ELEMENTS)
    for element in reversed(b",".join(hosts).rsplit(b",", _MOST_ELEMENTS)):
        yield element.strip(_OWS), protos[-1].strip(_OWS)
        if len(protos) > 1:
            protos.pop()


def _forwarded(headers: _Headers) -> Iterator[tuple[bytes, bytes]]:
    """Yield the address and the scheme of each hop, the nearest first, up to what is malformed.

    Elements are cut off from the right. From the left, a quote that a client opens and never closes would
    swallow what the proxies have appended to it; nor does one reach from one field into the next.
    """
    for value in reversed([value for name, value in headers if name == b"forwarded"]):
        end = len(value)
        while end >= 0:
            start = _element_start(value, end)
            pairs = _pairs(value[start:end]) if start >= 0 else None
            if pairs is None:
                return
            yield pairs.get(b"for", b""), pairs.get(b"proto", b"")
            end = start - 1


def _element_start(text: bytes, end: int) -> int:
    """Return where the list element that ends here starts: after a comma outside of quotes; -1 if a quote has no other."""
    comma = text.rfind(b",", 0, end)
    while (quote := text.rfind(b'"', comma + 1, end)) >= 0:
        end = _opening_quote(text, quote)
        if end < 0:
            return -1
        if end < comma:
            comma = text.rfind(b",", 0, end)
    return comma + 1


def _opening_quote(text: bytes, closing: int) -> int:
    """Return where the quoted string that ends here starts, -1 if nowhere.

    A backslash stands only inside of one (RFC 9110 section 5.6.4), so a quote after an odd number is escaped.
    """
    quote = closing
    while (quote := text.rfind(b'"', 0, quote)) >= 0:
        run = quote
        while run and text[run - 1] == _BACKSLASH:
            run -= 1
        if (quote - run) % 2 == 0:
            return quote
    return -1


def _pairs(element: bytes) -> dict[bytes, bytes] | None:
    """Return the parameters of one element, names in lower case; None if it is malformed (RFC 7239 section 4)."""
    pairs: dict[bytes, bytes] = {}
    end = 0
    while found := _forwarded_pair(element, end):
        name, token, quoted, more = found.groups()
        if name is not None:
            key = name.lower()
            if key in pairs:  # section 4: not more than once
                return None
            pairs[key] = token if token is not None else _unescape(rb"\1", quoted)
        if not more:
            return pairs
        end = found.end()
    return None
