"""What an ASGI application is told of a connection or a request: its scope, and the checks of what it answers. Floor 6."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from twistedws.exchange import Endpoints
from twistedws.gateway.pump import Share, Tasks
from twistedws.handshake import Request, check_header

Event = dict[str, Any]
Scope = dict[str, Any]
ASGI = Callable[[Scope, Callable[[], Awaitable[Event]], Callable[[Event], Awaitable[None]]], Awaitable[object]]

# HTTP is 2.5 too, but for its word: told 2.4 or later, Starlette no longer listens for the disconnect, and a stream whose client has
# gone is noticed at its next event only. uvicorn says 2.3 as well.
_SPEC_VERSIONS = {"websocket": "2.5", "http": "2.3"}

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Hosted:
    """An ASGI application and what all its scopes share.

    Attributes:
        app: The application.
        tasks: What runs of it.
        share: What it has sent since the loop had its turn.
        state: What its lifespan has put there.
        root_path: The path below which a proxy serves it, and which the proxy strips.
        inbox_size: Bytes that may wait for it in a session or a request.
        most_denial: Bytes that a denial response may have; 0 for any number.
    """

    app: ASGI
    tasks: Tasks
    share: Share
    state: dict[str, Any]
    root_path: str
    inbox_size: int
    most_denial: int

    def scope(self, kind: str, scheme: str, request: Request, endpoints: Endpoints, extensions: dict[str, dict[str, Any]]) -> Scope:
        """Return a connection's scope (WWW specification, "HTTP connection scope" and "WebSocket connection scope").

        ``path`` and ``raw_path`` begin with ``root_path``, as Starlette and Django expect it.
        """
        path, raw_path = request.path, request.raw_path
        if self.root_path:
            path, raw_path = self.root_path + path, self.root_path.encode() + raw_path
        return {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": _SPEC_VERSIONS[kind]},
            "http_version": request.version,
            "scheme": scheme,
            "path": path,
            "raw_path": raw_path,
            "query_string": request.query_string,
            "root_path": self.root_path,
            "headers": list(request.headers),
            "client": endpoints.client if endpoints.client is None or endpoints.client[1] is not None else None,
            "server": endpoints.server,
            "state": self.state.copy(),
            "extensions": extensions,
        }


def described(event: object) -> str:
    """Name an event for a message of an error."""
    kind = event.get("type") if isinstance(event, dict) else None
    return repr(kind) if isinstance(kind, str) else f"{type(event).__name__} without a type"


def checked_headers(event: Event) -> list[Header]:
    """Return the headers of a message that begins a response.

    Raises:
        TypeError: A name or a value is not bytes.
        ValueError: One cannot be sent.
    """
    headers: Iterable[Any] = event.get("headers") or ()
    checked: list[Header] = []
    for pair in headers:
        name, value = pair
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise TypeError(f"{event['type']}: headers: {pair!r}: pairs of bytes are accepted")
        check_header(name, value)
        checked.append((name, value))
    return checked


def checked_status(event: Event) -> int:
    """Return the status of a message that begins a response.

    Raises:
        ValueError: It is none of a final response.
    """
    status = event.get("status")
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"{event['type']}: status: {status!r}: 200 to 599 is accepted")
    return status


def checked_body(event: Event) -> bytes:
    """Return the body of a message.

    Raises:
        TypeError: It is not bytes.
    """
    body = event.get("body", b"")
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise TypeError(f"{event['type']}: body: {type(body).__name__}: bytes are accepted")
    return bytes(body)
