"""The applications that twistedws hosts: ``twistd -n twistedws --app-dir bench/servers ours:Echo``."""

from __future__ import annotations

from twistedws import AsyncSession, Close, Session, fan_out

subscribers: set[Session] = set()


class Echo:
    """Sends every message back."""

    def __init__(self, session: Session) -> None:
        pass

    def opened(self, session: Session) -> None:
        """Nothing to do."""

    def received(self, session: Session, message: str | bytes) -> None:
        """Send it back."""
        session.send(message)

    def closed(self, session: Session, close: Close) -> None:
        """Nothing to do."""


async def echo(session: AsyncSession) -> None:
    """Send every message back, in a coroutine for each session."""
    async for message in session:
        await session.send(message)


class FanOut:
    """Sends what a publisher sends to all who connected to ``/subscribe``."""

    def __init__(self, session: Session) -> None:
        pass

    def opened(self, session: Session) -> None:
        """Note a subscriber."""
        if session.request.path == "/subscribe":
            subscribers.add(session)

    def received(self, session: Session, message: str | bytes) -> None:
        """Send it to all subscribers."""
        fan_out(subscribers, message)

    def closed(self, session: Session, close: Close) -> None:
        """Forget a subscriber."""
        subscribers.discard(session)
