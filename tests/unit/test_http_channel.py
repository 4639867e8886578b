"""HTTP exchanges over a carrier that only takes notes: bounds, deadlines, backpressure, and what is never made to look complete."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.web import http

from tests.support.asgi import ENDPOINTS, FakeCarrier, parsed
from twistedws import config
from twistedws.errors import Cause
from twistedws.http import BODY_STEP, Channel, StreamedRequest, date

GET = b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n"
OLD = GET.replace(b"HTTP/1.1", b"HTTP/1.0")
HEAD = GET.replace(b"GET", b"HEAD")
POST = b"POST /a HTTP/1.1\r\nHost: example.com\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
MOST, BODY_TIMEOUT, STALL_TIMEOUT = 1_000_000, 30.0, 60.0


def of(length: int, *more: bytes) -> bytes:
    """The head of a request with a body."""
    return POST + b"Content-Length: %d\r\n" % length + b"".join(line + b"\r\n" for line in more) + b"\r\n"


class Recorder(StreamedRequest):
    """A request that notes what it hears, and answers when a test says so."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self.heard: list[object] = []

    def begin(self) -> None:
        self.heard.append("begin")

    def body(self, data: bytes) -> None:
        self.heard.append(data)

    def end_of_body(self) -> None:
        self.heard.append("end")

    def connectionLost(self, reason: object) -> None:
        self.heard.append("lost")

    def pauseProducing(self) -> None:
        self.heard.append("pause")

    def resumeProducing(self) -> None:
        self.heard.append("resume")

    def stopProducing(self) -> None: ...

    def answer(self, body: bytes = b"ok", *, length: bool = True) -> None:
        """Answer, all at once."""
        if length:
            self.responseHeaders.addRawHeader(b"Content-Length", b"%d" % len(body))
        self.write(body)
        self.finish()


class Stage:
    """A request, its channel, and the carrier below it."""

    def __init__(self, head: bytes = GET, *, most: int = MOST, body_timeout: float = BODY_TIMEOUT, shut: bool = False) -> None:
        self.carrier = FakeCarrier()
        self.made: list[Recorder] = []
        settings = config.Http(max_body_size=most, body_timeout=body_timeout)
        self.channel = Channel(self.carrier, parsed(head), ENDPOINTS, settings, STALL_TIMEOUT, self._make)
        self.carrier.exchange = self.channel
        if shut:
            self.channel.shut()
        self.channel.begin(head)

    def _make(self, channel: Channel) -> http.Request:
        self.made.append(Recorder(channel))
        return self.made[-1]

    @property
    def request(self) -> Recorder:
        (request,) = self.made
        return request


def test_a_request() -> None:
    """A request with no body begins and ends at once, and its response leaves the connection to the next."""
    stage = Stage()
    assert stage.request.heard == ["begin", "end"]
    assert (stage.request.method, stage.request.uri, stage.request.clientproto) == (b"GET", b"/a", b"HTTP/1.1")
    stage.request.answer()
    assert stage.carrier.out == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert stage.carrier.ended == (200, 2, b"", True)


def test_a_body() -> None:
    """A body is handed on while it comes, and its end is told."""
    stage = Stage(of(4))
    stage.channel.received(b"ab")
    assert stage.request.heard == ["begin", b"ab"]
    assert not stage.channel.body_ended
    stage.channel.received(b"cd")
    assert stage.request.heard == ["begin", b"ab", b"cd", "end"]
    assert stage.channel.body_ended


def test_a_chunked_body() -> None:
    """A chunked body is handed on without its frames, however it is cut; trailers and extensions are dropped."""
    stage = Stage(CHUNKED)
    for each in b"2\r\nab\r\n2;x=y\r\ncd\r\n0\r\nX-Trailer: 1\r\n\r\n":
        stage.channel.received(bytes([each]))
    assert b"".join(each for each in stage.request.heard if isinstance(each, bytes)) == b"abcd"
    assert stage.request.heard[-1] == "end"


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(OLD, id="HTTP/1.0"),
        pytest.param(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), id="Connection: close"),
        pytest.param(GET.replace(b"\r\n\r\n", b"\r\nConnection: Keep-Alive, CLOSE\r\n\r\n"), id="among others"),
        pytest.param(OLD.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"), id="HTTP/1.0, keep-alive"),
    ],
)
def test_not_persistent(head: bytes) -> None:
    """A connection does not go on after HTTP/1.0, nor where the client says close."""
    stage = Stage(head)
    stage.request.answer()
    assert stage.carrier.ended == (200, 2, b"", False)


@pytest.mark.parametrize("when", ["before", "during", "never"])
def test_shut(when: str) -> None:
    """An exchange during which the server goes away is completed, and is the last of its connection."""
    stage = Stage(shut=when == "before")
    if when == "during":
        stage.channel.shut()
    stage.request.answer()
    assert stage.carrier.ended == (200, 2, b"", when == "never")


def test_pipelined() -> None:
    """What comes behind the request is not looked at: it goes back with the end of the response."""
    stage = Stage(of(2))
    stage.channel.received(b"ab" + GET)
    stage.channel.received(b"GET /b")
    stage.request.answer()
    assert stage.carrier.ended == (200, 2, GET + b"GET /b", True)
    assert len(stage.made) == 1


def test_pipelined_behind_a_chunked_body() -> None:
    """What comes behind a chunked body goes back, too."""
    stage = Stage(CHUNKED)
    stage.channel.received(b"2\r\nab\r\n0\r\n\r\n" + GET)
    stage.request.answer()
    assert stage.carrier.ended == (200, 2, GET, True)


def test_much_is_pipelined() -> None:
    """Reading pauses when more comes behind a request than is kept, until the response is complete."""
    stage = Stage()
    stage.channel.received(b"x" * 20_000)
    assert not stage.carrier.reading
    assert stage.channel.held
    stage.request.answer()
    assert stage.carrier.ended == (200, 2, b"x" * 20_000, True)
    assert not stage.channel.held


def test_an_early_response() -> None:
    """A response that is complete before the request is ends the connection: what is still to come is not awaited."""
    stage = Stage(of(4))
    stage.channel.received(b"ab")
    stage.request.answer()
    assert stage.carrier.ended == (200, 2, b"", False)
    stage.channel.received(b"cd")
    assert stage.request.heard == ["begin", b"ab"]


# Bounds


def test_a_body_that_says_it_is_too_large() -> None:
    """A Content-Length over max-body-size is answered with 413 before anybody hears of the request."""
    stage = Stage(of(MOST + 1))
    assert (stage.carrier.status, stage.made) == (413, [])
    assert stage.carrier.ended is not None
    assert stage.carrier.ended[3] is False
    stage.channel.received(b"x")


def test_a_body_of_the_most() -> None:
    """A body of just max-body-size is taken."""
    stage = Stage(of(10), most=10)
    stage.channel.received(b"x" * 10)
    assert stage.request.heard[-1] == "end"


def test_any_size() -> None:
    """With max-body-size 0 a body has any size."""
    stage = Stage(of(10**15), most=0)
    stage.channel.received(b"x" * 100_000)
    assert stage.carrier.ended is None


@pytest.mark.parametrize("started", [False, True])
def test_a_body_that_grows_too_large(started: bool) -> None:
    """A chunked body over max-body-size is answered with 413, or cut if a response has begun; nothing too much is handed on."""
    stage = Stage(CHUNKED, most=3)
    stage.channel.received(b"2\r\nab\r\n")
    if started:
        stage.request.write(b"x")
    stage.channel.received(b"2\r\ncd\r\n")
    assert stage.request.heard == ["begin", b"ab", "lost"]
    if started:
        assert (stage.carrier.cause, stage.carrier.ended) == (Cause.PROTOCOL_ERROR, None)
    else:
        assert stage.carrier.status == 413
        assert stage.carrier.header(b"connection") == [b"close"]


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("body", [b"x\r\n", b"-1\r\nab\r\n", b"2\r\nabc\r\n", b"2 \r\nab\r\n", b"0\r\nno field\r\n\r\n", b"2\nab\n"])
def test_a_malformed_chunk(body: bytes, started: bool) -> None:
    """A body that is not chunked as it says is answered with 400 if no response has begun, else the connection is cut."""
    stage = Stage(CHUNKED)
    if started:
        stage.request.write(b"x")
    stage.channel.received(body + b"\r\n" * 3 + b"y" * 2000)
    assert stage.request.heard[-1] == "lost"
    assert "end" not in stage.request.heard
    if started:
        assert (stage.carrier.cause, stage.carrier.ended) == (Cause.PROTOCOL_ERROR, None)
    else:
        assert stage.carrier.status == 400
        assert stage.carrier.ended is not None
        assert stage.carrier.ended[3] is False


def test_a_head_that_twisted_refuses() -> None:
    """A head that our parser takes and Twisted's does not is answered with 400, once, and nothing behind the fault is looked at."""
    head = GET.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: gzip\r\nX-A: 1\r\n\r\n")
    carrier = FakeCarrier()
    channel = Channel(carrier, parsed(GET), ENDPOINTS, config.Http(), STALL_TIMEOUT, Recorder)
    channel.begin(head)
    assert carrier.status == 400
    assert carrier.out.count(b"HTTP/1.1") == 1


def test_head_only() -> None:
    """An answer of ours to HEAD has no body."""
    stage = Stage(HEAD)
    stage.channel.fail_application()
    assert stage.carrier.status == 500
    assert stage.carrier.body == b""
    assert stage.carrier.header(b"content-length") == [b"21"]
    assert stage.carrier.header(b"date") == [date()]


# Turns


def test_tiny_chunks_have_their_turn_and_no_more() -> None:
    """Of thousands of tiny chunks some are looked at in a turn of the loop; the rest is put back, and nothing of it is lost."""
    stage = Stage(CHUNKED)
    stage.channel.received(b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n" + GET)
    turns = 0
    while stage.carrier.put:
        turns += 1
        stage.channel.received(stage.carrier.put.pop())
    assert 5 < turns < 100
    assert stage.request.heard == ["begin", *[b"x"] * 5000, "end"]
    stage.request.finish()
    assert stage.carrier.ended is not None
    assert stage.carrier.ended[2] == GET


# Deadlines


def test_the_pace_of_a_body() -> None:
    """A deadline runs for each 64 KiB of a body, and ends with it; bytes that trickle do not put it off."""
    stage = Stage(of(3 * BODY_STEP))
    carrier = stage.carrier
    assert (carrier.deadline, carrier.armed) == (BODY_TIMEOUT, 1)
    stage.channel.received(b"x" * (BODY_STEP - 1))
    assert carrier.armed == 1
    stage.channel.received(b"x")
    assert (carrier.deadline, carrier.armed) == (BODY_TIMEOUT, 2)
    stage.channel.received(b"x" * (BODY_STEP - 1))
    assert carrier.armed == 2
    stage.channel.received(b"x" * (BODY_STEP + 1))
    assert carrier.deadline == 0


def test_no_pace() -> None:
    """With body-timeout 0 there is no deadline."""
    assert Stage(of(4), body_timeout=0).carrier.deadline == 0


@pytest.mark.parametrize("started", [False, True])
def test_a_body_that_is_late(started: bool) -> None:
    """A body that does not come in time is answered with 408 if no response has begun, else the connection is cut."""
    stage = Stage(of(4))
    if started:
        stage.request.write(b"x")
    stage.channel.expired()
    assert stage.request.heard == ["begin", "lost"]
    if started:
        assert stage.carrier.cause is Cause.REQUEST_TIMEOUT
    else:
        assert stage.carrier.status == 408


def test_a_body_that_nobody_takes() -> None:
    """No deadline runs while the application holds the body up, and a whole one when it goes on."""
    stage = Stage(of(4))
    stage.channel.hold()
    assert (stage.carrier.reading, stage.carrier.deadline) == (False, 0)
    stage.channel.hold()
    armed = stage.carrier.armed
    stage.channel.release()
    assert (stage.carrier.reading, stage.carrier.deadline) == (True, BODY_TIMEOUT)
    assert stage.carrier.armed == armed + 1
    stage.channel.release()
    assert stage.carrier.armed == armed + 1


def test_a_stall() -> None:
    """A peer that takes none of the response in time is cut; one that takes some gets time again, and one that takes all has none."""
    stage = Stage()
    carrier, request = stage.carrier, stage.request
    request.registerProducer(request, True)
    carrier.waiting = 0
    request.write(b"x" * 1000)
    carrier.waiting = 500
    stage.channel.congested()
    assert stage.channel.is_full
    assert (carrier.deadline, request.heard[-1]) == (STALL_TIMEOUT, "pause")
    carrier.waiting = 400
    stage.channel.expired()
    assert (carrier.deadline, carrier.cause) == (STALL_TIMEOUT, None)
    stage.channel.decongested()
    assert not stage.channel.is_full
    assert (carrier.deadline, request.heard[-1]) == (0, "resume")
    stage.channel.congested()
    stage.channel.expired()
    assert carrier.cause is Cause.WRITE_STALL
    assert request.heard[-1] == "lost"


def test_a_stall_of_what_is_no_producer() -> None:
    """A response whose maker does not ask about backpressure has the same deadline."""
    stage = Stage()
    stage.request.write(b"x" * 1000)
    stage.carrier.waiting = 500
    stage.channel.congested()
    stage.channel.decongested()
    stage.channel.congested()
    stage.channel.expired()
    assert stage.carrier.cause is Cause.WRITE_STALL


def test_a_stall_in_a_body() -> None:
    """While the peer does not take the response, the deadline is that of the response; then that of the body again."""
    stage = Stage(of(4))
    stage.channel.congested()
    assert stage.carrier.deadline == STALL_TIMEOUT
    stage.channel.decongested()
    assert stage.carrier.deadline == BODY_TIMEOUT


# 100-continue

EXPECTING = of(4, b"Expect: 100-continue")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_continue() -> None:
    """A peer that waits to be told is told once, when the body is wanted; until then its body has no deadline."""
    stage = Stage(EXPECTING)
    assert (stage.channel.awaits_continue, bytes(stage.carrier.out)) == (True, b"")
    stage.channel.hold()
    stage.channel.release()
    assert stage.carrier.deadline == 0
    stage.channel.proceed()
    stage.channel.proceed()
    assert stage.carrier.out == CONTINUE
    assert stage.carrier.deadline == BODY_TIMEOUT


def test_nobody_tells_a_peer_that_has_begun() -> None:
    """A peer that did not wait is told nothing."""
    stage = Stage(EXPECTING)
    stage.channel.received(b"a")
    stage.channel.proceed()
    assert stage.carrier.out == b""
    assert stage.carrier.deadline == BODY_TIMEOUT


def test_no_continue_for_one_zero() -> None:
    """HTTP/1.0 knows no 100 (RFC 9110 section 15.2)."""
    stage = Stage(EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0"))
    stage.channel.proceed()
    assert stage.carrier.out == b""


def test_no_continue_into_a_response() -> None:
    """A response that has begun is not interrupted by a 100 (RFC 9110 section 10.1.1: a final status has been sent)."""
    stage = Stage(EXPECTING)
    stage.request.write(b"x")
    before = bytes(stage.carrier.out)
    stage.channel.proceed()
    assert bytes(stage.carrier.out) == before


def test_no_continue_after_the_end() -> None:
    """Nor is anything written after the exchange is over."""
    stage = Stage(EXPECTING)
    stage.request.answer()
    stage.channel.proceed()
    assert stage.carrier.ended == (200, 2, b"", False)


# Ends


def test_the_application_gives_up() -> None:
    """An exchange that its application gives up is answered with 500, if no response has begun."""
    stage = Stage()
    stage.channel.fail_application()
    assert stage.carrier.status == 500
    assert stage.carrier.ended == (500, 21, b"", False)
    assert stage.request.heard[-1] == "lost"


def test_the_application_gives_up_in_the_midst() -> None:
    """A response that has begun, and will not be completed, is cut."""
    stage = Stage()
    stage.request.write(b"x")
    stage.channel.fail_application()
    assert (stage.carrier.cause, stage.carrier.ended) == (Cause.APPLICATION_ERROR, None)
    assert not stage.carrier.out.endswith(b"0\r\n\r\n")


def test_lost() -> None:
    """A connection that is lost is told to the request; whatever is done to the exchange afterwards does nothing."""
    stage = Stage(of(4))
    stage.channel.hold()
    stage.channel.lost()
    assert stage.request.heard == ["begin", "lost"]
    carrier, armed = stage.carrier, stage.carrier.armed
    stage.channel.release()
    stage.channel.hold()
    stage.channel.congested()
    stage.channel.decongested()
    stage.channel.received(b"abcd")
    stage.channel.proceed()
    stage.channel.fail(400, "too late")
    stage.channel.fail_application()
    assert (bytes(carrier.out), carrier.ended, carrier.cause, carrier.armed) == (b"", None, None, armed)


def test_twisted_knows_its_transport() -> None:
    """Twisted's request finds both ends of the connection where it looks for them, and does not end the connection by itself."""
    stage = Stage()
    channel: Any = stage.channel
    assert channel.getPeer() == stage.carrier.transport.getPeer()
    assert channel.getHost() == stage.carrier.transport.getHost()
    transport = channel.transport
    for nothing in (transport.loseConnection, transport.resumeProducing, transport.stopProducing, transport.unregisterProducer):
        nothing()
    transport.registerProducer(None, True)
    assert (stage.carrier.ended, stage.carrier.cause, stage.carrier.reading) == (None, None, True)


def test_to_be_subclassed() -> None:
    """A streamed request by itself handles nothing."""
    request = StreamedRequest(Stage().channel)
    for call in (request.begin, lambda: request.body(b""), request.end_of_body):
        with pytest.raises(NotImplementedError):
            call()


def test_date() -> None:
    """The Date field is of RFC 9110's form."""
    assert http.stringToDatetime(date()) > 0
