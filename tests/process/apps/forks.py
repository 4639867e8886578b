"""Starts a child by fork, as a pool of processes does, which outlives its worker; says the child's number."""

import os
import time

from twistedws import Close, Session

_CHILD = os.fork()
if not _CHILD:
    time.sleep(60)
    os._exit(0)


class App:
    """Say which process was forked."""

    def __init__(self, session: Session) -> None: ...

    def opened(self, session: Session) -> None: ...

    def received(self, session: Session, message: str | bytes) -> None:
        session.send(str(_CHILD))

    def closed(self, session: Session, close: Close) -> None: ...
