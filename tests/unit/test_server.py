"""What twistd runs: the order of start and end, the signals, and starts that fail; the processes themselves are tested in tests/process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Application as TwistdApplication
from twisted.logger import ILogObserver

from tests.support.quiet_reactor import Reactor
from twistedws import config, tap
from twistedws.logs import AppendedFile
from twistedws.server import Server, log_stream


def compose(reactor: Reactor, **values: str) -> Server:
    """Put a server together."""
    line = {name.replace("_", "-"): value for name, value in values.items()}
    return tap.compose(config.resolve(command_line=line, environment={}).configuration, reactor)


def test_life(tmp_path: Path) -> None:
    """The server listens, logs where it was told, stops listening, drains, and stops its wheel."""
    reactor = Reactor()
    server = compose(reactor, port="1")
    server.twistd = {"logfile": str(tmp_path / "log"), "nodaemon": False}
    application = TwistdApplication("test")
    server.setServiceParent(application)
    writer = application.getComponent(ILogObserver)
    writer({"log_format": "hello", "log_time": 0.0})
    assert "hello" in (tmp_path / "log").read_text()
    server.startService()
    assert len(reactor.tcpServers) == 1
    done: list[object] = []
    server.stopService().addCallback(done.append)
    assert done == [None]
    assert not server.site.keepalive.running


def test_log_stream(tmp_path: Path) -> None:
    """In the foreground the log goes to standard output unless a file is named; as a daemon to twistd.log."""
    assert log_stream({}) is sys.stdout
    assert log_stream({"logfile": "-"}) is sys.stdout
    stream = log_stream({"nodaemon": 1, "logfile": str(tmp_path / "x")})
    assert isinstance(stream, AppendedFile)
    assert stream.path == tmp_path / "x"


def test_end_in_time(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A process that is still there some time after the reactor is ended, and the threads that kept it are named."""
    reactor = Reactor()
    ended: Future[int] = Future()
    monkeypatch.setattr(os, "_exit", ended.set_result)
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    gate = threading.Event()
    pool = threading.Thread(target=gate.wait, name="a pool's", daemon=True)
    pool.start()
    server = compose(reactor, close_timeout="1ms")
    server.startService()
    for function, arguments, _ in reactor.triggers["after"]["shutdown"]:
        function(*arguments)
    assert ended.result(20) == 0
    gate.set()
    assert "ending without threads that do not end: a pool's" in capfd.readouterr().err


def test_two_signals_at_once() -> None:
    """A second signal before the drain has begun hurries it once it has: the reactor is not stopped twice."""
    reactor = Reactor()
    server = compose(reactor)
    server.startService()
    server.stop_or_hurry()
    server.stop_or_hurry()
    assert reactor.stopped == 1
    hurried: list[bool] = []
    server.stopService()
    assert server._drain is not None
    server._drain.hurry = lambda: hurried.append(True)  # type: ignore[method-assign]
    reactor.advance(0)
    assert hurried == [True]


def test_other_loggers_are_left_alone() -> None:
    """With ``--syslog`` or ``--logger`` twistd's own observer is kept."""
    reactor = Reactor()
    for name in ("logger", "syslog"):
        server = compose(reactor)
        server.twistd = {name: "x"}
        application = TwistdApplication("test")
        server.setServiceParent(application)
        assert application.getComponent(ILogObserver, None) is None


def test_signals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first SIGTERM stops the reactor, the next hurries the drain; SIGUSR1 opens the log anew."""
    reactor = Reactor()
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", lambda number, handler: handlers.__setitem__(number, handler))
    server = compose(reactor)
    server.twistd = {"logfile": str(tmp_path / "log")}
    server.setServiceParent(TwistdApplication("test"))
    server._take_signals(server._signals())
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert reactor.stopped == 1
    (tmp_path / "log").unlink()
    handlers[signal.SIGUSR1](signal.SIGUSR1, None)
    assert (tmp_path / "log").exists()
    server.startService()
    server.stopService()
    handlers[signal.SIGINT](signal.SIGINT, None)
    assert reactor.stopped == 1


def test_cannot_listen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In the foreground the process ends with status 1 and no pidfile is left; a daemon's parent is told by the exception."""
    reactor = Reactor()
    from twisted.internet.error import CannotListenError

    from twistedws.errors import ListenError

    def refuse(*_: object, **__: object) -> None:
        raise CannotListenError("", 1, OSError(98, "Address already in use"))

    monkeypatch.setattr(reactor, "listenTCP", refuse)
    (tmp_path / "pid").write_text("1")
    server = compose(reactor)
    server.twistd = {"pidfile": str(tmp_path / "pid")}
    with pytest.raises(SystemExit) as caught:
        server.startService()
    assert caught.value.code == 1
    assert "Address already in use" in capfd.readouterr().err
    assert not (tmp_path / "pid").exists()
    daemon = compose(reactor)
    daemon.twistd = {"statusPipe": 5}
    with pytest.raises(ListenError, match="Address already in use"):
        daemon.startService()
