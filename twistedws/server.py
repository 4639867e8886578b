"""What twistd runs: one process that serves (by itself, or as a worker), or a supervisor of workers. Just below the composition root.

Owns the order of start and end, and the process's signals. Its laws:

- Nobody is listened to before the application has started.
- A first signal ends gracefully, another hurries, and no signal is needed: every end has a deadline.
"""

from __future__ import annotations

import atexit
import gc
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO, cast

from twisted.application.service import IServiceCollection, MultiService, Service
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.interfaces import IReactorCore
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import FilteringLogObserver, ILogFilterPredicate, ILogObserver, LogEvent, Logger, LogLevel, PredicateResult
from twisted.python.components import Componentized

from twistedws import config
from twistedws.drain import Drain
from twistedws.errors import ConfigurationError, ListenError, StartupError
from twistedws.health import Health
from twistedws.listening import ListeningService, raise_descriptor_limit
from twistedws.logs import AppendedFile, ConnectionLog, LogWriter
from twistedws.protocol import Site
from twistedws.supervisor.member import Membership
from twistedws.supervisor.service import Supervisor
from twistedws.systemd import Notifier

_log = Logger()

EXIT_CANNOT_SERVE, EXIT_WRONG_CONFIGURATION = 1, 2
_PORT_LINE = re.compile(r"SiteFactory starting on |\(.* Port .* Closed\)")
_STATUS = 1.0  # seconds from one status for systemd to the next


class Announcer:
    """Tells everybody outside how the service fares: systemd, and whoever asks whether it is ready.

    Args:
        notifier: To systemd.
        health: What the operators' endpoint answers.
        seconds: Of a monotonic clock.
    """

    def __init__(self, notifier: Notifier, health: Health, seconds: Callable[[], float]) -> None:
        self.notifier, self._health, self._seconds = notifier, health, seconds
        self._alive_at = 0.0
        self._is_ready = False  # since the start, until the stop

    def ready(self, status: str) -> None:
        """All serve."""
        self._is_ready = True
        self._health.ready, self._health.why = True, ""
        self.notifier.ready(status)

    def reloading(self, status: str) -> None:
        """Something new is being started, and the old serves."""
        self.notifier.reloading(status)

    def stopping(self, status: str) -> None:
        """The end has begun: no more connections, please."""
        self._is_ready = False
        self._health.ready, self._health.why = False, "stopping"
        self.notifier.stopping(status)

    def serves(self, is_serving: bool) -> None:
        """Whether there is a worker that may be given connections; said again and again."""
        if self._is_ready:
            self._health.ready, self._health.why = is_serving, "" if is_serving else "no worker serves"

    def status(self, status: str) -> None:
        """How it fares at the moment."""
        self.notifier.status(status)

    def alive(self) -> None:
        """The event loop turns, and workers answer; said as often as one likes."""
        interval, now = self.notifier.watchdog_interval, self._seconds()
        if interval and now - self._alive_at >= interval / 2:
            self._alive_at = now
            self.notifier.alive()


class Root(MultiService):
    """What a process of twistd's is here, whatever it does: its log, its signals, its start that may fail.

    Args:
        settings: The configuration.
        reactor: For signals and the end.
        announcer: Tells others; None in a worker, whose supervisor does.
        admin: The operators' endpoint, if there is one.
        process: Which of several processes this is, for the log.
    """

    def __init__(
        self, settings: config.Configuration, reactor: Any, announcer: Announcer | None, admin: Service | None, process: str = ""
    ) -> None:
        super().__init__()
        self.setName("twistedws")
        self.twistd: Any = {}
        self._settings, self._reactor, self._announcer, self._admin, self._process = settings, reactor, announcer, admin, process
        self._writer: LogWriter | None = None
        self._stop_asked = False

    def setServiceParent(self, parent: Any) -> None:
        """Join twistd's application, and give it our log observer unless the command line names another."""
        if isinstance(parent, Componentized) and not self.twistd.get("logger") and not self.twistd.get("syslog"):
            logging = self._settings.logging
            self._writer = LogWriter(log_stream(self.twistd), logging.log_format, logging.log_level, process=self._process)
            quiet = self._process.startswith("worker")
            parent.setComponent(
                ILogObserver, FilteringLogObserver(self._writer, [cast("ILogFilterPredicate", _is_news)]) if quiet else self._writer
            )
            self._has_writer(self._writer)
        super().setServiceParent(IServiceCollection(parent, parent))

    def _has_writer(self, writer: LogWriter) -> None:
        """There is a log of ours."""

    def _answer_operators(self) -> None:
        if self._admin is not None:
            try:
                self._admin.startService()
            except ListenError as error:
                self._cannot_answer_operators(error)

    def _cannot_answer_operators(self, error: ListenError) -> None:
        self._cannot_serve(f"cannot listen on {error}", error)

    def _take_signals(self, numbers: dict[int, Callable[[], None]]) -> None:
        """Our own handlers: with Twisted's, SIGTERM ends in status 143, and a second one in a traceback."""
        for number, act in numbers.items():
            signal.signal(number, self._handler(number, act))

    def _handler(self, number: int, act: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
        def handler(received: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a signal handler
            self._reactor.callFromThread(self._signalled, number, act)

        return handler

    def _signalled(self, number: int, act: Callable[[], None]) -> None:
        _log.info("received {signal}", signal=signal.Signals(number).name)
        act()

    def _reopen(self) -> None:
        if self._writer is not None:
            self._writer.reopen()

    def _log_may_wait(self) -> None:
        if self._writer is not None:
            self._writer.defer(self._reactor.callLater)

    def _log_waits_no_more(self) -> None:
        if self._writer is not None:
            self._writer.defer(None)

    def _cannot_serve(self, text: str, error: Exception, status: int = EXIT_CANNOT_SERVE) -> NoReturn:
        """End the start. A daemon's parent waits for an exception to report; else one line and the status are better."""
        if self.twistd.get("statusPipe") is not None:
            raise error
        pidfile = self.twistd.get("pidfile")
        if pidfile:
            Path(pidfile).unlink(missing_ok=True)
        stop(f"twistedws: {text}", status)


class Server(Root):
    """A process that serves: the wheel, the listening ports, the drain at the end.

    Args:
        settings: The configuration.
        reactor: For signals and the end.
        site: What connections share.
        listening: Where they come from.
        loop: asyncio's, if the reactor has one.
        announcer: Tells others.
        admin: The operators' endpoint.
        membership: That of a supervisor's, if this is a worker.
    """

    def __init__(
        self,
        settings: config.Configuration,
        reactor: Any,
        site: Site,
        listening: ListeningService,
        loop: Any,
        announcer: Announcer | None = None,
        admin: Service | None = None,
        membership: Membership | None = None,
    ) -> None:
        super().__init__(settings, reactor, announcer, admin, membership.name if membership is not None else "")
        self.site, self.listening = site, listening
        self._loop, self._membership = loop, membership
        self._drain: Drain | None = None
        self._seconds: float | None = None  # over which a supervisor wants the closes to be spread
        self._ending: Deferred[Any] | None = None  # the application's shutdown, after the drain
        self._delay: Deferred[None] | None = None  # before listening ends
        self._status_loop = LoopingCall(self._tell_status)
        self._status_loop.clock = reactor
        site.keepalive.setServiceParent(self)

    def _has_writer(self, writer: LogWriter) -> None:
        if isinstance(self.site.observer, ConnectionLog):
            self.site.observer.writer = writer

    def privilegedStartService(self) -> None:
        """Listen while there is the right to, if it is going to be given up; accept later."""
        super().privilegedStartService()
        if any(self.twistd.get(each) is not None for each in ("uid", "gid")):
            self.listening.rest()
            self._listen()

    def startService(self) -> None:
        """Start everything; listen last, or accept."""
        super().startService()
        limit = raise_descriptor_limit()  # again: daemonize may come between
        _log.info(
            "serving {app}: at most {most} connections, with {limit} descriptors",
            app=self.site.application.name, most=self.site.most_connections or "any number of", limit=limit,
        )  # fmt: skip
        self._answer_operators()
        self._start_application()
        if self.listening.running:
            self.listening.resume()
        else:
            self._listen()
        core = cast("IReactorCore", self._reactor)
        core.addSystemEventTrigger("after", "startup", self._settle)
        core.addSystemEventTrigger("after", "shutdown", self._end_in_time)

    def _listen(self) -> None:
        try:
            self.listening.startService()
        except ListenError as error:
            if self.running and self.site.application.shutdown is not None:
                self._loop.run_until_complete(self.site.application.shutdown())
            self._cannot_serve(f"cannot listen on {error}", error)

    @inlineCallbacks
    def stopService(self) -> Any:
        """Be ready no more, then listen no more, drain, and stop the rest."""
        self._stop_asked = True
        if self._membership is not None:
            self._membership.leaves()
        if self._announcer is not None:
            self._announcer.stopping(f"stopping: {len(self.site.registry)} sessions")
        shutdown = self._settings.shutdown
        if self._announcer is not None and shutdown.ready_delay:
            _log.info("not ready any more; listening for {seconds:g} s yet", seconds=shutdown.ready_delay)
            self._delay = deferLater(self._reactor, shutdown.ready_delay)
            yield self._delay.addErrback(lambda failure: failure.trap(CancelledError))
            self._delay = None
        drain = self._drain = Drain(self.site.registry, shutdown, self._reactor, self.site.application.busy)
        try:
            stopped = self.listening.stopService()
            yield drain.start(self._seconds)
            yield stopped
            if self.site.application.shutdown is not None:
                self._ending = self.site.start(self.site.application.shutdown())
                yield self._ending.addErrback(lambda failure: failure.trap(CancelledError))
        finally:
            self._log_waits_no_more()
        metrics = self.site.metrics
        _log.info(
            "served {opened} sessions: {causes}", opened=metrics.opened,
            causes=", ".join(f"{cause.value} {count}" for cause, count in metrics.closed.most_common()) or "none ended",
        )  # fmt: skip
        if self._membership is not None:
            self._membership.leave()
        if self._status_loop.running:
            self._status_loop.stop()
        if self._admin is not None and self._admin.running:
            yield self._admin.stopService()
        yield super().stopService()

    def _start_application(self) -> None:
        """Let the application start, before anybody can connect: its loop runs for that, and the reactor not yet."""
        startup = self.site.application.startup
        if startup is None:
            return
        try:
            self._loop.run_until_complete(startup())
        except StartupError as error:
            self._cannot_serve(f"the application did not start: {error}", error)
        except KeyboardInterrupt:
            self._cannot_serve("interrupted while the application started", StartupError("interrupted"))

    def _settle(self) -> None:
        """Everything is there, and the loop about to run."""
        self._take_signals(self._signals())
        gc.collect()
        gc.set_threshold(10_000)  # the default, 700 objects, is reached with every few connections
        gc.freeze()  # what has been loaded stays: no full collection need look at its 100,000 objects again
        if self._membership is not None:
            self._join(self._membership)
        else:
            _log.info("ready")
        if self._announcer is not None:
            self._announcer.ready("ready")
            self._status_loop.start(self._announcer.notifier.watchdog_interval / 2 or _STATUS)
        self._log_may_wait()

    def _signals(self) -> dict[int, Callable[[], None]]:
        signals: dict[int, Callable[[], None]] = {signal.SIGTERM: self.stop_or_hurry, signal.SIGUSR1: self._reopen}
        if self._membership is None:
            signals[signal.SIGINT] = self.stop_or_hurry
            signals[signal.SIGHUP] = self._cannot_reload
        else:
            leave_to_supervisor()
        return signals

    def _join(self, membership: Membership) -> None:
        membership.join(
            self._reactor,
            self._loop,
            registry=self.site.registry,
            metrics=self.site.metrics,
            drain=self._drain_over,
            hurry=self._hurry,
            reopen=self._reopen,
            longest_silence=self._settings.workers.worker_timeout,
        )

    def _drain_over(self, seconds: float) -> None:
        if not self._stop_asked:
            self._seconds = seconds
            self.stop_or_hurry()

    def _hurry(self) -> None:
        if not self._stop_asked:
            self._drain_over(0.0)
        self.stop_or_hurry()

    def _cannot_reload(self) -> None:
        if self._announcer is not None:  # systemd waits for both, where it is what has sent the signal
            self._announcer.reloading("nothing to reload")
            self._announcer.ready("ready")
        _log.warn("SIGHUP changes nothing: there is no supervisor to reload with; --workers 1 or more has one")

    def _tell_status(self) -> None:
        assert self._announcer is not None  # noqa: S101 - who has none does not come here
        self._announcer.status(f"{len(self.site.registry)} sessions")
        self._announcer.alive()

    def stop_or_hurry(self) -> None:
        """End gracefully; asked again, sooner."""
        if self._ending is not None:
            self._ending.cancel()
        elif self._delay is not None:
            self._delay.cancel()
        elif self._drain is not None:
            self._drain.hurry()
        elif self._stop_asked:  # the drain begins with the end of this turn; the reactor cannot be stopped twice
            self._reactor.callLater(0, self.stop_or_hurry)
        else:
            self._stop_asked = True
            self._reactor.stop()

    def _cannot_serve(self, text: str, error: Exception, status: int = EXIT_CANNOT_SERVE) -> NoReturn:
        if self._membership is not None:
            self._membership.failed(status, text)
            raise SystemExit(status)
        super()._cannot_serve(text, error, status)

    def _end_in_time(self) -> None:
        """The reactor has ended, and Python waits for the threads that the application has started: not for ever."""
        threading.Thread(target=_end, args=(self._settings.shutdown.close_timeout,), daemon=True).start()


class Head(Root):
    """A process that supervises workers.

    Args:
        settings: The configuration, as it was at the start.
        reactor: For signals and the end.
        supervisor: Of the workers.
        announcer: Tells others.
        admin: The operators' endpoint.
        replace: Tries to put a new supervisor in the place of this process's; calls its argument when nothing can fail any more.
    """

    def __init__(
        self,
        settings: config.Configuration,
        reactor: Any,
        supervisor: Supervisor,
        announcer: Announcer,
        admin: Service | None,
        replace: Callable[[Callable[[], Deferred[None]]], None],
    ) -> None:
        super().__init__(settings, reactor, announcer, admin, "supervisor")
        self.supervisor, self._replace = supervisor, replace
        self.succeeds = False  # whether it takes the place of another, and must not end for what that has not needed
        supervisor.gave_up = self._give_up

    def privilegedStartService(self) -> None:
        """Listen, while there is the right to."""
        super().privilegedStartService()
        try:
            self.supervisor.privilegedStartService()
        except ListenError as error:
            self._cannot_serve(f"cannot listen on {error}", error)
        except ConfigurationError as error:
            self._cannot_serve(str(error), error, EXIT_WRONG_CONFIGURATION)

    def _cannot_answer_operators(self, error: ListenError) -> None:
        if not self.succeeds:
            super()._cannot_answer_operators(error)
        _log.error("not answering operators: cannot listen on {error}", error=error)

    def startService(self) -> None:
        """Start the workers."""
        super().startService()
        raise_descriptor_limit()
        self._answer_operators()
        core = cast("IReactorCore", self._reactor)
        core.addSystemEventTrigger("after", "startup", self._settle)

    def _settle(self) -> None:
        supervisor = self.supervisor
        self._take_signals(
            {
                signal.SIGTERM: self._stop_or_hurry,
                signal.SIGINT: self._stop_at_once,
                signal.SIGHUP: supervisor.reload,
                signal.SIGTTIN: supervisor.more,
                signal.SIGTTOU: supervisor.fewer,
                signal.SIGUSR1: self._reopen,
                signal.SIGUSR2: lambda: self._replace(self._step_aside),
            }
        )
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # of a supervisor before this one, which kept them for us
        supervisor.startService()
        self._log_may_wait()

    @inlineCallbacks
    def stopService(self) -> Any:
        """Drain all workers."""
        self._stop_asked = True
        if self.supervisor.running:
            yield self.supervisor.stopService()
        self._log_waits_no_more()
        if self._admin is not None and self._admin.running:
            yield self._admin.stopService()
        yield super().stopService()

    def _reopen(self) -> None:
        super()._reopen()
        self.supervisor.reopen()

    def _stop_or_hurry(self) -> None:
        if self._stop_asked:
            self.supervisor.hurry()
        else:
            self._stop_asked = True
            self._reactor.stop()

    def _stop_at_once(self) -> None:
        if not self._stop_asked:
            self._stop_or_hurry()
        self._reactor.callLater(0, self.supervisor.hurry)

    @inlineCallbacks
    def _step_aside(self) -> Any:
        """Another program is about to be in this process: write what waits, let go of what it would take for another's."""
        if self._admin is not None and self._admin.running:
            yield self._admin.stopService()
        self._log_waits_no_more()
        sys.stdout.flush()
        pidfile = self.twistd.get("pidfile")
        if pidfile:
            Path(pidfile).unlink(missing_ok=True)

    def _give_up(self, status: int, text: str) -> None:
        """The workers do not start: end, as one process would have."""
        if not self.twistd.get("nodaemon", True):  # nobody sees its standard error
            _log.critical("the workers do not start: {text}", text=text)
        self._log_waits_no_more()
        print(f"twistedws: {text}", file=sys.__stderr__, flush=True)
        atexit.register(_exit, status)
        self._stop_asked = True
        self._reactor.stop()


def _is_news(event: LogEvent) -> Any:
    """Leave out of a worker's log what Twisted says of every process and port: all workers say the same, and the supervisor has said it."""
    name = event.get("log_namespace", "")
    if event.get("log_level", LogLevel.info) > LogLevel.info:
        return PredicateResult.maybe
    is_old = name.startswith(("twisted.scripts.", "twisted.internet.base"))
    is_port = name == "log_legacy" and _PORT_LINE.search(event.get("log_text") or str(event.get("message", "")))
    return PredicateResult.no if is_old or is_port else PredicateResult.maybe


def leave_to_supervisor() -> None:
    """Do nothing on the signals that a terminal sends to all its processes: what they mean is the supervisor's to say.

    They are not ignored by the system: what the application starts would inherit that.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _do_nothing)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def _exit(status: int) -> None:
    """End with this status: twistd's own is 0, whatever has happened once the reactor runs."""
    sys.stdout.flush()
    os._exit(status)


def _end(seconds: float) -> None:
    """End the process with status 0 if it still is there after so many seconds."""
    time.sleep(seconds)
    ours = (threading.main_thread(), threading.current_thread())
    names = [each.name for each in threading.enumerate() if each not in ours and not each.name.startswith("twistedws")]
    print(f"twistedws: ending without threads that do not end: {', '.join(names) or 'unknown ones'}", file=sys.__stderr__, flush=True)
    os._exit(0)


def log_stream(twistd: Mapping[str, Any]) -> TextIO | AppendedFile:
    """Where twistd would log to: standard output, or the file of --logfile. It is not rotated here: logrotate does, with SIGUSR1."""
    file = log_file(twistd)
    if file is not None:
        return AppendedFile(file)
    return sys.stdout if sys.stdout is not None else Path(os.devnull).open("w")


def log_file(twistd: Mapping[str, Any]) -> Path | None:
    """The file that twistd would log to; None for standard output."""
    name = twistd.get("logfile")
    if name == "-" or (twistd.get("nodaemon", True) and not name):
        return None
    return Path(name or "twistd.log").absolute()


def stop(line: str, status: int, stream: TextIO | None = None) -> NoReturn:
    """End the process with one line and a status."""
    print(line, file=stream or sys.__stderr__)
    raise SystemExit(status)
