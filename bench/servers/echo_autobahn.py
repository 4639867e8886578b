"""Stock Autobahn on Twisted's epoll reactor: ``echo_autobahn.py PORT PING``.

Its defaults, with the compression of its own examples for clients that ask for it. Fan-out is by a prepared message, as in its broadcast
example.
"""

from __future__ import annotations

from twisted.internet import epollreactor

epollreactor.install()

import sys  # noqa: E402 - the reactor is installed before anything imports it
from typing import ClassVar  # noqa: E402

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol  # noqa: E402
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept  # noqa: E402
from autobahn.websocket.types import ConnectionRequest  # noqa: E402
from twisted.internet import reactor  # noqa: E402


class Echo(WebSocketServerProtocol):
    """Sends every message back; on two paths, subscribers and publishers."""

    subscribers: ClassVar[set[Echo]] = set()
    path = "/"

    def onConnect(self, request: ConnectionRequest) -> None:
        """Note the path."""
        self.path = request.path

    def onOpen(self) -> None:
        """Note a subscriber."""
        if self.path == "/subscribe":
            self.subscribers.add(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Send it back, or to all subscribers."""
        if self.path != "/publish":
            self.sendMessage(payload, isBinary)
            return
        message = self.factory.prepareMessage(payload, isBinary)
        for each in self.subscribers:
            each.sendPreparedMessage(message)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Forget a subscriber."""
        self.subscribers.discard(self)


def accept(offers: list[object]) -> PerMessageDeflateOfferAccept | None:
    """Accept the first offer of permessage-deflate."""
    return next((PerMessageDeflateOfferAccept(each) for each in offers if isinstance(each, PerMessageDeflateOffer)), None)


def main(port: int, ping: float) -> None:
    """Serve for ever."""
    factory = WebSocketServerFactory()
    factory.protocol = Echo
    factory.setProtocolOptions(autoPingInterval=ping, autoPingTimeout=ping, perMessageCompressionAccept=accept)
    reactor.listenTCP(port, factory, backlog=4096, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
