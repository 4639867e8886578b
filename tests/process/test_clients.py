"""Clients that people use, against a real server: what is sent comes back, limits and closes are told to either side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from selenium import webdriver

from tests.process.clients import Client, Plan, Report
from tests.process.clients.chromium import EchoPage, chromium, follow
from tests.process.clients.node import builtin_client, ws_client
from tests.process.clients.python import aiohttp_client, websocket_client, websockets_client
from tests.support.server import ROOT, Server

CLOSING = ("--app-dir", str(ROOT / "tests" / "process" / "clients"), "closing:app")
LIMIT = 2**20
SIZES = (0, 125, 126, 65_535, 65_536, LIMIT)
MESSAGES = tuple((kind, size) for kind in ("text", "binary") for size in SIZES)

CLIENTS: dict[str, Client] = {
    "websockets": websockets_client,
    "aiohttp": aiohttp_client,
    "websocket-client": websocket_client,
    "ws": ws_client,
    "node": builtin_client,
}
NAMES = (*CLIENTS, "chromium")
UNCOMPRESSED = {"websocket-client"}  # clients that know no permessage-deflate

Servers = Callable[..., Server]
Choose = Callable[[str], Client]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Gives the server that runs with some arguments, started when first asked for."""
    with contextlib.ExitStack() as stack:
        running: dict[tuple[str, ...], Server] = {}

        def serve(*arguments: str) -> Server:
            if arguments not in running:
                running[arguments] = stack.enter_context(Server(*arguments))
            return running[arguments]

        yield serve


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def choose(request: pytest.FixtureRequest, servers: Servers) -> Choose:
    """Gives a client by its name. The browser has its page from a server of its own, whose origin the others must allow."""

    def client(name: str) -> Client:
        if name != "chromium":
            return CLIENTS[name]
        page = EchoPage(request.getfixturevalue("browser"), _page_origin(servers))
        return lambda plan: follow(page, plan)

    return client


def _page_origin(servers: Servers) -> str:
    return f"http://127.0.0.1:{servers('echo').port}"


def _closed_line(server: Server, *facts: str) -> None:
    """Wait for the line of the log that tells of a close with these facts."""
    server.wait_for_line(r"closed session=\w+ .*" + ".*".join(facts))


@pytest.mark.parametrize("compression", ["off", "on"])
@pytest.mark.parametrize("name", NAMES)
def test_echo(name: str, compression: str, servers: Servers, choose: Choose) -> None:
    """Text and binary messages of every size class, up to the limit, come back the same, with and without compression."""
    server = servers("--origin", _page_origin(servers), "--compression", compression, "echo")
    report = choose(name)(Plan(server.url, messages=MESSAGES, compress=compression == "on"))
    assert report.echoed == MESSAGES
    assert report.compressed == (compression == "on" and name not in UNCOMPRESSED)
    assert report.code == 1000


@pytest.mark.parametrize("kind", ["text", "binary"])
@pytest.mark.parametrize("compression", ["off", "on"])
@pytest.mark.parametrize("name", NAMES)
def test_one_byte_too_many(name: str, compression: str, kind: str, servers: Servers, choose: Choose) -> None:
    """A message of one byte more than the limit is answered with close code 1009, which the client sees."""
    server = servers("--origin", _page_origin(servers), "--compression", compression, "echo")
    plan = Plan(server.url, messages=((kind, 5),), compress=compression == "on", last=LIMIT + 1, last_kind=kind, code=None)
    report = choose(name)(plan)
    assert report.echoed == ((kind, 5),)
    assert report.code == 1009


@pytest.mark.parametrize("name", NAMES)
def test_client_closes(name: str, servers: Servers, choose: Choose) -> None:
    """The server hears the code and reason with which a client closes, and answers with the code."""
    server = servers("--origin", _page_origin(servers), "echo")
    reason = f"good-bye from {name}"
    report = choose(name)(Plan(server.url, code=4001, reason=reason))
    assert report.code == 4001
    _closed_line(server, "code=4001", "cause=client", "by=client", f"reason='{reason}'")


@pytest.mark.parametrize("name", NAMES)
def test_server_closes(name: str, servers: Servers, choose: Choose) -> None:
    """A client hears the code and reason with which the application closes."""
    server = servers("--origin", _page_origin(servers), *CLOSING)
    report = choose(name)(Plan(server.url, last="close 4002 that was all å", code=None))
    assert (report.code, report.reason) == (4002, "that was all å")
    _closed_line(server, "code=4002", "cause=application", "by=application")


@pytest.mark.parametrize(("offered", "agreed"), [(("chat.v9", "chat.v1", "chat.v2"), "chat.v1"), ((), "")])
@pytest.mark.parametrize("name", NAMES)
def test_subprotocol(name: str, offered: tuple[str, ...], agreed: str, servers: Servers, choose: Choose) -> None:
    """Of what a client asks for, in its order of preference, the first that the server speaks is agreed on."""
    server = servers("--origin", _page_origin(servers), "--subprotocol", "chat.v2", "--subprotocol", "chat.v1", "echo")
    report: Report = choose(name)(Plan(server.url, protocols=offered))
    assert report.protocol == agreed
