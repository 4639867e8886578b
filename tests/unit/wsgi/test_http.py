"""A plain request as a WSGI application sees it (PEP 3333): over a carrier that only takes notes, and over connections in memory."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from wsgiref.validate import validator

import pytest
from twisted.logger import LogLevel, capturedLogs

from tests.support.asgi import FakeCarrier
from tests.support.memory import World, masked, request
from tests.support.wsgi import Call, Stage, until
from twistedws.errors import Cause, Disconnected
from twistedws.gateway.wsgi import http as module
from twistedws.gateway.wsgi.http import BODY_IN_MEMORY, checked
from twistedws.gateway.wsgi.threads import MOST_UNSENT

GET = b"GET /a?b HTTP/1.1\r\nHost: example.com\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")
OLD = GET.replace(b"HTTP/1.1", b"HTTP/1.0")
POST = b"POST /a HTTP/1.1\r\nHost: example.com\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
PLAIN = [("Content-Type", "text/plain")]

App = Callable[[dict[str, Any], Callable[..., Any]], Any]

pytestmark = pytest.mark.filterwarnings("error::wsgiref.validate.WSGIWarning")


def of(length: int, *more: bytes) -> bytes:
    """The head of a request with a body."""
    return POST + b"Content-Length: %d\r\n" % length + b"".join(line + b"\r\n" for line in more) + b"\r\n"


def errors(events: Any) -> list[Any]:
    return [each for each in events if each["log_level"] in (LogLevel.error, LogLevel.critical)]


@pytest.fixture
def stage() -> Iterator[Stage]:
    """An application that the test plays."""
    with Stage() as found:
        yield found


def answered(app: App, head: bytes = GET, *pieces: bytes, **settings: Any) -> FakeCarrier:
    """Have an application answer a request, to the end."""
    with Stage(app, **settings) as stage:
        exchange = stage.request(head, *pieces)
        stage.until(lambda: exchange.is_over)
        stage.idle()
    return exchange.carrier


def refused(app: App, head: bytes = GET, *pieces: bytes, error: type[BaseException]) -> FakeCarrier:
    """Have an application do something wrong: it is answered with 500, and the log has the error, once."""
    with capturedLogs() as events:
        carrier = answered(app, head, *pieces)
    assert [each["log_failure"].type for each in events] == [error]
    assert carrier.status == 500
    assert carrier.body == (b"" if head is HEAD else b"internal server error")
    assert carrier.ended is not None
    assert carrier.ended[3] is False
    return carrier


def cut(app: App, head: bytes = GET, *, error: type[BaseException]) -> FakeCarrier:
    """Have an application do something wrong in the middle of its response: it is cut, and the log has the error, once."""
    with capturedLogs() as events:
        carrier = answered(app, head)
    assert [each["log_failure"].type for each in events] == [error]
    assert (carrier.cause, carrier.ended) == (Cause.APPLICATION_ERROR, None)
    return carrier


class Pieces:
    """What an application returns: pieces, and a close that notes that it was called.

    Args:
        pieces: Each is returned; an exception is raised, and of a function its result is returned.
    """

    def __init__(self, *pieces: Any) -> None:
        self._pieces = iter(pieces)
        self.asked = 0
        self.closed = 0

    def __iter__(self) -> Pieces:
        return self

    def __next__(self) -> Any:
        assert not self.closed
        self.asked += 1
        piece = next(self._pieces)
        if isinstance(piece, BaseException):
            raise piece
        return piece() if callable(piece) else piece

    def close(self) -> None:
        self.closed += 1


def returning(result: Any, status: str = "200 OK", headers: Any = PLAIN) -> App:
    """An application that answers with something."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response(status, headers)
        return result

    return app


# What the application is called with


def test_a_request(stage: Stage) -> None:
    """The application is called with the request, in a thread named for it, once the request is complete."""
    exchange, call = stage.requested(of(4, b"Content-Type: text/plain"), b"ab", b"cd")
    environ = call.environ
    assert (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["CONTENT_LENGTH"]) == ("POST", "/a", "4")
    assert environ["CONTENT_TYPE"] == "text/plain"
    assert environ["wsgi.input"].read() == b"abcd"
    assert "wsgi.websocket" not in environ
    assert (call.thread is threading.current_thread(), call.thread.name) == (False, "twistedws request POST /a")
    assert stage.busy == 1
    call.do(call.start_response, "200 OK", PLAIN)
    call.end([b"ok"])
    stage.idle()
    assert exchange.carrier.status == 200
    with pytest.raises(ValueError, match="closed file"):
        environ["wsgi.input"].read()


def test_no_body(stage: Stage) -> None:
    """A request with no body has one of no length."""
    _, call = stage.requested(GET)
    assert (call.environ["CONTENT_LENGTH"], call.environ["wsgi.input"].read()) == ("0", b"")


def test_a_chunked_body(stage: Stage) -> None:
    """A chunked body is there as a whole, with its length."""
    exchange = stage.request(CHUNKED)
    for each in b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n":
        exchange.channel.received(bytes([each]))
    call = stage.played.wait()
    assert call.environ["CONTENT_LENGTH"] == "5"
    assert [call.environ["wsgi.input"].readline(), call.environ["wsgi.input"].read()] == [b"abcde", b""]


def test_a_slow_client_has_no_thread(stage: Stage) -> None:
    """While its body comes a request has no thread."""
    exchange = stage.request(of(4), b"abc")
    assert (stage.busy, stage.played.calls) == (0, [])
    exchange.channel.received(b"d")
    stage.played.wait()
    assert stage.busy == 1


@pytest.mark.parametrize("length", [BODY_IN_MEMORY, BODY_IN_MEMORY + 1, 5 * BODY_IN_MEMORY])
def test_a_large_body(stage: Stage, length: int) -> None:
    """What is too much for memory is in a temporary file; the application reads it from its beginning either way."""
    body = bytes(range(256)) * (length // 256 + 1)
    pieces = [body[:length][start : start + 10_000] for start in range(0, length, 10_000)]
    _, call = stage.requested(of(length), *pieces)
    stream = call.environ["wsgi.input"]
    assert isinstance(stream, io.BytesIO) is (length <= BODY_IN_MEMORY)
    assert call.do(stream.read) == body[:length]
    assert call.environ["CONTENT_LENGTH"] == str(length)


def test_continue(stage: Stage) -> None:
    """A client that waits to be told to send its body is told at once, since the application is not called before it is here."""
    exchange = stage.request(of(2, b"Expect: 100-continue"))
    assert exchange.carrier.out == b"HTTP/1.1 100 Continue\r\n\r\n"
    exchange.channel.received(b"ab")
    assert stage.played.wait().environ["wsgi.input"].read() == b"ab"


def test_file_wrapper(stage: Stage) -> None:
    """The standard library's file wrapper is offered, and the file that it wraps is closed."""
    exchange, call = stage.requested(GET)
    body = call.environ["wsgi.input"]

    class File:
        """A file that an application sends."""

        def __init__(self) -> None:
            self.pieces = [b"ab", b"cd", b""]
            self.closed = False

        def read(self, size: int) -> bytes:
            return self.pieces.pop(0)

        def close(self) -> None:
            self.closed = True

    file = File()
    call.do(call.start_response, "200 OK", [*PLAIN, ("Content-Length", "4")])
    call.end(call.environ["wsgi.file_wrapper"](file))
    stage.idle()
    assert (exchange.carrier.body, file.closed, body.closed) == (b"abcd", True, True)


def test_start_response_by_name() -> None:
    """``start_response`` has the parameters' names of PEP 3333."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response(status="200 OK", headers=PLAIN, exc_info=None)
        return [b"ok"]

    assert answered(app).body == b"ok"


# What it answers


def test_a_list_of_one() -> None:
    """The length of a response that is a list of one is said for the application, and the connection goes on."""
    carrier = answered(returning([b"hello"], headers=[("Content-Type", "text/plain"), ("X-A", "caf\xe9"), ("x-a", "2")]))
    assert carrier.head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: caf\xe9\r\nx-a: 2\r\n")
    assert carrier.header(b"content-length") == [b"5"]
    assert len(carrier.header(b"date")) == 1
    assert (carrier.header(b"transfer-encoding"), carrier.body) == ([], b"hello")
    assert carrier.ended == (200, 5, b"", True)


@pytest.mark.parametrize("make", [list, tuple, Pieces, lambda: [b""], lambda: Pieces(b"")])
def test_an_empty_response(make: Callable[[], Any]) -> None:
    """A response of nothing has the length 0."""
    carrier = answered(returning(make()))
    assert (carrier.status, carrier.header(b"content-length"), carrier.body) == (200, [b"0"], b"")
    assert carrier.ended == (200, 0, b"", True)


@pytest.mark.parametrize("result", [lambda: [b"a", b"", b"bc"], lambda: Pieces(b"a", b"", b"bc"), lambda: iter([b"abc"])])
def test_several_pieces(result: Callable[[], Any]) -> None:
    """A response in pieces is chunked; a piece of nothing ends it not."""
    carrier = answered(returning(result()))
    assert carrier.header(b"transfer-encoding") == [b"chunked"]
    assert (carrier.body, carrier.ended) == (b"abc", (200, 3, b"", True))
    assert carrier.out.endswith(b"\r\n0\r\n\r\n")


def test_several_pieces_for_an_older_client() -> None:
    """To an HTTP/1.0 client the end of the connection is that of the response."""
    carrier = answered(returning([b"a", b"b"]), OLD)
    assert (carrier.header(b"transfer-encoding"), carrier.body) == ([], b"ab")
    assert carrier.ended == (200, 2, b"", False)


def test_pieces_whose_length_is_said() -> None:
    """A response of the length that the application says is not chunked."""
    carrier = answered(returning(Pieces(b"ab", b"c"), headers=[*PLAIN, ("Content-Length", "3")]))
    assert (carrier.header(b"content-length"), carrier.header(b"transfer-encoding")) == ([b"3"], [])
    assert (carrier.body, carrier.ended) == (b"abc", (200, 3, b"", True))


def test_pieces_leave_at_once(stage: Stage) -> None:
    """A piece leaves before the next is asked for: the head with the first of them."""
    exchange, call = stage.requested(GET)
    gate = threading.Event()

    def second() -> bytes:
        gate.wait()
        return b"second"

    call.do(call.start_response, "200 OK", PLAIN)
    assert exchange.carrier.out == b""
    call.end(Pieces(b"first", second))
    stage.until(lambda: exchange.carrier.body == b"first")
    assert not exchange.is_over
    gate.set()
    stage.until(lambda: exchange.is_over)
    assert exchange.carrier.body == b"firstsecond"


def test_write(stage: Stage) -> None:
    """What is written goes before what is returned, the head before the first."""
    exchange, call = stage.requested(GET)
    write = call.do(call.start_response, "200 OK", PLAIN)
    call.do(write, b"")
    stage.reactor.turn()
    assert exchange.carrier.out == b""
    call.do(write, b"a")
    call.do(write, b"b")
    stage.until(lambda: exchange.carrier.body == b"ab")
    call.end([b"c"])
    stage.idle()
    assert (exchange.carrier.body, exchange.carrier.ended) == (b"abc", (200, 3, b"", True))


def test_start_response_when_the_first_piece_is_asked_for() -> None:
    """A generator may call ``start_response`` before its first piece; what is empty before it is none."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        yield b""
        start_response("201 Created", PLAIN)
        yield b"a"

    carrier = answered(app)
    assert (carrier.status, carrier.body) == (201, b"a")


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("200 OK", b"HTTP/1.1 200 OK"),
        ("299 As I like it", b"HTTP/1.1 299 As I like it"),
        ("404", b"HTTP/1.1 404 Not Found"),
        ("500 ", b"HTTP/1.1 500 Internal Server Error"),
    ],
)
def test_status_line(status: str, line: bytes) -> None:
    """Status and reason phrase are the application's; a phrase that it does not give is the status's own."""
    carrier = answered(returning([b"x"], status))
    assert carrier.head.partition(b"\r\n")[0] == line


def test_headers_are_copied(stage: Stage) -> None:
    """What the application does to its list of headers afterwards has no effect."""
    exchange, call = stage.requested(GET)
    headers = list(PLAIN)
    call.do(call.start_response, "200 OK", headers)
    headers.append(("X-Late", "1"))
    call.end([b"ok"])
    stage.idle()
    assert exchange.carrier.header(b"x-late") == []


def test_how_a_response_is_carried() -> None:
    """Headers that say how a response is carried are not the application's to say, but that it is the last."""
    carrier = answered(returning([b"ok"], headers=[*PLAIN, ("Transfer-Encoding", "chunked"), ("Connection", "close"), ("Keep-Alive", "1")]))
    assert (carrier.header(b"connection"), carrier.header(b"keep-alive"), carrier.header(b"transfer-encoding")) == ([b"close"], [], [])
    assert carrier.ended == (200, 2, b"", False)


@pytest.mark.parametrize(("result", "length"), [([b"hello"], [b"5"]), ([b"he", b"llo"], []), ([], [])])
def test_head(result: Any, length: list[bytes]) -> None:
    """The answer to HEAD has the head of the answer to GET, with the length where it is known, and no body."""
    carrier = answered(returning(result), HEAD)
    assert (carrier.status, carrier.body, carrier.header(b"content-length")) == (200, b"", length)
    assert carrier.header(b"transfer-encoding") == []
    assert carrier.ended is not None
    assert carrier.ended[3] is True


def test_head_whose_length_is_said() -> None:
    """A length that the application says in its answer to HEAD stands, though no body follows."""
    carrier = answered(returning([], headers=[*PLAIN, ("Content-Length", "1000")]), HEAD)
    assert (carrier.header(b"content-length"), carrier.body) == ([b"1000"], b"")


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("pieces", [[], [b""], [b"not sent"], [b"not", b"sent"]], ids=["none", "empty", "one", "several"])
def test_no_content(status: str, pieces: list[bytes]) -> None:
    """A response that has no body has none, and no words on its length; the connection goes on."""
    carrier = answered(returning(pieces, status, []))
    assert (carrier.status, carrier.body) == (int(status[:3]), b"")
    assert (carrier.header(b"content-length"), carrier.header(b"transfer-encoding")) == ([], [])
    assert carrier.ended is not None
    assert carrier.ended[3] is True


# The standard library's validator looks at both sides


def validated(app: App, head: bytes = GET, *pieces: bytes) -> FakeCarrier:
    """Have an application answer, with the validator between it and the server."""
    with capturedLogs() as events:
        carrier = answered(validator(app), head, *pieces)
    assert errors(events) == []
    return carrier


def test_valid_list() -> None:
    """A list passes the validator."""
    assert validated(returning([b"hello"])).body == b"hello"


def test_valid_generator() -> None:
    """A generator passes the validator."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        yield b"a"
        yield b"b"

    assert validated(app).body == b"ab"


def test_valid_write() -> None:
    """``write`` passes the validator."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        write = start_response("200 OK", PLAIN)
        write(b"a")
        return [b"b"]

    assert validated(app).body == b"ab"


@pytest.mark.parametrize("pieces", [(of(7), b"one\ntwo"), (CHUNKED, b"7\r\none\ntwo\r\n0\r\n\r\n")], ids=["sized", "chunked"])
def test_valid_input(pieces: tuple[bytes, bytes]) -> None:
    """The body's stream does all that the validator lets an application do."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        stream = environ["wsgi.input"]
        found = [stream.read(1), stream.readline(), *stream, stream.read(10)]
        start_response("200 OK", PLAIN)
        environ["wsgi.errors"].flush()
        return [b"|".join(found)]

    assert validated(app, *pieces).body == b"o|ne\n|two|"


def test_valid_replacement() -> None:
    """``exc_info`` passes the validator."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", PLAIN)
        try:
            raise ZeroDivisionError
        except ZeroDivisionError as error:
            start_response("503 Service Unavailable", PLAIN, (type(error), error, error.__traceback__))
        return [b"sorry"]

    carrier = validated(app)
    assert (carrier.status, carrier.body) == (503, b"sorry")


@pytest.mark.parametrize("head", [HEAD, OLD])
def test_valid_others(head: bytes) -> None:
    """Requests of other kinds pass the validator."""
    assert validated(returning([b"a", b"b"]), head).status == 200


# What it does wrong


def twice(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", PLAIN)
    start_response("201 Created", PLAIN)
    return [b"nothing of this leaves"]


def never(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    return [b"nothing of this leaves"]


def never_with_nothing(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    return []


def too_late(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    yield b"nothing of this leaves"
    start_response("200 OK", PLAIN)


def raising(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    raise ZeroDivisionError


def exiting(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    raise SystemExit(1)


@pytest.mark.parametrize(
    ("app", "error"),
    [
        (twice, RuntimeError),
        (never, RuntimeError),
        (never_with_nothing, RuntimeError),
        (too_late, RuntimeError),
        (raising, ZeroDivisionError),
        (exiting, SystemExit),
        (returning([b"ok"], 200), TypeError),  # type: ignore[arg-type]
        (returning([b"ok"], b"200 OK"), TypeError),  # type: ignore[arg-type]
        (returning([b"ok"], ""), ValueError),
        (returning([b"ok"], "OK"), ValueError),
        (returning([b"ok"], "20 OK"), ValueError),
        (returning([b"ok"], "2000 OK"), ValueError),
        (returning([b"ok"], "101 Switching Protocols"), ValueError),
        (returning([b"ok"], "600 What"), ValueError),
        (returning([b"ok"], "\u0662\u0660\u0660 OK"), ValueError),
        (returning([b"ok"], "200 OK\r\nX-A: 1"), ValueError),
        (returning([b"ok"], "200 caf\xe9"), ValueError),
        (returning([b"ok"], headers=None), TypeError),
        (returning([b"ok"], headers=[("X-A",)]), ValueError),
        (returning([b"ok"], headers=[("X-A", 1)]), TypeError),
        (returning([b"ok"], headers=[(b"X-A", "1")]), TypeError),
        (returning([b"ok"], headers=[("X-A", b"1")]), TypeError),
        (returning([b"ok"], headers=[("X-A", "1\r\nX-B: 2")]), ValueError),
        (returning([b"ok"], headers=[("X-A", "1\nX-B: 2")]), ValueError),
        (returning([b"ok"], headers=[("X-A", "1\r")]), ValueError),
        (returning([b"ok"], headers=[("X-A\r\nX-B", "1")]), ValueError),
        (returning([b"ok"], headers=[("X A", "1")]), ValueError),
        (returning([b"ok"], headers=[("", "1")]), ValueError),
        (returning([b"ok"], headers=[("X-A", "\u20ac")]), UnicodeEncodeError),
        (returning([b"ok"], headers=[("Content-Length", "two")]), ValueError),
        (returning([b"ok"], headers=[("Content-Length", "2"), ("Content-Length", "2")]), ValueError),
        (returning([b"ok"], headers=[("Content-Length", "1")]), ValueError),
        (returning([b"ok"], headers=[("Content-Length", "3")]), ValueError),
        (returning(["text"]), TypeError),
        (returning([None]), TypeError),
        (returning(b"bytes"), TypeError),
        (returning(["text", "text"]), TypeError),
        (returning(None), TypeError),
        (returning(Pieces(ZeroDivisionError())), ZeroDivisionError),
    ],
)
def test_a_fault(app: App, error: type[BaseException]) -> None:
    """An application that answers what cannot be sent, or raises, is answered for with 500, and the log has it once."""
    refused(app, error=error)


def test_a_fault_in_an_answer_to_head() -> None:
    """So it is for HEAD, with no body."""
    refused(raising, HEAD, error=ZeroDivisionError)


@pytest.mark.parametrize(
    ("result", "headers", "error", "body"),
    [
        (lambda: Pieces(b"a", ZeroDivisionError()), [], ZeroDivisionError, b"a"),
        (lambda: Pieces(b"a", SystemExit()), [], SystemExit, b"a"),
        (lambda: Pieces(b"a", "text"), [], TypeError, b"a"),
        (lambda: Pieces(b"ab", b"cd", b"never asked for"), [("Content-Length", "3")], ValueError, b"ab"),
        (lambda: Pieces(b"ab"), [("Content-Length", "3")], ValueError, b"ab"),
    ],
    ids=["raises", "exits", "text", "too long", "too short"],
)
def test_a_fault_in_the_middle(result: Callable[[], Any], headers: list[tuple[str, str]], error: type[BaseException], body: bytes) -> None:
    """A response that has begun and cannot be completed is cut, never made to look complete; its maker is closed all the same."""
    pieces = result()
    carrier = cut(returning(pieces, headers=[*PLAIN, *headers]), error=error)
    assert (carrier.status, carrier.body, pieces.closed) == (200, body, 1)
    assert not carrier.out.endswith(b"0\r\n\r\n")


def test_a_length_that_is_written_over() -> None:
    """What is written beyond the length that was said does not leave."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        write = start_response("200 OK", [*PLAIN, ("Content-Length", "1")])
        write(b"a")
        write(b"b")
        return []

    assert cut(app, error=ValueError).body == b"a"


def test_a_replaced_response(stage: Stage) -> None:
    """A response that has not left may be replaced, with ``exc_info``, as often as need be."""
    exchange, call = stage.requested(GET)
    error = ZeroDivisionError()
    call.do(call.start_response, "200 OK", [("X-First", "1")])
    call.do(call.start_response, "500 Oops", PLAIN, (type(error), error, None))
    call.do(call.start_response, "503 Really", [("X-Third", "1")], (type(error), error, None))
    with pytest.raises(RuntimeError, match="already"):
        call.do(call.start_response, "200 OK", PLAIN)
    call.end([b"sorry"])
    stage.idle()
    carrier = exchange.carrier
    assert (carrier.status, carrier.body) == (503, b"sorry")
    assert (carrier.header(b"x-first"), carrier.header(b"content-type"), carrier.header(b"x-third")) == ([], [], [b"1"])


def test_a_first_response_with_an_error(stage: Stage) -> None:
    """``exc_info`` may come with the first response."""
    exchange, call = stage.requested(GET)
    error = ZeroDivisionError()
    call.do(call.start_response, "500 Oops", PLAIN, (type(error), error, None))
    call.end([b"sorry"])
    stage.idle()
    assert (exchange.carrier.status, exchange.carrier.body) == (500, b"sorry")


def test_a_response_that_is_replaced_too_late(stage: Stage) -> None:
    """Once the head has left, ``start_response`` raises the error that it is given, and the response is cut."""
    exchange, call = stage.requested(GET)
    error = ZeroDivisionError("the application's own")
    write = call.do(call.start_response, "200 OK", PLAIN)
    call.do(write, b"a")
    with pytest.raises(ZeroDivisionError) as caught:
        call.do(call.start_response, "500 Oops", PLAIN, (type(error), error, None))
    assert caught.value is error
    with capturedLogs() as events:
        call.end_with(error)
        stage.idle()
    assert [each["log_failure"].value for each in events] == [error]
    assert (exchange.carrier.cause, exchange.carrier.ended) == (Cause.APPLICATION_ERROR, None)


def test_a_response_that_cannot_be_sent_changes_nothing(stage: Stage) -> None:
    """After a ``start_response`` that was refused, one that is none the worse is taken."""
    exchange, call = stage.requested(GET)
    with pytest.raises(ValueError, match="control"):
        call.do(call.start_response, "200 OK", [("X-A", "1\r\n")])
    call.do(call.start_response, "200 OK", PLAIN)
    call.end([b"ok"])
    stage.idle()
    assert (exchange.carrier.status, exchange.carrier.body) == (200, b"ok")


def test_text_is_not_written(stage: Stage) -> None:
    """``write`` refuses what is no bytes."""
    _, call = stage.requested(GET)
    write = call.do(call.start_response, "200 OK", PLAIN)
    with pytest.raises(TypeError, match="bytes are accepted"):
        call.do(write, "text")


def test_checked() -> None:
    """What ``start_response`` is given becomes status, headers and reason phrase."""
    assert checked("200 OK", [("X-A", "\xe9")]) == (200, [(b"X-A", b"\xe9")], b"OK")


# close()


def test_close() -> None:
    """What the application returned is closed, once, when all of it was asked for."""
    pieces = Pieces(b"a", b"b")
    assert answered(returning(pieces)).body == b"ab"
    assert pieces.closed == 1


def test_close_of_an_error() -> None:
    """It is closed when the iteration raises."""
    pieces = Pieces(ZeroDivisionError())
    refused(returning(pieces), error=ZeroDivisionError)
    assert pieces.closed == 1


def test_a_close_that_raises() -> None:
    """A close that raises is logged; the response is complete already."""

    class Unclosable(Pieces):
        def close(self) -> None:
            super().close()
            raise ZeroDivisionError

    pieces = Unclosable(b"a")
    with capturedLogs() as events:
        carrier = answered(returning(pieces))
    assert [each["log_failure"].type for each in events] == [ZeroDivisionError]
    assert (carrier.body, carrier.ended, pieces.closed) == (b"a", (200, 1, b"", True), 1)


# Peers that go


def test_a_peer_that_goes(stage: Stage) -> None:
    """When the peer has gone the iteration ends, what is iterated over is closed, and nobody complains."""
    exchange, call = stage.requested(GET)
    gate = threading.Event()

    def second() -> bytes:
        gate.wait()
        return b"second"

    pieces = Pieces(b"first", second, b"third", b"fourth")
    with capturedLogs() as events:
        call.do(call.start_response, "200 OK", PLAIN)
        call.end(pieces)
        stage.until(lambda: exchange.carrier.body == b"first")
        until(lambda: pieces.asked == 2)
        exchange.leave()
        gate.set()
        stage.idle()
    assert (pieces.asked, pieces.closed) == (2, 1)
    assert (exchange.carrier.body, errors(events)) == (b"first", [])


def test_a_write_to_a_peer_that_has_gone(stage: Stage) -> None:
    """``write`` to a peer that has gone raises an OSError, and an application that lets it through has not failed."""
    exchange, call = stage.requested(GET)
    write = call.do(call.start_response, "200 OK", PLAIN)
    call.do(write, b"a")
    exchange.leave()
    with pytest.raises(Disconnected) as caught:
        call.do(write, b"b")
    assert isinstance(caught.value, OSError)
    with capturedLogs() as events:
        call.end_with(caught.value)
        stage.idle()
    assert [each["log_level"] for each in events] == [LogLevel.debug]


def test_an_application_that_raises_when_its_peer_has_gone(stage: Stage) -> None:
    """Any other error is logged though nobody is there to see its answer."""
    exchange, call = stage.requested(GET)
    exchange.leave()
    with capturedLogs() as events:
        call.end_with(ZeroDivisionError())
        stage.idle()
    assert len(errors(events)) == 1
    assert exchange.carrier.out == b""


def test_a_peer_that_goes_before_the_response(stage: Stage) -> None:
    """A response to a peer that has gone is neither asked for to its end nor sent."""
    exchange, call = stage.requested(GET)
    exchange.leave()
    pieces = Pieces(b"a", b"b")
    with capturedLogs() as events:
        call.do(call.start_response, "200 OK", PLAIN)
        call.end(pieces)
        stage.idle()
    assert (pieces.asked, pieces.closed, events) == (1, 1, [])
    assert exchange.carrier.out == b""


def test_a_peer_that_goes_while_its_body_comes(stage: Stage) -> None:
    """A request that is never complete is never run, and keeps nothing."""
    exchange = stage.request(of(BODY_IN_MEMORY + 2), b"x" * (BODY_IN_MEMORY + 1))
    body = exchange.channel.requests[0]._input
    exchange.leave()
    assert body.closed
    assert (stage.busy, stage.played.calls) == (0, [])


def test_a_body_that_is_late(stage: Stage) -> None:
    """So it is with one whose body takes too long, or exceeds its bound."""
    exchange = stage.request(of(4), b"abc")
    exchange.channel.expired()
    assert exchange.carrier.status == 408
    with Stage(max_body_size=3) as small:
        large = small.request(CHUNKED, b"4\r\nabcd\r\n0\r\n\r\n")
        assert large.carrier.status == 413
        assert small.played.calls == []
    assert stage.played.calls == []


def test_a_thread_that_runs_on() -> None:
    """A call that does not return after its peer was gone is reported, with its place; when it returns, that is told."""
    with Stage(application_close_timeout=3) as stage:
        exchange, call = stage.requested(GET)
        gate = threading.Event()

        def waits_here() -> None:
            gate.wait()

        call.do(call.start_response, "200 OK", PLAIN)
        call.begin(waits_here)
        until(lambda: "waits_here" in exchange.channel.requests[0]._job.stack())
        exchange.leave()
        with capturedLogs() as events:
            stage.clock.advance(2.9)
            assert events == []
            stage.clock.advance(0.2)
            gate.set()
            call.end()
            stage.idle()
        assert [each["what"] for each in events] == ["GET /a", "GET /a"]
        assert f"waits_here ({__file__}:" in events[0]["stack"]
        assert "returned after all" in events[1]["log_format"]
        assert stage.metrics.late_threads == 1


def test_a_thread_that_returns_in_time() -> None:
    """One that returns in its time is not reported."""
    with Stage(application_close_timeout=3) as stage:
        exchange, call = stage.requested(GET)
        exchange.leave()
        call.do(call.start_response, "200 OK", PLAIN)
        with capturedLogs() as events:
            call.end([b"ok"])
            stage.idle()
            stage.clock.advance(10)
        assert (events, stage.metrics.late_threads, stage.clock.getDelayedCalls()) == ([], 0, [])


def test_a_thread_that_has_done_with_its_request() -> None:
    """A thread that has done with its request is not waited for, though its peer goes in the moment in which it does."""
    with Stage(returning([b"ok"]), application_close_timeout=3) as stage:
        exchange = stage.request(of(2))
        job, gate = exchange.channel.requests[0]._job, threading.Event()
        run = job.function

        def slow() -> None:
            run()
            gate.wait()

        job.function = slow
        exchange.channel.received(b"ab")
        until(lambda: not exchange.channel.requests[0]._response.is_empty)
        exchange.channel.congested()
        body = exchange.channel.requests[0]._input
        stage.until(lambda: body.closed)  # the application has returned, and its answer waits
        exchange.leave()
        gate.set()
        stage.idle()
        with capturedLogs() as events:
            stage.clock.advance(10)
        assert (events, stage.metrics.late_threads) == ([], 0)


def test_a_peer_that_goes_when_its_answer_waits() -> None:
    """A peer that goes before it has taken its answer leaves no thread behind that is waited for."""
    with Stage(application_close_timeout=3, queue_size=1) as stage:
        exchange, call = stage.requested(GET)
        exchange.channel.congested()
        call.do(call.start_response, "200 OK", PLAIN)
        call.end(Pieces(b"a", b"b"))
        until(lambda: exchange.channel.requests[0]._response._waiting)
        exchange.leave()
        stage.idle()
        assert exchange.carrier.out == b""
        assert stage.clock.getDelayedCalls() == []


# Slow peers


@pytest.fixture
def narrow() -> Iterator[Stage]:
    """An application of whose responses little waits for a slow peer."""
    with Stage(queue_size=MOST_UNSENT) as found:
        yield found


def test_a_slow_peer() -> None:
    """While the peer takes nothing, the application is asked for nothing beyond what may wait, and the piece that does not fit."""
    with Stage(queue_size=1) as stage:
        slow_peer(stage)


def slow_peer(stage: Stage) -> None:
    exchange, call = stage.requested(GET)
    pieces = Pieces(b"a", b"b", b"c")
    exchange.channel.congested()
    call.do(call.start_response, "200 OK", PLAIN)
    call.end(pieces)
    response = exchange.channel.requests[0]._response
    until(lambda: response._waiting == 1)
    assert exchange.carrier.out == b""
    assert pieces.asked == 2
    exchange.channel.decongested()
    stage.until(lambda: exchange.is_over)
    assert exchange.carrier.body == b"abc"


def test_a_slow_peer_keeps_no_thread(stage: Stage) -> None:
    """A response that may wait as a whole has its thread no longer than it takes to make it."""
    exchange, call = stage.requested(GET)
    exchange.channel.congested()
    call.do(call.start_response, "200 OK", PLAIN)
    call.end(Pieces(*[b"x" * 50_000] * 10))
    stage.until(lambda: stage.busy == 0)
    assert exchange.carrier.out == b""
    exchange.channel.decongested()
    stage.until(lambda: exchange.is_over)
    assert len(exchange.carrier.body) == 500_000


def test_an_error_behind_a_slow_peer(stage: Stage) -> None:
    """What was sent before the application raised leaves before the connection is cut."""
    exchange, call = stage.requested(GET)
    exchange.channel.congested()
    call.do(call.start_response, "200 OK", PLAIN)

    def fails() -> bytes:
        raise ZeroDivisionError

    with capturedLogs() as events:
        call.end(Pieces(b"a", b"b", fails))
        stage.until(lambda: stage.busy == 0)
    assert [each["log_failure"].type for each in events] == [ZeroDivisionError]
    assert exchange.carrier.out == b""
    assert exchange.carrier.cause is None
    exchange.channel.decongested()
    stage.until(lambda: exchange.carrier.cause is not None)
    assert b"\r\na\r\n" in exchange.carrier.out
    assert b"\r\nb\r\n" in exchange.carrier.out
    assert not exchange.carrier.was_cut_at_once


def test_a_peer_that_becomes_slow(narrow: Stage) -> None:
    """A response without end is made no faster than its peer takes it."""
    stage = narrow
    exchange, call = stage.requested(GET)
    asked: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            asked.append(1)
            yield b"x" * 10_000

    carrier, transport = exchange.carrier, exchange.channel.transport

    def slow(data: bytes) -> None:
        carrier.write(data)
        if not exchange.channel.is_full:
            exchange.channel.congested()

    transport.write = slow
    call.do(call.start_response, "200 OK", PLAIN)
    call.end(endless())
    response = exchange.channel.requests[0]._response
    for _ in range(3):
        stage.until(lambda: response._waiting)
        stage.reactor.turn()
        until(lambda: response._waiting)
        assert len(asked) * 10_000 - len(carrier.body) <= MOST_UNSENT + 20_000
        before = len(carrier.body)
        exchange.channel.decongested()
        stage.reactor.turn()
        assert len(carrier.body) > before
    exchange.leave()
    stage.idle()


def test_a_quick_peer(narrow: Stage) -> None:
    """To a peer that takes everything no more is made than the loop hands on."""
    stage = narrow
    exchange, call = stage.requested(GET)
    asked: list[int] = []

    def large() -> Iterator[bytes]:
        for _ in range(100):
            asked.append(1)
            yield b"x" * 10_000

    call.do(call.start_response, "200 OK", PLAIN)
    call.end(large())
    response = exchange.channel.requests[0]._response
    until(lambda: response._waiting == 1)
    assert len(asked) < 10
    stage.until(lambda: exchange.is_over)
    assert len(exchange.carrier.body) == 1_000_000


# Threads that are busy


def test_all_threads_are_busy() -> None:
    """A request that finds no thread free waits for one, and is run then, in its order."""
    with Stage(http_threads=1) as stage:
        _, first = stage.requested(GET)
        others = [stage.request(GET.replace(b"/a", b"/%d" % number)) for number in range(2)]
        stage.reactor.turn()
        assert (len(stage.played.calls), stage.busy) == (1, 1)
        answer(first)
        second = stage.played.wait(2)
        assert second.environ["PATH_INFO"] == "/0"
        answer(second)
        third = stage.played.wait(3)
        assert third.environ["PATH_INFO"] == "/1"
        answer(third)
        stage.idle()
        assert [each.carrier.status for each in others] == [200, 200]


def answer(call: Call) -> None:
    """Have a call answer."""
    call.begin(call.start_response, "200 OK", PLAIN)
    call.end([b"ok"])


def test_a_peer_that_goes_while_its_request_waits() -> None:
    """A request whose peer has gone while it waited for a thread keeps nothing, and is never run."""
    with Stage(http_threads=1, application_close_timeout=3) as stage:
        _, first = stage.requested(GET)
        gone, last = stage.request(GET.replace(b"/a", b"/gone")), stage.request(GET.replace(b"/a", b"/last"))
        body = gone.channel.requests[0]._input
        gone.leave()
        assert body.closed
        assert stage.clock.getDelayedCalls() == []
        answer(first)
        second = stage.played.wait(2)
        assert second.environ["PATH_INFO"] == "/last"
        answer(second)
        stage.idle()
        assert (last.carrier.status, len(stage.played.calls)) == (200, 2)
        assert gone.carrier.out == b""


def test_a_session_takes_no_thread_of_the_requests() -> None:
    """Sessions and requests have threads of their own."""
    with Stage(http_threads=1, threads=1) as stage:
        stage.opened()
        _, call = stage.requested(GET)
        assert stage.busy == 2
        answer(call)
        stage.until(lambda: stage.busy == 1)


def test_no_thread_can_be_had(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request for which there is no thread, and none to wait for, is answered with 503."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with capturedLogs():
        exchange = stage.request(of(2), b"ab")
    monkeypatch.undo()
    assert (exchange.carrier.status, stage.played.calls, stage.busy) == (503, [], 0)


# Bodies that cannot be kept


class Full:
    """A temporary file on a disk that is full, from some of the body on, or only noticed in the end."""

    def __init__(self, most: int, *, until_flushed: bool = False) -> None:
        self.most, self.until_flushed = most, until_flushed
        self.octets = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        assert not self.closed
        self.octets += len(data)
        if not self.until_flushed:
            self._check()
        return len(data)

    def seek(self, place: int) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        self._check()
        return place

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            if self.until_flushed:
                self._check()  # what is buffered is written now, as a file of Python's does

    def _check(self) -> None:
        if self.octets > self.most:
            raise OSError(28, "No space left on device")


def kept_in(monkeypatch: pytest.MonkeyPatch, file: Full) -> None:
    """Keep a body in some file."""
    monkeypatch.setattr(module, "BODY_IN_MEMORY", 0)
    monkeypatch.setattr(module, "TemporaryFile", lambda: file)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((of(9), b"abc", b"def"), id="in the middle"),
        pytest.param((of(6), b"abc", b"def"), id="in the last piece"),
        pytest.param((of(4), b"abcd"), id="in the only piece"),
        pytest.param((CHUNKED, b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"), id="chunked"),
    ],
)
@pytest.mark.parametrize("until_flushed", [False, True], ids=["at once", "when it is flushed"])
def test_a_body_that_cannot_be_kept(stage: Stage, monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...], until_flushed: bool) -> None:
    """A request whose body cannot be kept is answered with 503, whenever that is found out, and is not run."""
    if until_flushed and pieces[0] == of(9):
        pieces = (*pieces, b"ghi")
    file = Full(3, until_flushed=until_flushed)
    kept_in(monkeypatch, file)
    with capturedLogs() as events:
        exchange = stage.request(*pieces)
    assert (exchange.carrier.status, stage.played.calls) == (503, [])
    assert file.closed
    assert len(errors(events)) == 1


def test_no_file_for_a_body(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is where no temporary file can be had."""

    def none() -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module, "TemporaryFile", none)
    with capturedLogs() as events:
        exchange = stage.request(of(2 * BODY_IN_MEMORY), b"x" * BODY_IN_MEMORY, b"x")
    assert (exchange.carrier.status, stage.played.calls, len(errors(events))) == (503, [], 1)


# Over connections in memory


class WsgiWorld(World):
    """A server's parts on a clock, with a WSGI application behind them that the test plays."""

    def __init__(self, stage: Stage, **settings: Any) -> None:
        super().__init__(**settings)
        self.stage = stage
        self.factory.site = replace(self.factory.site, application=stage.application)

    def until(self, condition: Callable[[], object]) -> None:
        """Let the network and the threads work until something is so."""

        def look() -> object:
            self.advance(0)
            self.flush()
            return condition()

        self.stage.until(look)


def test_one_after_another(stage: Stage) -> None:
    """A connection carries one request after another, and becomes a WebSocket with the last, whose application echoes."""
    world = WsgiWorld(stage)
    peer = world.raw(GET + of(2) + b"hi" + request() + masked(0x81, b"hello"))
    for number in (1, 2):
        answer(stage.played.wait(number))
        world.until(lambda: peer.data.count(b"\r\n\r\nok") == number)  # noqa: B023 - called before the next round
    world.until(lambda: len(stage.played.calls) == 3)
    call = stage.played.calls[2]
    assert call.do(call.websocket.receive) == "hello"
    call.do(call.websocket.send, "world")
    call.end()
    world.until(lambda: bytes(peer.data).endswith(b"\x81\x05world\x88\x02\x03\xe8"))
    assert [each[1:3] for each in world.ledger.answers] == [("/a?b", 200), ("/a", 200)]
    assert [peer.data.count(status) for status in (b"HTTP/1.1 200 OK", b"HTTP/1.1 101 ")] == [2, 1]


def test_a_connection_that_is_lost(stage: Stage) -> None:
    """A peer that goes while it waits for its answer is told to the log, and its application's write raises."""
    world = WsgiWorld(stage)
    peer = world.raw(GET)
    call = stage.played.wait()
    write = call.do(call.start_response, "200 OK", PLAIN)
    assert peer.transport is not None
    peer.transport.loseConnection()
    world.flush()
    with pytest.raises(Disconnected):
        call.do(write, b"x")
    assert [each[1:] for each in world.ledger.answers] == [("/a?b", 0, Cause.FIN)]


def test_a_peer_that_takes_nothing(stage: Stage) -> None:
    """A peer that takes nothing of an endless response is cut after a while, and the application's iteration ends."""
    world = WsgiWorld(stage)
    world.raw(GET)
    call = stage.played.wait()
    world.links[0].cut = True
    call.do(call.start_response, "200 OK", PLAIN)
    pieces = Pieces(*[b"x" * 10_000] * 1000)
    call.end(pieces)
    world.until(lambda: not world.links[0].server.reading or len(world.links[0].server.out) > 65536)
    stage.reactor.turn()
    assert pieces.asked * 10_000 < 2**20 + 200_000
    world.advance(200)
    assert world.links[0].server.aborted
    stage.idle()
    assert pieces.closed == 1
    assert world.ledger.answers[-1][3] is Cause.WRITE_STALL
