"""The witness in a worker, a real thread on a real socket pair: what it says of the main thread, what it does without a supervisor."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from tests.support.wire import make_session
from twistedws.session import Session
from twistedws.supervisor import witness as module
from twistedws.supervisor.witness import _MOST_THREADS, Witness
from twistedws.supervisor.worker import STACKS_SIGNAL

DEADLINE = 20.0  # seconds


class Supervision:
    """The supervisor's end, and the witness that has the other.

    Attributes:
        ended: The status with which the process would have ended.
    """

    def __init__(self, ended: Future[int]) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(DEADLINE)
        self.ended = ended
        theirs.setblocking(False)  # as one is that a reactor has had
        self.witness = Witness(theirs)
        self.witness.start()

    def ask(self) -> list[str]:
        """Ask for the stacks; the lines."""
        self.socket.sendall(b"s")
        answer = b""
        while not answer.endswith(b"\0"):
            answer += self.socket.recv(65536)
        return answer.decode().rstrip("\0").splitlines()

    def go(self) -> None:
        """Go away, and wait for what the witness makes of it."""
        self.socket.close()
        assert self.ended.result(DEADLINE) == 1


@pytest.fixture
def supervision(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervision]:
    """A witness that watches; its process does not end."""
    ended: Future[int] = Future()
    monkeypatch.setattr(module, "LAST_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", ended.set_result)
    made = Supervision(ended)
    yield made
    faulthandler.unregister(STACKS_SIGNAL)
    made.go()


def wait_for_the_database(supervision: Supervision) -> tuple[list[str], int]:
    """A function with a speaking name, in which the main thread is."""
    line = sys._getframe().f_lineno + 1
    return supervision.ask(), line


def test_where_the_main_thread_is(supervision: Supervision) -> None:
    """The first line names the file, the line and the function; the stack follows, most recent call first."""
    lines, _ = wait_for_the_database(supervision)
    assert re.fullmatch(rf"at {re.escape(__file__)}:\d+ in ask", lines[0])
    assert lines[1] == "main thread, most recent call first:"
    (caller,) = (index for index, line in enumerate(lines) if " in wait_for_the_database: " in line)
    assert caller > 1
    assert f"{__file__}:" in lines[caller]
    assert "return supervision.ask(), line" in lines[caller]
    assert any(" in test_where_the_main_thread_is: lines, _ = " in line for line in lines[caller:])
    assert not any("twistedws witness" in line for line in lines)


def test_file_line_and_function(supervision: Supervision) -> None:
    """A call that runs no Python of its own is named by who calls it."""

    def read_for_ever() -> tuple[bytes, int]:
        line = sys._getframe().f_lineno + 1
        _, answer = supervision.socket.send(b"s"), supervision.socket.recv(65536)
        return answer, line

    answer, line = read_for_ever()
    assert answer.decode().splitlines()[0] == f"at {__file__}:{line} in read_for_ever"


def test_for_which_session(supervision: Supervision) -> None:
    """In a session's callback the session is named, its peer and its path."""

    def received(session: Session) -> list[str]:
        return supervision.ask()

    session = make_session()
    (first, *_) = received(session)
    assert first.endswith(f", for session={session.id} peer={session.peer} path=/chat?room=1")


def test_a_local_of_that_name_is_no_session(supervision: Supervision) -> None:
    """What an application calls so is taken for none."""

    def of_requests(session: object) -> list[str]:
        return supervision.ask()

    assert ", for " not in of_requests("a database's")[0]


@pytest.mark.parametrize(("name", "said"), [("session 1f", "session=1f"), ("a job", "a job")])
def test_for_which_task(supervision: Supervision, name: str, said: str) -> None:
    """On asyncio the task that runs is named; ours are named after their sessions."""

    async def scenario() -> list[str]:
        supervision.witness.attend(asyncio.get_running_loop(), lambda: None)
        task = asyncio.current_task()
        assert task is not None
        task.set_name(name)
        return supervision.ask()

    assert asyncio.run(scenario())[0].endswith(f", for {said}")


def test_between_tasks(supervision: Supervision) -> None:
    """Where no task runs the session is looked for on the stack."""
    loop = asyncio.new_event_loop()
    supervision.witness.attend(loop, lambda: None)
    answers: list[list[str]] = []

    def received(session: Session) -> None:
        answers.append(supervision.ask())
        loop.stop()

    session = make_session()
    loop.call_soon(received, session)
    loop.run_forever()
    loop.close()
    assert f"for session={session.id} " in answers[0][0]


def test_a_task_that_cannot_be_known(supervision: Supervision, monkeypatch: pytest.MonkeyPatch) -> None:
    """An asyncio that does not say is no reason to say nothing."""

    def current_task(loop: object) -> None:
        raise RuntimeError("no running event loop")

    monkeypatch.setattr(asyncio, "current_task", current_task)
    supervision.witness.attend(object(), lambda: None)
    assert supervision.ask()[0].startswith("at ")


def test_threads(supervision: Supervision) -> None:
    """Other threads are named with their stacks, ours are not, and of very many only some."""
    gate = threading.Event()
    pool = [threading.Thread(target=gate.wait, name=f"pool {number}", daemon=True) for number in range(_MOST_THREADS + 3)]
    pool.append(threading.Thread(target=gate.wait, name="twistedws pool", daemon=True))
    for each in pool:
        each.start()
    try:
        lines = supervision.ask()
    finally:
        gate.set()
        for each in pool:
            each.join()
    assert len([line for line in lines if line.startswith("thread ")]) == _MOST_THREADS
    assert re.fullmatch(r"and \d+ more threads", lines[-1])
    assert not any("twistedws" in line for line in lines if line.startswith("thread "))


def test_no_python(supervision: Supervision, monkeypatch: pytest.MonkeyPatch) -> None:
    """A main thread that runs no Python, at its very end, is said to."""
    monkeypatch.setattr(sys, "_current_frames", dict)
    assert supervision.ask() == ["in no Python code"]


def test_the_signal(supervision: Supervision) -> None:
    """On the signal the stacks come too, from a handler that needs no interpreter."""
    os.kill(os.getpid(), signal.SIGUSR2)
    answer = b""
    while b"in test_the_signal" not in answer:
        answer += supervision.socket.recv(65536)
    assert STACKS_SIGNAL == signal.SIGUSR2
    assert b"Current thread" in answer


def test_the_supervisor_goes(supervision: Supervision) -> None:
    """The worker is told, and then ended, by the thread, whatever the loop does."""
    orphaned: Future[str] = Future()
    supervision.witness.attend(None, lambda: orphaned.set_result(threading.current_thread().name))
    supervision.go()
    assert orphaned.result(DEADLINE) == "twistedws witness"


def test_a_supervisor_that_died(supervision: Supervision, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that fails means the same as one that ends; in between there are the last seconds, and no more."""
    waits: list[float] = []

    class Event:
        def wait(self, seconds: float) -> None:
            waits.append(seconds)

    monkeypatch.setattr(threading, "Event", Event)
    monkeypatch.setattr(module, "LAST_SECONDS", 7.5)
    supervision.witness._watch.shutdown(socket.SHUT_WR)  # the answer cannot be sent
    supervision.socket.sendall(b"s")
    assert supervision.ended.result(DEADLINE) == 1
    assert waits == [7.5]
