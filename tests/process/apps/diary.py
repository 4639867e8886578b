"""Writes what it hears, and when, to the file that the variable DIARY names."""

import json
import os
import time
from pathlib import Path

from twistedws import Close, Session


class Diary:
    """Echo, and write a line of JSON for each callback but ``received``."""

    def __init__(self, session: Session) -> None:
        self._path = Path(os.environ["DIARY"])

    def opened(self, session: Session) -> None:
        """Note it."""
        self._write(event="opened", session=session.id)

    def received(self, session: Session, message: str | bytes) -> None:
        """Echo."""
        session.send(message)

    def closed(self, session: Session, close: Close) -> None:
        """Note it."""
        self._write(event="closed", session=session.id, code=close.code, cause=close.cause.value, by=close.by.value)

    def _write(self, **entry: object) -> None:
        # CLOCK_MONOTONIC is one for all processes of a machine: the test compares it with its own
        with self._path.open("a") as file:
            file.write(json.dumps({**entry, "at": time.monotonic()}) + "\n")
