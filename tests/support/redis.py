"""A real Redis on the loopback, which keeps nothing on disk."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.support.proxies import free_port
from tests.support.server import wait_until
from tests.support.tools import needs


class Redis:
    """A ``redis-server``; use it as a context manager, or call ``start`` and ``stop``, also again: its port stays the same.

    Args:
        arguments: Further options, as on its command line.
    """

    def __init__(self, *arguments: str) -> None:
        program, self.port = needs("redis-server", package="redis-server"), free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="twistedws-redis-"))
        self._command = [
            program,
            *("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._directory)),
            *("--save", "", "--appendonly", "no", "--daemonize", "no"),
            *arguments,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Redis:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        if kind is not None:
            print(f"--- output of redis-server:\n{self.output}")
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def url(self) -> str:
        """Its address for a client."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def output(self) -> str:
        """What it has written since its last start."""
        return (self._directory / "output").read_text(errors="replace")

    def start(self) -> Redis:
        """Start, and wait until it answers."""
        with (self._directory / "output").open("wb") as output:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            wait_until(self._answers, 20, "Redis's first answer")
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{self.output}") from None
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal, and wait for the end; nothing happens if it has ended."""
        assert self._process is not None
        self._process.send_signal(number)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"redis-server ended with status {self._process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(64) == b"+PONG\r\n"
        except OSError:
            return False
