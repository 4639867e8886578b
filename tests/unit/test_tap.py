"""The command line, and how the parts are put together; the process itself is tested in tests/process."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.quiet_reactor import Reactor
from twistedws import __version__, config, tap
from twistedws.errors import ConfigurationError


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
