"""The page that ``GET /`` of the echo application shows, in a real browser."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from tests.process.clients.chromium import EchoPage, chromium
from tests.support.server import Server
from tests.support.tools import needs

LAYOUTS = {"wide": (1200, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The echo application."""
    with Server("--compression", "on", "--subprotocol", "chat.v1", "echo") as running:
        yield running


@pytest.fixture
def page(browser: webdriver.Chrome, server: Server) -> EchoPage:
    """The page, freshly loaded."""
    return EchoPage(browser, f"http://127.0.0.1:{server.port}/")


def _messages_in_console(page: EchoPage) -> list[str]:
    entries: list[dict[str, str]] = page.driver.get_log("browser")
    return [each["message"] for each in entries]


def test_a_visit(page: EchoPage, server: Server) -> None:
    """A person connects, types, sees the echo with its round trip, closes with a code and a reason, and sees them; no error is logged."""
    _messages_in_console(page)
    assert page.text("state") == "closed"
    assert not page.enabled("send")
    assert page.connect(protocols=("chat.v1",)) == "open"
    assert page.text("subprotocol") == "chat.v1"
    assert "permessage-deflate" in page.text("extensions")
    page.write("message", "Grüße, <b>world</b>" + Keys.ENTER)
    page.wait(lambda: page.log("text"), "the echo")
    (entry,) = page.log("text")
    assert (entry["what"], entry["same"]) == ("Grüße, <b>world</b>", "true")
    assert float(entry["rtt"]) >= 0
    assert page.text("rtt").endswith(" ms")
    page.write("code", "4321")
    page.write("reason", "seen enough")
    page.click("disconnect")
    page.wait_for_state("closed")
    assert [page.text(each) for each in ("close-code", "close-reason", "close-clean")] == ["4321", "none", "yes"]  # what the server said
    server.wait_for_line(r"closed session=\w+ .*code=4321 .*cause=client .*reason='seen enough'")
    assert _messages_in_console(page) == []


def test_binary(page: EchoPage) -> None:
    """A binary message comes back as it was sent, an empty one too."""
    page.connect()
    assert [page.echo("binary", size)["same"] for size in (0, 1, 70_000)] == ["true"] * 3
    assert (page.text("sent"), page.text("echoed")) == ("3", "3")


def test_burst(page: EchoPage) -> None:
    """A burst comes back complete and in order, and its rate is shown."""
    page.connect()
    page.put("burst-count", 2000)
    page.click("burst")
    page.wait(lambda: page.log("burst"), "the end of the burst")
    (entry,) = page.log("burst")
    assert (entry["size"], entry["same"]) == ("2000", "true")
    assert int(page.text("rate").replace(",", "")) > 0
    assert page.text("sent") == page.text("echoed") == "2000"
    assert page.enabled("send")


def test_what_a_page_may_not_do(page: EchoPage) -> None:
    """A code that browsers do not let pages send is told, and the connection stays."""
    page.connect()
    page.put("code", 1011)
    page.click("disconnect")
    page.wait(lambda: page.text("problem"), "the message")
    assert page.text("state") == "open"
    page.put("code", 1000)
    page.click("disconnect")
    page.wait_for_state("closed")
    assert page.text("problem") == ""


def test_a_page_of_another_origin_is_refused(page: EchoPage, server: Server) -> None:
    """A browser's page of another origin gets 403, which it sees as 1006; with the origin allowed, it is served."""
    origin = f"http://127.0.0.1:{server.port}"
    with Server("echo") as other:
        assert page.connect(f"{other.url}/") == "refused"
        assert (page.text("close-code"), page.text("close-clean")) == ("1006", "no")
        other.wait_for_line(r"refused peer=\S+ status=403 .*origin not allowed")
    with Server("--origin", origin, "echo") as other:
        assert page.connect(f"{other.url}/") == "open"


def test_behind_tls(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """Over TLS, where browsers ask for a protocol by ALPN (RFC 7301), the page is served and connects to wss of its own address."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([needs("openssl"), *command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    with Server(f"--endpoint=ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}", "echo") as server:
        page = EchoPage(browser, f"https://127.0.0.1:{server.port}/")
        assert page.connect() == "open"
        assert page.echo("binary", 2**20)["same"] == "true"
        assert page.log("event")[0]["what"] == f"connected to wss://127.0.0.1:{server.port}/"


def test_server_goes_away(page: EchoPage) -> None:
    """The page shows the code and reason with which the server drains."""
    with Server("--drain-seconds", "0", "echo") as server:
        page = EchoPage(page.driver, f"http://127.0.0.1:{server.port}/")
        page.connect()
        assert server.stop() == 0
        page.wait_for_state("closed")
        assert (page.text("close-code"), page.text("close-clean")) == ("1012", "yes")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(page: EchoPage, layout: str, scheme: str, tmp_path: Path) -> None:
    """Nothing overflows its width, wide or on a phone, light or dark; a screenshot is left to be looked at."""
    driver, (width, height) = page.driver, LAYOUTS[layout]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": layout == "phone"}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    try:
        page.connect(protocols=("chat.v1",))
        page.write("message", "A message that goes there and back " + Keys.ENTER)
        page.wait(lambda: page.log("text"), "the echo")
        page.echo("text", 3000)
        page.put("message", "unbroken" * 30)
        page.click("send")
        page.echo("binary", 65_536)
        page.put("burst-count", 500)
        page.click("burst")
        page.wait(lambda: page.log("burst"), "the end of the burst")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        whole = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (tmp_path / f"{layout}-{scheme}.png").write_bytes(base64.b64decode(whole["data"]))
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
