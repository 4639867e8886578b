"""Workers whose application blocks the event loop, ends the process, or does not start at all."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.crowd import Crowd
from tests.support.raw import TEXT, Raw, frame
from tests.support.server import APPS, Server, wait_until
from tests.support.workers import children, gone, numbers, readiness, ready

BLOCKS = APPS / "blocks.py"


def line_of(text: str, file: Path = BLOCKS) -> int:
    """Return the number of the line on which a text stands."""
    return next(number for number, line in enumerate(file.read_text().splitlines(), 1) if text in line)


def ask(server: Server, text: str) -> Raw:
    """Open a session and send a message, without waiting for the answer."""
    peer = Raw(server.port)
    peer.upgrade()
    peer.send(frame(TEXT, text.encode()))
    return peer


def answers(peer: Raw, text: str) -> bool:
    """Whether a session is answered."""
    peer.send(frame(TEXT, text.encode()))
    return peer.read_message() == text.encode()


BLOCKERS = [
    ("block 60", rf"{BLOCKS}:{line_of('time.sleep(seconds)')} in wait_for_a_slow_database, for session=\S+ peer=127"),
    ("spin 60", rf"{BLOCKS}:\d+ in spin_in_python, for session=\S+ peer=127"),
    ("regex 60", rf"{BLOCKS}:\d+ in _search, in \S+ in search, in a call that holds the interpreter"),
]


def test_stuck_workers() -> None:
    """A worker that is stuck, in whatever, is reported with file, line and session, gets no connections, is killed and replaced in time."""
    with Server("--workers=4", "--stuck-after=1", "--worker-timeout=4", "blocks:App") as server:
        stuck = [ask(server, text) for text, _ in BLOCKERS]  # each in another worker
        healthy = Raw(server.port)
        healthy.upgrade()
        for _, where in BLOCKERS:
            told = server.wait_for_line(
                rf"worker \d+ \(pid \d+\) is stuck: its event loop has given no sign of life for ([0-9.]+) s, at {where}"
            )
            print(told[0])
            assert 1 <= float(told[1]) < 2, "within a second of the deadline"
        assert [each for each in server.lines() if each.startswith("\tmain thread, most recent call first:")]
        late = [ask(server, "hello") for _ in range(6)]
        assert [each.read_message() for each in late] == [b"hello"] * 6, "no connection is given to a stuck one"
        for number in (5, 6, 7):
            ready(server, number)
        assert len(server.lines("killing worker .*: no sign of life for 4")) == 3
        assert answers(healthy, "still here")
        for each in stuck:
            assert each.read_close()[0] == 1006
        assert len(children(server.pid)) == 4
    assert server.lines(r"served \d+ sessions: ")


@pytest.mark.parametrize("app", ["blocks:App", "blocks_asgi:app"])
def test_stall(app: str) -> None:
    """A worker that blocks for less than the deadline is not killed, and none of its peers misses a deadline of its pings by that."""
    options = ("--workers=1", "--stuck-after=2.5", "--worker-timeout=5", "--ping-interval=0.5", "--ping-timeout=0.5")
    with Server(*options, app) as server, Crowd(server.port, 20, reconnects=False, interval=0.2) as crowd:
        crowd.open_all()
        with ask(server, "block 3") as peer:
            server.wait_for_line("is stuck")
            assert peer.read_message() == b"block 3"
            server.wait_for_line("answers again, after")
            answered = crowd.answered
            wait_until(lambda: crowd.answered > answered + 100, 10, "everybody is answered again")
        assert not crowd.closes
        assert not server.lines("killing|was ended")
        crowd.finish()
        assert not crowd.faults


@pytest.mark.parametrize(("message", "how"), [("die", "ended with status 3"), ("memory", "was ended by SIGKILL")])
def test_crash_on_a_message(message: str, how: str) -> None:
    """A worker that ends on a message takes only its own sessions with it and is replaced; one after the other they are called a loop."""
    prefix = ("prlimit", "--as=1500000000") if message == "memory" else ()
    with Server("--workers=2", "blocks:App", prefix=prefix) as server:
        others = [Raw(server.port), Raw(server.port)]
        for each in others:
            each.upgrade()
        crashes = 2 if message == "die" else 1
        for crash in range(crashes * 2 if message == "die" else 1):
            ask(server, message)
            ready(server, 3 + crash)
        assert server.lines(rf"worker \d+ \(pid \d+\) {how}")
        if message == "die":
            assert server.lines("crash loop: 3 workers in a row have ended before they served for long; the last one ended with status 3")
            server.wait_for_line("the crash loop has ended")
        with ask(server, "hello") as peer:
            assert peer.read_message() == b"hello"


def test_crash_at_import(tmp_path: Path) -> None:
    """An application that cannot be imported ends the start with one line and status 2; what breaks later leaves the others serving."""
    (tmp_path / "broken").touch()
    broken = Server("--workers=3", "broken:App", cwd=tmp_path)
    broken.start_process()
    assert broken.wait() == 2
    said = [each for each in broken.lines("twistedws: ") if not each.startswith("20")]
    assert len(said) == 1, said
    assert "app: broken:App: importing broken: ImportError: no module named 'database'" in said[0]
    (tmp_path / "broken").unlink()
    with Server("--workers=2", "broken:App", cwd=tmp_path) as server:
        (tmp_path / "broken").touch()
        os.kill(numbers(server)[1], signal.SIGKILL)
        server.wait_for_line("crash loop: .*no module named 'database'", 30)
        with ask(server, "hello") as peer:
            assert peer.read_message().endswith(b"hello")
        (tmp_path / "broken").unlink()
        wait_until(lambda: len(numbers(server)) == 2, 30, "the second worker is back")


def test_start_that_hangs(tmp_path: Path) -> None:
    """A worker that is not ready in time is killed, and where it hangs is said; at the first start that ends the process with status 1."""
    (tmp_path / "hangs.py").write_text("import time\n\n\ndef connect():\n    time.sleep(60)\n\n\nconnect()\n")
    server = Server("--workers=1", "--worker-start-timeout=2", f"--app-dir={tmp_path}", "hangs:App")
    server.start_process()
    assert server.wait() == 1
    assert server.lines(rf"killing worker 1 \(pid \d+\), which was not ready in \d.\d s, at {tmp_path}/hangs.py:5 in connect")


def test_supervisor_that_was_stopped() -> None:
    """A supervisor that was stopped for longer than any deadline takes no worker for stuck when it goes on."""
    with Server("--workers=2", "--stuck-after=1", "--worker-timeout=2", "echo") as server, Crowd(server.port, 20, interval=0.1) as crowd:
        crowd.open_all()
        server.send_signal(signal.SIGSTOP)
        asked = crowd.answered
        wait_until(lambda: crowd.answered > asked + 20 * 20, 20, "three seconds of messages")
        server.send_signal(signal.SIGCONT)
        os.kill(numbers(server)[2], signal.SIGKILL)
        ready(server, 3)
        crowd.finish()
        assert not server.lines("is stuck")
        assert not server.lines("killing")


def test_worker_that_was_asked_to_end() -> None:
    """SIGTERM to a worker drains it, and another takes its place."""
    with Server("--workers=2", "--drain-seconds=0", "whoami:App") as server, Crowd(server.port, 20, backoff=0.1) as crowd:
        crowd.open_all()
        pid = numbers(server)[1]
        os.kill(pid, signal.SIGTERM)
        gone(pid)
        ready(server, 3)
        wait_until(lambda: len(crowd) == 20, 10, "all are served")
        crowd.finish()
        assert set(crowd.codes) == {1012}
        assert not crowd.faults
        assert not crowd.refusals
        assert server.lines("worker 1 .* leaves, and was not told to: another is started")


def test_forked_children() -> None:
    """A child that a worker has forked, and that outlives it, keeps neither its replacement from coming nor the supervisor from ending."""
    with Server("--workers=1", "forks:App") as server:
        forked = []
        try:
            with ask(server, "who") as peer:
                forked.append(int(peer.read_message()))
            os.kill(numbers(server)[1], signal.SIGKILL)
            ready(server, 2)
            with ask(server, "who") as peer:
                forked.append(int(peer.read_message()))
            assert server.stop() == 0
            with pytest.raises(ConnectionRefusedError):
                Raw(server.port)
        finally:
            for each in forked:
                os.kill(each, signal.SIGKILL)


def test_nobody_serves(tmp_path: Path) -> None:
    """While all workers are in a crash loop the server is not ready; a new supervisor takes over all the same, and serves when they can."""
    options = ("--workers=1", "--admin=tcp:0:interface=127.0.0.1", f"--app-dir={APPS}", "broken:App")
    with Server(*options, cwd=tmp_path) as server:
        asked = int(server.wait_for_line(r"answering operators on 127.0.0.1:(\d+)").group(1))
        wait_until(lambda: readiness(asked) == (200, "ready"), 10, "it is ready")
        (tmp_path / "broken").touch()
        os.kill(numbers(server)[1], signal.SIGKILL)
        server.wait_for_line("crash loop: ")
        wait_until(lambda: readiness(asked) == (503, "not ready: no worker serves"), 10, "it is not ready")
        (tmp_path / "broken").unlink()
        wait_until(lambda: readiness(asked) == (200, "ready"), 30, "it is ready again")
