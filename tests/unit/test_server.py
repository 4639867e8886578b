"""What twistd runs: the order of start and end, the signals, and starts that fail; the processes themselves are tested in tests/process."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TextIO, cast

import pytest
from twisted.application.service import Application as TwistdApplication
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogLevel, capturedLogs, formatEvent

from tests.support import played
from tests.support.quiet_reactor import Reactor
from twistedws import config, server, tap
from twistedws.admin import AdminService
from twistedws.errors import ConfigurationError, ListenError
from twistedws.health import Health
from twistedws.logs import AppendedFile
from twistedws.server import Announcer, Head, Server, log_stream
from twistedws.supervisor.control import Drain, Failed, Hurry, Leaving, Ready, Reopen, Report
from twistedws.supervisor.member import Membership
from twistedws.systemd import Notifier


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


def test_log_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the foreground the log goes to standard output, if there is one, unless a file is named; as a daemon to twistd.log."""
    assert log_stream({}) is sys.stdout
    assert log_stream({"logfile": "-"}) is sys.stdout
    monkeypatch.setattr(sys, "stdout", None)
    with cast("TextIO", log_stream({})) as nowhere:
        assert nowhere.name == os.devnull
    monkeypatch.undo()
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


# --- Who is told ---------------------------------------------------------------------------------------------


class Manager:
    """The service manager, which listens."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(self.address)

    def heard(self) -> list[str]:
        messages = []
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(self.socket.recv(8192).decode())
        return messages


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """The service manager."""
    made = Manager(tmp_path)
    yield made
    made.socket.close()


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, Any]]:
    """The handlers of signals, by their numbers; none is a handler of this process's, and its garbage collector is left alone."""
    taken: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", lambda number, handler: taken.__setitem__(number, handler))
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield taken
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def settle(reactor: Reactor) -> None:
    """Do what is done once the reactor runs."""
    for function, arguments, _ in reactor.triggers["after"]["startup"]:
        function(*arguments)


def test_announcer(manager: Manager) -> None:
    """The service manager and whoever asks for readiness are told the same; signs of life are for those alone who want them."""
    health = Health()
    announcer = Announcer(Notifier(manager.address, now=lambda: 5), health, lambda: 100.0)
    assert (health.ready, health.why) == (False, "starting")
    announcer.ready("all serve")
    assert (health.ready, health.why) == (True, "")
    announcer.status("7 sessions")
    announcer.reloading("a new one")
    assert health.ready
    announcer.alive()
    announcer.stopping("it ends")
    assert (health.ready, health.why) == (False, "stopping")
    announcer.serves(True)
    assert (health.ready, health.why) == (False, "stopping")
    assert manager.heard() == [
        "READY=1\nSTATUS=all serve",
        "STATUS=7 sessions",
        "RELOADING=1\nMONOTONIC_USEC=5\nSTATUS=a new one",
        "STOPPING=1\nSTATUS=it ends",
    ]
    Announcer(Notifier(manager.address, 10.0), health, lambda: 100.0).alive()
    assert manager.heard() == ["WATCHDOG=1"]


def test_readiness_with_workers() -> None:
    """From the first time that all serve until the stop, who asks for readiness is told whether a worker serves."""
    health = Health()
    announcer = Announcer(Notifier(None), health, lambda: 100.0)
    announcer.serves(True)
    assert (health.ready, health.why) == (False, "starting")
    announcer.ready("all serve")
    announcer.serves(False)
    assert (health.ready, health.why) == (False, "no worker serves")
    announcer.serves(True)
    assert (health.ready, health.why) == (True, "")


def test_one_process_tells_systemd(manager: Manager, handlers: dict[int, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ready once all is there, gives signs of life, answers a reload that cannot be, and says that it stops."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    reactor = Reactor()
    server = compose(reactor)
    server.startService()
    assert manager.heard() == []
    settle(reactor)
    assert manager.heard()[0] == "READY=1\nSTATUS=ready"
    reactor.advance(1.0)
    assert "WATCHDOG=1" in manager.heard()
    with capturedLogs() as events:
        handlers[signal.SIGHUP](signal.SIGHUP, None)
    assert [each.splitlines()[0] for each in manager.heard()] == ["RELOADING=1", "READY=1"]
    assert "SIGHUP changes nothing: there is no supervisor to reload with" in formatEvent(events[-1])
    server.stopService()
    assert manager.heard()[0].startswith("STOPPING=1")
    assert [each for each in reactor.getDelayedCalls() if each.getTime() < 100] == []


def test_a_server_that_tells_nobody() -> None:
    """One that nobody announces is asked to reload in vain too."""
    reactor = Reactor()
    server = compose(reactor)
    server._announcer = None
    with capturedLogs() as events:
        server._cannot_reload()
    assert len(events) == 1


@pytest.mark.parametrize("signalled", [False, True])
def test_ready_delay(handlers: dict[int, Any], signalled: bool) -> None:
    """From the notice on it listens for a while yet; another signal ends that."""
    reactor = Reactor()
    server = compose(reactor, ready_delay="20s", port="1")
    server.startService()
    settle(reactor)
    done: list[object] = []
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    server.stopService().addCallback(done.append)
    reactor.advance(19.9)
    assert (done, server._drain) == ([], None)
    assert server.listening.running
    if signalled:
        handlers[signal.SIGTERM](signal.SIGTERM, None)
    else:
        reactor.advance(0.2)
    assert done == [None]
    assert not server.listening.running
    assert reactor.stopped == 1


def test_operators(handlers: dict[int, Any], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators' endpoint answers before the application starts, and until all is over; if it cannot be had, nothing is."""
    from twisted.internet.error import CannotListenError

    reactor = Reactor()
    line: dict[str, object] = {"admin": ["tcp:9000"], "port": "1"}
    settings = config.resolve(command_line=line, environment={}).configuration
    made = tap.compose(settings, reactor)
    made.startService()
    assert [each[0] for each in reactor.tcpServers] == [9000, 1]
    settle(reactor)
    done: list[object] = []
    made.stopService().addCallback(done.append)
    assert done == [None]
    assert made._admin is not None
    assert not made._admin.running

    def refuse(*_: object, **__: object) -> None:
        raise CannotListenError("", 9000, OSError(98, "Address already in use"))

    monkeypatch.setattr(reactor, "listenTCP", refuse)
    with pytest.raises(SystemExit) as caught:
        tap.compose(settings, reactor).startService()
    assert caught.value.code == 1
    assert "cannot listen on tcp:9000: Address already in use" in capfd.readouterr().err


# --- A worker ------------------------------------------------------------------------------------------------


class Worker:
    """A worker, composed; its ports are none.

    Attributes:
        parent: Its supervisor's ends.
        server: The server.
    """

    def __init__(self, parent: played.Parent, membership: Membership) -> None:
        self.parent, self.reactor = parent, played.Reactor()
        settings = config.resolve(command_line={}, environment={}, file_text=membership.configuration, file_name="the supervisor")
        self.server = tap.compose(settings.configuration, self.reactor, membership)
        self.server.listening._places = []

    def up(self) -> Worker:
        self.server.startService()
        settle(self.reactor)
        return self


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker that has not started yet."""
    parent = played.Parent()
    with played.membership_of(parent, monkeypatch, "accept-rate = 5\nmax-connections = 7\nready-delay = 9\n") as membership:
        yield Worker(parent, membership)
    parent.close()


def test_a_worker(worker: Worker, handlers: dict[int, Any]) -> None:
    """A worker says that it is ready once it is, reports, and leaves with a last report; limits for all are not its own."""
    site, listening = worker.server.site, worker.server.listening
    assert site.most_connections != 7
    assert listening._bucket is None
    assert worker.parent.heard() == []
    worker.up()
    assert worker.parent.heard() == [Ready(), Report(rests=True)]
    assert len(worker.parent.alarms) == 1
    for number in (signal.SIGINT, signal.SIGHUP):  # they are the supervisor's, and what the application starts has them as usual
        assert handlers[number] not in (signal.SIG_IGN, signal.SIG_DFL)
        handlers[number](number, None)
    assert worker.reactor.stopped == 0
    worker.parent.say(Drain(2.5))
    worker.reactor.poll()
    worker.parent.say(Drain(7.5))
    worker.reactor.poll()
    assert (worker.reactor.stopped, worker.server._seconds) == (1, 2.5)
    done: list[object] = []
    worker.server.stopService().addCallback(done.append)
    assert done == [None]
    assert worker.parent.heard() == [Leaving(), Report(rests=True)]
    assert worker.parent.alarms[-1] is None


def test_a_worker_is_hurried(worker: Worker, handlers: dict[int, Any]) -> None:
    """A worker that is hurried before it was told to leave leaves at once, and its drain is hurried as soon as there is one."""
    worker.up()
    worker.parent.say(Hurry())
    worker.reactor.poll()
    assert (worker.reactor.stopped, worker.server._seconds) == (1, 0.0)
    hurried: list[bool] = []
    worker.server.stopService()
    assert worker.server._drain is not None
    worker.server._drain.hurry = lambda: hurried.append(True)  # type: ignore[method-assign]
    worker.reactor.advance(0)
    assert hurried == [True]
    worker.parent.say(Hurry())
    worker.reactor.poll()
    assert hurried == [True, True]


def test_a_worker_opens_its_log_anew(worker: Worker, handlers: dict[int, Any], tmp_path: Path) -> None:
    """What the supervisor was asked for its workers do too; each line says which process it is of."""
    worker.server.twistd = {"logfile": str(tmp_path / "log")}
    application = TwistdApplication("test")
    worker.server.setServiceParent(application)
    worker.up()
    (tmp_path / "log").unlink(missing_ok=True)
    worker.parent.say(Reopen())
    worker.reactor.poll()
    application.getComponent(ILogObserver)({"log_format": "hello", "log_time": 0.0})
    worker.server._log_waits_no_more()
    assert "worker 7" in (tmp_path / "log").read_text()


def test_what_a_worker_does_not_log(worker: Worker, tmp_path: Path) -> None:
    """What Twisted says of every process and port all workers would say again; warnings and all else are news."""
    worker.server.twistd = {"logfile": str(tmp_path / "log")}
    application = TwistdApplication("test")
    worker.server.setServiceParent(application)
    observer = application.getComponent(ILogObserver)
    for namespace, level, text in [
        ("twisted.scripts._twistd_unix.UnixAppLogger", LogLevel.info, "old: twistd"),
        ("twisted.internet.base", LogLevel.info, "old: reactor"),
        ("twisted.scripts._twistd_unix.UnixAppLogger", LogLevel.warn, "new: warning"),
        ("twistedws.server", LogLevel.info, "new: ours"),
    ]:
        observer({"log_format": text, "log_time": 0.0, "log_namespace": namespace, "log_level": level})
    for text in (
        "SiteFactory starting on 8080",
        "(TCP Port 8080 Closed)",
        "(UNIX Port '/s' Closed)",
        "new: the application's",
    ):
        for key, value in (("log_text", text), ("message", (text,))):
            observer(
                {
                    "log_format": "{text}",
                    "text": text,
                    key: value,
                    "log_time": 0.0,
                    "log_namespace": "log_legacy",
                    "log_level": LogLevel.info,
                }
            )
    worker.server._log_waits_no_more()
    log = (tmp_path / "log").read_text()
    assert [log.count(each) for each in ("new: warning", "new: ours", "new: the application's")] == [1, 1, 2]
    assert not any(each in log for each in ("old", "Port", "starting on"))


def test_a_worker_that_cannot_serve(worker: Worker, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Its supervisor is told why, and nobody else."""

    def refuse() -> None:
        raise ListenError("tcp:1: no")

    monkeypatch.setattr(worker.server.listening, "startService", refuse)
    with pytest.raises(SystemExit) as caught:
        worker.server.startService()
    assert caught.value.code == 1
    assert worker.parent.heard() == [Failed(1, "cannot listen on tcp:1: no")]
    assert capfd.readouterr().err == ""


# --- The head of workers -------------------------------------------------------------------------------------


class House:
    """A head, whose supervisor's workers a test plays."""

    def __init__(self, stage: played.Stage) -> None:
        self.stage, self.health = stage, Health()
        self.replaced: list[Callable[[], Deferred[None]]] = []
        settings = stage._resolve().configuration
        admin = AdminService(settings.admin, self.health, stage.reactor)
        self.announcer = Announcer(Notifier(None), self.health, lambda: 100.0)
        self.head = Head(settings, stage.reactor, stage.supervisor, self.announcer, admin, self.replaced.append)

    def up(self) -> House:
        self.head.privilegedStartService()
        self.head.startService()
        settle(self.stage.reactor)
        for each in self.stage.played:
            each.say_ready()
        self.stage.settle()
        return self


@pytest.fixture
def house(handlers: dict[int, Any]) -> Iterator[Callable[..., House]]:
    """Heads, by their settings."""
    with contextlib.ExitStack() as stack:
        yield lambda **values: House(stack.enter_context(played.Stage(values)))


def test_what_signals_mean(house: Callable[..., House], handlers: dict[int, Any]) -> None:
    """Each signal has its meaning for all workers."""
    there = house().up()
    stage = there.stage
    assert len(stage.played) == 2

    def send(number: int) -> None:
        handlers[number](number, None)
        stage.settle()

    send(signal.SIGTTIN)
    assert len(stage.played) == 3
    stage.played[2].say_ready()
    stage.settle()
    send(signal.SIGTTOU)
    assert stage.supervisor._current.target == 2
    send(signal.SIGUSR1)
    assert stage.played[0].heard_of(Reopen) == [Reopen()]
    send(signal.SIGHUP)
    assert len(stage.played) == 5
    for each in stage.played[3:]:
        each.say_ready()
    stage.settle()
    send(signal.SIGUSR2)
    assert len(there.replaced) == 1
    send(signal.SIGTERM)
    assert stage.reactor.stopped == 1
    done: list[object] = []
    there.head.stopService().addCallback(done.append)
    send(signal.SIGTERM)
    assert stage.reactor.stopped == 1
    for each in stage.played:
        assert each.heard()[-1] == Hurry()
        each.end()
    stage.run(1.0)
    assert done == [None]


def test_ctrl_c(house: Callable[..., House], handlers: dict[int, Any]) -> None:
    """SIGINT ends at once; again, it aborts."""
    there = house().up()
    handlers[signal.SIGINT](signal.SIGINT, None)
    assert there.stage.reactor.stopped == 1
    there.head.stopService()
    there.stage.settle()
    assert [each.heard_of(Hurry) for each in there.stage.played] == [[Hurry()]] * 2
    handlers[signal.SIGINT](signal.SIGINT, None)
    there.stage.settle()
    assert [each.heard_of(Hurry) for each in there.stage.played] == [[Hurry()]] * 2
    assert there.stage.reactor.stopped == 1


def test_signals_that_waited_are_heard(house: Callable[..., House]) -> None:
    """What the supervisor before this one has blocked is let in once there are handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTIN])
    house().up()
    assert signal.SIGTTIN not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_stepping_aside(house: Callable[..., House], handlers: dict[int, Any], tmp_path: Path) -> None:
    """Before another program is in this process the log is written and the pid file removed, if there is one."""
    there = house()
    there.head.twistd = {"logfile": str(tmp_path / "log")}
    there.head.setServiceParent(TwistdApplication("test"))
    there.up()
    handlers[signal.SIGUSR2](signal.SIGUSR2, None)
    (before,) = there.replaced
    done: list[object] = []
    before().addCallback(done.append)
    (tmp_path / "pid").write_text("1")
    there.head.twistd["pidfile"] = str(tmp_path / "pid")
    before().addCallback(done.append)
    assert done == [None, None]
    assert not (tmp_path / "pid").exists()


def test_stepping_aside_from_the_operators_endpoint(
    house: Callable[..., House], handlers: dict[int, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The operators' endpoint is left to the next program first, and all else is done when it is free."""
    there = house().up()
    (tmp_path / "pid").write_text("1")
    there.head.twistd = {"pidfile": str(tmp_path / "pid")}
    free: Deferred[None] = Deferred()
    assert there.head._admin is not None
    monkeypatch.setattr(there.head._admin, "stopService", lambda: free)
    handlers[signal.SIGUSR2](signal.SIGUSR2, None)
    done: list[object] = []
    there.replaced[0]().addCallback(done.append)
    assert (done, (tmp_path / "pid").exists()) == ([], True)
    free.callback(None)
    assert (done, (tmp_path / "pid").exists()) == ([None], False)


def test_a_successor_without_operators(house: Callable[..., House], capfd: pytest.CaptureFixture[str]) -> None:
    """A first supervisor ends if it cannot answer operators; one that takes another's place says so, and serves."""

    def refuse() -> None:
        raise ListenError("tcp:9000: Address already in use")

    first, heir = house(admin=["tcp:9000"]), house(admin=["tcp:9000"])
    for each in (first, heir):
        assert each.head._admin is not None
        each.head._admin.startService = refuse  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as caught:
        first.head.startService()
    assert caught.value.code == 1
    assert "cannot listen on tcp:9000: Address already in use" in capfd.readouterr().err
    heir.head.succeeds = True
    heir.up()
    assert heir.stage.said("not answering operators: cannot listen on tcp:9000: Address already in use")
    assert heir.stage.outside.words == ["ready"]


def test_a_start_that_was_interrupted(house: Callable[..., House]) -> None:
    """An end before there are workers ends nothing of theirs."""
    there = house()
    done: list[object] = []
    there.head.stopService().addCallback(done.append)
    assert (done, there.stage.outside.heard) == ([None], [])


@pytest.mark.parametrize("status", [1, 2])
def test_workers_that_do_not_start(
    house: Callable[..., House], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], status: int
) -> None:
    """The process ends with the first worker's status and words, as one process would have; twistd knows no status but 0."""
    last: list[tuple[Any, ...]] = []
    monkeypatch.setattr(atexit, "register", lambda *arguments: last.append(arguments))
    there = house()
    there.head.privilegedStartService()
    there.head.startService()
    settle(there.stage.reactor)
    there.stage.played[0].say(Failed(status, "no module named x"))
    there.stage.played[0].end(status)
    there.stage.settle()
    assert there.stage.reactor.stopped == 1
    assert capfd.readouterr().err == "twistedws: no module named x\n"
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    ((function, *arguments),) = last
    function(*arguments)
    assert ended == [status]
    assert function is server._exit


@pytest.mark.parametrize("nodaemon", [0, 1])
def test_a_daemons_workers_that_do_not_start(
    house: Callable[..., House], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], nodaemon: int
) -> None:
    """A daemon, whose standard error nobody sees, has its log say why."""
    monkeypatch.setattr(atexit, "register", lambda *_: None)
    there = house()
    there.head.twistd = {"nodaemon": nodaemon}
    there.head.supervisor.gave_up(1, "no module named x")
    assert len(there.stage.said("the workers do not start: no module named x")) == (0 if nodaemon else 1)
    assert capfd.readouterr().err.endswith("twistedws: no module named x\n")


def test_a_head_that_cannot_listen(house: Callable[..., House], capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An endpoint in use ends the start with status 1, one that is none with 2; a daemon's parent is told by the exception."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
        with pytest.raises(SystemExit) as caught:
            house(endpoint=[taken]).head.privilegedStartService()
        assert caught.value.code == 1
        assert f"twistedws: cannot listen on {taken}" in capfd.readouterr().err
        daemon = house(endpoint=[taken]).head
        daemon.twistd = {"statusPipe": 5}
        with pytest.raises(ListenError):
            daemon.privilegedStartService()
    wrong = house(endpoint=["tcp:nonsense"]).head
    wrong.twistd = {"pidfile": str(tmp_path / "pid")}
    with pytest.raises(SystemExit) as caught:
        wrong.privilegedStartService()
    assert caught.value.code == 2
    assert "nonsense" in capfd.readouterr().err
    wrong.twistd = {"statusPipe": 5}
    with pytest.raises(ConfigurationError):
        wrong.privilegedStartService()
