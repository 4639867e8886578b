"""Measures twistedws and its peers in one run, alternating.

    python bench/run.py                                             everything, some 25 minutes
    python bench/run.py --quick                                     everything, once and shortly, some 4 minutes
    python bench/run.py --only echo --servers ours-handler,picows --sizes 64 --in-flight 1,16
    python bench/run.py --only echo --servers 'ours-handler*' --ours before=../old:.venv

The figure is the CPU time of the server's process tree, user and system, for each message: it is stable where throughput is not. In
each round every server is measured once, one after the other; a ratio is of the two figures of one round, and the median of the rounds'
ratios is reported. The result is a JSON file; ``bench/report.py`` makes the documentation of it.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine, sections  # noqa: E402 - found through the line above
from bench.catalogue import Checkout, Server, catalogue  # noqa: E402
from bench.environment import PLACE, Unavailable, load_generator, node_modules, peers_python  # noqa: E402
from bench.sections import Case, Progress, Section, echo_case  # noqa: E402
from bench.summary import Rows, idle_share, kilobytes  # noqa: E402

SECTIONS = ("echo", "churn", "fanout", "latency", "compression", "idle")
STANDARD_ECHO: tuple[Case, ...] = (
    echo_case(64, 1),
    echo_case(64, 16),
    echo_case(64, 16, burst=True),
    echo_case(16384, 1),
    echo_case(16384, 1, "binary"),
)
CHURN = Case("connect, handshake, close", ("--mode", "churn", "--parallel", str(sections.CHURN_PARALLEL)))
FANOUT = ("--mode", "fanout", "--connections", "1000", "--size", "100", "--warmup", "0.3")
KEEPALIVE = 20  # seconds between pings, where keepalive is measured


def main() -> int:
    """Measure, write the result, print a summary; return the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    options = arguments()
    checkouts = [Checkout("", ROOT, options.python), *options.ours]
    servers = catalogue(checkouts)
    chosen = choose(options.servers, servers)
    try:
        load_generator()
    except Unavailable as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    limit, cores, progress = machine.raise_descriptor_limit(), machine.choose_cores(), Progress()
    begun = datetime.datetime.now(datetime.timezone.utc)
    header = {
        "date": begun.isoformat(timespec="seconds"),
        "command": ["python", "bench/run.py", *sys.argv[1:]],
        "machine": {**machine.description(), "placement": cores.note, "descriptors": limit},
        "versions": versions(checkouts, chosen),
        "servers": {each.name: {"title": each.title, "note": each.note, "pings": each.pings} for each in chosen},
    }
    try:
        measure(options, chosen, cores, progress)
    finally:  # what was measured before an interruption is kept
        minutes = (datetime.datetime.now(datetime.timezone.utc) - begun).total_seconds() / 60
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({**header, "minutes": minutes, "rows": progress.rows}, indent=1) + "\n", encoding="utf-8")
    print("\n".join(overview(Rows(progress.rows), chosen)))
    print(f"written: {options.output}")
    return 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", type=names, default=list(SECTIONS), metavar="SECTIONS", help=f"of {','.join(SECTIONS)}")
    add("--servers", type=names, default=["*"], metavar="NAMES", help="or patterns; --list shows them")
    add("--rounds", type=int, help="of each section, instead of its own number (5, or 3)")
    add("--seconds", type=float, help="measured for each figure, instead of the section's own (1 to 2)")
    add("--quick", action="store_true", help="one round of half seconds: for a look, not for a comparison")
    add("--sizes", type=numbers, metavar="BYTES", help="of the messages of echo, in every combination with --in-flight and --kinds")
    add("--in-flight", type=numbers, metavar="NUMBERS", help="messages in flight in each connection")
    add("--kinds", type=names, metavar="KINDS", help="text, binary")
    add("--burst", action="store_true", help="with --in-flight: send them together, when all of the last have come back")
    add("--connections", type=int, default=64, help="of echo and latency (%(default)s)")
    add("--rate", type=int, default=10_000, help="messages per second of latency (%(default)s)")
    add("--stalled", type=int, default=10, help="subscribers of the second case of fan-out which never read (%(default)s)")
    add("--idle", type=numbers, metavar="NUMBERS", help="of idle connections, for --idle-servers only (5000 for all, 10000 for those)")
    add(
        "--idle-servers",
        type=names,
        default=["ours-*", "picows", "websockets"],
        metavar="NAMES",
        help="whose idle connections' CPU is measured",
    )
    add("--idle-seconds", type=float, help="for which it is measured (40; 0: not)")
    add("--python", type=Path, default=default_python(), help="has the dependencies of this checkout of twistedws (%(default)s)")
    add("--ours", type=checkout, action="append", default=[], metavar="LABEL=DIR[:VENV]", help="another checkout, as NAME@LABEL")
    add("--output", type=Path, help="the result (a new file below .tools/bench/results)")
    add("--list", action="store_true", help="list the servers and exit")
    options = parser.parse_args()
    options.python = options.python.absolute()
    if unknown := set(options.only) - set(SECTIONS):
        parser.error(f"--only: {', '.join(sorted(unknown))}: accepted are {', '.join(SECTIONS)}")
    if options.list:
        for server in catalogue([Checkout("", ROOT, options.python), *options.ours]).values():
            print(f"{server.name:<22} {server.title}: {server.note}")
        parser.exit()
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    options.output = options.output or PLACE / "results" / f"{stamp}.json"
    return options


def default_python() -> Path:
    """Return this Python if it has twistd, or else that of the checkout's own environment."""
    own = ROOT / ".venv" / "bin" / "python"
    this = Path(sys.executable)
    return own if own.exists() and not this.with_name("twistd").exists() else this


def names(text: str) -> list[str]:
    """Read a list of names."""
    return [each.strip() for each in text.split(",") if each.strip()]


def numbers(text: str) -> list[int]:
    """Read a list of numbers."""
    return [int(each.replace("_", "")) for each in names(text)]


def checkout(text: str) -> Checkout:
    """Read ``LABEL=DIR:VENV``; without a venv, that of the checkout, or this Python."""
    label, equals, place = text.partition("=")
    directory, _, venv = place.partition(":")
    if not label or not equals or not (Path(directory) / "twistedws").is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: LABEL=DIR[:VENV] is needed, and DIR a checkout")
    own = Path(venv) / "bin" / "python" if venv else Path(directory) / ".venv" / "bin" / "python"
    return Checkout(label, Path(directory).absolute(), own.absolute() if own.exists() or venv else Path(sys.executable))


def choose(patterns: list[str], servers: dict[str, Server]) -> list[Server]:
    """Return the servers that any of the patterns names, in the order of the patterns."""
    chosen: dict[str, Server] = {}
    for pattern in patterns:
        found = fnmatch.filter(servers, pattern)
        if not found:
            raise SystemExit(f"bench: no server is named {pattern!r}: there are {', '.join(servers)}")
        chosen.update({name: servers[name] for name in found})
    return list(chosen.values())


def versions(checkouts: list[Checkout], chosen: list[Server]) -> dict[str, Any]:
    """Return the versions of all that takes part."""
    found: dict[str, Any] = {}
    for each in checkouts:
        if any(server.checkout == each for server in chosen):
            found[f"twistedws@{each.label}" if each.label else "twistedws"] = {
                **machine.versions(each.python, each.directory), "commit": commit(each.directory),
            }  # fmt: skip
    if any(server.checkout is None and server.name != "ws" for server in chosen):
        try:
            found["peers"] = machine.versions(peers_python(), PLACE)
        except Unavailable as error:
            print(f"bench: the peers cannot be measured: {error}", file=sys.stderr)
    if any(server.name == "ws" for server in chosen):
        try:
            package = json.loads((node_modules() / "ws" / "package.json").read_text())
            node = subprocess.run([shutil.which("node") or "node", "--version"], stdout=subprocess.PIPE, text=True, check=True)
            found["node"] = {"node": node.stdout.strip(), "ws": package["version"]}
        except Unavailable as error:
            print(f"bench: ws cannot be measured: {error}", file=sys.stderr)
    return found


def commit(directory: Path) -> str:
    """Return the commit that is checked out, and whether it was changed since."""
    git = ["git", "-C", str(directory)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "twistedws"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return (head.stdout.strip() or "unknown") + ("+" if changed.stdout.strip() else "")


def plan(options: argparse.Namespace) -> list[Section]:
    """Return the sections that go in rounds, as the command line wants them."""
    echo = STANDARD_ECHO
    if options.sizes or options.in_flight or options.kinds or options.burst or options.connections != 64:
        echo = tuple(
            echo_case(size, in_flight, kind, options.burst, options.connections)
            for kind in options.kinds or ["text"]
            for size in options.sizes or [64, 1024, 16384]
            for in_flight in options.in_flight or [1, 16]
        )  # fmt: skip
    offering = Case("100 B to 1,000 that offer compression, as browsers do", (*FANOUT, "--offer"))
    stalled = Case(f"100 B to 1,000, {options.stalled} more do not read", (*FANOUT, "--stalled", str(options.stalled)))
    latency = ("--mode", "latency", "--connections", str(options.connections), "--rate", str(options.rate), "--size", "64")
    compressed = ("--mode", "echo", "--size", "1024", "--deflate", "--warmup", "0.3")
    standard = [
        Section("echo", tuple(Case(each.name, (*each.arguments, "--warmup", "0.3")) for each in echo), 5, 1.0),
        Section("churn", (Case(CHURN.name, (*CHURN.arguments, "--warmup", "0.3")),), 5, 1.5),
        Section("fanout", (Case("100 B to 1,000", FANOUT), stalled, offering), 5, 1.5),
        Section("latency", (Case(f"64 B, {options.rate:,}/s", latency),), 3, 2.0),
        Section("compression", (Case("1024 B text, 1 in flight", compressed),), 3, 1.0),
    ]
    rounds, seconds = (1, 0.5) if options.quick else (None, None)
    return [
        Section(each.name, each.cases, options.rounds or rounds or each.rounds, options.seconds or seconds or each.seconds)
        for each in standard if each.name in options.only
    ]  # fmt: skip


def measure(options: argparse.Namespace, servers: list[Server], cores: machine.Cores, progress: Progress) -> None:
    """Measure all that was asked for."""
    for section in plan(options):
        sections.measure(section, servers, cores, progress)
    if "idle" not in options.only:
        return
    patterns = ["ours-handler"] if options.quick else options.idle_servers
    watched = [each for each in servers if any(fnmatch.fnmatch(each.name, pattern) for pattern in patterns)]
    seconds = options.idle_seconds if options.idle_seconds is not None else 10 if options.quick else 40
    if options.idle:
        sections.measure_idle(options.idle, watched, KEEPALIVE, seconds, cores, progress)
        return
    sections.measure_idle([1000 if options.quick else 5000], servers, KEEPALIVE, 0, cores, progress)
    sections.measure_idle([10_000], watched, KEEPALIVE, seconds, cores, progress)


def overview(rows: Rows, servers: list[Server]) -> list[str]:
    """Return the medians as a table for a terminal, with the ratio to the first server."""
    lines: list[str] = []
    for section in ("echo", "churn", "fanout", "latency", "compression"):
        for case in rows.cases(section):
            lines += ["", f"{section}: {case}", f"  {'':<22} {'median us':>10} {'min':>8} {'max':>8}   {'first / it':>10}"]
            first = next((each.name for each in servers if each.name in rows.servers(section, case)), "")
            for server in rows.servers(section, case):
                spread, ratio = rows.spread(section, case, server), rows.ratio(section, case, first, server)
                if spread is None:
                    lines.append(f"  {server:<22} {rows.reason(section, case, server)}")
                    continue
                last = f"{ratio.median:>10.2f}" if ratio else ""
                lines.append(f"  {server:<22} {spread.median:>10.2f} {spread.least:>8.2f} {spread.largest:>8.2f}   {last}")
    for case in rows.cases("idle"):
        lines += ["", f"idle: {case}", f"  {'':<22} {'KB each':>10} {'% of a core':>12}"]
        for server in rows.servers("idle", case):
            memory, share = rows.spread("idle", case, server, kilobytes), rows.spread("idle", case, server, idle_share)
            found = f"{memory.median:>10.2f} {share.median if share else math.nan:>12.2f}" if memory else rows.reason("idle", case, server)
            lines.append(f"  {server:<22} {found}")
    return [*lines, "", *filter(None, [rows.disturbed()])]


if __name__ == "__main__":
    sys.exit(main())
