"""HTTP on a real socket, as bytes: what one request gives, where it ends, and what the next one on the connection gives.

Every row says what the peer is answered, whether the connection stays, and which requests the application has seen to their end: a
request that was smuggled would be among these. Beside each row another connection is served as before.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.memory import request as upgrade
from tests.support.raw import TEXT, Canary, Memory, Raw, frame
from tests.support.server import Server, wait_until
from tests.unit.test_handshake import SMUGGLING

KIB, MIB = 2**10, 2**20
APP = "asgi_http:app"
SECRET = b"hunter2"  # stands in every exception that the application raises
CHUNKED = b"Transfer-Encoding: chunked"
CLOSE = b"Connection: close"
AFTER = b"/echo?after"


def req(start: bytes, *lines: bytes, body: bytes = b"", host: bytes = b"Host: example.com", version: bytes = b"1.1") -> bytes:
    """A request of these lines, and what follows its head."""
    return b"\r\n".join([start + b" HTTP/" + version, *([host] if host else []), *lines, b"", b""]) + body


def get(target: bytes, *lines: bytes, **more: bytes) -> bytes:
    """A GET."""
    return req(b"GET " + target, *lines, **more)


def post(*lines: bytes, body: bytes = b"", target: bytes = b"/echo", version: bytes = b"1.1") -> bytes:
    """A POST."""
    return req(b"POST " + target, *lines, body=body, version=version)


def sized(body: bytes, *lines: bytes, target: bytes = b"/echo") -> bytes:
    """A POST of a body of known length."""
    return post(b"Content-Length: %d" % len(body), *lines, body=body, target=target)


def chunked(body: bytes, *lines: bytes, target: bytes = b"/echo") -> bytes:
    """A POST with these bytes where a chunked body belongs."""
    return post(CHUNKED, *lines, body=body, target=target)


def chunks(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A chunked body (RFC 9112 section 7.1)."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


SMUGGLED = get(b"/smuggled")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, as the peer must understand it (RFC 9112 section 6.3).

    Attributes:
        status: Three digits.
        headers: Pairs of lower-case name and value.
        body: What came of it, decoded.
        framing: "none", "length", "chunked" or "close".
        complete: Whether it came to the end that it had announced.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    framing: str
    complete: bool

    def all(self, name: str) -> list[str]:
        """The values of all fields of a name."""
        return [value for field, value in self.headers if field == name]

    def header(self, name: str) -> str:
        """The value of the only field of a name; "" where there is none."""
        values = self.all(name)
        assert len(values) < 2, f"{name} stands {len(values)} times"
        return values[0] if values else ""

    def json(self) -> Any:
        """The body, complete and as JSON."""
        assert self.complete, self
        return json.loads(self.body)

    def closes(self) -> bool:
        """Whether it says that it is the connection's last (RFC 9112 section 9.6)."""
        return "close" in self.header("connection").lower()


class Peer(Raw):
    """A client of bytes that reads responses strictly, and one at a time."""

    rest = b""  # of the piece of which some has been sent
    _whole = True  # what was last read was all there

    def __enter__(self) -> Peer:
        return self

    def answer(self, method: str = "GET") -> Answer | None:
        """Read the next response, also one of 1xx; None if the connection ended with none."""
        while (end := self.data.find(b"\r\n\r\n")) < 0:
            if not self._read():
                assert not self.data, f"half a head came: {bytes(self.data)!r}"
                return None
        line, *fields = bytes(self.data[:end]).split(b"\r\n")
        del self.data[: end + 4]
        found = re.fullmatch(rb"HTTP/1\.[01] ([1-5][0-9]{2}) [\t\x20-\x7e]*", line)  # RFC 9112 section 4
        assert found, f"no status line: {line!r}"
        pairs = []
        for field in fields:
            shape = re.fullmatch(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*", field)
            assert shape, f"no header field: {field!r}"
            pairs.append((shape[1].decode().lower(), shape[2].decode("latin-1")))
        status, headers = int(found[1]), tuple(pairs)
        return Answer(status, headers, *self._body(status, dict(headers), method))

    def all_answers(self) -> list[Answer]:
        """Read responses to GET until the connection ends."""
        return list(iter(self.answer, None))

    def expect(self, status: int = 200, method: str = "GET") -> Answer:
        """Read the next response, which must be complete and of this status."""
        found = self.answer(method)
        assert found is not None, "the connection ended with no answer"
        assert (found.status, found.complete) == (status, True), found
        return found

    def ask(self, target: bytes) -> Answer:
        """Send a GET, and read what it gives."""
        self.send(get(target))
        return self.expect()

    def finish(self) -> None:
        """End our side, and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def _body(self, status: int, headers: dict[str, str], method: str) -> tuple[bytes, str, bool]:
        if method == "HEAD" or status < 200 or status in (204, 304):
            return b"", "none", True
        if "transfer-encoding" in headers:
            assert headers["transfer-encoding"] == "chunked", headers
            assert "content-length" not in headers, "both Transfer-Encoding and Content-Length (RFC 9112 section 6.2)"
            return *self._chunked(), "chunked", self._whole
        if "content-length" in headers:
            body = self._take(int(headers["content-length"]))
            return body, "length", self._whole
        body = self.read_end()
        self.data.clear()
        return body, "close", True

    def _take(self, size: int) -> bytes:
        while len(self.data) < size and self._read():
            pass
        self._whole = len(self.data) >= size
        taken = bytes(self.data[:size])
        del self.data[:size]
        return taken

    def _line(self) -> bytes:
        while (end := self.data.find(b"\r\n")) < 0 and self._read():
            pass
        line = self._take(end + 2 if end >= 0 else len(self.data))
        self._whole = end >= 0
        return line[:-2]

    def _chunked(self) -> tuple[bytes]:
        body = bytearray()
        while True:
            line = self._line()
            if not self._whole:
                return (bytes(body),)
            assert re.fullmatch(rb"[0-9A-Fa-f]{1,16}", line), f"no chunk size: {line!r}"
            size = int(line, 16)
            body += self._take(size)
            if not self._whole:
                return (bytes(body),)
            end = self._take(2)
            if not self._whole:
                return (bytes(body),)
            assert end == b"\r\n", f"no end of a chunk, or trailers: {end!r}"
            if not size:
                return (bytes(body),)


class Site(Server):
    """A server of the plain ASGI application."""

    def __init__(self, *arguments: str, app: str = APP) -> None:
        super().__init__(*arguments, app)

    def __enter__(self) -> Site:
        super().__enter__()
        return self

    def ask(self, target: str) -> Answer:
        """Ask for something on a connection of its own."""
        with Peer(self.port) as peer:
            return peer.ask(target.encode())

    def heard(self, key: str = "seen") -> list[Any]:
        """What the application has noted under a name."""
        entries: list[Any] = self.ask("/heard").json().get(key, [])
        return entries

    def await_heard(self, key: str, value: object) -> None:
        """Wait until the application has noted something."""
        wait_until(lambda: value in self.heard(key), what=f"{value!r} under {key}")

    def complete(self) -> list[str]:
        """The requests whose body the application has read to its end."""
        return [each for each in self.heard() if not each.endswith(" cut")]

    def open(self, gate: str) -> None:
        """Open a gate of the application's."""
        self.ask(f"/open?gate={gate}")

    def forget(self) -> None:
        """Have the application forget what it has heard."""
        self.ask("/heard?clear")

    def healthy(self) -> None:
        """Another connection must be served."""
        assert self.ask("/healthy").body == b"healthy\n"

    def faults(self) -> list[str]:
        """What was logged that would be this server's own fault, whoever the peer and whatever the application."""
        return self.lines("Z critical ")

    def watched(self) -> Iterator[Site]:
        """Lend it, and see that it is as it was."""
        known = len(self.faults())
        yield self
        assert self.running
        assert self.faults()[known:] == []


@pytest.fixture(scope="module")
def patient_site() -> Iterator[Site]:
    """A server with time enough: a test that must wait for a deadline has another."""
    with Site("--max-body-size=65536", "--handshake-timeout=60", "--body-timeout=60") as server:
        yield server


@pytest.fixture(scope="module")
def hasty_site() -> Iterator[Site]:
    """A server with short deadlines."""
    with Site("--handshake-timeout=1", "--body-timeout=1", "--http-idle-timeout=1", "--write-stall-timeout=1") as server:
        yield server


@pytest.fixture(scope="module")
def roomy_site() -> Iterator[Site]:
    """A server with no bound on bodies, which has done already what is done once."""
    with Site("--max-body-size=0", "--write-stall-timeout=0", "--body-timeout=60") as server:
        with Peer(server.port) as peer:
            peer.send(sized(bytes(MIB), target=b"/sha"))
            peer.expect()
            peer.ask(b"/stream?chunks=50&size=65536")
        yield server


@pytest.fixture
def site(patient_site: Site) -> Iterator[Site]:
    """The patient server, which must log no fault of its own meanwhile."""
    yield from patient_site.watched()


@pytest.fixture
def hasty(hasty_site: Site) -> Iterator[Site]:
    """The hasty server, likewise."""
    yield from hasty_site.watched()


@pytest.fixture
def roomy(roomy_site: Site) -> Iterator[Site]:
    """The roomy server, likewise."""
    yield from roomy_site.watched()


# The table


@dataclass(frozen=True, slots=True)
class Row:
    """What is sent, and what must come of it.

    Attributes:
        name: Of the row.
        data: What is sent, in one piece.
        statuses: Of the answers, in order; a set where the RFC leaves the choice.
        seen: What the application has read to its end.
        kept: Whether the connection stays; None where either is right.
    """

    name: str
    data: bytes
    statuses: tuple[int | frozenset[int], ...]
    seen: tuple[str, ...] | None = ()
    kept: bool | None = False


def good(name: str, data: bytes, *seen: str, kept: bool | None = True) -> Row:
    """A row of requests that are all answered with 200."""
    return Row(name, data, (200,) * len(seen), seen, kept)


def bad(name: str, data: bytes, *statuses: int) -> Row:
    """A row of a request that is refused, with 400 or one of these; the connection is closed, and nothing was seen."""
    return Row(name, data, (frozenset(statuses or (400,)),))


def either(name: str, data: bytes, *seen: str) -> Row:
    """A row that may be refused with 400 or served."""
    return Row(name, data, (frozenset({200, 400}),), seen, None)


HEADS = [
    # RFC 9112 section 6.1 and 6.3, item 3: both lengths are an attempt at smuggling
    bad("CL and TE", post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED)),
    bad("TE and CL", post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED)),
    # Section 6.3, item 5
    bad("two CL", post(b"Content-Length: 5", b"Content-Length: 0", body=b"hello" + SMUGGLED)),
    bad("two CL the same", post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello" + SMUGGLED)),
    bad("CL list", post(b"Content-Length: 5, 5", body=b"hello" + SMUGGLED)),
    bad("CL list of two", post(b"Content-Length: 5, 0", body=b"hello" + SMUGGLED)),
    bad("CL +5", post(b"Content-Length: +5", body=b"hello" + SMUGGLED)),
    bad("CL -5", post(b"Content-Length: -5", body=b"hello" + SMUGGLED)),
    bad("CL 0x5", post(b"Content-Length: 0x5", body=b"hello" + SMUGGLED)),
    bad("CL 5_0", post(b"Content-Length: 5_0", body=b"hello" + SMUGGLED)),
    bad("CL 5.0", post(b"Content-Length: 5.0", body=b"hello" + SMUGGLED)),
    bad("CL empty", post(b"Content-Length:", body=b"hello" + SMUGGLED)),
    bad("CL beyond 64 bits", post(b"Content-Length: 18446744073709551621", body=b"hello" + SMUGGLED), 400, 413),
    bad("CL of 400 digits", post(b"Content-Length: " + b"9" * 400, body=b"hello" + SMUGGLED), 400, 413),
    good("CL 005", post(b"Content-Length: 005", body=b"hello"), "POST /echo 5"),  # 1*DIGIT, RFC 9110 section 8.6
    # Section 6.3, item 4: 400 where chunked is not the last coding; section 6.1: 501 where the coding is not known
    bad("TE xchunked", post(b"Transfer-Encoding: xchunked", body=chunks(b"hello") + SMUGGLED), 400, 501),
    bad("TE chunked, identity", post(b"Transfer-Encoding: chunked, identity", body=chunks(b"hello") + SMUGGLED), 400, 501),
    bad("TE identity, chunked", post(b"Transfer-Encoding: identity, chunked", body=chunks(b"hello") + SMUGGLED), 400, 501),
    bad("TE gzip, chunked", post(b"Transfer-Encoding: gzip, chunked", body=chunks(b"hello") + SMUGGLED), 400, 501),
    bad("TE chunked, chunked", post(b"Transfer-Encoding: chunked, chunked", body=chunks(b"hello") + SMUGGLED), 400, 501),
    bad("TE twice", post(CHUNKED, CHUNKED, body=chunks(b"hello") + SMUGGLED)),
    bad("TE and another", post(CHUNKED, b"Transfer-Encoding: identity", body=chunks(b"hello") + SMUGGLED), 400, 501),
    bad("TE empty", post(b"Transfer-Encoding:", body=chunks(b"hello") + SMUGGLED), 400, 501),
    bad("TE after VT", post(b"Transfer-Encoding:\x0bchunked", body=chunks(b"hello") + SMUGGLED)),
    bad("TE in HTTP/1.0", post(CHUNKED, body=chunks(b"hello") + SMUGGLED, version=b"1.0")),  # section 6.1: faulty framing
    good("TE Chunked", post(b"Transfer-Encoding: Chunked", body=chunks(b"hello")), "POST /echo 5"),  # case does not matter
    # What reads the body goes by the same two fields as what has read the head, however they are spelt
    good("CL in odd case", post(b"cONTENT-lENGTH: %d" % len(SMUGGLED), body=SMUGGLED), f"POST /echo {len(SMUGGLED)}"),
    good("TE in odd case", post(b"tRANSFER-eNCODING: CHUNKED", body=chunks(SMUGGLED)), f"POST /echo {len(SMUGGLED)}"),
    good("CL after a tab", post(b"Content-Length:\t%d \t" % len(SMUGGLED), body=SMUGGLED), f"POST /echo {len(SMUGGLED)}"),
    good("TE after a tab", post(b"Transfer-Encoding:\tchunked\t ", body=chunks(SMUGGLED)), f"POST /echo {len(SMUGGLED)}"),
    good("CL among look-alikes", post(b"Content_Length: 0", b"X-Content-Length: 1", b"Content-Length: 5", body=b"hello"), "POST /echo 5"),
    # Section 5.1 and 5.2
    bad("folded TE", post(b"Transfer-Encoding:\r\n chunked", body=chunks(b"hello") + SMUGGLED)),
    bad("folded value", get(b"/echo", b"X-A: a\r\n Content-Length: 5")),
    bad("space before the colon", post(b"Content-Length : 5", body=b"hello" + SMUGGLED)),
    bad("tab before the colon", post(b"Transfer-Encoding\t: chunked", body=chunks(b"hello") + SMUGGLED)),
    bad("space before the first name", get(b"/echo", host=b" Host: example.com")),
    # Section 2.2
    bad("bare LF", post(b"X: a\nTransfer-Encoding: chunked", body=chunks(b"hello") + SMUGGLED)),
    bad("bare CR", post(b"X: a\rTransfer-Encoding: chunked", body=chunks(b"hello") + SMUGGLED)),
    bad("only LF", b"GET /echo HTTP/1.1\nHost: example.com\n\n"),
    bad("NUL", get(b"/echo", b"X: a\x00b")),  # RFC 9110 section 5.5
    bad("NUL in the target", get(b"/echo\x00")),
    bad("no name", get(b"/echo", b": a")),
    bad("no colon", get(b"/echo", b"X-A")),
    good("one empty line first", b"\r\n" + get(b"/echo"), "GET /echo 0"),
    bad("two empty lines first", b"\r\n\r\n" + get(b"/echo")),
    good("bytes beyond ASCII in a value", get(b"/echo", b"X-A: \xff\x85\xe2\x80\xa8"), "GET /echo 0"),
    # Section 3.2
    bad("no Host", get(b"/echo", host=b"")),
    bad("two Hosts", get(b"/echo", b"Host: evil.example")),
    bad("a Host that is none", get(b"/echo", host=b"Host: a b")),
    bad("an empty Host", get(b"/echo", host=b"Host:")),  # RFC 9110 section 4.2.1
    good("absolute form", get(b"http://example.com/echo?a=b"), "GET /echo?a=b 0"),
    good("absolute form with the default port", get(b"HTTP://EXAMPLE.com:80/echo"), "GET /echo 0"),
    bad("absolute form of another host", get(b"http://evil.example/echo")),
    bad("absolute form of another port", get(b"http://example.com:81/echo")),
    bad("absolute form with user information", get(b"http://example.com@evil.example/echo")),
    bad("absolute form of another scheme", get(b"ftp://example.com/echo")),
    bad("authority form", req(b"CONNECT example.com:80"), 400, 405, 501),
    bad("CONNECT to a path", req(b"CONNECT /echo"), 400, 405, 501),  # RFC 9110 section 9.3.6: a 2xx would open a tunnel
    bad("asterisk form with GET", get(b"*")),
    Row("asterisk form with OPTIONS", req(b"OPTIONS *"), (frozenset({200, 204, 400}),), None, None),  # RFC 9110 section 9.3.7
    bad("no target", b"GET HTTP/1.1\r\nHost: example.com\r\n\r\n"),
    bad("two spaces", b"GET  /echo HTTP/1.1\r\nHost: example.com\r\n\r\n"),
    bad("HTTP/0.9", b"GET /echo\r\n\r\n"),
    bad("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 505),  # RFC 9113 section 3.4
    bad("HTTP/2.0", req(b"GET /echo", version=b"2.0"), 505),
    bad("HTTP/1.10", req(b"GET /echo", version=b"1.10")),  # RFC 9112 section 2.3: one digit
    bad("lower-case version", b"GET /echo http/1.1\r\nHost: example.com\r\n\r\n"),
    good("HTTP/1.9", req(b"GET /echo", version=b"1.9"), "GET /echo 0"),  # RFC 9110 section 2.5
    good("a method nobody knows", req(b"FROB /echo"), "FROB /echo 0"),
    good("a lower-case method", req(b"get /echo"), "GET /echo 0"),  # ASGI: upper case
    good("a method of odd characters", req(b"!#$%&'*+-.^_`|~ /echo"), "!#$%&'*+-.^_`|~ /echo 0"),
    bad("a method that is no token", req(b"GET( /echo")),
    bad("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    # RFC 6585 section 5, RFC 9110 section 15.5.15
    bad("too large a head", get(b"/echo", b"X: " + b"x" * 17000), 431),
    bad("too long a request line", get(b"/" + b"x" * 17000), 414),
    good("100 headers", get(b"/echo", *(b"X-%d: y" % index for index in range(99))), "GET /echo 0"),
    bad("101 headers", get(b"/echo", *(b"X-%d: y" % index for index in range(100))), 431),
    # RFC 3986 section 2.1
    bad("bad escape", get(b"/echo/%zz")),
    bad("half an escape", get(b"/echo/%4")),
    bad("escaped NUL", get(b"/echo/%00")),
    bad("escape that is no UTF-8", get(b"/echo/%ff")),
    bad("target beyond ASCII", get(b"/echo?\xff")),
    bad("fragment", get(b"/echo#a")),
    good("escaped slash", get(b"/echo/a%2Fb"), "GET /echo/a%2Fb 0"),
    good("escaped line end", get(b"/echo/%0d%0a"), "GET /echo/%0d%0a 0"),
    good("query with odd bytes", get(b"/echo?%zz&%00=%ff;<>'`{|}^[]\\&?="), "GET /echo?%zz&%00=%ff;<>'`{|}^[]\\&?= 0"),
    good("dot segments", get(b"/echo/../x//y/."), "GET /echo/../x//y/. 0"),  # the application's to resolve
]

BODIES = [
    good("no body", get(b"/echo"), "GET /echo 0"),
    good("CL 0", post(b"Content-Length: 0"), "POST /echo 0"),
    good("POST with no length", post(), "POST /echo 0"),  # RFC 9112 section 6.3, item 7
    good("GET with a body", get(b"/echo", b"Content-Length: 5", body=b"hello"), "GET /echo 5"),
    good("the largest body", sized(bytes(65536)), "POST /echo 65536"),
    good("the largest body in chunks", chunked(chunks(bytes(65535), b"x")), "POST /echo 65536"),
    bad("too large by CL", post(b"Content-Length: 65537", body=b"hello"), 413),
    bad("too large by CL, all sent", sized(bytes(300_000)), 413),
    bad("too large in chunks", chunked(chunks(bytes(65536), b"x")), 413),
    bad("too large a chunk", chunked(b"10001\r\n" + bytes(65537)), 413),
    bad("too large and then more", chunked(chunks(*[bytes(10_000)] * 30)), 413),
    bad("a chunk of 2**68", chunked(b"100000000000000000\r\n" + bytes(65537)), 400, 413),  # RFC 9112 section 7.1: no overflow
    # Section 7.1
    good("no chunk", chunked(b"0\r\n\r\n"), "POST /echo 0"),
    good("chunks", chunked(chunks(b"a", b"bc", b"d" * 300)), "POST /echo 303"),
    good("upper-case size", chunked(b"A\r\n0123456789\r\n0\r\n\r\n"), "POST /echo 10"),
    good("size with zeros", chunked(b"0005\r\nhello\r\n000\r\n\r\n"), "POST /echo 5"),
    either("size of 1,000 digits", chunked(b"0" * 999 + b"5\r\nhello\r\n0\r\n\r\n"), "POST /echo 5"),
    bad("size of 100,000 digits", chunked(b"0" * 100_000 + b"5\r\nhello\r\n0\r\n\r\n"), 400, 413),
    bad("size after a space", chunked(b" 5\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    either("size before a space", chunked(b"5 \r\nhello\r\n0\r\n\r\n"), "POST /echo 5"),  # BWS of section 7.1.1, if it is taken for that
    bad("size with a sign", chunked(b"+5\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    bad("size below zero", chunked(b"-5\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    bad("size 0x5", chunked(b"0x5\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    bad("size 0_5", chunked(b"0_5\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    bad("no size", chunked(b"\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    bad("size that is none", chunked(b"g\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    bad("size in other digits", chunked(b"\xd9\xa5\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    bad("size before NUL", chunked(b"5\x00\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    bad("size before LF", chunked(b"5\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    bad("size before CR", chunked(b"5\rhello\r\n0\r\n\r\n" + SMUGGLED)),
    good("extension", chunked(b'5;a=b;c="d e"\r\nhello\r\n0;f\r\n\r\n'), "POST /echo 5"),  # section 7.1.1: those not known are ignored
    either("extension after a space", chunked(b"5 ; a = b\r\nhello\r\n0\r\n\r\n"), "POST /echo 5"),
    bad("extension of 100,000 bytes", chunked(b"5;" + b"x" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"), 400, 413, 431),  # to be limited
    bad("LF in an extension", chunked(b"5;a\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    bad("CR in an extension", chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    bad("NUL in an extension", chunked(b"5;a\x00\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    bad("no CRLF behind a chunk", chunked(b"5\r\nhello0\r\n\r\n" + SMUGGLED)),
    bad("LF behind a chunk", chunked(b"5\r\nhello\n0\r\n\r\n" + SMUGGLED)),
    bad("a byte behind a chunk", chunked(b"5\r\nhelloX\r\n0\r\n\r\n" + SMUGGLED)),
    good("trailers", chunked(chunks(b"hello", end=b"0\r\nX-A: b\r\nX-C: d\r\n\r\n")), "POST /echo 5"),  # section 7.1.2: may be discarded
    # RFC 9110 section 6.5.1: none of these may come to have a meaning, and the next request begins behind the empty line
    good("trailer CL", chunked(b"0\r\nContent-Length: 5\r\n\r\n") + get(AFTER), "POST /echo 0", "GET /echo?after 0"),
    good("trailer TE", chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n") + get(AFTER), "POST /echo 0", "GET /echo?after 0"),
    good("trailer Host", chunked(b"0\r\nHost: evil.example\r\n\r\n") + get(AFTER), "POST /echo 0", "GET /echo?after 0"),
    bad("too large trailers", chunked(b"0\r\n" + b"X: %b\r\n" % (b"x" * 1000) * 100 + b"\r\n"), 400, 413, 431),
    bad("a trailer with no end", chunked(b"0\r\nX: " + b"x" * 100_000), 400, 413, 431),
    # Section 2.2: somebody before us may end a line at a bare LF, and so the body at another place than we do
    bad("LF in a trailer", chunked(b"0\r\nX: a\n\n" + SMUGGLED)),
    bad("CR in a trailer", chunked(b"0\r\nX: a\rb\r\n\r\n" + SMUGGLED)),
    bad("trailer with no colon", chunked(b"0\r\nX\r\n\r\n" + SMUGGLED)),
    bad("request for a trailer", chunked(b"0\r\n" + SMUGGLED)),
    # Longer than was said: the surplus is the next request
    Row("surplus that is none", sized(b"hello") + b"surplus\r\n\r\n", (200, 400), ("POST /echo 5",)),
    good("a request behind a short CL", post(b"Content-Length: 5", body=b"hello" + get(AFTER)), "POST /echo 5", "GET /echo?after 0"),
    good("an empty line behind a body", sized(b"hello") + b"\r\n" + get(AFTER), "POST /echo 5", "GET /echo?after 0"),  # section 2.2
    Row("two empty lines behind a body", sized(b"hello") + b"\r\n\r\n" + get(AFTER), (200, 400), ("POST /echo 5",)),
    good("a request in a body", sized(SMUGGLED), f"POST /echo {len(SMUGGLED)}"),
    # Section 9.3: what is not read of a body is never the next request
    Row("early, with the body in part", post(b"Content-Length: 60000", body=b"hello", target=b"/early"), (200,)),
    Row("early, with the body behind", sized(SMUGGLED, target=b"/early"), (200,), (), None),
    Row("early, with chunks behind", chunked(chunks(SMUGGLED), target=b"/early"), (200,), (), None),
    Row("early, with chunks in part", chunked(b"5\r\nhel", target=b"/early"), (200,)),
    Row("early, with bad chunks behind", chunked(b"X\r\n" + SMUGGLED, target=b"/early"), (frozenset({200, 400}),)),
]

CONNECTIONS = [
    # Section 9.3.2: answered in order
    good("two at once", get(b"/echo?1") + get(b"/echo?2"), "GET /echo?1 0", "GET /echo?2 0"),
    good("ten at once", b"".join(get(b"/echo?%d" % each) for each in range(10)), *(f"GET /echo?{each} 0" for each in range(10))),
    good("bodies at once", sized(b"hello") + chunked(chunks(b"ab")) + get(b"/echo"), "POST /echo 5", "POST /echo 2", "GET /echo 0"),
    Row("a bad one behind a good one", get(b"/echo?1") + b"BAD\r\n\r\n" + SMUGGLED, (200, 400), ("GET /echo?1 0",)),
    Row("one with two lengths behind a good one", get(b"/echo?1") + post(b"Content-Length: 5", CHUNKED), (200, 400), ("GET /echo?1 0",)),
    Row("too large a head behind a good one", get(b"/echo?1") + get(b"/echo", b"X: " + b"x" * 17000), (200, 431), ("GET /echo?1 0",)),
    # Section 9.6
    good("close", get(b"/echo?1", CLOSE), "GET /echo?1 0", kept=False),
    good("close in a list", get(b"/echo?1", b"Connection: x, Close"), "GET /echo?1 0", kept=False),
    good("close in the second field", get(b"/echo?1", b"Connection: x", CLOSE), "GET /echo?1 0", kept=False),
    good("close and keep-alive", get(b"/echo?1", b"Connection: keep-alive, close"), "GET /echo?1 0", kept=False),
    good("what comes behind close", get(b"/echo?1", CLOSE) + SMUGGLED, "GET /echo?1 0", kept=False),
    good("close of a POST", sized(b"hello", CLOSE) + SMUGGLED, "POST /echo 5", kept=False),
    good("keep-alive", get(b"/echo?1", b"Connection: keep-alive") + get(b"/echo?2"), "GET /echo?1 0", "GET /echo?2 0"),
    good("a connection option that is none", get(b"/echo?1", b"Connection: closed"), "GET /echo?1 0"),
    # Section 9.3: in HTTP/1.0 a connection ends, and keep-alive need not be taken up
    good("HTTP/1.0", get(b"/echo?1", version=b"1.0") + SMUGGLED, "GET /echo?1 0", kept=False),
    good("HTTP/1.0 with keep-alive", get(b"/echo?1", b"Connection: keep-alive", version=b"1.0"), "GET /echo?1 0", kept=False),
    good("HTTP/1.0 with no Host", get(b"/echo?1", host=b"", version=b"1.0"), "GET /echo?1 0", kept=False),
    good("HTTP/1.0 with a body", post(b"Content-Length: 5", body=b"hello", version=b"1.0"), "POST /echo 5", kept=False),
    # RFC 9110 section 7.8
    good("Upgrade to h2c", get(b"/echo", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA"), "GET /echo 0"),
    good("Upgrade to TLS", get(b"/echo", b"Connection: Upgrade", b"Upgrade: TLS/1.2"), "GET /echo 0"),
    good("Upgrade to WebSocket 13", get(b"/echo", b"Connection: Upgrade", b"Upgrade: websocket/13"), "GET /echo 0"),
    good("Upgrade to h2c with a body", sized(b"hello", b"Connection: Upgrade", b"Upgrade: h2c"), "POST /echo 5"),
    good("Connection: Upgrade alone", get(b"/echo", b"Connection: Upgrade"), "GET /echo 0"),
    # RFC 6455 section 4.2.1: what asks for a WebSocket has to ask rightly
    bad("upgrade with a body", upgrade(b"Content-Length: 5", path=b"/ws") + b"hello" + SMUGGLED),
    bad("upgrade with chunks", upgrade(CHUNKED, path=b"/ws") + chunks(b"hello") + SMUGGLED),
    bad("upgrade by POST", upgrade(path=b"/ws").replace(b"GET", b"POST"), 405),
    bad("upgrade with no Connection", upgrade(path=b"/ws").replace(b"Connection: Upgrade\r\n", b"")),
    bad("upgrade of another version", upgrade(path=b"/ws").replace(b"Version: 13", b"Version: 8"), 426),
    bad("upgrade with no key", upgrade(path=b"/ws").replace(b"Sec-WebSocket-Key", b"X-Key")),
    Row("upgrade that the application refuses", upgrade(path=b"/elsewhere") + SMUGGLED, (403,)),
    Row("upgrade with a body behind a GET", get(b"/echo?1") + upgrade(CHUNKED, path=b"/ws") + SMUGGLED, (200, 400), ("GET /echo?1 0",)),
    # Section 7.8: "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request."
    good("Upgrade in HTTP/1.0", upgrade(path=b"/echo").replace(b"HTTP/1.1", b"HTTP/1.0"), "GET /echo 0", kept=False),
]

TABLE = [*HEADS, *BODIES, *CONNECTIONS]


@pytest.mark.parametrize("row", TABLE, ids=[each.name.replace(" ", "-") for each in TABLE])
def test_table(site: Site, row: Row) -> None:
    """Each request has the answer that its row says, the connection stays or ends as it says, and nothing else was ever asked."""
    site.forget()
    with Peer(site.port) as peer:
        peer.pour([row.data])
        for expected in row.statuses:
            found = peer.answer()
            assert found is not None, "the connection ended with no answer"
            assert found.complete
            assert found.status in (expected if isinstance(expected, frozenset) else {expected}), found
            served, kept = found.status < 300, row.kept if row.kept is not None else not found.closes()
        assert found is not None
        # RFC 9112 section 9.6: the last answer on a connection says so; to HTTP/1.0 that goes without saying
        assert found.closes() is not kept or (b" HTTP/1.0\r\n" in row.data and not kept)
        if kept:
            assert peer.ask(AFTER).json()["query"] == "after"
        else:
            assert peer.answer() is None, "something followed the last answer"
            assert peer.ended
    site.healthy()
    if row.seen is not None:
        seen = row.seen if served or len(row.statuses) > 1 else ()
        assert site.complete() == [*seen, *(["GET /echo?after 0"] if kept else [])]


@pytest.mark.parametrize("lines", [row[1] for row in SMUGGLING if row[2]], ids=[row[0].replace(" ", "-") for row in SMUGGLING if row[2]])
@pytest.mark.parametrize("start", [b"", get(b"/echo?before")], ids=["first", "second"])
def test_no_request_is_smuggled(site: Site, lines: list[bytes], start: bytes) -> None:
    """What the parser refuses is refused as the first request of a connection and as a later one, and nothing behind it is served."""
    site.forget()
    with Peer(site.port) as peer:
        peer.pour([start + post(*lines, body=b"0\r\n\r\n" + SMUGGLED)])
        assert [each.status for each in peer.all_answers()] == ([200, 400] if start else [400])
    site.healthy()
    assert site.complete() == (["GET /echo?before 0"] if start else [])


def test_what_the_application_is_told(site: Site) -> None:
    """Method, path decoded and raw, query, version, headers in lower case and order, and the body come as the ASGI specification says."""
    lines = (b"X-B: 1", b"Cookie: a=b", b"x-a:  two \t", b"X-B: \xe9", b"Cookie: c=d")
    with Peer(site.port) as peer:
        peer.send(req(b"PUT /echo/a%2Fb%20%C3%BC?x=%20&y", *lines, b"Content-Length: 5", body=b"\x00\xffabc"))
        told = peer.expect().json()
        assert (told["method"], told["http_version"], told["scheme"], told["root_path"]) == ("PUT", "1.1", "http", "")
        assert (told["path"], told["raw_path"], told["query"]) == ("/echo/a/b ü", "/echo/a%2Fb%20%C3%BC", "x=%20&y")
        assert [each for each in told["headers"] if each[0] != "cookie"] == [
            ["host", "example.com"], ["x-b", "1"], ["x-a", "two"], ["x-b", "\xe9"], ["content-length", "5"],
        ]  # fmt: skip
        assert [each[1] for each in told["headers"] if each[0] == "cookie"] == ["a=b", "c=d"]
        assert told["body"] == "\x00\xffabc"
        assert told["state"] == ["started"]
        peer.send(get(b"http://example.com", version=b"1.0"))
        told = peer.expect().json()
        assert (told["path"], told["raw_path"], told["http_version"]) == ("/", "/", "1.0")


def test_cut_at_every_byte(site: Site) -> None:
    """However an exchange is cut into segments, its answers are the same, and a next one follows."""
    data = (
        sized(b"hello", target=b"/echo?1") + chunked(b"5;x\r\nhello\r\n2\r\nab\r\n0\r\nX: y\r\n\r\n", target=b"/echo?2") + get(b"/echo?3")
    )
    with Peer(site.port) as peer:
        for cut in range(1, len(data)):
            peer.send(data[:cut])
            site.healthy()  # so that both pieces are read by themselves
            peer.send(data[cut:])
            assert [peer.expect().json()["body"] for _ in range(3)] == ["hello", "helloab", ""], cut


def test_byte_by_byte(site: Site) -> None:
    """An exchange that comes in single bytes is one like any other."""
    with Peer(site.port) as peer:
        for byte in chunked(chunks(b"hello", b"ab", end=b"0\r\nX: y\r\n\r\n")) + upgrade(path=b"/ws") + frame(TEXT, b"hello"):
            peer.send(bytes((byte,)))
        assert peer.expect().json()["body"] == "helloab"
        assert peer.expect(101)
        assert peer.read_message() == b"hello"
        peer.say_goodbye()


# One connection, several exchanges


def test_behind_a_slow_one(site: Site) -> None:
    """What is pipelined behind a slow request waits for its answer, and then comes in order."""
    site.forget()
    with Peer(site.port) as peer:
        peer.send(get(b"/stream?chunks=2&gate=slow&id=slow") + get(b"/echo?1") + sized(b"hello") + get(b"/echo?2"))
        site.await_heard("slow", 1)
        assert not [each for each in site.heard() if each in ("GET /echo?1 0", "POST /echo 5", "GET /echo?2 0")]
        site.open("slow")
        assert peer.expect().body == b"xxxxxxxxxx"
        assert [peer.expect().json()[each] for each in ("query", "body", "query")] == ["1", "hello", "2"]


@pytest.mark.parametrize("first", [get(b"/echo"), sized(b"hello"), chunked(chunks(b"hello"))], ids=["GET", "POST", "chunked"])
def test_upgrade_behind_a_request(site: Site, first: bytes) -> None:
    """An upgrade that is pipelined behind a request, with messages behind it, is one: all are echoed."""
    with Peer(site.port) as peer:
        peer.send(first + upgrade(path=b"/ws") + frame(TEXT, b"one") + frame(TEXT, b"two"))
        peer.expect()
        assert peer.expect(101).header("sec-websocket-accept")
        assert [peer.read_message(), peer.read_message()] == [b"one", b"two"]
        peer.say_goodbye()


def test_upgrade_behind_a_slow_one(site: Site) -> None:
    """An upgrade that is pipelined behind a slow request waits for its answer."""
    with Peer(site.port) as peer:
        peer.send(get(b"/stream?chunks=2&gate=slow-upgrade&id=slow-upgrade") + upgrade(path=b"/ws") + frame(TEXT, b"one"))
        site.await_heard("slow-upgrade", 1)
        site.open("slow-upgrade")
        assert peer.expect().framing == "chunked"
        assert peer.expect(101)
        assert peer.read_message() == b"one"
        peer.say_goodbye()


def test_upgrade_after_three_requests(site: Site) -> None:
    """A connection that has served three requests becomes a WebSocket, which has no more deadlines of HTTP."""
    with Peer(site.port) as peer:
        for index in range(3):
            assert peer.ask(b"/echo?%d" % index).json()["query"] == str(index)
        peer.upgrade(path=b"/ws")
        peer.send(frame(TEXT, b"hello"))
        assert peer.read_message() == b"hello"
        peer.say_goodbye()


def test_upgrade_after_the_deadlines(hasty: Site) -> None:
    """A WebSocket on a connection that was kept alive outlives every deadline of HTTP."""
    with Peer(hasty.port) as peer, Peer(hasty.port) as idle:
        peer.ask(b"/echo")
        peer.upgrade(path=b"/ws")
        idle.ask(b"/echo")
        assert idle.answer() is None
        with Peer(hasty.port) as late:
            assert late.expect(408)
        peer.send(frame(TEXT, b"hello"))
        assert peer.read_message() == b"hello"
        peer.say_goodbye()


def test_a_hundred_requests(site: Site) -> None:
    """A hundred requests of all kinds on one connection are answered, and cost one connection."""
    before = site.descriptors()
    with Peer(site.port) as peer:
        for index in range(25):
            assert peer.ask(b"/echo?%d" % index).json()["query"] == str(index)
            peer.send(sized(b"x" * index))
            assert len(peer.expect().json()["body"]) == index
            peer.send(chunked(chunks(b"x" * 100, b"y")))
            assert len(peer.expect().json()["body"]) == 101
            peer.send(req(b"HEAD /head"))
            peer.expect(method="HEAD")
    wait_until(lambda: site.descriptors() <= before, what="the end of the connection")


# Answers


@pytest.mark.parametrize(
    ("target", "version", "framing", "body"),
    [
        (b"/echo", b"1.1", "length", None),  # one piece: its length is known
        (b"/echo", b"1.0", "length", None),
        (b"/stream", b"1.1", "chunked", b"x" * 15),
        (b"/stream", b"1.0", "close", b"x" * 15),  # RFC 9112 section 6.1: no chunks for who may not know them
        (b"/stream?length", b"1.1", "length", b"x" * 15),
        (b"/stream?length", b"1.0", "length", b"x" * 15),
        (b"/stream?chunks=1", b"1.1", "length", b"x" * 5),
        (b"/stream?size=0", b"1.1", "chunked", b""),  # an empty piece in the middle must not end the body
        (b"/stream?size=100000&chunks=50", b"1.1", "chunked", b"x" * 5_000_000),
        (b"/no-body?status=200", b"1.1", "length", b""),
        (b"/no-body?status=404", b"1.1", "length", b""),
        (b"/no-body?status=204", b"1.1", "none", b""),
        (b"/no-body?status=304", b"1.1", "none", b""),
        (b"/no-body?status=204&body", b"1.1", "none", b""),
        (b"/no-body?status=304&body", b"1.1", "none", b""),
    ],
)
def test_framing(site: Site, target: bytes, version: bytes, framing: str, body: bytes | None) -> None:
    """A response is framed in the way that its length and its peer allow, and whatever follows it on the connection is intact."""
    with Peer(site.port) as peer:
        peer.send(get(target, version=version))
        found = peer.answer()
        assert found is not None
        assert (found.framing, found.complete) == (framing, True)
        assert found.body == body or body is None
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", found.header("date"))  # RFC 9110 section 6.6.1
        if found.status == 204:  # RFC 9110 section 8.6, RFC 9112 section 6.1
            assert not found.all("content-length")
        if found.status in (204, 304):
            assert not found.all("transfer-encoding")
            assert found.header("x-kept") == "yes"
        if version == b"1.0":
            assert peer.answer() is None
        else:
            assert peer.ask(AFTER).json()["query"] == "after"


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"BAD\r\n\r\n", 400), (post(b"Content-Length: 70000"), 413), (chunked(b"X\r\n"), 400), (upgrade(path=b"/elsewhere"), 403)],
    ids=["head", "too-large", "chunk", "refused-upgrade"],
)
def test_refusals_are_dated(site: Site, data: bytes, status: int) -> None:
    """An answer that the server gives by itself has a Date, as any below 500 must (RFC 9110 section 6.6.1)."""
    with Peer(site.port) as peer:
        peer.send(data)
        assert peer.expect(status).header("date")


@pytest.mark.parametrize("shape", ["one", "several", "length"])
def test_head(site: Site, shape: str) -> None:
    """HEAD has the headers of GET, and no body, whatever the application gives (RFC 9110 section 9.3.2)."""
    target = b"/head?shape=" + shape.encode()
    with Peer(site.port) as peer:
        got = peer.ask(target)
        peer.send(req(b"HEAD " + target))
        found = peer.expect(method="HEAD")
        assert peer.ask(AFTER).json()["query"] == "after"  # no body came between

    def told(answer: Answer) -> set[tuple[str, str]]:
        return {each for each in answer.headers if each[0] != "date"}

    assert got.body == (b"67890" if shape == "one" else b"1234567890")
    assert told(found) <= told(got)
    # Section 9.3.2: fields that are known only once the content is may be left out
    assert {name for name, _ in told(got) - told(found)} <= {"content-length", "transfer-encoding"}
    assert shape != "length" or found.header("content-length") == "10"


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("connection", "close", False),
        ("connection", "Close", False),
        ("connection", "keep-alive", True),
        ("transfer-encoding", "chunked", True),
        ("date", "Thu, 01 Jan 1970 00:00:00 GMT", True),
        ("server", "mine", True),
        ("content-length", "4", True),
    ],
)
def test_own_headers(site: Site, name: str, value: str, kept: bool) -> None:
    """A header that is the server's matter as well stands once; one that says ``close`` closes; fields that may be repeated are."""
    with Peer(site.port) as peer:
        found = peer.ask(f"/own-headers?name={name}&value={value.replace(' ', '%20')}".encode())
        assert found.body == b"own\n"
        assert found.header(name) or name in ("transfer-encoding", "connection")
        assert name not in ("date", "server") or found.header(name) == value
        assert found.all("set-cookie") == ["a=1", "b=2"]
        assert found.closes() is not kept
        if kept:
            assert peer.ask(AFTER).json()["query"] == "after"
        else:
            assert peer.answer() is None


@pytest.fixture(scope="module")
def failing() -> Iterator[Callable[[], Site]]:
    """Gives a server whose application may fail, a new one to every third test: of one kind, no more than five lines are logged at once."""
    servers: list[Site] = []
    with contextlib.ExitStack() as stack:
        uses = itertools.count()

        def give() -> Site:
            if next(uses) % 3 == 0:
                servers.append(stack.enter_context(Site("--max-body-size=65536")))
            return servers[-1]

        yield give
        for each in servers:
            assert not each.lines("a fault of this server|Unhandled")
            assert each.stop() == 0


def _fails(server: Site, target: bytes) -> tuple[list[Answer], list[str], bytes]:
    """The answers, the lines of the log that tell of the application, and all bytes, for what an application does wrong."""
    faults = r"Z (error|critical) "
    known = len(server.lines(faults))
    with Peer(server.port) as peer:
        peer.send(get(target))
        answers = peer.all_answers() if target.startswith((b"/raise-", b"/twice")) or target.endswith(b"parts") else [peer.expect(500)]
    server.healthy()
    wait_until(lambda: len(server.lines(faults)) > known, what="the fault in the log")
    server.healthy()
    lines = server.lines(faults)[known:]
    assert not server.lines("a fault of this server|Unhandled")
    for each in answers:
        assert SECRET not in each.body
        assert b"Traceback" not in each.body
    return answers, lines, b"".join(each.body for each in answers)


@pytest.mark.parametrize("target", [b"/raise", b"/nothing", b"/bad-header", b"/short", b"/long"])
def test_application_fails_before_the_answer(failing: Callable[[], Site], target: bytes) -> None:
    """An application that fails before its answer has begun gives 500, which tells nothing; it is logged once."""
    (answer,), lines, _ = _fails(failing(), target)
    assert not answer.all("x-bad")
    assert not answer.all("x-forged")
    assert len(lines) == 1, lines


@pytest.mark.parametrize(
    ("target", "most"),
    [
        (b"/raise-after-start", b"part"),
        (b"/raise-after-start?length", b"part"),
        (b"/twice", b"part"),
        (b"/short?parts", b"short"),
        (b"/long?parts", b"12345"),
    ],
)
def test_application_fails_in_its_answer(failing: Callable[[], Site], target: bytes, most: bytes) -> None:
    """An answer that an application does not complete, or breaks the length of, is never made to look complete; it is logged once."""
    answers, lines, body = _fails(failing(), target)
    assert len(answers) <= 1
    assert most.startswith(body)
    if not target.startswith(b"/long"):  # what it was told of is all there
        assert not any(each.complete for each in answers)
    assert len(lines) == 1, lines


# Expect: 100-continue (RFC 9110 section 10.1.1)

EXPECT = b"Expect: 100-continue"


@pytest.mark.parametrize("expect", [EXPECT, b"expect: 100-Continue"])
@pytest.mark.parametrize("framing", [b"Content-Length: 5", CHUNKED], ids=["length", "chunked"])
def test_continue(site: Site, expect: bytes, framing: bytes) -> None:
    """A client that waits is told to go on once the application wants the body, and once only; a next request works."""
    with Peer(site.port) as peer:
        peer.send(post(framing, expect, target=b"/continue?read"))
        assert not peer.expect(100).headers
        peer.send(b"hello" if framing != CHUNKED else chunks(b"hello"))
        assert peer.expect().body == b"done\n"
        assert peer.ask(AFTER).json()["query"] == "after"


@pytest.mark.parametrize("framing", [b"Content-Length: 5", CHUNKED], ids=["length", "chunked"])
def test_continue_that_is_not_wanted(site: Site, framing: bytes) -> None:
    """A client that waits gets the answer of an application that does not want the body, with no 100, and the connection ends.

    It might send the body all the same, or not: what comes next could be either.
    """
    with Peer(site.port) as peer:
        peer.send(post(framing, EXPECT, target=b"/continue"))
        found = peer.expect()
        assert found.closes()
        assert peer.answer() is None


@pytest.mark.parametrize("body", [b"h", b"hello"])
def test_continue_of_an_impatient_client(site: Site, body: bytes) -> None:
    """A client that sends its body with the head is served, with or without a 100, and its body is taken once."""
    with Peer(site.port) as peer:
        peer.send(post(b"Content-Length: 5", EXPECT, body=body))
        site.healthy()  # so that both pieces are read by themselves
        peer.send(b"hello"[len(body) :])
        found = peer.answer()
        if found is not None and found.status == 100:
            found = peer.answer()
        assert found is not None
        assert found.json()["body"] == "hello"
        assert peer.ask(AFTER).json()["query"] == "after"


def test_continue_with_no_body(site: Site) -> None:
    """Who expects a 100 for no body is answered."""
    with Peer(site.port) as peer:
        peer.send(get(b"/echo", EXPECT) + get(b"/echo?2"))
        found = peer.answer()
        if found is not None and found.status == 100:
            found = peer.answer()
        assert found is not None
        assert found.json()["query"] == ""
        assert peer.expect().json()["query"] == "2"


def test_continue_in_http_1_0(site: Site) -> None:
    """An HTTP/1.0 client is sent no 100: it must be ignored there."""
    with Peer(site.port) as peer:
        peer.send(post(b"Content-Length: 5", EXPECT, version=b"1.0"))
        site.healthy()
        peer.send(b"hello")
        assert peer.expect().json()["body"] == "hello"


def test_continue_of_what_is_too_large(site: Site) -> None:
    """A body that is too large is refused before it is sent."""
    with Peer(site.port) as peer:
        peer.send(post(b"Content-Length: 70000", EXPECT))
        assert peer.expect(413).closes()
        assert peer.answer() is None


def test_other_expectation(site: Site) -> None:
    """Another expectation gives 417, or is passed over; the next request is intact in either case."""
    with Peer(site.port) as peer:
        peer.send(sized(b"hello", b"Expect: the-unexpected"))
        found = peer.answer()
        assert found is not None
        assert found.status in (200, 417)
        if not found.closes():
            assert peer.ask(AFTER).json()["query"] == "after"


# Deadlines


def test_head_that_does_not_come(hasty: Site) -> None:
    """Half a head is answered with 408 at the handshake timeout, also where it is not the connection's first."""
    with Peer(hasty.port) as first, Peer(hasty.port) as second:
        first.send(b"GET /echo HT")
        second.ask(b"/echo")
        second.send(b"GET /echo HT")
        for peer in (first, second):
            assert peer.expect(408).closes()
            assert peer.answer() is None
    hasty.healthy()


def test_idle_connection(hasty: Site) -> None:
    """A connection that waits for its next request is closed at the idle timeout, with nothing said."""
    with Peer(hasty.port) as peer:
        peer.ask(b"/echo")
        assert peer.answer() is None
    hasty.healthy()


STOPPED_BODIES = {
    "length": post(b"Content-Length: 9", body=b"hello", target=b"/echo?id=length"),
    "between-chunks": chunked(b"5\r\nhello\r\n", target=b"/echo?id=between-chunks"),
    "in-a-chunk": chunked(b"5\r\nhe", target=b"/echo?id=in-a-chunk"),
    "in-the-trailers": chunked(b"0\r\n", target=b"/echo?id=in-the-trailers"),
    "no-CRLF-at-all": chunked(b"5\nhi\n0\n\n", target=b"/echo?id=no-CRLF-at-all"),
}


@pytest.fixture(scope="module")
def stopped(hasty_site: Site) -> Iterator[dict[str, Peer]]:
    """Connections whose bodies have stopped, all at the same time: the deadline is waited out once."""
    hasty_site.forget()
    with contextlib.ExitStack() as stack:
        peers = {name: stack.enter_context(Peer(hasty_site.port)) for name in STOPPED_BODIES}
        for name, peer in peers.items():
            peer.send(STOPPED_BODIES[name])
        yield peers


@pytest.mark.parametrize("name", STOPPED_BODIES)
def test_body_that_does_not_come(hasty: Site, stopped: dict[str, Peer], name: str) -> None:
    """A body that stops is answered with 408 at the body timeout, and the application hears that the peer has gone."""
    assert stopped[name].expect(408).closes()
    assert stopped[name].answer() is None
    hasty.await_heard(name, "disconnect")
    assert hasty.complete() == []
    hasty.healthy()


def test_body_that_was_asked_for_does_not_come(hasty: Site) -> None:
    """A client that was told to go on, and does not, is answered with 408 at the body timeout."""
    with Peer(hasty.port) as peer:
        peer.send(post(b"Content-Length: 5", EXPECT))
        peer.expect(100)
        assert peer.expect(408).closes()
        assert peer.answer() is None
    hasty.healthy()


def test_body_that_trickles(hasty: Site) -> None:
    """A body that comes byte by byte is not awaited any longer than one that does not come."""
    with Peer(hasty.port) as peer:
        peer.send(post(b"Content-Length: 100000"))
        started = time.monotonic()
        while not select.select([peer.socket], [], [], 0)[0]:
            assert time.monotonic() - started < 11
            peer.send(b"x")
            hasty.healthy()
        assert peer.expect(408).closes()


def test_slow_answer_has_no_deadline(hasty: Site) -> None:
    """An application that takes its time for an answer is waited for: no deadline of the peer's is meant for that."""
    with Peer(hasty.port) as peer, Peer(hasty.port) as idle:
        peer.send(get(b"/stream?gate=late&chunks=1&id=late") + get(b"/echo?next"))
        idle.ask(b"/echo")
        assert idle.answer() is None
        with Peer(hasty.port) as late:
            assert late.expect(408)
        hasty.open("late")
        assert peer.expect().body == b"xxxxx"
        assert peer.expect().json()["query"] == "next"


# Peers that go


@pytest.mark.parametrize(
    "data", [post(b"Content-Length: 9", body=b"hello"), chunked(b"5\r\nhello\r\n"), chunked(b"5\r\nhe"), chunked(b"0\r\nX: y\r\n")]
)
def test_body_cut_off(site: Site, data: bytes) -> None:
    """A body that ends with the connection is incomplete: the application hears that, and never sees the request as whole."""
    site.forget()
    with Peer(site.port) as peer:
        peer.send(data)
        peer.finish()
        assert [each.status for each in peer.all_answers()] in ([], [400], [408])
    site.await_heard("/echo", "disconnect")
    assert site.complete() == []
    site.healthy()


@pytest.mark.parametrize("count", [1, 3])
def test_half_closed_after_requests(site: Site, count: int) -> None:
    """A client that ends its side behind whole requests is taken to have gone: what it is answered until then is whole and in order."""
    with Peer(site.port) as peer:
        peer.send(b"".join(get(b"/echo?%d" % index) for index in range(count)))
        peer.finish()
        answers = peer.all_answers()
    assert [each.json()["query"] for each in answers] == [str(index) for index in range(len(answers))]
    assert len(answers) <= count
    site.healthy()


@pytest.mark.parametrize("form", ["length", "chunked"])
@pytest.mark.parametrize(("name", "target", "status"), [("roomy", b"/early", 200), ("site", b"/echo", 413)], ids=["early", "too-large"])
def test_early_answer_can_be_read(request: pytest.FixtureRequest, form: str, name: str, target: bytes, status: int) -> None:
    """A client that sends all of its body first, and then reads, finds the answer that came long before (RFC 9112 section 9.6)."""
    server, body = request.getfixturevalue(name), bytes(MIB)
    with Peer(server.port) as peer:
        peer.pour([sized(body, target=target) if form == "length" else chunked(chunks(body), target=target)], reading=False)
        assert peer.expect(status).closes()
        assert peer.answer() is None
    server.healthy()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("target", [b"/hang?id=%b", b"/hang?start&id=%b"], ids=["before", "in-the-answer"])
def test_client_goes(site: Site, target: bytes, how: str) -> None:
    """An application that waits hears that its client has gone, before the answer or in it; nothing is left of it."""
    before, name = site.descriptors(), f"{how}-{len(target)}"
    peer = Peer(site.port)
    peer.send(get(target % name.encode()))
    site.await_heard(name, "waits")
    peer.close() if how == "close" else peer.reset()
    site.await_heard(name, "disconnect")
    wait_until(lambda: site.descriptors() <= before, what="the end of the connection")
    site.healthy()


def test_client_goes_in_mid_response(site: Site) -> None:
    """An application that sends to a client that has gone is told so by an OSError, and ends."""
    before = site.descriptors()
    with Peer(site.port) as peer:
        peer.send(get(b"/flood?id=gone"))
        while len(peer.data) < 300_000:
            assert peer._read()
    site.await_heard("gone", "OSError")
    wait_until(lambda: site.descriptors() <= before, what="the end of the connection")
    site.healthy()


def test_never_reading_client(hasty: Site) -> None:
    """A client that never reads while the application floods it costs a bounded queue, and is cut at the write-stall timeout."""
    hasty.healthy()
    before, memory = hasty.descriptors(), Memory(hasty)
    with Raw(hasty.port, receive_buffer=4096) as peer:
        peer.send(get(b"/flood?id=stalled"))
        hasty.await_heard("stalled", "OSError")
        wait_until(lambda: hasty.descriptors() <= before, what="the end of the connection")
    assert memory.grown() <= 2 * MIB
    hasty.healthy()


def test_thousands_at_once(site: Site) -> None:
    """Five thousand requests in one piece are answered, all and in order, and cost no more than any one of them."""
    memory = Memory(site)
    with Peer(site.port) as peer:
        peer.pour([b"".join(get(b"/echo?%d" % index) for index in range(5000))])
        for index in range(5000):
            assert peer.expect().json()["query"] == str(index)
    assert memory.grown() <= 2 * MIB


def test_flood_of_requests_behind_a_slow_one(site: Site) -> None:
    """A client that sends requests with no end behind a slow one is read no further, and is served once that one is answered."""
    memory, name = Memory(site), b"slow-flood"
    with Peer(site.port) as peer:
        peer.send(get(b"/stream?chunks=2&gate=" + name + b"&id=" + name))
        site.await_heard(name.decode(), 1)
        sent = _send_until_held_back(peer, itertools.repeat(get(b"/healthy")))
        assert 0 < sent < 16 * MIB
        site.healthy()
        site.open(name.decode())
        assert peer.expect().body == b"xxxxxxxxxx"
        for _ in range(100):
            assert peer.expect().body == b"healthy\n"
    assert memory.grown() <= 2 * MIB


def test_flood_of_requests_whose_answers_are_not_read(hasty: Site) -> None:
    """A client that sends requests with no end, and reads none of the answers, is cut at the write-stall timeout at bounded memory."""
    hasty.healthy()
    before, memory = hasty.descriptors(), Memory(hasty)
    with Peer(hasty.port, receive_buffer=4096) as peer:
        peer.pour(itertools.repeat(get(b"/stream?chunks=1&size=4096") * 100), reading=False)  # 4 MB of answers is what the kernels hold
        wait_until(lambda: hasty.descriptors() <= before, what="the end of the connection")
    assert memory.grown() <= 2 * MIB
    hasty.healthy()


def _send_until_held_back(peer: Peer, pieces: Iterator[bytes]) -> int:
    """Send until nothing has been taken for a second; return how many bytes were."""
    sent, rest = 0, memoryview(b"")
    peer.socket.setblocking(False)
    while select.select([], [peer.socket], [], 1.0)[1]:
        rest = rest or memoryview(next(pieces))
        taken = peer.socket.send(rest)
        rest, sent = rest[taken:], sent + taken
    peer.socket.settimeout(60)
    peer.rest = bytes(rest)
    return sent


# Sizes

ZEROS = bytes(64 * KIB)
SIZE = 64 * MIB
DIGEST = hashlib.sha256(bytes(SIZE)).hexdigest()


def _upload(form: str) -> Iterator[bytes]:
    count = SIZE // len(ZEROS)
    if form == "length":
        yield post(b"Content-Length: %d" % SIZE, target=b"/sha?gate=" + form.encode())
        yield from [ZEROS] * count
    else:
        yield post(CHUNKED, target=b"/sha?gate=" + form.encode())
        yield from [b"10000\r\n" + ZEROS + b"\r\n"] * count
        yield b"0\r\n\r\n"


@pytest.mark.parametrize("form", ["length", "chunked"])
def test_large_upload(roomy: Site, form: str) -> None:
    """A large body arrives whole, at constant memory: while the application reads none of it, its client is held back."""
    memory = Memory(roomy)
    with Peer(roomy.port, timeout=60) as peer:
        pieces = iter(_upload(form))
        sent = _send_until_held_back(peer, pieces)
        assert 0 < sent < SIZE // 2
        roomy.healthy()
        roomy.open(form)
        peer.send(peer.rest)
        for piece in pieces:
            peer.send(piece)
        assert peer.expect().json() == {"sha256": DIGEST, "size": SIZE}
        assert peer.ask(AFTER).json()["query"] == "after"
    assert memory.grown() <= 4 * MIB


def test_upload_in_tiny_chunks(roomy: Site) -> None:
    """A body in chunks of one byte costs time, but no more memory than any other."""
    memory, count = Memory(roomy), 300_000
    with Peer(roomy.port, timeout=60) as peer:
        peer.pour([chunked(b"", target=b"/sha"), *[b"1\r\n\x00\r\n" * 1000] * (count // 1000), b"0\r\n\r\n"])
        assert peer.expect().json() == {"sha256": hashlib.sha256(bytes(count)).hexdigest(), "size": count}
    assert memory.grown() <= 16 * MIB  # one read holds 40,000 of them, each an object


@pytest.mark.parametrize("length", [b"", b"&length"], ids=["chunked", "length"])
def test_large_download(roomy: Site, length: bytes) -> None:
    """A large answer to a client that reads slowly comes whole, at bounded memory: the application is held back."""
    memory, name = Memory(roomy), "slow" + length.decode("ascii")
    with Peer(roomy.port, receive_buffer=64 * KIB) as peer:
        peer.send(get(b"/stream?chunks=1024&size=65536" + length + b"&id=" + name.replace("&", "-").encode()))
        key = name.replace("&", "-")
        wait_until(lambda: roomy.heard(key), what="the begin of the answer")
        for _ in range(300):  # turns in which an application that is not held back would go on
            roomy.healthy()
        assert roomy.heard(key)[0] < 512
        found = peer.expect()
        assert hashlib.sha256(found.body).digest() == hashlib.sha256(b"x" * SIZE).digest()
    assert memory.grown() <= 3 * MIB
    roomy.healthy()


def test_many_slow_heads(site: Site) -> None:
    """Three hundred connections that send their heads byte by byte harm no client beside them, and are all served at the end."""
    before, data = site.descriptors(), get(b"/echo?slow") + sized(b"hello")
    peers = [Peer(site.port) for _ in range(300)]
    with Canary(site, path="/ws") as canary:
        for byte in data:
            for peer in peers:
                peer.send(bytes((byte,)))
            site.healthy()
        for peer in peers:
            assert peer.expect().json()["query"] == "slow"
            assert peer.expect().json()["body"] == "hello"
            peer.close()
        canary.sing(3)
    wait_until(lambda: site.descriptors() <= before, what="the end of the connections")


# The end


def test_drain() -> None:
    """SIGTERM: what is being answered is finished, what has not begun says close, idle connections end at once, status 0."""
    with Site("--drain-seconds=0", "--graceful-timeout=60") as server:
        with Peer(server.port) as idle, Peer(server.port) as begun, Peer(server.port) as waiting, Peer(server.port) as fresh:
            idle.ask(b"/healthy")
            begun.send(chunked(b"5\r\nbegun\r\n", target=b"/duplex"))
            while b"begun" not in begun.data:
                assert begun._read()
            waiting.send(post(b"Content-Length: 5", target=b"/echo", body=b"he"))
            server.healthy()
            server.send_signal(signal.SIGTERM)
            assert idle.answer() is None
            assert fresh.answer() is None
            begun.send(chunks(b"ended") + SMUGGLED)
            assert begun.expect().body == b"begunended"
            assert begun.answer() is None
            waiting.send(b"llo" + SMUGGLED)
            found = waiting.expect()
            assert found.json()["body"] == "hello"
            assert found.closes()
            assert waiting.answer() is None
        assert server.wait() == 0
        server.wait_for_line("heard lifespan.shutdown")
        assert not server.faults()


def test_drain_of_an_answer_with_no_end() -> None:
    """An answer that never ends is cut at the graceful timeout, after which the application hears of the shutdown; status 0."""
    with Site("--drain-seconds=0", "--graceful-timeout=1") as server:
        with Peer(server.port) as peer:
            peer.send(get(b"/hang?start"))
            while b"begun" not in peer.data:
                assert peer._read()
            server.send_signal(signal.SIGTERM)
            found = peer.answer()
            assert found is not None
            assert not found.complete
        assert server.wait() == 0
        server.wait_for_line("heard lifespan.shutdown")
        assert not server.faults()
