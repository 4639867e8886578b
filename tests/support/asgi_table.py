"""Every ASGI message, when it may be sent, and what comes of it: the tables that ``tests/unit/asgi`` plays and ``docs/asgi.md`` shows.

They are written from the specifications (WWW 2.5, lifespan 2.0, the extensions "Websocket Denial Response" and "Path Send"), not from the
code. Where those leave a choice, it is ours, and the row says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from twistedws.errors import Disconnected

Event = Any  # also what is none

TEXT, BINARY, CLOSE = 1, 2, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What comes of a message.

    Attributes:
        raises: What ``send`` raises; then nothing has changed.
        ignored: Nothing comes of it.
        status: Of the HTTP response that it sends; 0 for none.
        lines: Header fields that the response has.
        order: Names of which the values must come in this order: ``(name, value)`` of all fields whose name starts with ``x-``.
        absent: Names of fields that it has not.
        body: Of the response.
        persistent: Whether the connection may go on after the response.
        frames: What it sends to a WebSocket peer: opcode and payload.
    """

    raises: type[BaseException] | None = None
    ignored: bool = False
    status: int = 0
    lines: tuple[tuple[bytes, bytes], ...] = ()
    order: tuple[tuple[bytes, bytes], ...] = ()
    absent: tuple[bytes, ...] = ()
    body: bytes | None = None
    persistent: bool | None = None
    frames: tuple[tuple[int, bytes], ...] = ()

    def __str__(self) -> str:
        if self.raises is not None:
            return f"raises `{self.raises.__name__}`"
        if self.ignored:
            return "is ignored"
        said = [f"HTTP {self.status}"] if self.status else []
        said += [f"`{name.decode()}: {value.decode('latin-1')}`" for name, value in (*self.lines, *self.order)]
        said += [f"no `{name.decode()}`" for name in self.absent]
        if self.body is not None:
            said.append(f"the body `{self.body.decode()}`" if self.body else "no body")
        if self.persistent is not None:
            said.append("the connection goes on" if self.persistent else "the connection ends")
        said += [_frame(opcode, payload) for opcode, payload in self.frames]
        return ", ".join(said) or "is taken"


def _frame(opcode: int, payload: bytes) -> str:
    if opcode == CLOSE:
        reason = payload[2:].decode()
        shown = f"{reason[:20]}… ({len(payload) - 2} bytes)" if len(reason) > 40 else reason
        return f"close {int.from_bytes(payload[:2], 'big')}" + (f" `{shown}`" if shown else "")
    return f"{'text' if opcode == TEXT else 'binary'} `{payload.decode()}`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A message at a stage.

    Attributes:
        stage: When.
        message: What, in words.
        events: The message; further ones are sent if it is taken, to show what has come of it.
        outcome: What must come of it.
        why: The specification's word, or the reason of a choice.
        request: How the request begins, where it matters.
    """

    stage: str
    message: str
    events: tuple[Event, ...]
    outcome: Outcome
    why: str = ""
    request: str = "GET"

    def __str__(self) -> str:
        return f"{self.stage} | {self.message}" + (f" | {self.request}" if self.request != "GET" else "")


def closing(code: int, reason: bytes = b"") -> Outcome:
    """A close frame goes out."""
    return Outcome(frames=((CLOSE, code.to_bytes(2, "big") + reason),))


TAKEN = Outcome()
IGNORED = Outcome(ignored=True)
OUT_OF_ORDER = Outcome(raises=RuntimeError)
WRONG_TYPE = Outcome(raises=TypeError)
WRONG_VALUE = Outcome(raises=ValueError)
GONE = Outcome(raises=Disconnected)

_INVALID = "invalid events raise (main, Error Handling)"
_CLOSED = "send() on a closed connection raises an OSError (WWW 2.4)"
_ORDER = "the order is broken, and never in silence"

# --- WebSocket ----------------------------------------------------------------------------------------------------------------------

ACCEPT = {"type": "websocket.accept"}
SAY = {"type": "websocket.send", "text": "hello"}
CLOSE_IT = {"type": "websocket.close"}
DENY = {"type": "websocket.http.response.start", "status": 401, "headers": [(b"www-authenticate", b"Basic")]}
DENIAL = {"type": "websocket.http.response.body", "body": b"who?"}

WEBSOCKET_STAGES = {
    "asked": "The request has come; `websocket.connect` was not received yet.",
    "connecting": "`websocket.connect` was received.",
    "accepted": "After `websocket.accept`.",
    "denying": "After `websocket.http.response.start`.",
    "refused": "After `websocket.close` in place of `websocket.accept`.",
    "denied": "After a complete denial response.",
    "closed": "After `websocket.accept` and `websocket.close`; the peer has not answered yet.",
    "peer closed": "After a close frame of the peer's.",
    "peer lost": "The connection was lost with no close frame.",
    "draining": "The server goes away and has said so (1012); the peer has not answered yet.",
    "left": "The client went away before the application decided.",
    "late": "The handshake timeout passed before the application decided.",
}

OFFERS = ("chat.v2", "chat.v1")  # what the client offers in these tables

_UNKNOWN: tuple[tuple[str, Event], ...] = (
    ("websocket.receive", {"type": "websocket.receive", "text": "x"}),
    ("websocket.disconnect", {"type": "websocket.disconnect", "code": 1000}),
    ("http.response.start", {"type": "http.response.start", "status": 200}),
    ("http.response.body", {"type": "http.response.body", "body": b"x"}),
    ("an unknown type", {"type": "websocket.shout", "text": "x"}),
    ("a type that is no text", {"type": b"websocket.send", "text": "x"}),
    ("no type", {"text": "x"}),
    ("no dict", "websocket.send"),
    ("None", None),
)

_MESSAGES: dict[str, Event] = {
    "websocket.accept": ACCEPT,
    "websocket.send": SAY,
    "websocket.close": CLOSE_IT,
    "websocket.http.response.start": DENY,
    "websocket.http.response.body": DENIAL,
}

_DECIDING = {
    "websocket.accept": Outcome(status=101),
    "websocket.close": Outcome(status=403),
    "websocket.http.response.start": TAKEN,
}
_ENDED = {"websocket.send": GONE, "websocket.close": GONE}
_UNDECIDED = {"websocket.accept": GONE, "websocket.close": GONE, "websocket.http.response.start": GONE}

_ORDERS: dict[str, tuple[dict[str, Outcome], str]] = {
    "asked": (_DECIDING, ""),
    "connecting": (_DECIDING, ""),
    "accepted": ({"websocket.send": Outcome(frames=((TEXT, b"hello"),)), "websocket.close": closing(1000)}, ""),
    "denying": (
        {"websocket.http.response.body": Outcome(status=401, lines=((b"www-authenticate", b"Basic"),), body=b"who?")},
        "a denial cannot be followed by any other websocket message",
    ),
    "refused": (_ENDED, _CLOSED),
    "denied": ({}, "a denial cannot be followed by any other websocket message"),
    "closed": (_ENDED, _CLOSED),
    "peer closed": (_ENDED, _CLOSED),
    "peer lost": (_ENDED, _CLOSED),
    "draining": (_ENDED, _CLOSED),
    "left": (_UNDECIDED, _CLOSED),
    "late": (_UNDECIDED, _CLOSED),
}


def _websocket_orders() -> Iterator[Row]:
    for stage, (outcomes, why) in _ORDERS.items():
        for message, event in _MESSAGES.items():
            outcome = outcomes.get(message, OUT_OF_ORDER)
            yield Row(stage=stage, message=message, events=(event,), outcome=outcome, why=why or (_ORDER if outcome.raises else ""))
        for message, event in _UNKNOWN:
            yield Row(stage=stage, message=message, events=(event,), outcome=OUT_OF_ORDER, why=_INVALID)


WEBSOCKET_ORDERS = tuple(_websocket_orders())


def _accept(message: str, outcome: Outcome, why: str = "", **keys: Any) -> Row:
    return Row(stage="connecting", message=f"websocket.accept {message}", events=({**ACCEPT, **keys},), outcome=outcome, why=why)


def _accept_with(message: str, headers: Any, outcome: Outcome, why: str = "") -> Row:
    return _accept(message, outcome, why, headers=headers)


_OWNED = "the handshake's own (RFC 6455 section 4.2.2); a client would fail the connection, or read it otherwise"

WEBSOCKET_ACCEPTS = (
    _accept("with no subprotocol", Outcome(status=101, absent=(b"sec-websocket-protocol",))),
    _accept("subprotocol None", Outcome(status=101, absent=(b"sec-websocket-protocol",)), "the default", subprotocol=None),
    _accept("subprotocol offered", Outcome(status=101, lines=((b"sec-websocket-protocol", b"chat.v1"),)), subprotocol="chat.v1"),
    _accept("subprotocol not offered", WRONG_VALUE, "a client must fail the connection (RFC 6455 section 4.1)", subprotocol="mqtt"),
    _accept("subprotocol empty", WRONG_VALUE, "likewise", subprotocol=""),
    _accept("subprotocol no text", WRONG_VALUE, _INVALID, subprotocol=b"chat.v1"),
    _accept("a key that is not known", Outcome(status=101), "additional keys do not raise (main, Error Handling)", later=1),
    _accept_with("headers None", None, Outcome(status=101)),
    _accept_with("headers empty", [], Outcome(status=101)),
    _accept_with(
        "headers, their order kept", [(b"x-a", b"1"), [b"x-b", b"2"], (b"x-a", b"3")],
        Outcome(status=101, order=((b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3"))),
        "the order must be preserved",
    ),
    _accept_with("headers in another iterable", {b"x-a": b"1"}.items(), Outcome(status=101, order=((b"x-a", b"1"),))),
    _accept_with("header of Latin-1", [(b"x-a", b"\xe4")], Outcome(status=101, order=((b"x-a", b"\xe4"),))),
    _accept_with("header name with a space", [(b"x a", b"1")], WRONG_VALUE, "no token (RFC 9110 section 5.1)"),
    _accept_with("header name empty", [(b"", b"1")], WRONG_VALUE, "likewise"),
    _accept_with("header name with a colon", [(b":authority", b"1")], WRONG_VALUE, "pseudo headers must not be present"),
    _accept_with("header value with CRLF", [(b"x-a", b"1\r\nx-b: 2")], WRONG_VALUE, "one field, one line (RFC 9110 section 5.5)"),
    _accept_with("header value with LF", [(b"x-a", b"1\n")], WRONG_VALUE, "likewise"),
    _accept_with("header value with NUL", [(b"x-a", b"\0")], WRONG_VALUE, "likewise"),
    _accept_with("header name as text", [("x-a", b"1")], WRONG_TYPE, _INVALID),
    _accept_with("header value as text", [(b"x-a", "1")], WRONG_TYPE, _INVALID),
    _accept_with("header of three", [(b"x-a", b"1", b"2")], WRONG_VALUE, _INVALID),
    _accept_with("header of one", [(b"x-a",)], WRONG_VALUE, _INVALID),
    _accept_with("headers as a number", 7, WRONG_TYPE, _INVALID),
    _accept_with("header sec-websocket-protocol", [(b"sec-websocket-protocol", b"chat.v1")], WRONG_VALUE, "must not be included"),
    _accept_with("header sec-websocket-accept", [(b"sec-websocket-accept", b"x")], WRONG_VALUE, _OWNED),
    _accept_with("header Sec-WebSocket-Extensions", [(b"Sec-WebSocket-Extensions", b"x")], WRONG_VALUE, _OWNED),
    _accept_with("header upgrade", [(b"upgrade", b"h2c")], WRONG_VALUE, _OWNED),
    _accept_with("header connection", [(b"connection", b"close")], WRONG_VALUE, _OWNED),
    _accept_with("header content-length", [(b"content-length", b"0")], WRONG_VALUE, _OWNED),
    _accept_with("header transfer-encoding", [(b"transfer-encoding", b"chunked")], WRONG_VALUE, _OWNED),
)  # fmt: skip


def _send(message: str, outcome: Outcome, why: str = "", **keys: Any) -> Row:
    return Row(
        stage="accepted", message=f"websocket.send {message}", events=({"type": "websocket.send", **keys},), outcome=outcome, why=why
    )


def _frames(opcode: int, payload: bytes) -> Outcome:
    return Outcome(frames=((opcode, payload),))


_ONE = "exactly one of bytes and text must be non-None"

WEBSOCKET_SENDS = (
    _send("text", _frames(TEXT, "grüß".encode()), text="grüß"),
    _send("bytes", _frames(BINARY, b"raw"), bytes=b"raw"),
    _send("text empty", _frames(TEXT, b""), "empty is not None", text=""),
    _send("bytes empty", _frames(BINARY, b""), "empty is not None", bytes=b""),
    _send("text, bytes None", _frames(TEXT, b"x"), _ONE, text="x", bytes=None),
    _send("text empty, bytes None", _frames(TEXT, b""), _ONE, text="", bytes=None),
    _send("bytes, text None", _frames(BINARY, b"x"), _ONE, bytes=b"x", text=None),
    _send("bytes empty, text None", _frames(BINARY, b""), _ONE, bytes=b"", text=None),
    _send("both", WRONG_VALUE, _ONE, bytes=b"x", text="x"),
    _send("both empty", WRONG_VALUE, _ONE, bytes=b"", text=""),
    _send("neither", WRONG_TYPE, _ONE),
    _send("both None", WRONG_TYPE, _ONE, bytes=None, text=None),
    _send("text as bytes", WRONG_TYPE, _INVALID, text=b"x"),
    _send("bytes as text", WRONG_TYPE, _INVALID, bytes="x"),
    _send("bytes as a number", WRONG_TYPE, _INVALID, bytes=7),
    _send("bytes as a list", WRONG_TYPE, _INVALID, bytes=[1, 2]),
    _send("text as a number", WRONG_TYPE, _INVALID, text=7),
    _send("bytes as a bytearray", _frames(BINARY, b"x"), "as good as bytes", bytes=bytearray(b"x")),
    _send("bytes as a memoryview", _frames(BINARY, b"x"), "as good as bytes", bytes=memoryview(b"x")),
    _send("text with a lone surrogate", WRONG_VALUE, "no UTF-8 (RFC 6455 section 5.6)", text="\ud800"),
    _send("a key that is not known", _frames(TEXT, b"x"), "additional keys do not raise", text="x", compress=False),
)


def _close(message: str, outcome: Outcome, why: str = "", *, stage: str = "accepted", **keys: Any) -> Row:
    return Row(stage=stage, message=f"websocket.close {message}", events=({**CLOSE_IT, **keys},), outcome=outcome, why=why)


_NOT_SENT = "may not stand in a close frame (RFC 6455 section 7.4)"
_LONG = "a" * 122 + "é" + "b" * 50

WEBSOCKET_CLOSES = (
    _close("with no code", closing(1000), "1000 if none is specified"),
    _close("code None", closing(1000), "likewise", code=None),
    _close("code 4001", closing(4001), code=4001),
    _close("code 1012", closing(1012), code=1012),
    _close("code and reason", closing(4001, b"enough"), code=4001, reason="enough"),
    _close("reason None", closing(1000), "an empty string", reason=None),
    _close("reason empty", closing(1000), reason=""),
    _close("reason too long", closing(1000, b"a" * 122), "cut to the 123 bytes that a close frame holds", reason=_LONG),
    _close("reason with a lone surrogate", closing(1000, b"?"), "any string may be given", reason="\ud800"),
    _close("reason as bytes", WRONG_TYPE, _INVALID, reason=b"enough"),
    _close("reason as a number", WRONG_TYPE, _INVALID, reason=7),
    *(_close(f"code {code}", WRONG_VALUE, _NOT_SENT, code=code) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, -1)),
    _close("code as text", WRONG_VALUE, _INVALID, code="1000"),
    _close("a key that is not known", closing(1000), "additional keys do not raise", later=1),
    _close("code and reason before accept", Outcome(status=403), "403, whatever the code", stage="connecting", code=4001, reason="no"),
)


def _deny(message: str, outcome: Outcome, why: str = "", *, event: dict[str, Any] | None = None, body: bytes = b"", **keys: Any) -> Row:
    start = {"type": "websocket.http.response.start", **keys} if event is None else event
    end = {"type": "websocket.http.response.body", "body": body}
    return Row(stage="connecting", message=f"websocket.http.response.start {message}", events=(start, end), outcome=outcome, why=why)


def _denial(message: str, outcome: Outcome, *events: dict[str, Any], why: str = "") -> Row:
    whole = tuple({"type": "websocket.http.response.body", **each} for each in events)
    return Row(stage="denying", message=f"websocket.http.response.body {message}", events=whole, outcome=outcome, why=why)


_FINAL = "a denial is a final response"
_LOGIN = (b"location", b"/login")
_ENDS = (b"connection", b"close")

WEBSOCKET_DENIALS = (
    _deny("status 401", Outcome(status=401, body=b"no"), status=401, body=b"no"),
    _deny("status 302 with headers", Outcome(status=302, lines=(_LOGIN,)), status=302, headers=[_LOGIN]),
    _deny("status 200", Outcome(status=200, body=b"no"), "any final status", status=200, body=b"no"),
    _deny("status 204", Outcome(status=204, body=b""), "a 204 has no body (RFC 9110 section 6.4.1)", status=204, body=b"no"),
    *(_deny(f"status {status!r}", WRONG_VALUE, _FINAL, status=status) for status in (100, 101, 103, 199, 600, 0, "401", None)),
    _deny("with no status", WRONG_VALUE, _INVALID),
    _deny("header as text", WRONG_TYPE, _INVALID, status=401, headers=[("x-a", "1")]),
    _deny("header value with CRLF", WRONG_VALUE, "one field, one line", status=401, headers=[(b"x-a", b"1\r\nx-b: 2")]),
    _deny(
        "headers, their order kept", Outcome(status=401, order=((b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3"))),
        "the order must be preserved", status=401, headers=[(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")],
    ),
    _deny(
        "header content-length", Outcome(status=401, lines=((b"content-length", b"2"),), body=b"no"), "counted here",
        status=401, headers=[(b"content-length", b"2")], body=b"no",
    ),
    _deny(
        "header transfer-encoding", Outcome(status=401, absent=(b"transfer-encoding",), body=b"no"), "the server must ignore it",
        status=401, headers=[(b"transfer-encoding", b"chunked")], body=b"no",
    ),
    _deny("header connection", Outcome(status=401, lines=(_ENDS,)), status=401, headers=[(b"connection", b"keep-alive")]),
    _denial("at once", Outcome(status=401, body=b"who?"), {"body": b"who?"}),
    _denial("with no body", Outcome(status=401, body=b""), {}),
    _denial("in pieces", Outcome(status=401, body=b"who?"), {"body": b"wh", "more_body": True}, {"body": b"o?"}),
    _denial("more_body alone", TAKEN, {"body": b"wh", "more_body": True}, why="nothing is sent before the last piece"),
    _denial("as a bytearray", Outcome(status=401, body=b"who?"), {"body": bytearray(b"who?")}),
    _denial("as text", WRONG_TYPE, {"body": "who?"}, why=_INVALID),
    _denial("None", WRONG_TYPE, {"body": None}, why=_INVALID),
    _denial("too large", WRONG_VALUE, {"body": b"x" * 1001}, why="--queue-size bounds what waits for a peer (here 1000)"),
)  # fmt: skip

WEBSOCKET_ROWS = (*WEBSOCKET_ORDERS, *WEBSOCKET_ACCEPTS, *WEBSOCKET_SENDS, *WEBSOCKET_CLOSES, *WEBSOCKET_DENIALS)

# How a WebSocket ends, and what ``websocket.disconnect`` says then: code, and reason (None for any).
WEBSOCKET_DISCONNECTS: dict[str, tuple[int, str | None]] = {
    "the peer closes with 1000": (1000, ""),
    "the peer closes with 4001 and a reason": (4001, "bye"),
    "the peer closes with no code": (1005, ""),
    "the peer ends TCP with no close frame": (1006, ""),
    "the connection is reset": (1006, ""),
    "the application closes with 4000 and a reason": (4000, "enough"),
    "the application closes, and the peer never answers": (1000, ""),
    "the server goes away": (1012, "service restart"),
    "the peer breaks RFC 6455": (1002, None),
    "the peer sends text that is no UTF-8": (1007, None),
    "the peer sends too large a message": (1009, None),
    "the peer answers no ping": (1006, ""),
    "the client goes away before the application decides": (1006, ""),
    "the handshake timeout passes": (1006, ""),
    "the application refuses": (1006, ""),
    "the application denies": (1006, ""),
}


@dataclass(frozen=True, slots=True)
class End:
    """How an application ends at a stage, and what comes of it.

    Attributes:
        stage: When.
        how: ``returns``, ``raises`` or ``is cancelled`` (by itself).
        status: Of the HTTP answer; 0 for none.
        code: Of the close frame that goes out because of it; 0 for none.
        logged: How many lines of error the log gets.
        cut: Whether the connection is cut.
    """

    stage: str
    how: str
    status: int = 0
    code: int = 0
    logged: int = 0
    cut: bool = False

    def __str__(self) -> str:
        return f"{self.stage} | {self.how}"


HOW = ("returns", "raises", "is cancelled")

WEBSOCKET_ENDS = (
    *(End(stage, how, status=500, logged=1) for stage in ("asked", "connecting", "denying") for how in HOW),
    End("accepted", "returns", 101, code=1000),
    End("accepted", "raises", 101, code=1011, logged=1),
    End("accepted", "is cancelled", 101, code=1011, logged=1),
    *(
        End(stage, how, status, logged=int(how == "raises"))
        for stage, status in {
            "refused": 403, "denied": 401, "closed": 101, "peer closed": 101, "peer lost": 101, "draining": 101, "left": 0, "late": 503,
        }.items()
        for how in HOW
    ),
)  # fmt: skip

# --- HTTP ---------------------------------------------------------------------------------------------------------------------------

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
BODY = {"type": "http.response.body", "body": b"ok"}
PIECE = {"type": "http.response.body", "body": b"ok", "more_body": True}
FILE, MISSING = "<a file that holds 0123456789>", "<no file>"  # tests put paths in their place
CONTENT = b"0123456789"
PATHSEND = {"type": "http.response.pathsend", "path": FILE}

HTTP_STAGES: dict[str, tuple[tuple[Event, ...], str]] = {
    "nothing": ((), "Nothing was sent yet."),
    "started": ((START,), "After `http.response.start`, of which nothing has been sent yet."),
    "sending": ((START, PIECE), "After a body with `more_body`: True."),
    "complete": ((START, BODY), "After the last body."),
}

REQUESTS = {
    "GET": b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "HEAD": b"HEAD /a HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "GET, HTTP/1.0": b"GET /a HTTP/1.0\r\n\r\n",
    "GET, Connection: close": b"GET /a HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n",
    "POST, its body still to come": b"POST /a HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\n\r\n",
}

_NOT_OFFERED = "an extension that is not offered"

_HTTP_UNKNOWN: tuple[tuple[str, Event, str], ...] = (
    ("http.response.trailers", {"type": "http.response.trailers", "headers": []}, _NOT_OFFERED),
    ("http.response.push", {"type": "http.response.push", "path": "/", "headers": []}, _NOT_OFFERED),
    ("http.response.early_hint", {"type": "http.response.early_hint", "links": []}, _NOT_OFFERED),
    ("http.response.zerocopysend", {"type": "http.response.zerocopysend", "file": None}, _NOT_OFFERED),
    ("http.response.debug", {"type": "http.response.debug", "info": {}}, _NOT_OFFERED),
    ("http.request", {"type": "http.request", "body": b""}, _INVALID),
    ("http.disconnect", {"type": "http.disconnect"}, _INVALID),
    ("websocket.accept", {"type": "websocket.accept"}, _INVALID),
    ("an unknown type", {"type": "http.shout"}, _INVALID),
    ("no type", {"status": 200}, _INVALID),
    ("a type that is no text", {"type": b"http.response.start", "status": 200}, _INVALID),
    ("no dict", "http.response.start", _INVALID),
    ("None", None, _INVALID),
)

_SENT_BODY = Outcome(status=200, body=b"ok")
_FURTHER = "the response is complete, and any further messages on the channel will be ignored"

_HTTP_ORDERS: dict[str, dict[str, tuple[tuple[Event, ...], Outcome, str]]] = {
    "nothing": {
        "http.response.start": ((START, BODY), _SENT_BODY, ""),
        "http.response.body": ((BODY,), OUT_OF_ORDER, _ORDER),
        "http.response.pathsend": ((PATHSEND,), OUT_OF_ORDER, "after the response start message"),
    },
    "started": {
        "http.response.start": ((START,), OUT_OF_ORDER, _ORDER),
        "http.response.body": ((BODY,), _SENT_BODY, ""),
        "http.response.pathsend": ((PATHSEND,), Outcome(status=200, body=CONTENT, persistent=True), ""),
    },
    "sending": {
        "http.response.start": ((START,), OUT_OF_ORDER, _ORDER),
        "http.response.body": ((BODY,), Outcome(body=b"okok", persistent=True), ""),
        "http.response.pathsend": ((PATHSEND,), OUT_OF_ORDER, "cannot be mixed with http.response.body"),
    },
    "complete": {
        "http.response.start": ((START,), IGNORED, _FURTHER),
        "http.response.body": ((BODY,), IGNORED, _FURTHER),
        "http.response.pathsend": ((PATHSEND,), IGNORED, _FURTHER),
    },
}


def _http_orders() -> Iterator[Row]:
    for stage, messages in _HTTP_ORDERS.items():
        for message, (events, outcome, why) in messages.items():
            yield Row(stage=stage, message=message, events=events, outcome=outcome, why=why)
        for message, event, why in _HTTP_UNKNOWN:
            yield Row(stage=stage, message=message, events=(event,), outcome=OUT_OF_ORDER, why=why)


HTTP_ORDERS = tuple(_http_orders())


def _start(
    message: str, outcome: Outcome, why: str = "", *, body: bytes = b"ok", request: str = "GET", status: Any = 200, **keys: Any
) -> Row:
    events = ({"type": "http.response.start", "status": status, **keys}, {"type": "http.response.body", "body": body})
    return Row(stage="nothing", message=f"http.response.start {message}", events=events, outcome=outcome, why=why, request=request)


def _fields(message: str, headers: Any, outcome: Outcome, why: str = "", *, request: str = "GET", status: int = 200) -> Row:
    return _start(message, outcome, why, headers=headers, request=request, status=status)


_LENGTH = "one decimal number (RFC 9110 section 8.6)"
_CARRIED = "how a response is carried is the server's matter"

HTTP_STARTS = (
    _start("with no headers", Outcome(status=200, lines=((b"content-length", b"2"),), body=b"ok", persistent=True)),
    _start("headers None", _SENT_BODY, headers=None),
    _start("status 299", Outcome(status=299, body=b"ok"), status=299),
    _start("status 404", Outcome(status=404, body=b"ok"), status=404),
    _start("status 599", Outcome(status=599, body=b"ok"), status=599),
    _start("status 204", Outcome(status=204, absent=(b"content-length", b"transfer-encoding"), body=b"", persistent=True), status=204),
    _start("status 304", Outcome(status=304, absent=(b"content-length", b"transfer-encoding"), body=b"", persistent=True), status=304),
    *(_start(f"status {status!r}", WRONG_VALUE, "a final response", status=status) for status in (100, 101, 103, 199, 600, 0, "200", None)),
    Row(
        stage="nothing", message="http.response.start with no status", events=({"type": "http.response.start"},), outcome=WRONG_VALUE,
        why=_INVALID,
    ),
    _start("a key that is not known", _SENT_BODY, "additional keys do not raise", later=1),
    _fields(
        "headers, their order kept", [(b"x-a", b"1"), [b"x-b", b"2"], (b"x-a", b"3")],
        Outcome(status=200, order=((b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3"))), "the order must be preserved",
    ),
    _fields("headers in another iterable", {b"x-a": b"1"}.items(), Outcome(status=200, order=((b"x-a", b"1"),)), "any iterable will do"),
    _fields("header name in capitals", [(b"X-A", b"1")], Outcome(status=200, order=((b"x-a", b"1"),)), "forgiven"),
    _fields("header of Latin-1", [(b"x-a", b"\xe4")], Outcome(status=200, order=((b"x-a", b"\xe4"),))),
    _fields("header date", [(b"date", b"x")], Outcome(status=200, lines=((b"date", b"x"),)), "not sent twice"),
    _fields("header name with a space", [(b"x a", b"1")], WRONG_VALUE, "no token (RFC 9110 section 5.1)"),
    _fields("header name with a colon", [(b":status", b"200")], WRONG_VALUE, "pseudo headers must not be present"),
    _fields("header name empty", [(b"", b"1")], WRONG_VALUE, "no token"),
    _fields("header value with CRLF", [(b"x-a", b"1\r\nx-b: 2")], WRONG_VALUE, "one field, one line (RFC 9110 section 5.5)"),
    _fields("header value with LF", [(b"x-a", b"1\nx")], WRONG_VALUE, "likewise"),
    _fields("header value with NUL", [(b"x-a", b"\0")], WRONG_VALUE, "likewise"),
    _fields("header name as text", [("x-a", b"1")], WRONG_TYPE, _INVALID),
    _fields("header value as text", [(b"x-a", "1")], WRONG_TYPE, _INVALID),
    _fields("header of three", [(b"x-a", b"1", b"2")], WRONG_VALUE, _INVALID),
    _fields("headers as a number", 7, WRONG_TYPE, _INVALID),
    _fields(
        "header content-length", [(b"content-length", b"2")],
        Outcome(status=200, lines=((b"content-length", b"2"),), absent=(b"transfer-encoding",), body=b"ok"),
    ),
    _fields("header content-length twice", [(b"content-length", b"2")] * 2, WRONG_VALUE, _LENGTH),
    _fields("header content-length twice", [(b"content-length", b"2")] * 2, WRONG_VALUE, _LENGTH, request="HEAD"),
    _fields("status 304, content-length twice", [(b"content-length", b"2")] * 2, WRONG_VALUE, _LENGTH, status=304),
    *(
        _fields(f"header content-length {value!r}", [(b"content-length", value)], WRONG_VALUE, _LENGTH)
        for value in (b"2, 2", b"-2", b"+2", b"2x", b"0x2", b"", b"\xb2")
    ),
    _fields(
        "status 204, content-length", [(b"content-length", b"2")], Outcome(status=204, absent=(b"content-length",), body=b""),
        "must not be sent (RFC 9110 section 8.6)", status=204,
    ),
    _fields(
        "status 304, content-length", [(b"content-length", b"2")], Outcome(status=304, lines=((b"content-length", b"2"),), body=b""),
        "that of a 200 (RFC 9110 section 8.6)", status=304,
    ),
    _fields("header connection: close", [_ENDS], Outcome(status=200, lines=(_ENDS,), persistent=False)),
    _fields("header connection: close", [_ENDS], Outcome(status=200, persistent=False), request="GET, HTTP/1.0"),
    _fields(
        "header connection: keep-alive", [(b"connection", b"keep-alive")], Outcome(status=200, absent=(b"connection",), persistent=True),
        _CARRIED,
    ),
    _fields("header keep-alive", [(b"keep-alive", b"timeout=5")], Outcome(status=200, absent=(b"keep-alive",), persistent=True), _CARRIED),
    _fields(
        "header transfer-encoding", [(b"transfer-encoding", b"chunked")],
        Outcome(status=200, lines=((b"content-length", b"2"),), absent=(b"transfer-encoding",), body=b"ok"), "the server must ignore it",
    ),
    _fields("to HTTP/1.0", [], Outcome(status=200, body=b"ok", persistent=False), request="GET, HTTP/1.0"),
    _fields(
        "to a client's Connection: close", [], Outcome(status=200, lines=(_ENDS,), persistent=False), "RFC 9112 section 9.6",
        request="GET, Connection: close",
    ),
)  # fmt: skip


def _body(message: str, outcome: Outcome, *events: Event, why: str = "", request: str = "GET", stage: str = "nothing", **start: Any) -> Row:
    head = () if stage != "nothing" else ({"type": "http.response.start", "status": 200, **start},)
    whole = (*head, *({"type": "http.response.body", **each} for each in events))
    return Row(stage=stage, message=f"http.response.body {message}", events=whole, outcome=outcome, why=why, request=request)


def _two(length: bytes) -> dict[str, Any]:
    return {"headers": [(b"content-length", length)]}


_CHUNKED = (b"transfer-encoding", b"chunked")

HTTP_BODIES = (
    _body("with no body", Outcome(status=200, lines=((b"content-length", b"0"),), body=b""), {}),
    _body("empty", Outcome(status=200, lines=((b"content-length", b"0"),), body=b""), {"body": b""}),
    _body("more_body False", _SENT_BODY, {"body": b"ok", "more_body": False}),
    _body(
        "in pieces", Outcome(status=200, lines=(_CHUNKED,), absent=(b"content-length",), body=b"abcd", persistent=True),
        {"body": b"ab", "more_body": True}, {"more_body": True}, {"body": b"cd"},
    ),
    _body("more_body alone", Outcome(status=200, lines=(_CHUNKED,), body=b"ab"), {"body": b"ab", "more_body": True}, why="flushed at once"),
    _body("more_body, empty", Outcome(status=200, lines=(_CHUNKED,), body=b""), {"more_body": True}, why="the head is flushed"),
    _body(
        "in pieces",
        Outcome(status=200, absent=(b"transfer-encoding", b"content-length"), body=b"abcd", persistent=False),
        {"body": b"ab", "more_body": True}, {"body": b"cd"}, why="it ends with the connection", request="GET, HTTP/1.0",
    ),
    _body("as a bytearray", _SENT_BODY, {"body": bytearray(b"ok")}),
    _body("as a memoryview", _SENT_BODY, {"body": memoryview(b"ok")}),
    _body("as text", WRONG_TYPE, {"body": "ok"}, why=_INVALID, stage="started"),
    _body("None", WRONG_TYPE, {"body": None}, why=_INVALID, stage="started"),
    _body("as text", WRONG_TYPE, {"body": "ok"}, why=_INVALID, stage="sending"),
    _body(
        "in pieces, of content-length", Outcome(status=200, absent=(b"transfer-encoding",), body=b"abcd", persistent=True),
        {"body": b"ab", "more_body": True}, {"body": b"cd", "more_body": True}, {}, **_two(b"4"),
    ),
    _body(
        "to a request that is not complete", Outcome(status=200, lines=((b"connection", b"close"),), persistent=False), {"body": b"ok"},
        why="what is still to come is not awaited", request="POST, its body still to come",
    ),
    _body("", Outcome(status=200, lines=((b"content-length", b"2"),), body=b"", persistent=True), {"body": b"ok"}, request="HEAD"),
    _body(
        "empty", Outcome(status=200, absent=(b"content-length", b"transfer-encoding"), body=b"", persistent=True), {"body": b""},
        why="its Content-Length would have to be that of GET, which is not known (RFC 9110 section 8.6)", request="HEAD",
    ),
    _body(
        "in pieces", Outcome(status=200, absent=(b"content-length",), body=b"", persistent=True),
        {"body": b"ab", "more_body": True}, {"body": b"cd"}, request="HEAD",
    ),
    _body(
        "empty, of content-length", Outcome(status=200, lines=((b"content-length", b"4"),), body=b"", persistent=True), {"body": b""},
        request="HEAD", **_two(b"4"),
    ),
)  # fmt: skip


def _file(message: str, outcome: Outcome, why: str = "", *, path: Any = FILE, request: str = "GET", **start: Any) -> Row:
    events = ({"type": "http.response.start", "status": 200, **start}, {"type": "http.response.pathsend", "path": path})
    return Row(stage="nothing", message=f"http.response.pathsend {message}", events=events, outcome=outcome, why=why, request=request)


HTTP_FILES = (
    _file("", Outcome(status=200, lines=((b"content-length", b"10"),), body=CONTENT, persistent=True), "its length is looked up"),
    _file("of content-length", Outcome(status=200, lines=((b"content-length", b"10"),), body=CONTENT, persistent=True), **_two(b"10")),
    _file("", Outcome(status=200, body=CONTENT, persistent=False), request="GET, HTTP/1.0"),
    _file("", Outcome(status=200, lines=((b"content-length", b"10"),), body=b"", persistent=True), request="HEAD"),
    _file("status 204", Outcome(status=204, absent=(b"content-length",), body=b"", persistent=True), "a 204 has no body", status=204),
    _file("status 304", Outcome(status=304, body=b"", persistent=True), "a 304 has no body", status=304),
)

HTTP_BAD_FILES = (
    Row(
        stage="started", message="http.response.pathsend of no file", events=({**PATHSEND, "path": MISSING},),
        outcome=Outcome(raises=FileNotFoundError), why="nothing of the response has been sent, so that another may follow",
    ),
    Row(
        stage="started", message="http.response.pathsend with no path", events=({"type": "http.response.pathsend"},), outcome=WRONG_TYPE,
        why=_INVALID,
    ),
    Row(
        stage="started", message="http.response.pathsend path as bytes", events=({**PATHSEND, "path": b"/x"},), outcome=WRONG_TYPE,
        why=_INVALID,
    ),
)  # fmt: skip

HTTP_ROWS = (*HTTP_ORDERS, *HTTP_STARTS, *HTTP_BODIES, *HTTP_FILES, *HTTP_BAD_FILES)

# A peer that has gone: every message that would be in order raises.
HTTP_GONE = (
    Row(stage="nothing", message="http.response.start", events=(START,), outcome=GONE, why=_CLOSED),
    Row(stage="started", message="http.response.body", events=(BODY,), outcome=GONE, why=_CLOSED),
    Row(stage="started", message="http.response.pathsend", events=(PATHSEND,), outcome=GONE, why=_CLOSED),
    Row(stage="sending", message="http.response.body", events=(PIECE,), outcome=GONE, why=_CLOSED),
    Row(stage="sending", message="http.response.body, the last", events=(BODY,), outcome=GONE, why=_CLOSED),
)

HTTP_ENDS = (
    *(End(stage, how, status=500, logged=1) for stage in ("nothing", "started") for how in HOW),
    *(End("sending", how, status=200, logged=1, cut=True) for how in HOW),
    End("complete", "returns", 200),
    End("complete", "raises", 200, logged=1),
    End("complete", "is cancelled", 200),
)

# --- Lifespan -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """An application's lifespan.

    Attributes:
        script: What the application does: types that it sends, ``raises``, ``returns``, ``hangs``; before each of the answers it receives.
        mode: ``--lifespan``.
        startup: The text that the start fails with; None where it does not.
        shutdown: The levels of what the log gets at the stop.
        asked: What the application received.
        why: The specification's word.
    """

    script: tuple[str, ...]
    mode: str = "auto"
    startup: str | None = None
    shutdown: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        return f"{self.mode} | {', '.join(self.script)}"


_UP, _DOWN = "lifespan.startup", "lifespan.shutdown"
_CONTINUE = "the server must continue but not send any lifespan events"
_NO_START = "the application does not answer lifespan.startup: "

LIVES = (
    *(Life(script=(f"{_UP}.complete", f"{_DOWN}.complete", "returns"), mode=mode, asked=(_UP, _DOWN)) for mode in ("auto", "on")),
    Life(script=("raises",), mode="off", why="it is not called"),
    Life(script=("raises",), asked=(_UP,), why=_CONTINUE),
    Life(script=("raises at once",), why=_CONTINUE),
    Life(script=("returns",), asked=(_UP,), why="as good as an exception"),
    Life(script=("returns at once",), why="as good as an exception"),
    Life(script=("is cancelled",), asked=(_UP,), why="as good as an exception"),
    Life(script=("raises",), mode="on", startup=f"{_NO_START}ZeroDivisionError: secret", asked=(_UP,)),
    Life(script=("raises at once",), mode="on", startup=f"{_NO_START}ZeroDivisionError: secret"),
    Life(script=("returns at once",), mode="on", startup=f"{_NO_START}it returned without an answer"),
    *(
        Life(script=(f"{_UP}.failed: no database", end), mode=mode, startup="no database", asked=(_UP,), why="print the message and exit")
        for mode in ("auto", "on")
        for end in ("returns", "raises", "hangs")
    ),
    Life(script=(f"{_UP}.failed", "returns"), startup="the application says that its startup failed, and not why", asked=(_UP,)),
    Life(script=("lifespan.shout",), asked=(_UP,), why="`send` raises RuntimeError"),
    Life(script=(f"{_DOWN}.complete",), asked=(_UP,), why="`send` raises RuntimeError"),
    Life(script=("http.response.start",), mode="on", startup=f"{_NO_START}RuntimeError: ASGI message 'http.response.start'", asked=(_UP,)),
    Life(
        script=(f"{_UP}.complete", f"again {_UP}.complete"), asked=(_UP,), shutdown=("critical",),
        why="`send` raises RuntimeError, which the application lets pass",
    ),
    Life(script=(f"{_UP}.complete", f"again {_UP}.failed"), asked=(_UP,), shutdown=("critical",), why="likewise"),
    Life(script=(f"{_UP}.complete", "returns at once"), asked=(_UP,), why="it takes no part in the stop"),
    Life(script=(f"{_UP}.complete", "raises at once"), asked=(_UP,), shutdown=("critical",), why="logged once"),
    Life(script=(f"{_UP}.complete", "returns"), asked=(_UP, _DOWN)),
    Life(script=(f"{_UP}.complete", "raises"), asked=(_UP, _DOWN), shutdown=("critical",), why="logged once"),
    Life(script=(f"{_UP}.complete", f"{_DOWN}.failed: stuck", "returns"), asked=(_UP, _DOWN), shutdown=("error",), why="log the message"),
    Life(script=(f"{_UP}.complete", f"{_DOWN}.failed", "returns"), asked=(_UP, _DOWN), shutdown=("error",)),
    Life(
        script=(f"{_UP}.complete", f"{_DOWN}.failed: stuck", "raises at once"), asked=(_UP, _DOWN), shutdown=("error",),
        why="as Starlette ends; logged once",
    ),
    Life(script=(f"{_UP}.complete", "hangs"), asked=(_UP, _DOWN), shutdown=("warn",), why="cancelled after --application-close-timeout"),
    Life(
        script=(f"{_UP}.complete", "hangs, whatever comes"), asked=(_UP, _DOWN), shutdown=("warn",),
        why="given up after twice that time",
    ),
    Life(
        script=(f"{_UP}.complete", f"{_DOWN}.complete", "hangs"), asked=(_UP, _DOWN), shutdown=("warn",),
        why="it has said that it is done; cancelled after --application-close-timeout",
    ),
    Life(script=(f"{_UP}.complete", f"{_DOWN}.complete", f"again {_DOWN}.complete"), asked=(_UP, _DOWN), shutdown=("critical",)),
)  # fmt: skip

# --- Scopes -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One key of a scope.

    Attributes:
        kinds: ``http``, ``websocket`` or both.
        key: The key.
        value: What it holds; by kind, where that makes a difference.
        when: For what request, in words.
        line: The target of the request.
        version: Of HTTP.
        method: Of the request.
        headers: More of its fields.
        settings: Of the server.
        why: The specification's word.
    """

    key: str
    value: Any
    when: str = "always"
    kinds: tuple[str, ...] = ("http", "websocket")
    target: bytes = b"/"
    version: bytes = b"1.1"
    method: bytes = b"GET"
    headers: tuple[bytes, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    why: str = ""

    def __str__(self) -> str:
        return f"{self.key} | {self.when}"

    def of(self, kind: str) -> Any:
        """The value in a scope of this kind."""
        return self.value[kind] if isinstance(self.value, dict) and set(self.value) == {"http", "websocket"} else self.value


_HTTP, _WEBSOCKET = ("http",), ("websocket",)
_ROOT = (("root_path", "/app"),)
_PROXY = (("trusted_proxies", ["192.0.2.1"]), ("proxy_headers", "x-forwarded"))
_DECODED = "percent-encoded sequences and UTF-8 byte sequences decoded"
_UNMODIFIED = "unmodified from the bytes received"

SCOPE = (
    Fact(key="type", value={"http": "http", "websocket": "websocket"}),
    Fact(
        key="asgi",
        value={"http": {"version": "3.0", "spec_version": "2.3"}, "websocket": {"version": "3.0", "spec_version": "2.5"}},
        why="told 2.4 of HTTP, Starlette does not listen for the disconnect",
    ),
    Fact(key="http_version", value="1.1"),
    Fact(key="http_version", value="1.0", when="HTTP/1.0", kinds=_HTTP, version=b"1.0"),
    Fact(key="method", value="GET", kinds=_HTTP),
    Fact(key="method", value="PATCH", when="patch", kinds=_HTTP, method=b"patch", why="uppercased"),
    Fact(key="scheme", value={"http": "http", "websocket": "ws"}),
    Fact(
        key="scheme", value={"http": "https", "websocket": "wss"}, when="X-Forwarded-Proto: https of a trusted proxy",
        headers=(b"X-Forwarded-For: 203.0.113.9", b"X-Forwarded-Proto: https"), settings=_PROXY,
    ),
    Fact(
        key="scheme", value={"http": "http", "websocket": "ws"}, when="X-Forwarded-Proto: https of somebody else",
        headers=(b"X-Forwarded-For: 203.0.113.9", b"X-Forwarded-Proto: https"),
    ),
    Fact(key="path", value="/"),
    Fact(key="path", value="/a b/ü", when="/a%20b/%C3%BC?x=1", target=b"/a%20b/%C3%BC?x=1", why=_DECODED),
    Fact(key="path", value="/a/b", when="/a%2Fb", target=b"/a%2Fb", why=_DECODED),
    Fact(key="path", value="/a%20b", when="/a%2520b", target=b"/a%2520b", why="decoded once"),
    Fact(key="path", value="/a+b", when="/a+b", target=b"/a+b", why="a plus is a plus in a path"),
    Fact(key="path", value="//a//../b", when="//a//../b", target=b"//a//../b", why="nothing is normalised"),
    Fact(key="path", value="/x", when="http://example.com/x", target=b"http://example.com/x", why="absolute form"),
    Fact(key="path", value="/app/x", when="/x, --root-path /app", target=b"/x", settings=_ROOT, why="begins with root_path"),
    Fact(key="raw_path", value=b"/a%20b/%c3%bc", when="/a%20b/%c3%bc?x=1", target=b"/a%20b/%c3%bc?x=1", why=_UNMODIFIED),
    Fact(
        key="raw_path", value=b"/app/%78", when="/%78, --root-path /app", target=b"/%78", settings=_ROOT,
        why="begins with root_path, as path does, and as other servers have it",
    ),
    Fact(key="query_string", value=b"", why="percent-encoded"),
    Fact(key="query_string", value=b"x=%20&y=?&z", when="/?x=%20&y=?&z", target=b"/?x=%20&y=?&z", why="percent-encoded"),
    Fact(key="query_string", value=b"", when="/?", target=b"/?"),
    Fact(key="root_path", value=""),
    Fact(key="root_path", value="/app", when="--root-path /app", settings=_ROOT),
    Fact(
        key="headers", value=[(b"host", b"example.com"), (b"x-a", b"1"), (b"x-b", b"\xe4"), (b"x-a", b"2, 3"), (b"cookie", b"a=b; c=d")],
        when="X-A: 1, x-b: ä, X-a: 2, 3, Cookie: a=b; c=d", kinds=_HTTP,
        headers=(b"X-A: 1", b"x-b:\xe4 ", b"X-a: 2, 3", b"Cookie: a=b; c=d"), why="in order, duplicates as received, names in lower case",
    ),
    Fact(key="client", value=("192.0.2.1", 50000), when="TCP"),
    Fact(
        key="client", value=("203.0.113.9", 0), when="X-Forwarded-For: 203.0.113.9 of a trusted proxy",
        headers=(b"X-Forwarded-For: 203.0.113.9",), settings=_PROXY, why="its port is not known",
    ),
    Fact(
        key="client", value=("192.0.2.1", 50000), when="X-Forwarded-For of somebody else", headers=(b"X-Forwarded-For: 203.0.113.9",),
    ),
    Fact(key="server", value=("192.0.2.80", 80), when="TCP"),
    Fact(key="subprotocols", value=[], kinds=_WEBSOCKET),
    Fact(
        key="subprotocols", value=["chat.v2", "chat.v1", "x"], when="Sec-WebSocket-Protocol: chat.v2,chat.v1 and x", kinds=_WEBSOCKET,
        headers=(b"Sec-WebSocket-Protocol: chat.v2,chat.v1", b"Sec-WebSocket-Protocol: x"),
    ),
    Fact(key="state", value={}),
    Fact(key="extensions", value={"http": {"http.response.pathsend": {}}, "websocket": {"websocket.http.response": {}}}),
)  # fmt: skip

SCOPE_TYPES: dict[str, type] = {
    "type": str, "asgi": dict, "http_version": str, "scheme": str, "path": str, "raw_path": bytes, "query_string": bytes, "root_path": str,
    "headers": list, "client": tuple, "server": tuple, "state": dict, "extensions": dict,
}  # fmt: skip
