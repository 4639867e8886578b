"""What systemd is told, against a real datagram socket: what is sent, what never is, and what becomes of a socket that does not take it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel, capturedLogs

from twistedws.systemd import LONGEST_STATUS, MOST_OWED, Notifier, _monotonic, _one_line

PIPE_BUF = 4096  # the longest message that systemd takes


class Manager:
    """The end of the socket that is systemd's."""

    def __init__(self, name: str | bytes) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(name)

    def heard(self) -> list[str]:
        """Take what was sent."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(2 * PIPE_BUF).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both kinds of address that NOTIFY_SOCKET has."""
    if request.param == "path":
        return str(tmp_path / "notify")
    if sys.platform != "linux":
        pytest.skip("Linux alone has abstract socket addresses")
    return f"@twistedws-test-{os.getpid()}-{tmp_path.name}"


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    """Systemd, which listens there."""
    manager = Manager("\0" + address[1:] if address.startswith("@") else address)
    yield manager
    manager.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A path at which nobody listens yet."""
    return str(tmp_path / "notify")


@pytest.mark.parametrize(
    ("tell", "expected"),
    [
        (lambda notifier: notifier.ready("4 workers ready"), ["READY=1\nSTATUS=4 workers ready"]),
        (lambda notifier: notifier.reloading("reloads"), ["RELOADING=1\nMONOTONIC_USEC=17\nSTATUS=reloads"]),
        (lambda notifier: notifier.stopping("9 sessions"), ["STOPPING=1\nSTATUS=9 sessions"]),
        (lambda notifier: notifier.status("812 sessions"), ["STATUS=812 sessions"]),
        (lambda notifier: notifier.alive(), ["WATCHDOG=1"]),
        (
            lambda notifier: [notifier.status("a"), notifier.status("a"), notifier.status("b"), notifier.status("a")],
            ["STATUS=a", "STATUS=b", "STATUS=a"],
        ),
        (lambda notifier: [notifier.ready("a"), notifier.status("a"), notifier.status("b")], ["READY=1\nSTATUS=a", "STATUS=b"]),
        (lambda notifier: [notifier.status("a"), notifier.stopping("a")], ["STATUS=a", "STOPPING=1\nSTATUS=a"]),
        (lambda notifier: [notifier.alive(), notifier.alive()], ["WATCHDOG=1", "WATCHDOG=1"]),
    ],
)
def test_messages(manager: Manager, address: str, tell: Callable[[Notifier], object], expected: list[str]) -> None:
    """Each call is one datagram of sd_notify(3)'s assignments, and a status that is shown already is not sent again."""
    tell(Notifier(address, now=lambda: 17))
    assert manager.heard() == expected


@pytest.mark.parametrize("breaks", ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\0"])
def test_injection(manager: Manager, address: str, breaks: str) -> None:
    """A text cannot make an assignment of its own: whatever ends a line, or the message, is a space."""
    notifier = Notifier(address)
    notifier.status(f"x{breaks}STOPPING=1")
    notifier.ready(f"y{breaks}MAINPID=1")
    blank = " " * len(breaks)
    assert manager.heard() == [f"STATUS=x{blank}STOPPING=1", f"READY=1\nSTATUS=y{blank}MAINPID=1"]


@given(st.text(alphabet=st.characters(), max_size=30))
def test_one_line(text: str) -> None:
    """A status is one printable line of UTF-8, whatever the text was."""
    line = _one_line(text)
    assert line.isprintable()
    assert len(line.encode()) <= 4 * LONGEST_STATUS


def test_long_status(manager: Manager, address: str) -> None:
    """With the longest status of the longest characters a message is no longer than what systemd takes."""
    Notifier(address, now=lambda: 2**64 - 1).reloading("\U0001f600" * 5000)
    (message,) = manager.heard()
    assert len(message.encode()) <= PIPE_BUF
    assert message.endswith("\U0001f600" * LONGEST_STATUS)


@pytest.mark.parametrize("address", [None, ""])
def test_no_manager(address: str | None) -> None:
    """Without an address nothing is done, nothing is logged, and there is no watchdog."""
    with capturedLogs() as events:
        notifier = Notifier(address, 60.0)
        for call in (notifier.ready, notifier.reloading, notifier.stopping, notifier.status):
            call("text")
        notifier.alive()
        notifier.alive()
    assert not events
    assert notifier.watchdog_interval == 0.0
    assert notifier.environment() == {}


@pytest.mark.parametrize("wrong", ["vsock:2:1234", "notify", "@", "/"])
def test_wrong_address(wrong: str) -> None:
    """An address that is neither a path nor an abstract name is warned of once, and nothing is sent."""
    with capturedLogs() as events:
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": wrong, "WATCHDOG_USEC": "1000000"}, 1)
        notifier.ready("")
        notifier.alive()
    assert [(event["log_level"], event["address"]) for event in events] == [(LogLevel.warn, wrong)]
    assert notifier.watchdog_interval == 0.0


@pytest.mark.parametrize(
    ("variables", "interval", "warnings"),
    [
        ({}, 0.0, 0),
        ({"WATCHDOG_USEC": "60000000"}, 30.0, 0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 30.0, 0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, 0.0, 0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "x"}, 0.0, 0),
        ({"WATCHDOG_PID": "7"}, 0.0, 0),
        ({"WATCHDOG_USEC": "soon"}, 0.0, 1),
        ({"WATCHDOG_USEC": "soon", "WATCHDOG_PID": "8"}, 0.0, 0),
        ({"WATCHDOG_USEC": ""}, 0.0, 1),
        ({"WATCHDOG_USEC": "-1"}, 0.0, 1),
        ({"WATCHDOG_USEC": "1.5"}, 0.0, 1),
        ({"WATCHDOG_USEC": "1_000"}, 0.0, 1),
        ({"WATCHDOG_USEC": "\u0661"}, 0.0, 1),
        ({"WATCHDOG_USEC": "0"}, 0.0, 1),
        ({"WATCHDOG_USEC": str(2**64 - 1)}, 0.0, 1),
        ({"WATCHDOG_USEC": "9" * 5000}, 0.0, 1),
        ({"WATCHDOG_USEC": "1"}, 0.0000005, 0),
    ],
)
def test_environment(path: str, variables: dict[str, str], interval: float, warnings: int) -> None:
    """The watchdog is ours if it names us or nobody, half of its time is the interval, and what is no time is warned of."""
    environment = {"PATH": "/bin", "NOTIFY_SOCKET": path, **variables}
    with capturedLogs() as events:
        notifier = Notifier.from_environment(environment, 7)
    assert notifier.watchdog_interval == interval
    assert [event["log_level"] for event in events] == [LogLevel.warn] * warnings
    assert environment == {"PATH": "/bin"}, "children must not have the variables"


@given(st.integers(min_value=1, max_value=10**15))
def test_again(microseconds: int) -> None:
    """After execve(2) with ``environment()``, the same process has the same notifier, whatever its pid is."""
    given_variables = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": str(microseconds), "WATCHDOG_PID": "7"}
    notifier = Notifier.from_environment(given_variables, 7)
    variables = notifier.environment()
    assert variables == {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": str(microseconds)}
    again = Notifier.from_environment(variables, 7)
    assert (again.watchdog_interval, again.environment()) == (notifier.watchdog_interval, notifier.environment())


def test_again_without_watchdog(manager: Manager, address: str) -> None:
    """Without a watchdog, the address alone is handed on, and reaches the same socket."""
    variables = Notifier(address).environment()
    assert variables == {"NOTIFY_SOCKET": address}
    Notifier.from_environment(variables, 1).ready("again")
    assert manager.heard() == ["READY=1\nSTATUS=again"]


def test_nobody_there(path: str) -> None:
    """A socket that is missing is warned of once, until it works; then changes of state have not been lost, nor their order."""
    notifier = Notifier(path)
    with capturedLogs() as events:
        notifier.ready("up")
        notifier.status("busy")
        notifier.alive()
        notifier.alive()
        notifier.stopping("down")
        assert [(event["log_level"], event["what"]) for event in events] == [(LogLevel.warn, "READY=1")]
        first = Manager(path)
        notifier.alive()
        assert first.heard() == ["READY=1\nSTATUS=up", "STOPPING=1\nSTATUS=down", "WATCHDOG=1"]
        notifier.status("down")
        assert not first.heard()
        assert len(events) == 1
        first.close()
        notifier.status("lost")
        notifier.status("lost")
        assert [event["what"] for event in events] == ["READY=1", "STATUS=lost"]
    Path(path).unlink()
    second = Manager(path)  # as a service manager that has started anew
    notifier.status("lost")
    assert second.heard() == ["STATUS=lost"]
    second.close()


def test_full(manager: Manager, address: str) -> None:
    """A socket that is full neither blocks nor raises; what is owed comes once there is room, of old changes the newest."""
    notifier = Notifier(address)
    with capturedLogs() as events:
        sent = 0
        while not events:  # as many as the kernel holds (net.unix.max_dgram_qlen)
            sent += 1
            notifier.alive()
        for each in range(MOST_OWED + 2):
            notifier.ready(str(each))
        notifier.alive()
    assert len(events) == 1
    assert manager.heard() == ["WATCHDOG=1"] * (sent - 1)
    told: list[str] = []
    for _ in range(MOST_OWED):  # the kernel may hold fewer than are owed
        notifier.status(str(MOST_OWED + 1))
        told += manager.heard()
    assert told == [f"READY=1\nSTATUS={each}" for each in range(2, MOST_OWED + 2)]


def test_descriptors(manager: Manager, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first message no descriptor is needed: a sign of life comes where connections have taken all; one at first waits."""

    def none_left(*arguments: object) -> None:
        raise OSError(24, "Too many open files")

    early, late = Notifier(address), Notifier(address)
    early.ready("")
    monkeypatch.setattr(socket, "socket", none_left)
    early.alive()
    late.ready("late")
    monkeypatch.undo()
    late.alive()
    assert manager.heard() == ["READY=1\nSTATUS=", "WATCHDOG=1", "READY=1\nSTATUS=late", "WATCHDOG=1"]


def test_not_inherited(manager: Manager, address: str) -> None:
    """The socket is closed in whatever the process executes."""
    notifier = Notifier(address)
    notifier.alive()
    assert notifier._socket is not None
    assert not notifier._socket.get_inheritable()
    assert not notifier._socket.getblocking()


def test_too_long(tmp_path: Path) -> None:
    """A path longer than the kernel takes is warned of, no more."""
    with capturedLogs() as events:
        Notifier(str(tmp_path / ("x" * 200))).ready("")
    assert [event["log_level"] for event in events] == [LogLevel.warn]


def test_clock() -> None:
    """The time of a reload is CLOCK_MONOTONIC's, which systemd compares with its own."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    middle = _monotonic()
    assert before <= middle <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000 or sys.platform != "linux"


def test_execve(manager: Manager, address: str) -> None:
    """A process that executes itself again, as one that is upgraded in place, tells systemd as before."""
    program = (
        "import os, sys\n"
        "from twistedws.systemd import Notifier\n"
        "notifier = Notifier.from_environment(os.environ, os.getpid())\n"
        "assert not any(each in os.environ for each in ('NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID'))\n"
        "notifier.status(f'{sys.argv[1]} {notifier.watchdog_interval}')\n"
        "if sys.argv[1] == 'old':\n"
        "    os.execve(sys.executable, [sys.executable, '-c', sys.argv[2], 'new'], {**os.environ, **notifier.environment()})\n"
    )
    variables = {**os.environ, "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"}
    subprocess.run([sys.executable, "-c", program, "old", program], env=variables, check=True, timeout=60)
    assert manager.heard() == ["STATUS=old 1.5", "STATUS=new 1.5"]
