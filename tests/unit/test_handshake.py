"""The request head: what is one, what is an opening handshake, and what is answered."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import SupportsIndex

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twistedws.errors import TwistedWSError
from twistedws.handshake import (
    BadRequest,
    HeadParser,
    Request,
    Upgrade,
    accept_key,
    check_upgrade,
    choose_subprotocol,
    response,
    switching_protocols,
    wants_upgrade,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3
TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

UPGRADE = {
    "Host": b"example.com",
    "Upgrade": b"websocket",
    "Connection": b"Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": b"13",
}

CHROME = (
    b"GET /chat?room=1 HTTP/1.1\r\nHost: localhost:8000\r\nConnection: Upgrade\r\nPragma: no-cache\r\n"
    b"Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nUpgrade: websocket\r\n"
    b"Origin: http://localhost:8000\r\nSec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Accept-Language: en-US,en;q=0.9\r\nCookie: a=b; c=d\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)


def parse(data: bytes, max_size: int = 16384, max_headers: int = 100) -> Request:
    request = HeadParser(max_size, max_headers).feed(data)
    assert request is not None
    return request


def get(*lines: bytes, start: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: example.com") -> bytes:
    """A head of the lines given."""
    return b"\r\n".join(line for line in (start, host, *lines) if line) + b"\r\n\r\n"


def refusal(data: bytes, max_size: int = 16384, max_headers: int = 100) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        HeadParser(max_size, max_headers).feed(data)
    return caught.value


def handshake(*more: bytes, without: str = "", start: bytes = b"GET / HTTP/1.1", **changed: bytes) -> Request:
    """A valid opening handshake, but for the fields changed, left out or added."""
    fields = {**UPGRADE, **{name.replace("_", "-"): value for name, value in changed.items()}}
    lines = [name.encode() + b": " + value for name, value in fields.items() if name != without]
    return parse(b"\r\n".join([start, *lines, *more]) + b"\r\n\r\n")


def upgrade_refusal(request: Request) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        check_upgrade(request)
    return caught.value


Outcome = tuple[object, ...]


def outcome(chunks: Iterable[bytes], max_size: int = 16384, max_headers: int = 100) -> Outcome:
    """Everything that can be seen of a parse."""
    parser = HeadParser(max_size, max_headers)
    left = list(chunks)
    try:
        while left:
            request = parser.feed(left.pop(0))
            if request is not None:
                return request, parser.head, parser.rest + b"".join(left)
    except BadRequest as error:
        return error.status, error.text, error.headers
    return ("incomplete",)


# --- a head ----------------------------------------------------------------------------------------------


def test_browser_head() -> None:
    """A browser's head is read into its parts, names in lower case and in order."""
    request = parse(CHROME)
    assert (request.method, request.target, request.version) == ("GET", "/chat?room=1", "1.1")
    assert (request.raw_path, request.path, request.query_string) == (b"/chat", "/chat", b"room=1")
    assert request.headers[0] == (b"host", b"localhost:8000")
    assert [name for name, _ in request.headers][-2:] == [b"sec-websocket-key", b"sec-websocket-extensions"]
    assert (request.host, request.origin) == ("localhost:8000", "http://localhost:8000")
    assert wants_upgrade(request)
    assert check_upgrade(request) == Upgrade(KEY, (), "permessage-deflate; client_max_window_bits", "http://localhost:8000")


def test_what_follows_the_head_is_kept() -> None:
    """The head is available as received, and so is what came after it, control characters and all."""
    parser = HeadParser(16384, 100)
    assert parser.feed(CHROME[:100]) is None
    assert (parser.head, parser.rest) == (b"", b"")
    assert parser.feed(CHROME[100:] + b"\x81\x80\x00\n\r") is not None
    assert (parser.head, parser.rest) == (CHROME, b"\x81\x80\x00\n\r")


def test_one_empty_line_may_come_first() -> None:
    """One empty line before the request line is ignored (RFC 9112 section 2.2); two are refused."""
    parser = HeadParser(16384, 100)
    assert parser.feed(b"\r\n" + get()) is not None
    assert parser.head == get()
    assert refusal(b"\r\n\r\n" + get()).status == 400


def test_fields_can_be_looked_up() -> None:
    """A field is found in any case; several are joined in order; one that is not there is None."""
    request = parse(get(b"X-A: 1", b"x-b: \t two \t", b"x-a:3", b"X-C:"))
    assert request.all("X-a") == ("1", "3")
    assert request.header("x-A") == "1, 3"
    assert request.header("X-B") == "two"
    assert request.header("x-c") == ""
    assert request.header("x-d") is None
    assert request.all("x-d") == ()
    assert request.header("h\u00f6st") is None
    assert request.origin is None


def test_http_1_0_may_have_no_host() -> None:
    """A plain request of HTTP/1.0, such as a load balancer's health check, needs no Host."""
    request = parse(b"GET / HTTP/1.0\r\n\r\n")
    assert (request.version, request.host, request.headers) == ("1.0", "", ())


def test_a_later_minor_version_is_read_as_1_1() -> None:
    """HTTP/1.x is answered as the highest version that we know (RFC 9110 section 2.5)."""
    assert parse(get(start=b"GET / HTTP/1.2")).version == "1.1"


@pytest.mark.parametrize(
    ("target", "raw_path", "path", "query"),
    [
        (b"/", b"/", "/", b""),
        (b"/?", b"/", "/", b""),
        (b"/a/b?c=d?e", b"/a/b", "/a/b", b"c=d?e"),
        (b"/%C3%85sa?%ff", b"/%C3%85sa", "/Åsa", b"%ff"),
        (b"/a%2Fb", b"/a%2Fb", "/a/b", b""),
        (b"//evil.example/x", b"//evil.example/x", "//evil.example/x", b""),
        (b"/a/../b", b"/a/../b", "/a/../b", b""),
        (b'/{}|[]^`\\"<>', b'/{}|[]^`\\"<>', '/{}|[]^`\\"<>', b""),
        (b"http://example.com/a?b", b"/a", "/a", b"b"),
        (b"HTTP://EXAMPLE.com:80/a", b"/a", "/a", b""),
        (b"https://example.com:443", b"/", "/", b""),
        (b"ws://example.com?b", b"/", "/", b"b"),
        (b"wss://example.com/a", b"/a", "/a", b""),
    ],
)
def test_targets(target: bytes, raw_path: bytes, path: str, query: bytes) -> None:
    """A target in origin form or absolute form gives path and query, and is kept as sent."""
    request = parse(get(start=b"GET " + target + b" HTTP/1.1"))
    assert (request.target.encode(), request.raw_path, request.path, request.query_string) == (
        target,
        raw_path,
        path,
        query,
    )


@pytest.mark.parametrize(
    "target",
    [
        b"*", b"example.com", b"example.com:443", b"a/b", b"?a", b"/#a", b"/a#", b"ftp://example.com/",
        b"http:/example.com/", b"http://", b"http:///", b"http://evil.example/", b"http://example.com:81/",
        b"https://example.com:80/", b"http://user@example.com/", b"http://example.com:99999/", b"/\xc3\x85",
        b"/%C3", b"/%ff", b"/%00", b"/%", b"/%4", b"/%4g", b"/%%41", b"/a b", b"", b" /", b"/ ", b"/\t",
        b"/\x7f", b"/\x00", b"/\xa0", b"/%ed%a0%80", b"/%c0%ae",
    ],
)  # fmt: skip
def test_wrong_targets(target: bytes) -> None:
    """A target of another form, of another host, or that is no percent-encoded UTF-8 is refused."""
    assert refusal(get(start=b"GET " + target + b" HTTP/1.1")).status == 400


def test_an_absolute_target_stands_in_for_no_host() -> None:
    """HTTP/1.0 with an absolute target and no Host has nothing that could disagree."""
    assert parse(get(start=b"GET http://example.com/a HTTP/1.0", host=b"")).path == "/a"


def test_absolute_target_with_ipv6() -> None:
    """Addresses agree by what they are, not by how they are written."""
    assert parse(get(start=b"GET http://[::1]:80/ HTTP/1.1", host=b"Host: [0:0::1]")).path == "/"
    assert refusal(get(start=b"GET http://[::1]/ HTTP/1.1", host=b"Host: [::2]")).status == 400
    address = b"[6161:6161:6161:6161:6161:6161:6161:6161]"
    assert refusal(get(start=b"GET http://" + address + b"/ HTTP/1.1", host=b"Host: " + b"a" * 16)).status == 400


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /", 400), (b"GET", 400), (b"GET / HTTP/1.1 ", 400), (b"GET  / HTTP/1.1", 400),
        (b"GET /  HTTP/1.1", 400), (b" GET / HTTP/1.1", 400), (b"GET\t/\tHTTP/1.1", 400),
        (b"GET / HTTP/1", 400), (b"GET / HTTP/1.10", 400), (b"GET / HTTP/11.1", 400),
        (b"GET / http/1.1", 400), (b"GET / HTTP/1,1", 400), (b"GET / HTTP/1.x", 400),
        (b"G\xc4T / HTTP/1.1", 400), (b"G(T / HTTP/1.1", 400), (b"GET: / HTTP/1.1", 400),
        (b"GET / HTTP/1.\xb2", 400), (b"GET / HTTP/2.0", 505), (b"PRI * HTTP/2.0", 505),
        (b"GET / HTTP/0.9", 505), (b"GET / HTTP/3.0", 505), (b"CONNECT example.com:443 HTTP/1.1", 501),
        (b"OPTIONS * HTTP/1.1", 400), (b"GET / HTTP/1.1 HTTP/1.1", 400),
    ],
)  # fmt: skip
def test_wrong_request_lines(line: bytes, status: int) -> None:
    """The request line is a token, a target and HTTP/1.x with single spaces; another major version is a 505."""
    assert refusal(get(start=line)).status == status


# Each tries to make a parser see an Origin of https://good.example that was not sent as a field. None: accepted as data.
FORGERIES: list[tuple[str, bytes, int | None]] = [
    ("NEL 0x85", b"X-A: foo\x85Origin: https://good.example", None),
    ("C2 85, NEL in UTF-8", b"X-A: foo\xc2\x85Origin: https://good.example", None),
    ("U+2028 in UTF-8", b"X-A: foo\xe2\x80\xa8Origin: https://good.example", None),
    ("U+2029 in UTF-8", b"X-A: foo\xe2\x80\xa9Origin: https://good.example", None),
    (
        "C3 85, a letter in UTF-8",
        b"Cookie: name=\xc3\x85sa; X-A: y\xc3\x85Origin: https://good.example",
        None,
    ),
    ("CR and LF in overlong UTF-8", b"X-A: foo\xc0\x8d\xc0\x8aOrigin: https://good.example", None),
    (
        "letters whose low bytes are CR LF",
        b"X-A: foo\xe5\x98\x8d\xe5\x98\x8aOrigin: https://good.example",
        None,
    ),
    ("no-break space", b"X-A: foo\xa0Origin: https://good.example", None),
    ("percent-encoded CRLF", b"X-A: foo%0d%0aOrigin: https://good.example", None),
    ("escaped CRLF", b"X-A: foo\\r\\nOrigin: https://good.example", None),
    ("soft hyphen", b"X-A: foo\xadOrigin: https://good.example", None),
    ("HTAB", b"X-A: foo\tOrigin: https://good.example", None),
    ("a longer name", b"X-Origin: https://good.example", None),
    ("underscore for hyphen", b"X_Origin: https://good.example", None),
    ("VT 0x0B", b"X-A: foo\x0bOrigin: https://good.example", 400),
    ("FF 0x0C", b"X-A: foo\x0cOrigin: https://good.example", 400),
    ("FS 0x1C", b"X-A: foo\x1cOrigin: https://good.example", 400),
    ("GS 0x1D", b"X-A: foo\x1dOrigin: https://good.example", 400),
    ("RS 0x1E", b"X-A: foo\x1eOrigin: https://good.example", 400),
    ("US 0x1F", b"X-A: foo\x1fOrigin: https://good.example", 400),
    ("BS 0x08", b"X-A: foo\x08Origin: https://good.example", 400),
    ("ESC 0x1B", b"X-A: foo\x1bOrigin: https://good.example", 400),
    ("DEL 0x7F", b"X-A: foo\x7fOrigin: https://good.example", 400),
    ("NUL", b"X-A: foo\x00Origin: https://good.example", 400),
    ("NUL in a name", b"X\x00-A: foo", 400),
    ("NUL before a name", b"\x00Origin: https://good.example", 400),
    ("bare LF", b"X-A: foo\nOrigin: https://good.example", 400),
    ("bare CR", b"X-A: foo\rOrigin: https://good.example", 400),
    ("LF CR", b"X-A: foo\n\rOrigin: https://good.example", 400),
    ("CR CR LF", b"X-A: foo\r\r\nOrigin: https://good.example", 400),
    ("CR LF LF", b"X-A: foo\r\n\nOrigin: https://good.example", 400),
    ("CR NUL LF", b"X-A: foo\r\x00\nOrigin: https://good.example", 400),
    ("CR SP LF", b"X-A: foo\r \nOrigin: https://good.example", 400),
    ("CR at the end of a value", b"X-A: foo\r", 400),
    ("LF at the start", b"\nOrigin: https://good.example", 400),
    ("space before the colon", b"Origin : https://good.example", 400),
    ("HTAB before the colon", b"Origin\t: https://good.example", 400),
    ("space before the name", b" Origin: https://good.example", 400),
    ("HTAB before the name", b"\tOrigin: https://good.example", 400),
    ("folding with a space", b"X-A: foo\r\n Origin: https://good.example", 400),
    ("folding with HTAB", b"X-A: foo\r\n\tOrigin: https://good.example", 400),
    ("folding with an empty line", b"X-A: foo\r\n \r\nOrigin: https://good.example", 400),
    ("no colon", b"Origin https://good.example"[:6], 400),
    ("no colon right after the name", b"Origin https://good.example", 400),
    ("empty name", b": https://good.example", 400),
    ("only a colon", b":", 400),
    ("quoted name", b'"Origin": https://good.example', 400),
    ("comma in a name", b"Origin,X: https://good.example", 400),
    ("slash in a name", b"Origin/x: https://good.example", 400),
    ("0x85 before the name", b"\x85Origin: https://good.example", 400),
    ("0x85 after the name", b"Origin\x85: https://good.example", 400),
    ("no-break space after the name", b"Origin\xa0: https://good.example", 400),
    ("byte order mark", b"\xef\xbb\xbfOrigin: https://good.example", 400),
    ("full-width colon", b"Origin\xef\xbc\x9a https://good.example", 400),
    ("letter of another alphabet", b"\xce\x9frigin: https://good.example", 400),
]


@pytest.mark.parametrize(("vector", "status"), [row[1:] for row in FORGERIES], ids=[row[0] for row in FORGERIES])
def test_no_header_can_be_forged(vector: bytes, status: int | None) -> None:
    """Nothing but CRLF ends a field: each vector is refused, or is data of the one field that was sent."""
    for lines in ([vector], [vector, b"X-B: 1"], [b"X-B: 1", vector]):
        if status is not None:
            assert refusal(get(*lines)).status == status
            continue
        request = parse(get(*lines))
        assert request.origin is None
        name, _, value = vector.partition(b": ")
        assert dict(request.headers)[name.lower()] == value
        assert len(request.headers) == 1 + len(lines)


SMUGGLING: list[tuple[str, list[bytes], int | None]] = [
    ("two Hosts", [b"Host: evil.example"], 400),
    ("the same Host twice", [b"HOST: example.com"], 400),
    ("CL and TE", [b"Content-Length: 5", b"Transfer-Encoding: chunked"], 400),
    ("TE and CL", [b"Transfer-Encoding: chunked", b"Content-Length: 0"], 400),
    ("two lengths", [b"Content-Length: 5", b"Content-Length: 6"], 400),
    ("one length twice", [b"Content-Length: 5", b"Content-Length: 5"], 400),
    ("list of lengths", [b"Content-Length: 5, 5"], 400),
    ("length with a sign", [b"Content-Length: +5"], 400),
    ("negative length", [b"Content-Length: -5"], 400),
    ("empty length", [b"Content-Length:"], 400),
    ("hexadecimal length", [b"Content-Length: 0x5"], 400),
    ("length with an underscore", [b"Content-Length: 1_0"], 400),
    ("length with a space", [b"Content-Length: 1 0"], 400),
    ("length with a fraction", [b"Content-Length: 5.0"], 400),
    ("length in other digits", [b"Content-Length: \xd9\xa5"], 400),
    ("length with superscript", [b"Content-Length: \xb2"], 400),
    ("length beyond 64 bits", [b"Content-Length: 18446744073709551621"], 400),
    ("length before 0x85", [b"Content-Length: 5\x85"], 400),
    ("TE identity", [b"Transfer-Encoding: identity"], 400),
    ("TE list", [b"Transfer-Encoding: gzip, chunked"], 400),
    ("TE twice in one", [b"Transfer-Encoding: chunked, chunked"], 400),
    ("TE twice", [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], 400),
    ("TE and another", [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"], 400),
    ("TE misspelt", [b"Transfer-Encoding: xchunked"], 400),
    ("TE before 0x85", [b"Transfer-Encoding: chunked\x85"], 400),
    ("TE before VT", [b"Transfer-Encoding: \x0bchunked"], 400),
    ("TE quoted", [b'Transfer-Encoding: "chunked"'], 400),
    ("TE with a parameter", [b"Transfer-Encoding: chunked;a=b"], 400),
    ("TE empty", [b"Transfer-Encoding:"], 400),
    ("TE with a space before the colon", [b"Transfer-Encoding : chunked"], 400),
    ("TE folded", [b"Transfer-Encoding:", b" chunked"], 400),
    ("TE after bare LF", [b"X: a\nTransfer-Encoding: chunked"], 400),
    ("a length", [b"Content-Length: 5"], None),
    ("no length", [b"Content-Length: 0"], None),
    ("chunked", [b"Transfer-Encoding: Chunked"], None),
    ("fields that may be repeated", [b"Cookie: a", b"Cookie: b", b"Content-Length: 1"], None),
]


@pytest.mark.parametrize(("lines", "status"), [row[1:] for row in SMUGGLING], ids=[row[0] for row in SMUGGLING])
def test_no_request_can_be_smuggled(lines: list[bytes], status: int | None) -> None:
    """What decides where a request goes and ends is said once and clearly, or the request is refused."""
    data = get(*lines, start=b"POST / HTTP/1.1")
    if status is None:
        assert parse(data).method == "POST"
    else:
        assert refusal(data).status == status


def test_no_transfer_encoding_in_http_1_0() -> None:
    """An HTTP/1.0 request with Transfer-Encoding has faulty framing (RFC 9112 section 6.1)."""
    assert refusal(get(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0")).status == 400


@pytest.mark.parametrize(
    "host",
    [
        b"example.com", b"EXAMPLE.com", b"example.com:8000", b"example.com:", b"example.com.", b"127.0.0.1",
        b"127.0.0.1:65535", b"[::1]", b"[::1]:80", b"[2001:DB8::192.0.2.1]", b"my_service",
        b"xn--bcher-kva.example", b"b%C3%BCcher.example", b"a!b",
        b"\t example.com \t",
    ],
)  # fmt: skip
def test_valid_hosts(host: bytes) -> None:
    """A Host is a name or an address, with or without a port (RFC 3986 section 3.2)."""
    assert parse(get(host=b"Host:" + host)).host == host.decode().strip("\t ")


@pytest.mark.parametrize(
    "host",
    [
        b"", b" ", b":80", b"example.com:80:80", b"example.com:x", b"example.com:65536",
        b"example.com:999999", b"user@example.com", b"example.com/", b"example.com?x", b"example.com#x",
        b"example.com evil.example", b"example.com, evil.example", b"http://example.com", b"[::1", b"::1",
        b"[]", b"[:::1]", b"[::1]x", b"[::1%25eth0]", b"[v1.x]", b"[1.2.3.4]", b"b\xfccher", b"a%zz",
        b"a%4", b"example.com\x85", b"a\\b", b'"a"', b"<a>", b"example.com:-1", b"example.com:+80",
        b"[[::1]]",
    ],
)  # fmt: skip
def test_invalid_hosts(host: bytes) -> None:
    """A Host that is none is refused (RFC 9112 section 3.2)."""
    assert refusal(get(host=b"Host: " + host)).status == 400


def test_http_1_1_needs_a_host() -> None:
    """HTTP/1.1 without Host is refused (RFC 9112 section 3.2)."""
    assert refusal(get(host=b"")).status == 400


def test_tls_on_a_plain_port_is_told_apart() -> None:
    """A TLS client gets a text that says what is wrong, as soon as its first byte is there."""
    for hello in (b"\x16\x03\x01\x02\x00\x01", b"\x16"):
        error = refusal(hello)
        assert error.status == 400
        assert "TLS" in error.text
    assert "TLS" not in refusal(b"G\x16\x03").text


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\n",
        b"GET /\r ",
        b"GET / HTTP/1.1\r\nX: \x00",
        b"\n",
        b"\r\r",
        b"\x80\x46\x01\x03\x01\x00",
    ],
)
def test_faults_are_seen_before_the_end(data: bytes) -> None:
    """A byte that no head may hold is refused when it comes: no peer is kept waiting for its deadline."""
    assert refusal(data).status == 400


# --- bounds ----------------------------------------------------------------------------------------------


def test_the_head_is_bounded() -> None:
    """A head of exactly the largest size passes, with a byte more it is a 431, as soon as that can be known."""
    data = get(b"X: " + b"a" * 100)
    assert parse(data, max_size=len(data))
    assert refusal(data, max_size=len(data) - 1).status == 431
    assert refusal(data[: len(data) - 1], max_size=len(data) - 1).status == 431
    assert HeadParser(len(data), 100).feed(data[:-1]) is None


def test_a_long_request_line_is_named() -> None:
    """Where the request line alone is over the size, it is a 414, also after an empty line."""
    data = b"GET /" + b"a" * 16384
    assert refusal(data).status == 414
    assert refusal(b"\r\n" + data).status == 414
    assert refusal(data[:16384]).status == 414
    assert refusal(b"GET / HTTP/1.1\r\n" + data).status == 431


def test_what_lies_behind_the_largest_size_is_not_looked_at() -> None:
    """The answer to an oversized head does not depend on what was received beyond the size."""
    data = get()
    padding = b"GET / HTTP/1.1\r\nX: " + b"a" * 45
    assert len(padding) == 64
    for behind in (b"", b"\x00", b"\r\n\r\n", b"\n", data):
        assert refusal(padding + behind, max_size=64).status == 431
    assert refusal(padding[:-1] + b"\r" + b"x", max_size=64).status == 431


def test_fields_are_counted() -> None:
    """The largest number of fields passes, with one more it is a 431."""
    assert len(parse(get(*[b"X: a"] * 99)).headers) == 100
    assert refusal(get(*[b"X: a"] * 100)).status == 431
    assert refusal(get(*[b"a:"] * 3000)).status == 431


class Counting(bytearray):
    """A buffer that counts the bytes which are looked at."""

    work = 0

    def find(self, sub: object, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /) -> int:
        first, last = int(start or 0), len(self) if end is None else min(int(end), len(self))
        self.work += max(0, last - first)
        return super().find(sub, start, end)  # type: ignore[arg-type]

    def __getitem__(self, index: object) -> object:  # type: ignore[override]
        found = super().__getitem__(index)  # type: ignore[call-overload]
        self.work += len(found) if isinstance(found, bytearray) else 1
        return found


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 1000, 16384])
@pytest.mark.parametrize("unit", [b"a", b"a: b\r\n", b"\r\n", b"a\r", b" "])
def test_work_is_linear(size: int, unit: bytes) -> None:
    """However a head is cut, each byte is looked at a bounded number of times: no read starts over."""
    data = (b"GET / HTTP/1.1\r\nX: " + unit * 16384)[:16384]
    parser = HeadParser(16384, 100)
    buffer = parser._buffer = Counting()
    reads = 0
    try:
        for start in range(0, len(data), size):
            reads += 1
            parser.feed(data[start : start + size])
    except BadRequest:
        pass
    assert buffer.work <= 3 * len(data) + 10 * reads


# --- properties ------------------------------------------------------------------------------------------

pieces = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n", b"POST /a?b HTTP/1.0\r\n", b"GET / HTTP/2.0\r\n", b"Host: a\r\n",
        b"Host: b\r\n", b"\r\n", b"\r\n\r\n", b"\r", b"\n", b"\r\r\n", b"X: y\r\n", b"X : y\r\n",
        b" folded\r\n", b"\x85", b"\x16", b"\x16\x03\x01", b"\x00", b"a", b"a" * 40, b":",
        b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"Upgrade: websocket\r\n",
        b"Connection: upgrade\r\n",
    ]
)  # fmt: skip
heads = st.one_of(
    st.lists(pieces, max_size=12).map(b"".join),
    st.lists(pieces, max_size=8).map(lambda parts: b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(parts) + b"\r\n\r\n"),
    st.binary(max_size=100),
)


@given(
    heads,
    st.lists(st.integers(0, 200)),
    st.sampled_from([16, 32, 64, 128, 16384]),
    st.sampled_from([1, 3, 100]),
)
@example(b"GET / HTTP/1.1\r\n" + b"\r\n\x00", [17], 128, 3)
@example(b"GET / HTTP/1.1\r\r\n", [16], 16, 3)
@settings(max_examples=300)
def test_chunking_does_not_matter(data: bytes, cuts: list[int], max_size: int, max_headers: int) -> None:
    """The same bytes give the same request and remainder, or the same refusal, whole, byte by byte and cut anywhere."""
    whole = outcome([data], max_size, max_headers)
    places = [0, *sorted(cuts), len(data)]
    assert whole == outcome([data[a:b] for a, b in zip(places, places[1:])], max_size, max_headers)  # noqa: B905, RUF007
    assert whole == outcome([bytes([byte]) for byte in data], max_size, max_headers)


@given(heads)
def test_only_bad_request_is_raised(data: bytes) -> None:
    """Whatever bytes come, the outcome is a request, an upgrade or a BadRequest in plain words."""
    try:
        request = HeadParser(16384, 100).feed(data)
        if request is not None:
            wants_upgrade(request)
            check_upgrade(request)
    except BadRequest as error:
        refused = error
    else:
        return
    assert isinstance(refused, TwistedWSError)
    assert refused.status in {400, 405, 414, 426, 431, 505}
    assert refused.text.isascii()
    assert refused.text.isprintable()
    assert response(refused.status, refused.headers, refused.text)


field_names = st.text(TOKEN, min_size=1, max_size=20).filter(
    lambda name: name.lower() not in {"host", "content-length", "transfer-encoding"}
)
values = st.binary(max_size=30).map(lambda value: bytes(byte for byte in value if byte == 9 or (byte >= 32 and byte != 127)).strip(b" \t"))
spaces = st.text(" \t", max_size=3).map(str.encode)


@given(
    st.text(TOKEN, min_size=1, max_size=10),
    st.text(min_size=0, max_size=20).filter(lambda text: "\0" not in text),
    st.lists(st.tuples(field_names, spaces, values, spaces), max_size=20),
)
def test_valid_heads_come_back(method: str, path: str, fields: list[tuple[str, bytes, bytes, bytes]]) -> None:
    """Any head that keeps the rules is read as what it was made of."""
    raw_path = b"/" + b"".join(b"%%%02X" % byte for byte in path.encode("utf-8", "replace"))
    lines = [name.encode() + b":" + before + value + after for name, before, value, after in fields]
    request = parse(get(*lines, start=method.encode() + b" " + raw_path + b"?q HTTP/1.1"))
    assert (request.method, request.raw_path, request.query_string) == (method, raw_path, b"q")
    assert request.path == "/" + path.encode("utf-8", "replace").decode()
    assert request.headers[1:] == tuple((name.lower().encode(), value) for name, _, value, _ in fields)
    for name, _, value, _ in fields:
        assert value.decode("latin-1") in request.all(name)


# --- the handshake ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (b"websocket", True), (b"WebSocket", True), (b"h2c, websocket", True), (b"h2c,WEBSOCKET , x", True),
        (b"", False), (b"h2c", False), (b"websocket\x85", False), (b"\xa0websocket", False),
        (b"websockets", False), (b"web socket", False),
        (b"websocket/13", False), (b"TLS/1.0, h2c", False),
    ],
)  # fmt: skip
def test_who_wants_an_upgrade(value: bytes, wanted: bool) -> None:
    """The token websocket among those of Upgrade makes a request a handshake, in any case, and nothing else does."""
    request = handshake(Upgrade=value)
    assert wants_upgrade(request) is wanted
    assert wants_upgrade(handshake(b"Upgrade: websocket", Upgrade=value))
    if not wanted:
        assert upgrade_refusal(request).status == 426


def test_plain_requests_want_none() -> None:
    """A request without Upgrade is plain HTTP; taken for a handshake, it is told what is spoken here."""
    request = parse(get())
    assert not wants_upgrade(request)
    error = upgrade_refusal(request)
    assert (error.status, dict(error.headers)["Upgrade"]) == (426, "websocket")


@pytest.mark.parametrize(
    "request_",
    [
        handshake(Connection=b"keep-alive, Upgrade"),
        handshake(Connection=b"UPGRADE"),
        handshake(b"Connection: upgrade", Connection=b"keep-alive"),
        handshake(b"Content-Length: 0"),
        handshake(b"Content-Length: 00"),
        handshake(start=b"GET http://example.com/ HTTP/1.1"),
        handshake(start=b"GET / HTTP/1.2"),
    ],
)
def test_valid_handshakes(request_: Request) -> None:
    """What real clients and proxies send is accepted."""
    assert check_upgrade(request_) == Upgrade(KEY, (), "", None)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (handshake(start=b"POST / HTTP/1.1"), 405),
        (handshake(start=b"get / HTTP/1.1"), 405),
        (handshake(start=b"HEAD / HTTP/1.1"), 405),
        (handshake(start=b"GET / HTTP/1.0"), 400),
        (handshake(without="Connection"), 400),
        (handshake(Connection=b"keep-alive"), 400),
        (handshake(Connection=b"close"), 400),
        (handshake(Connection=b"upgrade\x85"), 400),
        (handshake(Connection=b"upgraded"), 400),
        (handshake(b"Content-Length: 1"), 400),
        (handshake(b"Content-Length: 10"), 400),
        (handshake(b"Transfer-Encoding: chunked"), 400),
        (handshake(b"Origin: https://a.example", b"Origin: https://b.example"), 400),
        (handshake(b"Origin: https://a.example", b"Origin: https://a.example"), 400),
        (handshake(without="Sec-WebSocket-Key"), 400),
        (handshake(b"Sec-WebSocket-Key: " + KEY), 400),
        (handshake(b"Sec-WebSocket-Version: 13"), 400),
        (handshake(b"Sec-WebSocket-Version: 8"), 400),
        (handshake(without="Sec-WebSocket-Version"), 426),
        (handshake(Sec_WebSocket_Version=b"8"), 426),
        (handshake(Sec_WebSocket_Version=b""), 426),
        (handshake(Sec_WebSocket_Version=b"013"), 426),
        (handshake(Sec_WebSocket_Version=b"13, 8"), 426),
        (handshake(Sec_WebSocket_Version=b"13\x85"), 426),
        (handshake(Sec_WebSocket_Version=b"\xb9\xb3"), 426),
    ],
)
def test_invalid_handshakes(request_: Request, status: int) -> None:
    """Each rule of RFC 6455 section 4.2.1 is held; another version gets a 426 that names ours (section 4.4)."""
    error = upgrade_refusal(request_)
    assert error.status == status
    assert dict(error.headers).get("Sec-WebSocket-Version") == ("13" if status == 426 else None)
    assert dict(error.headers).get("Allow") == ("GET" if status == 405 else None)


@pytest.mark.parametrize(
    "key",
    [
        b"", b"x", KEY[:-1], KEY + b"=", KEY + b"A", KEY.rstrip(b"="), b" ".join([KEY[:10], KEY[10:]]),
        base64.b64encode(b"a" * 15), base64.b64encode(b"a" * 17), base64.b64encode(b"a" * 18),
        b"dGhlIHNhbXBsZSBub25jZR==", b"-_hlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25j\xe9Q==",
        KEY + b", " + KEY, KEY + b"\x85", b'"' + KEY + b'"',
    ],
)  # fmt: skip
def test_invalid_keys(key: bytes) -> None:
    """A key that is not exactly 16 bytes in canonical base64 is refused (RFC 6455 section 4.2.1, item 5)."""
    assert upgrade_refusal(handshake(Sec_WebSocket_Key=key)).status == 400


@given(st.binary(max_size=20))
def test_keys_are_16_bytes(nonce: bytes) -> None:
    """The key of any 16 bytes is accepted, and that of any other number is not."""
    request = handshake(Sec_WebSocket_Key=base64.b64encode(nonce))
    if len(nonce) == 16:
        assert base64.b64decode(check_upgrade(request).key) == nonce
    else:
        assert upgrade_refusal(request).status == 400


def test_origin_is_data() -> None:
    """The one Origin is handed on as it was sent."""
    assert check_upgrade(handshake(b"Origin: https://a\x85b")).origin == "https://a\x85b"
    assert check_upgrade(handshake(b"Origin:")).origin == ""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([b"chat"], ("chat",)),
        ([b"chat, superchat"], ("chat", "superchat")),
        ([b"b,a", b"c\t,\td"], ("b", "a", "c", "d")),
        ([b"chat,,x,"], ("chat", "x")),
        ([b"", b"chat"], ("chat",)),
        ([b"chat, Chat"], ("chat", "Chat")),
        ([b"v1.json+x~y"], ("v1.json+x~y",)),
        ([b""], None),
        ([b","], None),
        ([b"chat, chat"], None),
        ([b"chat", b"chat"], None),
        ([b"a b"], None),
        ([b"a/b"], None),
        ([b'"a"'], None),
        ([b"caf\xe9"], None),
        ([b"chat\x85"], None),
        ([b"a;b"], None),
        ([b"a=b"], None),
    ],
)
def test_subprotocols(lines: list[bytes], expected: tuple[str, ...] | None) -> None:
    """Subprotocols are different tokens on one or more lines, in the client's order."""
    request = handshake(*[b"Sec-WebSocket-Protocol: " + line for line in lines])
    if expected is None:
        assert upgrade_refusal(request).status == 400
    else:
        assert check_upgrade(request).subprotocols == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([b"permessage-deflate"], "permessage-deflate"),
        ([b"permessage-deflate; client_max_window_bits"], "permessage-deflate; client_max_window_bits"),
        ([b"a;b=c;d , e"], "a;b=c;d , e"),
        ([b"a", b"b; c"], "a, b; c"),
        ([b"", b"a"], ", a"),
        ([b"a,,b,"], "a,,b,"),
        ([b'a; b="10"'], 'a; b="10"'),
        ([b'a; b="1\\0"'], 'a; b="1\\0"'),
        ([b"a ; b = c\t;\td"], "a ; b = c\t;\td"),
        ([b""], None),
        ([b","], None),
        ([b", ,"], None),
        ([b";"], None),
        ([b"a;"], None),
        ([b"a;;b"], None),
        ([b"a;b="], None),
        ([b"a;=b"], None),
        ([b"a=b"], None),
        ([b"a b"], None),
        ([b"a;b c"], None),
        ([b"a;b=c d"], None),
        ([b"a;b=c=d"], None),
        ([b'a;b=""'], None),
        ([b'a;b="c'], None),
        ([b'a;b=c"'], None),
        ([b'a;b="c"d'], None),
        ([b'a;b="c d"'], None),
        ([b'a;b="c,d"'], None),
        ([b'a;b="c;d"'], None),
        ([b'a;b="\\"'], None),
        ([b'a;b="\\\\"'], None),
        ([b'a;b="\\\\\\c"'], None),
        ([b'"a"'], None),
        ([b'a;"b"'], None),
        ([b"a/b"], None),
        ([b"a\x85"], None),
        ([b"a;b=\xe9"], None),
        ([b"a", b"b;"], None),
    ],
)
def test_extensions(lines: list[bytes], expected: str | None) -> None:
    """Extensions keep the syntax of RFC 6455 section 9.1, and several lines become one value."""
    request = handshake(*[b"Sec-WebSocket-Extensions: " + line for line in lines])
    if expected is None:
        assert upgrade_refusal(request).status == 400
    else:
        assert check_upgrade(request).extensions == expected


@pytest.mark.parametrize(
    "value",
    [
        b"a" + b";a" * 7000 + b"!@", b"a" + b",a" * 7000 + b"@", b"a" + b"," * 14000 + b"@",
        b"a" + b" ," * 7000 + b"@", b"a;b" + b" " * 14000 + b"@", b"a;b=" + b" \t" * 7000 + b"@",
        b'a;b="' + b"c" * 14000, b'a;b="' + b"\\c" * 7000, b"a" * 14000 + b"@",
        b"a;b=" + b"c" * 14000 + b"@", b"a" + b' ; b = "\\c"' * 1000 + b"@",
    ],
    ids=range(11),
)  # fmt: skip
def test_hostile_extensions(value: bytes) -> None:
    """Values made to send a pattern backtracking are refused; were that exponential, this test would not end."""
    assert upgrade_refusal(handshake(b"Sec-WebSocket-Extensions: " + value)).status == 400


@given(st.lists(st.sampled_from([b"a", b";", b",", b"=", b'"', b"\\", b" ", b"\t", b"\xe9"]), max_size=12).map(b"".join))
def test_extensions_agree_with_the_grammar(value: bytes) -> None:
    """What is accepted is what a plain reading of the grammar accepts, piece by piece."""

    def parameter(text: str) -> bool:
        name, equals, content = (part.strip(" \t") for part in text.partition("="))
        if len(content) > 2 and content[0] == content[-1] == '"':
            content = content[1:-1].replace("\\a", "a")
        return set(name) == {"a"} and (not equals or set(content) == {"a"})

    offers = [offer.split(";") for offer in value.decode("latin-1").split(",") if offer.strip(" \t")]
    valid = bool(offers) and all(set(name.strip(" \t")) == {"a"} and all(map(parameter, parameters)) for name, *parameters in offers)
    request = handshake(b"Sec-WebSocket-Extensions: " + value)
    if valid:
        assert check_upgrade(request).extensions == value.decode().strip(" \t")
    else:
        assert upgrade_refusal(request).status == 400


def test_the_client_prefers() -> None:
    """Of the subprotocols that both speak, the first of the client is chosen."""
    assert choose_subprotocol(["b", "a"], ["a", "b"]) == "b"
    assert choose_subprotocol(["c", "a"], ["a", "b"]) == "a"
    assert choose_subprotocol(["A"], ["a"]) is None
    assert choose_subprotocol([], ["a"]) is None
    assert choose_subprotocol(["a"], []) is None


# --- answers ---------------------------------------------------------------------------------------------

BAD_HEADERS = [
    ("", "x"), ("X A", "x"), ("X:", "x"), ("X\r\nY", "x"), ("X\u00e9", "x"), ("X\n", "x"), (" X", "x"), ("X-A", "a\r\nb: c"),
    ("X-A", "a\n"), ("X-A", "a\rb"), ("X-A", "a\x00b"), ("X-A", "a\x0bb"), ("X-A", "a\x7f"), ("X-A", "\u2028"), ("X-A", "\u010a"),
    ("Content-Length", "5"), ("content-length", "5"), ("Connection", "keep-alive"), ("TRANSFER-ENCODING", "chunked"),
]  # fmt: skip


def test_the_key_is_answered() -> None:
    """The example of RFC 6455 section 1.3 gives the answer that stands there."""
    assert accept_key(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_accept_key_is_the_rfcs() -> None:
    """The answer is the base64 of the SHA-1 of key and GUID."""
    expected = hashlib.sha1(b"x" * 24 + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    assert base64.b64decode(accept_key(b"x" * 24)) == expected


def test_switching_protocols() -> None:
    """The answer to a handshake holds what RFC 6455 section 4.2.2 asks for, and no more."""
    assert switching_protocols(Upgrade(KEY, (), "", None), None, "", ()) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


def test_switching_protocols_with_all() -> None:
    """Subprotocol, extensions and further headers are sent where there are any."""
    upgrade = Upgrade(KEY, ("chat", "x"), "permessage-deflate", None)
    answer = switching_protocols(upgrade, "x", "permessage-deflate", [("Set-Cookie", "a=\xe9"), ("set-cookie", "b=\t")])
    assert answer.endswith(
        b"\r\nSec-WebSocket-Protocol: x\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSet-Cookie: a=\xe9\r\nset-cookie: b=\t\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *BAD_HEADERS, ("Upgrade", "h2c"), ("Sec-WebSocket-Accept", "x"), ("sec-websocket-protocol", "x"),
        ("Sec-WebSocket-Extensions", "x"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "x"),
    ],
)  # fmt: skip
def test_switching_protocols_refuses_headers(name: str, value: str) -> None:
    """No application can break the answer, or say what the handshake says itself."""
    with pytest.raises(ValueError, match="header"):
        switching_protocols(Upgrade(KEY, (), "", None), None, "", [(name, value)])


def test_switching_protocols_refuses_other_subprotocols() -> None:
    """A subprotocol that was not asked for is refused: the client would fail the connection."""
    with pytest.raises(ValueError, match=r"'y'.*did not ask"):
        switching_protocols(Upgrade(KEY, ("x",), "", None), "y", "", ())
    with pytest.raises(ValueError, match="did not ask"):
        switching_protocols(Upgrade(KEY, (), "", None), "", "", ())


def test_switching_protocols_refuses_broken_extensions() -> None:
    """What the negotiation says cannot break the answer either."""
    with pytest.raises(ValueError, match="Sec-WebSocket-Extensions"):
        switching_protocols(Upgrade(KEY, (), "", None), None, "a\r\nX: y", ())


def test_response() -> None:
    """A response is complete and ends the connection."""
    assert response(426, [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")], "no\u00ebl") == (
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\nX-Content-Type-Options: nosniff\r\n"
        b"Connection: close, Upgrade\r\n\r\nno\xc3\xabl"
    )
    assert response(403, (), b"") == (
        b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 0\r\n"
        b"X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )


def test_response_keeps_what_is_given() -> None:
    """Headers that are only defaults are sent once, as given, also from an iterator."""
    pairs = iter([("content-type", "text/html"), ("x-content-type-options", "nosniff"), ("X-A", "b")])
    assert response(200, pairs, b"<p>") == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nx-content-type-options: nosniff\r\nX-A: b\r\n"
        b"Content-Length: 3\r\nConnection: close\r\n\r\n<p>"
    )


def test_response_to_head() -> None:
    """The answer to HEAD says how long the body would be, and has none."""
    answer = response(200, (), b"body", head_only=True)
    assert b"\r\nContent-Length: 4\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
def test_responses_without_body(status: int) -> None:
    """204 and 304 have neither a body nor what describes one."""
    answer = response(status, [("X-A", "b")], b"body")
    assert answer.endswith(b"X-A: b\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n")
    assert b"Content-" not in answer.replace(b"X-Content-Type-Options", b"")


def test_unknown_status() -> None:
    """A status without a standard phrase is sent with an empty one (RFC 9112 section 4)."""
    assert response(499, (), b"").startswith(b"HTTP/1.1 499 \r\n")


@pytest.mark.parametrize("status", [-1, 0, 100, 101, 199, 600, 1000])
def test_wrong_status(status: int) -> None:
    """Only final statuses can be sent."""
    with pytest.raises(ValueError, match=f"status {status}"):
        response(status, (), b"")


@pytest.mark.parametrize(("name", "value"), BAD_HEADERS)
def test_response_refuses_headers(name: str, value: str) -> None:
    """No application can split a response or contradict its framing; the value, perhaps a secret, is not repeated."""
    with pytest.raises(ValueError, match="header") as caught:
        response(200, [("X-B", "ok"), (name, value)], b"")
    assert value in ("x", "5") or value not in str(caught.value)
