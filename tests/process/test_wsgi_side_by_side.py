"""Applications of gevent-websocket's kind, unchanged, under gunicorn with its worker and under this server, side by side."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from tests.process.wsgi import report
from tests.process.wsgi.scenarios import FRAMEWORKS, SCENARIOS, Site
from tests.process.wsgi.table import EXPECTED, GUNICORN, OURS
from tests.support.gunicorn import Gunicorn
from tests.support.server import ROOT, Server

CASES = [
    pytest.param(server, application, name, id=f"{server}-{application}-{name}")
    for server in (GUNICORN, OURS)
    for application in (*FRAMEWORKS, "resource")
    for name, scenario in SCENARIOS.items()
    if application in scenario.applications
]
Start = Callable[[str, str], Site]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts an application under a server, once for all tests."""
    with ExitStack() as stack:

        @functools.cache
        def start(server: str, application: str) -> Site:
            directory = tmp_path_factory.mktemp(f"{server}-{application}")
            app, environment = f"tests.process.apps.wsgi_{application}:app", {"ORDERS": str(directory / "orders")}
            with closing(sqlite3.connect(directory / "orders")) as database:
                database.execute("CREATE TABLE orders (text)")
            if server == GUNICORN:
                return Site(stack.enter_context(Gunicorn(app, directory, environment)).port)
            return Site(stack.enter_context(Server("--app-dir", str(ROOT), app, environment=environment)).port)

        yield start


@pytest.mark.parametrize(("server", "application", "name"), CASES)
def test_exchange(start: Start, server: str, application: str, name: str, record_property: Callable[[str, object], None]) -> None:
    """An exchange comes to what the table says of this server."""
    record_property("server", server)
    record_property("exchange", name)
    assert SCENARIOS[name].run(start(server, application)) == EXPECTED[name].under(server)


def test_each_exchange_is_in_the_table() -> None:
    """Each exchange has outcomes, each outcome an exchange, and whatever differs a reason."""
    assert list(EXPECTED) == list(SCENARIOS)
    assert [name for name, expected in EXPECTED.items() if (expected.gunicorn != expected.twistedws) != bool(expected.why)] == []


def test_page_is_current() -> None:
    """docs/wsgi-side-by-side.md has the table that ``make wsgi`` would write of a run that passes."""
    assert report.table() in report.PAGE.read_text(encoding="utf-8")
