"""What the server is held to, and whether a result meets it: ``python bench/criteria.py RESULT.json``. Exit status 1 if not all is met."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.summary import Figure, Rows, Spread, idle_share, kilobytes, latency  # noqa: E402 - found through the line above

HANDLER, COROUTINE, ASGI, WSGI = "ours-handler", "ours-coroutine", "ours-asgi", "ours-wsgi"
ONE, SIXTEEN, LARGE_TEXT, LARGE = (
    "64 B text, 1 in flight",
    "64 B text, 16 in flight",
    "16384 B text, 1 in flight",
    "16384 B binary, 1 in flight",
)
OFFERING = "100 B to 1,000 that offer compression, as browsers do"
CHURN, IDLE, FANOUT = "connect, handshake, close", "10,000 connections", "100 B to 1,000"


@dataclass(frozen=True, slots=True)
class Criterion:
    """A bound on something measured.

    Attributes:
        text: What is measured.
        limit: What it may be at most.
        measured: Returns it, None where it was not measured.
        unit: Of both.
    """

    text: str
    limit: float
    measured: Callable[[Rows], Spread | None]
    unit: str = ""

    def met(self, rows: Rows) -> bool | None:
        """Return whether it is met; None if it was not measured."""
        spread = self.measured(rows)
        return None if spread is None else spread.median <= self.limit


def ratio(limit: float, section: str, case: str, server: str, peer: str, text: str) -> Criterion:
    """Ours ÷ a peer."""
    return Criterion(f"{text} ÷ {peer}", limit, lambda rows: rows.ratio(section, case, server, peer))


def absolute(limit: float, section: str, case: str, server: str, figure: Figure, unit: str, text: str) -> Criterion:
    """A figure of ours."""
    return Criterion(text, limit, lambda rows: rows.spread(section, case, server, figure), unit)


def memory_ratio(limit: float, server: str, peer: str, text: str) -> Criterion:
    """Ours ÷ a peer's memory for an idle connection, of 5,000: more are too many for some peers."""
    case = "5,000 connections"
    return Criterion(f"{text} ÷ {peer}", limit, lambda rows: rows.ratio("idle", case, server, peer, kilobytes))


def stalled_ratio(rows: Rows) -> Spread | None:
    """Return how much longer the last subscriber that reads waits when others do not read.

    It is of the median waits: the tails are the machine's. A subscriber that is left without its message fails the whole measurement.
    """
    stalled = next((each for each in rows.cases("fanout") if each.endswith("do not read")), "")
    return rows.ratio("fanout", stalled, HANDLER, HANDLER, latency("p50"), FANOUT)


CRITERIA = [
    ratio(1.2, "echo", ONE, HANDLER, "picows", "handler, 64 B, 1 in flight"),
    ratio(0.65, "echo", SIXTEEN, HANDLER, "picows", "handler, 64 B, 16 in flight"),
    ratio(0.7, "echo", LARGE, HANDLER, "picows", "handler, 16 KiB binary"),
    ratio(0.7, "echo", LARGE_TEXT, HANDLER, "picows", "handler, 16 KiB text"),
    ratio(1.0, "echo", ONE, HANDLER, "ws", "handler, 64 B, 1 in flight"),
    ratio(1.0, "echo", SIXTEEN, HANDLER, "ws", "handler, 64 B, 16 in flight"),
    ratio(1.0, "echo", LARGE, HANDLER, "ws", "handler, 16 KiB binary"),
    ratio(1.0, "echo", LARGE_TEXT, HANDLER, "ws", "handler, 16 KiB text"),
    ratio(1.0, "echo", ONE, COROUTINE, "aiohttp", "coroutine, 64 B, 1 in flight"),
    ratio(0.55, "echo", ONE, COROUTINE, "websockets", "coroutine, 64 B, 1 in flight"),
    ratio(0.7, "echo", SIXTEEN, COROUTINE, "picows", "coroutine, 64 B, 16 in flight"),
    ratio(0.4, "echo", ONE, ASGI, "uvicorn-websockets", "ASGI, 64 B, 1 in flight"),
    ratio(0.45, "echo", ONE, ASGI, "uvicorn-wsproto", "ASGI, 64 B, 1 in flight"),
    ratio(0.5, "echo", ONE, ASGI, "granian", "ASGI, 64 B, 1 in flight"),
    ratio(0.2, "echo", ONE, ASGI, "daphne", "ASGI, 64 B, 1 in flight"),
    ratio(0.2, "echo", SIXTEEN, ASGI, "uvicorn-websockets", "ASGI, 64 B, 16 in flight"),
    ratio(0.5, "echo", LARGE_TEXT, ASGI, "uvicorn-websockets", "ASGI, 16 KiB text"),
    ratio(0.5, "echo", LARGE, ASGI, "uvicorn-websockets", "ASGI, 16 KiB binary"),
    ratio(0.5, "echo", LARGE, ASGI, "uvicorn", "ASGI, 16 KiB binary, its newest implementation"),
    ratio(0.6, "echo", ONE, WSGI, "gevent-websocket", "WSGI, 64 B, 1 in flight"),
    ratio(0.6, "echo", SIXTEEN, WSGI, "gevent-websocket", "WSGI, 64 B, 16 in flight"),
    ratio(0.15, "echo", LARGE_TEXT, WSGI, "gevent-websocket", "WSGI, 16 KiB text"),
    ratio(0.15, "echo", LARGE, WSGI, "gevent-websocket", "WSGI, 16 KiB binary"),
    memory_ratio(0.5, ASGI, "uvicorn", "ASGI, an idle connection of 5,000"),
    ratio(1.2, "churn", CHURN, HANDLER, "picows", "handler, connect and close"),
    ratio(0.45, "churn", CHURN, HANDLER, "autobahn", "handler, connect and close"),
    absolute(8, "idle", IDLE, HANDLER, kilobytes, " KB", "handler, an idle connection of 10,000"),
    absolute(10, "idle", IDLE, COROUTINE, kilobytes, " KB", "coroutine, an idle connection of 10,000"),
    absolute(3, "idle", IDLE, HANDLER, idle_share, " % of a core", "handler, 10,000 idle connections, each pinged every 20 s"),
    ratio(0.5, "fanout", FANOUT, HANDLER, "websockets", "fan-out of 100 B to 1,000"),
    ratio(0.5, "fanout", OFFERING, HANDLER, "websockets", "fan-out of 100 B to 1,000 clients that offer compression"),
    Criterion("fan-out, the last subscriber's wait, with ÷ without others that do not read", 1.2, stalled_ratio),
]


def describe(criterion: Criterion, rows: Rows) -> tuple[str, str, str, str]:
    """Return what is asked, the bound, what was measured, and the verdict."""
    spread, met = criterion.measured(rows), criterion.met(rows)
    measured = "not measured" if spread is None else f"{spread.median:.2f}{criterion.unit}"
    if spread is not None and spread.least != spread.largest:
        measured += f" ({spread.least:.2f} to {spread.largest:.2f})"
    return criterion.text, f"≤ {criterion.limit:g}{criterion.unit}", measured, {True: "met", False: "**not met**", None: "?"}[met]


def main() -> int:
    """Print all criteria; return 0 if all are met."""
    rows = Rows(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["rows"])
    for criterion in CRITERIA:
        text, limit, measured, verdict = describe(criterion, rows)
        print(f"{text:<84} {limit:<18} {measured:<32} {verdict.strip('*')}")
    return 0 if all(each.met(rows) for each in CRITERIA) else 1


if __name__ == "__main__":
    sys.exit(main())
