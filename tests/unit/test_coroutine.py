"""``async def app(session)`` on a wire that notes, on a fresh asyncio loop for each test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from twisted.logger import capturedLogs

from tests.support.wire import FakeWire, make_session
from twistedws.errors import By, Cause, Close, Closed
from twistedws.gateway.coroutine import AsyncSession, coroutine_application
from twistedws.session import Session


class Stage:
    """A session with a coroutine behind it, and a way to let the loop turn."""

    def __init__(self, coroutine: Callable[[AsyncSession], Awaitable[object]], *, inbox_size: int = 1000, close_timeout: float = 0) -> None:
        self.wire = FakeWire()
        self.session = make_session(self.wire, queue_size=1000)
        self.application = coroutine_application(coroutine, "test", inbox_size=inbox_size, close_timeout=close_timeout)
        self.handler: Any = self.application(self.session)
        self.session.open(self.handler, 0.0)

    async def turn(self, *messages: str | bytes) -> None:
        """Deliver messages, and let everybody run who can."""
        for each in messages:
            self.session.deliver(each, len(each))
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def sent(self) -> list[object]:
        return [call[1] for call in self.wire.calls if call[0] == "send"]

    @property
    def closes(self) -> list[tuple[Any, ...]]:
        return [call for call in self.wire.calls if call[0] in ("close", "fail", "abort")]


async def echo(session: AsyncSession) -> None:
    async for message in session:
        await session.send(message)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario on a loop of its own."""

    async def run() -> None:
        await asyncio.wait_for(scenario(), 10)

    asyncio.run(run())


def test_echo_and_end() -> None:
    """Messages come in order, replies go out in order, and the coroutine ends with its session."""

    async def scenario() -> None:
        stage = Stage(echo)
        await stage.turn("a", b"b", "")
        assert stage.sent == [b"a", b"b", b""]
        assert stage.application.busy() == 1
        stage.session.lost(Cause.FIN)
        await stage.turn()
        assert stage.application.busy() == 0

    play(scenario)


def test_what_came_before_the_end_is_received() -> None:
    """Messages that wait when the session ends are received; then ``receive`` raises ``Closed`` with the cause."""
    seen: list[object] = []

    async def app(session: AsyncSession) -> None:
        await asyncio.sleep(0)
        seen.append(await session.receive())
        try:
            await session.receive()
        except Closed as closed:
            seen.append(closed.close)
        with pytest.raises(Closed):
            await session.send("x")

    async def scenario() -> None:
        stage = Stage(app)
        stage.session.deliver("last", 4)
        stage.session.lost(Cause.RESET)
        await stage.turn()
        assert seen == ["last", Close(1006, "", Cause.RESET, By.CLIENT)]

    play(scenario)


def test_returning_closes() -> None:
    """A coroutine that returns closes its session with 1000; messages that come later are dropped."""

    async def app(session: AsyncSession) -> None:
        await session.send("bye")

    async def scenario() -> None:
        stage = Stage(app)
        await stage.turn()
        await stage.turn("late")
        assert stage.closes == [("close", 1000, "")]

    play(scenario)


@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), Closed(Close(1000, "", Cause.CLIENT, By.CLIENT))])
def test_raising(error: Exception) -> None:
    """A coroutine that raises, be it another session's ``Closed``, fails its session with 1011 and is logged once."""

    async def app(session: AsyncSession) -> None:
        raise error

    async def scenario() -> None:
        stage = Stage(app)
        with capturedLogs() as events:
            await stage.turn()
        assert stage.closes == [("fail", 1011, "")]
        assert [each["log_failure"].value for each in events] == [error]
        assert stage.session.ending is not None
        assert stage.session.ending.cause is Cause.APPLICATION_ERROR

    play(scenario)


def test_raising_after_the_end() -> None:
    """A coroutine that raises when its session has ended is logged, and changes nothing."""

    async def app(session: AsyncSession) -> None:
        async for _ in session:
            pass
        raise ZeroDivisionError

    async def scenario() -> None:
        stage = Stage(app)
        await stage.turn()
        stage.session.lost(Cause.FIN)
        with capturedLogs() as events:
            await stage.turn()
        assert len(events) == 1
        assert stage.closes == []

    play(scenario)


def test_send_waits() -> None:
    """``send`` waits while the peer is slow, goes on when there is room, and raises ``Closed`` when the peer is gone."""
    outcome: list[str] = []

    async def app(session: AsyncSession) -> None:
        for text in ("one", "two", "three"):
            try:
                await session.send(text)
            except Closed:
                outcome.append("closed")
                return
            outcome.append(text)

    async def scenario() -> None:
        stage = Stage(app)
        stage.session.congest()
        await stage.turn()
        assert outcome == []
        stage.session.decongest()
        await stage.turn()
        assert outcome == ["one", "two", "three"]

        outcome.clear()
        gone = Stage(app)
        gone.session.congest()
        await gone.turn()
        gone.session.lost(Cause.RESET)
        await gone.turn()
        assert outcome == ["closed"]

    play(scenario)


def test_send_nowait() -> None:
    """``send_nowait`` waits for nobody, and says whether the message went."""
    went: list[bool] = []

    async def app(session: AsyncSession) -> None:
        await session.receive()
        went.extend(session.send_nowait(b"x" * 400) for _ in range(4))

    async def scenario() -> None:
        stage = Stage(app)
        await stage.turn()
        stage.session.congest()
        stage.wire.waiting = 500
        await stage.turn("go")
        assert went == [True, True, True, True]
        assert stage.session.ending is not None
        full = Stage(app)
        await full.turn()
        full.session.congest()
        full.wire.waiting = 900
        went.clear()
        await full.turn("go")
        assert went == [False] * 4
        assert full.closes == [("close", 1013, "slow consumer")]

    play(scenario)


def test_inbox_is_bounded() -> None:
    """Reading pauses while too much waits for the coroutine, and resumes once half of it is gone; empty messages count too."""
    gate: asyncio.Event

    async def app(session: AsyncSession) -> None:
        await gate.wait()
        async for _ in session:
            pass

    async def scenario() -> None:
        nonlocal gate
        gate = asyncio.Event()
        stage = Stage(app, inbox_size=640)
        await stage.turn(*[""] * 10)
        assert ("pause",) not in stage.wire.calls
        await stage.turn("")
        assert stage.wire.calls.count(("pause",)) == 1
        gate.set()
        await stage.turn()
        assert stage.wire.calls.count(("resume",)) == 1

    play(scenario)


def test_one_receiver() -> None:
    """Two tasks cannot receive from one session at a time."""

    async def app(session: AsyncSession) -> None:
        first = asyncio.ensure_future(session.receive())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await session.receive()
        await session.send(await first)

    async def scenario() -> None:
        stage = Stage(app)
        await stage.turn()
        await stage.turn("x")
        assert stage.sent == [b"x"]

    play(scenario)


def test_close_waits_until_the_connection_is_gone() -> None:
    """``close`` sends the code, and returns when the connection is gone."""
    done: list[Close | None] = []

    async def app(session: AsyncSession) -> None:
        await session.close(4000, "enough")
        done.append(session.ending)

    async def scenario() -> None:
        stage = Stage(app)
        await stage.turn()
        assert (stage.closes, done) == ([("close", 4000, "enough")], [])
        stage.session.lost(Cause.FIN)
        await stage.turn()
        assert done == [Close(4000, "enough", Cause.APPLICATION, By.APPLICATION)]

    play(scenario)


def test_draining() -> None:
    """A drain proceeds when the coroutine asks for a message that is not there: after it has answered all that came."""
    closed: list[list[object]] = []
    gate: asyncio.Event

    async def app(session: AsyncSession) -> None:
        async for message in session:
            await gate.wait()
            await session.send(message)

    async def scenario() -> None:
        nonlocal gate
        gate = asyncio.Event()
        stage = Stage(app)
        await stage.turn("1", "2")
        stage.handler.draining(stage.session, lambda: closed.append(stage.sent))
        await stage.turn()
        assert closed == []
        gate.set()
        await stage.turn()
        assert closed == [[b"1", b"2"]]
        stage.handler.draining(stage.session, lambda: closed.append([]))
        assert closed[1:] == [[]]

    play(scenario)


def test_draining_a_coroutine_that_returns() -> None:
    """A drain proceeds, too, when the coroutine returns without asking for more."""
    closed: list[bool] = []
    gate: asyncio.Event

    async def app(session: AsyncSession) -> None:
        await gate.wait()

    async def scenario() -> None:
        nonlocal gate
        gate = asyncio.Event()
        stage = Stage(app)
        await stage.turn()
        stage.handler.draining(stage.session, lambda: closed.append(True))
        gate.set()
        await stage.turn()
        stage.handler.draining(stage.session, lambda: closed.append(False))
        assert closed == [True, False]

    play(scenario)


def test_runs_on_after_the_end() -> None:
    """A coroutine that does not return after its grace time is cancelled, and the log names the line at which it waits."""
    cancelled: list[bool] = []

    async def waits_here() -> None:
        await asyncio.Event().wait()

    async def app(session: AsyncSession) -> None:
        try:
            await waits_here()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def scenario() -> None:
        stage = Stage(app, close_timeout=0.01)
        await stage.turn()
        with capturedLogs() as events:
            stage.session.lost(Cause.FIN)
            while stage.application.busy():
                await asyncio.sleep(0.001)
        assert cancelled == [True]
        (event,) = events
        assert "waits_here" in event["stack"]
        assert "test_coroutine.py" in event["stack"]

    play(scenario)


def test_returns_within_its_grace() -> None:
    """A coroutine that ends by itself after the connection is not cancelled."""

    async def scenario() -> None:
        stage = Stage(echo, close_timeout=0.01)
        await stage.turn()
        stage.session.lost(Cause.FIN)
        await stage.turn()
        with capturedLogs() as events:
            await asyncio.sleep(0.02)
        assert events == []

    play(scenario)


def test_cancelled_by_itself() -> None:
    """A coroutine that cancels itself fails its session with 1011."""

    async def app(session: AsyncSession) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async def scenario() -> None:
        stage = Stage(app)
        await stage.turn()
        assert stage.closes == [("fail", 1011, "")]

    play(scenario)


def test_attributes() -> None:
    """The coroutine's session shows what the session knows."""
    seen: list[tuple[Any, ...]] = []

    async def app(session: AsyncSession) -> None:
        session.state["x"] = 1
        seen.append((session.id, session.request, session.peer, session.scheme, session.subprotocol, session.rtt, session.state))

    async def scenario() -> None:
        stage = Stage(app)
        await stage.turn()
        session: Session = stage.session
        assert seen == [(session.id, session.request, "192.0.2.1:5", "ws", None, None, {"x": 1})]

    play(scenario)


def test_several_may_wait_to_send() -> None:
    """All tasks that wait while the peer is slow go on when there is room, in the order in which they came."""

    async def app(session: AsyncSession) -> None:
        await asyncio.gather(*[session.send(text) for text in ("one", "two", "three")])
        await session.receive()

    async def scenario() -> None:
        stage = Stage(app)
        stage.session.congest()
        await stage.turn()
        assert stage.sent == []
        stage.session.decongest()
        await stage.turn()
        assert stage.sent == [b"one", b"two", b"three"]
        stage.session.lost(Cause.FIN)
        await stage.turn()

    play(scenario)


def test_several_may_wait_for_the_end() -> None:
    """All tasks that close the session return when the connection is gone; a wait that is given up disturbs no other."""
    done: list[str] = []

    async def close(session: AsyncSession, name: str) -> None:
        await session.close()
        done.append(name)

    async def app(session: AsyncSession) -> None:
        given_up = asyncio.ensure_future(close(session, "given up"))
        others = [asyncio.ensure_future(close(session, name)) for name in ("one", "two")]
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(*others)

    async def scenario() -> None:
        stage = Stage(app)
        await stage.turn()
        assert done == []
        stage.session.lost(Cause.FIN)
        await stage.turn()
        assert done == ["one", "two"]
        assert stage.closes == [("close", 1000, "")]

    play(scenario)


def test_its_own_end_is_no_fault() -> None:
    """A coroutine that lets its own session's ``Closed`` pass has ended as expected: nothing is logged, nothing more is said."""

    async def app(session: AsyncSession) -> None:
        while True:
            await session.send(await session.receive())

    async def scenario() -> None:
        stage = Stage(app)
        with capturedLogs() as events:
            await stage.turn("a")
            stage.session.lost(Cause.FIN)
            await stage.turn()
        assert events == []
        assert stage.closes == []
        assert stage.application.busy() == 0

    play(scenario)


def test_a_wait_that_is_given_up_loses_no_message() -> None:
    """A ``receive`` that was cancelled takes no message with it, not even one that came in the same turn."""
    seen: list[object] = []

    async def app(session: AsyncSession) -> None:
        waiting = asyncio.ensure_future(session.receive())
        await asyncio.sleep(0)
        session.state["give up"] = waiting.cancel
        await asyncio.wait([waiting])
        seen.extend((waiting.cancelled(), await session.receive()))

    async def scenario() -> None:
        stage = Stage(app)
        await stage.turn()
        stage.session.deliver("kept", 4)
        stage.session.state["give up"]()
        await stage.turn()
        assert seen == [True, "kept"]

    play(scenario)


@pytest.mark.parametrize("message", ["x", b"x" * 1000])
def test_a_coroutine_that_only_sends_gives_way(message: str | bytes) -> None:
    """Coroutines that send without end, to peers that take everything, let others run, also once their sessions have ended."""
    turns = []

    async def app(session: AsyncSession) -> None:
        while True:
            with contextlib.suppress(Closed):
                await session.send(message)

    async def scenario() -> None:
        stage = Stage(app, close_timeout=0.01)
        for _ in range(5):
            await asyncio.sleep(0)
            turns.append(stage.session.messages_out)
        stage.session.lost(Cause.FIN)
        while stage.application.busy():
            await asyncio.sleep(0.001)

    play(scenario)
    assert turns == sorted(set(turns))


def test_a_cancelled_send_waits_no_more() -> None:
    """A ``send`` that is cancelled while it waits for a slow peer leaves nothing behind."""

    async def app(session: AsyncSession) -> None:
        for _ in range(3):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(session.send("x"), 0.001)
        await session.receive()

    async def scenario() -> None:
        stage = Stage(app)
        stage.session.congest()
        while stage.handler._reader is None:
            await asyncio.sleep(0.001)
        assert not stage.handler._writers
        stage.session.lost(Cause.FIN)

    play(scenario)
