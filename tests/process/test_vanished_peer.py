"""A peer that is gone without a word: no FIN, no RST. The session ends at interval and timeout, and the application hears why."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.network import SERVER_ADDRESS, Network
from tests.support.server import ROOT, Server, wait_until

INTERVAL, TIMEOUT = 1.0, 1.5
SETTINGS = (f"--ping-interval={INTERVAL}", f"--ping-timeout={TIMEOUT}", "diary:Diary")
SLACK = 0.7  # two ticks of the wheel, and what a busy machine adds

CLIENT = (sys.executable, str(ROOT / "tests" / "support" / "idle_client.py"))


def entries(diary: Path) -> list[dict[str, Any]]:
    """Return what the application has written so far."""
    return [json.loads(line) for line in diary.read_text().splitlines()] if diary.exists() else []


@contextlib.contextmanager
def idle_client(url: str, prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """A client process with an open connection."""
    process = subprocess.Popen([*prefix, *CLIENT, url], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def check_end(server: Server, diary: Path, vanished_at: float, descriptors: int) -> None:
    """The application hears ``pong_timeout`` once and in time, the log says the same, and the descriptor is back."""
    server.wait_for_line(r"closed session=\w+ .* code=1006 cause=pong_timeout by=server", INTERVAL + TIMEOUT + 10)
    opened, closed = wait_until(lambda: entries(diary)[1:] and entries(diary), what="the application's entries")
    assert (opened["event"], closed["event"], opened["session"]) == ("opened", "closed", closed["session"])
    assert (closed["code"], closed["cause"], closed["by"]) == (1006, "pong_timeout", "server")
    assert TIMEOUT - SLACK < closed["at"] - vanished_at <= INTERVAL + TIMEOUT + SLACK
    wait_until(lambda: server.descriptors() == descriptors, 5, "the descriptor's return")


def outlive_a_deadline(server: Server) -> None:
    """Wait until a peer that does not answer would be gone: one that does is still there."""
    until = time.monotonic() + INTERVAL + TIMEOUT + SLACK
    wait_until(lambda: time.monotonic() > until or server.lines("closed session="), INTERVAL + TIMEOUT + 10)
    assert not server.lines("closed session=")


def test_link_down(tmp_path: Path) -> None:
    """A client whose link goes down is gone at interval and timeout; before that its pongs keep it."""
    diary = tmp_path / "diary"
    with (
        Network() as network,
        Server(f"--interface={SERVER_ADDRESS}", *SETTINGS, environment={"DIARY": str(diary)}, prefix=network.server) as server,
    ):
        port, descriptors = server.port, server.descriptors()
        with idle_client(f"ws://{SERVER_ADDRESS}:{port}", network.client):
            outlive_a_deadline(server)
            network.pull()
            check_end(server, diary, time.monotonic(), descriptors)
        assert server.stop() == 0


def test_stopped_client(tmp_path: Path) -> None:
    """So is a client whose machine still acknowledges what we send, but whose process is stopped."""
    diary = tmp_path / "diary"
    with Server(*SETTINGS, environment={"DIARY": str(diary)}) as server:
        descriptors = server.descriptors()
        with idle_client(server.url) as client:
            outlive_a_deadline(server)
            client.send_signal(signal.SIGSTOP)
            check_end(server, diary, time.monotonic(), descriptors)
        assert server.stop() == 0
