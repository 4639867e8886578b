"""``twistd twistedws``: the command line, and the one place where all parts are put together. Floor 7.

Only here are the environment and the command line read. A configuration that is wrong ends the start with one line on standard error
and exit status 2; an endpoint that cannot be listened on, with status 1.
"""

from __future__ import annotations

import difflib
import gc
import os
import re
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO, cast

from twisted.application.service import IServiceCollection, MultiService
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.interfaces import IReactorCore, IReactorTime
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized

from twistedws import config
from twistedws.drain import Drain
from twistedws.errors import ConfigurationError, ListenError, StartupError
from twistedws.gateway.loader import Process, load
from twistedws.keepalive import KeepaliveService
from twistedws.listening import ListeningService, endpoints, most_connections, raise_descriptor_limit
from twistedws.logs import AppendedFile, ConnectionLog, LogWriter
from twistedws.metrics import Metrics
from twistedws.origin import OriginPolicy
from twistedws.protocol import Site, SiteFactory, Turn
from twistedws.proxy import TrustedProxies
from twistedws.registry import Registry

_log = Logger()

EXIT_CANNOT_SERVE, EXIT_WRONG_CONFIGURATION = 1, 2

_BY_OPTION = {each.option: each for each in config.SETTINGS}


class Options(usage.Options):
    """The command line; every option but four is made from ``config.SETTINGS``."""

    synopsis = "[options] [APP]"
    longdesc = (
        "APP is package.module:attribute: a handler class, `async def app(session)`, an ASGI or a WSGI application; or echo, the default. "
        "Each option can also be given as a variable TWISTEDWS_… or as a key of the file that --config names; the command line goes before "
        "the environment, and that before the file."
    )
    optFlags = (
        ["check-config", None, "Say whether the configuration is right: exit with 0, or with 2 and what is wrong."],
        ["show-config", None, "Print the effective configuration, with the origin of each value, and exit."],
    )
    optParameters = (["config", None, None, "TOML file with settings (TWISTEDWS_CONFIG)."],)

    resolved: config.Resolved

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, object] = {}

    def parseOptions(self, options: list[str] | None = None) -> None:
        """Parse; what is wrong ends the process with one line, not with Twisted's pages of usage."""
        try:
            super().parseOptions(options)
        except usage.UsageError as wrong:
            error = str(wrong)
            unknown = re.fullmatch(r"option (--\S+) not recognized", error)
            if unknown:
                near = difflib.get_close_matches(unknown[1], [f"--{each}" for each in (*_BY_OPTION, "config", "check-config")], 1)
                error = f"{unknown[1]}: no such option" + (f"; did you mean {near[0]}?" if near else "")
            _stop(f"twistedws: {error} (see twistd twistedws --help)", EXIT_WRONG_CONFIGURATION)
        except ConfigurationError as error:
            _stop(f"twistedws: {error}", EXIT_WRONG_CONFIGURATION)

    def parseArgs(self, *arguments: str) -> None:
        """Take APP."""
        if len(arguments) > 1:
            raise usage.UsageError(f"{arguments[1]}: one APP is accepted, and {arguments[0]} is one already")
        if arguments:
            self.given["app"] = arguments[0]

    def postOptions(self) -> None:
        """Resolve the configuration, carry out what only prints, and see to the reactor."""
        name = self["config"] or os.environ.get("TWISTEDWS_CONFIG", "")
        self.resolved = config.resolve(
            command_line=self.given, environment=os.environ, file_text=_read(name) if name else None, file_name=name
        )
        if self["show-config"]:
            _stop(self.resolved.show().rstrip(), 0, sys.stdout)
        if self.resolved.configuration.hosting.reload and not self["check-config"]:
            self._watch()
        reactor = install_reactor()
        if self["check-config"]:
            compose(self.resolved.configuration, reactor)
            _stop("twistedws: the configuration is right", 0, sys.stdout)

    def _watch(self) -> None:
        """With ``--reload``: go on if this is the child, which serves; the watcher never does."""
        from twistedws import reload  # others need neither it nor the package that it needs

        if reload.watched(os.environ):
            return
        if self.parent is not None and not self.parent.get("nodaemon", True):
            raise ConfigurationError("--reload", None, "a daemon cannot reload: start with twistd -n")
        settings = self.resolved.configuration
        # orig_argv, not argv: it has `-m twisted` and the interpreter's own options too
        command = [sys.executable, *sys.orig_argv[1:]]
        raise SystemExit(reload.watch(settings.hosting, settings.shutdown, command, os.environ))

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        _stop(f"twistedws {version('twistedws')}", 0, sys.stdout)

    def take(self, option: str, value: str) -> None:
        """Note an option as it was given."""
        if _BY_OPTION[option].repeatable:
            cast("list[str]", self.given.setdefault(option, [])).append(value)
        else:
            self.given[option] = value

    def getUsage(self, width: int | None = None) -> str:
        """The help text: our own, since Twisted's knows nothing of sections."""
        wide = min(width or 100, 100)
        own = [("--config=FILE", str(self.optParameters[0][3])), *((f"--{flag[0]}", str(flag[2])) for flag in self.optFlags)]
        lines = ["", *textwrap.wrap(self.longdesc, wide), ""]
        section = ""
        for each in config.SETTINGS:
            if each.section != section:
                section = each.section
                lines += ["", f"{section.capitalize()}:"]
            name = each.written + ("" if each.positional or each.kind == "switch" else "=")
            lines += _help_entry(name, f"{each.help}{_choices(each)} [{each.shown_default}]", wide)
        lines += ["", "Other:"]
        for name, text in [*own, ("--version", "Print the version and exit."), ("--help", "Show this text and exit.")]:
            lines += _help_entry(name, text, wide)
        return "\n".join(lines) + "\n"


def _add_option(setting: config.Setting) -> None:
    """Give ``Options`` the method by which Twisted knows of an option: of a flag, if it takes no argument."""

    def take(self: Options, value: str) -> None:
        self.take(setting.option, value)

    def switch_on(self: Options) -> None:
        self.given[setting.option] = True

    method = switch_on if setting.kind == "switch" else take
    method.__doc__ = setting.help
    setattr(Options, f"opt_{setting.name}", method)


for _each in config.SETTINGS:
    if not _each.positional:
        _add_option(_each)


def makeService(options: Options) -> Server:
    """Put the server together (twistd's entry point)."""
    from twisted.internet import reactor

    try:
        server = compose(options.resolved.configuration, reactor)
    except ConfigurationError as error:
        _stop(f"twistedws: {error}", EXIT_WRONG_CONFIGURATION)
    server.twistd = options.parent if options.parent is not None else {}
    return server


def install_reactor() -> Any:
    """Return the reactor: the one that ``twistd --reactor`` named, or ours.

    Raises:
        ConfigurationError: It is the select reactor, or one that cannot be had here.
    """
    if "twisted.internet.reactor" not in sys.modules:
        from twistedws.reactor import install

        install()
    from twisted.internet import reactor

    if type(reactor).__name__ == "SelectReactor":
        raise ConfigurationError(
            "--reactor",
            "select",
            "select() fails on descriptors above 1023; no --reactor, or uvloop, asyncio, epoll, kqueue or poll is accepted",
        )
    # Twisted's reactors tell time by the wall clock (twisted #2424): a clock that is set would end every connection.
    reactor.seconds = time.monotonic  # type: ignore[method-assign]
    return reactor


def asyncio_loop(reactor: object) -> Any:
    """Return the asyncio loop below the reactor; None if it has none."""
    return getattr(reactor, "_asyncioEventloop", None)


def compose(settings: config.Configuration, reactor: Any) -> Server:
    """Make all parts and hand each what it needs.

    Raises:
        ConfigurationError: The application cannot be loaded, an endpoint is none, an origin is none.
    """
    loop = asyncio_loop(reactor)
    clock = cast("IReactorTime", reactor)
    places = endpoints(settings.listening, reactor)
    try:
        origins = OriginPolicy(settings.handshake.origin)
    except ValueError as error:
        raise ConfigurationError("origin", None, str(error)) from error
    try:
        proxies = TrustedProxies(settings.proxying.trusted_proxies, settings.proxying.proxy_headers)
    except ValueError as error:
        raise ConfigurationError("trusted-proxies", None, str(error)) from error
    metrics = Metrics()
    process = Process(
        has_asyncio=loop is not None,
        clock=clock,
        call_from_thread=reactor.callFromThread if loop is None else loop.call_soon_threadsafe,
        call_soon=(lambda function: reactor.callLater(0, function)) if loop is None else loop.call_soon,
        metrics=metrics,
    )
    application = load(
        settings.hosting, threads=settings.threads, limits=settings.limits, output=settings.output, http=settings.http, process=process
    )
    keepalive = KeepaliveService(settings.keepalive, settings.output.write_stall_timeout, clock)
    site = Site(
        application=application,
        handshake=settings.handshake,
        limits=settings.limits,
        output=settings.output,
        shutdown=settings.shutdown,
        origins=origins,
        keepalive=keepalive,
        registry=Registry(),
        metrics=metrics,
        observer=ConnectionLog(settings.logging.log_level),
        clock=clock,
        start=_starter(loop),
        proxies=proxies,
        http=settings.http,
        turn=Turn(loop.call_soon) if loop is not None else None,
        most_connections=most_connections(settings.limits.max_connections, raise_descriptor_limit()),
    )
    listening = ListeningService(settings.listening, clock, places)
    listening.factory = SiteFactory(site, listening.accepted)
    return Server(settings, reactor, site, listening)


def _starter(loop: Any | None) -> Callable[[Awaitable[None]], Deferred[None]]:
    """How an awaitable is run on this reactor: as a task where there is an asyncio loop, else it may wait for Deferreds only."""
    if loop is None:
        return lambda awaitable: Deferred.fromCoroutine(_as_coroutine(awaitable))
    import asyncio

    context = copy_context()  # not that of whichever task happens to run
    return lambda awaitable: Deferred.fromFuture(context.run(asyncio.ensure_future, _as_coroutine(awaitable), loop=loop))


async def _as_coroutine(awaitable: Awaitable[None]) -> None:
    try:
        await awaitable
    except (SystemExit, KeyboardInterrupt) as error:  # asyncio would end the process with it
        raise RuntimeError(f"the application raised {error!r}") from error


class Server(MultiService):
    """The service that twistd runs: the wheel, the listening ports, the drain at the end.

    Args:
        settings: The configuration.
        reactor: For signals and the end.
        site: What connections share.
        listening: Where they come from.
    """

    def __init__(self, settings: config.Configuration, reactor: Any, site: Site, listening: ListeningService) -> None:
        super().__init__()
        self.setName("twistedws")
        self.twistd: Any = {}
        self.site, self.listening = site, listening
        self._settings, self._reactor = settings, reactor
        self._drain: Drain | None = None
        self._ending: Deferred[Any] | None = None  # the application's shutdown, after the drain
        self._stop_asked = False
        self._writer: LogWriter | None = None
        site.keepalive.setServiceParent(self)

    def setServiceParent(self, parent: Any) -> None:
        """Join twistd's application, and give it our log observer unless the command line names another."""
        if isinstance(parent, Componentized) and not self.twistd.get("logger") and not self.twistd.get("syslog"):
            logging = self._settings.logging
            self._writer = LogWriter(_log_stream(self.twistd), logging.log_format, logging.log_level)
            parent.setComponent(ILogObserver, self._writer)
            if isinstance(self.site.observer, ConnectionLog):
                self.site.observer.writer = self._writer
        super().setServiceParent(IServiceCollection(parent, parent))

    def startService(self) -> None:
        """Start everything; listen last."""
        super().startService()
        limit = raise_descriptor_limit()  # again: daemonize may come between
        _log.info(
            "serving {app}: at most {most} connections, with {limit} descriptors",
            app=self.site.application.name, most=self.site.most_connections or "any number of", limit=limit,
        )  # fmt: skip
        self._start_application()
        try:
            self.listening.startService()
        except ListenError as error:
            if self.site.application.shutdown is not None:
                asyncio_loop(self._reactor).run_until_complete(self.site.application.shutdown())
            self._cannot_serve(f"cannot listen on {error}", error)
        core = cast("IReactorCore", self._reactor)
        core.addSystemEventTrigger("after", "startup", self._take_signals)
        core.addSystemEventTrigger("after", "startup", self._settle)
        core.addSystemEventTrigger("after", "shutdown", self._end_in_time)

    @inlineCallbacks
    def stopService(self) -> Any:
        """Listen no more, drain, then stop the rest."""
        drain = self._drain = Drain(self.site.registry, self._settings.shutdown, self._reactor, self.site.application.busy)
        try:
            stopped = self.listening.stopService()
            yield drain.start()
            yield stopped
            if self.site.application.shutdown is not None:
                self._ending = self.site.start(self.site.application.shutdown())
                yield self._ending.addErrback(lambda failure: failure.trap(CancelledError))
        finally:
            if self._writer is not None:
                self._writer.defer(None)
        metrics = self.site.metrics
        _log.info(
            "served {opened} sessions: {causes}", opened=metrics.opened,
            causes=", ".join(f"{cause.value} {count}" for cause, count in metrics.closed.most_common()) or "none ended",
        )  # fmt: skip
        yield super().stopService()

    def _start_application(self) -> None:
        """Let the application start, before anybody can connect: its loop runs for that, and the reactor not yet."""
        startup = self.site.application.startup
        if startup is None:
            return
        try:
            asyncio_loop(self._reactor).run_until_complete(startup())
        except StartupError as error:
            self._cannot_serve(f"the application did not start: {error}", error)
        except KeyboardInterrupt:
            self._cannot_serve("interrupted while the application started", StartupError("interrupted"))

    def _take_signals(self) -> None:
        """Our own handlers: with Twisted's, SIGTERM ends in status 143, and a second one in a traceback."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        if self._writer is not None and hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, self._reopen)

    def _settle(self) -> None:
        """Everything is there, and the loop about to run."""
        gc.collect()
        gc.set_threshold(10_000)  # the default, 700 objects, is reached with every few connections
        gc.freeze()  # what has been loaded stays: no full collection need look at its 100,000 objects again
        _log.info("ready")
        if self._writer is not None:
            self._writer.defer(self._reactor.callLater)

    def _signalled(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a signal handler
        self._reactor.callFromThread(self._stop_or_hurry, number)

    def _reopen(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._writer is not None:
            self._reactor.callFromThread(self._writer.reopen)

    def _stop_or_hurry(self, number: int) -> None:
        if self._ending is not None:
            self._ending.cancel()
        elif self._drain is not None:
            self._drain.hurry()
        elif self._stop_asked:  # the drain begins with the end of this turn; the reactor cannot be stopped twice
            self._reactor.callLater(0, self._stop_or_hurry, number)
        else:
            self._stop_asked = True
            _log.info("received {signal}", signal=signal.Signals(number).name)
            self._reactor.stop()

    def _end_in_time(self) -> None:
        """The reactor has ended, and Python waits for the threads that the application has started: not for ever."""
        threading.Thread(target=_end, args=(self._settings.shutdown.close_timeout,), daemon=True).start()

    def _cannot_serve(self, text: str, error: Exception) -> NoReturn:
        """End the start. A daemon's parent waits for an exception to report; else one line and the status are better."""
        if self.twistd.get("statusPipe") is not None:
            raise error
        pidfile = self.twistd.get("pidfile")
        if pidfile:
            Path(pidfile).unlink(missing_ok=True)
        _stop(f"twistedws: {text}", EXIT_CANNOT_SERVE)


def _end(seconds: float) -> None:
    """End the process with status 0 if it still is there after so many seconds."""
    time.sleep(seconds)
    ours = (threading.main_thread(), threading.current_thread())
    names = [each.name for each in threading.enumerate() if each not in ours and not each.name.startswith("twistedws")]
    print(f"twistedws: ending without threads that do not end: {', '.join(names) or 'unknown ones'}", file=sys.__stderr__, flush=True)
    os._exit(0)


def _log_stream(twistd: Any) -> TextIO | AppendedFile:
    """Where twistd would log to: standard output, or the file of --logfile. It is not rotated here: logrotate does, with SIGUSR1."""
    name = twistd.get("logfile")
    if name == "-" or (twistd.get("nodaemon", True) and not name):
        return sys.stdout
    return AppendedFile(Path(name or "twistd.log").absolute())


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "it is no UTF-8"
        raise ConfigurationError("--config", name, f"cannot be read: {text}") from None


def _choices(setting: config.Setting) -> str:
    return f" One of {', '.join(setting.choices)}." if setting.choices else ""


def _help_entry(name: str, text: str, width: int) -> list[str]:
    first = f"      {name:<30} "
    return (
        textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * len(first))
        if len(first) < 40
        else [first, *textwrap.wrap(text, width, initial_indent=" " * 37, subsequent_indent=" " * 37)]
    )


def _stop(line: str, status: int, stream: TextIO | None = None) -> NoReturn:
    print(line, file=stream or sys.__stderr__)
    raise SystemExit(status)
