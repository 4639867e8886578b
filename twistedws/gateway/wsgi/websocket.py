"""``environ['wsgi.websocket']``: a WebSocket as applications for gevent-websocket 0.10.1 know it, for blocking threads. Floor 6.

Laws of this module:

- ``receive`` and ``send`` block the thread that calls them, and nobody else; both end at once when the connection is lost.
- What was received before the end is still received; then ``receive`` returns None once, and raises from then on.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Protocol

from twistedws.errors import TwistedWSError
from twistedws.frames import BINARY, MAX_CONTROL_PAYLOAD, PING, TEXT, frame, is_close_code
from twistedws.gateway.wsgi.clients import Handler
from twistedws.gateway.wsgi.environ import Environ
from twistedws.session import Framed

if TYPE_CHECKING:
    _WebSocketError = OSError
else:
    try:  # applications catch theirs, by that name
        from geventwebsocket.exceptions import WebSocketError as _WebSocketError
    except Exception:  # it is not installed, or does not work on this Python
        _WebSocketError = OSError

_DEAD, _ALREADY_CLOSED = "Socket is dead", "Connection is already closed"  # as applications may compare them


class WebSocketError(TwistedWSError, _WebSocketError):
    """The connection is closed; where gevent-websocket is installed, a subclass of its class of that name, else of ``OSError``."""


class Thread(Protocol):
    """What a ``WebSocket`` needs of the thread that runs its session.

    Attributes:
        is_gone: Whether the connection is gone.
        has_received: Whether the application has ever asked for a message.
    """

    is_gone: bool
    has_received: bool

    @property
    def has_messages(self) -> bool:
        """Whether messages wait to be received."""

    def receive(self) -> str | bytes | None:
        """Wait for a message; None if there will be no more."""

    def send(self, framed: Framed) -> bool:
        """Send a message; wait first while the peer is slow. False if the connection has ended."""

    def ping(self, payload: bytes) -> bool:
        """Send a ping, as ``send`` does."""

    def close(self, code: int, reason: str) -> None:
        """Close, behind what was sent."""


class WebSocket:
    """What an application finds in ``environ['wsgi.websocket']``. Any thread may use it.

    Attributes:
        environ: The WSGI environ of its opening handshake.
        handler: ``handler.active_client`` and ``handler.server.clients``, as applications for gevent-websocket use them.
    """

    OPCODE_TEXT, OPCODE_BINARY, OPCODE_PING = TEXT, BINARY, PING

    __slots__ = ("__weakref__", "_has_ended", "_reading", "_thread", "environ", "handler")

    environ: Environ
    handler: Handler

    def __init__(self, thread: Thread) -> None:
        self._thread = thread
        self._has_ended = False  # the application has closed it, or knows that it is closed
        self._reading = threading.Lock()

    def receive(self) -> str | bytearray | None:
        """Wait for a message.

        Returns:
            Text as str, binary as bytearray; None once the connection has ended, however it ended.

        Raises:
            WebSocketError: The connection had ended before; the application knows it already.
        """
        if self._has_ended:
            raise WebSocketError(_ALREADY_CLOSED)
        with self._reading:
            message = self._thread.receive()
        if type(message) is bytes:
            return bytearray(message)
        if message is None:
            self._has_ended = True
        return message  # type: ignore[return-value]  # it is text, or None

    def send(self, message: str | bytes | bytearray | memoryview, binary: bool | None = None) -> None:
        """Send a message; wait first while the peer takes less than it is sent.

        To a peer that has gone nothing is sent, and no error raised, as long as messages of its wait for an application that receives: one
        that answers each would otherwise lose all behind the first.

        Args:
            message: Sent as text if it is a str, else as binary.
            binary: True for binary whatever it is (text as its UTF-8), False for text.

        Raises:
            WebSocketError: The connection has ended.
            TypeError: The message is neither text nor bytes.
            UnicodeError: The message is to be text, and has no UTF-8.
        """
        if self._has_ended:  # before the look at what it is: None, where what was received is sent on
            raise WebSocketError(_DEAD)
        kind = type(message)
        if kind is str or isinstance(message, str):
            payload, opcode = message.encode(), BINARY if binary else TEXT  # type: ignore[union-attr]
        elif isinstance(message, (bytes, bytearray, memoryview)):
            payload, opcode = bytes(message), TEXT if binary is False else BINARY
            if binary is False:
                payload.decode()
        else:
            raise TypeError(f"message: {kind.__name__}: str is sent as text, bytes as binary")
        if not self._thread.send(Framed(frame(opcode, payload), opcode, payload)) and not self._is_behind:
            raise WebSocketError(_DEAD)

    def send_frame(self, message: str | bytes | bytearray | memoryview, opcode: int) -> None:
        """Send a message by its opcode, or a ping. Pings are sent without this, every ``--ping-interval``.

        Args:
            message: Of a ping at most 125 bytes.
            opcode: ``OPCODE_TEXT``, ``OPCODE_BINARY`` or ``OPCODE_PING``.

        Raises:
            WebSocketError: The connection has ended.
            ValueError: It is another opcode, or a longer ping.
        """
        if opcode != PING:
            if opcode not in (TEXT, BINARY):
                raise ValueError(f"opcode: {opcode!r}: {TEXT} (text), {BINARY} (binary) and {PING} (ping) can be sent")
            self.send(message, opcode == BINARY)
            return
        payload = message.encode() if isinstance(message, str) else bytes(message)
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise ValueError(f"message: {len(payload)} bytes: a ping of at most {MAX_CONTROL_PAYLOAD} can be sent")
        if self._has_ended or not (self._thread.ping(payload) or self._is_behind):
            raise WebSocketError(_DEAD)

    def close(self, code: int = 1000, message: bytes | str = b"") -> None:
        """Close, once all that was sent has left; do not wait for it. A connection that has ended is left as it is.

        Args:
            code: 1000 to 1003, 1007 to 1014, or 3000 to 4999 (RFC 6455 section 7.4).
            message: The reason, cut to 123 bytes of UTF-8.

        Raises:
            ValueError: The code may not stand in a close frame.
        """
        if not isinstance(code, int) or not is_close_code(code):
            raise ValueError(f"close code: {code!r}: 1000 to 1003, 1007 to 1014 or 3000 to 4999 can be sent")
        reason = message if isinstance(message, str) else bytes(message or b"").decode("utf-8", "replace")
        if not self._has_ended:
            self._has_ended = True
            self._thread.close(code, reason)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, or the application has closed it.

        While messages that came before the end wait for an application that receives, it is not closed yet.
        """
        return self._has_ended or (self._thread.is_gone and not self._is_behind)

    @property
    def _is_behind(self) -> bool:
        """Whether messages wait for an application that receives."""
        return self._thread.has_received and self._thread.has_messages

    @property
    def origin(self) -> str | None:
        """The Origin field of the opening handshake."""
        return self._of_environ("HTTP_ORIGIN")

    @property
    def protocol(self) -> str | None:
        """The subprotocols that the client asked for, as it sent them."""
        return self._of_environ("HTTP_SEC_WEBSOCKET_PROTOCOL")

    @property
    def version(self) -> str | None:
        """The version of the WebSocket protocol: 13."""
        return self._of_environ("HTTP_SEC_WEBSOCKET_VERSION")

    @property
    def path(self) -> str | None:
        """The path of the opening handshake."""
        return self._of_environ("PATH_INFO")

    @property
    def logger(self) -> logging.Logger:
        """A logger of the standard library's, for applications that use it."""
        return logging.getLogger("geventwebsocket")

    def _of_environ(self, key: str) -> str | None:
        value: str | None = self.environ.get(key)
        return value
