"""The operators' endpoint: requests of bytes at twisted.web's own channel, on a reactor in memory; and once on a real socket."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from twistedws import config
from twistedws.admin import MOST_BODY, TIMEOUT, AdminService
from twistedws.errors import ConfigurationError, ListenError
from twistedws.health import Health


class Operators:
    """An endpoint in memory, and those who ask."""

    def __init__(self, health: Health | None = None) -> None:
        self.health = health or Health()
        self.reactor = MemoryReactorClock()
        self.service = AdminService(config.Admin(admin=("tcp:9000",)), self.health, self.reactor)
        self.service.startService()
        (self.factory,) = [each[1] for each in self.reactor.tcpServers]

    def connect(self) -> tuple[Any, StringTransport]:
        address = IPv4Address("TCP", "127.0.0.1", 50000)
        channel, transport = cast("Any", self.factory.buildProtocol(address)), StringTransport(peerAddress=address)
        channel.makeConnection(transport)
        return channel, transport

    def ask(self, line: str, *more: str, body: bytes = b"") -> tuple[int, dict[str, str], str]:
        """Send a request, and return the status, headers and body of the answer."""
        channel, transport = self.connect()
        channel.dataReceived("\r\n".join([f"{line} HTTP/1.1", "Host: x", *more, "", ""]).encode() + body)
        head, _, text = transport.value().decode().partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        return int(first.split(" ")[1]), dict(each.lower().split(": ", 1) for each in lines), text


def test_live() -> None:
    """Whoever gets an answer knows that the loop runs, ready or not; no answer is kept, or says what answers."""
    status, headers, text = Operators().ask("GET /live?verbose=1")
    assert (status, text) == (200, "live\n")
    assert headers.pop("date").endswith(" gmt")
    assert headers == {"content-type": "text/plain; charset=utf-8", "content-length": "5", "cache-control": "no-store"}


def test_ready() -> None:
    """It is ready when whoever runs the server says so, and otherwise the answer says why not."""
    operators = Operators()
    assert operators.ask("GET /ready")[::2] == (503, "not ready: starting\n")
    operators.health.ready = True
    assert operators.ask("GET /ready")[::2] == (200, "ready\n")
    operators.health.ready, operators.health.why = False, "worker 3 is stuck"
    assert operators.ask("GET /ready")[::2] == (503, "not ready: worker 3 is stuck\n")


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("application/json", True),
        ("text/html, Application/JSON;q=0.9", True),
        ("*/*", False),
        ("application/jsonp", False),
        ("", False),
    ],
)
def test_ready_as_json(accept: str, is_json: bool) -> None:
    """Who asks for JSON gets it, with the facts there are."""
    operators = Operators(Health(state=lambda: {"sessions": 7, "workers": [{"number": 1}]}))
    status, headers, text = operators.ask("GET /ready", f"Accept: {accept}")
    assert status == 503
    if is_json:
        assert headers["content-type"] == "application/json"
        assert json.loads(text) == {"ready": False, "why": "starting", "sessions": 7, "workers": [{"number": 1}]}
        operators.health.ready = True
        assert json.loads(operators.ask("GET /ready", f"Accept: {accept}")[2])["ready"] is True
    else:
        assert text == "not ready: starting\n"


def test_facts_that_cannot_be_told() -> None:
    """A fault in the facts is logged, and makes no server that is ready look otherwise."""

    def fail() -> dict[str, object]:
        raise RuntimeError("no facts")

    for state in (fail, lambda: {"x": object()}):
        with capturedLogs() as events:
            status, _, text = Operators(Health(ready=True, state=state)).ask("GET /ready", "Accept: application/json")
        assert (status, json.loads(text)) == (200, {"ready": True})
        assert [event["log_level"].name for event in events if "log_failure" in event] == ["critical"]
    assert Operators(Health(ready=True)).ask("GET /ready", "Accept: application/json")[2] == '{"ready": true}\n'


def test_head() -> None:
    """HEAD is answered as GET is, with no body."""
    status, headers, text = Operators().ask("HEAD /ready")
    assert (status, headers["content-length"], text) == (503, "20", "")


@pytest.mark.parametrize("line", ["GET /", "GET /live/", "GET /metrics", "OPTIONS *", "POST /x"])
def test_other_paths(line: str) -> None:
    """There is nothing else."""
    assert Operators().ask(line)[::2] == (404, "not found\n")


@pytest.mark.parametrize("line", ["POST /live", "PUT /ready", "OPTIONS /live", "get /live"])
def test_other_methods(line: str) -> None:
    """Nothing can be done here but ask."""
    status, headers, text = Operators().ask(line, "Content-Length: 3", body=b"a=b")
    assert (status, headers["allow"], text) == (405, "get, head", "GET and HEAD are accepted\n")


def test_persistent() -> None:
    """A connection may ask again."""
    operators = Operators()
    channel, transport = operators.connect()
    channel.dataReceived(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    assert transport.value().count(b"200 OK") == 2
    assert not transport.disconnecting


def test_no_log() -> None:
    """Checks, which come every second, are not logged, and leave no timer."""
    operators = Operators()
    with capturedLogs() as events:
        operators.ask("GET /live")
    assert events == []
    operators.service.stopService()
    assert len(operators.reactor.getDelayedCalls()) == 1, "the connection's own timeout"


def test_bounds() -> None:
    """Who is silent, or sends too long a head or body, is cut; no body is kept."""
    operators = Operators()
    channel, transport = operators.connect()
    operators.reactor.advance(TIMEOUT)
    assert transport.disconnecting

    channel, transport = operators.connect()
    channel.dataReceived(b"GET /live HTTP/1.1\r\n" + b"X: y\r\n" * 4000)
    assert b"HTTP/1.1 200" not in transport.value()
    assert transport.disconnecting

    channel, transport = operators.connect()
    channel.dataReceived(b"POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n" + bytes(MOST_BODY))
    assert not transport.disconnected
    channel.dataReceived(b"x")
    assert transport.disconnected
    assert channel._channel.requests[-1].content.getvalue() == b""


def test_endpoints() -> None:
    """No endpoint is no listening; a wrong one is a wrong configuration, and one that is taken an error that names it."""
    reactor = MemoryReactorClock()
    service = AdminService(config.Admin(), Health(), reactor)
    service.startService()
    assert service.ports == ()
    service.stopService()
    with pytest.raises(ConfigurationError, match=r"^admin: tcp:x: "):
        AdminService(config.Admin(admin=("tcp:x",)), Health(), reactor)


class Asker(Protocol):
    """Asks on a real socket."""

    def __init__(self) -> None:
        self.answer = b""
        self.ended: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:
        self.answer += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(self.answer)


@pytest_twisted.inlineCallbacks  # type: ignore[untyped-decorator]
def test_on_a_real_socket() -> Any:
    """It answers where it listens, from start to stop; who listens there as well is told that somebody does."""
    from twisted.internet import reactor

    service = AdminService(config.Admin(admin=("tcp:0:interface=127.0.0.1",)), Health(ready=True), reactor)
    with capturedLogs() as events:
        service.startService()
    (port,) = service.ports
    number = cast("IPv4Address", port.getHost()).port
    assert [(event["doing"], event["address"]) for event in events if "doing" in event] == [("answering operators", f"127.0.0.1:{number}")]

    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", number)
    asker = yield connectProtocol(endpoint, Asker())
    answer = yield asker.ended
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nready\n")
    assert b"server" not in answer.lower()
    second = AdminService(config.Admin(admin=(f"tcp:{number}:interface=127.0.0.1",)), Health(), reactor)
    with pytest.raises(ListenError, match=rf"tcp:{number}:.*: Address already in use"):
        second.startService()
    yield service.stopService()
    assert service.ports == ()
    with pytest.raises(error.ConnectionRefusedError):
        yield connectProtocol(endpoint, Asker())
