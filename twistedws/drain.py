"""The end of a process's sessions: closes spread over time, a deadline, and a way to shorten both. Floor 4.

A drain ends when no connection is left. Sessions are closed with 1012 (service restart), which tells a client to come back; each
gets the time to answer what it has received. What is left at the deadline is aborted.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from twistedws import config
from twistedws.errors import By, Cause
from twistedws.registry import Registry
from twistedws.session import Session

_log = Logger()

SERVICE_RESTART = 1012
REASON = "service restart"
STEP = 0.05


def spread_seconds(sessions: int, settings: config.Shutdown) -> float:
    """Return over how many seconds the closes of so many sessions are spread: by the rate, if there is one, else as many as are set.

    The deadline bounds it: what is closed last still has the close timeout to answer, or, of a short patience, half. ``drain_seconds``
    take half of the patience at most, whatever the close timeout.
    """
    if settings.drain_rate:
        return _bounded(sessions / settings.drain_rate, settings)
    patience = settings.graceful_timeout
    return min(settings.drain_seconds, patience / 2) if patience else settings.drain_seconds


def warn_of_raised_rate(sessions: int, seconds: float, settings: config.Shutdown) -> None:
    """Log a warning if so many sessions in so many seconds are more than the rate that was asked for."""
    rate = settings.drain_rate
    if rate and seconds < sessions / rate:
        _log.warn(
            "closing {used:.4g} sessions a second, and not the {asked:g} of drain-rate: {sessions} sessions must be closed "
            "within the {patience:g} s of graceful-timeout",
            used=sessions / seconds, asked=rate, sessions=sessions, patience=settings.graceful_timeout,
        )  # fmt: skip


def _bounded(seconds: float, settings: config.Shutdown) -> float:
    patience = settings.graceful_timeout
    return min(seconds, max(patience / 2, patience - settings.close_timeout)) if patience else seconds


class Drain:
    """One drain of all that is in the registry.

    Args:
        registry: The connections and sessions of this process.
        settings: How long closes are spread, an answer is awaited, and everything may take.
        clock: The reactor, or a ``Clock``.
        busy: Counts what the application still runs for sessions, ended ones too.
        uniform: ``random.uniform``, or what stands for it in a test.
    """

    def __init__(
        self,
        registry: Registry,
        settings: config.Shutdown,
        clock: IReactorTime,
        busy: Callable[[], int] = lambda: 0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._registry, self._settings, self._clock, self._uniform = registry, settings, clock, uniform
        self._busy = busy
        self._done: Deferred[None] = Deferred()
        self._schedule: list[tuple[float, Session]] = []
        self._step = LoopingCall(self._close_due)
        self._step.clock = clock
        self._deadline: IDelayedCall | None = None
        self._started_at = 0.0
        self._hurried = self._finished = False
        self._allowed: set[IDelayedCall] = set()  # the closes that applications may still put off

    @property
    def active(self) -> bool:
        """Whether the drain has begun and not ended."""
        return self._registry.draining and not self._finished

    def start(self, seconds: float | None = None) -> Deferred[None]:
        """Begin; sessions that would open from now on are refused.

        Args:
            seconds: Over which the closes are spread; None: as the settings say. Whoever drains several processes at a rate gives it.

        Returns:
            Fires when no connection is left, and the application has finished with all of them.
        """
        self._registry.draining = True
        self._started_at = self._clock.seconds()
        settings, sessions = self._settings, list(self._registry)
        if seconds is None:
            spread = spread_seconds(len(sessions), settings)
            warn_of_raised_rate(len(sessions), spread, settings)
        else:
            spread = _bounded(seconds, settings)
        self._schedule = self._spread(sessions, spread, is_crowd=len(sessions) > 1 or seconds is not None)
        patience = settings.graceful_timeout
        if patience:
            self._deadline = self._clock.callLater(patience, self._abort_all)
        if self._schedule:
            _log.info("draining {sessions} sessions", sessions=len(self._schedule))
        self._step.start(STEP)
        return self._done

    def hurry(self) -> None:
        """Close all that is left now and wait no longer than the close timeout; a second call aborts it."""
        if not self.active:
            return
        if self._hurried:
            self._abort_all()
            return
        self._hurried = True
        if len(self._registry):
            _log.info("draining {sessions} sessions at once: asked again", sessions=len(self._registry))
        self._schedule = [(0.0, session) for _, session in self._schedule]
        patience = self._settings.close_timeout
        if self._deadline is None or self._deadline.getTime() - self._clock.seconds() > patience:
            if self._deadline is not None:
                self._deadline.cancel()
            self._deadline = self._clock.callLater(patience, self._abort_all)
        for each in self._allowed:
            each.reset(min(each.getTime() - self._clock.seconds(), self._patience))

    def _spread(self, sessions: list[Session], seconds: float, *, is_crowd: bool) -> list[tuple[float, Session]]:
        """Give each session its second: evenly over the time, with jitter inside its share, the last one first in the list."""
        share = seconds / len(sessions) if sessions else 0.0
        order = sorted(sessions, key=lambda _: self._uniform(0, 1))
        jitter = share if is_crowd else 0.0  # a single session has no others to keep apart from
        return [(index * share + self._uniform(0, jitter), session) for index, session in enumerate(order)][::-1]

    def _close_due(self) -> None:
        elapsed = self._clock.seconds() - self._started_at
        while self._schedule and self._schedule[-1][0] <= elapsed:
            _, session = self._schedule.pop()
            try:
                session.drain(SERVICE_RESTART, REASON, self._allow)
            except Exception:  # one session that cannot be closed must not keep the process from ending
                _log.failure("cannot drain session={session}", session=session.id, limit="cannot drain")
                session.abort(Cause.DRAIN, By.SERVER)
        if not len(self._registry):
            self._registry.shut_idle()
        if not self._registry.connections and not self._busy():
            self._finish()

    @property
    def _patience(self) -> float:
        """Seconds in which an application may answer first: as long as a peer may take to close, but half of what is left at most."""
        most = self._settings.close_timeout
        return most if self._deadline is None else min(most, (self._deadline.getTime() - self._clock.seconds()) / 2)

    def _allow(self, close: Callable[[], None]) -> None:
        """Let an application answer first, but not for ever."""

        def due() -> None:
            self._allowed.discard(call)
            close()

        call = self._clock.callLater(self._patience, due)
        self._allowed.add(call)

    def _abort_all(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        if len(self._registry):
            _log.warn("aborting {sessions} sessions: the graceful timeout is over", sessions=len(self._registry))
        for session in self._registry:
            session.abort(Cause.DRAIN, By.SERVER)
        self._registry.shut_idle(at_once=True)
        self._clock.callLater(STEP, self._finish)  # the transports' farewells come in the turns between

    def _finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        if self._step.running:
            self._step.stop()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._done.callback(None)
