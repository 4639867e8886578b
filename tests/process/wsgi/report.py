"""Runs test_wsgi_side_by_side.py, and writes the table of outcomes into docs/wsgi-side-by-side.md.

    python tests/process/wsgi/report.py [-o FILE] [argument of pytest ...]

The page is written also when tests fail, which it then says, but not of a run that was broken off; the exit status is pytest's.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tests.process.wsgi.scenarios import SCENARIOS  # noqa: E402 - found through the line above
from tests.process.wsgi.table import EXPECTED, GUNICORN, OURS  # noqa: E402

TESTS = ROOT / "tests" / "process" / "test_wsgi_side_by_side.py"
PAGE = ROOT / "docs" / "wsgi-side-by-side.md"
NAMES = {"plain": "plain WSGI", "flask": "Flask", "bottle": "Bottle", "resource": "`Resource`"}
DISTRIBUTIONS = ("twistedws", "twisted", "gunicorn", "gevent", "gevent-websocket", "flask", "werkzeug", "bottle")

INTRODUCTION = """\
# WSGI applications with WebSockets, side by side

The same applications (`tests/process/apps/wsgi_*.py`: plain WSGI, Flask with routes of Flask-Sockets' kind too, Bottle, and
gevent-websocket's `Resource`), unchanged, under `gunicorn --worker-class geventwebsocket.gunicorn.workers.GeventWebSocketWorker` and under
`twistd twistedws`; the same client (`tests/process/wsgi/scenarios.py`); and what came of it. `make wsgi` runs the tests
(`tests/process/test_wsgi_side_by_side.py`), which hold every cell of it, and writes this page.

Flask-Sockets itself is not among them: with Werkzeug 2 or later its last release, 0.2.1, finds none of its routes, under any server
([issue 81](https://github.com/heroku-python/flask-sockets/issues/81)). The application has it with the change that people make to it:
its rules are marked `websocket=True`.

Applications that call `gevent.monkey.patch_all()` are not among them either: the worker patches by itself, and this server refuses a
process that is patched. Nor are queues and events of gevent's between WebSockets, which here would be between threads: what wakes a waiter
of another thread is a matter of luck. Those of the standard library do it under both, as the table has it for `threading.Event`.
"""

Outcomes = Mapping[tuple[str, str], set[str]]


class Results:
    """A plugin of pytest which collects how the tests of each exchange ended.

    Attributes:
        outcomes: By exchange and server.
    """

    def __init__(self) -> None:
        self.outcomes: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the call, and whatever keeps a test from it or goes wrong behind it."""
        if report.when != "call" and report.passed:
            return
        recorded = {name: str(value) for name, value in report.user_properties}
        if {"exchange", "server"} <= set(recorded):
            self.outcomes[recorded["exchange"], recorded["server"]].add(report.outcome)


def page(outcomes: Outcomes) -> str:
    """Return the page."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in DISTRIBUTIONS)
    return f"{INTRODUCTION}\nTested with {versions}, Python {platform.python_version()}.\n\n{table(outcomes)}"


def table(outcomes: Outcomes | None = None) -> str:
    """Return the table and its notes.

    Args:
        outcomes: Of a run; None for the table of one that passes.
    """
    notes: list[str] = []
    rows = [["exchange", "application", "gunicorn, gevent-websocket", "twistedws"], ["---"] * 4]
    for name, expected in EXPECTED.items():
        cells = [_cell(name, server, expected.under(server), outcomes) for server in (GUNICORN, OURS)]
        if cells[0] == cells[1]:
            cells[1] = "the same"
        if expected.why:
            notes += [] if expected.why in notes else [expected.why]
            cells[1] += f"[^{notes.index(expected.why) + 1}]"
        rows.append([_escaped(name), ", ".join(NAMES[each] for each in SCENARIOS[name].applications), *cells])
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return lines + "\n" + "".join(f"[^{number}]: {note[0].upper()}{note[1:]}.\n" for number, note in enumerate(notes, 1))


def _cell(name: str, server: str, expected: str, outcomes: Outcomes | None) -> str:
    seen = {"passed"} if outcomes is None else outcomes.get((name, server), set())
    if "failed" in seen:
        return "**fails**"
    return _escaped(expected) if "passed" in seen else "not run"


def _escaped(text: str) -> str:
    for each in "\\|*[<":
        text = text.replace(each, f"\\{each}")
    return text


def main() -> int:
    """Run, write, and return the exit status."""
    parser = argparse.ArgumentParser(description="Write docs/wsgi-side-by-side.md from the tests of WSGI applications.")
    parser.add_argument("-o", "--output", type=Path, default=PAGE, help="instead of docs/wsgi-side-by-side.md")
    options, arguments = parser.parse_known_args()
    results = Results()
    # pytest-twisted, which none of these tests needs, would go on after a SIGTERM, and have the rest of the tests fail.
    own = [f"--rootdir={ROOT}", "-q", "-p", "no:twisted", "--deselect", f"{TESTS.relative_to(ROOT)}::test_page_is_current"]
    status = pytest.main([*own, *arguments, str(TESTS)], plugins=[results])
    if status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        options.output.write_text(page(results.outcomes), encoding="utf-8")
        print(f"written: {options.output}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
