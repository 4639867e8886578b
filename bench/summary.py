"""Medians and ratios of the rows of a result, for whoever prints them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
IDLE_MACHINE = 0.9  # of its core a server gets at least, if nothing else runs there
Figure = Callable[[Row], float | None]  # None: this row does not have it


def cpu(row: Row) -> float | None:
    """Return the microseconds of server CPU of one event."""
    return row.get("us")


def kilobytes(row: Row) -> float | None:
    """Return the KB of memory of one connection."""
    return row.get("kb")


def idle_share(row: Row) -> float | None:
    """Return the percentage of a core that idle connections take."""
    return 100 * row["share"] if "share" in row else None


def latency(point: str) -> Figure:
    """Return what reads a percentile of a row, as ``p99``."""
    return lambda row: row.get("latency", {}).get(point)


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some figures, with the least and the largest."""

    median: float
    least: float
    largest: float

    @classmethod
    def of(cls, figures: Iterable[float | None]) -> Spread | None:
        """Return it, or None of no figures."""
        found = [each for each in figures if each is not None]
        return cls(statistics.median(found), min(found), max(found)) if found else None


class Rows:
    """The rows of a result, to be asked for figures."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def cases(self, section: str) -> list[str]:
        """Return the cases of a section, in the order in which they were measured."""
        return list(dict.fromkeys(row["case"] for row in self.rows if row["section"] == section))

    def servers(self, section: str, case: str | None = None) -> list[str]:
        """Return the servers that were measured in a section or case."""
        return list(dict.fromkeys(row["server"] for row in self.rows if row["section"] == section and case in (None, row["case"])))

    def _rounds(self, section: str, case: str, server: str) -> dict[int, Row]:
        place = (section, case, server)
        return {row["round"]: row for row in self.rows if (row["section"], row["case"], row["server"]) == place and "error" not in row}

    def spread(self, section: str, case: str, server: str, figure: Figure = cpu) -> Spread | None:
        """Return the spread of a figure over the rounds; None if it was not measured."""
        return Spread.of(figure(row) for row in self._rounds(section, case, server).values())

    def ratio(self, section: str, case: str, server: str, other: str, figure: Figure = cpu, other_case: str | None = None) -> Spread | None:
        """Return the spread of the ratios server ÷ other, one of each round in which both were measured."""
        mine, theirs = self._rounds(section, case, server), self._rounds(section, other_case or case, other)
        pairs = [(figure(mine[each]), figure(theirs[each])) for each in mine if each in theirs]
        return Spread.of(one / two for one, two in pairs if one is not None and two)

    def disturbed(self) -> str | None:
        """Return a warning if other processes ran on the server's core: under a window of echo the server should take all of it."""
        echo = [row for row in self.rows if row["section"] == "echo" and "in flight" in row["case"] and "error" not in row]
        shared = [row for row in echo if row["busy"] < IDLE_MACHINE]
        if not shared:
            return None
        return f"In {len(shared)} of {len(echo)} measurements of echo other processes took a part of the server's core."

    def reason(self, section: str, case: str, server: str) -> str | None:
        """Return why a figure is missing."""
        place = (section, case, server)
        return next((row["error"] for row in self.rows if (row["section"], row["case"], row["server"]) == place and "error" in row), None)
