"""aiohttp's server on uvloop: ``echo_aiohttp.py PORT PING``.

``web.run_app`` without an access log, as its documentation advises for speed; otherwise its defaults: compression for clients that ask
for it, 4 MiB as the largest message.
"""

from __future__ import annotations

import sys

import uvloop
from aiohttp import WSMsgType, web

PING = float(sys.argv[2]) or None


async def handle(request: web.Request) -> web.WebSocketResponse:
    """Send every message back."""
    socket = web.WebSocketResponse(heartbeat=PING)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


def main(port: int) -> None:
    """Serve for ever."""
    app = web.Application()
    app.router.add_get("/", handle)
    web.run_app(app, host="127.0.0.1", port=port, backlog=4096, access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main(int(sys.argv[1]))
