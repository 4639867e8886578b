"""The lifespan of an ASGI application (https://asgi.readthedocs.io/en/latest/specs/lifespan.html, 2.0). Floor 6."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from twisted.logger import Logger
from twisted.python.failure import Failure

from twistedws.errors import StartupError
from twistedws.gateway.asgi.scope import ASGI, Event, described
from twistedws.gateway.pump import where_waiting

_log = Logger()


class Lifespan:
    """Tells the application of the server's start and stop.

    Args:
        app: The application.
        mode: Whether it is told: ``on`` has the start fail if it does not know how; ``auto`` goes on without.
        close_timeout: Seconds that its shutdown may take; 0 for any time.

    Attributes:
        state: What the application puts into ``scope["state"]``; each connection's scope has a copy.
    """

    def __init__(self, app: ASGI, mode: Literal["auto", "on", "off"], close_timeout: float) -> None:
        self.state: dict[str, Any] = {}
        self._app, self._mode, self._close_timeout = app, mode, close_timeout
        self._task: asyncio.Task[None] | None = None
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._answers: asyncio.Queue[Event] = asyncio.Queue()
        self._has_said_why = False  # whether the application has said why its shutdown failed
        self._awaited = ""  # "startup" or "shutdown", while an answer is awaited

    async def startup(self) -> None:
        """Start the application.

        Raises:
            StartupError: It says that it cannot, or does not know how to (``on``).
        """
        if self._mode == "off":
            return
        self._task = asyncio.get_running_loop().create_task(self._run(), name="lifespan")
        answer = await self._ask("startup")
        if answer is None:
            self._unsupported(self._error())
        elif answer["type"] == "lifespan.startup.failed":
            await asyncio.wait({self._task}, timeout=self._close_timeout or None)
            self._task.cancel()
            self._error()  # looked at, or asyncio would say that nobody did
            raise StartupError(answer.get("message") or "the application says that its startup failed, and not why")
        else:
            self._task.add_done_callback(self._ended)

    async def shutdown(self) -> None:
        """Let the application stop; a failure is logged, and one that does not end in time, or when this is cancelled, is cancelled."""
        task = self._task
        if task is None or task.done():
            return
        try:
            await asyncio.wait_for(self._stop(task), self._close_timeout or None)
        except asyncio.TimeoutError:
            self._give_up(task, f"it took more than {self._close_timeout:g} s")
            await asyncio.wait({task}, timeout=min(self._close_timeout, 1.0))
        except asyncio.CancelledError:
            self._give_up(task, "asked to hurry")

    async def _stop(self, task: asyncio.Task[None]) -> None:
        answer = await self._ask("shutdown")
        if answer is not None and answer["type"] == "lifespan.shutdown.failed":
            _log.error("the application's shutdown failed: {text}", text=answer.get("message") or "it does not say why")
        await asyncio.wait({task})

    def _give_up(self, task: asyncio.Task[None], why: str) -> None:
        _log.warn("cancelling the application's shutdown: {why}, at {stack}", why=why, stack=where_waiting(task))
        task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The application's lifespan has ended: with an error it is told at once, and not days later."""
        if not task.cancelled() and task.exception() is not None and not self._has_said_why:
            _log.failure("the application's lifespan ended with an error", Failure(task.exception()))

    async def _ask(self, what: str) -> Event | None:
        """Send an event and return the answer; None if the application ends without one."""
        assert self._task is not None  # noqa: S101 - started
        self._awaited = what
        self._events.put_nowait({"type": f"lifespan.{what}"})
        answer = asyncio.ensure_future(self._answers.get())
        try:
            await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else None
        finally:
            self._awaited = ""
            answer.cancel()

    def _unsupported(self, error: BaseException | None) -> None:
        text = "it returned without an answer" if error is None else f"{type(error).__name__}: {' '.join(str(error).split())}"
        if self._mode == "on":
            raise StartupError(f"the application does not answer lifespan.startup: {text}") from error
        _log.info("the application takes no part in the lifespan (--lifespan=auto): {text}", text=text)
        self._task = None

    def _error(self) -> BaseException | None:
        task = self._task
        return task.exception() if task is not None and task.done() and not task.cancelled() else None

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._events.get, self._send)
        except (SystemExit, KeyboardInterrupt) as error:  # asyncio would end the process with it
            raise RuntimeError(f"the application raised {error!r}") from error

    async def _send(self, event: Event) -> None:
        expected = (f"lifespan.{self._awaited}.complete", f"lifespan.{self._awaited}.failed")
        if not self._awaited or not isinstance(event, dict) or event.get("type") not in expected:
            accepted = f"{expected[0]} or {expected[1]} is accepted" if self._awaited else "nothing is accepted now"
            raise RuntimeError(f"ASGI message {described(event)}: {accepted}")
        self._awaited = ""
        self._has_said_why = event["type"] == "lifespan.shutdown.failed"
        self._answers.put_nowait(event)
