"""``--reload``: a process that watches Python files and runs the server as its child, anew after each change. Floor 6.

For development. The watcher touches no reactor and imports nothing of the application, so nothing of an earlier version is left in what
it starts: the same command line, marked by a variable of its own. It never respins: a child that ended by itself has said why, and the
next change is what may help. A child whose watcher is gone, killed even, ends too: it sees the end of a pipe that only the watcher holds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import FrameType
from typing import Any

from twistedws import config
from twistedws.errors import ConfigurationError

MARK = "_TWISTEDWS_WATCHED_BY"  # not TWISTEDWS_…: that would be a setting
_TICK_MS = 100  # how soon it is seen that a child has ended by itself
_MORE_PATIENCE = 5.0  # seconds for what comes after the last session: the application's own end, and Python's


def watched(environment: MutableMapping[str, str]) -> bool:
    """Say whether this process is the child of a watcher; if so, see to it that it ends with that.

    Args:
        environment: ``os.environ``. The mark is taken out of it: what the application starts is no child of the watcher's.
    """
    mark = environment.pop(MARK, None)
    if mark is None:
        return False
    pipe = int(mark)
    os.set_inheritable(pipe, False)
    threading.Thread(target=_end_with_watcher, args=(pipe,), name="watcher's end", daemon=True).start()
    return True


def _end_with_watcher(pipe: int) -> None:
    os.read(pipe, 1)  # nothing is ever written: it returns when no process holds the other end
    os.kill(os.getpid(), signal.SIGTERM)


def watch(hosting: config.Hosting, shutdown: config.Shutdown, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command, and again after each change of a Python file, until SIGTERM or SIGINT.

    Args:
        hosting: Which directories to watch.
        shutdown: How long a child may take to end.
        command: What to run.
        environment: Its variables.

    Returns:
        The exit status of the last child.

    Raises:
        ConfigurationError: watchfiles is missing, or a directory cannot be watched.
    """
    try:
        import watchfiles
    except ImportError:
        raise ConfigurationError("--reload", None, "needs the package watchfiles: pip install 'twistedws[reload]'") from None
    directories = _directories(hosting)
    reading, _writing = os.pipe()  # neither is inherited unless passed, and the writing end never is

    def spawn() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env={**environment, MARK: str(reading)}, pass_fds=(reading,))  # noqa: S603 - our own command line

    watcher = Watcher(spawn, shutdown.close_timeout + _MORE_PATIENCE)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, watcher.signalled)
    changes = watchfiles.watch(
        *directories,
        watch_filter=watchfiles.PythonFilter(),
        stop_event=watcher.stopped,
        rust_timeout=_TICK_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
    )
    try:
        next(changes, None)  # it watches from here on: no change after the child's start is missed
    except (OSError, RuntimeError) as error:
        raise ConfigurationError("--reload", ", ".join(directories), f"cannot be watched: {error}") from None
    _say(f"watching {', '.join(directories)} for changes of Python files (--reload is for development)")
    return watcher.run(changes)


def _directories(hosting: config.Hosting) -> list[str]:
    for each in hosting.reload_dir or (hosting.app_dir,):
        if not Path(each).is_dir():
            raise ConfigurationError("--reload-dir" if hosting.reload_dir else "--app-dir", each, "there is no such directory")
    return [str(Path(each).resolve()) for each in hosting.reload_dir or (hosting.app_dir,)]


class Watcher:
    """Keeps one child, and puts another in its place after a change.

    Args:
        spawn: Starts a child.
        patience: Seconds after which a child that was asked to end is killed.
    """

    def __init__(self, spawn: Callable[[], subprocess.Popen[bytes]], patience: float) -> None:
        self.stopped = threading.Event()  # what watchfiles asks whether to go on
        self._spawn, self._patience = spawn, patience
        self._child: subprocess.Popen[bytes] | None = None
        self._number = 0
        self._is_mourned = False

    def run(self, changes: Iterator[AbstractSet[tuple[Any, str]]]) -> int:
        """Start a child, and another after each change.

        Args:
            changes: Of each moment the files that have changed: often none. Ends some time after ``stopped`` is set.

        Returns:
            The last child's exit status, as a shell has it.
        """
        self._start()
        for changed in changes:
            if changed:
                _say(f"{_named(sorted({path for _, path in changed}))} changed: starting anew")
                self._end()
                self._start()
            else:
                self._look()
        status = 0 if self._child is None else self._child.wait()
        return 128 - status if status < 0 else status

    def signalled(self, number: int, frame: FrameType | None = None) -> None:  # noqa: ARG002 - the signature of a signal handler
        """Pass a signal on to the child, and go on no longer than that takes.

        A Ctrl-C reaches the child twice, from the terminal and from here, so that it closes everything at once. In a process group of its
        own it would come once, but then no debugger in the child could read from the terminal.
        """
        self._number = number
        self.stopped.set()
        if self._child is not None:
            self._child.send_signal(number)

    def _start(self) -> None:
        if self.stopped.is_set():
            return
        self._child, self._is_mourned = self._spawn(), False
        if self.stopped.is_set():  # the signal came before the child had a name
            self.signalled(self._number)

    def _end(self) -> None:
        """End the child with all its sessions closed by 1012 at once: one signal begins the drain, the next hurries it."""
        if self._child is None or self._child.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGINT):  # two of one kind may become one on their way
            self._child.send_signal(number)
        try:
            self._child.wait(self._patience)
        except subprocess.TimeoutExpired:
            _say(f"killing the server, which did not end in {self._patience:g} s")
            self._child.kill()
            self._child.wait()

    def _look(self) -> None:
        """Say once that the child has ended by itself. What was wrong stands above that, from the child."""
        if self._child is not None and not self._is_mourned and (status := self._child.poll()) is not None:
            self._is_mourned = True
            _say(f"the server ended with status {status}: waiting for a change")


def _named(paths: Sequence[str]) -> str:
    """The first of some files, as seen from here, and how many more there are."""
    name = os.path.relpath(paths[0])
    name = name if name.isprintable() else ascii(name)[1:-1]
    return name if len(paths) == 1 else f"{name} and {len(paths) - 1} more"


def _say(text: str) -> None:
    """Write a line where a failed start has its line: no log has begun in this process, and the child's may be JSON."""
    sys.stderr.write(f"twistedws: {text}\n")
    sys.stderr.flush()
