"""When a watcher starts, signals and kills its child, and what it says; with a child that is none. Real ones: tests/process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from twistedws import config, reload
from twistedws.errors import ConfigurationError

NOTHING: frozenset[tuple[Any, str]] = frozenset()


class Child:
    """A child process that notes what it is told.

    Args:
        status: With which it ends when it is asked to.
        is_deaf: It does not end when it is asked to.
    """

    def __init__(self, status: int = 0, *, is_deaf: bool = False) -> None:
        self.told: list[str] = []
        self.status: int | None = None
        self._last, self._is_deaf = status, is_deaf

    def poll(self) -> int | None:
        return self.status

    def wait(self, timeout: float | None = None) -> int:
        if self.status is None and self._is_deaf:
            raise subprocess.TimeoutExpired("child", timeout or 0)
        self.status = self._last if self.status is None else self.status
        self.told.append("waited for")
        return self.status

    def send_signal(self, number: int) -> None:
        self.told.append(signal.Signals(number).name)

    def kill(self) -> None:
        self.told.append("SIGKILL")
        self.status = -9


def watcher(*children: Child) -> reload.Watcher:
    """A watcher that starts these, one after the other."""
    following = iter(children)
    return reload.Watcher(lambda: cast("subprocess.Popen[bytes]", next(following)), 3.0)


def changes(*paths: str) -> frozenset[tuple[Any, str]]:
    return frozenset((1, path) for path in paths)


def test_change(capfd: pytest.CaptureFixture[str]) -> None:
    """A change ends the child, by a signal that begins its drain and one that hurries it, and starts the next; the files are named."""
    first, second = Child(), Child(7)
    here = os.getcwd()  # noqa: PTH109 - a text is wanted
    assert watcher(first, second).run(iter([NOTHING, changes(f"{here}/b.py", f"{here}/a\n.py")])) == 7
    assert first.told == ["SIGTERM", "SIGINT", "waited for"]
    assert second.told == ["waited for"]
    assert capfd.readouterr().err == "twistedws: a\\n.py and 1 more changed: starting anew\n"


def test_child_that_ends_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    """It is told once and not started again before a change; then it gets no signal, since its number may be another's."""
    first, second = Child(), Child()
    first.status = 2

    def scenario() -> Iterator[frozenset[tuple[Any, str]]]:
        yield NOTHING
        yield NOTHING
        assert capfd.readouterr().err == "twistedws: the server ended with status 2: waiting for a change\n"
        yield changes("a.py")
        second.status = 1
        yield NOTHING
        assert "status 1" in capfd.readouterr().err

    assert watcher(first, second).run(scenario()) == 1
    assert first.told == []


def test_child_that_does_not_end(capfd: pytest.CaptureFixture[str]) -> None:
    """A child that does not end in its time is killed."""
    first = Child(is_deaf=True)
    watcher(first, Child()).run(iter([changes("a.py")]))
    assert first.told == ["SIGTERM", "SIGINT", "SIGKILL", "waited for"]
    assert "killing the server, which did not end in 3 s" in capfd.readouterr().err


def test_signal() -> None:
    """A signal is passed on; the watcher ends with the child's status, or as a shell has it if a signal ended the child."""
    for status, shown in ((0, 0), (1, 1), (-signal.SIGINT, 130)):
        child = Child(status)
        watching = watcher(child)

        def scenario(watching: reload.Watcher = watching) -> Iterator[frozenset[tuple[Any, str]]]:
            yield NOTHING
            watching.signalled(signal.SIGINT)
            assert watching.stopped.is_set()

        assert watching.run(scenario()) == shown
        assert child.told == ["SIGINT", "waited for"]


def test_signal_while_a_child_ends() -> None:
    """A signal that comes while one child is being replaced starts no other."""
    child = Child()
    watching = watcher(child)
    child.send_signal = lambda number: watching.stopped.set()  # type: ignore[method-assign]
    assert watching.run(iter([changes("a.py")])) == 0


def test_signal_before_a_child() -> None:
    """A signal before the first child starts none, and is no failure."""
    watching = watcher()
    watching.signalled(signal.SIGTERM)
    assert watching.run(iter([])) == 0


def test_signal_while_a_child_starts() -> None:
    """A signal that comes while a child is being started reaches that child."""
    child = Child()

    def spawn() -> Any:
        watching.signalled(signal.SIGTERM)
        return child

    watching = reload.Watcher(spawn, 3.0)
    assert watching.run(iter([])) == 0
    assert child.told == ["SIGTERM", "waited for"]


def test_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark makes a child, is passed on to nobody, and the end of the watcher's pipe is the end of the child."""
    assert not reload.watched({"PATH": "/bin"})
    killed: list[tuple[int, int]] = []
    done = threading.Event()

    def kill(pid: int, number: int) -> None:
        killed.append((pid, number))
        done.set()

    monkeypatch.setattr(os, "kill", kill)
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    environment = {reload.MARK: str(reading), "PATH": "/bin"}
    try:
        assert reload.watched(environment)
        assert environment == {"PATH": "/bin"}
        assert not os.get_inheritable(reading)
        assert not killed
        assert not reload.watched(environment)
    finally:
        os.close(writing)
    assert done.wait(10)
    os.close(reading)
    assert killed == [(os.getpid(), signal.SIGTERM)]


def test_mark_is_no_setting() -> None:
    """The mark does not begin like a variable of ours, which would be refused as unknown."""
    config.resolve(command_line={}, environment={reload.MARK: "3"})


def test_without_watchfiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is missing, the message says how to get it."""
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(ConfigurationError, match=r"^--reload: needs the package watchfiles: pip install 'twistedws\[reload\]'$"):
        reload.watch(config.Hosting(), config.Shutdown(), [], {})


@pytest.mark.parametrize("hosting", [config.Hosting(app_dir="/nowhere"), config.Hosting(reload_dir=(".", "/nowhere"))])
def test_missing_directory(hosting: config.Hosting) -> None:
    """A directory that is not there is named with its option."""
    option = "--reload-dir" if hosting.reload_dir else "--app-dir"
    with pytest.raises(ConfigurationError, match=rf"^{option}: /nowhere: there is no such directory$"):
        reload.watch(hosting, config.Shutdown(), [], {})


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of signals as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_directory_that_cannot_be_watched(handlers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel refuses (too many watches) is one line, and nothing is started."""
    import watchfiles

    def refuse(*directories: str, **more: object) -> Iterator[None]:
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(watchfiles, "watch", refuse)
    with pytest.raises(ConfigurationError, match=r"^--reload: .*: cannot be watched: .*No space left on device"):
        reload.watch(config.Hosting(app_dir=str(tmp_path)), config.Shutdown(), [], {})


def test_watch(handlers: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The command runs with the mark and a pipe that is open; a signal ends the watch with the command's status."""
    program = (
        "import os, signal, sys, time\n"
        f"os.fstat(int(os.environ['{reload.MARK}']))\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print(os.environ['OURS'], flush=True)\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    hosting = config.Hosting(app_dir="/nowhere", reload_dir=(str(tmp_path),))
    assert reload.watch(hosting, config.Shutdown(), [sys.executable, "-c", program], {"OURS": "here"}) == 5
    said = capfd.readouterr()
    assert said.out == "here\n"
    assert said.err.startswith(f"twistedws: watching {tmp_path} for changes")
