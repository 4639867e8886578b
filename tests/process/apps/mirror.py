"""Tells a client what the server understood of its request, and then echoes."""

import json

from twistedws import Close, Session


class Mirror:
    """Send the request as JSON first."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def opened(self, session: Session) -> None:
        """Send path, origin, peer and headers, bytes as Latin-1."""
        request = session.request
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers]
        session.send(json.dumps({"target": request.target, "origin": request.origin, "peer": session.peer, "headers": headers}))

    def received(self, session: Session, message: str | bytes) -> None:
        """Echo."""
        session.send(message)

    def closed(self, session: Session, close: Close) -> None:
        """Do nothing."""
