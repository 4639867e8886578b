"""The opening handshake as bytes: the only parser that decides on one, and the answers to it.

Floor 1: sans-I/O. Bytes go in, values or ``BadRequest`` come out; nothing here knows a transport, a clock
or Autobahn. Its laws:

- A head is split at CRLF and nowhere else (RFC 9112 section 2.2 lets a recipient split at a bare LF; that is
  how headers are forged). So no ``splitlines()``, and ``strip()`` and ``split()`` always say at what: on text
  their default also means 0x85.
- Every byte is looked at a bounded number of times, and the outcome does not depend on how the bytes are cut.
- The peer is told which rule it broke, never what we hold inside, and never its own bytes.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import unquote_to_bytes

import msgspec

try:
    from _sha1 import sha1  # type: ignore[import-not-found]  # the interpreter's own: OpenSSL's, which hashlib gives, takes 2 us to set up
except ImportError:  # an interpreter that was built without it
    from hashlib import sha1

from twistedws.errors import TwistedWSError

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_VERSION = "13"
_TLS_HANDSHAKE = 0x16  # the first byte of a TLS record that begins a connection (RFC 8446 section 5.1)

_TCHAR = r"!#$%&'*+\-.^_`|~0-9A-Za-z"  # RFC 9110 section 5.6.2
_TOKEN = rf"[{_TCHAR}]+"

# None of these takes more than linear time: after a repetition, the next character is none that it could take,
# so that to give characters back fails at once.
_token = re.compile(_TOKEN.encode()).fullmatch
# RFC 9112 section 3; section 2.2 asks that one empty line before it be ignored
_request_line = re.compile(rb"(?:\r\n)?(%b) ([!-\"$-~]+) HTTP/([0-9])\.([0-9])\r\n" % _TOKEN.encode()).match
_fields = re.compile(rb"^(%b):([^\r]*)\r\n" % _TOKEN.encode(), re.MULTILINE).findall  # RFC 9112 section 5
_absolute_form = re.compile(rb"(?i:(http|ws)(s?)://)([^/?]*)(.*)").fullmatch  # RFC 9112 section 3.2.2
# RFC 3986 section 3.2, with no user information
_REG_NAME = r"[\w\-.~!$&'()*+,;=]*(?:%[0-9A-Fa-f]{2}[\w\-.~!$&'()*+,;=]*)*"
_authority = re.compile(rf"(?:\[([0-9A-Fa-f:.]+)\]|({_REG_NAME}))(?::([0-9]{{0,5}}))?".encode()).fullmatch
_bad_escape = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
_content_length = re.compile(rb"[0-9]{1,18}").fullmatch
# 16 bytes in 22 characters, of which the last four bits must be zero to be canonical
_key = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==").fullmatch
# RFC 6455 section 9.1; a quoted string must hold a token once its backslashes are gone
_PARAMETER = rf'{_TOKEN}(?:[ \t]*=[ \t]*(?:{_TOKEN}|"(?:\\?[{_TCHAR}])+"))?'
_EXTENSION = rf"{_TOKEN}(?:[ \t]*;[ \t]*{_PARAMETER})*"
_extensions = re.compile(rf"[ \t,]*{_EXTENSION}(?:[ \t]*,[ \t,]*{_EXTENSION})*[ \t,]*".encode()).fullmatch
_name_to_send = re.compile(_TOKEN).fullmatch
_value_to_send = re.compile(r"[\t -~\x80-\xff]*").fullmatch  # RFC 9110 section 5.5

_HEAD_BYTES = bytes(byte for byte in range(256) if byte in b"\t\r\n" or 0x20 <= byte != 0x7F)
_VALUE_BYTES = bytes(byte for byte in _HEAD_BYTES if byte not in b"\r\n")
_OWS = b" \t"

# Sessions keep their requests, so names that most of them share exist once. A lookup costs what lower() does.
_NAMES = {
    spelling: name.lower()
    for name in (
        b"Host", b"Connection", b"Upgrade", b"Origin", b"User-Agent", b"Cookie", b"Pragma", b"Cache-Control",
        b"Accept", b"Accept-Encoding", b"Accept-Language", b"Authorization", b"DNT", b"Sec-Fetch-Dest",
        b"Sec-Fetch-Mode", b"Sec-Fetch-Site", b"Sec-GPC", b"Sec-WebSocket-Extensions", b"Sec-WebSocket-Key",
        b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Version", b"Forwarded", b"X-Forwarded-For",
        b"X-Forwarded-Host", b"X-Forwarded-Port", b"X-Forwarded-Proto", b"X-Real-IP", b"X-Request-ID",
    )
    for spelling in (name, name.lower())
}  # fmt: skip
_SINGLE = (b"host", b"content-length", b"transfer-encoding")

_101 = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_OWNED = frozenset({"connection", "content-length", "transfer-encoding"})
_OWNED_BY_101 = _OWNED | {
    "upgrade", "sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-key",
    "sec-websocket-protocol", "sec-websocket-version",
}  # fmt: skip


class BadRequest(TwistedWSError):  # noqa: N818 - the field's word for it
    """A request that is answered with an error, after which the connection is closed.

    Attributes:
        status: The HTTP status, 400 to 505.
        headers: Pairs that the answer must hold.
        text: One line for the peer: which rule it broke.
    """

    def __init__(self, status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.status, self.headers, self.text = status, headers, text
        super().__init__(f"{status}: {text}")


class Request(msgspec.Struct, frozen=True, gc=False):  # made in a sixth of a frozen dataclass's time, and smaller
    """A request head (RFC 9112 section 3 and 5).

    Attributes:
        method: As sent; case matters.
        target: The request target as sent, all visible ASCII.
        raw_path: The path as sent, percent-encoded, without the query.
        path: The path, percent-decoded.
        query_string: What follows the first ``?``, as sent.
        version: "1.1" or "1.0".
        headers: Pairs of name (lower case) and value (without the white space around it), in the order sent.
    """

    method: str
    target: str
    raw_path: bytes
    path: str
    query_string: bytes
    version: str
    headers: tuple[tuple[bytes, bytes], ...]

    def all(self, name: str) -> tuple[str, ...]:
        """Return the values of every field of this name (in any case), in order, decoded as Latin-1."""
        key = name.lower().encode()
        return tuple([value.decode("latin-1") for field, value in self.headers if field == key])

    def header(self, name: str) -> str | None:
        """Return a field's value, None where there is none; several are joined (RFC 9110 section 5.3)."""
        values = self.all(name)
        return ", ".join(values) if values else None

    @property
    def host(self) -> str:
        """The Host field; "" where an HTTP/1.0 request has none."""
        return self.header("host") or ""

    @property
    def origin(self) -> str | None:
        """The Origin field (RFC 6454 section 7); None where there is none: most clients but browsers."""
        return self.header("origin")


class Upgrade(msgspec.Struct, frozen=True, gc=False):
    """What a valid opening handshake asks for (RFC 6455 section 4.2.1).

    Attributes:
        key: Sec-WebSocket-Key as sent.
        subprotocols: Those that the client speaks, the one it likes best first.
        extensions: Sec-WebSocket-Extensions, several fields joined, of valid syntax; "" where there is none.
        origin: The Origin field, None where there is none.
    """

    key: bytes
    subprotocols: tuple[str, ...]
    extensions: str
    origin: str | None


class HeadParser:
    """Reads one request head from a connection. It is used once: a connection's next head needs a new one.

    The outcome is that of the whole bytes, however they are cut. So there is a fixed order, in which a fault
    seen early is also the one that would be named later: a byte that no head may hold, then the size, then
    what can only be said of a complete head.

    Attributes:
        head: The head as received, to the empty line inclusive, once ``feed`` has returned a request.
        rest: What was received after the head.
    """

    __slots__ = ("_buffer", "_max_headers", "_max_size", "_scanned", "head", "rest")

    def __init__(self, max_size: int, max_headers: int) -> None:
        """Bound the head.

        Args:
            max_size: The longest head in bytes, its empty line included.
            max_headers: The most header fields.
        """
        self._max_size, self._max_headers = max_size, max_headers
        self._buffer: bytearray | None = None  # made if the head does not come whole
        self._scanned = 0
        self.head = self.rest = b""

    def feed(self, data: bytes) -> Request | None:
        """Take what was read from the connection; return the request, or None while its head is incomplete.

        Raises:
            BadRequest: This is no request that we can answer otherwise. Nothing more may be fed.
        """
        buffer, start = self._buffer, self._scanned
        if buffer is None:
            end = data.find(b"\r\n\r\n", 0, self._max_size) + 4
            if end > 3:  # it came whole: no copies
                self.rest = data[end:]
                return self._complete(data[:end], data[:end])
            buffer = self._buffer = bytearray()
        buffer += data
        end = buffer.find(b"\r\n\r\n", max(0, start - 3), self._max_size) + 4
        stop = end if end > 3 else min(len(buffer), self._max_size)
        if end <= 3 and stop and buffer[stop - 1] == 0x0D:
            stop -= 1  # whether this CR stands alone is seen with the next byte
        if end > 3:
            self.rest = bytes(buffer[end:])
            return self._complete(bytes(buffer[:end]), buffer[start:stop])
        self._refuse_bytes(buffer[start:stop], first=not start)
        self._scanned = stop
        if len(buffer) < self._max_size:
            return None
        if buffer.find(b"\r\n", 1, self._max_size) < 0:  # from 1: the empty line that may come first is at 0
            raise BadRequest(414, "The request line is too long.")
        raise BadRequest(431, "The request head is too large.")

    def _complete(self, head: bytes, piece: bytes | bytearray) -> Request:
        """Parse the whole head, of which a piece has not been looked at yet."""
        self._refuse_bytes(piece, first=not self._scanned)
        if self._buffer:
            self._buffer.clear()
        self.head = head[2:] if head.startswith(b"\r\n") else head
        return _request(head, self._max_headers)

    def _refuse_bytes(self, piece: bytes | bytearray, *, first: bool) -> None:
        """Refuse what no head may hold, wherever in it (RFC 9112 section 2.2, RFC 9110 section 5.5).

        Any of it is the same fault to the peer: which of them is seen first depends on how the bytes are cut.
        """
        if first and piece and piece[0] == _TLS_HANDSHAKE:
            raise BadRequest(400, "This port speaks plain text, not TLS: use ws:// or http://.")
        lines = piece.count(b"\r\n")
        if piece.translate(None, _HEAD_BYTES) or not lines == piece.count(b"\r") == piece.count(b"\n"):
            raise BadRequest(400, "The request head holds a control character, or a CR or LF that ends no line.")


def _request(head: bytes, max_headers: int) -> Request:
    """Parse a complete head, in which each CR and LF is part of a CRLF and HTAB is the only other control."""
    line = _request_line(head)
    if line is None:
        raise BadRequest(400, "The request line must be a method, a target and HTTP/1.1, with one space between.")
    method, target, major, minor = line.groups()
    if major != b"1":
        raise BadRequest(505, "This server speaks HTTP/1.1.")
    if method == b"CONNECT":  # RFC 9110 section 9.3.6: its answer would be a tunnel
        raise BadRequest(501, "This server is no proxy: it knows no CONNECT.")
    lines = head.count(b"\r\n", line.end()) - 1
    if lines > max_headers:
        raise BadRequest(431, "The request has too many header fields.")
    fields = _fields(head, line.end())
    if len(fields) != lines:
        raise BadRequest(400, "A header field must be a name, a colon right after it, and a value, all on one line.")
    headers = tuple([(_NAMES.get(name) or name.lower(), value.strip(_OWS)) for name, value in fields])
    version = "1.0" if minor == b"0" else "1.1"  # RFC 9110 section 2.5: a higher 1.x is read as the highest that we know
    host = _check_fields(headers, version)
    raw_path, query = _split_target(target, host)
    return Request(method.decode(), target.decode(), raw_path, _decode_path(raw_path), query, version, headers)


def _check_fields(headers: tuple[tuple[bytes, bytes], ...], version: str) -> bytes | None:
    """Check what decides where a request goes and where it ends; return its Host."""
    values = dict(headers)
    if len(values) != len(headers):
        names = [name for name, _ in headers]
        # RFC 9110 section 8.6 lets equal lengths be merged; but other software may read this head after us.
        if any(names.count(name) > 1 for name in _SINGLE):
            raise BadRequest(400, "Host, Content-Length and Transfer-Encoding may each be sent once.")
    host = values.get(b"host")
    if host is None and version == "1.1":
        raise BadRequest(400, "An HTTP/1.1 request must have a Host field.")  # RFC 9112 section 3.2
    if host is not None and _split_authority(host) is None:
        raise BadRequest(400, "The Host field must be a host name or address, and at most a port.")
    length, coding = values.get(b"content-length"), values.get(b"transfer-encoding")
    if length is not None and not _content_length(length):
        raise BadRequest(400, "Content-Length must be a decimal number.")
    if coding is None:
        return host
    if length is not None:
        raise BadRequest(400, "A request may not have both Content-Length and Transfer-Encoding.")
    if coding.lower() != b"chunked" or version == "1.0":  # RFC 9112 section 6.1
        raise BadRequest(400, "The only Transfer-Encoding understood is chunked, in HTTP/1.1.")
    return host


def _split_authority(authority: bytes) -> tuple[bytes, int | None] | None:
    """Return host and port of ``host[:port]``, comparable; None if it is none (RFC 9110 section 4.2)."""
    return _parse_short_authority(authority) if len(authority) < 256 else _parse_authority(authority)


def _parse_authority(authority: bytes) -> tuple[bytes, int | None] | None:
    found = _authority(authority)
    if found is None:
        return None
    address, name, port = found.groups()
    number = int(port) if port else None
    if (number or 0) > 65535:
        return None
    if address is None:
        return (name.lower(), number) if name else None  # RFC 9110 section 4.2.1: an empty host must be rejected
    try:
        return b"[" + IPv6Address(address.decode()).packed, number  # with a bracket, which no name can have
    except AddressValueError:
        return None


# One server has few names, and a look-up costs a tenth of the parsing; short ones, for they are the peer's.
_parse_short_authority = lru_cache(256)(_parse_authority)


def _split_target(target: bytes, host: bytes | None) -> tuple[bytes, bytes]:
    """Return path and query of a target in origin or absolute form (RFC 9112 section 3.2)."""
    if not target.startswith(b"/"):
        found = _absolute_form(target)
        if found is None:
            raise BadRequest(400, "The request target must be a path that begins with a slash.")
        _, secure, authority, target = found.groups()
        default = 443 if secure else 80
        wanted, named = _split_authority(authority), _split_authority(authority if host is None else host)
        # Section 3.2.2 has the target win; where they differ, somebody before us may have gone by the other.
        if wanted is None or named is None or (wanted[0], wanted[1] or default) != (named[0], named[1] or default):
            raise BadRequest(400, "The host of the request target must be that of the Host field.")
        target = target if target.startswith(b"/") else b"/" + target
    path, _, query = target.partition(b"?")
    return path, query


def _decode_path(raw_path: bytes) -> str:
    """Return a path percent-decoded (RFC 3986 section 2.1), which must be UTF-8 without NUL."""
    if b"%" not in raw_path:
        return raw_path.decode()
    try:
        path = "\0" if _bad_escape(raw_path) else unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        path = "\0"
    if "\0" in path:
        raise BadRequest(400, "The path must be percent-encoded UTF-8, without NUL.")
    return path


def wants_upgrade(request: Request) -> bool:
    """Say whether a request asks for a WebSocket (RFC 6455 section 4.2.1, item 3) and is not plain HTTP."""
    for name, value in request.headers:  # noqa: SIM110 - a generator takes three times as long
        if name == b"upgrade" and (value == b"websocket" or b"websocket" in _list([value])):
            return True
    return False


def connection_tokens(request: Request) -> list[bytes]:
    """Return what the Connection fields name, in lower case (RFC 9110 section 7.6.1)."""
    return _list([value for name, value in request.headers if name == b"connection"])


def check_header(name: bytes, value: bytes) -> None:
    """Make sure that a header of an application's is one line (RFC 9110 sections 5.1 and 5.5).

    Raises:
        ValueError: It cannot be sent.
    """
    if not _token(name):
        raise ValueError(f"header name {name!r}: must be letters, digits and !#$%&'*+-.^_`|~")
    if value.translate(None, _VALUE_BYTES):
        raise ValueError(f"header {name.decode()}: its value may hold no control characters")


def requested_subprotocols(request: Request) -> tuple[str, ...]:
    """Return the subprotocols that a valid opening handshake asks for, the one that the client likes best first."""
    return _check_subprotocols([value for name, value in request.headers if name == b"sec-websocket-protocol"])


def check_accept_headers(headers: Iterable[tuple[str, str]]) -> None:
    """Make sure that headers can stand in the answer that accepts a handshake.

    Raises:
        ValueError: One cannot be sent, or is the handshake's own.
    """
    _header_lines(headers, _OWNED_BY_101)


def check_upgrade(request: Request) -> Upgrade:
    """Return what an opening handshake asks for (RFC 6455 section 4.2.1).

    Raises:
        BadRequest: The handshake breaks a rule, or is none.
    """
    if not wants_upgrade(request):
        raise _upgrade_required("Connect with a WebSocket client: this is no place for plain HTTP.")
    if request.method != "GET":
        raise BadRequest(405, "A WebSocket handshake is a GET request.", (("Allow", "GET"),))
    if request.version != "1.1":
        raise BadRequest(400, "A WebSocket handshake is an HTTP/1.1 request.")
    fields = _by_name(request.headers)
    if fields.get(b"connection") != (b"Upgrade",) and b"upgrade" not in _list(fields.get(b"connection", ())):
        text = "The Connection field must name Upgrade; a proxy in between may have to be told to pass it on."
        raise BadRequest(400, text)
    # What a proxy would pass on as the body, we would read as frames.
    if b"transfer-encoding" in fields or any(value.strip(b"0") for value in fields.get(b"content-length", ())):
        raise BadRequest(400, "A WebSocket handshake has no body.")
    origins = fields.get(b"origin", ())
    if len(origins) > 1:
        raise BadRequest(400, "A request may have one Origin field.")  # RFC 6454 section 7.3
    return Upgrade(
        _check_key(fields.get(b"sec-websocket-version", ()), fields.get(b"sec-websocket-key", ())),
        _check_subprotocols(fields.get(b"sec-websocket-protocol", ())),
        _check_extensions(fields.get(b"sec-websocket-extensions", ())),
        origins[0].decode("latin-1") if origins else None,
    )


def _by_name(headers: tuple[tuple[bytes, bytes], ...]) -> Mapping[bytes, Sequence[bytes]]:
    """Return the values of each field, in order."""
    fields: dict[bytes, Sequence[bytes]] = {name: (value,) for name, value in headers}
    if len(fields) < len(headers):
        several: defaultdict[bytes, list[bytes]] = defaultdict(list)
        for name, value in headers:
            several[name].append(value)
        return several
    return fields


def _check_key(versions: Sequence[bytes], keys: Sequence[bytes]) -> bytes:
    """Check the version, then the key, and return it (RFC 6455 sections 4.2.1, items 5 and 6, 4.2.2 and 4.4).

    A handshake without a version is that of a draft older than the field: its client, too, is told the
    version and not just that something is wrong. Several versions are a fault of another kind (section
    11.3.5: never more than once): a client that said 13 twice would learn nothing from a 426.
    """
    if len(versions) > 1 or len(keys) > 1:
        raise BadRequest(400, "Sec-WebSocket-Version and Sec-WebSocket-Key may each be sent once.")
    if not versions or versions[0] != _VERSION.encode():
        raise _upgrade_required("This server speaks version 13 of the WebSocket protocol.")
    if not keys or not _key(keys[0]):
        raise BadRequest(400, "Sec-WebSocket-Key must be 16 bytes in base64.")
    return keys[0]


def _check_subprotocols(values: Sequence[bytes]) -> tuple[str, ...]:
    """Return the subprotocols asked for: different tokens, one at least (RFC 6455 section 4.1, item 10)."""
    if not values:
        return ()
    names = [name for name in _split(values) if name]
    if not names or len(set(names)) != len(names) or not all(map(_token, names)):
        raise BadRequest(400, "Sec-WebSocket-Protocol must be a list of different tokens.")
    return tuple([name.decode() for name in names])


def _check_extensions(values: Sequence[bytes]) -> str:
    """Return the extensions asked for, as one field (RFC 6455 section 9.1)."""
    joined = b", ".join(values)
    if values and not _extensions(joined):
        raise BadRequest(400, "Sec-WebSocket-Extensions must be a list of extensions with their parameters.")
    return joined.decode()


def _split(values: Sequence[bytes]) -> list[bytes]:
    """Return the elements of a list field, empty ones included (RFC 9110 section 5.6.1)."""
    return [element.strip(_OWS) for value in values for element in value.split(b",")]


def _list(values: Sequence[bytes]) -> list[bytes]:
    """Return the elements of a list field in lower case."""
    return [element.lower() for element in _split(values)]


def _upgrade_required(text: str) -> BadRequest:
    """Return a 426: Upgrade by RFC 9110 section 15.5.22, the version by RFC 6455 section 4.4."""
    return BadRequest(426, text, (("Upgrade", "websocket"), ("Sec-WebSocket-Version", _VERSION)))


def choose_subprotocol(requested: Sequence[str], offered: Sequence[str]) -> str | None:
    """Return the first of the client's subprotocols that we offer, or None (RFC 6455 section 4.2.2)."""
    return next((name for name in requested if name in offered), None)


def accept_key(key: bytes) -> bytes:
    """Return Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 section 4.2.2, item 5.4)."""
    return b2a_base64(sha1(key + _GUID, usedforsecurity=False).digest(), newline=False)


def switching_protocols(upgrade: Upgrade, subprotocol: str | None, extensions: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the answer that accepts a handshake (RFC 6455 section 4.2.2).

    Args:
        upgrade: The handshake.
        subprotocol: One of those that it asks for, or None.
        extensions: Those that were agreed on, as Sec-WebSocket-Extensions has them; "" for none.
        headers: Further pairs of name and value.

    Raises:
        ValueError: A header cannot be sent, is the handshake's own, or the subprotocol was not asked for.
    """
    lines = []
    if subprotocol is not None:
        if subprotocol not in upgrade.subprotocols:  # the client would have to fail the connection (section 4.1)
            raise ValueError(f"subprotocol {subprotocol!r}: the client did not ask for it")
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if extensions:
        lines += _header_lines([("Sec-WebSocket-Extensions", extensions)], frozenset())
    if headers:
        lines += _header_lines(headers, _OWNED_BY_101)
    more = "\r\n".join(["", *lines]).encode("latin-1") if lines else b""
    return _101 + accept_key(upgrade.key) + more + b"\r\n\r\n"


def check_trailers(lines: Iterable[bytes | bytearray]) -> None:
    """Make sure that what stands behind a chunked body, cut at CRLF, are fields and nothing else (RFC 9112 section 7.1.2).

    Raises:
        BadRequest: A line is no field. Software before us that ends lines at a bare LF would see another request there.
    """
    for line in lines:
        piece = bytes(line)
        if piece.translate(None, _VALUE_BYTES) or not _fields(piece + b"\r\n"):
            raise BadRequest(400, "What follows a chunked body must be header fields.")


def http_date(now: float) -> str:
    """Return a time, in seconds since the epoch, as the Date field has it (RFC 9110 section 5.6.7)."""
    return _second_as_date(int(now))


@lru_cache(1)
def _second_as_date(second: int) -> str:
    return formatdate(second, usegmt=True)


def response(
    status: int, headers: Iterable[tuple[str, str]], body: bytes | str, *, now: float | None = None, head_only: bool = False
) -> bytes:
    """Return a complete HTTP/1.1 answer after which the connection is closed.

    Args:
        status: 200 to 599; 204 and 304 are sent without a body (RFC 9110 section 6.4.1).
        headers: Pairs of name and value. Content-Type is UTF-8 text unless it is among them.
        body: Text is sent as UTF-8.
        now: Seconds since the epoch, for the Date field, which an origin server has to send (RFC 9110 section 6.6.1); None for none.
        head_only: Leave out the body, as the answer to HEAD does (RFC 9110 section 9.3.2).

    Raises:
        ValueError: The status or a header cannot be sent, or the header is one that is decided here.
    """
    if not 200 <= status <= 599:
        raise ValueError(f"status {status!r}: a final response has a status from 200 to 599")
    pairs = list(headers)
    given = {name.lower() for name, _ in pairs}
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}", *_header_lines(pairs, _OWNED)]
    if status in (204, 304):
        content = b""
    else:
        if "content-type" not in given:
            lines.append("Content-Type: text/plain; charset=utf-8")
        lines.append(f"Content-Length: {len(content)}")
    if "x-content-type-options" not in given:
        lines.append("X-Content-Type-Options: nosniff")
    if now is not None and "date" not in given:
        lines.append(f"Date: {http_date(now)}")
    # RFC 9110 section 7.8: who sends Upgrade must name it in Connection too
    lines.append("Connection: close, Upgrade" if "upgrade" in given else "Connection: close")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head if head_only else head + content


def _header_lines(headers: Iterable[tuple[str, str]], owned: frozenset[str]) -> list[str]:
    """Return pairs as lines, each certain to be one line (RFC 9110 sections 5.1 and 5.5)."""
    lines = []
    for name, value in headers:
        if not _name_to_send(name):
            raise ValueError(f"header name {name!r}: must be letters, digits and !#$%&'*+-.^_`|~")
        if name.lower() in owned:
            raise ValueError(f"header {name}: the server sends this one itself")
        if not _value_to_send(value):
            raise ValueError(f"header {name}: its value may hold no control characters and nothing beyond Latin-1")
        lines.append(f"{name}: {value}")
    return lines
