"""The application that is served when none is named: sends every message back, and shows a page to try it. Floor 5."""

from __future__ import annotations

from importlib.resources import files

from twistedws.errors import Close
from twistedws.session import Application, Session


class Echo:
    """Sends every message back as it came."""

    __slots__ = ()

    def opened(self, session: Session) -> None:
        """Nothing to do."""

    def received(self, session: Session, message: str | bytes) -> None:
        """Send it back."""
        session.send(message)

    def closed(self, session: Session, close: Close) -> None:
        """Nothing to do."""


def echo_application() -> Application:
    """Return the echo application with its page."""
    handler = Echo()
    page = files("twistedws.apps").joinpath("echo.html").read_bytes()
    return Application(lambda _: handler, "echo", page=page)
