"""An echo application for gevent-websocket: ``environ['wsgi.websocket']``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Send every message back."""
    socket = environ["wsgi.websocket"]
    while (message := socket.receive()) is not None:
        socket.send(message)
    return []
