"""The example with Django Channels, run as its README says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import websockets
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from websockets.sync.client import ClientConnection, connect

from tests.process.clients.chromium import DEADLINE, chromium
from tests.support.redis import Redis
from tests.support.server import ROOT, Server

README = (ROOT / "examples" / "django_chat" / "README.md").read_text(encoding="utf-8")


def example(environment: dict[str, str] | None = None) -> Server:
    """Return a server on the README's first command, but for the port; not started yet."""
    found = re.search(r"^\$ twistd -n twistedws --port 8000 (.+)$", README, re.MULTILINE)
    assert found is not None
    return Server("--port", "0", *shlex.split(found[1]), environment=environment, cwd=ROOT)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The example, by itself."""
    with example() as running:
        yield running


def visitor(server: Server) -> httpx.Client:
    """Return an HTTP client, which keeps its cookies."""
    return httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, follow_redirects=True, timeout=DEADLINE)


def come_in(server: Server, name: str) -> httpx.Client:
    """Return a client that has given its name on the page."""
    client = visitor(server)
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', client.get("/").text)
    assert token is not None
    page = client.post("/", data={"name": name, "csrfmiddlewaretoken": token[1]})
    assert (page.status_code, page.url.path) == (200, "/lobby/")
    return client


def join(server: Server, client: httpx.Client, room: str) -> ClientConnection:
    """Return a connection to a room, to be entered, with what a browser sends: its cookies, and the page's origin."""
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    origin = websockets.Origin(f"http://127.0.0.1:{server.port}")
    return connect(f"{server.url}/ws/{room}/", origin=origin, additional_headers={"Cookie": cookie}, proxy=None)


def heard(*clients: ClientConnection) -> list[str | bytes]:
    """Return the next line of each."""
    return [each.recv(DEADLINE) for each in clients]


def talk(first: Server, second: Server, room: str) -> None:
    """Have two people talk in a room, each by a server."""
    with closing(come_in(first, "ann")) as ann, closing(come_in(second, "bob")) as bob, join(first, ann, room) as one:
        assert heard(one) == ["* ann has come"]
        with join(second, bob, room) as two:
            assert heard(one, two) == ["* bob has come"] * 2
            two.send("grüß dich")
            assert heard(one, two) == ["bob: grüß dich"] * 2
        assert heard(one) == ["* bob has gone"]


def test_talk(server: Server) -> None:
    """What is said goes to everybody in the room with the speaker's name, and so do comings and goings."""
    talk(server, server, "talk")


def test_rooms(server: Server) -> None:
    """What is said in one room is not heard in another."""
    with closing(come_in(server, "ann")) as ann, join(server, ann, "here") as here, join(server, ann, "there") as there:
        assert heard(here, there) == ["* ann has come"] * 2
        here.send("in here")
        there.send("in there")
        assert heard(here, there) == ["ann: in here", "ann: in there"]


def test_binary(server: Server) -> None:
    """Who sends something binary is told that only text is understood."""
    with closing(come_in(server, "ann")) as ann, join(server, ann, "binary") as client:
        assert heard(client) == ["* ann has come"]
        client.send(b"\x00")
        with pytest.raises(websockets.ConnectionClosed):
            client.recv(DEADLINE)
    assert (client.close_code, client.close_reason) == (1003, "only text is understood here")


def test_without_name(server: Server) -> None:
    """Who has given no name is led to the page that asks for it, and gets no WebSocket."""
    with visitor(server) as client:
        assert client.get("/lobby/").url.path == "/"
        with pytest.raises(websockets.InvalidStatus) as caught:
            join(server, client, "lobby")
    assert caught.value.response.status_code == 403


def test_without_token(server: Server) -> None:
    """A name that a foreign page posts is not taken."""
    with visitor(server) as client:
        assert client.post("/", data={"name": "ann"}).status_code == 403


def test_redis() -> None:
    """Two servers that have a Redis in common are one chat."""
    with Redis() as redis:
        variables = {"REDIS_URL": redis.url, "SECRET_KEY": "of the test"}
        with example(variables) as first, example(variables) as second:
            talk(first, second, "lobby")


def test_browser(server: Server, tmp_path: Path) -> None:
    """A person gives a name, comes into the lobby, says something, and sees it."""
    with chromium(tmp_path) as driver:
        driver.get(f"http://127.0.0.1:{server.port}/")
        driver.find_element(By.NAME, "name").send_keys("ann<b>", Keys.ENTER)
        wait = WebDriverWait(driver, DEADLINE, 0.02)

        def seen(text: str) -> None:
            wait.until(lambda _: driver.find_elements(By.ID, "lines") and text in driver.find_element(By.ID, "lines").text, text)

        seen("* ann<b> has come")
        driver.find_element(By.ID, "line").send_keys("hello?", Keys.ENTER)
        seen("ann<b>: hello?")
