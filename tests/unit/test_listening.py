"""Endpoints, descriptors, stale sockets and the rate of accepts, with no reactor but one in memory."""

from __future__ import annotations

import resource
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from tests.support.server import wait_until
from twistedws import config
from twistedws.errors import ConfigurationError, ListenError
from twistedws.listening import (
    ListeningService,
    _address_text,
    descriptions,
    endpoints,
    most_connections,
    parsed,
    raise_descriptor_limit,
    remove_stale_socket,
    waiting_in,
)


def settings(**values: Any) -> config.Listening:
    """The section with some values."""
    return config.Listening(**values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ["tcp:8000:interface=127.0.0.1:backlog=4096"]),
        ({"port": 0, "interface": "::1", "backlog": 7}, ["tcp:0:interface=\\:\\:1:backlog=7"]),
        ({"endpoint": ("tcp:1", "unix:/x:mode=660")}, ["tcp:1:backlog=4096", "unix:/x:mode=660:backlog=4096"]),
        ({"endpoint": ("tcp:1:backlog=5",)}, ["tcp:1:backlog=5"]),
        ({"endpoint": ("haproxy:tcp:1", "haproxy:unix:/x")}, ["haproxy:tcp:1:backlog=4096", "haproxy:unix:/x:backlog=4096"]),
        ({"endpoint": ("systemd:domain=INET:index=0",)}, ["systemd:domain=INET:index=0"]),
    ],
)
def test_descriptions(values: dict[str, Any], expected: list[str]) -> None:
    """Each endpoint has the backlog of the settings unless it names one or takes none."""
    assert descriptions(settings(**values)) == expected


@pytest.mark.parametrize(
    "wrong", ["tcp:", "nonsense:1", "tcp:1:colour=red", "ssl:1:privateKey=/no/such/file", "systemd:domain=INET:index=9"]
)
def test_wrong_endpoints(wrong: str) -> None:
    """What is no endpoint, or names what is not there, is a wrong configuration that names it in one line."""
    with pytest.raises(ConfigurationError) as caught:
        endpoints(settings(endpoint=(wrong,)), MemoryReactorClock())
    assert wrong in str(caught.value)
    assert "\n" not in str(caught.value)


def test_endpoints_of_another_setting() -> None:
    """What is wrong with an endpoint is said of the setting that has it."""
    reactor = MemoryReactorClock()
    assert [description for description, _ in parsed("admin", ("tcp:1", "tcp:2"), reactor)] == ["tcp:1", "tcp:2"]
    with pytest.raises(ConfigurationError, match=r"^admin: nonsense:1: "):
        parsed("admin", ("nonsense:1",), reactor)


def test_listens() -> None:
    """Start listens on all, stop on none; the port hands connections to the factory."""
    reactor = MemoryReactorClock()
    service = ListeningService(settings(), reactor, endpoints(settings(endpoint=("tcp:1", "tcp:2")), reactor))
    with pytest.raises(RuntimeError, match="factory"):
        service.startService()
    service.factory = Factory()
    service.startService()
    assert [each[0] for each in reactor.tcpServers] == [1, 2]
    assert len(service.ports) == 2
    assert service.stopService().called
    assert not service.ports


class Refuses:
    """An endpoint that cannot be listened on."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def listen(self, factory: Factory) -> Any:
        return fail(Failure(self.error))


class Port:
    """A port that notes what is done with it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.numberAccepts = 100
        self.socket: Any = None

    def listen(self, factory: Factory) -> Any:
        return succeed(self)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.80", 80)

    def __getattr__(self, name: str) -> Any:
        return lambda: self.calls.append(name)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (CannotListenError("", 1, OSError(98, "Address already in use")), "Address already in use"),
        (CannotListenError("", 1, "Cannot acquire lock"), "another process listens there"),
        (CannotListenError("", 1, "something else"), "something else"),
        (OSError(98, "while binding"), "bad: Address already in use$"),
        (socket.gaierror(-2, "Name or service not known"), "bad: Name or service not known$"),
        (OSError("out\nof order"), "out of order"),
        (ValueError(), "ValueError"),
    ],
)
def test_cannot_listen(error: Exception, says: str) -> None:
    """If one endpoint cannot be listened on, none is, and the error names it and the reason."""
    port: Any = Port()
    service = ListeningService(settings(), Clock(), [("good", port), ("bad", Refuses(error))])  # type: ignore[list-item]
    service.factory = Factory()
    with pytest.raises(ListenError, match=says):
        service.startService()
    assert "stopListening" in port.calls


def test_accept_rate() -> None:
    """Accepts above the rate pause the port until a token is there; then it takes one at a time."""
    clock, port = Clock(), Port()
    service = ListeningService(settings(accept_rate=10.0), clock, [("x", port)])  # type: ignore[list-item]
    service.factory = Factory()
    service.startService()
    assert port.numberAccepts == 1
    assert service.accepted()
    assert service.accepted()
    assert port.calls == ["pauseProducing"]
    clock.advance(0.3)
    assert port.calls == ["pauseProducing", "resumeProducing"]
    assert port.numberAccepts == 1
    assert service.accepted()
    service.stopService()
    clock.advance(10)
    assert port.calls.count("resumeProducing") == 1


def test_no_accept_rate() -> None:
    """With no rate nothing is paused."""
    service = ListeningService(settings(), Clock(), [])
    assert all(service.accepted() for _ in range(1000))
    assert service._waiting is None


class Queue:
    """A listening socket in whose queue so many wait."""

    family = socket.AF_INET

    def __init__(self, length: int) -> None:
        self.length = length

    def getsockopt(self, *_: int) -> bytes:
        return bytes(24) + self.length.to_bytes(4, sys.byteorder) + bytes(76)


@pytest.mark.skipif(sys.platform != "linux", reason="the length of the queue is known on Linux only")
def test_a_crowd() -> None:
    """Who waits behind as many as are let in in five seconds is refused, with no pause, until so few wait; then the rate holds again."""
    clock, port, unix = Clock(), Port(), Port()
    service = ListeningService(settings(accept_rate=10.0), clock, [("x", port), ("y", unix)])  # type: ignore[list-item]
    service.factory = Factory()
    service.startService()
    port.socket, unix.socket = Queue(0), socket.socket(socket.AF_UNIX)
    with unix.socket, capturedLogs() as events:
        assert service.accepted()
        port.socket.length = 54
        clock.advance(0.2)
        answers = []
        while port.calls[-1] == "resumeProducing":
            port.socket.length -= 1
            answers.append(service.accepted())
            assert port.numberAccepts == 0, "Twisted's port makes 1 of it, which took one"
        assert answers == [False] * 4 + [True]
        assert [event["crowd"] for event in events] == [54]
        clock.advance(0.2)
        assert service.accepted(), "fifty may wait"
        assert len(events) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the length of the queue is known on Linux only")
def test_a_crowd_that_has_gone() -> None:
    """Of a crowd that has left unseen nobody else is refused for it."""
    clock, port = Clock(), Port()
    service = ListeningService(settings(accept_rate=10.0), clock, [("x", port)])  # type: ignore[list-item]
    service.factory = Factory()
    service.startService()
    port.socket = Queue(1000)
    assert service.accepted()
    clock.advance(0.2)
    port.socket.length = 0
    assert service.accepted()
    assert port.calls[-1] == "pauseProducing"


def test_waiting() -> None:
    """A listening TCP socket tells how many wait in its queue, on Linux; of another one, and of one that is closed, it is not known."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with ExitStack() as stack:
            listening = stack.enter_context(socket.socket(family))
            listening.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
            listening.listen(16)
            assert waiting_in(listening) == 0
            if sys.platform == "linux":
                for _ in range(7):
                    stack.enter_context(socket.socket(family)).connect(listening.getsockname())
                wait_until(lambda listening=listening: waiting_in(listening) == 7, what="seven in the queue")  # type: ignore[misc]
                listening.accept()[0].close()
                assert waiting_in(listening) == 6
        assert waiting_in(listening) == 0
    with socket.socket(socket.AF_UNIX) as unix:
        assert waiting_in(unix) == 0


def test_stale_socket(tmp_path: Path) -> None:
    """A socket on which nobody answers is removed; one that is in use, a plain file, and nothing at all are left."""
    stale, used, plain = (tmp_path / name for name in ("stale", "used", "plain"))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    plain.write_text("")
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(used))
        live.listen()
        for description in (f"unix:{stale}:mode=600", f"haproxy:unix:address={used}", f"unix:{plain}", f"unix:{tmp_path}/none", "tcp:1"):
            remove_stale_socket(description)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["plain", "used"]


def test_descriptor_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is raised to the hard limit; where the system takes less than it says, to what it takes."""
    limits = [(100, 5000)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert raise_descriptor_limit() == 5000
    assert raise_descriptor_limit() == 5000

    def stubborn(_: int, pair: tuple[int, int]) -> None:
        if pair[0] < 0:
            raise ValueError("not allowed to raise maximum limit")
        limits.append(pair)

    limits.append((256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", stubborn)
    assert raise_descriptor_limit() == 10240


@pytest.mark.parametrize(
    ("asked", "descriptors", "most"),
    [(0, 1000, 900), (10, 1000, 10), (5000, 1000, 900), (0, -1, 0), (7, -1, 7), (0, 50, 1)],
)
def test_most_connections(asked: int, descriptors: int, most: int) -> None:
    """There are as many connections as asked for, and never more than descriptors allow."""
    assert most_connections(asked, descriptors) == most


def test_addresses() -> None:
    """A port's address is shown as a person writes it."""
    for address, text in (
        (IPv6Address("TCP", "::1", 80), "[::1]:80"),
        (IPv4Address("TCP", "192.0.2.1", 80), "192.0.2.1:80"),
        (UNIXAddress(b"/run/x"), "unix:/run/x"),
    ):
        port: Any = Port()
        port.getHost = lambda address=address: address
        assert _address_text(port) == text
