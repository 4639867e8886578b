"""Who connects is in the room; what one of them sends, all get."""

from __future__ import annotations

from twistedws import Close, Session, fan_out

members: set[Session] = set()


class Member:
    """One in the room."""

    def __init__(self, session: Session) -> None:
        pass

    def opened(self, session: Session) -> None:
        """Come in."""
        members.add(session)

    def received(self, session: Session, message: str | bytes) -> None:
        """Tell all."""
        fan_out(members, message)

    def closed(self, session: Session, close: Close) -> None:
        """Leave."""
        members.discard(session)
