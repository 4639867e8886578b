"""Server-Sent Events in a real browser: each is there at once, and none is lost by a restart."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.process.clients.chromium import DEADLINE, chromium
from tests.support.server import Server, wait_until

# An event stream has no end of its own, so a server that stops has to cut it.
ARGUMENTS = ("--drain-seconds=0", "--graceful-timeout=1", "asgi_http:app")


class Page:
    """The page of the application, which shows the state of its event source, and the events as they come."""

    def __init__(self, driver: webdriver.Chrome, port: int) -> None:
        self._driver = driver
        driver.get(f"http://127.0.0.1:{port}/page")

    def wait_for_state(self, state: str) -> None:
        """Wait until the event source is connecting, open or closed."""
        self._wait(lambda: self._driver.find_element(By.ID, "state").text == state, f"an event source that is {state}")

    def wait_for_events(self, *events: str) -> None:
        """Wait until the page shows so many events, which must be these."""
        self._wait(lambda: len(self.events()) >= len(events), f"{len(events)} events")
        assert self.events() == list(events)

    def events(self) -> list[str]:
        """What the page shows of the events: the id of each, and its data."""
        return [each.text for each in self._driver.find_elements(By.CSS_SELECTOR, "#events li")]

    def _wait(self, condition: Any, what: str) -> None:
        WebDriverWait(self._driver, DEADLINE, 0.02).until(lambda _: condition(), what)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def ask(port: int, target: str) -> Any:
    """Ask the application for something, beside the browser."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{target}", timeout=20) as answer:
        return json.load(answer)


def test_one_by_one(browser: webdriver.Chrome) -> None:
    """Every event is shown before the next one is sent: nothing on the way waits for more."""
    with Server(*ARGUMENTS) as server:
        page = Page(browser, server.port)
        page.wait_for_state("open")
        for number in range(1, 21):
            assert ask(server.port, "/next") == 1
            page.wait_for_events(*(f"{each}: event {each}" for each in range(1, number + 1)))
        browser.execute_script("source.close()")
        wait_until(lambda: ask(server.port, "/next") == 0, what="the word at the application that the browser has gone")


def test_several_tabs(browser: webdriver.Chrome) -> None:
    """Two pages that hold a stream each have every event, beside other requests to the same server."""
    with Server(*ARGUMENTS) as server:
        first = Page(browser, server.port)
        first.wait_for_state("open")
        tab = browser.current_window_handle
        browser.switch_to.new_window("tab")
        second = Page(browser, server.port)
        second.wait_for_state("open")
        assert ask(server.port, "/next") == 2
        second.wait_for_events("1: event 1")
        browser.close()
        browser.switch_to.window(tab)
        first.wait_for_events("1: event 1")


def test_restart(browser: webdriver.Chrome) -> None:
    """After the server's restart the browser is back with the id of its last event, and the stream goes on behind that one."""
    with Server(*ARGUMENTS) as server:
        port = server.port
        page = Page(browser, port)
        page.wait_for_state("open")
        for number in (1, 2):
            assert ask(port, "/next") == 1
            page.wait_for_events(*(f"{each}: event {each}" for each in range(1, number + 1)))
        assert server.stop() == 0
        page.wait_for_state("connecting")
    with Server(f"--port={port}", *ARGUMENTS):
        page.wait_for_state("open")
        assert ask(port, "/heard")["/sse"] == ["2"]
        assert ask(port, "/next") == 1
        page.wait_for_events("1: event 1", "2: event 2", "3: event 3")
