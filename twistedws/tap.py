"""``twistd twistedws``: the command line, and the one place where all parts are put together. Floor 7.

Only here are the environment and the command line read. A configuration that is wrong ends the start with one line on standard error
and exit status 2; an endpoint that cannot be listened on, with status 1.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import copy_context
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python import usage

from twistedws import config
from twistedws.errors import ConfigurationError, ListenError
from twistedws.gateway.loader import Process, load
from twistedws.health import Health
from twistedws.keepalive import KeepaliveService
from twistedws.listening import ListeningService, endpoints, most_connections, raise_descriptor_limit
from twistedws.logs import ConnectionLog
from twistedws.metrics import Metrics
from twistedws.origin import OriginPolicy
from twistedws.protocol import Site, SiteFactory, Turn
from twistedws.proxy import TrustedProxies
from twistedws.registry import Registry
from twistedws.server import EXIT_CANNOT_SERVE, EXIT_WRONG_CONFIGURATION, Announcer, Head, Root, Server, leave_to_supervisor, log_file, stop
from twistedws.supervisor.member import Membership
from twistedws.supervisor.processes import Launch, usable_cores
from twistedws.supervisor.service import MOST_WORKERS, Supervisor
from twistedws.supervisor.sockets import ListeningSockets
from twistedws.supervisor.succession import Succession, inherited
from twistedws.systemd import Notifier

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
        self.arguments: list[str] = []
        self.directory = _current_directory()  # twistd changes it later (--rundir), and relative names are meant from here
        self.reactor = ""  # that twistd was told to use
        self.membership = Membership.from_environment(os.environ)

    def parseOptions(self, options: list[str] | None = None) -> None:
        """Parse; what is wrong ends the process with one line, not with Twisted's pages of usage."""
        self.arguments = list(options or ())
        try:
            super().parseOptions(options)
        except usage.UsageError as wrong:
            error = str(wrong)
            unknown = re.fullmatch(r"option (--\S+) not recognized", error)
            if unknown:
                near = difflib.get_close_matches(unknown[1], [f"--{each}" for each in (*_BY_OPTION, "config", "check-config")], 1)
                error = f"{unknown[1]}: no such option" + (f"; did you mean {near[0]}?" if near else "")
            stop(f"twistedws: {error} (see twistd twistedws --help)", EXIT_WRONG_CONFIGURATION)
        except ConfigurationError as error:
            self.refuse(error)

    def refuse(self, error: ConfigurationError) -> NoReturn:
        """End the start with what is wrong; a worker tells its supervisor, who tells the user once for all of them."""
        if self.membership is not None:
            self.membership.failed(EXIT_WRONG_CONFIGURATION, str(error))
            raise SystemExit(EXIT_WRONG_CONFIGURATION)
        stop(f"twistedws: {error}", EXIT_WRONG_CONFIGURATION)

    def parseArgs(self, *arguments: str) -> None:
        """Take APP."""
        if len(arguments) > 1:
            raise usage.UsageError(f"{arguments[1]}: one APP is accepted, and {arguments[0]} is one already")
        if arguments:
            self.given["app"] = arguments[0]

    def postOptions(self) -> None:
        """Resolve the configuration, carry out what only prints, and see to the reactor."""
        if self.membership is not None:
            self.membership.start_witness()
            leave_to_supervisor()
        self.resolved = self.resolve()
        if self["show-config"]:
            stop(self.resolved.show().rstrip(), 0, sys.stdout)
        if self.resolved.configuration.hosting.reload and not self["check-config"]:
            self._watch()
        if "twisted.internet.reactor" in sys.modules and self.parent is not None:
            self.reactor = self.parent.get("reactor") or ""
        reactor = install_reactor()
        if self["check-config"]:
            self._check(reactor)
            stop("twistedws: the configuration is right", 0, sys.stdout)

    def _check(self, reactor: Any) -> None:
        """Make everything, and start nothing; in a supervisor's place, whose sockets are inherited, see whether what is new can be had."""
        heritage = inherited(os.environ)
        compose(self.resolved.configuration, reactor, None if heritage is None else Membership.of_a_trial())
        if heritage is not None:
            try:
                ListeningSockets(reactor, heritage.sockets).probe(self.resolved.configuration.listening)
            except ListenError as error:
                stop(f"twistedws: cannot listen on {error}", EXIT_CANNOT_SERVE)

    def resolve(self) -> config.Resolved:
        """Read the configuration, anew each time: command line, environment and file; a worker has it from its supervisor.

        Raises:
            ConfigurationError: Something in it is wrong.
        """
        if self.membership is not None:
            return config.resolve(command_line={}, environment={}, file_text=self.membership.configuration, file_name="the supervisor")
        name = self["config"] or os.environ.get("TWISTEDWS_CONFIG", "")
        text = _read(str(Path(self.directory, name)), name) if name else None
        return config.resolve(command_line=self.given, environment=os.environ, file_text=text, file_name=name)

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
        stop(f"twistedws {version('twistedws')}", 0, sys.stdout)

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


def makeService(options: Options) -> Root:
    """Put the server together (twistd's entry point)."""
    from twisted.internet import reactor

    try:
        if options.resolved.configuration.workers.workers and options.membership is None:
            root: Root = compose_supervisor(options, reactor)
        else:
            root = compose(options.resolved.configuration, reactor, options.membership)
    except ConfigurationError as error:
        options.refuse(error)
    root.twistd = options.parent if options.parent is not None else {}
    return root


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


def compose(settings: config.Configuration, reactor: Any, membership: Membership | None = None) -> Server:
    """Make all parts of a process that serves, and hand each what it needs.

    Args:
        settings: The configuration.
        reactor: The reactor.
        membership: That of a supervisor's, if this is a worker.

    Raises:
        ConfigurationError: The application cannot be loaded, an endpoint is none, an origin is none.
    """
    loop = asyncio_loop(reactor)
    clock = cast("IReactorTime", reactor)
    if membership is None:
        places = endpoints(settings.listening, reactor)
    else:  # the rate of accepts, and the number of connections, are bounded by the supervisor, for all workers together
        settings = replace(
            settings, listening=replace(settings.listening, accept_rate=0.0), limits=replace(settings.limits, max_connections=0)
        )
        places = membership.endpoints(settings.listening, reactor)
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
    listening = ListeningService(settings.listening, clock, places, "listening" if membership is None else "")
    listening.factory = SiteFactory(site, listening.accepted if membership is None else membership.take_turns(listening))
    if membership is not None:
        return Server(settings, reactor, site, listening, loop, membership=membership)
    health = Health()
    announcer = Announcer(Notifier.from_environment(os.environ, os.getpid()), health, reactor.seconds)
    return Server(settings, reactor, site, listening, loop, announcer, _admin(settings.admin, health, reactor))


def compose_supervisor(options: Options, reactor: Any) -> Head:
    """Make all parts of a process that supervises workers, and hand each what it needs.

    Raises:
        ConfigurationError: An endpoint is none, or twistd was told what cannot be with workers.
    """
    settings = options.resolved.configuration
    twistd: Mapping[str, Any] = options.parent if options.parent is not None else {}
    if twistd.get("chroot"):
        raise ConfigurationError("--chroot", twistd["chroot"], "workers cannot be started from there; none is accepted with --workers")
    notifier, health = Notifier.from_environment(os.environ, os.getpid()), Health()
    announcer = Announcer(notifier, health, reactor.seconds)
    heritage = inherited(os.environ)
    command = _command(options, ["--pidfile="])
    launch = Launch(command, options.directory, dict(os.environ), len(command) - len(options.arguments))
    supervisor = Supervisor(
        options.resolve,
        options.resolved,
        worker_count,
        launch.spawn,
        ListeningSockets(reactor, heritage.sockets if heritage is not None else None),
        announcer,
        reactor,
        heritage,
    )
    health.state = supervisor.facts
    command = _command(options, [f"--pidfile={twistd.get('pidfile') or ''}"])
    succession = Succession(
        supervisor,
        replace(launch, command=command, options_at=len(command) - len(options.arguments)),
        options.resolve,
        notifier.environment,
        reactor,
    )
    head = Head(settings, reactor, supervisor, announcer, _admin(settings.admin, health, reactor), succession.begin)
    head.succeeds = heritage is not None
    return head


def _admin(settings: config.Admin, health: Health, reactor: Any) -> Service | None:
    """Make the operators' endpoint, if there is to be one."""
    if not settings.admin:
        return None
    from twistedws.admin import AdminService  # with twisted.web, which takes a fifth of the time that a start takes

    return AdminService(settings, health, reactor)


def worker_count(settings: config.Workers) -> int:
    """Return how many workers there are to be: for ``auto`` as many as cores that this process may use."""
    if settings.workers != "auto":
        return settings.workers
    return min(MOST_WORKERS, usable_cores())


def _command(options: Options, twistd_options: list[str]) -> list[str]:
    """Return a command line that runs this program again, in the foreground, without twistd's options of the beginning.

    Args:
        options: Ours.
        twistd_options: Those of twistd to give beside.
    """
    twistd: Mapping[str, Any] = options.parent if options.parent is not None else {}
    head = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]  # the interpreter's options and the script, or -m and its module
    kept = ["-n", *twistd_options]
    kept += [f"--reactor={options.reactor}"] if options.reactor else []
    rundir = twistd.get("rundir") or "."
    kept += [f"--rundir={Path(options.directory, rundir)}"] if rundir != "." else []
    kept += ["--syslog", f"--prefix={twistd['prefix']}"] if twistd.get("syslog") else []
    file = log_file(twistd)
    kept += [f"--logfile={file}"] if file is not None else []
    return [sys.executable, *head, *kept, "twistedws", *options.arguments]


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


def _current_directory() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:  # it has been removed
        return "/"


def _read(path: str, name: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
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
