"""A handler class that sends every message back: the cheapest kind of application, on any reactor.

twistd -n twistedws --app-dir examples echo_handler:Echo
"""

from __future__ import annotations

from twistedws import Close, Session


class Echo:
    """Called from the event loop; its methods must not block."""

    def __init__(self, session: Session) -> None:
        self.count = 0

    def opened(self, session: Session) -> None:
        """The handshake is done."""

    def received(self, session: Session, message: str | bytes) -> None:
        """Send it back; False would mean that the session is closing."""
        self.count += 1
        session.send(message)

    def closed(self, session: Session, close: Close) -> None:
        """Say why: exactly once, whatever happened."""
        print(f"{session.peer}: {self.count} messages, {close.code} {close.cause.value} by {close.by.value}")
