"""A worker as its supervisor sees it: stages, silence, stacks, over real socket pairs, with time as an argument."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.played import Played, Reactor
from twistedws import config
from twistedws.supervisor.control import Counts, Drain, Failed, Message, Ready, Report, Rest
from twistedws.supervisor.worker import _STACKS_TIME, _WITNESS_TIME, BUSY, STACKS_SIGNAL, Stage, Worker, _ignore, accepts

SETTINGS = config.Workers(workers=1, stuck_after=5.0, worker_timeout=30.0)


@pytest.fixture
def played() -> Iterator[Played]:
    """The process, as a test plays it."""
    made = Played(3)
    yield made
    made.close()


@pytest.fixture
def worker(played: Played) -> Worker:
    """What the supervisor has of it."""
    return Worker(3, played.spawned, SETTINGS, Reactor(), 10.0)


def test_life(worker: Worker, played: Played) -> None:
    """It starts, serves from its readiness on, leaves when it is told to, and has ended once it is let go of."""
    assert (worker.name, worker.stage, worker.ready_at) == ("worker 3 (pid 100003)", Stage.STARTING, None)
    assert not accepts(worker)
    worker.received(Ready(), 12.0)
    assert (worker.stage, worker.ready_at) == (Stage.SERVING, 12.0)
    assert accepts(worker)
    worker.retire(4.0, 50.0)
    assert (worker.stage, worker.leaves_by) == (Stage.LEAVING, 50.0)
    assert not accepts(worker)
    assert played.heard() == [Drain(4.0)]
    worker.close()
    assert worker.stage is Stage.ENDED
    assert (worker.link.fileno(), worker.spawned.watch.fileno()) == (-1, -1)


def test_ready_while_it_leaves(worker: Worker) -> None:
    """One that was told to leave before it was ready goes on leaving."""
    worker.retire(0.0, None)
    worker.received(Ready(), 11.0)
    assert (worker.stage, worker.ready_at) == (Stage.LEAVING, 11.0)


def test_what_it_says(worker: Worker) -> None:
    """Its latest report, and why its start has failed, are kept; what means nothing to a supervisor is a sign of life all the same."""
    worker.received(Ready(), 10.0)
    worker.received(Report(accepted=9, connections=3, sessions=2, counts=Counts(opened=8)), 11.0)
    assert (worker.accepted, worker.load, worker.report.sessions, worker.counts.opened) == (9, 3, 2, 8)
    worker.received(Failed(1, "no"), 11.0)
    assert worker.failed == Failed(1, "no")
    worker.pass_time(1.0)
    worker.received(Rest(), 11.0)
    assert worker.silence == 0


@pytest.mark.parametrize("message", [Ready(), Report(), Failed(1, "")])
def test_silence(worker: Worker, message: Message) -> None:
    """Silence is counted from readiness on, and each message ends it: busy, then stuck, then to be killed."""
    worker.pass_time(100.0)
    assert worker.silence == 0
    worker.received(Ready(), 110.0)
    worker.pass_time(BUSY)
    assert not worker.is_busy
    worker.pass_time(0.25)
    assert worker.is_busy
    assert not worker.is_stuck
    worker.pass_time(5.0 - worker.silence)
    assert worker.is_stuck
    assert not worker.should_be_killed
    worker.pass_time(25.0)
    assert worker.should_be_killed
    worker.received(message, 150.0)
    assert (worker.silence, worker.is_busy, worker.is_stuck, worker.should_be_killed) == (0, False, False, False)


def test_silence_of_one_that_leaves(worker: Worker) -> None:
    """One that leaves must give signs of life too; one that has ended none."""
    worker.received(Ready(), 1.0)
    worker.retire(1.0, None)
    worker.pass_time(5.0)
    assert worker.is_stuck
    worker.close()
    worker.pass_time(5.0)
    assert worker.silence == 5.0


def test_no_timeout(played: Played) -> None:
    """With no ``worker_timeout`` none is ever to be killed for its silence."""
    worker = Worker(1, played.spawned, config.Workers(worker_timeout=0.0), Reactor(), 0.0)
    worker.received(Ready(), 0.0)
    worker.pass_time(1e6)
    assert worker.is_stuck
    assert not worker.should_be_killed


def test_late(worker: Worker, played: Played) -> None:
    """One that is not ready in time is late; one that was ready never is, and with no deadline none is."""
    assert not worker.is_late(69.9)
    assert worker.is_late(70.0)
    worker.received(Ready(), 70.0)
    assert not worker.is_late(70.0)
    assert not Worker(1, played.spawned, config.Workers(worker_start_timeout=0.0), Reactor(), 0.0).is_late(1e6)


@pytest.mark.parametrize(("what", "value"), [("silence", 1e6), ("is_killed", True), ("has_gone", True)])
def test_who_does_not_accept(worker: Worker, what: str, value: object) -> None:
    """One that is stuck, or killed and not gone yet, gets no connections."""
    worker.received(Ready(), 10.0)
    setattr(worker, what, value)
    assert not accepts(worker)


def test_signals(worker: Worker, played: Played) -> None:
    """Signals reach the process; one that has gone needs none."""
    worker.signal(signal.SIGUSR1)
    assert played.signals == [signal.SIGUSR1]
    worker.kill()
    assert worker.is_killed
    assert played.status == -signal.SIGKILL
    worker.kill()
    worker.signal(signal.SIGUSR1)
    assert played.signals == [signal.SIGUSR1]


# --- Stacks --------------------------------------------------------------------------------------------------


class Told:
    """Who wants the stacks."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def __call__(self, worker: Worker, stacks: str) -> None:
        self.heard.append(stacks)


def test_stacks_from_the_witness(worker: Worker, played: Played) -> None:
    """The witness is asked once, however often; its answer is told once it is whole."""
    told = Told()
    worker.ask_for_stacks(0.0, told)
    worker.ask_for_stacks(0.0, told)
    assert played.asked() == b"s"
    worker.look_for_stacks(0.0)
    played.watch.send("at ü.py:1 in f\nmain".encode())
    worker.look_for_stacks(0.1)
    assert told.heard == []
    played.watch.send(b" thread\0")
    worker.look_for_stacks(0.2)
    assert told.heard == ["at ü.py:1 in f\nmain thread"]
    worker.look_for_stacks(0.3)
    assert told.heard == ["at ü.py:1 in f\nmain thread"]
    assert played.signals == []


def test_stacks_by_signal(worker: Worker, played: Played) -> None:
    """A witness that does not answer in time has no interpreter: the signal asks once more, and what it writes is told in the end."""
    told = Told()
    worker.ask_for_stacks(0.0, told)
    worker.look_for_stacks(_WITNESS_TIME - 0.01)
    assert played.signals == []
    worker.look_for_stacks(_WITNESS_TIME)
    worker.look_for_stacks(_WITNESS_TIME + 0.1)
    assert played.signals == [STACKS_SIGNAL]
    played.watch.send(b"Current thread 0x1 (most recent call first):\n  File x\n")
    worker.look_for_stacks(_STACKS_TIME - 0.01)
    assert told.heard == []
    worker.look_for_stacks(_STACKS_TIME)
    assert told.heard == ["Current thread 0x1 (most recent call first):\n  File x\n"]


def test_half_an_answer_needs_no_signal(worker: Worker, played: Played) -> None:
    """A witness that has begun to answer is not disturbed."""
    told = Told()
    worker.ask_for_stacks(0.0, told)
    played.watch.send(b"at x")
    worker.look_for_stacks(_WITNESS_TIME)
    assert played.signals == []
    worker.look_for_stacks(_STACKS_TIME)
    assert told.heard == ["at x"]


def test_no_stacks(worker: Worker, played: Played) -> None:
    """Nothing in time is told as nothing; what comes later is not taken for the next answer."""
    told = Told()
    worker.ask_for_stacks(0.0, told)
    worker.look_for_stacks(_STACKS_TIME)
    assert told.heard == [""]
    played.watch.send(b"at an older place\0")
    worker.ask_for_stacks(30.0, told)
    played.watch.send(b"at another\0")
    worker.look_for_stacks(30.0)
    assert told.heard == ["", "at another"]


def test_a_witness_that_has_gone(worker: Worker, played: Played) -> None:
    """A worker that has ended is asked in vain."""
    told = Told()
    played.end(1)
    worker.ask_for_stacks(0.0, told)
    worker.look_for_stacks(_STACKS_TIME)
    assert told.heard == [""]
    _ignore(worker, "")
