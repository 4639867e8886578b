"""How workers are started: real children, which say what they were born with; and how many cores there are."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.server import wait_until
from twistedws.supervisor import processes
from twistedws.supervisor.processes import AdoptedProcess, Birth, Launch, Spawned, _quota, ending, usable_cores

CHILD = """
import json, os, socket, sys
birth = json.loads(os.environ["_TWISTEDWS_WORKER"])
def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
descriptors = [number for number in range(256) if is_open(number)]
said = {
    "birth": birth, "descriptors": descriptors, "environment": dict(os.environ), "directory": os.getcwd(), "pid": os.getpid(),
    "listening": [socket.socket(fileno=each).getsockname()[1] for each, _ in birth["sockets"]], "input": os.read(0, 1).decode(),
}
control = socket.socket(fileno=birth["control"])
control.sendall(json.dumps(said).encode() + b"\\n")
watch = socket.socket(fileno=birth["watch"])
sys.exit(watch.recv(1)[0])
"""


def descriptors() -> set[int]:
    """Return the descriptors of this process."""
    gc.collect()  # what other tests have left must not be closed in between
    found = set()
    for number in range(256):
        try:
            os.fstat(number)
        except OSError:
            continue
        found.add(number)
    return found


@pytest.fixture
def listening() -> Iterator[list[socket.socket]]:
    """Two sockets that are listened on."""
    made = [socket.socket() for _ in range(2)]
    for each in made:
        each.bind(("127.0.0.1", 0))
        each.listen()
    yield made
    for each in made:
        each.close()


def finish(spawned: Spawned, status: int) -> int:
    """Have the child end with a status; return the one with which it did."""
    spawned.watch.send(bytes([status]))
    wait_until(lambda: spawned.process.poll() is not None, what="the end of the child")
    spawned.control.close()
    spawned.watch.close()
    ended = spawned.process.poll()
    assert ended is not None
    return ended


def test_a_worker_is_born(listening: list[socket.socket], tmp_path: Path) -> None:
    """A child has its mark, the listening sockets, and its ends of the two sockets that connect it; nothing else, nothing of systemd's."""
    outside = {
        "NOTIFY_SOCKET": "/n",
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": "1",
        "LISTEN_FDS": "1",
        "LISTEN_PID": "1",
        "LISTEN_FDNAMES": "x",
    }
    environment = {**os.environ, **outside, "KEPT": "yes"}
    before = descriptors()
    with socket.socket() as ours:  # that of another purpose
        os.set_inheritable(ours.fileno(), True)
        spawned = Launch([sys.executable, "-c", CHILD], str(tmp_path), environment).spawn(7, "port = 1\n", listening)
        assert len(descriptors() - before) == 3, "the child's ends are the child's alone"
    spawned.control.settimeout(10)
    with spawned.control.makefile() as lines:
        said: dict[str, Any] = json.loads(lines.readline())
    birth = msgspec.convert(said["birth"], Birth)
    assert (birth.number, birth.configuration) == (7, "port = 1\n")
    assert birth.sockets == [(each.fileno(), int(socket.AF_INET)) for each in listening]
    assert said["descriptors"] == sorted([0, 1, 2, birth.control, birth.watch, *(each for each, _ in birth.sockets)])
    assert said["listening"] == [each.getsockname()[1] for each in listening]
    assert said["input"] == ""
    assert said["directory"] == str(tmp_path)
    assert said["pid"] == spawned.process.pid
    assert said["environment"]["KEPT"] == "yes"
    assert not outside.keys() & said["environment"].keys()
    with pytest.raises(BlockingIOError):
        spawned.watch.recv(1)
    assert finish(spawned, 3) == 3
    assert descriptors() == before


@pytest.mark.parametrize("directory", [".", "/no/such/directory"])
def test_no_such_program(listening: list[socket.socket], directory: str) -> None:
    """What cannot be started raises what the system says, and leaves no descriptor."""
    before = descriptors()
    with pytest.raises(OSError, match="No such file or directory"):
        Launch(["/no/such/program"], directory).spawn(1, "", listening)
    assert descriptors() == before


@pytest.mark.parametrize("pairs", [0, 1])
def test_no_descriptors(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no descriptors to be had that is raised, and those that were had are closed."""
    before, make = descriptors(), socket.socketpair
    made: list[tuple[socket.socket, socket.socket]] = []

    def socketpair() -> tuple[socket.socket, socket.socket]:
        if len(made) == pairs:
            raise OSError(24, "Too many open files")
        made.append(make())
        return made[-1]

    monkeypatch.setattr(socket, "socketpair", socketpair)
    with pytest.raises(OSError, match="Too many open files"):
        Launch([sys.executable, "-c", ""], ".").spawn(1, "", [])
    assert descriptors() == before


def test_checking() -> None:
    """A program is checked with the option before all others of ours; what is systemd's it does not inherit."""
    launch = Launch(["python", "-m", "twistedws", "--port=1", "app"], "/d", {"A": "b", "NOTIFY_SOCKET": "/n"}, options_at=3)
    assert launch.checking() == ["python", "-m", "twistedws", "--check-config", "--port=1", "app"]
    assert launch.inherited() == {"A": "b"}


@pytest.mark.parametrize("signalled", [False, True])
def test_adopted(signalled: bool) -> None:
    """A child that another program in this process has started is asked for its end, which is told for good."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(sys.stdin.read(1) and 3)"], stdin=subprocess.PIPE)
    adopted = AdoptedProcess(child.pid)
    assert adopted.poll() is None
    assert child.stdin is not None
    with child.stdin:
        if signalled:
            adopted.send_signal(signal.SIGTERM)
        else:
            child.stdin.write(b"x")
    wait_until(lambda: adopted.poll() is not None, what="the end of the child")
    assert adopted.poll() == (-signal.SIGTERM if signalled else 3)
    adopted.send_signal(signal.SIGTERM)  # goes to nobody, whoever has its number now
    child.returncode = 0  # Popen is not to wait for it


def test_adopted_that_is_no_child() -> None:
    """One that is no child, or that somebody else has waited for, has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert AdoptedProcess(child.pid).poll() == 0


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (-15, "was ended by SIGTERM"),
        (-9, "was ended by SIGKILL, as the kernel does when memory runs out"),
        (-200, "was ended by signal 200"),
    ],
)
def test_ending(status: int, text: str) -> None:
    """How a process ended is said in words."""
    assert ending(status) == text


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"": "max 100000"}, None),
        ("0::/\n", {"": "150000 100000"}, 1.5),
        ("0::/a/b\n", {"a/b": "200000 100000"}, 2.0),
        ("0::/a/b\n", {"a/b": "400000 100000", "a": "100000 100000", "": "max 100000"}, 1.0),
        ("0::/a/b\n", {"a/b": "max 100000", "a": "50000 100000"}, 0.5),
        ("0::/a\n", {"a/b": "100000 100000"}, None),
        ("12:cpu:/x\n0::/a\n", {"a": "300000 100000", "x": "1 100000"}, 3.0),
        ("12:cpu:/x\n", {"x": "100000 100000"}, None),
        ("", {}, None),
        ("0::/\n", {"": "nonsense"}, None),
        ("0::/\n", {"": ""}, None),
        (None, {"": "100000 100000"}, None),
    ],
)
def test_quota(own: str | None, files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    """The tightest quota of the groups that a process is in counts; where none is written, or nothing that is one, there is none."""
    group, root = tmp_path / "cgroup", tmp_path / "root"
    root.mkdir()
    (tmp_path / "cpu.max").write_text("1 100000")  # above the root: nobody's
    if own is not None:
        group.write_text(own)
    for place, text in files.items():
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / "cpu.max").write_text(text)
    assert _quota(group, root) == quota


@pytest.mark.parametrize(
    ("cores", "quota", "usable"), [(4, None, 4), (4, 1.5, 2), (4, 2.0, 2), (4, 0.1, 1), (2, 8.0, 2), (1, None, 1), (4, 0.0, 1)]
)
def test_usable_cores(cores: int, quota: float | None, usable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are as many cores as the process may run on, and no more than its quota pays for, but always one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(processes, "_quota", lambda: quota)
    assert usable_cores() == usable


@pytest.mark.parametrize(("counted", "usable"), [(6, 6), (None, 1)])
def test_usable_cores_without_affinity(counted: int | None, usable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not say on which cores a process may run, all count."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    monkeypatch.setattr(processes, "_quota", lambda: None)
    assert usable_cores() == usable


def test_usable_cores_here() -> None:
    """On this machine there is at least one core, and no more than it has."""
    assert 1 <= usable_cores() <= (os.cpu_count() or math.inf)
