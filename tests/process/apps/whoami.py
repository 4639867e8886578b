"""Answers each message with the application's version, the process that answers, and the message.

The version is what the file ``version.txt`` in the current directory said when this was imported; 1 if there was none.
"""

import os
from pathlib import Path

from twistedws import Close, Session

_FILE = Path("version.txt")
VERSION = _FILE.read_text().strip() if _FILE.exists() else "1"


class App:
    """Say who answers."""

    def __init__(self, session: Session) -> None: ...

    def opened(self, session: Session) -> None: ...

    def received(self, session: Session, message: str | bytes) -> None:
        text = message if isinstance(message, str) else message.decode("utf-8", "replace")
        session.send(f"{VERSION} {os.getpid()} {text}")

    def closed(self, session: Session, close: Close) -> None: ...
