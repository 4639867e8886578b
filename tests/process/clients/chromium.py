"""Headless Chromium on the page that ``GET /`` of the echo application shows, driven as a person would."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.process.clients import Plan, Report, content
from tests.support.tools import needs

DEADLINE = 30.0  # of whatever is waited for on the page

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1200,900",
)  # fmt: skip


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with a fresh profile in the directory given."""
    options = webdriver.ChromeOptions()
    options.binary_location = needs("chromium")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.accept_insecure_certs = True  # those that a test has signed itself
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=needs("chromedriver", package="chromium-driver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


class EchoPage:
    """The page, by what stands on it.

    Args:
        driver: The browser.
        url: The page's address, ``http://…``.
    """

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver, self.url = driver, url
        driver.get(url)

    def text(self, element: str) -> str:
        """What an element shows."""
        return self._at(element).text

    def put(self, element: str, value: str | int) -> None:
        """Put a value into a field, as a paste does; typing a mebibyte would take minutes."""
        self.driver.execute_script("arguments[0].value = arguments[1]", self._at(element), str(value))

    def click(self, element: str) -> None:
        """Click a button."""
        self._at(element).click()

    def write(self, element: str, keys: str) -> None:
        """Clear a field and type into it."""
        self._at(element).clear()
        self._at(element).send_keys(keys)

    def enabled(self, element: str) -> bool:
        """Whether an element can be used."""
        return self._at(element).is_enabled()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition holds."""
        WebDriverWait(self.driver, DEADLINE, 0.02).until(lambda _: condition(), what)

    def wait_for_state(self, *states: str) -> str:
        """Wait until the connection is in one of these states, and return it."""
        self.wait(lambda: self.text("state") in states, f"state {' or '.join(states)}")
        return self.text("state")

    def log(self, kind: str) -> list[dict[str, str]]:
        """What is told about the entries of a kind in the log, oldest first: their data attributes, and ``what`` they show."""
        script = """return [...document.querySelectorAll(`#log li[data-kind="${arguments[0]}"]`)]
            .map((each) => ({...each.dataset, what: each.querySelector(".what").textContent}))"""
        entries: list[dict[str, str]] = self.driver.execute_script(script, kind)
        return entries

    def connect(self, url: str = "", protocols: tuple[str, ...] = ()) -> str:
        """Connect, to the page's own address unless another is given, and return the state that comes of it."""
        if url:
            self.put("url", url)
        self.put("protocols", ", ".join(protocols))
        self.click("connect")
        return self.wait_for_state("open", "refused", "closed")

    def echo(self, kind: str, size: int) -> dict[str, str]:
        """Send a message, wait for what comes back, and return the log's entry of it."""
        before = len(self.log(kind))
        self.send(kind, size)
        self.wait(lambda: len(self.log(kind)) > before, f"the echo of {size} bytes of {kind}")
        return self.log(kind)[-1]

    def send(self, kind: str, size: int) -> None:
        """Send a message; binary ones have random content."""
        if kind == "text":
            self.put("message", str(content(kind, size)))
            self.click("send")
        else:
            self.put("size", size)
            self.click("send-binary")

    def _at(self, element: str) -> WebElement:
        return self.driver.find_element(By.ID, element)


def follow(page: EchoPage, plan: Plan) -> Report:
    """Follow a plan on the page."""
    assert page.connect(plan.url, plan.protocols) == "open"
    entries = [page.echo(kind, size) for kind, size in plan.messages]
    agreed = functools.partial(_known, page)
    protocol, extensions = agreed("subprotocol"), agreed("extensions")
    if isinstance(plan.last, str):
        page.put("message", plan.last)
        page.click("send")
    elif plan.last is not None:
        page.send(plan.last_kind, plan.last)
    if plan.code is not None:
        page.put("code", plan.code)
        page.put("reason", plan.reason)
        page.click("disconnect")
    page.wait_for_state("closed")
    echoed = tuple(
        (kind, size)
        for (kind, size), entry in zip(plan.messages, entries, strict=True)
        if (entry["same"], int(entry["size"])) == ("true", size)
    )
    return Report(echoed, protocol, "permessage-deflate" in extensions, int(page.text("close-code")), _known(page, "close-reason"))


def _known(page: EchoPage, element: str) -> str:
    text = page.text(element)
    return "" if text == "none" else text
