"""Measures ``--workers`` beside a single process, and writes ``docs/performance-workers.md``.

    python -m bench.workers                          everything, some 3 minutes
    python -m bench.workers --rounds 1               for a look
    python -m bench.workers --workers 0              of some numbers of workers alone
    python -m bench.workers --report FILE            write the page of a result again, without measuring

In each round each number of workers is measured once, one after the other, in an order that turns with the rounds. The CPU is that of
all processes, the supervisor's too. It is measured twice: all processes of the server on one core and the load generator on another, as
everything else in ``docs/performance.md``, for the cost; and on all cores, for the throughput.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import machine, sections
from bench.balance import established, sockets_of
from bench.catalogue import Launch, Server, default_checkout, ours
from bench.environment import ROOT, Unavailable, load_generator
from bench.process import START_TIMEOUT, Failed, Running
from bench.report import SHOWN_OF_OURS, cell, number, table
from bench.run import commit, default_python, numbers
from bench.sections import Case, Progress, Row, echo_case
from bench.summary import Figure, Rows, Spread, cpu

RESULT, PAGE = ROOT / "bench" / "results" / "workers.json", ROOT / "docs" / "performance-workers.md"
WARMUP = ("--warmup", "0.3")
CASES = [Case(each.name, (*each.arguments, *WARMUP)) for each in (echo_case(64, 1), echo_case(64, 16))]
CHURN = Case("connect, handshake, close", ("--mode", "churn", "--parallel", str(sections.CHURN_PARALLEL), *WARMUP))
ONE_CORE, ALL_CORES = "one core", "all cores"
QUIET = 0.1  # the share of a core that all processes together may take when they are ready: each worker gives signs of life
MESSAGE_LIMIT, CONNECT_LIMIT = 1.05, 1.15
IDLE_LIMIT = 0.1  # of the machine's cores may have nothing to do while the load generator waits for two workers


class WithWorkers(Running):
    """A server which is ready when all its workers are."""

    def __init__(self, server: Server, workers: int, cores: machine.Cores) -> None:
        super().__init__(server, "echo", 0, cores)
        self.workers = workers

    def __enter__(self) -> WithWorkers:
        super().__enter__()
        root, deadline = self.pids[0], time.monotonic() + START_TIMEOUT
        while len(self.pids) != 1 + self.workers or self._share() > QUIET:
            if time.monotonic() > deadline:
                self.stop()
                raise Failed(f"{len(self.pids) - 1} workers of {self.workers} after {START_TIMEOUT:.0f} s")
            time.sleep(0.05)
            self.pids = machine.tree(root)
        return self

    def shares(self) -> list[int]:
        """Return how many established connections each worker has."""
        inodes = established(self.launch.port)
        return sorted(len(inodes & sockets_of(pid)) for pid in self.pids[1:] or self.pids)

    def _share(self) -> float:
        try:
            begin = machine.cpu_seconds(self.pids)
            time.sleep(0.25)
            return (machine.cpu_seconds(self.pids) - begin) / 0.25
        except OSError:  # one has ended
            return 1.0


def with_workers(count: int) -> Server:
    """Return our handler class with a number of workers."""
    handler = ours(default_checkout(default_python().absolute()))[0]

    def command(launch: Launch) -> list[str]:
        *line, application = handler.command(launch)
        return [*line, f"--workers={count}", application]

    return dataclasses.replace(handler, name=name(count), command=command)


def name(count: int) -> str:
    """Name a number of workers in the result."""
    return f"workers-{count}"


def title(count: int) -> str:
    """Name a number of workers on the page."""
    return "a single process" if count == 0 else f"`--workers={count}`"


def measured(running: WithWorkers, case: Case, seconds: float) -> Row:
    """Measure a case."""
    shares: list[int] = []
    sample = threading.Timer(0.3 + seconds / 2, lambda: shares.extend(running.shares()))
    before = cpu_times()
    sample.start()
    try:
        found = running.load(*case.arguments, "--seconds", str(seconds))
    finally:
        sample.cancel()
        sample.join()
    idle_time, all_time = (late - early for late, early in zip(cpu_times(), before, strict=True))
    if not found["count"]:
        raise Failed("nothing was done in the measured time")
    if found.get("failures", 0) * 1000 > found["count"]:
        raise Failed(f"{found['failures']} of {found['count']} failed: {found['failure']}")
    return {
        "us": found["server_cpu_ns"] / found["count"] / 1000,
        "per_second": found["count"] / found["seconds"],
        "busy": found["server_cpu_ns"] / found["seconds"] / 1e9,
        "load_busy": found["client_cpu_ns"] / found["seconds"] / 1e9,
        "idle": idle_time / all_time if all_time else 0.0,
        "failures": found.get("failures", 0),
        "shares": shares,
    }


def cpu_times() -> tuple[int, int]:
    """Return how long the machine's cores have been idle, and all of their time, in ticks."""
    times = [int(each) for each in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    return times[3] + times[4], sum(times)


def measure(counts: list[int], rounds: int, seconds: float, progress: Progress) -> None:
    """Measure all numbers of workers in rounds, on one core and on all."""
    allowed = os.sched_getaffinity(0)
    apart = machine.choose_cores()
    together = machine.Cores(None, None, "the scheduler's choice")
    for turn in range(rounds):
        order = counts[turn % len(counts) :] + counts[: turn % len(counts)]
        for section, cores in ((ONE_CORE, apart), (ALL_CORES, together)):
            os.sched_setaffinity(0, allowed if cores.load is None else {cores.load})
            for count in order:
                for row in _of(count, cores, seconds):
                    progress.add({"section": section, "server": name(count), "round": turn, **row})


def _of(count: int, cores: machine.Cores, seconds: float) -> Iterator[Row]:
    """Measure one number of workers."""
    cases = [*CASES, CHURN]
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(WithWorkers(with_workers(count), count, cores))
        except (Failed, Unavailable) as error:
            yield from ({"case": case.name, "error": str(error)} for case in cases)
            return
        for case in cases:
            try:
                yield {"case": case.name, **measured(running, case, seconds)}
            except Failed as error:
                yield {"case": case.name, "error": str(error)}


# ---- the page ----


def per_second(row: Row) -> float | None:
    """Return the events of one second."""
    return row.get("per_second")


def idle(row: Row) -> float | None:
    """Return the part of the machine's cores that had nothing to do."""
    return row.get("idle")


def largest(row: Row) -> float | None:
    """Return the part of all connections that the worker has which has the most."""
    shares = row.get("shares")
    return max(shares) / sum(shares) if shares and sum(shares) else None


def load_busy(row: Row) -> float | None:
    """Return how many cores the load generator took."""
    return row.get("load_busy")


def busy(row: Row) -> float | None:
    """Return how many cores the server took."""
    return row.get("busy")


class Page:
    """The lines of the page.

    Args:
        result: Of a measurement.
    """

    def __init__(self, result: dict[str, Any]) -> None:
        self.result, self.rows = result, Rows(result["rows"])
        self.counts: list[int] = result["workers"]
        self.cores: int = result["machine"]["cores"]

    def text(self) -> str:
        """Return the page."""
        parts = (self.criteria, self.cost, self.throughput, self.failures, self.method)
        head = ["# What worker processes cost", "", "Written by `python -m bench.workers`; do not edit.", ""]
        return "\n".join([*head, *(line for part in parts for line in part())])

    def criteria(self) -> list[str]:
        """What we hold ourselves to."""
        lines = []
        for case, limit in [*((each.name, MESSAGE_LIMIT) for each in CASES), (CHURN.name, CONNECT_LIMIT)]:
            for below in (1, 0):
                spread = self.rows.ratio(ONE_CORE, case, name(2), name(below))
                # What two workers add to one is held to a bound; the supervisor and the second process to none, but shown.
                lines.append([f"CPU, {case}: 2 workers ÷ {title(below)}", *self._verdict(spread, limit if below else None)])
        for each in CASES:
            spread = self.rows.spread(ALL_CORES, each.name, name(2), idle)
            text = f"throughput, {each.name}: the part of the machine's cores that is idle with 2 workers"
            lines.append([text, *self._verdict(spread, IDLE_LIMIT)])
        about = "Medians of the rounds' ratios, and the range."
        return ["## What we hold ourselves to", "", about, "", *table(["criterion", "bound", "measured", ""], lines)]

    @staticmethod
    def _verdict(spread: Spread | None, limit: float | None) -> list[str]:
        bound = "" if limit is None else f"≤ {limit:g}"
        if spread is None:
            return [bound, "not measured", "?"]
        met = limit is None or spread.median <= limit
        figure = f"{spread.median:.2f} ({spread.least:.2f} to {spread.largest:.2f})"
        return [bound, figure, "" if limit is None else "met" if met else "**not met**"]

    def cost(self) -> list[str]:
        """The CPU of events."""
        return [
            "## CPU",
            "",
            "Microseconds of CPU of all processes, supervisor included, for each message of 64 bytes that is sent back over one of 64",
            f"connections, and for each connection that is opened, shaken and closed, {sections.CHURN_PARALLEL} at a time. All processes",
            "of the server share one core, so that a figure is the work, and not what two cores do to each other's caches.",
            "",
            *self._matrix(ONE_CORE, [*CASES, CHURN]),
        ]

    def throughput(self) -> list[str]:
        """What the machine's cores give."""
        cases = [*CASES, CHURN]
        rises = [
            [
                f"{title(high)} ÷ {title(low)}",
                *(self._ratio(ALL_CORES, each, high, low, per_second) for each in cases),
            ]
            for high, low in self._pairs()
        ]
        return [
            "## Throughput",
            "",
            f"Events per second on the machine's {self.cores} cores, of which the load generator takes a part: a second worker has what",
            "is left. Nothing is pinned to a core.",
            "",
            *self._matrix(ALL_CORES, cases, per_second, ratios=False),
            *table(["ratio", *(each.name for each in cases)], rises),
            f"Cores at work, of {self.cores}: the server's processes / the load generator / whatever else runs on the machine, and what",
            "its host takes. A second worker can have no more than the others leave.",
            "",
            *table(
                ["", *(each.name for each in cases)],
                [
                    [
                        title(count),
                        *(" / ".join(self._median(count, each, figure) for figure in (busy, load_busy, self._others)) for each in cases),
                    ]
                    for count in self.counts
                ],
            ),
            "The part of the connections that the worker has which has the most: a server is as fast as that worker.",
            "",
            *self._matrix(ALL_CORES, CASES, largest, ratios=False),
            "CPU of the same, in microseconds for each event: on all cores, where processes run beside each other.",
            "",
            *self._matrix(ALL_CORES, cases),
        ]

    def _others(self, row: Row) -> float | None:
        return max(0.0, self.cores * (1 - row["idle"]) - row["busy"] - row["load_busy"]) if "idle" in row else None

    def _pairs(self) -> list[tuple[int, int]]:
        return [(high, low) for high in self.counts for low in self.counts if high > low]

    def _matrix(self, section: str, cases: list[Case], figure: Figure = cpu, *, ratios: bool = True) -> list[str]:
        lines = [
            [title(count), *(cell(self.rows.spread(section, each.name, name(count), figure)) for each in cases)] for count in self.counts
        ]
        if ratios:
            lines += [
                [f"{title(high)} ÷ {title(low)}", *(self._ratio(section, each, high, low, figure) for each in cases)]
                for high, low in self._pairs()
            ]
        return table(["", *(each.name for each in cases)], lines)

    def _ratio(self, section: str, case: Case, high: int, low: int, figure: Figure) -> str:
        return cell(self.rows.ratio(section, case.name, name(high), name(low), figure))

    def _median(self, count: int, case: Case, figure: Figure) -> str:
        spread = self.rows.spread(ALL_CORES, case.name, name(count), figure)
        return "-" if spread is None else number(spread.median)

    def failures(self) -> list[str]:
        """What could not be measured."""
        found = {f"- {row['section']}, {row['case']}, {row['server']}: {row['error']}" for row in self.rows.rows if "error" in row}
        return ["## What gave no figure", "", *sorted(found), ""] if found else []

    def method(self) -> list[str]:
        """How it was measured."""
        place, versions = self.result["machine"], self.result["versions"]
        lower = {key.lower(): value for key, value in versions.items()}
        return [
            "## How it is measured",
            "",
            "`make bench-workers` starts the server anew in each round for each number of workers, with all defaults and a handler class,",
            "waits until all workers are there and idle, and drives the load generator ([bench/load.c](../bench/load.c)) at it. That reads",
            "the CPU clocks of the supervisor and all workers at the instants at which it starts and stops counting.",
            "",
            f"Measured on {self.result['date'][:10]}, in {self.result['minutes']:.0f} minutes, {self.result['rounds']} rounds:",
            f"{place['cpu']}, {place['cores']} cores, {place['kernel']}.",
            "",
            "- twistedws: " + ", ".join(f"{each} {lower[each]}" for each in SHOWN_OF_OURS if each in lower),
            "",
            "```console",
            "$ " + " ".join(self.result["command"]),
            "```",
            "",
        ]


def main() -> int:
    """Measure, write the result and the page; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workers", type=numbers, default=[0, 1, 2], metavar="NUMBERS", help="of worker processes (0,1,2)")
    add("--rounds", type=int, default=7, help="(%(default)s)")
    add("--seconds", type=float, default=1.5, help="measured for each figure (%(default)s)")
    add("--output", type=Path, default=RESULT, help="the result (%(default)s)")
    add("--page", type=Path, default=PAGE, help="(%(default)s)")
    add("--report", type=Path, metavar="FILE", help="write the page of a result, and measure nothing")
    options = parser.parse_args()
    if options.report:
        options.page.write_text(Page(json.loads(options.report.read_text(encoding="utf-8"))).text(), encoding="utf-8")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    try:
        load_generator()
    except Unavailable as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    machine.raise_descriptor_limit()
    python, progress, begun = default_python().absolute(), Progress(), datetime.datetime.now(datetime.timezone.utc)
    header = {
        "date": begun.isoformat(timespec="seconds"),
        "command": ["python", "-m", "bench.workers", *sys.argv[1:]],
        "machine": machine.description(),
        "versions": {**machine.versions(python, ROOT), "commit": commit(ROOT)},
        "workers": options.workers,
        "rounds": options.rounds,
    }
    measure(options.workers, options.rounds, options.seconds, progress)
    minutes = (datetime.datetime.now(datetime.timezone.utc) - begun).total_seconds() / 60
    result = {**header, "minutes": minutes, "rows": progress.rows}
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    options.page.write_text(Page(result).text(), encoding="utf-8")
    print(options.page.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
