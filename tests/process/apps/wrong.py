"""What is no application, for the tests of wrong configurations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

number = 3


def of_four(a: int, b: int, c: int, d: int) -> None:
    """Take what no kind of application takes."""


async def asgi(scope: object, receive: object, send: object) -> None:
    """Look like ASGI."""


async def cannot_start(scope: object, receive: object, send: Callable[[dict[str, str]], Awaitable[None]]) -> None:
    """Say that a startup fails."""
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def coroutine(session: object) -> None:
    """Be an application, where there is an asyncio loop."""


class NoHandler:
    """Have one callback of three."""

    def opened(self, session: object) -> None:
        """Be there."""


class AsyncHandler:
    """Have a callback that would never run."""

    def opened(self, session: object) -> None:
        """Be there."""

    async def received(self, session: object, message: object) -> None:
        """Never run."""

    def closed(self, session: object, close: object) -> None:
        """Be there."""
