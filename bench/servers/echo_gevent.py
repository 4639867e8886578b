"""gevent-websocket in gevent's pywsgi server: ``echo_gevent.py PORT PING``; it has no pings, so PING is ignored.

The handler class of its README, with no request log. The application is a plain WSGI one, in a greenlet for each connection.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402 - nothing may be imported before the patch
from collections.abc import Callable, Iterable  # noqa: E402
from typing import Any  # noqa: E402

from gevent.pywsgi import WSGIServer  # noqa: E402
from geventwebsocket import WebSocketError  # noqa: E402
from geventwebsocket.handler import WebSocketHandler  # noqa: E402


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Send every message back."""
    socket = environ["wsgi.websocket"]
    try:
        while (message := socket.receive()) is not None:
            socket.send(message, binary=not isinstance(message, str))
    except WebSocketError:
        pass  # closed meanwhile
    return []


if __name__ == "__main__":
    WSGIServer(("127.0.0.1", int(sys.argv[1])), app, backlog=4096, handler_class=WebSocketHandler, log=None).serve_forever()
