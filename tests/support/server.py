"""A real ``twistd -n twistedws`` in a child process, and waiting for conditions instead of sleeping."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[2]
APPS = ROOT / "tests" / "process" / "apps"
TWISTD = Path(sys.executable).with_name("twistd")

_READY = r"twistedws\.(server|supervisor\.service)(: |\",\"message\":\")ready(: \d|\"|$)"  # in a log of text or JSON

_T = TypeVar("_T")


def wait_until(condition: Callable[[], _T | None], timeout: float = 10.0, what: str = "the condition") -> _T:
    """Return the condition's value once it is true.

    Args:
        condition: Asked again and again.
        timeout: Seconds.
        what: For the message of the failure.

    Raises:
        AssertionError: It did not become true in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} s")
        threading.Event().wait(0.02)


class Server:
    """A server process; use it as a context manager, or call ``start`` and ``stop``.

    Args:
        arguments: Options and application, as on the command line behind ``twistedws``. ``--port 0`` is added unless a port or an
            endpoint is among them, ``--app-dir`` of the tests' applications unless one is.
        twistd: Options of twistd itself, as ``--reactor=epoll``.
        environment: Variables beside this process's.
        cwd: Where to run; by default a temporary directory, removed at the end.
        prefix: What starts the process, as ``ip netns exec NAME`` or ``faketime``.
    """

    def __init__(
        self,
        *arguments: str,
        twistd: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        line = list(arguments)
        if not any(each.startswith(("--port", "--endpoint", "--config")) for each in line):
            line = ["--port", "0", *line]
        if not any(each.startswith("--app-dir") for each in line):
            line = ["--app-dir", str(APPS), *line]
        self._reactor = os.environ.get("REACTOR", "")  # all tests on another reactor than ours: make test-reactors
        if self._reactor and not any(each.startswith("--reactor") for each in twistd):
            twistd = (f"--reactor={self._reactor}", *twistd)
        self.command = [*prefix, str(TWISTD), "-n", "--pidfile=", *twistd, "twistedws", *line]
        self._environment = {**os.environ, **(environment or {})}
        self._own_directory = cwd is None
        self.directory = cwd if cwd is not None else Path(tempfile.mkdtemp(prefix="twistedws-test-"))
        self._lines: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.running:
            self.stop()
        self._clean()
        if kind is not None:
            print("\n".join(["--- the server's output:", *self._lines[-60:]]))

    def start(self) -> Server:
        """Start, if it has not been, and wait until it listens."""
        if self._process is None:
            self.start_process()
        wait_until(lambda: self._find(_READY) or not self.running, 20, "the server's start")
        if self._reactor and self._find("has coroutines, which need an asyncio loop"):
            pytest.skip(f"coroutines are not hosted on {self._reactor}")
        if not self._find(_READY):
            raise AssertionError("the server did not start:\n" + "\n".join(self._lines))
        return self

    def start_process(self) -> None:
        """Start, and wait for nothing."""
        self._process = subprocess.Popen(
            self.command, cwd=self.directory, env=self._environment, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def port(self) -> int:
        """The TCP port that it listens on; the first, if there are several."""
        return int(self.wait_for_line(r"listening on \S*:(\d+)").group(1))

    @property
    def url(self) -> str:
        """Its address for a WebSocket client."""
        return f"ws://127.0.0.1:{self.port}"

    def lines(self, pattern: str = "") -> list[str]:
        """The lines of the log so far; those that match, if a pattern is given."""
        return [each for each in tuple(self._lines) if re.search(pattern, each)]

    def wait_for_line(self, pattern: str, timeout: float = 10.0) -> re.Match[str]:
        """Wait for a line of the log, and return the match."""
        return wait_until(lambda: self._find(pattern), timeout, f"a log line with {pattern!r} in\n" + "\n".join(self._lines[-20:]))

    def rss(self) -> int:
        """Resident memory, in bytes."""
        (line,) = [each for each in self._proc("status").read_text().splitlines() if each.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024

    def descriptors(self) -> int:
        """How many descriptors are open."""
        return sum(1 for _ in self._proc("fd").iterdir())

    def cpu(self) -> float:
        """Seconds of CPU used so far, user and system."""
        fields = self._proc("stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 40.0) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout: float = 40.0) -> int:
        """Wait for the end, and return the exit status; kill it if it does not end."""
        assert self._process is not None
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the server did not end within {timeout} s:\n" + "\n".join(self._lines[-30:])) from None
        if self._reader is not None:
            self._reader.join(5)
        return status

    def _find(self, pattern: str) -> re.Match[str] | None:
        return next((found for each in tuple(self._lines) if (found := re.search(pattern, each))), None)

    def _proc(self, name: str) -> Path:
        return Path(f"/proc/{self.pid}/{name}")

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in stream:
                self._lines.append(line.rstrip("\n"))

    def _clean(self) -> None:
        if self._own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)
