"""Who the client is, behind proxies."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv6Address, ip_network
from types import FrameType
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twistedws.proxy import Client, TrustedProxies

Headers = list[tuple[bytes, bytes]]

PEER = ("10.0.0.1", 4711)
PROXIES = ["10.0.0.0/8", "127.0.0.1", "fd00::/8", "unix"]

MANY_ELEMENTS = 150
ELEMENTS_READ = 100

X_FORWARDED_NODES = [
    (b"203.0.113.9", "203.0.113.9", 0),
    (b"203.0.113.9:4711", "203.0.113.9", 4711),
    (b"203.0.113.9:0", "203.0.113.9", 0),
    (b"203.0.113.9:65535", "203.0.113.9", 65535),
    (b" \t203.0.113.9\t ", "203.0.113.9", 0),
    (b"2001:db8::9", "2001:db8::9", 0),
    (b"2001:db8::4711", "2001:db8::4711", 0),
    (b"::9", "::9", 0),
    (b"[2001:db8::9]", "2001:db8::9", 0),
    (b"[2001:db8::9]:4711", "2001:db8::9", 4711),
    (b" [2001:db8::9]:4711 ", "2001:db8::9", 4711),
    (b"2001:0DB8:0:0::0009", "2001:db8::9", 0),
    (b"::ffff:203.0.113.9", "203.0.113.9", 0),
    (b"::ffff:cb00:7109", "203.0.113.9", 0),
    (b"[::FFFF:203.0.113.9]:4711", "203.0.113.9", 4711),
    (b"2001:0db8:0000:0000:0000:0000:192.168.100.100", "2001:db8::c0a8:6464", 0),
    (b"[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535),
]

FORWARDED_NODES = [
    (b"for=203.0.113.9", "203.0.113.9", 0),
    (b"For=203.0.113.9", "203.0.113.9", 0),
    (b"FOR=203.0.113.9", "203.0.113.9", 0),
    (b'for="203.0.113.9"', "203.0.113.9", 0),
    (b'for="203.0.113.9:4711"', "203.0.113.9", 4711),
    (b'for="203.0.113.9:_hidden-port.1"', "203.0.113.9", 0),
    (b'for="[2001:db8::9]"', "2001:db8::9", 0),
    (b'for="[2001:DB8:0::9]:4711"', "2001:db8::9", 4711),
    (b'for="[2001:db8::9]:_x"', "2001:db8::9", 0),
    (b'for="[::ffff:203.0.113.9]:4711"', "203.0.113.9", 4711),
    (b'for="2\\03.0.113\\.9\\:4711"', "203.0.113.9", 4711),
    (b"by=10.0.0.7;for=203.0.113.9;host=example.com;secret=_x", "203.0.113.9", 0),
    (b'by="[fd00::1]:80";for="203.0.113.9:1";host="a,b;c\\"\\\\"', "203.0.113.9", 1),
    (b'host="for=198.51.100.1, for=198.51.100.2";for=203.0.113.9', "203.0.113.9", 0),
    (b'for=203.0.113.9;host="\xe4\\\xe4"', "203.0.113.9", 0),
    (b'for=203.0.113.9;host=""', "203.0.113.9", 0),
    (b" for=203.0.113.9 ; proto=http ", "203.0.113.9", 0),
    (b";;for=203.0.113.9;;", "203.0.113.9", 0),
]

NO_ADDRESSES = [
    b"",
    b" ",
    b"unknown",
    b"_hidden",
    b"_SEVKISEK",
    b"example.com",
    b"localhost",
    b"203.0.113",
    b"203.0.113.9.1",
    b"203.0.113.256",
    b"203.0.113.09",
    b"203.0.113.9/32",
    b"203.0.113.9 203.0.113.8",
    b"203.0.113.9:",
    b"203.0.113.9:x",
    b"203.0.113.9:-1",
    b"203.0.113.9: 80",
    b"203.0.113.9:65536",
    b"203.0.113.9:000080",
    b"203.0.113.9:80:80",
    b"203.0.113.9:\xb2",
    b"203.0.113.9\n",
    b"203.0.113.9\x00",
    b"203.0.113.9\x85",
    b"\xa0203.0.113.9",
    b"3405803785",
    b"[203.0.113.9]",
    b"[203.0.113.9]:80",
    b"[2001:db8::9",
    b"2001:db8::9]",
    b"[2001:db8::9]80",
    b"[2001:db8::9]:",
    b"[2001:db8::9]:65536",
    b"[[2001:db8::9]]",
    b"[]",
    b"[]:80",
    b"[:]",
    b":",
    b":::",
    b"2001:db8:::9",
    b"2001:db8::g",
    b"fe80::1%eth0",
    b"[fe80::1%eth0]",
    b"[fe80::1%25eth0]:80",
    b"1:2:3:4:5:6:7:8:9",
    b"'203.0.113.9'",
    b"203.0.113.9" * 10,
    b"[2001:db8::9]" + b":" + b"0" * 60,
]

MALFORMED = [
    b"for",
    b"for=",
    b"=203.0.113.9",
    b"for =203.0.113.9",
    b"for= 203.0.113.9",
    b"for=203.0.113.9:4711",
    b"for=[2001:db8::9]",
    b"for=2001:db8::9",
    b"for=203.0.113.9 proto=https",
    b"for=203.0.113.9;for=203.0.113.9",
    b"for=203.0.113.9;FOR=203.0.113.9",
    b"for=203.0.113.9;proto=https;proto=http",
    b'for="203.0.113.9',
    b'for=203.0.113.9"',
    b'"for=203.0.113.9"',
    b'for=203.0.113.9""',
    b'for="203.0.113.9""',
    b'for="203.0.113.9\\"',
    b'for="203.0.113.9\\\\\\"',
    b'for="203.0.113.9";by="',
    b'for="203.0.113.9";by="\\',
    b'for="203.0.113.9";by=\\"',
    b'for="203.0.113.9";by="\x00"',
    b'for="203.0.113.9";by="\\\n"',
    b"for=203.0.113.9;by=\xff",
    b"for=203.0.113.9\n",
    b"203.0.113.9",
    b"unknown",
    b"\x00",
    b'"',
    b"\\",
    b'\\"',
]


def client_of(headers: Headers, *, family: Literal["x-forwarded", "forwarded"] = "x-forwarded", secure: bool = False) -> Client:
    """The client of a request that came from a trusted proxy."""
    return TrustedProxies(PROXIES, family).client(*PEER, secure, headers)


def hosts(*values: bytes) -> Headers:
    return [(b"x-forwarded-for", value) for value in values]


def protos(*values: bytes) -> Headers:
    return [(b"x-forwarded-proto", value) for value in values]


def forwarded(*values: bytes) -> Headers:
    return [(b"forwarded", value) for value in values]


@pytest.mark.parametrize(
    ("trusted", "inside", "outside"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
        ("127.0.0.1/32", "127.0.0.1", "127.0.0.0"),
        ("127.0.0.1", "::ffff:127.0.0.1", "::ffff:127.0.0.2"),
        ("127.0.0.1", "::ffff:7f00:1", "::127.0.0.1"),
        ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
        ("10.0.0.0/8", "10.0.0.0", "9.255.255.255"),
        ("10.0.0.0/255.0.0.0", "10.1.2.3", "11.0.0.0"),
        ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.1.2.3"),
        ("10.0.0.0/31", "10.0.0.1", "10.0.0.2"),
        ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
        ("::/0", "2001:db8::1", "203.0.113.9"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
        ("2001:DB8:0::1", "2001:db8::1", "2001:db8::2"),
        ("fe80::/10", "fe80::1%eth0", "fec0::1%eth0"),
        ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"),
        ("::ffff:10.0.0.0/104", "10.255.0.1", "11.0.0.1"),
        ("::ffff:10.0.0.0/104", "::ffff:10.255.0.1", "::ffff:11.0.0.1"),
        ("::ffff:0:0/96", "203.0.113.9", "2001:db8::1"),
        ("::fffe:0:0/95", "::fffe:0:1", "203.0.113.9"),
        ("unix", "", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", ""),
        ("127.0.0.1", "127.0.0.1", "localhost"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:80"),
        ("::1", "::1", "[::1]"),
    ],
)
def test_who_is_trusted(trusted: str, inside: str, outside: str) -> None:
    """An entry stands for its addresses and no others, and an answer from memory is the same as the first."""
    proxies = TrustedProxies([trusted])
    assert [proxies.trusts(inside) for _ in range(2)] == [True, True]
    assert [proxies.trusts(outside) for _ in range(2)] == [False, False]


def test_each_entry_counts() -> None:
    """A peer is trusted if any of the entries holds it."""
    proxies = TrustedProxies(["10.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24", "192.0.2.7", "2001:db8::/32", "unix"])
    assert all(map(proxies.trusts, ["10.1.1.1", "192.0.2.7", "192.0.2.8", "198.51.100.1", "2001:db8::1", ""]))
    assert not any(map(proxies.trusts, ["192.0.3.1", "198.51.101.1", "203.0.113.9", "::1"]))


@pytest.mark.parametrize("host", ["127.0.0.1", "203.0.113.9", "2001:db8::1", "", "what"])
def test_a_star_stands_for_everybody(host: str) -> None:
    """With * every peer is trusted, one on a UNIX socket too; with no entry none is."""
    assert TrustedProxies(["*"]).trusts(host)
    assert TrustedProxies(["10.0.0.0/8", "*"]).trusts(host)
    assert not TrustedProxies([]).trusts(host)


@pytest.mark.parametrize("trusted", [["*"], ["unix"], ["127.0.0.1"], ["::1"], ["0.0.0.0/0"], ["::/0"]])
def test_a_policy_that_trusts_anybody_is_true(trusted: list[str]) -> None:
    """A policy is true if there is somebody whom it trusts."""
    assert TrustedProxies(trusted)
    assert not TrustedProxies([])


@pytest.mark.parametrize(
    "entry",
    ["", " ", "localhost", "proxy.example.com", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0/8", "10.0.0.*", " 10.0.0.1",
     "10.0.0.1:80", "[::1]", "::1/129", "fe80::1%eth0", "fe80::%eth0/64", "UNIX", "unix:", "**", "10.0.0.1,10.0.0.2", "010.0.0.1"],
)  # fmt: skip
def test_an_entry_that_is_none_is_refused(entry: str) -> None:
    """An entry that cannot be understood is named, with what would be accepted."""
    with pytest.raises(ValueError, match="must be an address, a network such as") as caught:
        TrustedProxies(["127.0.0.1", entry])
    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "meant"),
    [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("192.0.2.1/31", "192.0.2.0/31"),
        ("2001:db8::1/32", "2001:db8::/32"),
        ("0.0.0.1/0", "0.0.0.0/0"),
        ("::ffff:0:0/95", "::fffe:0:0/95"),
        ("::ffff:10.1.2.3/104", str(ip_network("::ffff:a00:0/104"))),  # 3.13 writes it with dots
    ],
)
def test_a_network_with_bits_of_a_host_is_refused(entry: str, meant: str) -> None:
    """Of a network with bits of a host in it, the error says which network would be meant."""
    with pytest.raises(ValueError, match="no bits of a host") as caught:
        TrustedProxies([entry])
    assert repr(entry) in str(caught.value)
    assert meant in str(caught.value)


def test_a_family_that_is_none_is_refused() -> None:
    """A family of headers that does not exist is named, with those that do."""
    with pytest.raises(ValueError, match="'x-real-ip': must be x-forwarded or forwarded"):
        TrustedProxies([], "x-real-ip")  # type: ignore[arg-type]


@pytest.mark.parametrize("trusted", [[], ["127.0.0.1"], ["unix"]])
@pytest.mark.parametrize("secure", [False, True])
def test_a_peer_that_is_not_trusted_is_the_client(trusted: list[str], secure: bool) -> None:
    """What somebody who is no proxy says of himself counts for nothing."""
    headers = hosts(b"198.51.100.1") + protos(b"http" if secure else b"https") + forwarded(b"for=198.51.100.1;proto=https")
    assert TrustedProxies(trusted).client("203.0.113.9", 4711, secure, headers) == Client("203.0.113.9", 4711, secure)
    assert TrustedProxies(trusted, "forwarded").client("203.0.113.9", 4711, secure, headers) == Client("203.0.113.9", 4711, secure)


@pytest.mark.parametrize("secure", [False, True])
def test_a_proxy_that_says_nothing_is_the_client(secure: bool) -> None:
    """Without headers, the peer is all that is known."""
    assert client_of([], secure=secure) == Client(*PEER, secure)
    assert client_of([(b"host", b"example.com")], family="forwarded", secure=secure) == Client(*PEER, secure)


@pytest.mark.parametrize("peer", ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", ""])
def test_every_trusted_peer_is_believed(peer: str) -> None:
    """The client that a proxy names is believed, whichever way the proxy has connected."""
    assert TrustedProxies(PROXIES).client(peer, 0, False, hosts(b"203.0.113.9") + protos(b"https")) == Client("203.0.113.9", 0, True)


def test_only_one_family_is_read() -> None:
    """A header of the other family, which a proxy passes on as the client has sent it, changes nothing."""
    both = hosts(b"203.0.113.1") + protos(b"http") + forwarded(b"for=203.0.113.2;proto=https")
    assert client_of(both) == Client("203.0.113.1", 0, False)
    assert client_of(both, family="forwarded") == Client("203.0.113.2", 0, True)
    assert client_of(forwarded(b"for=203.0.113.2;proto=https")) == Client(*PEER, False)
    assert client_of(hosts(b"203.0.113.1") + protos(b"https"), family="forwarded") == Client(*PEER, False)


@pytest.mark.parametrize(("element", "host", "port"), X_FORWARDED_NODES)
def test_forms_of_an_address_in_x_forwarded_for(element: bytes, host: str, port: int) -> None:
    """An address is read in each of the forms that proxies write, and given in the one normal form."""
    assert client_of(hosts(element)) == Client(host, port, False)
    assert client_of(hosts(b"unknown, " + element + b", 10.0.0.2")) == Client(host, port, False)


@pytest.mark.parametrize(("element", "host", "port"), FORWARDED_NODES)
def test_forms_of_an_element_of_forwarded(element: bytes, host: str, port: int) -> None:
    """An element is read in each of the forms that RFC 7239 allows."""
    assert client_of(forwarded(element), family="forwarded") == Client(host, port, False)
    assert client_of(forwarded(b"for=unknown, " + element + b", for=10.0.0.2"), family="forwarded") == Client(host, port, False)


@pytest.mark.parametrize(
    ("elements", "client"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        (["198.51.100.1", "203.0.113.9", "10.0.0.2", "127.0.0.1"], "203.0.113.9"),
        (["10.0.0.9", "203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        (["10.0.0.2"], "10.0.0.2"),
        (["10.0.0.3", "10.0.0.2"], "10.0.0.3"),
        (["203.0.113.9", "unknown", "10.0.0.2"], "10.0.0.2"),
        (["203.0.113.9", "_hidden", "10.0.0.3", "10.0.0.2"], "10.0.0.3"),
        (["203.0.113.9", "unknown"], PEER[0]),
        (["unknown", "203.0.113.9"], "203.0.113.9"),
    ],
)
def test_the_walk_ends_at_the_first_that_is_not_trusted(elements: list[str], client: str) -> None:
    """The first address from the right that is no proxy's is the client; the leftmost is, if all are proxies'."""
    values = [element.encode() for element in elements]
    pairs = [b"for=" + value for value in values]
    for separator in (b",", b", ", b" ,\t"):
        assert client_of(hosts(separator.join(values))).host == client
        assert client_of(forwarded(separator.join(pairs)), family="forwarded").host == client
    assert client_of(hosts(*values)).host == client
    assert client_of(forwarded(*pairs), family="forwarded").host == client


def test_several_fields_are_one_list() -> None:
    """Fields of one name are read as one list in the order sent, whatever stands between them (RFC 9110 section 5.3)."""
    other = [(b"via", b"1.1 example")]
    headers = hosts(b"198.51.100.1, 203.0.113.9") + other + protos(b"http,https") + hosts(b"10.0.0.2") + protos(b"http")
    assert client_of(headers) == Client("203.0.113.9", 0, True)
    headers = forwarded(b"for=198.51.100.1,for=203.0.113.9;proto=https") + other + forwarded(b"for=10.0.0.2;proto=http")
    assert client_of(headers, family="forwarded") == Client("203.0.113.9", 0, True)


def test_with_everybody_trusted_the_leftmost_counts() -> None:
    """With * there is no address at which to stop."""
    assert TrustedProxies(["*"]).client("203.0.113.1", 1, False, hosts(b"203.0.113.9:5, 203.0.113.8")) == Client("203.0.113.9", 5, False)
    assert TrustedProxies(["*"]).client("203.0.113.1", 1, False, hosts(b"x, 203.0.113.8")) == Client("203.0.113.8", 0, False)


@pytest.mark.parametrize("element", NO_ADDRESSES)
def test_what_is_no_address_ends_the_walk(element: bytes) -> None:
    """The last address before what is none counts, even if it is a proxy's or the peer's; nothing beyond is believed."""
    assert client_of(hosts(element)) == Client(*PEER, False)
    assert client_of(hosts(b"203.0.113.9, " + element)) == Client(*PEER, False)
    assert client_of(hosts(b"203.0.113.9, " + element + b", 10.0.0.2:5")) == Client("10.0.0.2", 5, False)
    quoted = b'for="%b"' % element.replace(b'"', b'\\"')
    assert client_of(forwarded(quoted), family="forwarded") == Client(*PEER, False)
    assert client_of(forwarded(b"for=203.0.113.9, " + quoted + b", for=10.0.0.2"), family="forwarded") == Client("10.0.0.2", 0, False)


@pytest.mark.parametrize(
    ("element", "family"),
    [
        (b"203.0.113.9:_hidden", "x-forwarded"),
        (b'"203.0.113.9"', "x-forwarded"),
        (b"for=203.0.113.9", "x-forwarded"),
        (b'for="2001:db8::9"', "forwarded"),
        (b'for=" 203.0.113.9"', "forwarded"),
        (b'for="203.0.113.9:_"', "forwarded"),
        (b"", "forwarded"),
        (b"by=203.0.113.9", "forwarded"),
        (b";", "forwarded"),
    ],
)
def test_a_form_of_the_other_family_is_no_address(element: bytes, family: Literal["x-forwarded", "forwarded"]) -> None:
    """Each family has its own forms; an element with no address at all ends the walk like one that hides it."""
    headers = [(b"x-forwarded-for" if family == "x-forwarded" else b"forwarded", element)]
    assert client_of(headers, family=family) == Client(*PEER, False)


@pytest.mark.parametrize("element", MALFORMED)
def test_nothing_from_a_malformed_element_leftwards_is_believed(element: bytes) -> None:
    """A malformed element of Forwarded ends the walk with its scheme unread; what stands to its right counts."""
    for left in (b"", b"for=203.0.113.9;proto=https, ", b'for="203.0.113.9";proto="https",'):
        assert client_of(forwarded(left + element + b";proto=https"), family="forwarded") == Client(*PEER, False)
        right = b', for="10.0.0.2:5";proto=wss'
        assert client_of(forwarded(left + element + right), family="forwarded") == Client("10.0.0.2", 5, True)
        assert client_of(forwarded(left + element, right[2:]), family="forwarded") == Client("10.0.0.2", 5, True)


def test_a_quoted_string_does_not_reach_into_another_field() -> None:
    """A quote that one field opens and the next one closes is malformed in both."""
    assert client_of(forwarded(b'for=203.0.113.8;by="', b'";for=203.0.113.9'), family="forwarded") == Client(*PEER, False)


@pytest.mark.parametrize(
    ("scheme", "secure"),
    [
        (b"https", True),
        (b"wss", True),
        (b"HTTPS", True),
        (b"Wss", True),
        (b"http", False),
        (b"ws", False),
        (b"HTTP", False),
        (b"ftp", None),
        (b"", None),
        (b"on", None),
        (b"httpss", None),
        (b"https:", None),
        (b"http\xdf", None),
    ],
)
@pytest.mark.parametrize("peer", [False, True])
def test_the_scheme(scheme: bytes, secure: bool | None, peer: bool) -> None:
    """The scheme that a proxy states counts, in any case; one that is unknown is as good as none."""
    expected = peer if secure is None else secure
    assert client_of(hosts(b"203.0.113.9") + protos(scheme), secure=peer) == Client("203.0.113.9", 0, expected)
    assert client_of(hosts(b"203.0.113.9") + protos(b" " + scheme + b"\t"), secure=peer).secure == expected
    assert client_of(forwarded(b'for=203.0.113.9;Proto="%b"' % scheme), family="forwarded", secure=peer).secure == expected


@pytest.mark.parametrize(
    ("addresses", "schemes", "secure"),
    [
        (b"203.0.113.9", b"https", True),
        (b"203.0.113.9", b"http, https", True),
        (b"203.0.113.9", b"https, http", False),
        (b"203.0.113.9, 10.0.0.2", b"https, http", True),
        (b"203.0.113.9, 10.0.0.2", b"http, https", False),
        (b"203.0.113.9, 10.0.0.2", b"http, https, http", True),
        (b"203.0.113.9, 10.0.0.2", b"https", True),
        (b"203.0.113.9, 10.0.0.3, 10.0.0.2", b"https, http", True),
        (b"203.0.113.9, 10.0.0.3, 10.0.0.2", b"http, https", False),
        (b"198.51.100.1, 203.0.113.9, 10.0.0.2", b"https, http, https", False),
        (b"203.0.113.9, unknown, 10.0.0.2", b"https, https, http", False),
        (b"203.0.113.9", b"https,", None),
        (b"203.0.113.9, 10.0.0.2", b",https", None),
        (b"203.0.113.9, 10.0.0.2", b"what, https", None),
        (b"unknown", b"https", True),
        (b"unknown", b"http, https", True),
        (b"203.0.113.9, unknown", b"http, https", True),
    ],
)
@pytest.mark.parametrize("peer", [False, True])
def test_the_scheme_of_the_clients_hop_counts(addresses: bytes, schemes: bytes, secure: bool | None, peer: bool) -> None:
    """Of a list of schemes the client's hop counts: the leftmost where the list is shorter, the nearest where it has no address."""
    assert client_of(hosts(addresses) + protos(schemes), secure=peer).secure == (peer if secure is None else secure)
    assert client_of(hosts(addresses) + protos(*schemes.split(b",")), secure=peer).secure == (peer if secure is None else secure)


@pytest.mark.parametrize(
    ("value", "secure"),
    [
        (b"for=203.0.113.9;proto=https", True),
        (b"for=203.0.113.9;proto=https, for=10.0.0.2;proto=http", True),
        (b"for=203.0.113.9, for=10.0.0.2;proto=http", None),
        (b"for=203.0.113.9;proto=what, for=10.0.0.2;proto=http", None),
        (b"for=198.51.100.1;proto=http, for=203.0.113.9;proto=https", True),
        (b"for=unknown;proto=http, for=10.0.0.2;proto=https", True),
        (b"for=unknown;proto=https", True),
        (b"for=203.0.113.9;proto=http, for=unknown;proto=https", True),
        (b"proto=https", True),
    ],
)
@pytest.mark.parametrize("peer", [False, True])
def test_the_scheme_of_the_clients_element_counts(value: bytes, secure: bool | None, peer: bool) -> None:
    """The scheme is that of the same element as the address; of the nearest element, where that has no address."""
    assert client_of(forwarded(value), family="forwarded", secure=peer).secure == (peer if secure is None else secure)


def test_a_scheme_with_no_address_is_believed() -> None:
    """A proxy that only states the scheme leaves the address that of the peer."""
    assert client_of(protos(b"https")) == Client(*PEER, True)
    assert client_of(protos(b"http"), secure=True) == Client(*PEER, False)
    assert client_of(forwarded(b"proto=https"), family="forwarded") == Client(*PEER, True)


def test_the_number_of_elements_that_are_read_is_bounded() -> None:
    """Of a longer list only the nearest hundred elements count, and the schemes keep to their hops."""
    addresses = [f"10.0.0.{number}".encode() for number in range(MANY_ELEMENTS)]
    last = MANY_ELEMENTS - ELEMENTS_READ
    schemes = [b"https" if number == last else b"http" for number in range(MANY_ELEMENTS)]
    assert client_of(hosts(b",".join(addresses)) + protos(b",".join(schemes))) == Client(f"10.0.0.{last}", 0, True)
    elements = [b"for=%b;proto=%b" % pair for pair in zip(addresses, schemes, strict=True)]
    assert client_of(forwarded(b",".join(elements)), family="forwarded") == Client(f"10.0.0.{last}", 0, True)
    assert client_of(forwarded(*elements), family="forwarded") == Client(f"10.0.0.{last}", 0, True)


@pytest.mark.parametrize(
    "part",
    [
        b",",
        b'"',
        b'\\"',
        b'","',
        b"\\",
        b" ",
        b";",
        b"a",
        b"[",
        b"0.",
        b":",
        b"10.0.0.1,",
        b'for=10.0.0.1;by="a,",',
        b'for=10.0.0.1;by="\\","',
    ],
)
@pytest.mark.parametrize("tail", [b"", b'"', b",for=10.0.0.1", b'",for=10.0.0.1', b",10.0.0.1"])
def test_the_work_is_linear(part: bytes, tail: bytes) -> None:
    """A header that is four times as long makes no more than four times as many calls, be it as hostile as can be."""

    def calls(times: int, family: Literal["x-forwarded", "forwarded"]) -> int:
        count = 0

        def called(frame: FrameType, event: str, arg: object) -> None:
            nonlocal count
            count += 1

        proxies, value = TrustedProxies(PROXIES, family), part * times + tail
        headers = hosts(value) + protos(value) + forwarded(value)
        before = sys.getprofile()
        sys.setprofile(called)
        try:
            proxies.client(*PEER, False, headers)
        finally:
            sys.setprofile(before)
        return count

    assert calls(4000, "x-forwarded") <= 4 * calls(1000, "x-forwarded")
    assert calls(4000, "forwarded") <= 4 * calls(1000, "forwarded")


def test_what_is_remembered_is_bounded() -> None:
    """However many clients come and go, the answers stay right, and no header stays in memory whole."""
    proxies = TrustedProxies(PROXIES)
    for number in range(5000):
        host = str(IPv4Address(0xCB000000 + number))
        assert proxies.client(*PEER, False, hosts(host.encode())).host == host
        assert not proxies.trusts(host)
    assert proxies._read.cache_info().currsize == proxies._read.cache_info().maxsize  # type: ignore[attr-defined]
    assert proxies._remembered.cache_info().currsize == proxies._remembered.cache_info().maxsize  # type: ignore[attr-defined]
    before = proxies._read.cache_info().misses  # type: ignore[attr-defined]
    proxies.client(*PEER, False, hosts(b"1" * 1000))
    assert proxies._read.cache_info().misses == before  # type: ignore[attr-defined]


# --- whatever is sent ---

FAMILIES: st.SearchStrategy[Literal["x-forwarded", "forwarded"]] = st.sampled_from(["x-forwarded", "forwarded"])
PIECES = [
    b",",
    b";",
    b'"',
    b"\\",
    b" ",
    b"\t",
    b"=",
    b":",
    b"[",
    b"]",
    b"for=",
    b"proto=",
    b"https",
    b"unknown",
    b"10.0.0.2",
    b"203.0.113.9",
]
TEXT = st.binary(max_size=40) | st.lists(st.sampled_from(PIECES) | st.binary(max_size=2), max_size=12).map(b"".join)
NAMES = st.sampled_from([b"x-forwarded-for", b"x-forwarded-proto", b"forwarded", b"host"])
HEADERS = st.lists(st.tuples(NAMES, TEXT), max_size=5)
ADDRESSES = st.ip_addresses().map(str)
OUTSIDE = st.one_of(
    st.ip_addresses(v=4, network="203.0.113.0/24").map(str),
    st.ip_addresses(v=6, network="2001:db8::/32").map(str),
)
INSIDE = st.one_of(st.ip_addresses(v=4, network="10.0.0.0/8").map(str), st.ip_addresses(v=6, network="fd00::/8").map(str))
SCHEMES = st.sampled_from([b"http", b"https", b"ws", b"wss"])


def forwarded_element(host: str, scheme: bytes) -> bytes:
    return b'for="%b";proto=%b' % (f"[{host}]".encode() if ":" in host else host.encode(), scheme)


@given(HEADERS, FAMILIES, st.sampled_from([["*"], PROXIES]), st.booleans())
def test_nothing_that_is_sent_raises(
    headers: Headers, family: Literal["x-forwarded", "forwarded"], trusted: list[str], secure: bool
) -> None:
    """Any bytes have an outcome: an address in normal form with a port that exists."""
    client = TrustedProxies(trusted, family).client(*PEER, secure, headers)
    address = IPv6Address(client.host) if ":" in client.host else IPv4Address(client.host)
    assert str(address) == client.host
    assert 0 <= client.port <= 65535


@given(st.text(max_size=50) | ADDRESSES)
def test_no_peer_raises(host: str) -> None:
    """Whatever a listener calls a peer, it is trusted or not."""
    assert isinstance(TrustedProxies(PROXIES).trusts(host), bool)


@given(HEADERS, FAMILIES, OUTSIDE, st.booleans())
def test_no_header_of_a_stranger_matters(headers: Headers, family: Literal["x-forwarded", "forwarded"], host: str, secure: bool) -> None:
    """Of a peer that is not trusted, no header changes anything."""
    assert TrustedProxies(PROXIES, family).client(host, 4711, secure, headers) == Client(host, 4711, secure)


@given(TEXT, TEXT, OUTSIDE, st.lists(INSIDE, max_size=3), st.lists(SCHEMES, min_size=4, max_size=4), st.booleans())
@example(b"198.51.100.1", b"https", "203.0.113.9", ["10.0.0.2"], [b"http"] * 4, False)
@example(b"[", b",", "2001:db8::9", [], [b"http"] * 4, True)
def test_what_a_client_puts_into_x_forwarded_for_does_not_matter(
    spoofed: bytes, scheme: bytes, host: str, inside: list[str], schemes: list[bytes], own_field: bool
) -> None:
    """Where proxies append, what the client has sent before stands to the left of its own address, and is not read."""
    appended = b", ".join(address.encode() for address in (host, *inside))
    stated = b", ".join(schemes[: len(inside) + 1])
    expected = Client(host, 0, schemes[0] in (b"https", b"wss"))
    assert client_of(hosts(appended) + protos(stated)) == expected
    if own_field:
        assert client_of(hosts(spoofed, appended) + protos(scheme, stated)) == expected
    else:
        assert client_of(hosts(spoofed + b", " + appended) + protos(scheme + b"," + stated)) == expected


@given(TEXT, OUTSIDE, st.lists(INSIDE, max_size=3), st.lists(SCHEMES, min_size=4, max_size=4), st.booleans())
@example(b'for="', "203.0.113.9", ["10.0.0.2"], [b"http"] * 4, False)
@example(b'for="\\', "203.0.113.9", [], [b"http"] * 4, False)
@example(b"\\", "2001:db8::9", ["fd00::1"], [b"http"] * 4, True)
def test_what_a_client_puts_into_forwarded_does_not_matter(
    spoofed: bytes, host: str, inside: list[str], schemes: list[bytes], own_field: bool
) -> None:
    """No quote or backslash that the client sends reaches what the proxies have appended."""
    appended = b", ".join(forwarded_element(*pair) for pair in zip([host, *inside], schemes, strict=False))
    expected = Client(host, 0, schemes[0] in (b"https", b"wss"))
    assert client_of(forwarded(appended), family="forwarded") == expected
    values = [spoofed, appended] if own_field else [spoofed + b"," + appended]
    assert client_of(forwarded(*values), family="forwarded") == expected


@given(st.lists(ADDRESSES, min_size=1, max_size=6), st.booleans())
def test_both_families_say_the_same(chain: list[str], secure: bool) -> None:
    """A chain of hops has the same client, whichever family states it."""
    scheme = b"https" if secure else b"http"
    plain = hosts(", ".join(chain).encode()) + protos(scheme)
    structured = forwarded(b", ".join(forwarded_element(host, scheme) for host in chain))
    assert client_of(plain) == client_of(structured, family="forwarded")
