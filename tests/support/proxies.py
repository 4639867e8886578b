"""Real proxies on the fragments of ``etc/``: only ports, paths and the timeouts that a test is about are replaced in them."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.support.server import ROOT, wait_until
from tests.support.tools import needs

ETC = ROOT / "etc"


def free_port() -> int:
    """Return a port of the loopback that was free a moment ago, for programs that cannot tell which one they were given.

    It is below the range that the kernel takes clients' ports from: no connection of another test can hold it meanwhile.
    """
    for port in random.sample(range(10_000, 30_000), 100):
        if not (_taken(socket.AF_INET, "127.0.0.1", port) or _taken(socket.AF_INET6, "::1", port)):
            return port
    raise AssertionError("a hundred ports were taken")


def _taken(family: socket.AddressFamily, host: str, port: int) -> bool:
    try:
        with socket.socket(family) as probe:
            probe.bind((host, port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE  # anything else: a machine without IPv6
    return False


def fragment(name: str, replacements: Mapping[str, str]) -> str:
    """Return a file of ``etc/`` with texts replaced, each of which must be there."""
    text = (ETC / name).read_text(encoding="utf-8")
    for old, new in replacements.items():
        assert old in text, f"etc/{name} has no {old!r}"
        text = text.replace(old, new)
    return text


class Proxy:
    """A proxy in the foreground, listening on a port of the loopback; use it as a context manager.

    Args:
        command: What starts it.
        port: Where it listens, once it serves.
        directory: For its output and whatever it writes.
    """

    def __init__(self, command: Sequence[str], port: int, directory: Path) -> None:
        self.port, self._command, self._directory = port, command, directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address for a WebSocket client."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """What it has written so far."""
        return (self._directory / "output").read_text(errors="replace")

    def __enter__(self) -> Proxy:
        with (self._directory / "output").open("wb") as output:
            self._process = subprocess.Popen(self._command, cwd=self._directory, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            wait_until(self._serves, 20, f"the start of {self._command[0]}")
        except AssertionError as error:
            self._stop()
            raise AssertionError(f"{error}\n{self.output}") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()
        if kind is not None:
            print(f"--- output of {self._command[0]}:\n{self.output}")

    def _serves(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"{self._command[0]} ended with status {self._process.returncode}")
        with socket.socket() as probe:
            return not probe.connect_ex(("127.0.0.1", self.port))

    def _stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)  # at once, for both: no graceful end, which would wait for tunnels
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def nginx(directory: Path, server_port: int, read_timeout: str = "60s", http: str = "access_log off;") -> Proxy:
    """Return nginx on ``etc/nginx.conf``, not started yet.

    Args:
        directory: An empty one, for its files.
        server_port: Where the server listens.
        read_timeout: In place of a minute.
        http: What stands beside the fragment in the http block.
    """
    program, port = needs("nginx", package="nginx-light"), free_port()
    places = {
        "server 127.0.0.1:8000 max_fails=0;": f"server 127.0.0.1:{server_port} max_fails=0;",
        "listen 80;": f"listen 127.0.0.1:{port};",
        "proxy_read_timeout 60s;": f"proxy_read_timeout {read_timeout};",
    }
    (directory / "twistedws.conf").write_text(fragment("nginx.conf", places))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""  # a worker of another user could not enter the test's directory
    configuration = f"""
        {user} daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr info;
        events {{ worker_connections 512; }}
        http {{ {http} {temporary} include {directory}/twistedws.conf; }}
    """
    (directory / "main.conf").write_text(configuration)
    return Proxy([program, "-e", "stderr", "-p", str(directory), "-c", str(directory / "main.conf")], port, directory)


def haproxy(directory: Path, server_port: int, backend: str = "twistedws_proxy_protocol", **timeouts: str) -> Proxy:
    """Return HAProxy on ``etc/haproxy.cfg``, not started yet.

    Args:
        directory: An empty one, for its files.
        server_port: Where the server listens.
        backend: Which of the fragment's clients are given to; the other's server has no health checks.
        timeouts: By name, in place of the fragment's: ``tunnel="3s"``.
    """
    program, port = needs("haproxy"), free_port()
    text = fragment(
        "haproxy.cfg",
        {
            "bind :80\n": f"bind 127.0.0.1:{port}\n",
            "default_backend twistedws_proxy_protocol": f"default_backend {backend}",
            "127.0.0.1:8000 ": f"127.0.0.1:{server_port} ",
        },
    )
    before, head, after = text.partition(f"backend {backend} from")
    assert head
    # the server listens for one of the two kinds only: checks of the other would be noise in its log
    idle = "twistedws_plain" if backend == "twistedws_proxy_protocol" else "twistedws_proxy_protocol"
    text = _without_checks(before + head + after, idle)
    for name, value in timeouts.items():
        line = next(each for each in text.splitlines() if each.strip().startswith(f"timeout {name} "))
        text = text.replace(line, f"    timeout {name} {value}")
    (directory / "haproxy.cfg").write_text("global\n    log stdout format raw local0\n\n" + text)
    return Proxy([program, "-db", "-f", str(directory / "haproxy.cfg")], port, directory)


def _without_checks(text: str, backend: str) -> str:
    sections = text.split("\nbackend ")
    return "\nbackend ".join(each.replace(" check ", " ") if each.startswith(f"{backend} ") else each for each in sections)
