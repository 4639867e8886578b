"""A supervisor puts another in its place: the trial of the new program, and what is left to it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from tests.support.played import Stage
from twistedws.errors import ConfigurationError
from twistedws.supervisor.control import Counts
from twistedws.supervisor.generation import Heritage, LeftWorker
from twistedws.supervisor.processes import MARK, Launch
from twistedws.supervisor.succession import _LOOK, _TRIAL_TIME, _WAITING, HERITAGE, Succession, inherited

DEADLINE = 20.0  # seconds


class Stop(BaseException):
    """What execve(2) does to the program that calls it, as far as a test can bear it."""


class House:
    """A supervisor that can be replaced, and its successor's program.

    Attributes:
        executed: What was executed.
        mask: The signals that were blocked then.
        launch: How the successor is started.
        before: What comes last, each time that it was called: called back when it is over, at once unless ``waits``.
        waits: Whether what comes last takes its time.
        fails: What execve(2) raises.
        trials: The processes that were started to try the program.
    """

    def __init__(self, stage: Stage, program: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stage = stage
        self.executed: list[tuple[Any, ...]] = []
        self.mask: set[int] = set()
        self.before: list[Deferred[None]] = []
        self.waits = False
        self.fails: OSError | None = None
        self.trials: list[subprocess.Popen[bytes]] = []
        monkeypatch.setattr(os, "execve", self._execve)
        monkeypatch.chdir("/")
        popen = subprocess.Popen

        def start(*arguments: Any, **keywords: Any) -> subprocess.Popen[bytes]:
            self.trials.append(popen(*arguments, **keywords))
            return self.trials[-1]

        monkeypatch.setattr(subprocess, "Popen", start)
        environment = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": "/its/own", MARK: "another's"}
        self.launch = Launch([sys.executable, "-c", program, "the application"], str(directory), environment, 3)
        self.succession = Succession(stage.supervisor, self.launch, stage._resolve, lambda: {"WATCHDOG_USEC": "5"}, stage.reactor)

    def _execve(self, *arguments: Any) -> None:
        self.executed.append(arguments)
        self.mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        raise self.fails or Stop

    def _last(self) -> Deferred[None]:
        assert self.executed == []
        self.before.append(Deferred())
        if not self.waits:
            self.before[-1].callback(None)
        return self.before[-1]

    def try_it(self) -> None:
        """Begin."""
        self.succession.begin(self._last)

    def begin(self) -> None:
        """Begin, and look until the trial is over."""
        self.try_it()
        self.trials[-1].wait(DEADLINE)
        self.stage.reactor.advance(_LOOK)

    def clean(self) -> None:
        for each in self.trials:
            with contextlib.suppress(ProcessLookupError):
                each.kill()
            each.wait(DEADLINE)
            if each.stderr is not None:
                each.stderr.close()


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., House]]:
    """A house with a program that a test writes."""
    made: list[House] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def make(program: str, **values: Any) -> House:
        stage = stack.enter_context(Stage(values))
        made.append(House(stage, program, tmp_path, monkeypatch))
        return made[-1]

    with contextlib.ExitStack() as stack:
        yield make
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for each in made:
            each.clean()


def test_a_supervisor_that_cannot_be_replaced(house: Callable[..., House]) -> None:
    """While a supervisor starts, reloads or stops, nothing is tried."""
    there = house("")
    there.stage.start()
    there.try_it()
    assert there.trials == []
    assert len(there.stage.said("not replacing the supervisor")) == 1


@pytest.mark.parametrize("error", [ConfigurationError("--port", "x", "a number is accepted"), None])
def test_what_cannot_even_be_tried(house: Callable[..., House], error: Exception | None) -> None:
    """With a configuration that is wrong, or a program that is not there, the supervisor stays, and says why."""
    there = house("")
    there.stage.up()
    if error is not None:
        there.stage.wrong = error
    else:
        there.launch.command[0] = "/no/such/program"  # type: ignore[index]
    there.try_it()
    assert there.trials == []
    assert there.stage.said("the supervisor stays", "--port: x" if error else "/no/such/program")


def test_a_trial_that_fails(house: Callable[..., House]) -> None:
    """A program that does not start changes nothing; its status and its last words are logged."""
    there = house("import sys; sys.exit('twistedws: no module named x')")
    there.stage.up()
    there.begin()
    assert there.stage.said("the supervisor stays", "ended with status 1", "twistedws: no module named x")
    assert (there.executed, there.before) == ([], [])
    assert there.stage.supervisor.heritage() is not None


def test_what_is_tried(house: Callable[..., House], tmp_path: Path) -> None:
    """A trial is the supervisor's own command line that only checks, where it was started, with the listening sockets alone."""
    there = house(
        "import os, sys; open('trial', 'w').write(repr((sys.argv, dict(os.environ), os.listdir('/dev/fd')))); sys.exit(3)", workers=3
    )
    there.stage.up()
    heritage = there.stage.supervisor.heritage()
    assert heritage is not None
    there.begin()
    arguments, environment, descriptors = eval((tmp_path / "trial").read_text())
    assert arguments == ["-c", "--check-config", "the application"]
    assert "NOTIFY_SOCKET" not in environment
    assert msgspec.json.decode(environment[HERITAGE], type=Heritage) == Heritage(heritage.sockets, [], 0, Counts())
    assert {str(each) for each in heritage.sockets.values()} < set(descriptors)
    assert not {str(each) for _, _, control, watch, _ in heritage.workers for each in (control, watch)} & set(descriptors)


def test_who_cannot_succeed(house: Callable[..., House]) -> None:
    """With a configuration that asks for no workers nobody can take over: that is said, and nothing is tried."""
    there = house("")
    there.stage.up()
    there.stage.values["workers"] = 0
    there.try_it()
    assert there.trials == []
    assert there.stage.said("the supervisor stays", "workers: 0: it takes a restart")


def test_asked_again_in_a_trial(house: Callable[..., House]) -> None:
    """There is one trial at a time: who asks again meanwhile is told to try again, and can once it is over."""
    there = house("import sys; sys.exit(1)")
    there.stage.up()
    there.try_it()
    there.try_it()
    assert len(there.trials) == 1
    assert there.stage.said("not replacing the supervisor: ", "is being replaced; try again")
    there.trials[0].wait(DEADLINE)
    there.stage.reactor.advance(_LOOK)
    there.try_it()
    assert len(there.trials) == 2


def test_a_trial_that_succeeds(house: Callable[..., House]) -> None:
    """The new program is executed in this process, with what it inherits, and signals wait for it."""
    there = house("")
    there.stage.up()
    heritage = there.stage.supervisor.heritage()
    assert heritage is not None
    there.begin()
    (before,) = there.before
    before.addErrback(lambda failure: failure.trap(Stop))
    assert Path.cwd() == Path(there.launch.directory)  # whence relative names on the command line are meant
    ((program, command, environment),) = there.executed
    assert (program, command) == (sys.executable, there.launch.command)
    left = environment.pop(HERITAGE)
    assert environment == {"PATH": os.environ["PATH"], "WATCHDOG_USEC": "5", MARK: "another's"}
    assert msgspec.json.decode(left, type=Heritage) == heritage
    descriptors = [*heritage.sockets.values(), *(each for _, _, control, watch, *_ in heritage.workers for each in (control, watch))]
    assert len(descriptors) == 5
    assert all(os.get_inheritable(each) for each in descriptors)
    assert there.mask >= set(_WAITING)
    assert len(there.stage.said("the next supervisor takes over")) == 1


@pytest.mark.parametrize("stops", [False, True])
def test_what_comes_last_takes_its_time(house: Callable[..., House], stops: bool) -> None:
    """Only when what the successor would take for another's is let go of is it executed; unless the end has begun meanwhile."""
    there = house("")
    there.waits = True
    there.fails = FileNotFoundError(2, "No such file or directory")
    there.stage.up()
    there.begin()
    (before,) = there.before
    assert there.executed == []
    there.try_it()
    assert len(there.trials) == 1
    if stops:
        there.stage.stop()
    before.callback(None)
    assert len(there.executed) == (0 if stops else 1)


def test_what_cannot_be_let_go_of(house: Callable[..., House]) -> None:
    """If something fails at the last step, the supervisor stays, says so, and can be asked again."""
    there = house("")
    there.waits = True
    there.stage.up()
    there.begin()
    there.before[0].errback(OSError("no"))
    assert len(there.stage.said("the supervisor stays")) == 1
    assert there.executed == []
    there.try_it()
    assert len(there.trials) == 2


def test_what_cannot_be_executed(house: Callable[..., House]) -> None:
    """Should the program be gone in the last moment, the supervisor stays, and hears signals again."""
    there = house("")
    there.stage.up()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    there.fails = FileNotFoundError(2, "No such file or directory")
    there.begin()
    assert there.stage.said("the supervisor stays: ", "No such file or directory")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert there.stage.supervisor.heritage() is not None


def test_a_supervisor_that_cannot_be_replaced_any_more(house: Callable[..., House]) -> None:
    """A reload that began during the trial goes first."""
    there = house("")
    there.stage.up()
    there.try_it()
    there.stage.reload(ready=False)
    there.trials[-1].wait(DEADLINE)
    there.stage.reactor.advance(_LOOK)
    assert there.executed == []
    assert there.stage.said("not replacing the supervisor: it reloads or stops")


def test_a_trial_that_hangs(house: Callable[..., House]) -> None:
    """A program that is not up in time is killed, and the supervisor stays."""
    there = house("import threading; threading.Event().wait()")
    there.stage.up()
    there.try_it()
    there.stage.run(1.0)
    assert there.trials[0].poll() is None
    there.stage.reactor.advance(_TRIAL_TIME)
    there.trials[0].wait(DEADLINE)
    there.stage.reactor.advance(_LOOK)
    assert there.stage.said(f"the supervisor stays: the new program was not there in {_TRIAL_TIME:g} s")
    assert there.executed == []


def test_what_a_trial_has_started(house: Callable[..., House]) -> None:
    """What the application has started, and runs on, holds nobody up, though it has the trial's standard error."""
    there = house(
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=open('gate')); "
        "sys.stderr.write('broken'); sys.exit(1)"
    )
    gate = Path(there.launch.directory, "gate")
    os.mkfifo(gate)
    writer = os.open(gate, os.O_RDWR)
    there.stage.up()
    there.begin()
    os.close(writer)
    assert there.stage.said("the supervisor stays", "broken")


def test_a_trial_that_says_much(house: Callable[..., House]) -> None:
    """A program with more to say than a pipe holds is not held up by it."""
    there = house("import sys; sys.stderr.write('x' * 1_000_000 + 'the end'); sys.exit(1)")
    there.stage.up()
    there.try_it()
    pipe = there.trials[0].stderr
    assert pipe is not None
    while not there.stage.said("the supervisor stays"):
        assert select.select([pipe], [], [], DEADLINE)[0]
        there.stage.reactor.advance(_LOOK)
    (line,) = there.stage.said("the supervisor stays")
    assert line.endswith("the end")
    assert len(line) < 2000


# --- What is inherited ---------------------------------------------------------------------------------------


def test_nothing_is_inherited() -> None:
    """A first supervisor inherits nothing."""
    assert inherited({"PATH": "/"}) is None


def test_what_is_inherited() -> None:
    """The mark is taken out of the environment, and no process that is started from here on has the descriptors."""
    pairs = [socket.socketpair(), socket.socketpair()]
    descriptors = [each.fileno() for pair in pairs for each in pair]
    for each in descriptors:
        os.set_inheritable(each, True)
    listening, control, watch, _ = descriptors
    heritage = Heritage({"tcp:1": listening}, [LeftWorker(4, 5, control, watch, leaves=True)], 9, Counts(opened=7, answered={2: 3}))
    environment = {"PATH": "/", HERITAGE: msgspec.json.encode(heritage).decode()}
    assert inherited(environment) == heritage
    assert environment == {"PATH": "/"}
    assert [os.get_inheritable(each) for each in descriptors] == [False, False, False, True]
    for pair in pairs:
        for end in pair:
            end.close()
