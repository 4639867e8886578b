"""Every exception that this package raises on purpose, and the causes for which a session may end.

Floor 0: imports nothing of the package and does no I/O. The words in ``Cause`` are the ones that the application, the log and the
metrics use; a close that fits none of them is a reason to extend the enumeration, never to reuse a word.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec


class Cause(str, enum.Enum):
    """Why a session ended. Exactly one holds for each session: the first that happened."""

    CLIENT = "client"  # the peer sent a close frame
    FIN = "fin"  # the peer ended TCP with no close frame
    RESET = "reset"  # the connection was reset, or timed out in the kernel
    TLS_ERROR = "tls_error"  # the TLS layer failed
    PONG_TIMEOUT = "pong_timeout"  # nothing was heard within the deadline after a ping
    WRITE_STALL = "write_stall"  # the peer took none of our output within the deadline
    SLOW_CONSUMER = "slow_consumer"  # more output waited than the queue may hold
    PROTOCOL_ERROR = "protocol_error"  # the peer broke RFC 6455 or 7692
    INVALID_UTF8 = "invalid_utf8"  # text or a close reason that is no UTF-8
    TOO_BIG = "too_big"  # a message over the size or frame-count limit
    RATE_LIMIT = "rate_limit"  # more messages or control frames than allowed
    HANDSHAKE_TIMEOUT = "handshake_timeout"  # the request head, or its answer, took too long
    REQUEST_TIMEOUT = "request_timeout"  # the body of an HTTP request took too long
    HANDSHAKE_REFUSED = "handshake_refused"  # a bad request, a limit, a foreign origin, or the application said no
    APPLICATION = "application"  # the application closed the session
    APPLICATION_ERROR = "application_error"  # the application raised
    DRAIN = "drain"  # this server is going away
    OPERATOR = "operator"  # a person closed the session
    WORKER_LOST = "worker_lost"  # the process that held the session died
    INTERNAL_ERROR = "internal_error"  # a fault of this server

    __hash__ = str.__hash__  # Enum's own is Python, and a Counter asks for it twice per session


class By(str, enum.Enum):
    """Who ended a session."""

    CLIENT = "client"
    SERVER = "server"
    APPLICATION = "application"
    OPERATOR = "operator"


class Close(msgspec.Struct, frozen=True, gc=False):
    """How a session ended.

    Attributes:
        code: The close code that ended it (RFC 6455 section 7.4): the peer's where it closed (1005 when its close frame held
            none), ours where we did, 1006 where the connection ended with no close frame.
        reason: The text that came with the code, at most 123 bytes as UTF-8; "" where there was none.
        cause: Why.
        by: Who.
    """

    code: int
    reason: str
    cause: Cause
    by: By


class TwistedWSError(Exception):
    """The root of this package's exceptions."""


class ConfigurationError(TwistedWSError):
    """A setting, a value or a file that the server cannot start with. Its text is one line for a person.

    Args:
        setting: The setting at fault, as the user wrote it (``--ping-interval``, ``TWISTEDWS_PING_INTERVAL``, ``FILE: ping-interval``).
        value: The value found there; None where the setting itself is at fault.
        accepted: What would have been accepted.
    """

    def __init__(self, setting: str, value: object, accepted: str) -> None:
        self.setting, self.value, self.accepted = setting, value, accepted
        shown = "" if value is None else f": {_shown(value)}"
        super().__init__(f"{setting}{shown}: {accepted}")


class ApplicationLoadError(ConfigurationError):
    """The named application cannot be imported, or is none."""


class ListenError(TwistedWSError):
    """An endpoint could not be listened on. It is the machine's state, not the configuration, that is at fault."""


class StartupError(TwistedWSError):
    """The application says that it cannot start."""


class Refused(TwistedWSError):  # noqa: N818 - an answer, not a fault
    """Raised by an application to answer an opening handshake with something other than 101.

    Args:
        status: An HTTP status from 200 to 599; 101 is what was asked for, and no other is a session.
        headers: Pairs of header name and value, of tokens and visible ASCII.
        body: The response's body; str is sent as UTF-8 text/plain unless a Content-Type is among the headers.
        why: For the log.

    Raises:
        ValueError: The status is no integer from 200 to 599.
    """

    def __init__(
        self, status: int = 403, headers: Iterable[tuple[str, str]] = (), body: bytes | str = b"", *, why: str = "the application refused"
    ) -> None:
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ValueError(f"status: {status!r}: a handshake is refused with a status from 200 to 599")
        self.status, self.headers, self.body, self.why = status, tuple(headers), body, why
        super().__init__(f"{status}")


class Disconnected(TwistedWSError, OSError):  # noqa: N818 - ASGI's word
    """An ASGI application sends to a peer that has gone; an ``OSError``, as the specification asks (WWW 2.4)."""


class Closed(TwistedWSError):  # noqa: N818 - named like the event that it reports
    """The session has ended or is ending: nothing more can be received from it or sent to it.

    Attributes:
        close: How it ended.
    """

    def __init__(self, close: Close) -> None:
        self.close = close
        super().__init__(f"session closed: {close.code} {close.cause.value}" + (f" ({close.reason})" if close.reason else ""))


def _shown(value: object) -> str:
    """The value as a message may show it: printable, one line, at most 100 characters."""
    text = value if isinstance(value, str) else repr(value)
    text = ascii(text)[1:-1] if not text.isprintable() else text
    return text if len(text) <= 100 else text[:97] + "..."
