"""Starting a server, knowing that it is ready, driving the load generator at it, and ending both."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from bench import machine
from bench.catalogue import Launch, Server, environment
from bench.environment import LOGS, PLACE, Unavailable, load_generator

START_TIMEOUT = 30.0
STOP_TIMEOUT = 3.0


class Failed(Exception):
    """A measurement that gave no figure; the text is the reason, for its row."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Running:
    """A server process with its children, as a context manager. Its output goes to a file, as in production."""

    def __init__(self, server: Server, section: str, ping: int, cores: machine.Cores) -> None:
        self.server = server
        self.cores = cores
        self.launch = Launch(free_port(), section, ping)
        self.log = LOGS / f"{server.name}.log"
        self.pids: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Running:
        try:
            self._start()
        except (Failed, Unavailable):
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _start(self) -> None:
        command = self.server.command(self.launch)
        LOGS.mkdir(parents=True, exist_ok=True)
        core = self.cores.server
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=PLACE, env=environment(self.server), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
            )  # fmt: skip
        self._wait_until_ready(self._process)
        self.pids = machine.tree(self._process.pid)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Ready is a server that has served one whole connection of the section's kind."""
        deadline = time.monotonic() + START_TIMEOUT
        while not self._accepts():
            if process.poll() is not None:
                raise Failed(f"did not start: {self.last_line()}")
            if time.monotonic() > deadline:
                raise Failed(f"accepts no connection within {START_TIMEOUT:.0f} s: {self.last_line()}")
            time.sleep(0.02)
        first = ["--mode", "fanout" if self.launch.section == "fanout" else "echo", *(["--deflate"] if self.launch.compressed else [])]
        self.load(*first, "--connections", "1", "--seconds", "0.02", "--warmup", "0")

    def _accepts(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.launch.port), 1):
            return True
        return False

    def last_line(self) -> str:
        """Return the last line of its output."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it said nothing"

    def load_command(self, *arguments: str) -> list[str]:
        """Return the load generator's command line."""
        command = [str(load_generator()), "--port", str(self.launch.port), *arguments]
        if self.pids:
            command += ["--pids", ",".join(map(str, self.pids))]
        if self.cores.load is not None:
            command += ["--cpu", str(self.cores.load)]
        return command

    def load(self, *arguments: str, timeout: float = 300.0) -> dict[str, Any]:
        """Run the load generator to its end and return what it says.

        Raises:
            Failed: It could not measure.
        """
        process = subprocess.Popen(self.load_command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"the load generator did not end within {timeout:.0f} s") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        return self.result(output)

    def result(self, output: bytes) -> dict[str, Any]:
        """Return what the load generator's last line says; raise Failed if it is no measurement."""
        lines = output.splitlines()
        found: dict[str, Any] = json.loads(lines[-1]) if lines else {"error": "the load generator said nothing"}
        if "error" in found:
            ended = self._process is not None and self._process.poll() is not None
            raise Failed(found["error"] + (f"; the server ended: {self.last_line()}" if ended else ""))
        return found

    @contextlib.contextmanager
    def hold(self, connections: int) -> Iterator[None]:
        """Keep connections open, which answer pings.

        Raises:
            Failed: They could not be opened, or some were lost meanwhile.
        """
        command = self.load_command("--mode", "idle", "--connections", str(connections))
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            if (line := process.stdout.readline() if process.stdout else b"") != b"READY\n":
                self.result(line)
            yield
            output, _ = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        if lost := self.result(output)["lost"]:
            raise Failed(f"{lost} of {connections} connections were lost")

    def stop(self) -> None:
        """End all its processes."""
        if self._process is None:
            return
        pids = machine.tree(self._process.pid)
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in pids[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process = None
