"""A plain request as an ASGI application sees it: every message at every stage, every end, and what is waited for."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel, capturedLogs

from tests.support.asgi import ENDPOINTS, App, AsgiWorld, Call, FakeCarrier, configured, parsed, play, skip, turn, until
from tests.support.asgi_table import (
    BODY,
    CONTENT,
    FILE,
    HTTP_ENDS,
    HTTP_GONE,
    HTTP_ROWS,
    HTTP_STAGES,
    MISSING,
    PIECE,
    REQUESTS,
    START,
    End,
    Row,
)
from tests.support.memory import request
from twistedws.errors import Cause, Disconnected
from twistedws.gateway.asgi import asgi_application
from twistedws.gateway.asgi.scope import Event, Scope

POST = b"POST /a HTTP/1.1\r\nHost: example.com\r\n"
OF_FOUR = POST + b"Content-Length: 4\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Exchange:
    """A request on a carrier that only takes notes, and the application's call behind it."""

    def __init__(self, head: bytes, app: Any = None, **settings: Any) -> None:
        self.app = app or App()
        configuration = configured(**settings)
        self.application = asgi_application(
            self.app, configuration.hosting, limits=configuration.limits, output=configuration.output, http=configuration.http
        )
        assert self.application.answerer is not None
        self.carrier = FakeCarrier()
        self.channel: Any = self.application.answerer(self.carrier, parsed(head), ENDPOINTS)
        self.carrier.exchange = self.channel
        self.channel.begin(head)

    @property
    def call(self) -> Call:
        call: Call = self.app.call
        return call

    async def lose(self) -> None:
        self.channel.lost()
        await turn()


async def reach(stage: str, head: bytes = REQUESTS["GET"], **settings: Any) -> Exchange:
    """A request whose application has come to a stage of the table."""
    exchange = Exchange(head, **settings)
    await turn()
    for event in HTTP_STAGES[stage][0]:
        await exchange.call.send(event)
    return exchange


def errors(events: Any) -> list[Any]:
    return [each for each in events if each["log_level"] in (LogLevel.error, LogLevel.critical)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "file"
    found.write_bytes(CONTENT)
    return found


def placed(event: Event, file: Path) -> Event:
    """The event, with paths where the table has names for them."""
    if isinstance(event, dict) and event.get("path") in (FILE, MISSING):
        return {**event, "path": str(file if event["path"] == FILE else file.with_name("missing"))}
    return event


def test_stages() -> None:
    """Every row and end is of a stage that is told in words, and no row is there twice."""
    assert {row.stage for row in HTTP_ROWS} == {end.stage for end in HTTP_ENDS} == set(HTTP_STAGES)
    assert [name for name, times in Counter(map(str, HTTP_ROWS)).items() if times > 1] == []


@pytest.mark.parametrize("row", HTTP_ROWS, ids=str)
def test_message(row: Row, file: Path) -> None:
    """A message at a stage has the outcome of its row; one that is refused or ignored changes nothing."""

    async def scenario() -> None:
        exchange = await reach(row.stage, REQUESTS[row.request])
        carrier, outcome = exchange.carrier, row.outcome
        before, ended = bytes(carrier.out), carrier.ended
        if outcome.raises is not None:
            with pytest.raises(outcome.raises):
                await exchange.call.send(placed(row.events[0], file))
            assert (bytes(carrier.out), carrier.ended) == (before, ended)
            return
        for event in row.events:
            await exchange.call.send(placed(event, file))
        if outcome.ignored:
            assert (bytes(carrier.out), carrier.ended) == (before, ended)
            return
        assert carrier.status == (outcome.status or 200)
        assert carrier.head.startswith(b"HTTP/1.0 " if "1.0" in row.request else b"HTTP/1.1 ")
        assert set(outcome.lines) <= set(carrier.headers)
        assert [pair for pair in carrier.headers if pair in outcome.order] == list(outcome.order)
        assert not {name for name, _ in carrier.headers} & set(outcome.absent)
        assert len(carrier.header(b"date")) == 1
        for single in (b"content-length", b"transfer-encoding", b"connection"):
            assert len(carrier.header(single)) <= 1
        if outcome.body is not None:
            assert carrier.body == outcome.body
        if outcome.persistent is not None:
            octets = len(carrier.body)
            assert carrier.ended == (carrier.status, octets, b"", outcome.persistent)

    play(scenario)


REFUSED_STARTS = [row for row in HTTP_ROWS if row.stage == "nothing" and row.outcome.raises in (TypeError, ValueError)]


@pytest.mark.parametrize("row", REFUSED_STARTS, ids=str)
def test_a_refused_start_changes_nothing(row: Row) -> None:
    """After a response start that could not be sent, that of an error page is sent as if nothing had been."""
    page = {"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"2")]}

    async def scenario() -> None:
        exchange = await reach(row.stage, REQUESTS[row.request])
        event = row.events[0]
        if isinstance(event.get("headers"), list):
            event = {**event, "headers": [(b"x-left", b"behind"), (b"connection", b"close"), *event["headers"]]}
        with pytest.raises((TypeError, ValueError)):
            await exchange.call.send(event)
        await exchange.call.send(page)
        await exchange.call.send(BODY)
        carrier = exchange.carrier
        assert [name for name, _ in carrier.headers] in ([b"content-length", b"date"], [b"date", b"content-length"])
        assert carrier.ended is not None
        assert (carrier.ended[0], carrier.ended[3]) == (500, True)

    play(scenario)


@pytest.mark.parametrize(("pieces", "error"), [([b"abcde"], "1 .* more"), ([b"ab", b"cde"], "1 .* more"), ([b"abc"], "1 .* fewer")])
def test_content_length_holds(pieces: list[bytes], error: str) -> None:
    """A body longer, or shorter, than its Content-Length is refused; what has been refused changes nothing, and the rest may follow."""

    async def scenario() -> None:
        exchange = await reach("nothing")
        await exchange.call.send({**START, "headers": [(b"content-length", b"4")]})
        *first, last = pieces
        for each in first:
            await exchange.call.send({**BODY, "body": each, "more_body": True})
        before = bytes(exchange.carrier.out)
        with pytest.raises(ValueError, match=error):
            await exchange.call.send({**BODY, "body": last})
        assert bytes(exchange.carrier.out) == before
        await exchange.call.send({**BODY, "body": b"abcd"[sum(map(len, first)) :]})
        assert exchange.carrier.body == b"abcd"

    play(scenario)


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_a_response_that_is_too_short_is_cut(how: str) -> None:
    """A response of which less came than its Content-Length says is never made to look complete: the connection is cut."""

    async def scenario() -> None:
        exchange = await reach("nothing")
        await exchange.call.send({**START, "headers": [(b"content-length", b"4")]})
        await exchange.call.send({**PIECE, "body": b"abc"})
        with capturedLogs() as events:
            await exchange.call.end(how)
        assert (exchange.carrier.cause, exchange.carrier.ended) == (Cause.APPLICATION_ERROR, None)
        assert len(errors(events)) == 1

    play(scenario)


@pytest.mark.parametrize("row", HTTP_GONE, ids=str)
def test_gone(row: Row) -> None:
    """A message that would be in order raises an OSError once the peer has gone, and gives others their turn."""

    async def scenario() -> None:
        exchange = await reach(row.stage)
        await exchange.lose()
        turned = asyncio.Event()
        asyncio.get_running_loop().call_soon(turned.set)
        for _ in range(100):
            with pytest.raises(Disconnected):
                await exchange.call.send(row.events[0])
        assert turned.is_set()

    play(scenario)


@pytest.mark.parametrize("end", HTTP_ENDS, ids=str)
def test_application_ends(end: End) -> None:
    """An application that returns, raises or is cancelled ends its exchange as its row says, logged no more than once."""

    async def scenario() -> None:
        exchange = await reach(end.stage)
        with capturedLogs() as events:
            await exchange.call.end(end.how)
        assert exchange.carrier.status == end.status
        assert exchange.carrier.cause == (Cause.APPLICATION_ERROR if end.cut else None)
        assert len(errors(events)) == end.logged, errors(events)
        if not end.cut:
            assert exchange.carrier.ended is not None
            assert exchange.carrier.ended[3] is (end.status == 200)
        assert exchange.application.busy() == 0

    play(scenario)


@pytest.mark.parametrize("stage", ["nothing", "started", "sending"])
@pytest.mark.parametrize(("how", "logged"), [("returns", 0), ("raises", 1), ("is cancelled", 0)])
def test_ends_after_the_peer(stage: str, how: str, logged: int) -> None:
    """An application that ends after its peer has gone changes nothing; its own errors are logged all the same."""

    async def scenario() -> None:
        exchange = await reach(stage)
        await exchange.lose()
        before = bytes(exchange.carrier.out)
        with capturedLogs() as events:
            await exchange.call.end(how)
        assert (bytes(exchange.carrier.out), exchange.carrier.ended, exchange.carrier.cause) == (before, None, None)
        assert len(errors(events)) == logged

    play(scenario)


class ClientDisconnectError(Exception):
    """A framework's own exception for a client that has gone."""


@pytest.mark.parametrize("cause", [None, ClientDisconnectError("a framework's")])
def test_an_error_of_ours_is_none_of_the_application(cause: Exception | None) -> None:
    """An application that lets our OSError pass, or one made of it, is no error in the log."""

    async def scenario() -> None:
        exchange = await reach("sending")
        await exchange.lose()
        try:
            await exchange.call.send(BODY)
        except OSError as error:
            raised: Exception = error
            if cause is not None:
                cause.__context__ = error
                raised = cause
        with capturedLogs() as events:
            exchange.call.ended.set_exception(raised)
            await turn()
        assert errors(events) == []

    play(scenario)


# What is received


async def received(exchange: Exchange) -> tuple[bytes, bool]:
    event = await asyncio.wait_for(exchange.call.receive(), 5)
    assert event["type"] == "http.request"
    assert set(event) == {"type", "body", "more_body"}
    return event["body"], event["more_body"]


def test_no_body() -> None:
    """A request with no body is received as one empty piece that is the last."""

    async def scenario() -> None:
        exchange = await reach("nothing")
        assert await received(exchange) == (b"", False)

    play(scenario)


def test_a_body_that_is_there() -> None:
    """A body that came at once is received at once."""

    async def scenario() -> None:
        exchange = await reach("nothing", OF_FOUR)
        exchange.channel.received(b"abcd")
        assert await received(exchange) == (b"abcd", False)

    play(scenario)


def test_a_body_in_pieces() -> None:
    """A body is received while it comes, what has come meanwhile in one piece; more_body is False with the last one alone."""

    async def scenario() -> None:
        exchange = await reach("nothing", OF_FOUR)
        waiting = asyncio.ensure_future(received(exchange))
        await turn()
        assert not waiting.done()
        exchange.channel.received(b"a")
        await turn()
        assert waiting.result() == (b"a", True)
        exchange.channel.received(b"b")
        exchange.channel.received(b"c")
        assert await received(exchange) == (b"bc", True)
        exchange.channel.received(b"d")
        assert await received(exchange) == (b"d", False)

    play(scenario)


def test_a_chunked_body() -> None:
    """A chunked body is received as plain bytes; its end may come by itself, as an empty last piece."""

    async def scenario() -> None:
        exchange = await reach("nothing", CHUNKED)
        exchange.channel.received(b"2\r\nab\r\n2\r\nc")
        assert await received(exchange) == (b"abc", True)
        exchange.channel.received(b"d\r\n")
        assert await received(exchange) == (b"d", True)
        waiting = asyncio.ensure_future(received(exchange))
        await turn()
        exchange.channel.received(b"0\r\n\r\n")
        await turn()
        assert waiting.result() == (b"", False)

    play(scenario)


def test_receiving_waits_for_the_end() -> None:
    """Once the whole request is received, ``receive`` waits until the peer goes or the response is complete, then says so for ever."""

    async def scenario() -> None:
        for ending in ("peer", "response"):
            exchange = await reach("nothing")
            await received(exchange)
            waiting = [asyncio.ensure_future(exchange.call.receive()) for _ in range(2)]
            await turn()
            assert not any(each.done() for each in waiting)
            if ending == "peer":
                await exchange.lose()
            else:
                await exchange.call.send(START)
                await exchange.call.send(BODY)
                await turn()
            assert [each.result() for each in waiting] == [{"type": "http.disconnect"}] * 2
            assert await exchange.call.receive() == {"type": "http.disconnect"}

    play(scenario)


def test_a_loop_that_asks_for_ever() -> None:
    """An application that takes no notice of http.disconnect gets it again, at once for a while, then once in a second."""

    async def scenario() -> None:
        exchange = await reach("complete")
        for _ in range(15):
            assert await asyncio.wait_for(exchange.call.receive(), 5) == {"type": "http.disconnect"}
        waiting = asyncio.ensure_future(exchange.call.receive())
        await turn()
        assert not waiting.done()
        await skip(1.1)
        assert waiting.result() == {"type": "http.disconnect"}

    play(scenario)


def test_two_receivers() -> None:
    """Of two tasks that receive, one gets the piece that comes, the other the next."""

    async def scenario() -> None:
        exchange = await reach("nothing", OF_FOUR)
        waiting = [asyncio.ensure_future(received(exchange)) for _ in range(2)]
        await turn()
        exchange.channel.received(b"ab")
        await turn()
        assert [each.done() for each in waiting].count(True) == 1
        exchange.channel.received(b"cd")
        await turn()
        assert sorted(each.result() for each in waiting) == [(b"ab", True), (b"cd", False)]

    play(scenario)


def test_a_receive_that_is_given_up() -> None:
    """A ``receive`` that was cancelled takes nothing with it, not even what came in the same turn."""

    async def scenario() -> None:
        exchange = await reach("nothing", OF_FOUR)
        for waits in (1, 0):
            waiting = asyncio.ensure_future(exchange.call.receive())
            await turn()
            if not waits:
                exchange.channel.received(b"abcd")
            waiting.cancel()
            await turn()
            assert waiting.cancelled()
        assert await received(exchange) == (b"abcd", False)

    play(scenario)


def test_disconnect_after_an_early_response() -> None:
    """An application that has answered receives http.disconnect, though the request is not complete."""

    async def scenario() -> None:
        exchange = await reach("complete", OF_FOUR)
        assert await exchange.call.receive() == {"type": "http.disconnect"}

    play(scenario)


def test_reading_pauses() -> None:
    """Reading pauses while more than inbox-size of the body waits for the application, and goes on when it is received."""

    async def scenario() -> None:
        exchange = await reach("nothing", POST + b"Content-Length: 2000\r\n\r\n", inbox_size=1000)
        exchange.channel.received(b"x" * 500)
        assert exchange.carrier.reading
        exchange.channel.received(b"x" * 500)
        assert not exchange.carrier.reading
        assert exchange.channel.held
        assert await received(exchange) == (b"x" * 1000, True)
        assert exchange.carrier.reading

    play(scenario)


EXPECTING = POST + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_continue() -> None:
    """A peer that waits to be told is told, once, when the application asks for the body."""

    async def scenario() -> None:
        exchange = await reach("nothing", EXPECTING)
        assert exchange.carrier.out == b""
        waiting = asyncio.ensure_future(received(exchange))
        await turn()
        assert exchange.carrier.out == CONTINUE
        exchange.channel.received(b"abcd")
        await turn()
        assert waiting.result() == (b"abcd", False)
        again = asyncio.ensure_future(exchange.call.receive())
        await turn()
        assert exchange.carrier.out == CONTINUE
        again.cancel()

    play(scenario)


@pytest.mark.parametrize("stage", ["started", "sending", "complete"])
def test_no_continue_into_a_response(stage: str) -> None:
    """A peer that waits to be told is told nothing in the midst of a response, nor after it, whatever the application receives."""

    async def scenario() -> None:
        exchange = await reach(stage, EXPECTING)
        before = bytes(exchange.carrier.out)
        waiting = asyncio.ensure_future(exchange.call.receive())
        await turn()
        if stage != "started":
            assert bytes(exchange.carrier.out) == before
        waiting.cancel()

    play(scenario)


# What is waited for


def test_send_waits_for_a_slow_peer() -> None:
    """``send`` returns when the peer takes its output again; the last piece does not wait."""

    async def scenario() -> None:
        exchange = await reach("started")
        exchange.channel.congested()
        sending = asyncio.ensure_future(exchange.call.send(PIECE))
        await turn()
        assert not sending.done()
        assert exchange.carrier.body == b"ok"
        exchange.channel.decongested()
        await turn()
        assert sending.done()
        exchange.channel.congested()
        await asyncio.wait_for(exchange.call.send(BODY), 5)
        assert exchange.carrier.ended is not None

    play(scenario)


def test_a_send_that_waits_fails_when_the_peer_goes() -> None:
    """``send`` that waits for a slow peer raises an OSError when that peer is lost; one that is given up leaves nothing behind."""

    async def scenario() -> None:
        exchange = await reach("started")
        exchange.channel.congested()
        sending = asyncio.ensure_future(exchange.call.send(PIECE))
        given_up = asyncio.ensure_future(exchange.call.send(PIECE))
        await turn()
        given_up.cancel()
        await turn()
        await exchange.lose()
        assert isinstance(sending.exception(), OSError)

    play(scenario)


def test_senders_give_way() -> None:
    """An application that sends without end to a peer that takes everything lets others run."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        with suppress(Disconnected):
            await send(START)
            while True:
                await send({**PIECE, "body": b"x" * 1000})

    async def scenario() -> None:
        exchange = Exchange(REQUESTS["GET"], app)
        for _ in range(5):
            await asyncio.sleep(0)
        await exchange.lose()
        assert exchange.application.busy() == 0
        assert 100_000 < len(exchange.carrier.out) < 2_000_000

    play(scenario)


def test_runs_on_after_the_peer() -> None:
    """An application that runs on after its peer has gone is cancelled after its grace, and the log names where it waits."""

    async def scenario() -> None:
        exchange = await reach("sending", application_close_timeout=5)
        await exchange.lose()
        await skip(4)
        assert exchange.call.is_running
        with capturedLogs() as events:
            await skip(2)
        assert not exchange.call.is_running
        (event,) = events
        assert (event["log_level"], event["what"]) == (LogLevel.warn, "GET /a")
        assert "__call__" in event["stack"]

    play(scenario)


def test_runs_on_after_its_response() -> None:
    """An application that goes on after its response is complete, in a task of its own making, is left alone."""

    async def scenario() -> None:
        exchange = await reach("complete", application_close_timeout=5)
        await exchange.lose()
        await skip(100)
        assert exchange.call.is_running
        assert exchange.application.busy() == 1

    play(scenario)


# Files


async def sent(exchange: Exchange, path: Path | str) -> None:
    await exchange.call.send({"type": "http.response.pathsend", "path": str(path)})


def test_a_large_file(tmp_path: Path) -> None:
    """A file is sent piece by piece, and waits for a slow peer."""
    large = tmp_path / "large"
    large.write_bytes(b"0123456789" * 20_000)

    async def scenario() -> None:
        exchange = await reach("started")
        exchange.channel.congested()
        sending = asyncio.ensure_future(sent(exchange, large))
        await until(lambda: exchange.carrier.out)
        assert len(exchange.carrier.body) == 65536
        assert not sending.done()
        exchange.channel.decongested()
        await sending
        assert exchange.carrier.body == large.read_bytes()
        assert exchange.carrier.ended is not None

    play(scenario)


def test_an_empty_file(tmp_path: Path) -> None:
    """An empty file is an empty body."""
    empty = tmp_path / "empty"
    empty.touch()

    async def scenario() -> None:
        exchange = await reach("started")
        await sent(exchange, empty)
        assert exchange.carrier.header(b"content-length") == [b"0"]
        assert exchange.carrier.body == b""

    play(scenario)


@pytest.mark.parametrize("length", [b"9", b"11"])
def test_a_file_of_another_length(file: Path, length: bytes) -> None:
    """A file that is longer or shorter than the Content-Length that the application gave is never made to look complete."""

    async def scenario() -> None:
        exchange = await reach("nothing")
        await exchange.call.send({**START, "headers": [(b"content-length", length)]})
        with pytest.raises(ValueError, match="1 bytes"):
            await sent(exchange, file)
        with capturedLogs():
            await exchange.call.end("raises")
        assert exchange.carrier.cause is Cause.APPLICATION_ERROR or exchange.carrier.status == 500
        assert exchange.carrier.ended is None or exchange.carrier.ended[0] == 500

    play(scenario)


def test_a_file_nobody_waits_for(tmp_path: Path) -> None:
    """A file whose receiver goes is sent no further, and is closed; the application hears of it."""
    large = tmp_path / "large"
    large.write_bytes(b"x" * 200_000)

    async def scenario() -> None:
        exchange = await reach("started")
        exchange.channel.congested()
        sending = asyncio.ensure_future(sent(exchange, large))
        await until(lambda: exchange.carrier.out)
        await exchange.lose()
        with pytest.raises(Disconnected):
            await sending
        assert len(exchange.carrier.body) == 65536

    play(scenario)


def test_a_file_is_sent_once(file: Path) -> None:
    """A second file in one response is refused or ignored: nothing of it is sent."""

    async def scenario() -> None:
        exchange = await reach("started")
        await sent(exchange, file)
        with suppress(RuntimeError):
            await sent(exchange, file)
        assert exchange.carrier.body == CONTENT

    play(scenario)


# Over a connection


def test_a_missing_file_is_answered(file: Path) -> None:
    """An application that lets the error of a missing file pass is answered for with 500, and it is logged: the peer has not gone."""

    async def scenario() -> None:
        exchange = await reach("started")
        with pytest.raises(FileNotFoundError) as raised:
            await sent(exchange, file.with_name("missing"))
        with capturedLogs() as events:
            exchange.call.ended.set_exception(raised.value)
            await turn()
        assert exchange.carrier.status == 500
        assert len(errors(events)) == 1

    play(scenario)


def test_two_requests_on_one_connection() -> None:
    """Requests that come one behind the other are two calls of the application, one after the other, and leave in order."""

    async def scenario() -> None:
        world = AsgiWorld()
        peer = world.raw(REQUESTS["GET"] + REQUESTS["GET"].replace(b"/a", b"/b"))
        await turn()
        for path in ("/a", "/b"):
            assert [each.scope["path"] for each in world.app.calls][-1] == path
            await world.app.call.send(START)
            await world.app.call.send({**BODY, "body": path.encode()})
            await world.app.call.end()
            await world.settle()
        assert peer.data.index(b"/a") < peer.data.index(b"/b")
        assert [answer[1:] for answer in world.ledger.answers] == [("/a", 200, None), ("/b", 200, None)]
        assert peer.ended is None

    play(scenario)


def test_a_request_that_is_cut() -> None:
    """A response that the application gives up is cut, and the log is told so."""

    async def scenario() -> None:
        world = AsgiWorld()
        peer = world.raw(REQUESTS["GET"])
        await turn()
        await world.app.call.send(START)
        await world.app.call.send(PIECE)
        with capturedLogs():
            await world.app.call.end("raises")
        await world.settle()
        assert peer.ended is not None
        assert not peer.data.endswith(b"0\r\n\r\n")
        assert [answer[1:] for answer in world.ledger.answers] == [("/a", 200, Cause.APPLICATION_ERROR)]

    play(scenario)


def test_a_drain_lets_a_response_end() -> None:
    """A server that goes away lets a response be completed, says in it that the connection ends, and ends it."""

    async def scenario() -> None:
        world = AsgiWorld()
        peer = world.raw(REQUESTS["GET"])
        await turn()
        _, done = world.drain()
        await world.settle()
        assert peer.ended is None
        await world.app.call.send(START)
        await world.app.call.send(BODY)
        await world.settle()
        assert b"\r\nconnection: close\r\n" in peer.data
        assert peer.data.endswith(b"ok")
        assert peer.ended is not None
        world.advance(1)
        assert done

    play(scenario)


def test_each_request_has_a_context_of_its_own() -> None:
    """What a request puts into a context variable is not there for the next on its connection, pipelined or not, nor for a WebSocket."""
    user: ContextVar[str] = ContextVar("user", default="nobody")
    seen: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(user.get())
        user.set("somebody")
        if scope["type"] == "http":
            await send(START)
            await send(BODY)

    async def scenario() -> None:
        world = AsgiWorld(app)
        peer = world.raw(REQUESTS["GET"] * 3)
        await world.settle()
        world.advance(1)
        await world.settle()
        peer.send(REQUESTS["GET"] + request())
        await world.settle()
        world.advance(1)
        await world.settle()
        assert seen == ["nobody"] * 5

    play(scenario)
