"""``--reload``: a watcher and its child, as real processes, with files that change and real clients."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.support.proxies import free_port
from tests.support.server import TWISTD, Server, wait_until

APP = """
class Answer:
    def __init__(self, session): ...
    def opened(self, session): ...
    def received(self, session, message): session.send("{}")
    def closed(self, session, close): ...
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An application's file, in a directory of its own."""
    path = tmp_path / "answering.py"
    path.write_text(APP.format("one"))
    (tmp_path / "package" / "__pycache__").mkdir(parents=True)  # now: what is in a new directory may be older than the kernel's watch of it
    return path


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago: each child has to have the same."""
    return free_port()


@contextlib.contextmanager
def reloading(*line: str) -> Iterator[Server]:
    """A server that reloads, once it serves. The watcher is ended in any case: it outlives a child that does not start."""
    server = Server("--reload", *line)
    with contextlib.ExitStack() as stack:
        stack.push(server)
        yield server.start()


@pytest.fixture
def server(app: Path, port: int) -> Iterator[Server]:
    """A server that reloads, and serves."""
    with reloading(f"--port={port}", f"--app-dir={app.parent}", "answering:Answer") as server:
        yield server


def child(server: Server) -> int:
    """The process that serves now."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    assert len(children) == 1, children
    return int(children[0])


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and ") Z " not in Path(f"/proc/{pid}/stat").read_text()


def answer(client: ClientConnection) -> str:
    client.send("?")
    return str(client.recv(10))


def wait_for_starts(server: Server, count: int) -> None:
    wait_until(lambda: len(server.lines(r"\bready\b")) >= count, 20, f"start {count}")


def test_change(server: Server, app: Path, port: int) -> None:
    """A change of a file closes every session by 1012 at once, and the next connection is answered by the new code."""
    with connect(f"ws://127.0.0.1:{port}") as first, connect(f"ws://127.0.0.1:{port}") as second:
        assert answer(first) == answer(second) == "one"
        before = child(server)
        app.write_text(APP.format("two"))
        for client in (first, second):
            with pytest.raises(Exception, match="1012"):
                client.recv(20)
    wait_for_starts(server, 2)
    assert not is_there(before)
    with connect(f"ws://127.0.0.1:{port}") as client:
        assert answer(client) == "two"
    assert len(server.lines(r"twistedws: \S*answering\.py changed: starting anew")) == 1
    assert server.lines("at once: asked again")
    assert not server.lines("Traceback|Error")
    assert server.stop() == 0


def test_what_is_no_python_file(server: Server, app: Path) -> None:
    """A change of another file, or of a compiled one, starts nothing; one in a directory below does."""
    (app.parent / "package" / "data.json").write_text("{}")
    (app.parent / "package" / "__pycache__" / "module.py").write_text("")
    (app.parent / "package" / "module.py").write_text("")
    wait_for_starts(server, 2)
    assert len(server.lines("changed")) == 1
    assert "module.py" in server.lines("changed")[0]


def test_broken_code(server: Server, app: Path, port: int) -> None:
    """Code that cannot be imported is told in one line and started once; the next good change serves again."""
    app.write_text("def (:\n")
    server.wait_for_line(r"^twistedws: app: answering:Answer: importing answering: SyntaxError.*answering\.py, line 1")
    server.wait_for_line(r"^twistedws: the server ended with status 2: waiting for a change")
    app.write_text(APP.format("two"))
    wait_for_starts(server, 2)
    with connect(f"ws://127.0.0.1:{port}") as client:
        assert answer(client) == "two"
    assert len(server.lines("SyntaxError")) == len(server.lines("ended with status")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_end(server: Server, number: int, port: int) -> None:
    """SIGTERM and SIGINT to the watcher end both: sessions are closed by 1012, the status is the child's, and no process is left."""
    serving = child(server)
    with connect(f"ws://127.0.0.1:{port}") as client:
        server.send_signal(number)
        with pytest.raises(Exception, match="1012"):
            client.recv(20)
    assert server.wait() == 0
    assert not is_there(serving)


def test_end_by_the_terminal(app: Path, port: int) -> None:
    """A Ctrl-C, which the terminal sends to both, closes everything at once, with status 0 and no traceback."""
    with reloading("--drain-seconds=30", f"--port={port}", f"--app-dir={app.parent}", "answering:Answer") as server:
        with connect(f"ws://127.0.0.1:{port}") as first, connect(f"ws://127.0.0.1:{port}") as second:
            os.kill(child(server), signal.SIGINT)
            server.send_signal(signal.SIGINT)
            for client in (first, second):
                with pytest.raises(Exception, match="1012"):
                    client.recv(20)
        assert server.wait(15) == 0
        assert not server.lines("Traceback|Error")


def test_killed_watcher(server: Server) -> None:
    """A watcher that was killed leaves no server behind."""
    serving = child(server)
    server.stop(signal.SIGKILL)
    wait_until(lambda: not is_there(serving), 20, "the child's end")


def test_server_that_hangs(app: Path, port: int) -> None:
    """A server that does not end in its time is killed, and the next one serves."""
    app.write_text("import signal, time\n" + APP.format("one").replace("session.send", "time.sleep(600) or session.send"))
    with reloading("--close-timeout=0.1", f"--port={port}", f"--app-dir={app.parent}", "answering:Answer") as server:
        with connect(f"ws://127.0.0.1:{port}") as client:
            client.send("?")
            app.write_text(APP.format("two"))
            server.wait_for_line("killing the server, which did not end in 5.1 s", 20)
            wait_for_starts(server, 2)
        with connect(f"ws://127.0.0.1:{port}") as client:
            assert answer(client) == "two"


def test_directories(tmp_path: Path, app: Path, port: int) -> None:
    """With ``--reload-dir`` that directory is watched, and the application's is not."""
    (tmp_path / "lib").mkdir()
    line = (f"--reload-dir={tmp_path / 'lib'}", f"--port={port}", f"--app-dir={app.parent}", "answering:Answer")
    with reloading(*line) as server:
        app.write_text(APP.format("two"))
        (tmp_path / "lib" / "more.py").write_text("")
        wait_for_starts(server, 2)
        assert [re.search(r"(\w+)\.py changed", each)[1] for each in server.lines("changed")] == ["more"]  # type: ignore[index]


def test_same_command_line(app: Path, port: int) -> None:
    """However Twisted was started, the child is started the same way."""
    server = Server("--reload", f"--port={port}", f"--app-dir={app.parent}", "answering:Answer")
    start = ["-X", "dev", "-W", "ignore", "-c", "from twisted.scripts.twistd import run; run()"]
    server.command[0:1] = [sys.executable, *start]
    with contextlib.ExitStack() as stack:
        stack.push(server)
        server.start()
        line = Path(f"/proc/{child(server)}/cmdline").read_text().split("\0")
        assert line[1:7] == start
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (("twistedws", "--reload"), "--reload: a daemon cannot reload: start with twistd -n"),
        (("-n", "twistedws", "--reload", "--reload-dir=/nowhere"), "--reload-dir: /nowhere: there is no such directory"),
        (("-n", "twistedws", "--reload", "--app-dir=/nowhere"), "--app-dir: /nowhere: there is no such directory"),
        (("-n", "twistedws", "--reload", "--port=x"), "--port: x: "),
    ],
)
def test_wrong(line: tuple[str, ...], says: str, tmp_path: Path) -> None:
    """What is wrong before any child ends with one line and status 2; nothing is started."""
    done = subprocess.run([str(TWISTD), "--pidfile=", *line], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"twistedws: {says}")
    assert done.stderr.count("\n") == 1


def test_check_config(tmp_path: Path) -> None:
    """``--check-config`` checks, and watches nothing."""
    line = [str(TWISTD), "-n", "twistedws", "--reload", "--check-config"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
