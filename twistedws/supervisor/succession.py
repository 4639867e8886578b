"""A supervisor puts another in its place: the same process, with the program as it is installed now (SIGUSR2).

The sockets stay open and the workers stay its children, so nobody notices but by the version. Its laws:

- The new program is tried first, in a process of its own that reads the configuration, opens what is new to listen on, loads the
  application, and ends. If it cannot, nothing happens.
- Signals that come between the two supervisors wait for the second.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twistedws import config
from twistedws.errors import ConfigurationError
from twistedws.supervisor.control import Counts
from twistedws.supervisor.generation import Heritage
from twistedws.supervisor.processes import Launch, ending
from twistedws.supervisor.service import Supervisor

_log = Logger()

HERITAGE = "_TWISTEDWS_HERITAGE"  # not TWISTEDWS_…: that would be a setting
_LOOK = 0.05  # seconds from one look at the trial to the next
_TRIAL_TIME = 120.0  # seconds
_MOST_WORDS = 1000  # bytes of what a trial has said, the last of them
_WAITING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)


class Succession:
    """See the module.

    Args:
        supervisor: The one to be replaced.
        launch: How its successor is started.
        resolve: Reads the configuration anew.
        variables: Returns variables that the successor needs beside those that workers have: systemd's.
        reactor: For timers.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        launch: Launch,
        resolve: Callable[[], config.Resolved],
        variables: Callable[[], Mapping[str, str]],
        reactor: Any,
    ) -> None:
        self._supervisor, self._launch, self._resolve, self._variables, self._reactor = supervisor, launch, resolve, variables, reactor
        self._is_trying = False

    def begin(self, before: Callable[[], Deferred[None]]) -> None:
        """Try the new program, and have it take over if it starts.

        Args:
            before: Called last, when nothing can fail any more: lets go of what the successor would take for another's.
        """
        heritage = self._supervisor.heritage()
        if heritage is None or self._is_trying:
            _log.warn("not replacing the supervisor: it starts, reloads, stops or is being replaced; try again")
            return
        try:
            if why := self._supervisor.may_be_succeeded_by(self._resolve()):
                raise ConfigurationError("the configuration", None, why)
            trial = self._trial(heritage)
        except (ConfigurationError, OSError) as error:
            _log.error("the supervisor stays: {error}", error=error)
            return
        _log.info("replacing the supervisor: trying the program as it is now")
        self._is_trying = True
        self._look(trial, self._reactor.seconds(), before)

    def _trial(self, heritage: Heritage) -> subprocess.Popen[bytes]:
        """Start a process that loads and opens all that a supervisor and a worker do, says what is wrong, and ends."""
        mark = {HERITAGE: msgspec.json.encode(Heritage(heritage.sockets, [], 0, Counts())).decode()}
        trial = subprocess.Popen(  # noqa: S603 - our own command line
            self._launch.checking(),
            cwd=self._launch.directory,
            env={**self._launch.inherited(), **mark},
            pass_fds=list(heritage.sockets.values()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert trial.stderr is not None  # noqa: S101 - it is a pipe
        os.set_blocking(trial.stderr.fileno(), False)  # what the trial has started may keep it open
        return trial

    def _look(
        self,
        trial: subprocess.Popen[bytes],
        since: float,
        before: Callable[[], Deferred[None]],
        words: bytes = b"",
        *,
        is_late: bool = False,
    ) -> None:
        status = trial.poll()
        assert trial.stderr is not None  # noqa: S101 - it is a pipe
        words = (words + (trial.stderr.read() or b""))[-_MOST_WORDS:]  # as it comes: a full pipe would hold the trial up
        if status is None:
            if self._reactor.seconds() - since > _TRIAL_TIME:
                trial.kill()
                is_late = True
            self._reactor.callLater(_LOOK, partial(self._look, trial, since, before, words, is_late=is_late))
            return
        trial.stderr.close()
        said = words.decode("utf-8", "replace").strip()
        heritage = self._supervisor.heritage()
        self._is_trying = not status and heritage is not None  # what comes last may take its time
        if status:
            how = f"was not there in {_TRIAL_TIME:g} s" if is_late else ending(status)
            _log.error("the supervisor stays: the new program {how}: {said}", how=how, said=said)
        elif heritage is None:
            _log.warn("not replacing the supervisor: it reloads or stops; try again")
        else:
            _log.info("the next supervisor takes over")
            before().addCallback(lambda _: self._succeed()).addErrback(self._fail)

    def _fail(self, failure: Failure) -> None:
        self._is_trying = False
        _log.failure("the supervisor stays", failure)

    def _succeed(self) -> None:
        self._is_trying = False
        heritage = self._supervisor.heritage()
        if heritage is None:  # meanwhile
            return
        environment = {**self._launch.inherited(), **self._variables(), HERITAGE: msgspec.json.encode(heritage).decode()}
        for descriptor in heritage.descriptors():
            os.set_inheritable(descriptor, True)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITING)
        try:
            os.chdir(self._launch.directory)  # relative names are meant from there, and twistd has changed it (--rundir)
            os.execve(self._launch.command[0], list(self._launch.command), environment)  # noqa: S606 - our own command line
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
    for descriptor in heritage.descriptors():
        os.set_inheritable(descriptor, False)
    return heritage
