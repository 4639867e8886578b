"""A production WebSocket server for long-lived connections, on Twisted and Autobahn.

The names here are what an application uses. The server itself is started with ``twistd -n twistedws``.
"""

from typing import TYPE_CHECKING

from twistedws.errors import By, Cause, Close, Closed, Refused
from twistedws.fanout import fan_out
from twistedws.gateway.coroutine import AsyncSession
from twistedws.session import Application, Handler, Session, application

if TYPE_CHECKING:
    from twistedws.gateway.wsgi import WebSocketError

__version__ = "0.1.0"

__all__ = [
    "Application",
    "AsyncSession",
    "By",
    "Cause",
    "Close",
    "Closed",
    "Handler",
    "Refused",
    "Session",
    "WebSocketError",
    "application",
    "fan_out",
]


def __getattr__(name: str) -> object:
    """Return what only WSGI applications need: it imports gevent-websocket where that is installed."""
    if name == "WebSocketError":
        from twistedws.gateway.wsgi import WebSocketError

        return WebSocketError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
