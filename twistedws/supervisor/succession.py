"""A supervisor puts another in its place: the same process, with the program as it is installed now (SIGUSR2).

The sockets stay open and the workers stay its children, so nobody notices but by the version. Its laws:

- The new program is tried first, in a process of its own that loads everything and serves nothing. If it does not start, nothing happens.
- Signals that come between the two supervisors wait for the second.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from twisted.logger import Logger

from twistedws import config
from twistedws.errors import ConfigurationError
from twistedws.supervisor.generation import Heritage
from twistedws.supervisor.processes import MARK, Launch, ending
from twistedws.supervisor.service import Supervisor

_log = Logger()

HERITAGE = "_TWISTEDWS_HERITAGE"  # not TWISTEDWS_…: that would be a setting
_LOOK = 0.05  # seconds from one look at the trial to the next
_TRIAL_TIME = 120.0  # seconds
_MOST_WORDS = 1000  # bytes of what a trial has said, the last of them
_WAITING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)


@dataclass(frozen=True, slots=True)
class Succession:
    """See the module.

    Args:
        supervisor: The one to be replaced.
        command: The command line of its successor.
        launch: How a worker is started, with which the new program is tried.
        resolve: Reads the configuration anew.
        variables: Returns variables that the successor needs beside those of the workers: systemd's.
        reactor: For timers.
    """

    supervisor: Supervisor
    command: Sequence[str]
    launch: Launch
    resolve: Callable[[], config.Resolved]
    variables: Callable[[], Mapping[str, str]]
    reactor: Any

    def begin(self, before: Callable[[], None]) -> None:
        """Try the new program, and have it take over if it starts.

        Args:
            before: Called last, when nothing can fail any more: writes the log, removes the pid file.
        """
        if self.supervisor.heritage() is None:
            _log.warn("not replacing the supervisor: it starts, reloads or stops; try again")
            return
        try:
            trial = self._trial(self.resolve())
        except (ConfigurationError, OSError) as error:
            _log.error("the supervisor stays: {error}", error=error)
            return
        _log.info("replacing the supervisor: trying the program as it is now")
        self._look(trial, self.reactor.seconds(), before)

    def _trial(self, resolved: config.Resolved) -> subprocess.Popen[bytes]:
        """Start a process that loads configuration and application as a worker does, says what is wrong, and ends."""
        trial = self.launch.trial(resolved.show())
        started = subprocess.Popen(  # noqa: S603 - our own command line
            trial.command,
            cwd=self.launch.directory,
            env={**trial.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert started.stderr is not None  # noqa: S101 - it is a pipe
        os.set_blocking(started.stderr.fileno(), False)  # what the trial has started may keep it open
        return started

    def _look(self, trial: subprocess.Popen[bytes], since: float, before: Callable[[], None], words: bytes = b"") -> None:
        status = trial.poll()
        assert trial.stderr is not None  # noqa: S101 - it is a pipe
        words = (words + (trial.stderr.read() or b""))[-_MOST_WORDS:]  # as it comes: a full pipe would hold the trial up
        if status is None and self.reactor.seconds() - since > _TRIAL_TIME:
            trial.kill()
        if status is None:
            self.reactor.callLater(_LOOK, self._look, trial, since, before, words)
            return
        trial.stderr.close()
        said = words.decode("utf-8", "replace").strip()
        heritage = self.supervisor.heritage()
        if status:
            _log.error("the supervisor stays: the new program {ending}: {said}", ending=ending(status), said=said)
        elif heritage is None:
            _log.warn("not replacing the supervisor: it reloads or stops; try again")
        else:
            self._succeed(heritage, before)

    def _succeed(self, heritage: Heritage, before: Callable[[], None]) -> None:
        environment = {
            **{name: value for name, value in self.launch.environment.items() if name != MARK},
            **self.variables(),
            HERITAGE: msgspec.json.encode(heritage).decode(),
        }
        for descriptor in (
            *heritage.sockets.values(),
            *(each for _, _, control, watch, _ in heritage.workers for each in (control, watch)),
        ):
            os.set_inheritable(descriptor, True)
        _log.info("the next supervisor takes over")
        before()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITING)
        try:
            os.chdir(self.launch.directory)  # relative names are meant from there, and twistd has changed it (--rundir)
            os.execve(self.command[0], list(self.command), environment)  # noqa: S606 - our own command line
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _log.error("the supervisor stays: {error}", error=error)


def inherited(environment: MutableMapping[str, str]) -> Heritage | None:
    """Return what the supervisor before this one in the same process has left; None if there was none.

    Args:
        environment: ``os.environ``. The mark is taken out of it.
    """
    mark = environment.pop(HERITAGE, None)
    if mark is None:
        return None
    heritage = msgspec.json.decode(mark, type=Heritage)
    for descriptor in (*heritage.sockets.values(), *(each for _, _, control, watch, _ in heritage.workers for each in (control, watch))):
        os.set_inheritable(descriptor, False)
    return heritage
