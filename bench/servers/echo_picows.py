"""picows, its core API on uvloop: ``echo_picows.py PORT PING``.

The echo of its README: a listener class, no coroutine, the payload sent as a view of the received bytes. Its default largest frame is
10 MiB and it answers pings by itself. A listener is given frames, not messages: text is not checked for UTF-8, fragments are not joined.
"""

from __future__ import annotations

import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

subscribers: set[WSTransport] = set()


class Listener(WSListener):
    """Sends every frame back."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Send it back."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


class Subscriber(WSListener):
    """Is sent what a publisher sends."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Note it."""
        subscribers.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Forget it."""
        subscribers.discard(transport)


class Publisher(WSListener):
    """Its frames go to all subscribers."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Send it to all."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
            return
        payload = frame.get_payload_as_bytes()
        for each in subscribers:
            each.send(frame.msg_type, payload)


LISTENERS: dict[str, type[WSListener]] = {"/subscribe": Subscriber, "/publish": Publisher}


def listener(request: WSUpgradeRequest) -> WSListener:
    """Return the listener for a path."""
    return LISTENERS.get(request.path.decode(), Listener)()


async def serve(port: int, ping: float) -> None:
    """Serve for ever."""
    pings = {"enable_auto_ping": True, "auto_ping_idle_timeout": ping, "auto_ping_reply_timeout": ping} if ping else {}
    server = await ws_create_server(listener, "127.0.0.1", port, backlog=4096, **pings)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2])))
