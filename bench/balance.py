"""Measures ways to spread connections over worker processes, for docs/adr/0013.

    python -m bench.balance                  everything, some 10 minutes
    python -m bench.balance --quick          one round of each
    python -m bench.balance --only turns     of one candidate, with the single processes that it is compared to

Candidates a, b and c are forked here, in as few lines as they need, around the server's own factory; d is the server itself, with
``--workers``. A round measures every candidate, one after the other. The result is ``bench/results/balance.json``, and a table in
Markdown on standard output; ``--table FILE`` prints it of a result, without measuring.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import math
import os
import random
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from bench import machine
from bench.environment import LOGS, ROOT, Unavailable, load_generator
from bench.process import Failed, free_port
from bench.run import commit

Row = dict[str, Any]

RESULT = ROOT / "bench" / "results" / "balance.json"
WORKERS = 4
CONNECTIONS, SLOW_CONNECTIONS, SLOW_RATE = 4000, 400, 200
PARALLEL = 256  # handshakes at a time, where connections are opened as fast as possible
RESPAWN_DELAY = 0.7  # seconds; of candidates a, b and c
ARRIVALS, ARRIVAL_SECONDS, STOPPED_AT, KILLED_AT = 400, 2.0, 0.5, 1.0  # connections per second, beside a worker that stops, then dies
RETURN_SECONDS = 5.0  # over which the clients of a worker that died come back
PATIENCE = 20.0
CHURN = ("--mode", "churn", "--parallel", "16", "--seconds", "1.5", "--warmup", "0.3")


# ---- the servers of candidates a, b and c ----

REUSEPORT, SHARED, PASSED, TURNS = "reuseport", "shared", "passed", "turns"
REPORT_EVERY = 0.25  # seconds between a worker's reports of its connections (c)
MOST_AT_ONCE = 16
REPORT = struct.Struct("qq")


def listening_socket(port: int, *, reuse: bool = False) -> socket.socket:
    """Listen on a port of 127.0.0.1."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(4096)
    listening.setblocking(False)
    return listening


@dataclass(slots=True)
class Child:
    """A worker as the supervisor sees it.

    Attributes:
        pid: The process.
        door: The supervisor's end of their socket pair.
        connections: How many it said it had.
        taken: How many it said it had been passed; of ``passed``, which were.
    """

    pid: int
    door: socket.socket
    connections: int = 0
    taken: int = 0
    passed: int = 0

    @property
    def load(self) -> int:
        """How many it has, with those that are on their way to it."""
        return self.connections + self.passed - self.taken


class Supervisor:
    """Forks workers, and others for those that end; as candidate c it accepts for them.

    Args:
        kind: Of the candidates.
        workers: How many.
        port: To listen on.
    """

    def __init__(self, kind: str, workers: int, port: int) -> None:
        self.kind, self.port = kind, port
        self.listening = None if kind == REUSEPORT else listening_socket(port)
        self.children: dict[int, Child] = {}  # by the descriptor of the door
        self.due: list[float] = [0.0] * workers  # when a worker is to be forked
        self.poll = select.epoll()
        if self.kind == PASSED and self.listening is not None:
            self.poll.register(self.listening, select.EPOLLIN)

    def run(self) -> NoReturn:
        """Supervise until killed."""
        import twistedws.tap  # noqa: F401 - what is imported before the fork need not be imported after it

        while True:
            now = time.monotonic()
            for _ in [each for each in self.due if each <= now]:
                self._fork()
            self.due = [each for each in self.due if each > now]
            for descriptor, _ in self.poll.poll(max(0.0, min(self.due) - now) if self.due else None):
                if descriptor in self.children:
                    self._hear(descriptor)
                else:
                    self._accept()

    def _fork(self) -> None:
        door, other = socket.socketpair()
        pid = os.fork()
        if not pid:
            self.poll.close()
            for each in (door, *(child.door for child in self.children.values())):
                each.close()
            listening = listening_socket(self.port, reuse=True) if self.listening is None else self.listening
            work(self.kind, listening, other)
        other.close()
        door.setblocking(False)
        self.children[door.fileno()] = Child(pid, door)
        self.poll.register(door, select.EPOLLIN)

    def _hear(self, descriptor: int) -> None:
        child = self.children[descriptor]
        try:
            said = child.door.recv(64 * REPORT.size)
        except ConnectionResetError:  # what it was passed and has not read went with it
            said = b""
        if said:
            child.connections, child.taken = REPORT.unpack(said[-REPORT.size :])
            return
        self.poll.unregister(descriptor)
        child.door.close()
        del self.children[descriptor]
        os.waitpid(child.pid, 0)
        self.due.append(time.monotonic() + RESPAWN_DELAY)

    def _accept(self) -> None:
        """Accept what waits, and pass each to the least loaded worker, with one message for each worker."""
        assert self.listening is not None  # noqa: S101
        batches: dict[int, list[int]] = {}
        for _ in range(MOST_AT_ONCE):
            try:
                accepted, _ = self.listening._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - without a socket object around it
            except BlockingIOError:
                break
            least = min(self.children, key=lambda each: self.children[each].load)
            self.children[least].passed += 1
            batches.setdefault(least, []).append(accepted)
        for descriptor, batch in batches.items():
            rights = struct.pack(f"{len(batch)}i", *batch)
            with contextlib.suppress(OSError):  # it has just died, or is full: they are lost
                self.children[descriptor].door.sendmsg([b"x" * len(batch)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            for each in batch:
                os.close(each)


class Passed:
    """Where connections come from that the supervisor has accepted: the door.

    Args:
        reactor: Ours.
        factory: The server's.
        door: The worker's end.
    """

    def __init__(self, reactor: Any, factory: Any, door: socket.socket) -> None:
        self.reactor, self.factory, self.door = reactor, factory, door
        self.taken = 0
        door.setblocking(False)
        reactor.loop.add_reader(door.fileno(), self.read)
        self.report()

    def read(self) -> None:
        """Take what has been passed."""
        from twistedws.reactor import LoopTransport

        try:
            data, ancillary, _, _ = self.door.recvmsg(256, socket.CMSG_LEN(253 * 4))
        except BlockingIOError:
            return
        if not data:
            os._exit(0)  # the supervisor has ended
        for _, _, rights in ancillary:
            for descriptor in struct.unpack(f"{len(rights) // 4}i", rights):
                self.taken += 1
                self.reactor.adopt(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor), LoopTransport(self))

    def report(self) -> None:
        """Say how many there are, again and again."""
        with contextlib.suppress(OSError):
            self.door.send(REPORT.pack(len(self.reactor.connections), self.taken))
        self.reactor.callLater(REPORT_EVERY, self.report)

    def arrived(self, transport: Any) -> None:
        """Be what a transport comes from."""
        transport.introduce(self.factory)

    def vanished(self, transport: Any) -> None:
        """Be what a transport comes from."""


def work(kind: str, listening: socket.socket, door: socket.socket) -> NoReturn:
    """Be a worker: the whole server in this process, which is started as twistd would, and given its connections from elsewhere."""
    from twistedws import tap

    options: Any = tap.Options()
    options.parseOptions(["--port=0", "--log-level=warn", "echo"])
    from twisted.internet import reactor

    service: Any = tap.makeService(options)
    service.startService()
    factory = service.listening.factory
    place: Any = reactor
    if kind == PASSED:
        listening.close()
        Passed(place, factory, door)
    else:
        place.adoptStreamPort(listening.fileno(), socket.AF_INET, factory)
        place.loop.add_reader(door.fileno(), os._exit, 0)  # the supervisor has ended
    place.run()
    os._exit(0)


# ---- the candidates ----


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to spread connections.

    Attributes:
        name: For the command line and the result.
        title: For the table.
        single: The name of the single process that its CPU is compared to.
    """

    name: str
    title: str
    single: str = "single"

    def command(self, workers: int, port: int) -> list[str]:
        """Return the command line of its server."""
        if self.name in (TURNS, "single-twistd"):
            count = workers if self.name == TURNS else 0
            twistd = [sys.executable, str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "twistedws"]
            return [*twistd, f"--port={port}", f"--workers={count}", "--log-level=warn", "echo"]
        kind = SHARED if self.name == "single" else self.name
        return [sys.executable, "-m", "bench.balance", "--serve", kind, str(workers), str(port)]


CANDIDATES = [
    Candidate(REUSEPORT, "a) a socket each, SO_REUSEPORT"),
    Candidate(SHARED, "b) one socket, all accept"),
    Candidate(PASSED, "c) the supervisor accepts and passes"),
    Candidate(TURNS, "d) one socket, turns", "single-twistd"),
]
SINGLES = [Candidate("single", "a single process"), Candidate("single-twistd", "a single process", "single-twistd")]


@dataclass(slots=True)
class Running:
    """A candidate's server at work."""

    process: subprocess.Popen[bytes]
    port: int
    count: int

    @property
    def pids(self) -> list[int]:
        """All its processes."""
        return machine.tree(self.process.pid)

    @property
    def workers(self) -> list[int]:
        """Its workers; a single process is its own."""
        return self.pids[1:] if self.count else self.pids

    def wait(self) -> None:
        """Wait until all workers are there and have nothing more to do.

        Raises:
            Failed: They are not there in time.
        """
        deadline = time.monotonic() + PATIENCE
        while len(self.workers) != max(1, self.count) or not accepts(self.port) or share(self.pids) > 0.05:
            if self.process.poll() is not None:
                raise Failed(f"ended with status {self.process.returncode}")
            if time.monotonic() > deadline:
                raise Failed(f"{len(self.workers)} workers of {self.count} after {PATIENCE:.0f} s")
            time.sleep(0.05)

    def shares(self) -> list[int]:
        """Return how many established connections each worker has."""
        inodes = established(self.port)
        return sorted(len(inodes & sockets_of(pid)) for pid in self.workers)


@contextlib.contextmanager
def started(candidate: Candidate, workers: int) -> Iterator[Running]:
    """Start a candidate's server."""
    LOGS.mkdir(parents=True, exist_ok=True)
    port = free_port()
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TWISTEDWS_"))}
    with (LOGS / f"balance-{candidate.name}.log").open("wb") as log:
        process = subprocess.Popen(
            candidate.command(workers, port), cwd=ROOT, env={**variables, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    running = Running(process, port, 0 if candidate in SINGLES and candidate.name != "single" else workers)
    try:
        running.wait()
        yield running
    finally:
        for pid in running.pids:  # the supervisor first
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def accepts(port: int) -> bool:
    """Tell whether somebody listens."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def share(pids: list[int]) -> float:
    """Return the share of a core that processes take over a quarter of a second; a process that ends meanwhile makes it a whole one."""
    try:
        begin = machine.cpu_seconds(pids)
        time.sleep(0.25)
        return (machine.cpu_seconds(pids) - begin) / 0.25
    except OSError:
        return 1.0


def established(port: int) -> set[str]:
    """Return the inodes of the established sockets whose own port it is."""
    lines = [each.split() for each in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return {each[9] for each in lines if each[3] == "01" and int(each[1].partition(":")[2], 16) == port}


def sockets_of(pid: int) -> set[str]:
    """Return the inodes of a process's sockets."""
    found = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(each.readlink()).removeprefix("socket:[").removesuffix("]"))
    return found


# ---- the clients ----


@dataclass(eq=False)
class Client(asyncio.Protocol):
    """A connection that shakes hands and stays.

    Attributes:
        crowd: To which it belongs.
        begun: When it was begun.
        done: Set when it is open, or has failed.
    """

    crowd: Crowd
    begun: float = field(default_factory=time.monotonic)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    open: bool = False
    transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        self.transport = transport
        transport.write(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        """Be open: an idle connection is sent nothing else but a ping, later."""
        if not self.open:
            self.open = data.startswith(b"HTTP/1.1 101")
            self.crowd.longest = max(self.crowd.longest, time.monotonic() - self.begun)
            self.done.set()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Come back, if it was open; else it was lost on its way."""
        if self.open:
            self.open = False
            self.crowd.returns()
        elif not self.done.is_set():
            self.crowd.reset += 1
            self.done.set()


class Crowd:
    """All clients of one server.

    Args:
        port: The server's.
        seed: Of the delays after which clients come back.

    Attributes:
        refused: How many were refused, or not answered in time.
        reset: How many were reset between their connect and the response.
        longest: The longest time in seconds that one waited for its response.
        lost: How many that had been open ended.
        delay: In seconds, the longest after which a client comes back; None: none comes back.
    """

    def __init__(self, port: int, seed: int = 0) -> None:
        self.port = port
        self.clients: list[Client] = []
        self.refused = self.reset = self.lost = 0
        self.longest = 0.0
        self.delay: float | None = None
        self._random = random.Random(seed)  # noqa: S311
        self._returning: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        """Open a connection, and wait until it is open or has failed."""
        client = Client(self)
        self.clients.append(client)
        try:
            await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", self.port)
            await asyncio.wait_for(client.done.wait(), PATIENCE)
        except (OSError, asyncio.TimeoutError):
            if not client.done.is_set():
                client.done.set()
                self.refused += 1

    async def storm(self, count: int) -> None:
        """Open many as fast as possible."""
        left = iter(range(count))

        async def one_after_another() -> None:
            for _ in left:
                await self.connect()

        await asyncio.gather(*(one_after_another() for _ in range(PARALLEL)))

    async def drizzle(self, count: int, rate: float) -> None:
        """Open some at a rate."""
        begin, tasks = time.monotonic(), []
        for number in range(count):
            await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
            tasks.append(asyncio.ensure_future(self.connect()))
        await asyncio.gather(*tasks)

    def returns(self) -> None:
        """A client was lost: have it come back."""
        self.lost += 1
        if self.delay is not None:
            task = asyncio.ensure_future(self._come_back(self._random.uniform(0, self.delay)))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)

    async def _come_back(self, delay: float) -> None:
        if delay:
            await asyncio.sleep(delay)
        await self.connect()

    async def all_back(self) -> None:
        """Wait until all have come back."""
        await asyncio.sleep(0.2)  # so that all ends have been heard of
        while self._returning:
            await asyncio.gather(*self._returning)

    async def leave(self) -> None:
        """End all."""
        self.delay = None
        for each in self.clients:
            if each.open:
                each.open = False
                each.transport.abort()
        self.clients.clear()
        await asyncio.sleep(0.7)  # the server's reports are of now

    def failures(self) -> Row:
        """Return the figures of those that failed."""
        return {"refused": self.refused, "reset": self.reset, "longest_wait": self.longest, "lost": self.lost}


# ---- the measurements ----


async def spread(running: Running, number: int) -> list[Row]:
    """Measure the spread of connections that are opened slowly, then as fast as possible."""
    crowd = Crowd(running.port, number)
    await crowd.drizzle(SLOW_CONNECTIONS, SLOW_RATE)
    slow = {"case": "slow", "shares": running.shares(), **crowd.failures()}
    await crowd.leave()
    crowd = Crowd(running.port, number)
    begin = time.monotonic()
    await crowd.storm(CONNECTIONS)
    seconds = time.monotonic() - begin
    return [slow, {"case": "fast", "shares": running.shares(), "seconds": seconds, **crowd.failures()}]


async def death_while_opening(running: Running, number: int) -> list[Row]:
    """Stop a worker and kill it half a second later, while connections come; whom it had comes back at once."""
    crowd = Crowd(running.port, number)
    await crowd.storm(CONNECTIONS)
    crowd.delay, crowd.longest = 0.0, 0.0
    arrivals = asyncio.ensure_future(crowd.drizzle(int(ARRIVALS * ARRIVAL_SECONDS), ARRIVALS))
    victim = running.workers[number % WORKERS]
    await asyncio.sleep(STOPPED_AT)
    os.kill(victim, signal.SIGSTOP)
    await asyncio.sleep(KILLED_AT - STOPPED_AT)
    os.kill(victim, signal.SIGKILL)
    await arrivals
    await crowd.all_back()
    await asyncio.to_thread(running.wait)
    return [{"case": "death while opening", "shares": running.shares(), **crowd.failures()}]


async def death(running: Running, number: int) -> list[Row]:
    """Kill a worker; whom it had comes back within some seconds."""
    crowd = Crowd(running.port, number)
    await crowd.storm(CONNECTIONS)
    crowd.delay, crowd.longest = RETURN_SECONDS, 0.0
    os.kill(running.workers[number % WORKERS], signal.SIGKILL)
    await crowd.all_back()
    await asyncio.to_thread(running.wait)
    return [{"case": "death", "shares": running.shares(), **crowd.failures()}]


def cpu(candidate: Candidate, workers: int) -> Row:
    """Measure the CPU of all processes for a connection that is opened, shaken and closed."""
    with started(candidate, workers) as running:
        pids = ",".join(map(str, running.pids))
        done = subprocess.run([load_generator(), "--port", str(running.port), "--pids", pids, *CHURN], stdout=subprocess.PIPE, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    if "error" in found or found["failures"] * 1000 > found["count"]:
        raise Failed(found.get("error") or found["failure"])
    return {"case": f"cpu {workers}", "us": found["server_cpu_ns"] / found["count"] / 1000, "per_second": found["count"] / found["seconds"]}


def measure(candidates: list[Candidate], rounds: int, death_rounds: int) -> Iterator[Row]:
    """Measure everything; a candidate that fails once at the beginning is left out."""
    import uvloop

    def run(candidate: Candidate, action: Callable[[Running, int], Coroutine[Any, Any, list[Row]]], number: int) -> list[Row]:
        with started(candidate, WORKERS) as running, contextlib.closing(uvloop.new_event_loop()) as loop:
            return loop.run_until_complete(action(running, number))

    for number in range(rounds):
        for candidate in tuple(candidates):
            try:
                for action in (spread, *((death_while_opening, death) if number < death_rounds else ())):
                    for row in run(candidate, action, number):
                        yield {"candidate": candidate.name, "round": number, **row}
            except Failed as error:
                print(f"{candidate.title}: left out: {error}", file=sys.stderr)
                candidates.remove(candidate)
    for number in range(rounds):
        needed = [each for each in SINGLES if any(each.name == candidate.single for candidate in candidates)]
        for candidate, workers in [*((each, 1) for each in needed), *((each, count) for count in (1, 2) for each in candidates)]:
            try:
                yield {"candidate": candidate.name, "round": number, **cpu(candidate, workers)}
            except Failed as error:
                print(f"{candidate.title}, {workers} workers: {error}", file=sys.stderr)


# ---- the table ----


def ratio(shares: list[int]) -> float:
    """Return the largest share ÷ the smallest."""
    return max(shares) / min(shares) if min(shares) else math.inf


def ratios(values: list[float]) -> str:
    """Write a median with its range."""
    if not values:
        return "-"
    written = ["∞" if math.isinf(each) else f"{each:.2f}" for each in (statistics.median(values), min(values), max(values))]
    return written[0] if written[1] == written[2] else f"{written[0]} <sub>{written[1]} to {written[2]}</sub>"


def table(rows: list[Row]) -> list[str]:
    """Return the table."""

    def of(candidate: str, case: str) -> list[Row]:
        return [each for each in rows if (each["candidate"], each["case"]) == (candidate, case)]

    def spread_of(candidate: Candidate, case: str) -> str:
        return ratios([ratio(each["shares"]) for each in of(candidate.name, case)])

    def median_of(candidate: Candidate, case: str, *keys: str) -> str:
        found = [sum(each[key] for key in keys) for each in of(candidate.name, case)]
        return "-" if not found else f"{statistics.median(found):.0f}" if len(keys) > 1 else f"{statistics.median(found):.2f} s"

    def cpu_of(candidate: Candidate, workers: int) -> str:
        single = {each["round"]: each["us"] for each in of(candidate.single, "cpu 1")}
        return ratios([each["us"] / single[each["round"]] for each in of(candidate.name, f"cpu {workers}") if each["round"] in single])

    lines: list[tuple[str, Callable[[Candidate], str]]] = [
        (f"spread of {SLOW_CONNECTIONS}, {SLOW_RATE} per second", lambda each: spread_of(each, "slow")),
        (f"spread of {CONNECTIONS:,}, as fast as possible", lambda each: spread_of(each, "fast")),
        (f"a worker is killed, its clients come back over {RETURN_SECONDS:.0f} s: spread", lambda each: spread_of(each, "death")),
        ("the same: refused or reset on the way", lambda each: median_of(each, "death", "refused", "reset")),
        (
            f"{ARRIVALS} per second arrive, a worker hangs, is killed {KILLED_AT - STOPPED_AT:.1f} s later: refused or reset on the way",
            lambda each: median_of(each, "death while opening", "refused", "reset"),
        ),
        ("the same: the longest wait for a response", lambda each: median_of(each, "death while opening", "longest_wait")),
        ("the same, its clients come back at once: spread", lambda each: spread_of(each, "death while opening")),
        ("CPU per connection ÷ single process, 1 worker", lambda each: cpu_of(each, 1)),
        ("CPU per connection ÷ single process, 2 workers", lambda each: cpu_of(each, 2)),
    ]
    head = ["| | " + " | ".join(each.title for each in CANDIDATES) + " |", "| --- |" + " ---: |" * len(CANDIDATES)]
    return [*head, *("| " + " | ".join([text, *(cell(each) for each in CANDIDATES)]) + " |" for text, cell in lines)]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", metavar="NAMES", help=f"of {','.join(each.name for each in CANDIDATES)}; the others' figures stay in the result")
    add("--rounds", type=int, default=5, help="(%(default)s)")
    add("--death-rounds", type=int, default=3, help="in how many of them workers are killed (%(default)s)")
    add("--quick", action="store_true", help="one round of each")
    add("--output", type=Path, default=RESULT, help="(%(default)s)")
    add("--table", type=Path, metavar="FILE", help="print the table of a result, and measure nothing")
    add("--serve", nargs=3, metavar=("KIND", "WORKERS", "PORT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Measure, write the result, print the table; return the exit status."""
    options = arguments()
    if options.serve:
        kind, workers, port = options.serve
        Supervisor(kind, int(workers), int(port)).run()
    if options.table:
        print("\n".join(table(json.loads(options.table.read_text(encoding="utf-8"))["rows"])))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    try:
        load_generator()
    except Unavailable as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    machine.raise_descriptor_limit()
    chosen = options.only.split(",") if options.only else [each.name for each in CANDIDATES]
    candidates = [each for each in CANDIDATES if each.name in chosen]
    rounds, death_rounds = (1, 1) if options.quick else (options.rounds, options.death_rounds)
    before: list[Row] = json.loads(options.output.read_text(encoding="utf-8"))["rows"] if options.only and options.output.exists() else []
    measured: list[Row] = []
    for row in measure(list(candidates), rounds, death_rounds):
        print(json.dumps(row), file=sys.stderr, flush=True)
        measured.append(row)
    again = {each["candidate"] for each in measured}
    rows = [each for each in before if each["candidate"] not in again] + measured
    result = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": ["python", "-m", "bench.balance", *sys.argv[1:]],
        "machine": machine.description(),
        "commit": commit(ROOT),
        "rows": rows,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
