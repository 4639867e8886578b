"""The command line, and how the parts are put together; the process itself is tested in tests/process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from tests.support import played
from tests.support.quiet_reactor import Reactor
from twistedws import __version__, config, tap
from twistedws.errors import ConfigurationError
from twistedws.server import Head, Server
from twistedws.supervisor.control import Counts, Failed
from twistedws.supervisor.generation import Heritage
from twistedws.supervisor.processes import Launch
from twistedws.supervisor.service import MOST_WORKERS
from twistedws.supervisor.succession import HERITAGE, Succession


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of ours from outside."""
    for name in [each for each in os.environ if each.startswith("TWISTEDWS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def reactor(monkeypatch: pytest.MonkeyPatch) -> Reactor:
    """What ``install_reactor`` gives."""
    made = Reactor()
    monkeypatch.setattr(tap, "install_reactor", lambda: made)
    return made


def parse(*line: str) -> tap.Options:
    """Parse a command line."""
    options = tap.Options()
    options.parseOptions(list(line))
    return options


def ends(*line: str) -> int:
    """Parse a command line that ends the process; return the status."""
    with pytest.raises(SystemExit) as caught:
        parse(*line)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_precedence(reactor: Reactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line goes before the environment, that before the file, that before the default."""
    (tmp_path / "ws.toml").write_text("port = 1\nping-interval = 1\nping-timeout = 1\n")
    monkeypatch.setenv("TWISTEDWS_PORT", "2")
    monkeypatch.setenv("TWISTEDWS_PING_INTERVAL", "2")
    monkeypatch.setenv("TWISTEDWS_CONFIG", str(tmp_path / "ws.toml"))
    settings = parse("--port", "3", "a.b:c").resolved.configuration
    assert (settings.listening.port, settings.keepalive.ping_interval, settings.keepalive.ping_timeout) == (3, 2, 1)
    assert settings.hosting.app == "a.b:c"
    assert settings.shutdown == config.Shutdown()


def test_repeatable(reactor: Reactor) -> None:
    """Repeatable options add up."""
    assert parse("--origin", "null", "--origin=https://a.b").resolved.configuration.handshake.origin == ("null", "https://a.b")


def test_switches(reactor: Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch is an option with no value, which goes before the environment; what follows it is APP."""
    monkeypatch.setenv("TWISTEDWS_FACTORY", "off")
    assert not parse("a.b:c").resolved.configuration.hosting.factory
    hosting = parse("--factory", "a.b:c").resolved.configuration.hosting
    assert (hosting.factory, hosting.app, hosting.reload) == (True, "a.b:c", False)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (("--factory=on",), "option --factory must not have an argument"),
        (("--prot", "1"), "--prot: no such option; did you mean --port?"),
        (("--zzz",), "--zzz: no such option"),
        (("--port",), "requires argument"),
        (("--port", "x"), "--port: x: "),
        (("a", "b"), "b: one APP is accepted, and a is one already"),
        (("--config", "/no/such/file"), "--config: /no/such/file: cannot be read: No such file or directory"),
    ],
)
def test_wrong_lines(line: tuple[str, ...], says: str, reactor: Reactor, capfd: pytest.CaptureFixture[str]) -> None:
    """What is wrong on the command line ends with status 2 and one line that says so."""
    assert ends(*line) == 2
    error = capfd.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_unreadable_file(reactor: Reactor, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A configuration file that is no UTF-8 is named."""
    (tmp_path / "x").write_bytes(b"\xff")
    assert ends("--config", str(tmp_path / "x")) == 2
    assert "no UTF-8" in capfd.readouterr().err


def test_what_only_prints(reactor: Reactor, capsys: pytest.CaptureFixture[str]) -> None:
    """``--version``, ``--show-config`` and ``--check-config`` print and end with status 0."""
    assert ends("--version") == 0
    assert capsys.readouterr().out == f"twistedws {__version__}\n"
    assert ends("--show-config", "--port", "9") == 0
    assert "port = 9 " in capsys.readouterr().out
    assert ends("--check-config") == 0
    assert "is right" in capsys.readouterr().out
    assert ends("--check-config", "--endpoint", "tcp:1:x=2") == 2


def test_help() -> None:
    """The help text names every setting with its default, and fits the width."""
    text = tap.Options().getUsage(100)
    for each in config.SETTINGS:
        assert (f"  {each.written}{'' if each.positional or each.kind == 'switch' else '='} ") in text
    assert "--factory  " in text
    assert max(map(len, text.splitlines())) <= 100


def test_unusable_reactor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The select reactor is refused with the reason; any other gets a clock that nobody can set."""
    import time

    class SelectReactor: ...

    class Other:
        seconds = None

    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", SelectReactor())
    monkeypatch.setattr("twisted.internet.reactor", SelectReactor(), raising=False)
    with pytest.raises(ConfigurationError, match="select"):
        tap.install_reactor()
    monkeypatch.setattr("twisted.internet.reactor", Other())
    assert tap.install_reactor().seconds is time.monotonic


def test_wrong_origin(reactor: Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    """An origin that passes the first look and is none is a wrong configuration all the same."""
    settings = config.Configuration(handshake=config.Handshake(origin=("https://[:::1]",)))
    with pytest.raises(ConfigurationError, match="origin"):
        tap.compose(settings, reactor)


def test_starter() -> None:
    """What an application's ``admit`` returned runs as a task on an asyncio loop, and may wait for Deferreds on other reactors."""
    gate: Deferred[None] = Deferred()

    async def wait() -> None:
        await gate

    done: list[object] = []
    tap._starter(None)(wait()).addCallback(done.append)
    assert done == []
    gate.callback(None)
    assert done == [None]

    async def nothing() -> None:
        await asyncio.sleep(0)

    async def scenario() -> None:
        started = tap._starter(asyncio.get_running_loop())(nothing())
        await started.asFuture(asyncio.get_running_loop())

    asyncio.run(scenario())


def test_reload(reactor: Reactor, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """With ``--reload`` this process watches the same command line, and ends with its status; the child serves; a daemon is refused."""
    from twistedws import reload

    watches: list[tuple[Any, ...]] = []

    def watch(*arguments: Any) -> int:
        watches.append(arguments)
        return 3

    monkeypatch.setattr(reload, "watch", watch)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "twistd", "-n", "twistedws", "--reload"])
    assert ends("--reload", "--app-dir=x", "--close-timeout=1") == 3
    ((hosting, shutdown, command, _),) = watches
    assert (hosting.app_dir, shutdown.close_timeout) == ("x", 1)
    assert command == [sys.executable, "-X", "dev", "twistd", "-n", "twistedws", "--reload"]
    assert ends("--reload", "--check-config") == 0
    options = tap.Options()
    options.parent = {"nodaemon": 0}  # type: ignore[assignment]
    with pytest.raises(SystemExit) as caught:
        options.parseOptions(["--reload"])
    assert caught.value.code == 2
    assert "--reload: a daemon cannot reload: start with twistd -n" in capfd.readouterr().err
    monkeypatch.setattr(reload, "watched", lambda environment: True)
    assert parse("--reload").resolved.configuration.hosting.reload
    assert len(watches) == 1


def test_make_service(reactor: Reactor, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """The entry point for twistd composes the server, knows twistd's options, and ends with status 2 on an application that is none."""
    monkeypatch.setattr("twisted.internet.reactor", reactor, raising=False)
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    options = parse("echo")
    options.parent = {"nodaemon": 1}  # type: ignore[assignment]
    assert tap.makeService(options).twistd == {"nodaemon": 1}
    assert tap.makeService(parse()).twistd == {}
    with pytest.raises(SystemExit) as caught:
        tap.makeService(parse("nonsense"))
    assert caught.value.code == 2
    assert "nonsense" in capfd.readouterr().err


# --- Workers -------------------------------------------------------------------------------------------------


def launch_of(head: Head) -> Launch:
    """How workers are started."""
    launch = head.supervisor._spawn_process.__self__  # type: ignore[attr-defined]
    assert isinstance(launch, Launch)
    return launch


def succession_of(head: Head) -> Succession:
    """How the supervisor is replaced."""
    succession = head._replace.__self__  # type: ignore[attr-defined]
    assert isinstance(succession, Succession)
    return succession


def below(twistd: dict[str, Any], *line: str) -> tap.Options:
    """Parse a command line below that of twistd's."""
    options = tap.Options()
    options.parent = twistd  # type: ignore[assignment]
    options.parseOptions(list(line))
    return options


def test_supervisor(reactor: Reactor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With workers the process supervises: workers run the same command line, the successor too, with what is systemd's."""
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    monkeypatch.setattr("twisted.internet.reactor", reactor, raising=False)
    monkeypatch.setattr(
        sys, "orig_argv", ["python", "-X", "dev", "/bin/twistd", "-n", "twistedws", "--workers=2", "--admin=tcp:0", "a.b:c"]
    )
    monkeypatch.setattr(sys, "argv", ["/bin/twistd", "-n", "twistedws", "--workers=2", "--admin=tcp:0", "a.b:c"])
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "8000000")
    monkeypatch.chdir(tmp_path)
    options = below({"nodaemon": 1, "pidfile": "/run/pid"}, "--workers=2", "--admin=tcp:0", "a.b:c")
    head = tap.makeService(options)
    assert isinstance(head, Head)
    assert head.twistd is options.parent
    launch = launch_of(head)
    ours = ["twistedws", "--workers=2", "--admin=tcp:0", "a.b:c"]
    assert launch.command == [sys.executable, "-X", "dev", "/bin/twistd", "-n", "--pidfile=", *ours]
    assert launch.command[launch.options_at :] == ours[1:]
    assert launch.directory == str(tmp_path)
    assert "NOTIFY_SOCKET" not in launch.environment
    succession = succession_of(head)
    heirs = succession._launch
    assert heirs.command == [sys.executable, "-X", "dev", "/bin/twistd", "-n", "--pidfile=/run/pid", *ours]
    assert heirs.checking() == [*heirs.command[:-3], "--check-config", *ours[1:]]
    assert (heirs.directory, heirs.environment) == (launch.directory, launch.environment)
    assert not head.succeeds
    assert succession._variables() == {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "8000000"}
    assert head.supervisor._current.target == 2
    assert head._admin is not None
    assert head.supervisor.facts() == {"workers": [], "sessions": 0}


def test_supervisor_with_a_heritage(reactor: Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that takes another's place has its sockets and its numbers; what it starts has not."""
    parent = played.Parent()
    heritage = Heritage({"tcp:1": os.dup(parent.listening.fileno())}, [], 41, Counts(opened=7))
    monkeypatch.setenv(HERITAGE, msgspec.json.encode(heritage).decode())
    head = tap.compose_supervisor(parse("--workers=1"), reactor)
    assert HERITAGE not in os.environ
    assert HERITAGE not in launch_of(head).environment
    assert head.supervisor._sockets.descriptors() == heritage.sockets
    assert (head.supervisor._number, head.supervisor.counts().opened) == (41, 7)
    assert (head.succeeds, head._admin) == (True, None)
    head.supervisor._sockets.close()
    parent.close()


def test_no_workers_from_a_cage(reactor: Reactor, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """``--chroot`` with workers is refused, in one line: they could not be started from there."""
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    monkeypatch.setattr("twisted.internet.reactor", reactor, raising=False)
    with pytest.raises(SystemExit) as caught:
        tap.makeService(below({"chroot": "/srv"}, "--workers=1"))
    assert caught.value.code == 2
    error = capfd.readouterr().err
    assert error.startswith("twistedws: --chroot: /srv: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("workers", "cores", "count"), [(0, 8, 0), (3, 8, 3), ("auto", 8, 8), ("auto", 1, 1), ("auto", 1000, MOST_WORKERS)]
)
def test_worker_count(workers: Any, cores: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are as many workers as were asked for, or as there are cores to be used, within bounds."""
    monkeypatch.setattr(tap, "usable_cores", lambda: cores)
    assert tap.worker_count(config.Workers(workers=workers)) == count


@pytest.mark.parametrize(
    ("original", "arguments", "head"),
    [
        (["python", "/usr/bin/twistd", "-n", "twistedws"], ["/usr/bin/twistd", "-n", "twistedws"], ["/usr/bin/twistd"]),
        (["python", "-X", "dev", "-m", "twisted", "twistedws"], ["/lib/__main__.py", "twistedws"], ["-X", "dev", "-m", "twisted"]),
        (["python", "-m", "pkg"], ["/lib/pkg/__main__.py"], ["-m", "pkg"]),
    ],
)
def test_command(
    original: list[str], arguments: list[str], head: list[str], reactor: Reactor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However Python was told what to run, it is told so again: with its own options, and in the foreground."""
    monkeypatch.setattr(sys, "orig_argv", original)
    monkeypatch.setattr(sys, "argv", arguments)
    options = parse("--port", "9", "echo")
    assert tap._command(options, ["--pidfile="]) == [sys.executable, *head, "-n", "--pidfile=", "twistedws", "--port", "9", "echo"]


@pytest.mark.parametrize(
    ("twistd", "kept"),
    [
        ({"nodaemon": 1}, []),
        ({"nodaemon": 1, "logfile": "-"}, []),
        ({"nodaemon": 1, "logfile": "log"}, ["--logfile=HERE/log"]),
        ({"nodaemon": 0}, ["--logfile=HERE/twistd.log"]),
        ({"nodaemon": 1, "syslog": 1, "prefix": "ws"}, ["--syslog", "--prefix=ws"]),
        ({"nodaemon": 1, "reactor": "epoll"}, ["--reactor=epoll"]),
        ({"nodaemon": 1, "rundir": "/", "uid": 5, "pidfile": "x"}, ["--rundir=/"]),
        ({"nodaemon": 1, "rundir": "below"}, ["--rundir=HERE/below"]),
        ({"nodaemon": 1, "rundir": "."}, []),
    ],
)
def test_what_is_kept_of_twistds_options(
    twistd: dict[str, Any], kept: list[str], reactor: Reactor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where to log to, where to run, and which reactor to use, are told again; what the process is by now is not."""
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    monkeypatch.setattr(sys, "orig_argv", ["python", "twistd", "twistedws"])
    monkeypatch.setattr(sys, "argv", ["twistd", "twistedws"])
    monkeypatch.chdir(tmp_path)
    expected = [each.replace("HERE", str(tmp_path)) for each in kept]
    assert tap._command(below(twistd), []) == [sys.executable, "twistd", "-n", *expected, "twistedws"]


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """The handlers of signals, by their numbers; none is a handler of this process's."""
    taken: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", lambda number, handler: taken.__setitem__(number, handler))
    return taken


def test_a_worker(reactor: Reactor, monkeypatch: pytest.MonkeyPatch, handlers: dict[int, Any]) -> None:
    """A worker has its configuration from its supervisor alone, watches from the beginning, and serves even if workers are asked for."""
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    monkeypatch.setattr("twisted.internet.reactor", reactor, raising=False)
    monkeypatch.setenv("TWISTEDWS_PING_INTERVAL", "77")
    parent = played.Parent()
    with played.membership_of(parent, monkeypatch, "workers = 3\nping-interval = 7\n", watched=False) as membership:
        options = tap.Options()
        options.membership = membership
        options.parseOptions(["--ping-interval=777"])
        assert options.resolved.configuration.keepalive.ping_interval == 7
        assert options.resolved.sources["ping_interval"] == "the supervisor"
        assert membership._witness is not None
        assert handlers.keys() == {signal.SIGINT, signal.SIGHUP}  # a Ctrl-C while it starts is the supervisor's too
        assert signal.SIG_IGN not in handlers.values()
        server = tap.makeService(options)
        assert isinstance(server, Server)
        assert (server._membership, server._announcer, server._admin) == (membership, None, None)
    parent.close()


def test_a_worker_that_is_refused(
    reactor: Reactor, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], handlers: dict[int, Any]
) -> None:
    """What a worker cannot start with its supervisor is told, who tells the user once for all of them."""
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    monkeypatch.setattr("twisted.internet.reactor", reactor, raising=False)
    parent = played.Parent()
    with played.membership_of(parent, monkeypatch, 'app = "nonsense"\n', watched=False) as membership:
        options = tap.Options()
        options.membership = membership
        options.parseOptions([])
        with pytest.raises(SystemExit) as caught:
            tap.makeService(options)
        assert caught.value.code == 2
        (failed,) = parent.heard()
        assert isinstance(failed, Failed)
        assert failed.status == 2
        assert "nonsense" in failed.text
    assert capfd.readouterr().err == ""
    parent.close()


def test_a_trial(reactor: Reactor, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A trial in a supervisor's place reads and loads all that it and a worker do, and says what is wrong and what cannot be had."""
    here = socket.create_server(("127.0.0.1", 0))
    taken = f"tcp:{here.getsockname()[1]}:interface=127.0.0.1"

    def tried(*line: str, sockets: tuple[str, ...] = ()) -> int:
        heritage = Heritage({each: os.dup(here.fileno()) for each in sockets}, [], 0, Counts())
        monkeypatch.setenv(HERITAGE, msgspec.json.encode(heritage).decode())
        status = ends("--check-config", *line)
        assert HERITAGE not in os.environ
        return status

    new = "tcp:0:interface=127.0.0.1"
    assert tried("--workers=2", f"--endpoint={new}") == 0
    assert "is right" in capfd.readouterr().out
    assert tried(f"--endpoint={taken}", f"--endpoint={new}", sockets=(f"{taken}:backlog=1024",)) == 0
    assert tried(f"--endpoint={taken}:backlog=7", sockets=(f"{taken}:backlog=1024",)) == 0
    here.settimeout(20)
    with socket.create_connection(here.getsockname()):  # it is listened on as before
        here.accept()[0].close()
    capfd.readouterr()
    assert tried(f"--endpoint={taken}") == 1
    assert f"twistedws: cannot listen on {taken}" in capfd.readouterr().err
    assert tried("--endpoint=nonsense:1") == 2
    assert "nonsense:1" in capfd.readouterr().err
    assert tried(f"--endpoint={new}", "nonsense") == 2
    assert "nonsense" in capfd.readouterr().err
    here.close()


def test_a_directory_that_has_been_removed(reactor: Reactor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the working directory is no more, relative names are meant from the root."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert tap.Options().directory == "/"
