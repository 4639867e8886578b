"""Endpoints, descriptors, stale sockets and the rate of accepts, with no reactor but one in memory."""

from __future__ import annotations

import resource
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from twistedws import config
from twistedws.errors import ConfigurationError, ListenError
from twistedws.listening import (
    ListeningService,
    _address_text,
    _remove_stale_socket,
    descriptions,
    endpoints,
    most_connections,
    raise_descriptor_limit,
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
        (OSError("out\nof order"), "out of order"),
        (ValueError(), "ValueError"),
    ],
)
def test_cannot_listen(error: Exception, says: str) -> None:
    """If one endpoint cannot be listened on, none is, and the error names it and the reason."""
    port: Any = Port()
    service = ListeningService(settings(), Clock(), [("good", port), ("bad", Refuses(error))])  # type: ignore[list-item]
    service.factory = Factory()
    with pytest.raises(ListenError, match=f"bad: .*{says}"):
        service.startService()
    assert "stopListening" in port.calls


def test_accept_rate() -> None:
    """Accepts above the rate pause the port until a token is there; then it takes one at a time."""
    clock, port = Clock(), Port()
    service = ListeningService(settings(accept_rate=10.0), clock, [("x", port)])  # type: ignore[list-item]
    service.factory = Factory()
    service.startService()
    service.accepted()
    service.accepted()
    assert port.calls == ["pauseProducing"]
    clock.advance(0.3)
    assert port.calls == ["pauseProducing", "resumeProducing"]
    assert port.numberAccepts == 1
    service.accepted()
    service.stopService()
    clock.advance(10)
    assert port.calls.count("resumeProducing") == 1


def test_no_accept_rate() -> None:
    """With no rate nothing is paused."""
    service = ListeningService(settings(), Clock(), [])
    for _ in range(1000):
        service.accepted()
    assert service._waiting is None


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
            _remove_stale_socket(description)
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
