"""Runs the tests of the frameworks, and writes what works with each into docs/frameworks.md.

    python tests/process/frameworks/report.py [-o FILE] [argument of pytest ...]

What a test records to be in the table is told in this package's docstring. The page is written also when tests fail, which it then
says, but not of a run that was broken off; the exit status is pytest's.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tests.process.frameworks.contract import FEATURES  # noqa: E402 - found through the line above

TESTS = [ROOT / "tests" / "process" / name for name in ("test_frameworks.py", "test_channels.py", "test_socketio.py")]
PAGE = ROOT / "docs" / "frameworks.md"

INTRODUCTION = """\
# Frameworks

What works with whom: each cell is one or more tests with a real server and real clients (`tests/process/test_frameworks.py`,
`test_channels.py`, `test_socketio.py`). `make frameworks` runs them and writes this page. *yes*: they pass.
*no*, with the reason below: the framework cannot, or does it otherwise, and the tests hold what happens instead. Empty: there is no test.
"""


@dataclass
class Cell:
    """A feature in a framework: what its tests recorded, and how they ended."""

    notes: list[str] = field(default_factory=list)
    outcomes: set[str] = field(default_factory=set)


class Results:
    """A plugin of pytest which collects what tests record of frameworks.

    Attributes:
        cells: By framework and feature.
        distributions: By framework, the distributions whose versions matter, with spaces between.
    """

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], Cell] = {}
        self.distributions: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the call, and whatever keeps a test from it or goes wrong behind it."""
        if report.when != "call" and report.passed:
            return
        recorded = {name: str(value) for name, value in report.user_properties if value}
        if not {"framework", "feature"} <= set(recorded):
            return
        cell = self.cells.setdefault((recorded["framework"], recorded["feature"]), Cell())
        cell.outcomes.add(report.outcome)
        if "note" in recorded and recorded["note"] not in cell.notes:
            cell.notes.append(recorded["note"])
        self.distributions.setdefault(recorded["framework"], recorded.get("distributions", ""))

    def frameworks(self, features: Iterable[str]) -> list[str]:
        """The frameworks for which at least one of the features was tested, in the order of the tests."""
        wanted = set(features)
        return list(dict.fromkeys(framework for framework, feature in self.cells if feature in wanted))

    def features(self, family: str) -> list[str]:
        """What was tested of a family of frameworks beyond the features that all have."""
        found = dict.fromkeys(feature for framework, feature in self.cells if _family(framework) == family)
        return [each for each in found if each not in FEATURES]


def page(results: Results) -> str:
    """Return the page."""
    notes: list[str] = []
    tables = [_table(results, results.frameworks(FEATURES), FEATURES, notes)]
    for family in dict.fromkeys(_family(framework) for framework in results.distributions):
        if features := results.features(family):
            columns = [each for each in results.frameworks(features) if _family(each) == family]
            tables += [f"## {family.capitalize()}, beside that\n", _table(results, columns, features, notes)]
    footnotes = "".join(f"[^{number}]: {note}.\n" for number, note in enumerate(notes, 1))
    return "\n".join([INTRODUCTION, _versions(results), *tables, footnotes]).rstrip() + "\n"


def _family(framework: str) -> str:
    """``channels`` for ``channels (memory)``."""
    return framework.partition(" (")[0]


def _versions(results: Results) -> str:
    names = dict.fromkeys(name for each in results.distributions.values() for name in each.split())
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("twistedws", "twisted", *names)]
    return f"Tested with {', '.join(versions)}, Python {platform.python_version()}.\n"


def _table(results: Results, frameworks: list[str], features: Iterable[str], notes: list[str]) -> str:
    rows = [["feature", *frameworks], ["---"] * (1 + len(frameworks))]
    rows += [[feature, *(_shown(results.cells.get((each, feature)), notes) for each in frameworks)] for feature in features]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _shown(cell: Cell | None, notes: list[str]) -> str:
    """A cell's text; its notes are added to those of the page."""
    if cell is None:
        return ""
    if "failed" in cell.outcomes:
        return "**fails**"
    if "skipped" in cell.outcomes:
        return "not run"
    notes += [each for each in cell.notes if each not in notes]
    return "no" + "".join(f"[^{notes.index(each) + 1}]" for each in cell.notes) if cell.notes else "yes"


def main() -> int:
    """Run, write, and return the exit status."""
    parser = argparse.ArgumentParser(description="Write docs/frameworks.md from the tests of the frameworks.")
    parser.add_argument("-o", "--output", type=Path, default=PAGE, help="instead of docs/frameworks.md")
    options, arguments = parser.parse_known_args()
    results = Results()
    # pytest-twisted, which none of these tests needs, would go on after a SIGTERM, and have the rest of the tests fail.
    own = [f"--rootdir={ROOT}", "-q", "-p", "no:twisted"]
    status = pytest.main([*own, *arguments, *(str(each) for each in TESTS if each.exists())], plugins=[results])
    if status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        options.output.write_text(page(results), encoding="utf-8")
        print(f"written: {options.output}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
