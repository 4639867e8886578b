"""Makes a page and its chart of a result of ``bench/run.py``, without measuring: ``performance.md`` and ``performance.svg``.

    .tools/bench/venv/bin/python bench/report.py RESULT.json [--docs docs] [--name performance]

The chart needs matplotlib, which is among ``bench/requirements.txt``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.chart import draw  # noqa: E402 - found through the line above
from bench.criteria import ASGI, CHURN, COROUTINE, CRITERIA, HANDLER, WSGI, describe  # noqa: E402
from bench.sections import CHURN_PARALLEL  # noqa: E402
from bench.summary import Figure, Rows, Spread, cpu, idle_share, kilobytes, latency  # noqa: E402

Result = dict[str, Any]
NOTHING = "-"
KINDS = {"handler": HANDLER, "coroutine": COROUTINE, "ASGI": ASGI, "WSGI": WSGI}
POINTS = ("p50", "p95", "p99", "p99.9")


def number(value: float) -> str:
    """Write a number with three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(spread: Spread | None) -> str:
    """Write a median with its range."""
    if spread is None:
        return NOTHING
    if spread.least == spread.largest:
        return number(spread.median)
    return f"{number(spread.median)} <sub>{number(spread.least)} to {number(spread.largest)}</sub>"


def median(spread: Spread | None) -> str:
    """Write a median alone."""
    return NOTHING if spread is None else number(spread.median)


def table(head: list[str], lines: list[list[str]]) -> list[str]:
    """Return a table: names to the left, figures to the right."""
    return [
        "| " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * (len(head) - 1),
        *("| " + " | ".join(each) + " |" for each in lines),
        "",
    ]


class Page:
    """The lines of the page, section by section."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.rows = Rows(result["rows"])
        self.servers: dict[str, dict[str, Any]] = result["servers"]

    def title(self, server: str) -> str:
        """Return a server's title; ours stands out."""
        title = str(self.servers[server]["title"])
        return f"**{title}**" if server.startswith("ours") else title

    def matrix(self, section: str, cases: list[str], figure: Figure = cpu) -> list[str]:
        """Return a table of servers and cases, in the order of the first case."""
        measured = [each for each in self.rows.servers(section) if any(self.rows.spread(section, case, each, figure) for case in cases)]
        measured.sort(key=lambda each: self._order(section, cases[0], each, figure))
        lines = [[self.title(each), *(cell(self.rows.spread(section, case, each, figure)) for case in cases)] for each in measured]
        return table(["server", *cases], lines)

    def _order(self, section: str, case: str, server: str, figure: Figure) -> float:
        spread = self.rows.spread(section, case, server, figure)
        return spread.median if spread else float("inf")

    def ratios(self, section: str, cases: list[str]) -> list[str]:
        """Return a table of the figures of our handler, coroutine and ASGI application, as far as there are, divided by each peer's."""
        ours = [(name, each) for name, each in KINDS.items() if each in self.rows.servers(section)]
        peers = [each for each in self.rows.servers(section) if not each.startswith("ours")]
        peers.sort(key=lambda each: self._order(section, cases[0], each, cpu))
        lines = [[self.title(each), *(self._all(section, case, each, ours) for case in cases)] for each in peers]
        return table([" / ".join(f"{name} ÷ it" for name, _ in ours), *cases], lines)

    def _all(self, section: str, case: str, peer: str, ours: list[tuple[str, str]]) -> str:
        return " / ".join(median(self.rows.ratio(section, case, our, peer)) for _, our in ours)

    def echo(self) -> list[str]:
        """Messages sent back."""
        cases = self.rows.cases("echo")
        return [
            "## A message sent back",
            "",
            "64 connections. Microseconds of the server's CPU for each message: the median of the rounds, and the range.",
            "",
            *self.matrix("echo", cases),
            "Ours divided by each: below 1, ours is cheaper. In each round both were measured; this is the median of the rounds' ratios.",
            "",
            *self.ratios("echo", cases),
            "*In flight* is a window: a reply is answered by the next message at once, so a server that writes its replies one by one also",
            "gets its next messages one by one. In *bursts* the next 16 leave together when all 16 have come back.",
            "",
        ]

    def churn(self) -> list[str]:
        """Connections opened and closed."""
        return [
            "## A connection opened and closed",
            "",
            f"TCP connection, handshake, closing handshake, end; {CHURN_PARALLEL} at a time. Ours logs a line for each session that",
            "ends, peers log nothing; `--log-level=warn` makes ours as silent.",
            "",
            *self.matrix("churn", [CHURN]),
            *self.ratios("churn", [CHURN]),
        ]

    def idle(self) -> list[str]:
        """Connections that do nothing."""
        cases = self.rows.cases("idle")
        names = [each for each in self.rows.servers("idle") if any(self.rows.spread("idle", case, each, kilobytes) for case in cases)]
        names.sort(key=lambda each: self._order("idle", cases[0], each, kilobytes))
        lines = [
            [self.title(each), *(median(self.rows.spread("idle", case, each, kilobytes)) for case in cases), self._share(each, cases)]
            for each in names
        ]
        return [
            "## An idle connection",
            "",
            "KB of memory for each (proportional set size of the process tree after they were opened, less before), and the share of a",
            "core that the largest number takes while the server pings each of them every 20 seconds.",
            "",
            *table(["server", *cases, "% of a core"], lines),
        ]

    def _share(self, server: str, cases: list[str]) -> str:
        found = next((spread for case in reversed(cases) if (spread := self.rows.spread("idle", case, server, idle_share))), None)
        return median(found) + ("" if found is None or self.servers[server]["pings"] else " (it cannot ping)")

    def fanout(self) -> list[str]:
        """One message to many."""
        cases = self.rows.cases("fanout")
        columns = [(case, point) for case in cases for point in ("p50", "p99")]
        names = sorted(self.rows.servers("fanout"), key=lambda each: self._order("fanout", cases[0], each, cpu))
        waits = [
            [self.title(each), *(median(self.rows.spread("fanout", case, each, latency(point))) for case, point in columns)]
            for each in names
        ]
        return [
            "## One message to 1,000 subscribers",
            "",
            "Microseconds of the server's CPU for each delivery, to the subscribers that read.",
            "",
            *self.matrix("fanout", cases),
            "Microseconds from the publication until the last of the 1,000 has it: the median, and the 99th percentile.",
            "",
            *table(["server", *(f"{case}: {point}" for case, point in columns)], waits),
        ]

    def latency(self) -> list[str]:
        """The time that a reply takes."""
        case = self.rows.cases("latency")[0]
        names = [each for each in self.rows.servers("latency") if self.rows.spread("latency", case, each)]
        names.sort(key=lambda each: self._order("latency", case, each, latency("p50")))
        lines = [
            [self.title(each), *(median(self.rows.spread("latency", case, each, latency(point))) for point in POINTS)] for each in names
        ]
        return [
            "## How long a reply takes",
            "",
            f"{case} over 64 connections. Microseconds from the time at which a message was *due* until its reply, so that what waits",
            "behind a slow reply counts too. The tails are this machine's as much as the servers'.",
            "",
            *table(["server", *POINTS], lines),
        ]

    def compression(self) -> list[str]:
        """Messages sent back compressed."""
        cases = self.rows.cases("compression")
        return [
            "## A compressed message sent back",
            "",
            "permessage-deflate without context takeover, the load generator's frame compressed once beforehand. Each server compresses",
            "with its own level and window.",
            "",
            *self.matrix("compression", cases),
        ]

    def criteria(self) -> list[str]:
        """What we hold ourselves to."""
        lines = [list(describe(each, self.rows)) for each in CRITERIA if each.met(self.rows) is not None]
        return [
            "## What we hold ourselves to",
            "",
            "Medians of the ratios; the first is the bound.",
            "",
            *table(["criterion", "bound", "measured", ""], lines),
        ]

    def failures(self) -> list[str]:
        """What could not be measured."""
        found: dict[tuple[str, str], str] = {}
        for row in self.rows.rows:
            if "error" in row:
                found.setdefault((row["server"], row["section"]), row["error"])
        if not found:
            return []
        lines = [[self.title(server), section, reason.replace("|", "\\|")] for (server, section), reason in found.items()]
        return ["## What gave no figure", "", *table(["server", "section", "reason"], lines)]

    def method(self) -> list[str]:
        """How it was measured, on what, and with which versions."""
        machine, versions = self.result["machine"], self.result["versions"]
        where = f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}; {machine['placement']}"
        return [
            "## How it is measured",
            "",
            "`make bench` builds the peers and the load generator below `.tools/bench`, measures, and rewrites this page from the",
            "result. The load generator ([bench/load.c](../bench/load.c)) is a single-threaded epoll client in C, which checks every",
            "reply's header and length, and the contents of the first and of each 1,000th. It reads the CPU clocks of all processes of",
            "the server at the instants at which it starts and stops counting. CPU time is reported, not throughput: it is stable where",
            "throughput is not. In each round every server is started, and they are measured one after the other, in an order that",
            "turns with the rounds.",
            "",
            f"Measured on {self.result['date'][:10]}, in {self.result['minutes']:.0f} minutes: {where}.",
            *filter(None, [self.rows.disturbed()]),
            "",
            "| server | configuration |",
            "| --- | --- |",
            *(f"| {each['title']} | {each['note']} |" for each in self.servers.values()),
            "",
            *(
                f"- {name}: {_versions(found, SHOWN_OF_OURS if name.startswith('twistedws') else SHOWN)}"
                for name, found in versions.items()
            ),
            "",
            "```console",
            "$ " + " ".join(self.result["command"]),
            "```",
        ]

    def text(self, chart: str) -> str:
        """Return the page, which shows a chart."""
        parts = [self.criteria, self.echo, self.churn, self.idle, self.fanout, self.latency, self.compression]
        lines = [
            "# Performance",
            "",
            "Written by `bench/report.py`; do not edit.",
            "",
            f"![CPU for each message, by server]({chart})",
            "",
        ]
        for part in parts:
            if part == self.criteria or self.rows.cases(part.__name__):
                lines += part()
        return "\n".join([*lines, *self.failures(), *self.method(), ""])


SHOWN_OF_OURS = ("python", "commit", "twisted", "autobahn", "uvloop")
SHOWN = (
    "python", "node", "ws", "twisted", "autobahn", "uvloop", "picows", "aiohttp", "websockets", "uvicorn", "httptools", "wsproto", "daphne",
    "hypercorn", "granian", "gevent", "gevent-websocket", "wsaccel",
)  # fmt: skip


def _versions(found: dict[str, str], shown: tuple[str, ...]) -> str:
    """Write the versions that matter; the result has all."""
    lower = {name.lower(): version for name, version in found.items()}
    return ", ".join(f"{name} {lower[name]}" for name in shown if name in lower)


def main() -> int:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the page and the chart go")
    parser.add_argument("--name", default="performance", help="of both")
    options = parser.parse_args()
    result: Result = json.loads(options.result.read_text(encoding="utf-8"))
    options.docs.mkdir(parents=True, exist_ok=True)
    chart = options.docs / f"{options.name}.svg"
    chart.with_suffix(".md").write_text(Page(result).text(chart.name), encoding="utf-8")
    draw(result, chart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
