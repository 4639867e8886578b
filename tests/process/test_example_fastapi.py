"""The chat on FastAPI, by two windows of a browser and by a plain client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
import websockets
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.process.clients.chromium import DEADLINE, chromium
from tests.support.server import ROOT, Server

CHAT = ("--app-dir", str(ROOT / "examples"), "fastapi_chat:app")


class Window:
    """A window of the browser with the chat's page.

    Args:
        driver: The browser.
        url: The page's address.
    """

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self._driver, self._before = driver, driver.current_window_handle
        driver.switch_to.new_window("window")
        self._handle = driver.current_window_handle
        driver.get(url)

    def wait_for(self, element: str, *shown: str) -> None:
        """Wait until an element's lines are these."""
        self._driver.switch_to.window(self._handle)
        wait = WebDriverWait(self._driver, DEADLINE, 0.02)
        wait.until(lambda driver: driver.find_element(By.ID, element).text.splitlines() == [*shown], f"{element}: {shown}")

    def wait_for_state(self, state: str) -> None:
        """Wait until the page shows this state of its connection."""
        self._driver.switch_to.window(self._handle)
        wait = WebDriverWait(self._driver, DEADLINE, 0.02)
        wait.until(lambda driver: driver.find_element(By.ID, "state").get_attribute("data-state") == state, state)

    def say(self, text: str) -> None:
        """Type a line."""
        self._driver.switch_to.window(self._handle)
        self._driver.find_element(By.ID, "text").send_keys(text + Keys.ENTER)

    def typed(self) -> str | None:
        """What stands in the field."""
        self._driver.switch_to.window(self._handle)
        return self._driver.find_element(By.ID, "text").get_attribute("value")

    def close(self) -> None:
        """Close the window, and go back to the one before."""
        self._driver.switch_to.window(self._handle)
        self._driver.close()
        self._driver.switch_to.window(self._before)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def test_two_windows(browser: webdriver.Chrome) -> None:
    """Two people in a room read each other, markup is text, who comes late gets the last lines, and a closed window is a departure."""
    with Server(*CHAT) as server:
        address = f"http://127.0.0.1:{server.port}/"
        ann = Window(browser, f"{address}?room=tea%20%26%20cake&name=ann")
        ann.wait_for("lines", "ann has come")
        ann.wait_for_state("open")
        bob = Window(browser, f"{address}?room=tea%20%26%20cake&name=b%C3%B6b")
        bob.wait_for("room", "# tea & cake")
        bob.wait_for("lines", "ann has come", "böb has come")
        bob.say("Grüße, <b>ann</b>")
        ann.wait_for("lines", "ann has come", "böb has come", "böb Grüße, <b>ann</b>")
        ann.say("hi: there")
        bob.wait_for("lines", "ann has come", "böb has come", "böb Grüße, <b>ann</b>", "ann hi: there")
        assert httpx.get(f"{address}rooms").json() == {"tea & cake": ["ann", "böb"]}
        bob.close()
        ann.wait_for("lines", "ann has come", "böb has come", "böb Grüße, <b>ann</b>", "ann hi: there", "böb has gone")
        ann.close()


def test_the_page_comes_back(browser: webdriver.Chrome) -> None:
    """While the server is away the page says so and keeps what is typed; when the server is back, the page is too."""
    with Server(*CHAT) as server:
        port = server.port
        page = Window(browser, f"http://127.0.0.1:{port}/?room=tea&name=ann")
        page.wait_for_state("open")
        server.stop()
        page.wait_for_state("waiting")
        page.say("later")
        assert page.typed() == "later"
    with Server("--port", str(port), *CHAT):
        page.wait_for_state("open")
        page.say("")
        page.wait_for("lines", "ann has come", "ann later")
        page.close()


def test_plain_client() -> None:
    """A client without the page gets the same lines, of its own room only; a visit without a name is refused."""
    with Server(*CHAT) as server:

        async def scenario() -> None:
            async with (
                websockets.connect(f"{server.url}/rooms/tea?name=ann") as ann,
                websockets.connect(f"{server.url}/rooms/x?name=eve") as eve,
            ):
                assert await ann.recv() == "* ann has come"
                async with websockets.connect(f"{server.url}/rooms/tea?name=bob") as bob:
                    assert [await bob.recv() for _ in range(2)] == ["* ann has come", "* bob has come"]
                    await bob.send("hello")
                    assert [await ann.recv() for _ in range(2)] == ["* bob has come", "bob: hello"]
                assert await ann.recv() == "* bob has gone"
                await eve.send("alone?")
                assert [await eve.recv() for _ in range(2)] == ["* eve has come", "eve: alone?"]
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(f"{server.url}/rooms/tea")
            assert refused.value.response.status_code == 403

        asyncio.run(scenario())
        assert server.stop() == 0
        server.wait_for_line("closed after .* 0 rooms in use")
