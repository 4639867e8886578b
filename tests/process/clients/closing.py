"""An application that closes with the code and reason that it is told: ``close 4002 the reason``."""

from twistedws import AsyncSession


async def app(session: AsyncSession) -> None:
    """Wait for the order, and carry it out."""
    order = await session.receive()
    assert isinstance(order, str)
    _, code, reason = order.split(" ", 2)
    await session.close(int(code), reason)
