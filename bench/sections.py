"""The sections of the measurement: what is asked of every server, and what becomes of the answer.

A row is a dictionary: section, case, server, round, and either the figures or ``error``, the reason why there are none.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench import machine
from bench.catalogue import Server
from bench.environment import Unavailable
from bench.process import Failed, Running

Row = dict[str, Any]
QUIET = 0.02  # the share of a core that a server may still use after the connections were opened, when its memory is read
CHURN_PARALLEL = 16


@dataclass(frozen=True, slots=True)
class Case:
    """One figure to be measured for each server: its name, and what the load generator is told."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """Cases that one start of a server can serve, measured in rounds; in each round every server once."""

    name: str
    cases: tuple[Case, ...]
    rounds: int
    seconds: float
    ping: int = 0


class Progress:
    """Says on standard error what is done, and keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._begin = time.monotonic()

    def add(self, row: Row) -> None:
        """Keep a row, and say it."""
        self.rows.append(row)
        if "error" in row:
            said = f"FAILED: {row['error']}"
        else:
            said = ", ".join(f"{key} {row[key]:.4g}" for key in ("us", "per_second", "busy", "kb", "share") if key in row)
            said += "".join(f", {key} {value:.0f} us" for key, value in row.get("latency", {}).items())
        place = f"{row['section']:<11} {row['case']:<34} {row['server']:<20} {row['round'] + 1}"
        print(f"[{time.monotonic() - self._begin:5.0f} s] {place}  {said}", file=sys.stderr, flush=True)


def connections(count: int) -> str:
    """Name a case by its number of connections."""
    return f"{count:,} connections"


def echo_case(size: int, in_flight: int, kind: str = "text", burst: bool = False, connection_count: int = 64) -> Case:
    """Name a case of echo."""
    name = f"{size} B {kind}, " + (f"bursts of {in_flight}" if burst else f"{in_flight} in flight")
    arguments = ["--mode", "echo", "--connections", str(connection_count), "--size", str(size), "--in-flight", str(in_flight)]
    arguments += ["--binary"] if kind == "binary" else []
    return Case(name, (*arguments, *(["--burst"] if burst else [])))


def measure(section: Section, servers: list[Server], cores: machine.Cores, progress: Progress) -> None:
    """Measure a section: round by round, all servers at work one after the other, case by case.

    The order is turned in each round, so that no server always follows the same one.
    """
    taking_part = [each for each in servers if section.name in each.sections]
    for number in range(section.rounds):
        turn = number % max(len(taking_part), 1)
        with contextlib.ExitStack() as stack:
            running = list(_started(section, taking_part[turn:] + taking_part[:turn], number, cores, progress, stack))
            for case in section.cases:
                for each in running:
                    progress.add(_measured(section, case, each, number))


def _started(
    section: Section, servers: list[Server], number: int, cores: machine.Cores, progress: Progress, stack: contextlib.ExitStack
) -> Iterator[Running]:
    """Start all; whoever does not start has failed in all cases."""
    for server in servers:
        try:
            yield stack.enter_context(Running(server, section.name, section.ping, cores))
        except (Failed, Unavailable) as error:
            for case in section.cases:
                progress.add({"section": section.name, "case": case.name, "server": server.name, "round": number, "error": str(error)})


def _measured(section: Section, case: Case, running: Running, number: int) -> Row:
    row: Row = {"section": section.name, "case": case.name, "server": running.server.name, "round": number}
    try:
        found = running.load(*case.arguments, "--seconds", str(section.seconds))
        if not found["count"]:
            raise Failed("nothing was done in the measured time")
        if found.get("failures", 0) * 1000 > found["count"]:
            raise Failed(f"{found['failures']} of {found['count']} failed: {found['failure']}")
    except Failed as error:
        return {**row, "error": str(error)}
    row |= {
        "us": found["server_cpu_ns"] / found["count"] / 1000,
        "per_second": found["count"] / found["seconds"],
        "busy": found["server_cpu_ns"] / found["seconds"] / 1e9,
        "load_busy": found["client_cpu_ns"] / found["seconds"] / 1e9,
        "compressed": found["compressed"],
    }
    row |= {key: found[key] for key in ("failures", "unfinished") if found.get(key)}
    if "microseconds" in found:
        row["latency"] = found["microseconds"]
    return row


def measure_idle(counts: list[int], servers: list[Server], ping: int, seconds: float, cores: machine.Cores, progress: Progress) -> None:
    """Measure what idle connections cost: memory when they have been opened, then CPU while the server pings them.

    Args:
        counts: Numbers of connections, one measurement each. CPU is measured at the last.
        servers: Which take part.
        ping: Seconds between pings.
        seconds: How long CPU is measured; 0 for not at all.
        cores: Where they run.
        progress: Where the rows go.
    """
    for server in servers:
        for count in counts if "idle" in server.sections else ():
            row: Row = {"section": "idle", "case": connections(count), "server": server.name, "round": 0}
            try:
                with Running(server, "idle", ping if server.pings else 0, cores) as running:
                    progress.add({**row, **_idle(running, count, seconds if count == counts[-1] else 0)})
            except (Failed, Unavailable) as error:
                progress.add({**row, "error": str(error)})


def _idle(running: Running, count: int, seconds: float) -> Row:
    try:
        before = machine.pss_bytes(running.pids)
        with running.hold(count):
            _wait_until_quiet(running.pids)
            row: Row = {"kb": (machine.pss_bytes(running.pids) - before) / count / 1024}
            if seconds:
                row["share"] = _cpu_share(running.pids, seconds)
    except OSError:
        raise Failed(f"the server ended: {running.last_line()}") from None
    return row


def _cpu_share(pids: list[int], seconds: float) -> float:
    cpu, begin = machine.cpu_seconds(pids), time.monotonic()
    time.sleep(seconds)
    return (machine.cpu_seconds(pids) - cpu) / (time.monotonic() - begin)


def _wait_until_quiet(pids: list[int]) -> None:
    """Wait until what the handshakes left to do is done; a server that pings is never quite still, so at most 10 s."""
    deadline = time.monotonic() + 10
    while _cpu_share(pids, 0.25) > QUIET and time.monotonic() < deadline:
        pass
