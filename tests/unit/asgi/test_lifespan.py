"""The lifespan of an ASGI application: its start and stop, whatever it answers, and the state that it leaves."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import Any

import pytest
from twisted.logger import LogLevel, capturedLogs

from tests.support.asgi import play, skip, turn
from tests.support.asgi_table import LIVES, Life
from twistedws.errors import StartupError
from twistedws.gateway.asgi.lifespan import Lifespan
from twistedws.gateway.asgi.scope import Scope

TIMEOUT = 5.0


class Scripted:
    """An application that does what a script says."""

    def __init__(self, script: tuple[str, ...]) -> None:
        self.script = script
        self.scope: Scope = {}
        self.asked: list[str] = []
        self.is_done = False  # nothing more will be asked of it

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        self.scope = scope
        for step in self.script:
            what, _, text = step.partition(": ")
            if not (self.is_done or what.startswith("again ") or what.endswith("at once")):
                self.asked.append((await receive())["type"])
            if what.startswith("returns"):
                return
            if what.startswith("raises"):
                raise ZeroDivisionError("secret")
            if what == "is cancelled":
                raise asyncio.CancelledError
            if what.startswith("hangs"):
                await self._hang(0 if what == "hangs" else 1)
            await send({"type": what.removeprefix("again "), **({"message": text} if text else {})})
            self.is_done = what.startswith("lifespan.shutdown") or what == "lifespan.startup.failed"

    async def _hang(self, cancels: int) -> None:
        """Wait for nothing, and take no notice of so many attempts to end it."""
        for _ in range(cancels):
            with suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()
        await asyncio.get_running_loop().create_future()


async def patiently(awaitable: Any) -> Any:
    """The result of what may wait for a timeout of the application's."""
    task = asyncio.ensure_future(awaitable)
    for _ in range(8):
        await turn()
        if task.done():
            break
        await skip(TIMEOUT)
    assert task.done(), "it waits for ever"
    return task.result()


@pytest.mark.parametrize("life", LIVES, ids=str)
def test_life(life: Life) -> None:
    """A lifespan goes as its row says; nothing of it is left running, and nothing is complained of behind the log's back."""
    complaints: list[dict[str, Any]] = []
    kept: list[object] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        app = Scripted(life.script)
        lifespan = Lifespan(app, life.mode, TIMEOUT)  # type: ignore[arg-type]  # one of three words
        with capturedLogs() as events:
            if life.startup is None:
                await patiently(lifespan.startup())
            else:
                with pytest.raises(StartupError) as failed:
                    await patiently(lifespan.startup())
                assert life.startup in str(failed.value)
            told = [each["log_level"].name for each in events if each["log_level"] > LogLevel.info]
            assert told == [] or len(app.asked) == 1  # an end before it was asked for is told at once
            if life.startup is None:
                await patiently(lifespan.shutdown())
        assert tuple(each["log_level"].name for each in events if each["log_level"] > LogLevel.info) == life.shutdown
        assert tuple(app.asked) == life.asked
        if "whatever" in str(life):  # a task that nobody knew any more would be destroyed in the midst of it
            kept.extend(asyncio.all_tasks())
        else:
            assert asyncio.all_tasks() == {asyncio.current_task()}
        del lifespan, app, events
        if life.startup is not None:
            del failed
        gc.collect()

    play(scenario)
    gc.collect()
    assert complaints == []


def test_scope() -> None:
    """The scope has its type, the versions and an empty state; the application's state is what it puts there."""

    async def scenario() -> None:
        app = Scripted(("lifespan.startup.complete", "returns"))
        lifespan = Lifespan(app, "on", TIMEOUT)
        await lifespan.startup()
        assert app.scope == {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        app.scope["state"]["pool"] = 1
        assert lifespan.state == {"pool": 1}
        await lifespan.shutdown()

    play(scenario)


@pytest.mark.parametrize("event", [{}, {"message": "x"}, None, "lifespan.startup.complete", {"type": b"lifespan.startup.complete"}])
def test_no_event(event: Any) -> None:
    """What is no event is refused, and says so; a good answer may follow."""
    heard: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        with pytest.raises(RuntimeError, match=r"startup\.complete or lifespan\.startup\.failed is accepted") as refused:
            await send(event)
        heard.append(str(refused.value))
        await send({"type": "lifespan.startup.complete", "later": 1})

    async def scenario() -> None:
        lifespan = Lifespan(app, "on", TIMEOUT)
        await lifespan.startup()
        await lifespan.shutdown()

    play(scenario)
    assert len(heard) == 1


def test_startup_is_waited_for() -> None:
    """The start is not over before the application says so, however long that takes."""
    gate: asyncio.Event

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await gate.wait()
        await send({"type": "lifespan.startup.complete"})
        await receive()

    async def scenario() -> None:
        nonlocal gate
        gate = asyncio.Event()
        lifespan = Lifespan(app, "auto", TIMEOUT)
        starting = asyncio.ensure_future(lifespan.startup())
        await skip(100_000)
        assert not starting.done()
        gate.set()
        await starting
        await lifespan.shutdown()

    play(scenario)


def test_any_time() -> None:
    """With a timeout of 0 the stop takes any time, and still ends when the application does."""
    gate: asyncio.Event

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await gate.wait()
        await send({"type": "lifespan.shutdown.complete"})

    async def scenario() -> None:
        nonlocal gate
        gate = asyncio.Event()
        lifespan = Lifespan(app, "auto", 0)
        await lifespan.startup()
        stopping = asyncio.ensure_future(lifespan.shutdown())
        await skip(100_000)
        assert not stopping.done()
        gate.set()
        await turn()
        assert stopping.done()

    play(scenario)


def test_the_log_names_where_it_hangs() -> None:
    """A stop that is cancelled is told in one line, with the place at which the application waits."""

    async def scenario() -> None:
        lifespan = Lifespan(Scripted(("lifespan.startup.complete", "hangs")), "auto", TIMEOUT)
        await lifespan.startup()
        with capturedLogs() as events:
            await patiently(lifespan.shutdown())
        (event,) = events
        assert "_hang" in event["stack"]

    play(scenario)


def test_shutdown_without_startup() -> None:
    """A stop before any start does nothing."""

    async def scenario() -> None:
        await Lifespan(Scripted(()), "auto", TIMEOUT).shutdown()

    play(scenario)


def test_a_shutdown_that_is_hurried() -> None:
    """One that is cancelled ends at once, and so does the application, whatever time it had."""

    async def scenario() -> None:
        app = Scripted(("lifespan.startup.complete", "hangs"))
        lifespan = Lifespan(app, "on", 0.0)
        await lifespan.startup()
        stopping = asyncio.ensure_future(lifespan.shutdown())
        await turn()
        with capturedLogs() as events:
            stopping.cancel()
            await turn()
        assert stopping.done()
        assert [each["log_level"].name for each in events] == ["warn"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    play(scenario)
