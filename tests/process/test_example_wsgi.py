"""The WSGI examples under this server and, unchanged, under gunicorn with gevent-websocket's worker; the chat's page in a browser.

So is the example of docs/migrating.md: what it shows as before and after is run as it stands there.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import websockets
from selenium import webdriver

from tests.process.clients.chromium import chromium
from tests.process.test_example_fastapi import Window
from tests.support.gunicorn import Gunicorn
from tests.support.server import ROOT, TWISTD, Server, wait_until
from tests.support.tools import unavailable

DEADLINE = 30.0  # seconds, for what a test does with its clients
EXAMPLES = ("--app-dir", str(ROOT / "examples"))


@pytest.fixture(params=["twistedws", "gunicorn"])
def serve(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port on which the example of the test's mark is served."""
    (name,) = request.node.get_closest_marker("parametrize").args[1]
    if name.startswith("flask") and importlib.util.find_spec("flask") is None:
        unavailable("flask is not installed (it is in the dev extra)")
    if request.param == "gunicorn":
        with Gunicorn(f"examples.{name}", tmp_path_factory.mktemp("gunicorn"), {}) as gunicorn:
            yield gunicorn.port
    else:
        with Server(*EXAMPLES, name) as server:
            yield server.port
            assert server.stop() == 0
            assert not server.lines("raised|Traceback|runs on")


@pytest.mark.parametrize("example", ["wsgi_chat:app"])
def test_chat(serve: int, example: str) -> None:
    """Lines go to everybody with the speaker's name, who comes late gets the last ones, names can change, and a departure is told."""
    url = f"ws://127.0.0.1:{serve}/chat"

    async def scenario() -> None:
        async with websockets.connect(f"{url}?name=ann", proxy=None) as ann:
            assert await ann.recv() == "* ann has come"
            async with websockets.connect(f"{url}?name=b%C3%B6b", proxy=None) as bob:
                assert [await bob.recv() for _ in range(2)] == ["* ann has come", "* böb has come"]
                assert await ann.recv() == "* böb has come"
                await bob.send("hello")
                assert [await bob.recv(), await ann.recv()] == ["böb: hello"] * 2
                await ann.send("/nick anna")
                assert [await bob.recv(), await ann.recv()] == ["* ann is anna now"] * 2
                assert httpx.get(f"http://127.0.0.1:{serve}/people", trust_env=False).json() == ["anna", "böb"]
            assert await ann.recv() == "* böb has gone"
            await ann.send("alone?")
            assert await ann.recv() == "anna: alone?"
        async with websockets.connect(url, proxy=None) as guest:
            lines: list[str | bytes] = []
            while not {"* anna has gone", "* guest-1 has come"} <= set(lines):  # in either order: each is told by a thread of its own
                lines.append(await guest.recv())
            assert lines.count("anna: alone?") == lines.count("* anna has gone") == 1

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))


@pytest.mark.parametrize("example", ["wsgi_chat:app"])
def test_chat_over_http(serve: int, example: str) -> None:
    """The page, the empty list and what is not there are answered to plain requests."""
    with httpx.Client(base_url=f"http://127.0.0.1:{serve}", trust_env=False) as client:
        page = client.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert page.content == (ROOT / "examples" / "wsgi_chat.html").read_bytes()
        assert client.get("/people").json() == []
        assert client.get("/chat").status_code == 404


@pytest.mark.parametrize("example", ["flask_ws:app"])
def test_boards(serve: int, example: str) -> None:
    """What a plain request or a reader writes on a board is told to its readers, and to no others; who leaves is counted no more."""
    site = f"127.0.0.1:{serve}"

    async def scenario() -> None:
        async with (
            websockets.connect(f"ws://{site}/boards/tea?name=ann", proxy=None) as ann,
            websockets.connect(f"ws://{site}/boards/tea", proxy=None) as bob,
            websockets.connect(f"ws://{site}/boards/x", proxy=None) as eve,
            httpx.AsyncClient(base_url=f"http://{site}", trust_env=False) as client,
        ):
            assert [await ann.recv(), await bob.recv(), await eve.recv()] == ["This is the board tea."] * 2 + ["This is the board x."]
            assert (await client.get("/boards")).json() == {"tea": 2, "x": 1}
            written = await client.post("/boards/tea", json={"text": "the kettle is on"})
            assert (written.status_code, written.json()) == (201, {"told": 2})
            await ann.send("thanks")
            for reader in (ann, bob):
                assert [await reader.recv(), await reader.recv()] == ["the kettle is on", "ann: thanks"]
            await eve.send("alone?")
            assert await eve.recv() == "somebody: alone?"
            assert (await client.post("/boards/tea", json={"text": 7})).status_code == 400
            assert (await client.post("/boards/empty", json={"text": "hello?"})).json() == {"told": 0}

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))
    wait_until(lambda: httpx.get(f"http://{site}/boards", trust_env=False).json() == {}, what="readers that have gone are counted no more")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def test_page(browser: webdriver.Chrome) -> None:
    """Two people read each other through the page, markup is text, and a closed window is a departure."""
    with Server(*EXAMPLES, "wsgi_chat:app") as server:
        address = f"http://127.0.0.1:{server.port}/"
        ann = Window(browser, f"{address}?name=ann")
        ann.wait_for("lines", "ann has come")
        bob = Window(browser, f"{address}?name=bob")
        bob.wait_for("lines", "ann has come", "bob has come")
        bob.wait_for("who", "bob")
        bob.say("Hi, <b>ann</b>")
        ann.wait_for("lines", "ann has come", "bob has come", "bob Hi, <b>ann</b>")
        bob.close()
        ann.wait_for("lines", "ann has come", "bob has come", "bob Hi, <b>ann</b>", "bob has gone")
        ann.close()


PAGES = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"pages"]
"""


@pytest.fixture(params=["before", "after"])
def demoapi(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Which project of docs/migrating.md, and the directory that it is in."""
    which: str = request.param
    text = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"```python\n(# demoapi/wsgi.py, {which}\n.*?)```", text, re.DOTALL)
    (tmp_path / "demoapi").mkdir()
    (tmp_path / "demoapi" / "wsgi.py").write_text(code)
    (tmp_path / "demoapi" / "pages.py").write_text(PAGES)
    return which, tmp_path


def test_migration(demoapi: tuple[str, Path]) -> None:
    """The project before runs under gunicorn, and here the start says what to change; the project after runs here."""
    if importlib.util.find_spec("geventwebsocket") is None:
        unavailable("geventwebsocket is not installed (it is in the dev extra)")
    which, directory = demoapi
    if which == "after":
        with Server("--app-dir", str(directory), "demoapi.wsgi:ws") as server:
            _use(server.port)
            assert server.stop() == 0
            assert not server.lines("raised|Traceback|runs on")
        return
    with Gunicorn("demoapi.wsgi:ws", directory, {}) as gunicorn:
        _use(gunicorn.port)
    command = [str(TWISTD), "-n", "twistedws", "--check-config", "demoapi.wsgi:ws"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory)
    assert refused.returncode == 2
    assert re.sub(r"\s+", " ", refused.stderr.strip()) in re.sub(r"\s+", " ", (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8"))


def _use(port: int) -> None:
    """Two clients, one of which leaves, and a page."""

    async def scenario() -> None:
        async with websockets.connect(f"ws://127.0.0.1:{port}/", proxy=None) as one:
            await one.send("first")
            assert await one.recv() == "first"  # the application knows it now, which a 101 does not say
            async with websockets.connect(f"ws://127.0.0.1:{port}/", proxy=None) as two:
                await two.send("here")
                assert [await one.recv(), await two.recv()] == ["here"] * 2
            await one.send("alone")
            assert await one.recv() == "alone"

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))
    assert httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).text == "pages"
