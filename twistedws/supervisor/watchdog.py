"""What becomes of a worker that does not answer: it is reported, then killed. The supervisor replaces it.

Starting, busy and stuck are told apart: a worker that starts has a deadline of its own; one that is busy, late by some tenths of a second,
only stands back when connections are given out (``balance``); one that is stuck gets none, and says where it is.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from twistedws.supervisor.stacks import understood
from twistedws.supervisor.worker import Stage, Worker

_log = Logger()


class Watchdog:
    """See the module.

    Args:
        changed: Called when a worker must get no more connections.
        clock: The reactor, or a ``Clock``.
    """

    def __init__(self, changed: Callable[[], None], clock: IReactorTime) -> None:
        self._changed, self._clock = changed, clock

    def look(self, worker: Worker, passed: float) -> None:
        """Do what is due for a worker.

        Args:
            worker: The worker.
            passed: Seconds since the last look, as far as the supervisor itself ran.
        """
        now, was_stuck = self._clock.seconds(), worker.is_stuck
        worker.pass_time(passed)
        worker.look_for_stacks(now)
        if worker.is_killed:
            return
        if worker.stage is Stage.STARTING:
            if worker.is_late(now):
                worker.ask_for_stacks(now, self._kill_unready)
        elif worker.leaves_by is not None and now >= worker.leaves_by:
            _log.warn("killing {worker}, which did not end in time", worker=worker.name)
            worker.kill()
        elif worker.is_stuck and not was_stuck:
            self._changed()
            worker.ask_for_stacks(now, _say_stuck)
        elif worker.should_be_killed and not worker.is_asked:  # it may say where it is first, also where both times are the same
            _log.error("killing {worker}: no sign of life for {seconds:.1f} s", worker=worker.name, seconds=worker.silence)
            worker.kill()
            self._changed()

    def _kill_unready(self, worker: Worker, stacks: str) -> None:
        place, stack = understood(stacks)
        seconds = self._clock.seconds() - worker.started_at
        _log.error(
            "killing {worker}, which was not ready in {seconds:.1f} s, {place}",
            worker=worker.name, seconds=seconds, place=place, stack=stack,
        )  # fmt: skip
        worker.kill()


def _say_stuck(worker: Worker, stacks: str) -> None:
    if not worker.is_stuck:  # it has answered again meanwhile
        return
    place, stack = understood(stacks)
    _log.error(
        "{worker} is stuck: its event loop has given no sign of life for {seconds:.1f} s, {place}",
        worker=worker.name, seconds=worker.silence, place=place, stack=stack,
    )  # fmt: skip
