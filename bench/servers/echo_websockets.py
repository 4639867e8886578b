"""websockets' asyncio server on uvloop: ``echo_websockets.py PORT PING``.

Its defaults: compression for clients that ask for it, 1 MiB as the largest message. Fan-out is by ``websockets.broadcast``.
"""

from __future__ import annotations

import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

subscribers: set[ServerConnection] = set()


async def handle(connection: ServerConnection) -> None:
    """Serve one connection."""
    path = connection.request.path if connection.request else "/"
    if path == "/subscribe":
        subscribers.add(connection)
        try:
            await connection.wait_closed()
        finally:
            subscribers.discard(connection)
    elif path == "/publish":
        async for message in connection:
            broadcast(subscribers, message)
    else:
        async for message in connection:
            await connection.send(message)


async def main(port: int, ping: float) -> None:
    """Serve for ever."""
    async with serve(handle, "127.0.0.1", port, ping_interval=ping or None, backlog=4096) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
