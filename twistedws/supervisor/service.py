"""The supervisor: workers, from their start to their end.

It serves nobody and loads no application. Its laws:

- There are as many workers as there should be, or will be soon: one that ends is replaced, one that is stuck is killed and replaced; a
  loop of crashes is slowed down and reported.
- A new configuration, or new code, takes over only when all its workers are ready; what is broken changes nothing.
- Every worker that leaves has a deadline, if the settings have one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from socket import socket
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from twistedws import config
from twistedws.drain import spread_seconds, warn_of_raised_rate
from twistedws.errors import Cause, ConfigurationError, ListenError
from twistedws.listening import waiting_in
from twistedws.supervisor.balance import Balance
from twistedws.supervisor.control import Accept, Counts, Hurry, Leaving, Message, Ready, Reopen, Report
from twistedws.supervisor.generation import Generation, Heritage, LeftWorker
from twistedws.supervisor.processes import AdoptedProcess, Spawned, ending
from twistedws.supervisor.restarts import Restarts
from twistedws.supervisor.sockets import ListeningSockets
from twistedws.supervisor.watchdog import Watchdog
from twistedws.supervisor.worker import Stage, Worker, accepts

_log = Logger()

TICK = 0.1
_MOST_TICK = 0.5  # seconds that count as passed between two ticks: see ``worker``
_STATUS = 1.0  # seconds from one status to the next
_GRACE = 0.5  # seconds in which handshakes end that began before their worker was to leave
_REAP = 0.02  # seconds from one look at a process that ends to the next
_REAP_TIME = 2.0  # seconds in which a process that has closed its link must have ended
_LAST_PATIENCE = 1.0  # seconds for workers that were asked to cut everything
_MORE_PATIENCE = 3.0  # seconds for what comes after the last session: Python's own end
MOST_WORKERS = 256


def _ignore(status: int, text: str) -> None:
    """Be told when nobody wants to know."""


class Spawn(Protocol):
    """Starts a worker."""

    def __call__(self, number: int, configuration: str, sockets: Sequence[socket]) -> Spawned:
        """See ``processes.Launch.spawn``."""


class Outside(Protocol):
    """Who is told how the service fares: systemd, and whoever asks whether it is ready."""

    def ready(self, status: str) -> None:
        """All workers serve."""

    def reloading(self, status: str) -> None:
        """New workers are being started, and the old ones serve."""

    def stopping(self, status: str) -> None:
        """The end has begun: no more connections, please."""

    def serves(self, is_serving: bool) -> None:
        """Whether there is a worker that may be given connections; said again and again."""

    def status(self, status: str) -> None:
        """How it fares at the moment."""

    def alive(self) -> None:
        """Workers answer, or are being started; said again and again."""


class Supervisor(Service):
    """See the module.

    Args:
        resolve: Reads the configuration anew; raises ``ConfigurationError``.
        first: The configuration that was read at the start.
        count: Returns how many workers a configuration asks for.
        spawn: Starts a worker.
        sockets: What is listened on.
        outside: Who is told.
        reactor: For timers and links.
        heritage: What a supervisor before this one has left.
    """

    def __init__(
        self,
        resolve: Callable[[], config.Resolved],
        first: config.Resolved,
        count: Callable[[config.Workers], int],
        spawn: Spawn,
        sockets: ListeningSockets,
        outside: Outside,
        reactor: Any,
        heritage: Heritage | None = None,
    ) -> None:
        self._resolve, self._count, self._spawn_process, self._sockets = resolve, count, spawn, sockets
        self._outside, self._reactor, self._heritage = outside, reactor, heritage
        self._number = heritage.number if heritage is not None else 0
        self._past = heritage.counts if heritage is not None else Counts()
        self._current = self._generation(first)
        self._coming: Generation | None = None
        self._leaving: list[Worker] = []
        self._balance = self._new_balance()
        self._spawn_error = ""
        self._is_up = False  # since all workers of the first generation have been ready once
        self._is_again = False  # another reload was asked for during one
        self._is_looping = self._is_hurried = False
        self._stopped: Deferred[None] | None = None
        self._delay: IDelayedCall | None = None  # until listening ends
        self._ticked_at = self._status_at = 0.0
        self._watchdog = Watchdog(self._offer, reactor)
        self._tick_loop = LoopingCall(self._tick)
        self._tick_loop.clock = reactor
        self.gave_up: Callable[[int, str], None] = _ignore  # called where the first start fails, with status and reason

    # Start and end

    def privilegedStartService(self) -> None:
        """Listen, while there may be the right to.

        Raises:
            ListenError: An endpoint cannot be listened on.
            ConfigurationError: A text is no endpoint, or none that workers can share.
        """
        super().privilegedStartService()
        self._current.endpoints = self._sockets.open(self._current.settings.listening)

    def startService(self) -> None:
        """Start the workers."""
        super().startService()
        self._ticked_at = self._reactor.seconds()
        if self._heritage is not None:
            self._adopt(self._heritage)
            self._outside.ready(self._status_text("ready"))
            self.reload()
        else:
            self._fill(self._current)
        self._tick_loop.start(TICK, now=False)

    def stopService(self) -> Deferred[None]:
        """Drain all workers, and wait for their end."""
        super().stopService()
        self._stopped = Deferred()
        settings = self._current.settings.shutdown
        self._outside.stopping(self._status_text("stopping"))
        if self._coming is not None:
            self._drop(self._coming)
        if settings.ready_delay and self._is_up:
            _log.info("not ready any more; listening for {seconds:g} s yet", seconds=settings.ready_delay)
            self._delay = self._reactor.callLater(settings.ready_delay, self._listen_no_more)
        else:
            self._listen_no_more()
        return self._stopped.addCallback(lambda _: self._tick_loop.stop())

    def hurry(self) -> None:
        """Close all that is left at once; asked again, abort it."""
        if self._stopped is None:
            return
        if self._delay is not None:
            self._delay.cancel()
            self._listen_no_more()
        shutdown, hosting = self._current.settings.shutdown, self._current.settings.hosting
        patience = shutdown.close_timeout + hosting.application_close_timeout + _MORE_PATIENCE
        leaves_by = self._reactor.seconds() + (_LAST_PATIENCE if self._is_hurried else patience)
        self._is_hurried = True
        for each in self._leaving:
            each.send(Hurry())
            each.leaves_by = leaves_by if each.leaves_by is None else min(each.leaves_by, leaves_by)

    def _listen_no_more(self) -> None:
        """Answer what waits in the queues with 503, then listen no more and drain."""
        self._delay = None
        self._balance.stop()
        for each in self._current.workers:
            if accepts(each):
                each.send(Accept(after=0, shed=-1))
                break
        self._retire(self._current.workers, self._current.settings)
        self._current.workers = []
        self._current.due = []
        self._reactor.callLater(_GRACE / 2, self._close_sockets)

    def _close_sockets(self) -> None:
        self._sockets.close()
        self._finish_if_empty()

    def _finish_if_empty(self) -> None:
        if self._stopped is not None and self._delay is None and not self._leaving and not self._sockets.descriptors():
            stopped, self._stopped = self._stopped, None
            counts = self.counts()
            _log.info(
                "served {opened} sessions: {causes}", opened=counts.opened,
                causes=", ".join(f"{cause} {count}" for cause, count in sorted(counts.closed.items(), key=lambda each: -each[1]))
                or "none ended",
            )  # fmt: skip
            stopped.callback(None)

    # What operators ask for

    def reload(self) -> None:
        """Start workers with the configuration and the code as they are now; when all are ready, drain the old ones."""
        if self._stopped is not None or not self.running:
            return
        if self._coming is not None:
            self._is_again = True
            return
        if self._is_up:
            self._outside.reloading(self._status_text("reloading"))
        try:
            resolved = self._resolve()
            coming = self._generation(resolved)
            if not coming.target:
                raise ConfigurationError(
                    "workers", 0, "a number above 0 is accepted by a reload: it takes a restart to go without a supervisor"
                )
            coming.endpoints = self._sockets.open(coming.settings.listening)
        except (ConfigurationError, ListenError) as error:
            self._refuse_reload(str(error))
            return
        _log.info("reloading: starting {workers} workers beside those that serve", workers=coming.target)
        self._coming = coming
        self._fill(coming)
        if coming.due:
            self._drop(coming)
            self._refuse_reload(f"cannot start a worker: {self._spawn_error}")

    def more(self) -> None:
        """Have one worker more."""
        if self.running and self._current.target < MOST_WORKERS:
            self._current.target += 1
            _log.info("one worker more: {workers} now", workers=self._current.target)
            self._fill(self._current)

    def fewer(self) -> None:
        """Have one worker less: the one with the fewest sessions leaves."""
        current = self._current
        if not self.running:
            return
        if current.target <= 1:
            _log.warn("the last worker stays")
            return
        current.target -= 1
        _log.info("one worker less: {workers} now", workers=current.target)
        if current.due:
            current.due.pop()
            return
        worker = min(current.workers, key=lambda each: (each.stage is Stage.SERVING, each.report.sessions))
        current.workers.remove(worker)
        self._come_up()
        self._offer()
        self._retire([worker], current.settings)

    def reopen(self) -> None:
        """Have all workers open their log files anew."""
        for each in self._all():
            each.send(Reopen())

    def heritage(self) -> Heritage | None:
        """Return what the supervisor that takes the place of this one needs; None while it cannot be replaced."""
        if self._coming is not None or self._stopped is not None or not self._is_up:
            return None
        if any(each.stage is Stage.STARTING for each in self._current.workers):
            return None
        serving = set(self._current.workers)
        return Heritage(
            self._sockets.descriptors(),
            [
                LeftWorker(each.number, each.pid, each.link.fileno(), each.spawned.watch.fileno(), each not in serving)
                for each in self._all()
                if each.link.fileno() >= 0
            ],
            self._number,
            self._past,
        )

    def may_be_succeeded_by(self, resolved: config.Resolved) -> str:
        """Say why no supervisor can take over with a configuration; "" if one can."""
        if not self._count(resolved.configuration.workers):
            return "workers: 0: it takes a restart to go without a supervisor"
        return ""

    def counts(self) -> Counts:
        """Return what all workers have counted, those that have ended too."""
        total = self._past
        for each in self._all():
            total = total + each.counts
        return total

    def facts(self) -> dict[str, object]:
        """Return what whoever asks for readiness may want to know beside."""
        return {
            "workers": [
                {
                    "number": each.number,
                    "pid": each.pid,
                    "stage": "stuck" if each.is_stuck else "busy" if each.is_busy else each.stage.value,
                    "connections": each.load,
                    "sessions": each.report.sessions,
                }
                for each in self._all()
            ],
            "sessions": sum(each.report.sessions for each in self._all()),
        }

    # Generations

    def _generation(self, resolved: config.Resolved) -> Generation:
        target = self._count(resolved.configuration.workers)
        return Generation(resolved, [], target, Restarts(target))

    def _new_balance(self) -> Balance:
        settings = self._current.settings
        return Balance(self._reactor, self._waiting, settings.listening.accept_rate, settings.limits.max_connections)

    def _waiting(self) -> int:
        return sum(map(waiting_in, self._sockets.of(self._current.endpoints)))

    def _all(self) -> list[Worker]:
        return [*self._current.workers, *(self._coming.workers if self._coming is not None else ()), *self._leaving]

    def _fill(self, generation: Generation) -> None:
        """Start the workers that are missing."""
        while len(generation.workers) + len(generation.due) < generation.target:
            if not self._spawn(generation):
                break

    def _spawn(self, generation: Generation) -> bool:
        now = self._reactor.seconds()
        try:
            spawned = self._spawn_process(self._number + 1, generation.resolved.show(), self._sockets.of(generation.endpoints))
        except OSError as error:
            if not self._is_up:
                self._give_up(1, f"cannot start a worker: {error}")
                return False
            _log.error("cannot start a worker: {error}", error=error, limit="cannot start a worker")
            self._spawn_error = str(error)
            generation.failed_at = now
            generation.due.append(now + max(1.0, generation.restarts.ended(None)))
            return False
        self._number += 1
        worker = Worker(self._number, spawned, generation.settings.workers, self._reactor, now)
        generation.workers.append(worker)
        self._connect(worker)
        return True

    def _connect(self, worker: Worker) -> None:
        worker.link.start(lambda message: self._received(worker, message), lambda: self._look_for_end(worker))

    def _adopt(self, heritage: Heritage) -> None:
        """Take over the workers of the supervisor before this one."""
        now = self._reactor.seconds()
        settings = self._current.settings.workers
        for left in heritage.workers:
            spawned = Spawned(AdoptedProcess(left.pid), socket(fileno=left.control), socket(fileno=left.watch))
            worker = Worker(left.number, spawned, settings, self._reactor, now)
            worker.ready_at = now
            worker.stage = Stage.LEAVING if left.leaves else Stage.SERVING
            worker.leaves_by = self._leaves_by(self._current.settings) if left.leaves else None
            (self._leaving if left.leaves else self._current.workers).append(worker)
            self._connect(worker)
        self._is_up = True
        self._offer()

    def _switch(self, coming: Generation) -> None:
        """The new workers are ready: they accept from now on, and the old ones leave."""
        old, self._current, self._coming = self._current, coming, None
        self._is_up = True  # also if this was asked for before the first generation was ready
        _log.info("{workers} new workers are ready: the old ones leave", workers=coming.target)
        self._balance.stop()
        self._balance = self._new_balance()
        self._offer()
        self._sockets.keep(set(coming.endpoints))
        old.due = []
        self._retire(old.workers, old.settings)
        self._outside.ready(self._status_text("ready"))
        self._reload_again()

    def _reload_again(self) -> None:
        if self._is_again:
            self._is_again = False
            self.reload()

    def _refuse_reload(self, text: str) -> None:
        _log.error("reload refused, nothing is changed: {text}", text=text)
        if self._is_up:
            self._outside.ready(self._status_text("ready, but the last reload was refused"))
        self._fill(self._current)  # a supervisor that has taken over may have fewer than it wants
        self._reload_again()

    def _drop(self, coming: Generation) -> None:
        """Give up workers that were to take over."""
        self._coming = None
        for each in coming.workers:
            each.kill()
            each.stage, each.leaves_by = Stage.LEAVING, None
        self._leaving += coming.workers
        if self._stopped is None:
            self._sockets.keep(set(self._current.endpoints))

    def _retire(self, workers: Iterable[Worker], settings: config.Configuration) -> None:
        """Have workers leave: after a moment in which handshakes that have begun may end.

        Args:
            workers: Whose.
            settings: Theirs.
        """
        workers = list(workers)
        for each in workers:
            if each.stage is Stage.STARTING:  # it serves nobody yet
                each.kill()
            each.stage, each.leaves_by = Stage.LEAVING, self._leaves_by(settings)
        self._leaving += workers
        self._reactor.callLater(_GRACE, self._drain, workers, settings.shutdown)

    def _drain(self, workers: list[Worker], settings: config.Shutdown) -> None:
        sessions = sum(each.report.sessions for each in workers)
        seconds = spread_seconds(sessions, settings)
        warn_of_raised_rate(sessions, seconds, settings)
        for each in workers:
            if each.stage is Stage.LEAVING and not each.is_told:
                each.retire(seconds, each.leaves_by)

    def _leaves_by(self, settings: config.Configuration) -> float | None:
        shutdown, hosting = settings.shutdown, settings.hosting
        if not shutdown.graceful_timeout:
            return None
        patience = shutdown.graceful_timeout + shutdown.close_timeout + hosting.application_close_timeout + _GRACE + _MORE_PATIENCE
        return float(self._reactor.seconds() + patience)

    def _offer(self) -> None:
        """Let those workers accept that can."""
        if not self._is_up or self._is_stopping:
            return
        candidates = [each for each in self._current.workers if accepts(each)]
        others = sum(each.load for each in self._all() if each not in candidates)
        self._balance.candidates(candidates, others)

    @property
    def _is_stopping(self) -> bool:
        return self._stopped is not None and self._delay is None

    # What workers say

    def _received(self, worker: Worker, message: Message) -> None:
        accepted = worker.report.accepted if worker.has_reported else None  # one that was adopted has accepted nobody knows how many
        was_stuck, silence = worker.is_stuck, worker.silence
        worker.received(message, self._reactor.seconds())
        if was_stuck:
            _log.warn("{worker} answers again, after {seconds:.1f} s", worker=worker.name, seconds=silence)
            self._offer()
        if isinstance(message, Report):
            self._balance.accepted(message.accepted - accepted if accepted is not None else 0)
            if worker is self._balance.holder and message.rests:
                self._balance.spent()
            self._balance.decide_soon()
        elif isinstance(message, Ready):
            self._is_ready(worker)
        elif isinstance(message, Leaving):
            self._leaves(worker)

    def _is_ready(self, worker: Worker) -> None:
        seconds = self._reactor.seconds() - worker.started_at
        _log.info("{worker} is ready, {seconds:.1f} s after its start", worker=worker.name, seconds=seconds)
        if self._coming is not None and worker in self._coming.workers:
            if self._coming.is_ready:
                self._switch(self._coming)
            return
        self._come_up()
        if self._current.is_ready:
            self._balance.replaced()
        self._offer()

    def _come_up(self) -> None:
        """Serve, if all workers of the first generation are ready for the first time."""
        if not self._is_up and self._current.is_ready:
            self._is_up = True
            _log.info("ready: {workers} workers", workers=len(self._current.workers))
            self._outside.ready(self._status_text("ready"))

    def _leaves(self, worker: Worker) -> None:
        """A worker drains that was not told to: somebody has sent it SIGTERM."""
        if worker not in self._current.workers:
            return
        _log.info("{worker} leaves, and was not told to: another is started", worker=worker.name)
        self._current.workers.remove(worker)
        worker.stage, worker.is_told, worker.leaves_by = Stage.LEAVING, True, self._leaves_by(self._current.settings)
        self._leaving.append(worker)
        self._offer()
        if self._stopped is None:
            self._fill(self._current)

    def _look_for_end(self, worker: Worker, since: float | None = None) -> None:
        """A worker's link has ended: so will its process."""
        now = self._reactor.seconds()
        if since is None:
            since = now
            worker.has_gone = True
            if worker in self._current.workers:
                self._balance.lost(worker.load)
                self._offer()
        status = worker.spawned.process.poll()
        if status is None:
            if now - since > _REAP_TIME:
                worker.kill()
            self._reactor.callLater(_REAP, self._look_for_end, worker, since)
        else:
            self._has_ended(worker, status)

    def _has_ended(self, worker: Worker, status: int) -> None:
        if worker.stage is Stage.ENDED:
            return
        if not worker.has_gone and worker in self._current.workers:
            self._balance.lost(worker.load)
        was, lost = worker.stage, worker.report.sessions
        worker.close()
        self._past = self._past + worker.counts
        if lost and (status or was is not Stage.LEAVING):
            self._past = self._past + Counts(closed={Cause.WORKER_LOST.value: lost})
        if was is Stage.LEAVING:
            self._leaving.remove(worker)
            if status and not worker.is_killed:
                _log.info("{worker} {ending}, {lost} sessions lost", worker=worker.name, ending=ending(status), lost=lost)
            self._finish_if_empty()
            return
        why = worker.failed.text if worker.failed is not None else "was killed" if worker.is_killed else ending(status)
        if self._coming is not None and worker in self._coming.workers:
            self._coming.workers.remove(worker)
            self._drop(self._coming)
            self._refuse_reload(why if worker.failed is not None else f"{worker.name} {why} before it was ready")
            return
        self._current.workers.remove(worker)
        if not self._is_up:
            self._give_up(worker.failed.status if worker.failed is not None else 1, f"{why if worker.failed else f'{worker.name} {why}'}")
            return
        self._replace(worker, why, lost)

    def _replace(self, worker: Worker, why: str, lost: int) -> None:
        now = self._reactor.seconds()
        current = self._current
        delay = current.restarts.ended(None if worker.ready_at is None else now - worker.ready_at)
        current.failed_at = now
        _log.error(
            "{worker} {why}, {lost} sessions lost: another is started {when}",
            worker=worker.name, why=why, lost=lost, when=f"in {delay:g} s" if delay else "at once",
        )  # fmt: skip
        if current.restarts.is_loop:
            self._is_looping = True
            _log.critical(
                "crash loop: {failures} workers in a row have ended before they served for long; the last one {why}",
                failures=current.restarts.failures, why=why,
            )  # fmt: skip
        self._offer()
        if self._stopped is None and len(current.workers) + len(current.due) < current.target:
            if delay:
                current.due.append(now + delay)
            else:
                self._spawn(current)

    def _give_up(self, status: int, text: str) -> None:
        """The first start has failed: there is nobody who serves, and nothing to go back to."""
        for each in self._current.workers:
            each.kill()
            each.stage = Stage.LEAVING
        self._leaving += self._current.workers
        self._current.workers = []
        self.gave_up(status, text)

    # Time

    def _tick(self) -> None:
        now = self._reactor.seconds()
        passed, self._ticked_at = min(now - self._ticked_at, _MOST_TICK), now
        for each in self._all():
            status = each.spawned.process.poll()
            if status is None:
                self._watchdog.look(each, passed)
            else:  # a child of its own may hold its end of the link, which then does not say so; its last words may be unread yet
                self._reactor.callLater(_REAP, self._has_ended, each, status)
        current = self._current
        if self._stopped is None and any(each <= now for each in current.due):
            current.due = [each for each in current.due if each > now]
            self._fill(current)
        current.see_who_lives(now)
        if self._is_looping and not current.restarts.failures:
            self._is_looping = False
            _log.info("the crash loop has ended: workers live again")
        workers = self._all()
        if not all(each.is_stuck for each in workers) or (not workers and current.due):
            self._outside.alive()
        self._outside.serves(self._is_up and any(map(accepts, current.workers)))
        if now - self._status_at >= _STATUS:
            self._status_at = now
            self._outside.status(self._status_text(""))

    def _status_text(self, word: str) -> str:
        workers = self._current.workers
        serving = sum(accepts(each) for each in workers)
        sessions = sum(each.report.sessions for each in self._all())
        parts = [f"{serving} of {self._current.target} workers serve", f"{sessions} sessions"]
        stuck = [str(each.number) for each in workers if each.is_stuck]
        starting = sum(each.stage is Stage.STARTING for each in self._all())
        parts += [f"{starting} starting"] if starting else []
        parts += [f"stuck: worker {', '.join(stuck)}"] if stuck else []
        parts += [f"{len(self._leaving)} leaving"] if self._leaving else []
        parts += ["crash loop"] if self._is_looping else []
        return (f"{word}: " if word else "") + ", ".join(parts)
