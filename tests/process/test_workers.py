"""Several workers below a supervisor: how connections are spread, what becomes of workers that die, and of deploys."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import statistics
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.crowd import Crowd, histogram
from tests.support.raw import Raw
from tests.support.server import Server, wait_until
from tests.support.workers import children, gone, numbers, readiness, ready, shares

KILLS = int(os.environ.get("KILLS", "5"))  # KILLS=50 python -m pytest tests/process/test_workers.py -k killed
_AGAIN = re.compile(r"is ready, ([0-9.]+) s after its start")


def test_spread() -> None:
    """4,000 connections are spread evenly over 4 workers; and after one was killed and its clients have come back at once."""
    with Server("--workers=4", "echo") as server, Crowd(server.port, 4000, backoff=0.05, talks=False) as crowd:
        crowd.open_all(60)
        before = shares(server)
        assert sum(before) == 4000
        assert max(before) <= 1.1 * min(before), before
        os.kill(numbers(server)[1], signal.SIGKILL)
        ready(server, 5)
        wait_until(lambda: crowd.opened > 4000 and len(crowd) == 4000, 30, "all clients are back")
        after = shares(server)
        print(f"spread: {before} at first, {after} after a worker was killed")
        assert sum(after) == 4000
        assert max(after) <= 1.25 * min(after), after
        assert not crowd.refusals
        assert set(crowd.codes) == {1006}


def test_few_are_spread() -> None:
    """Eight connections at once are two for each of four workers; one that comes when others have left goes where there are fewest."""
    with Server("--workers=4", "echo") as server:
        peers = [Raw(server.port) for _ in range(8)]
        for each in peers:
            each.upgrade()
        assert shares(server) == [2, 2, 2, 2]
        for each in peers:
            each.close()


def test_killed_workers() -> None:
    """Workers are killed again and again under load: no connect is refused, and the sessions of other workers lose nothing."""
    with Server("--workers=3", "whoami:App") as server, Crowd(server.port, 90, backoff=0.2, interval=0.05) as crowd:
        crowd.open_all()
        for kill in range(KILLS):
            wait_until(lambda: sum(crowd.answering.values()) == 90, 10, "all have been answered")
            victim = min(numbers(server))  # the oldest
            pid = numbers(server)[victim]
            held = sum(count for said, count in crowd.answering.items() if said.split()[1] == str(pid))
            ended = len(crowd.closes)
            os.kill(pid, signal.SIGKILL)
            ready(server, 4 + kill)
            wait_until(lambda: len(crowd) == 90, 20, "all clients are back")
            assert len(crowd.closes) - ended == held, "those of the killed worker, and no others"
        crowd.finish()
        times = [float(found[1]) for each in server.lines("is ready") if (found := _AGAIN.search(each))][3:]
        print(f"respawn ready after {statistics.median(times):.2f} s (median of {len(times)}; at most {max(times):.2f})")
        assert not crowd.refusals
        assert not crowd.rejections
        assert not crowd.faults
        assert set(crowd.codes) == {1006}
    assert server.lines(r"served \d+ sessions: .*worker_lost \d+")


def test_reload(tmp_path: Path) -> None:
    """SIGHUP under load: no connect refused, no 1006, each message answered once, by the new version then; a broken one changes nothing."""
    with Server("--workers=2", "--drain-seconds=2", "broken:App", cwd=tmp_path) as server:
        first = children(server.pid)
        with Crowd(server.port, 400, backoff=0.3, interval=0.1) as crowd:
            crowd.open_all()
            (tmp_path / "broken").touch()
            server.send_signal(signal.SIGHUP)
            server.wait_for_line("reload refused, nothing is changed: .*no module named 'database'", 20)
            assert children(server.pid) == first
            assert not crowd.closes
            (tmp_path / "broken").unlink()
            (tmp_path / "version.txt").write_text("2")
            server.send_signal(signal.SIGHUP)
            wait_until(lambda: len(crowd.closes) == 400 and len(crowd) == 400, 30, "all have been closed and are back")
            wait_until(lambda: all(each.startswith("2 ") for each in crowd.answering), 10, "the new version answers everybody")
            gone(*first)
            crowd.finish()
            assert set(crowd.codes) == {1012}
            assert not crowd.refusals
            assert not crowd.rejections
            assert not crowd.silences
            assert not crowd.faults
        assert not set(children(server.pid)) & set(first)


def test_reload_configuration(tmp_path: Path) -> None:
    """A reload takes the file as it is now: endpoints, number of workers, limits; a wrong one is refused, and named."""
    file = tmp_path / "ws.toml"
    path = tmp_path / "ws.sock"
    file.write_text('port = 0\nworkers = 1\napp = "echo"\n')
    with Server(f"--config={file}", cwd=tmp_path) as server:
        port = server.port
        file.write_text('port = 0\nworkers = 1\nping-intervall = 5\napp = "echo"\n')
        server.send_signal(signal.SIGHUP)
        server.wait_for_line("reload refused, nothing is changed: .*ping-intervall: no such key; did you mean ping-interval", 20)
        file.write_text(
            f'endpoint = ["tcp:0:interface=127.0.0.1:backlog=99", "unix:{path}"]\nworkers = 2\nmax-connections = 3\napp = "echo"\n'
        )
        server.send_signal(signal.SIGHUP)
        server.wait_for_line("2 new workers are ready", 20)
        gone(numbers(server).pop(1, 0))
        assert len(children(server.pid)) == 2
        with pytest.raises(ConnectionRefusedError):
            Raw(port)
        new = int(server.lines(r"listening on 127.0.0.1:\d+")[-1].rpartition(":")[2])
        peers = [Raw(new) for _ in range(3)]
        for each in peers:
            each.upgrade()
        with Raw(new) as fourth:
            assert fourth.read_head()[0] == 503, "three connections on both workers together"
        with socket.socket(socket.AF_UNIX) as one_more:
            one_more.connect(str(path))
        for each in peers:
            each.say_goodbye()
        assert server.stop() == 0
        assert not path.exists()


def test_drain_rate() -> None:
    """2,000 sessions on 4 workers drain at 500 a second, all of them by 1012, after readiness has failed."""
    admin = ("--admin=tcp:0:interface=127.0.0.1", "--ready-delay=1")
    with Server("--workers=4", "--drain-rate=500", *admin, "echo") as server:
        asked = int(server.wait_for_line(r"answering operators on 127.0.0.1:(\d+)").group(1))
        assert readiness(asked) == (200, "ready")
        with Crowd(server.port, 2000, reconnects=False, talks=False) as crowd:
            crowd.open_all(60)
            server.send_signal(signal.SIGTERM)
            wait_until(lambda: readiness(asked)[0] == 503, 10, "readiness fails")
            assert readiness(asked) == (503, "not ready: stopping")
            assert not crowd.closes, "readiness fails first"
            with Raw(server.port) as late:
                late.upgrade()  # who comes until the balancer has found out is served
            wait_until(lambda: len(crowd.closes) == 2000, 30, "all are closed")
            seconds = histogram(each.time for each in crowd.closes)
            print(f"closes per second at --drain-rate 500: {seconds}")
            assert set(crowd.codes) == {1012}
            assert all(450 <= each <= 550 for each in seconds[:3]), seconds
        assert server.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_end(number: int) -> None:
    """SIGTERM ends all gracefully, SIGINT all at once; every session is closed by 1012, and no process is left."""
    with Server("--workers=2", "--drain-seconds=30", "--graceful-timeout=60", "echo") as server:
        workers = children(server.pid)
        with Crowd(server.port, 50, reconnects=False) as crowd:
            crowd.open_all()
            server.send_signal(number)
            if number == signal.SIGTERM:
                server.wait_for_line("received SIGTERM")
                server.send_signal(signal.SIGTERM)  # thirty seconds are too long for a test; it hurries
            assert server.wait() == 0
            wait_until(lambda: len(crowd.closes) == 50, 10, "the end of all")
            assert set(crowd.codes) == {1012}
            assert not crowd.faults
        gone(*workers)


def test_more_and_fewer() -> None:
    """SIGTTIN starts a worker, SIGTTOU has one leave with its sessions closed by 1012; the last one stays."""
    with Server("--workers=1", "--drain-seconds=0", "whoami:App") as server, Crowd(server.port, 20, backoff=0.1) as crowd:
        crowd.open_all()
        server.send_signal(signal.SIGTTIN)
        ready(server, 2)
        assert len(children(server.pid)) == 2
        server.send_signal(signal.SIGTTOU)
        wait_until(lambda: len(children(server.pid)) == 1, 20, "one has left")
        wait_until(lambda: len(crowd) == 20, 20, "everybody is served")
        server.send_signal(signal.SIGTTOU)
        server.wait_for_line("the last worker stays")
        crowd.finish()
        assert set(crowd.codes) <= {1012}
        assert not crowd.faults
        assert not crowd.refusals


def test_supervisor_is_replaced(tmp_path: Path) -> None:
    """SIGUSR2 replaces the supervisor in the same process, under load: same pid, same port, nothing refused; a broken one is not taken."""
    with (
        Server("--workers=2", "--drain-seconds=1", "broken:App", cwd=tmp_path) as server,
        Crowd(server.port, 100, backoff=0.2, interval=0.05) as crowd,
    ):
        crowd.open_all()
        (tmp_path / "broken").touch()
        server.send_signal(signal.SIGUSR2)
        server.wait_for_line("the supervisor stays: .*no module named 'database'", 20)
        (tmp_path / "broken").unlink()
        (tmp_path / "version.txt").write_text("2")
        first = children(server.pid)
        server.send_signal(signal.SIGUSR2)
        server.wait_for_line("the next supervisor takes over", 20)
        server.wait_for_line("2 new workers are ready", 30)
        gone(*first)
        wait_until(lambda: len(crowd) == 100 and all(each.startswith("2 ") for each in crowd.answering), 20, "the new version answers")
        os.kill(children(server.pid)[0], signal.SIGKILL)  # the new one supervises
        server.wait_for_line("another is started at once", 20)
        wait_until(lambda: len(crowd) == 100, 20, "all are back")
        crowd.finish()
        assert set(crowd.codes) == {1012, 1006}
        assert not crowd.refusals
        assert not crowd.rejections
        assert not crowd.faults
        assert server.stop() == 0


def test_no_orphans() -> None:
    """A supervisor that is killed takes its workers with it: they close their sessions by 1012 and end by themselves, a stuck one too."""
    with (
        Server("--workers=3", "blocks:App") as server,
        Raw(server.port) as stuck,
        Crowd(server.port, 60, reconnects=False, interval=0.1) as crowd,
    ):
        crowd.open_all()
        workers = children(server.pid)
        stuck.upgrade()
        stuck.send(masked(b"block 60"))
        os.kill(server.pid, signal.SIGKILL)
        gone(*workers)
        wait_until(lambda: len(crowd.closes) == 60, 10, "the end of all")
        assert crowd.codes[1012] >= 40
        assert set(crowd.codes) <= {1012, 1006}, "1006: those of the stuck one"
        server.wait()


def masked(text: bytes) -> bytes:
    """Return a text frame."""
    return bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text


def test_logs(tmp_path: Path) -> None:
    """All processes write whole lines to one file, each with its name; SIGUSR1 opens it anew in all of them."""
    log, moved = tmp_path / "ws.log", tmp_path / "ws.log.1"
    server = Server("--workers=2", "--log-format=json", "echo", twistd=(f"--logfile={log}",))
    server.start_process()
    ready_at = r"listening on 127.0.0.1:(\d+)[^!]*ready: 2 workers"
    found = wait_until(lambda: re.search(ready_at, log.read_text()) if log.exists() else None, 20, "the log")
    with Crowd(int(found[1]), 40, reconnects=False) as crowd:
        crowd.open_all()
        log.rename(moved)
        server.send_signal(signal.SIGUSR1)
        wait_until(log.exists, 10, "the new file")
    wait_until(lambda: len(log.read_text().splitlines()) >= 40, 10, "the lines on the sessions that have ended")
    assert server.stop() == 0
    names = [Counter(json.loads(line)["process"] for line in each.read_text().splitlines()) for each in (moved, log)]
    assert [set(each) for each in names] == [{"supervisor", "worker 1", "worker 2"}] * 2
    assert sum(names[1].values()) >= 40


def test_accept_rate() -> None:
    """The rate holds for all workers together, and nobody is refused as long as not too many wait."""
    with Server("--workers=2", "--accept-rate=50", "echo") as server:
        since = time.monotonic()
        with Crowd(server.port, 80, talks=False) as crowd:
            crowd.open_all(30)
            assert time.monotonic() - since >= (80 - 5) / 50 * 0.95, "no faster than the rate, but for a first burst of a tenth of a second"
            assert not crowd.rejections
            assert not crowd.refusals
            assert max(shares(server)) - min(shares(server)) <= 10


def test_successor_with_other_settings(tmp_path: Path) -> None:
    """SIGUSR2 takes what has changed: another backlog on the same port, an admin socket; what cannot be had changes nothing."""
    file, admin = tmp_path / "ws.toml", tmp_path / "admin.sock"
    same = f'workers = 1\napp = "echo"\nadmin = ["unix:{admin}"]\n'
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        file.write_text(f"port = 0\n{same}")
        with Server(f"--config={file}", cwd=tmp_path) as server:
            port = server.port
            for wrong, why in [
                (f"port = {taken.getsockname()[1]}\n{same}", "Address already in use"),
                (f'endpoint = ["tcp:nonsense"]\n{same}', "tcp:nonsense"),
                ("port = 0\nworkers = 0\n", "workers: 0: it takes a restart"),
            ]:
                file.write_text(wrong)
                server.send_signal(signal.SIGUSR2)
                server.wait_for_line(f"the supervisor stays: .*{why}", 20)
            file.write_text(f'endpoint = ["tcp:{port}:interface=127.0.0.1:backlog=77"]\n{same}')
            server.send_signal(signal.SIGUSR2)
            server.wait_for_line("1 new workers are ready", 30)
            with Raw(port) as peer:
                peer.upgrade()
            assert len(server.lines("answering operators on unix:")) == 2
            file.write_text(f'endpoint = ["tcp:{port}:interface=127.0.0.1:backlog=88"]\n{same}')
            server.send_signal(signal.SIGHUP)
            wait_until(lambda: len(server.lines("1 new workers are ready")) == 2, 20, "the reload")
            with Raw(port) as peer:
                peer.upgrade()
            assert server.stop() == 0
        assert not admin.exists()
