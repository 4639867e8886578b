"""A WebSocket as an ASGI application sees it: every message at every stage, every end, and what is waited for."""

from __future__ import annotations

import asyncio
import builtins
import gc
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from twisted.logger import LogLevel, capturedLogs

from tests.support.asgi import ENDPOINTS, AsgiWorld, Call, Socket, play, skip, turn
from tests.support.asgi_table import (
    ACCEPT,
    CLOSE,
    CLOSE_IT,
    DENIAL,
    DENY,
    OFFERS,
    SAY,
    TEXT,
    WEBSOCKET_DISCONNECTS,
    WEBSOCKET_ENDS,
    WEBSOCKET_ROWS,
    WEBSOCKET_STAGES,
    End,
    Row,
)
from tests.support.memory import masked, request
from tests.support.wire import FakeWire, make_session
from twistedws.errors import Cause, Closed, Disconnected
from twistedws.gateway.asgi.scope import Scope
from twistedws.gateway.pump import Pump, Share, Tasks, where_waiting
from twistedws.session import Session

OFFER = b"Sec-WebSocket-Protocol: " + ", ".join(OFFERS).encode()
HANDSHAKE_TIMEOUT = 10
CLOSE_TIMEOUT = 2


def opened(**settings: Any) -> Socket:
    """A client that asks for a WebSocket, in a world of its own."""
    settings = {"queue_size": 1000, "handshake_timeout": HANDSHAKE_TIMEOUT, "close_timeout": CLOSE_TIMEOUT, **settings}
    return Socket(AsgiWorld(**settings), OFFER)


async def connecting(**settings: Any) -> Socket:
    socket = opened(**settings)
    await turn()
    assert await socket.call.receive() == {"type": "websocket.connect"}
    return socket


async def accepted(**settings: Any) -> Socket:
    socket = await connecting(**settings)
    await socket.call.send(ACCEPT)
    await socket.world.settle()
    assert socket.status == 101
    return socket


async def drained(**settings: Any) -> Socket:
    """The application waits for a message, and so the server says that it goes away."""
    socket = await accepted(**settings)
    waiting = asyncio.ensure_future(socket.call.receive())
    await turn()
    socket.world.drain()
    await socket.world.pass_time(0.2)
    waiting.cancel()
    await turn()
    return socket


async def reach(stage: str, **settings: Any) -> Socket:
    """A client whose application has come to a stage of the table."""
    if stage == "asked":
        socket = opened(**settings)
    elif stage == "draining":
        return await drained(**settings)
    elif stage in ("accepted", "closed", "peer closed", "peer lost"):
        socket = await accepted(**settings)
    else:
        socket = await connecting(**settings)
    if stage == "denying":
        await socket.call.send(DENY)
    elif stage == "denied":
        await socket.call.send(DENY)
        await socket.call.send(DENIAL)
    elif stage in ("refused", "closed"):
        await socket.call.send(CLOSE_IT)
    elif stage == "peer closed":
        await socket.put(masked(0x88, b"\x0f\xa1bye"))
    elif stage in ("peer lost", "left"):
        await socket.vanish()
    elif stage == "late":
        socket.world.advance(HANDSHAKE_TIMEOUT + 1)
    await socket.world.settle()
    return socket


def fields(head: bytes) -> list[tuple[bytes, bytes]]:
    pairs = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
    return [(name.lower(), value) for name, value in pairs]


def errors(events: Any) -> list[Any]:
    return [each for each in events if each["log_level"] in (LogLevel.error, LogLevel.critical)]


def test_stages() -> None:
    """Every stage of the table is told in words, and every row and end is of one of them."""
    assert {row.stage for row in WEBSOCKET_ROWS} == set(WEBSOCKET_STAGES)
    assert {end.stage for end in WEBSOCKET_ENDS} == set(WEBSOCKET_STAGES)
    twice = [name for name, times in Counter(map(str, WEBSOCKET_ROWS)).items() if times > 1]
    assert twice == []


@pytest.mark.parametrize("row", WEBSOCKET_ROWS, ids=str)
def test_message(row: Row) -> None:
    """A message at a stage has the outcome of its row; one that is refused changes nothing."""

    async def scenario() -> None:
        socket = await reach(row.stage)
        before, had, outcome = bytes(socket.peer.data), len(socket.frames), row.outcome
        if outcome.raises is not None:
            with pytest.raises(outcome.raises):
                await socket.call.send(row.events[0])
            await socket.world.settle()
            assert bytes(socket.peer.data) == before
            return
        for event in row.events:
            await socket.call.send(event)
        await socket.world.settle()
        assert tuple(socket.frames[had:]) == outcome.frames
        if not outcome.frames:
            assert socket.status == outcome.status
        found = fields(socket.head) if socket.head else []
        assert set(outcome.lines) <= set(found)
        assert [pair for pair in found if pair in outcome.order] == list(outcome.order)
        assert not {name for name, _ in found} & set(outcome.absent)
        if outcome.body is not None:
            assert bytes(socket.peer.data).partition(b"\r\n\r\n")[2] == outcome.body

    play(scenario)


@pytest.mark.parametrize("row", [row for row in WEBSOCKET_ROWS if row.outcome.raises in (TypeError, ValueError)], ids=str)
def test_a_refused_message_changes_nothing(row: Row) -> None:
    """After a message that could not be sent, a good one is taken as if nothing had been."""
    goods: dict[str, tuple[dict[str, Any], int]] = {
        "connecting": (ACCEPT, 101),
        "accepted": (SAY, 101),
        "denying": (DENIAL, 401),
    }
    good, outcome = goods[row.stage]

    async def scenario() -> None:
        socket = await reach(row.stage)
        with pytest.raises((TypeError, ValueError)):
            await socket.call.send(row.events[0])
        await socket.call.send(good)
        await socket.world.settle()
        assert socket.status == outcome
        assert b"x-a" not in socket.head
        assert socket.frames == ([(TEXT, b"hello")] if row.stage == "accepted" else [])

    play(scenario)


@pytest.mark.parametrize("end", WEBSOCKET_ENDS, ids=str)
def test_application_ends(end: End) -> None:
    """An application that returns, raises or is cancelled ends its connection as its row says, logged no more than once."""

    async def scenario() -> None:
        socket = await reach(end.stage)
        had = len(socket.frames)
        with capturedLogs() as events:
            await socket.call.end(end.how)
            await socket.world.settle()
        assert socket.status == end.status
        codes = [int.from_bytes(payload[:2], "big") for opcode, payload in socket.frames[had:] if opcode == CLOSE]
        assert codes == ([end.code] if end.code else [])
        assert len(errors(events)) == end.logged, errors(events)
        assert socket.world.application.busy() == 0

    play(scenario)


async def _peer_closes(socket: Socket, payload: bytes) -> None:
    await socket.put(masked(0x88, payload))


async def _ends_tcp(socket: Socket) -> None:
    socket.link.client.loseConnection()
    await socket.world.settle()


async def _is_answered(socket: Socket) -> None:
    await socket.call.send({**CLOSE_IT, "code": 4000, "reason": "enough"})
    await socket.put(masked(0x88, b"\x0f\xa0"))


async def _never_answers(socket: Socket) -> None:
    await socket.call.send(CLOSE_IT)
    await socket.world.pass_time(CLOSE_TIMEOUT + 1)


async def _goes_away(socket: Socket) -> None:
    await socket.put(masked(0x88, b"\x03\xf4"))


async def _is_silent(socket: Socket) -> None:
    await socket.world.pass_time(10)


async def _nothing(socket: Socket) -> None:
    pass


ENDINGS: dict[str, tuple[str, Callable[[Socket], Awaitable[None]]]] = {
    "the peer closes with 1000": ("accepted", lambda socket: _peer_closes(socket, b"\x03\xe8")),
    "the peer closes with 4001 and a reason": ("accepted", lambda socket: _peer_closes(socket, b"\x0f\xa1bye")),
    "the peer closes with no code": ("accepted", lambda socket: _peer_closes(socket, b"")),
    "the peer ends TCP with no close frame": ("accepted", _ends_tcp),
    "the connection is reset": ("accepted", lambda socket: socket.vanish()),
    "the application closes with 4000 and a reason": ("accepted", _is_answered),
    "the application closes, and the peer never answers": ("accepted", _never_answers),
    "the server goes away": ("draining", _goes_away),
    "the peer breaks RFC 6455": ("accepted", lambda socket: socket.put(b"\x81\x01x")),
    "the peer sends text that is no UTF-8": ("accepted", lambda socket: socket.put(masked(0x81, b"\xff"))),
    "the peer sends too large a message": ("accepted", lambda socket: socket.put(masked(0x82, b"x" * 2000))),
    "the peer answers no ping": ("accepted", _is_silent),
    "the client goes away before the application decides": ("left", _nothing),
    "the handshake timeout passes": ("late", _nothing),
    "the application refuses": ("refused", _nothing),
    "the application denies": ("denied", _nothing),
}


@pytest.mark.parametrize("name", WEBSOCKET_DISCONNECTS)
def test_disconnect(name: str) -> None:
    """However a WebSocket ends, the application receives websocket.disconnect with code and reason, once, and cannot send any more."""
    stage, ending = ENDINGS[name]
    code, reason = WEBSOCKET_DISCONNECTS[name]

    async def scenario() -> None:
        socket = await reach(stage, max_message_size=1000, ping_interval=2, ping_timeout=2)
        await ending(socket)
        socket.peer.send(b"")
        await socket.world.pass_time(CLOSE_TIMEOUT + 1)  # whoever does not answer is given up
        event = await asyncio.wait_for(socket.call.receive(), 5)
        assert event == {"type": "websocket.disconnect", "code": code, "reason": event["reason"] if reason is None else reason}
        assert type(event["reason"]) is str
        again = asyncio.ensure_future(socket.call.receive())
        await socket.world.settle()
        assert not again.done()  # until it is cancelled
        with pytest.raises((OSError, RuntimeError)):
            await socket.call.send(SAY)

    play(scenario)


def test_messages_come_in_order_before_the_end() -> None:
    """The messages that came before the peer's close frame are received in order, then disconnect; each has one of text and bytes."""

    async def scenario() -> None:
        socket = await accepted()
        await socket.put(masked(0x81, b"a") + masked(0x82, b"b") + masked(0x81) + masked(0x82) + masked(0x88, b"\x03\xe8"))
        assert [await socket.call.receive() for _ in range(5)] == [
            {"type": "websocket.receive", "text": "a"},
            {"type": "websocket.receive", "bytes": b"b"},
            {"type": "websocket.receive", "text": ""},
            {"type": "websocket.receive", "bytes": b""},
            {"type": "websocket.disconnect", "code": 1000, "reason": ""},
        ]

    play(scenario)


def test_messages_that_came_before_accept() -> None:
    """What an eager peer sends before it is answered is received after websocket.accept."""

    async def scenario() -> None:
        socket = await connecting()
        waiting = asyncio.ensure_future(socket.call.receive())
        await socket.put(masked(0x81, b"early"))
        assert not waiting.done()
        await socket.call.send(ACCEPT)
        await turn()
        assert waiting.result() == {"type": "websocket.receive", "text": "early"}

    play(scenario)


def test_messages_after_websocket_close() -> None:
    """What the peer sends before it answers the application's close is still received."""

    async def scenario() -> None:
        socket = await reach("closed")
        await socket.put(masked(0x81, b"late") + masked(0x88, b"\x03\xe8"))
        assert (await socket.call.receive())["text"] == "late"
        assert (await socket.call.receive())["type"] == "websocket.disconnect"

    play(scenario)


def test_connect_comes_first() -> None:
    """``receive`` gives websocket.connect first, also to an application that accepts before it asks, and to one whose client has left."""

    async def scenario() -> None:
        socket = opened()
        await turn()
        await socket.call.send(ACCEPT)
        await socket.say("hello")
        assert [(await socket.call.receive())["type"] for _ in range(2)] == ["websocket.connect", "websocket.receive"]
        gone = opened()
        await turn()
        await gone.vanish()
        assert [(await gone.call.receive())["type"] for _ in range(2)] == ["websocket.connect", "websocket.disconnect"]

    play(scenario)


@pytest.mark.parametrize("stage", ["left", "late", "peer closed", "peer lost", "draining", "refused", "denied"])
def test_a_receive_that_waits_is_woken(stage: str) -> None:
    """A task that waits in ``receive`` gets websocket.disconnect, however the connection ends: nothing waits for ever."""

    async def scenario() -> None:
        before = "connecting" if stage in ("left", "late", "refused", "denied") else "accepted"
        socket = await reach(before)
        waiting = asyncio.ensure_future(socket.call.receive())
        await turn()
        if stage == "late":
            socket.world.advance(HANDSHAKE_TIMEOUT + 1)
        elif stage == "peer closed":
            await _peer_closes(socket, b"\x03\xe8")
        elif stage == "draining":
            socket.world.drain()
            await socket.world.pass_time(0.2)
            await _goes_away(socket)
        elif stage == "refused":
            await socket.call.send(CLOSE_IT)
        elif stage == "denied":
            await socket.call.send(DENY)
            await socket.call.send(DENIAL)
        else:
            await socket.vanish()
        await socket.world.pass_time(CLOSE_TIMEOUT + 1)
        assert waiting.done()
        assert waiting.result()["type"] == "websocket.disconnect"

    play(scenario)


def test_two_receivers() -> None:
    """A second task that receives from the same WebSocket at the same time is told so; the first goes on."""

    async def scenario() -> None:
        socket = await accepted()
        first = asyncio.ensure_future(socket.call.receive())
        await turn()
        with pytest.raises(RuntimeError, match="another task"):
            await socket.call.receive()
        await socket.say("x")
        assert first.result()["text"] == "x"

    play(scenario)


def test_a_receive_that_is_given_up_loses_no_message() -> None:
    """A ``receive`` that was cancelled takes no message with it, not even one that came in the same turn."""

    async def scenario() -> None:
        socket = await accepted()
        waiting = asyncio.ensure_future(socket.call.receive())
        await turn()
        socket.peer.send(masked(0x81, b"kept"))
        socket.world.flush()
        waiting.cancel()
        await turn()
        assert waiting.cancelled()
        assert (await socket.call.receive())["text"] == "kept"
        waiting = asyncio.ensure_future(socket.call.receive())
        await turn()
        waiting.cancel()
        await turn()
        await socket.say("later")
        assert (await socket.call.receive())["text"] == "later"

    play(scenario)


def flooded(**settings: Any) -> Awaitable[Socket]:
    return accepted(queue_size=1_000_000, **settings)


async def congest(socket: Socket) -> None:
    """The peer takes nothing more, and as much waits for it as makes its WebSocket congested."""
    socket.link.client.reading = False
    await socket.call.send({"type": "websocket.send", "bytes": b"x" * 70_000})


def test_send_waits_for_a_slow_peer() -> None:
    """``send`` returns at once until the peer is slow, then waits, and goes on when there is room."""

    async def scenario() -> None:
        socket = await flooded()
        await congest(socket)
        sending = asyncio.ensure_future(socket.call.send(SAY))
        await socket.world.settle()
        assert not sending.done()
        socket.link.client.reading = True
        await socket.world.settle()
        assert sending.done()
        sending.result()
        assert socket.frames[-1] == (TEXT, b"hello")

    play(scenario)


def test_a_send_that_waits_fails_when_the_peer_goes() -> None:
    """``send`` that waits for a slow peer raises an OSError when that peer is lost."""

    async def scenario() -> None:
        socket = await flooded()
        await congest(socket)
        sending = asyncio.ensure_future(socket.call.send(SAY))
        await turn()
        await socket.vanish()
        assert isinstance(sending.exception(), OSError)

    play(scenario)


def test_a_send_that_waits_is_given_up() -> None:
    """``send`` that is cancelled while it waits sends nothing and leaves nothing behind."""

    async def scenario() -> None:
        socket = await flooded()
        await congest(socket)
        sending = asyncio.ensure_future(socket.call.send(SAY))
        await turn()
        sending.cancel()
        await turn()
        socket.link.client.reading = True
        await socket.world.settle()
        assert len(socket.frames) == 1

    play(scenario)


def test_senders_give_way() -> None:
    """Tasks that send without end to peers that take everything let others run, also once the peer has gone."""
    turns: list[int] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        with suppress(RuntimeError):
            await send(ACCEPT)
        for _ in range(3000):
            with suppress(OSError):
                await send({"type": "websocket.send", "text": "x" * 100})
            turns.append(ticks)

    ticks = 0

    async def scenario() -> None:
        nonlocal ticks
        world = AsgiWorld(app)
        socket = Socket(world)
        while world.application.busy():
            ticks += 1
            if ticks == 3:
                await socket.vanish()
            await asyncio.sleep(0)

    play(scenario)
    assert len(set(turns)) > 100


def test_a_send_after_close_gives_way() -> None:
    """An application that takes no notice of errors lets others run, also once it has closed its WebSocket itself."""

    async def scenario() -> None:
        socket = await reach("closed")
        turned = asyncio.Event()
        asyncio.get_running_loop().call_soon(turned.set)
        for _ in range(100):
            with suppress(OSError, RuntimeError):
                await socket.call.send(SAY)
        assert turned.is_set()

    play(scenario)


class ClientDisconnectError(Exception):
    """A framework's own exception for a client that has gone."""


@pytest.mark.parametrize("stage", ["peer closed", "peer lost", "draining", "closed", "left", "late"])
@pytest.mark.parametrize("how", ["as it is", "from", "while handling", "deep"])
def test_an_error_of_ours_is_none_of_the_application(stage: str, how: str) -> None:
    """An application that lets our OSError pass, or makes one of its own of it, is no error in the log."""

    async def app_sends(call: Call) -> None:
        try:
            await call.send(ACCEPT if stage in ("left", "late") else SAY)
        except OSError as error:
            if how == "as it is":
                raise
            if how == "from":
                raise ClientDisconnectError from error
            if how == "while handling":
                raise ClientDisconnectError  # noqa: B904 - what is tested
            try:
                raise ClientDisconnectError from error
            except ClientDisconnectError as again:
                raise ClientDisconnectError from again

    async def scenario() -> None:
        socket = await reach(stage)
        with capturedLogs() as events:
            try:
                await app_sends(socket.call)
            except Exception as error:
                socket.call.ended.set_exception(error)
            await turn()
        assert errors(events) == []
        assert socket.world.application.busy() == 0

    play(scenario)


def test_an_error_in_cleaning_up_is_the_applications() -> None:
    """What is raised while our OSError passes, as in a ``finally``, and says nothing of a disconnect, is told in the log."""

    async def scenario() -> None:
        socket = await reach("peer lost")
        with capturedLogs() as events:
            try:
                try:
                    await socket.call.send(SAY)
                finally:
                    raise KeyError("a fault in cleaning up")  # noqa: B012, RUF100 - what is tested
            except KeyError as error:
                socket.call.ended.set_exception(error)
            await turn()
        assert len(errors(events)) == 1

    play(scenario)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), type("Weird", (BaseException,), {})()], ids=repr)
def test_what_would_end_the_process_ends_a_session(error: BaseException) -> None:
    """Whatever an application raises, a ``sys.exit()`` too, is told once and closes its WebSocket with 1011; nobody else's."""

    async def wrong(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        raise error

    async def scenario() -> None:
        with capturedLogs() as events:
            world = AsgiWorld(wrong)
            peer = world.raw(request())
            await world.settle()
        assert b"\x88\x02\x03\xf3" in peer.data
        assert len(errors(events)) == 1

    play(scenario)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are of Python 3.11")
@pytest.mark.parametrize(("others", "logged"), [((), 0), ((ZeroDivisionError(),), 1)])
def test_an_error_of_ours_in_a_group(others: tuple[Exception, ...], logged: int) -> None:
    """A task group that fails with nothing but our OSError is no error in the log; with another one it is."""

    async def scenario() -> None:
        socket = await reach("peer lost")
        with capturedLogs() as events:
            try:
                await socket.call.send(SAY)
            except OSError as error:
                group: Any = getattr(builtins, "ExceptionGroup")  # noqa: B009 - which Python 3.10 has not
                socket.call.ended.set_exception(group("of another", [group("of a task group", [error, *others])]))
            await turn()
        assert len(errors(events)) == logged

    play(scenario)


def test_another_peers_error_is_a_fault() -> None:
    """An application that lets another connection's OSError pass has raised: its own WebSocket is closed with 1011, and it is logged."""

    async def scenario() -> None:
        socket = await accepted()
        with capturedLogs() as events:
            socket.call.ended.set_exception(Disconnected("another's"))
            await socket.world.settle()
        assert socket.frames == [(CLOSE, b"\x03\xf3")]
        assert len(errors(events)) == 1

    play(scenario)


def test_chains_are_looked_at_to_a_bound() -> None:
    """An endless chain of exceptions is given up."""

    async def scenario() -> None:
        socket = await reach("peer lost")
        first, second = ValueError(), ValueError()
        first.__cause__, second.__cause__ = second, first
        with capturedLogs() as events:
            socket.call.ended.set_exception(first)
            await turn()
        assert len([each for each in events if each["log_level"] is LogLevel.critical]) == 1

    play(scenario)


@pytest.mark.parametrize("stage", ["peer closed", "peer lost", "left", "late", "refused", "denied"])
def test_runs_on_after_the_end(stage: str) -> None:
    """An application that runs on after its connection is gone is cancelled after its grace, and the log names where it waits."""

    async def scenario() -> None:
        socket = await reach(stage, application_close_timeout=5)
        await skip(4)
        assert socket.call.is_running
        with capturedLogs() as events:
            await skip(2)
        assert not socket.call.is_running
        (event,) = events
        assert event["log_level"] is LogLevel.warn
        assert "__call__" in event["stack"]
        assert socket.world.application.busy() == 0

    play(scenario)


@pytest.mark.parametrize("stage", ["peer lost", "left", "refused"])
def test_a_loop_that_asks_for_ever(stage: str) -> None:
    """An application that takes no notice of websocket.disconnect waits, and is cancelled after its grace."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        with suppress(OSError):
            await send(CLOSE_IT if stage == "refused" else ACCEPT)
        while True:
            await receive()

    async def scenario() -> None:
        socket = Socket(AsgiWorld(app, application_close_timeout=5))
        if stage != "left":
            await turn()
        await socket.vanish()
        if stage == "left" and not socket.world.application.busy():
            return  # it was not called at all
        await skip(4)
        assert socket.world.application.busy() == 1
        await skip(2)
        assert socket.world.application.busy() == 0

    play(scenario)


def test_a_client_that_leaves_at_once() -> None:
    """A client that goes away before the application has had its first turn does no harm: nobody complains, nothing is left."""
    complaints: list[dict[str, Any]] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        socket = opened()
        with capturedLogs() as events:
            await socket.vanish()
            for call in socket.world.app.calls:
                await call.end()
        assert errors(events) == []
        assert socket.world.application.busy() == 0

    play(scenario)
    gc.collect()
    assert complaints == []


def test_returns_within_its_grace() -> None:
    """An application that ends in time is not cancelled, and nothing is logged."""

    async def scenario() -> None:
        socket = await reach("peer lost", application_close_timeout=5)
        with capturedLogs() as events:
            await socket.call.end()
            await skip(6)
        assert events == []

    play(scenario)


def test_no_grace_is_any_time() -> None:
    """With an application-close-timeout of 0 an application may run on for ever."""

    async def scenario() -> None:
        socket = await reach("peer lost", application_close_timeout=0)
        await skip(100_000)
        assert socket.call.is_running

    play(scenario)


def test_a_drain_waits_for_answers() -> None:
    """1012 is sent when the application asks for a message that is not there: all that came is answered by then."""

    async def scenario() -> None:
        socket = await accepted()
        await socket.say("one")
        await socket.say("two")
        socket.world.drain()
        await socket.world.pass_time(0.2)
        for text in ("one", "two"):
            assert (await socket.call.receive())["text"] == text
            await socket.call.send({"type": "websocket.send", "text": text})
        await socket.world.settle()
        assert socket.frames == [(TEXT, b"one"), (TEXT, b"two")]
        waiting = asyncio.ensure_future(socket.call.receive())
        await socket.world.settle()
        assert socket.frames[2:] == [(CLOSE, b"\x03\xf4service restart")]
        await _goes_away(socket)
        assert waiting.result() == {"type": "websocket.disconnect", "code": 1012, "reason": "service restart"}

    play(scenario)


@pytest.mark.parametrize(("end", "frame"), [("returns", b"\x03\xe8"), ("never asks", b"\x03\xf4service restart")])
def test_a_drain_of_an_application_that_does_not_ask(end: str, frame: bytes) -> None:
    """An application that returns meanwhile has closed; one that never asks is closed with 1012 after the close timeout."""

    async def scenario() -> None:
        socket = await accepted()
        socket.world.drain()
        await socket.world.pass_time(0.2)
        assert socket.frames == []
        if end == "returns":
            await socket.call.end()
            await socket.world.settle()
        else:
            await socket.world.pass_time(CLOSE_TIMEOUT + 0.5)
        assert socket.frames == [(CLOSE, frame)]

    play(scenario)


def test_a_drain_of_one_that_waits_already() -> None:
    """A drain proceeds at once where the application waits for a message, and where it has returned."""

    async def scenario() -> None:
        socket = await drained()
        assert socket.frames == [(CLOSE, b"\x03\xf4service restart")]

    play(scenario)


async def alone() -> tuple[AsgiWorld, Any, Session, Any]:
    """A session on a wire that only takes notes, its application's call waiting: the decision is the test's to hear."""
    world = AsgiWorld()
    wire: Any = FakeWire()
    wire.endpoints = lambda: ENDPOINTS
    session = make_session(wire)
    assert world.application.admit is not None
    decision = world.application.admit(session)
    await turn()
    return world, wire, session, decision


def test_a_handler_whose_task_has_ended() -> None:
    """A drain of a session whose application has returned proceeds at once; a message for it is dropped."""

    async def scenario() -> None:
        world, wire, session, decision = await alone()
        handler: Any = world.application(session)
        decision.addCallback(lambda _: session.open(handler, 0.0))
        await world.app.call.send(ACCEPT)
        await world.app.call.end()
        assert wire.named("close") == [("close", 1000, "")]
        proceeded: list[bool] = []
        handler.draining(session, lambda: proceeded.append(True))
        assert proceeded == [True]
        session.deliver("nobody hears", 12)
        assert handler.inbox is None

    play(scenario)


def test_a_drain_ends_with_the_application() -> None:
    """A drain that waits for an answer proceeds when the application ends instead."""

    async def scenario() -> None:
        world, _, session, decision = await alone()
        handler: Any = world.application(session)
        decision.addCallback(lambda _: session.open(handler, 0.0))
        await world.app.call.send(ACCEPT)
        proceeded: list[bool] = []
        handler.draining(session, lambda: proceeded.append(True))
        assert proceeded == []
        await world.app.call.end()
        assert proceeded == [True]

    play(scenario)


def test_a_session_that_is_not_opened() -> None:
    """websocket.accept raises an OSError where the server does not open the session after all."""

    async def scenario() -> None:
        world, _, _, _ = await alone()
        with pytest.raises(Disconnected, match="could not be opened"):
            await world.app.call.send(ACCEPT)

    play(scenario)


def test_waiting_for_the_end() -> None:
    """Whoever waits for the end of a session goes on when the connection has gone; one who gives up disturbs no other."""

    async def scenario() -> None:
        world, _, session, decision = await alone()
        handler: Any = world.application(session)
        decision.addCallback(lambda _: session.open(handler, 0.0))
        await world.app.call.send(ACCEPT)
        given_up, other = (asyncio.ensure_future(handler.gone()) for _ in range(2))
        await turn()
        given_up.cancel()
        await turn()
        assert not other.done()
        session.lost(Cause.FIN)
        await turn()
        assert other.done()
        with pytest.raises(Closed):
            handler.message()

    play(scenario)


def test_a_pump_is_to_be_subclassed() -> None:
    """A pump by itself has nothing to run, and starts it when its session opens."""

    async def scenario() -> None:
        session = make_session()
        tasks = Tasks(0)
        pump = Pump(session, tasks, Share(), 0)
        pump.opened(session)
        (task,) = tasks._running
        with pytest.raises(NotImplementedError):
            await task

    play(scenario)


@pytest.mark.parametrize("kind", ["coroutine", "asynchronous generator"])
def test_where_a_task_waits(kind: str) -> None:
    """The line for the log names every frame of the application's that waits, outermost first, and none of ours."""

    async def innermost() -> None:
        await asyncio.get_running_loop().create_future()

    async def generator() -> AsyncIterator[int]:
        await innermost()
        yield 1

    async def outermost() -> None:
        if kind == "asynchronous generator":
            async for _ in generator():
                pass
        await innermost()

    async def scenario() -> None:
        task = asyncio.ensure_future(outermost())
        await turn()
        where = where_waiting(task)
        names = [each.partition(" (")[0] for each in where.split(" > ")]
        assert names[0] == "outermost"
        if kind == "coroutine":
            assert names == ["outermost", "innermost"]
        task.cancel()
        await turn()
        assert where_waiting(task) == repr(task)

    play(scenario)


def test_accepting_while_the_server_goes_away() -> None:
    """A WebSocket that is accepted after a drain has begun is closed with 1012 like all others, not left until the last moment."""

    async def scenario() -> None:
        first = await accepted()  # which keeps the drain going
        world = first.world
        second = Socket(world)
        await turn()
        world.drain()
        await world.pass_time(0.2)
        with suppress(OSError):
            await second.call.send(ACCEPT)
        waiting = asyncio.ensure_future(second.call.receive()), asyncio.ensure_future(second.call.receive())
        await world.pass_time(CLOSE_TIMEOUT + 1)
        for each in waiting:
            each.cancel()
        assert second.status != 101 or second.frames == [(CLOSE, b"\x03\xf4service restart")]

    play(scenario)


def test_reading_pauses_while_too_much_waits() -> None:
    """Reading pauses while more than inbox-size waits for the application, and goes on once half of it is received."""

    async def scenario() -> None:
        socket = await accepted(inbox_size=1000)
        server = socket.link.server
        for _ in range(8):
            await socket.say("x" * 100)
        assert not server.reading
        while not server.reading:
            assert (await socket.call.receive())["text"] == "x" * 100
        await socket.call.end()
        assert server.reading

    play(scenario)


def test_reading_goes_on_when_the_application_returns() -> None:
    """An application that leaves messages behind does not keep the connection from ending."""

    async def scenario() -> None:
        socket = await accepted(inbox_size=100)
        await socket.say("x" * 200)
        assert not socket.link.server.reading
        await socket.call.end()
        await socket.world.settle()
        await socket.put(masked(0x88, b"\x03\xe8"))
        assert socket.peer.ended is not None

    play(scenario)


def test_decided_once() -> None:
    """An application whose client left in the same turn in which it accepts hears so, and nothing is logged."""

    async def scenario() -> None:
        socket = await connecting()
        with capturedLogs() as events:
            socket.link.client.abortConnection()
            socket.world.flush()
            with pytest.raises(Disconnected):
                await socket.call.send(ACCEPT)
        assert errors(events) == []

    play(scenario)


def test_a_denial_nobody_waits_for() -> None:
    """The last piece of a denial raises an OSError if the client went away meanwhile."""

    async def scenario() -> None:
        socket = await reach("denying")
        await socket.vanish()
        with pytest.raises(Disconnected):
            await socket.call.send(DENIAL)

    play(scenario)


def test_the_clients_cause_is_kept() -> None:
    """A WebSocket whose application raises after the peer's end keeps the peer's cause."""

    async def scenario() -> None:
        socket = await reach("peer closed")
        with capturedLogs():
            await socket.call.end("raises")
        assert [end.cause for end in socket.world.ledger.ends] == [Cause.CLIENT]

    play(scenario)


def test_slow_consumer_by_drop() -> None:
    """With slow-consumer drop-newest a message that the queue has no room for is dropped without a word: ``send`` does not raise."""

    async def scenario() -> None:
        world, wire, session, decision = await alone()
        handler: Any = world.application(session)
        decision.addCallback(lambda _: session.open(handler, 0.0))
        await world.app.call.send(ACCEPT)
        session._queue_size, session._slow_consumer = 10, "drop-newest"
        sending = [asyncio.ensure_future(world.app.call.send(SAY)) for _ in range(2)]
        session.congest()
        await turn()
        wire.waiting = 10
        handler.writable(session)  # one goes on, too early
        await turn()
        session.decongest()
        await turn()
        assert all(each.done() for each in sending)

    play(scenario)
