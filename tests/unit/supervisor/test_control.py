"""The link between a supervisor and a worker, over a real socket pair; the reactor is a fake, whose part the test plays."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorFDSet, IReadWriteDescriptor
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from twistedws.supervisor.control import (
    Accept,
    Counts,
    Drain,
    Failed,
    Hurry,
    Link,
    Message,
    Ready,
    Reopen,
    Report,
    Rest,
    ToSupervisor,
    ToWorker,
)


@implementer(IReactorFDSet)
class FakeReactor:
    """Knows who wants to read and write, and polls when the test says."""

    def __init__(self) -> None:
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def addWriter(self, writer: Any) -> None:
        self.writers.add(writer)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)

    def removeWriter(self, writer: Any) -> None:
        self.writers.discard(writer)

    def removeAll(self) -> list[Any]:
        raise NotImplementedError

    def getReaders(self) -> list[Any]:
        return list(self.readers)

    def getWriters(self) -> list[Any]:
        return list(self.writers)


class Stage:
    """A supervisor's end and a worker's, each with its reactor, and what each has been told."""

    def __init__(self) -> None:
        self.here, self.there = FakeReactor(), FakeReactor()
        ends = socket.socketpair()
        self.supervisor = Link(ends[0], ToSupervisor, self.here)
        self.worker = Link(ends[1], ToWorker, self.there)
        self.heard: list[Any] = []
        self.obeyed: list[Any] = []
        self.ends = 0

    def start(self) -> None:
        self.supervisor.start(self.heard.append, self._ended)
        self.worker.start(self.obeyed.append, lambda: None)

    def _ended(self) -> None:
        self.ends += 1

    def close(self) -> None:
        self.supervisor.close()
        self.worker.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Two ends that have been started."""
    made = Stage()
    made.start()
    yield made
    made.close()


counts = st.builds(
    Counts,
    opened=st.integers(0, 1 << 40),
    closed=st.dictionaries(st.text(), st.integers(0, 1 << 40)),
    refused=st.dictionaries(st.text(), st.integers(0, 1 << 40)),
    answered=st.dictionaries(st.integers(100, 599), st.integers(0, 1 << 40)),
    octets_in=st.integers(0, 1 << 62),
    late_threads=st.integers(0, 9),
)
numbers = st.integers(-1, 1 << 40)
seconds = st.floats(0, 1e9)
to_supervisor = st.one_of(
    st.just(Ready()), st.builds(Failed, numbers, st.text()), st.builds(Report, numbers, numbers, numbers, st.booleans(), counts)
)
to_worker = st.one_of(
    st.builds(Accept, numbers, numbers, st.booleans(), numbers),
    st.just(Rest()),
    st.builds(Drain, seconds),
    st.just(Hurry()),
    st.just(Reopen()),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(to_supervisor, max_size=5), st.lists(to_worker, max_size=5))
def test_all_messages_survive_the_way(up: list[Message], down: list[Message]) -> None:
    """Whatever is sent arrives as it was, in its order, whatever texts and numbers it has."""
    stage = Stage()
    stage.start()
    for message in up:
        stage.worker.send(message)
    for message in down:
        stage.supervisor.send(message)
    while len(stage.heard) < len(up):
        stage.supervisor.doRead()
    while len(stage.obeyed) < len(down):
        stage.worker.doRead()
    assert (stage.heard, stage.obeyed) == (up, down)
    stage.close()


def test_a_descriptor_for_the_reactor(stage: Stage) -> None:
    """A link is what a reactor polls, reads from its start on, and does not block when there is nothing to read."""
    assert verifyObject(IReadWriteDescriptor, stage.supervisor)
    assert stage.supervisor.logPrefix() == "supervision"
    assert stage.supervisor.fileno() == stage.supervisor.socket.fileno()
    assert stage.here.getReaders() == [stage.supervisor]
    stage.supervisor.doRead()
    assert stage.heard == []


def test_before_anybody_listens() -> None:
    """A link that is polled before its start does no harm, at the other end's end neither."""
    stage = Stage()
    stage.worker.send(Ready())
    stage.supervisor.doRead()
    stage.worker.close()
    stage.supervisor.doRead()
    assert stage.supervisor.fileno() == -1


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"\xff\xfe",
        b"[]",
        b'{"is":"levitate"}',
        b'{"is":"accept"}',  # a supervisor's to a worker
        b'{"is":"report","accepted":"many"}',
        b'{"is":"failed","status":1}',
    ],
)
def test_what_is_not_understood(stage: Stage, line: bytes) -> None:
    """A line that is no message is passed over, and the one after it is read."""
    with capturedLogs() as events:
        stage.worker.socket.sendall(line + b'\n{"is":"ready"}\n')
        stage.supervisor.doRead()
    assert stage.heard == [Ready()]
    assert [(event["log_level"], event["line"]) for event in events] == [(LogLevel.debug, line)]


def test_another_version(stage: Stage) -> None:
    """Of a message that has more than this version knows, what is known is read; what it lacks has its default."""
    stage.worker.socket.sendall(b'{"is":"report","connections":7,"mood":"fine","counts":{"opened":3,"yawns":1}}\n')
    stage.supervisor.doRead()
    assert stage.heard == [Report(connections=7, counts=Counts(opened=3))]


@settings(max_examples=50, deadline=None)
@given(st.lists(to_worker, min_size=1, max_size=3), st.data())
def test_half_lines(messages: list[Message], data: st.DataObject) -> None:
    """Wherever the stream is cut, a message is told when its line is whole."""
    stage = Stage()
    stage.start()
    rest = b"".join(msgspec.json.encode(each) + b"\n" for each in messages)
    lines = seen = 0
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        piece, rest = rest[:size], rest[size:]
        stage.supervisor.socket.sendall(piece)
        stage.worker.doRead()
        lines += piece.count(b"\n")
        assert len(stage.obeyed) == lines >= seen
        seen = lines
    assert stage.obeyed == messages
    stage.close()


def test_half_a_line_at_the_end(stage: Stage) -> None:
    """What the other end did not finish is never told."""
    stage.worker.socket.sendall(b'{"is":"ready"}')
    stage.worker.close()
    stage.supervisor.doRead()
    stage.supervisor.doRead()
    assert (stage.heard, stage.ends) == ([], 1)


def test_writing_that_would_block(stage: Stage) -> None:
    """What the other side does not take waits, the link says so, and all arrives in its order once it is read."""
    sent = [Failed(number, "x" * 1000) for number in range(2000)]
    for message in sent:
        stage.worker.send(message)
    assert stage.worker.waiting
    assert stage.there.getWriters() == [stage.worker]
    stage.worker.doWrite()
    assert stage.worker.waiting
    while len(stage.heard) < len(sent):
        stage.supervisor.doRead()
        for each in stage.there.getWriters():
            each.doWrite()
    assert stage.heard == sent
    assert not stage.worker.waiting
    assert stage.there.getWriters() == []


def test_the_other_end_ends(stage: Stage) -> None:
    """Its end is told once, after all that it said; from then on the descriptor is closed and polled no more, and nothing is sent."""
    stage.worker.send(Ready())
    stage.worker.close()
    stage.supervisor.doRead()
    assert (stage.heard, stage.ends) == ([Ready()], 0)
    stage.supervisor.doRead()
    assert stage.ends == 1
    assert stage.supervisor.fileno() == -1
    assert stage.here.getReaders() == []
    stage.supervisor.send(Rest())
    stage.supervisor.doRead()
    stage.supervisor.connectionLost(Failure(ConnectionDone()))
    assert stage.ends == 1
    assert not stage.supervisor.waiting


def test_sending_to_an_end_that_has_gone(stage: Stage) -> None:
    """What is sent to it goes nowhere, whether it was waiting or not, and reading says that it has gone."""
    while not stage.supervisor.waiting:
        stage.supervisor.send(Drain(1.0))
    stage.worker.close()
    stage.supervisor.doWrite()
    assert not stage.supervisor.waiting
    stage.supervisor.send(Rest())
    assert not stage.supervisor.waiting
    assert stage.here.getWriters() == []
    stage.supervisor.doRead()
    assert stage.ends == 1


def test_a_reset(stage: Stage) -> None:
    """An end that went with something unread resets the socket: that is its end too."""
    stage.supervisor.send(Rest())
    stage.worker.close()
    stage.supervisor.doRead()
    assert stage.ends == 1


def test_the_reactor_stops(stage: Stage) -> None:
    """A reactor that lets go of the link ends it, and that is told once."""
    stage.supervisor.connectionLost(Failure(ConnectionDone()))
    stage.supervisor.connectionLost(Failure(ConnectionDone()))
    assert stage.ends == 1
    assert stage.supervisor.fileno() == -1


def test_closing(stage: Stage) -> None:
    """Who closes a link is not told of its end, and may close it again."""
    stage.supervisor.close()
    stage.supervisor.close()
    assert stage.ends == 0
    assert stage.here.getReaders() == []


def test_closing_while_it_is_read() -> None:
    """Whoever hears a message may close the link: its end is not told."""
    stage = Stage()
    ends: list[None] = []
    stage.supervisor.start(lambda _: stage.supervisor.close(), lambda: ends.append(None))
    stage.worker.send(Ready())
    stage.supervisor.doRead()
    assert ends == []
    assert stage.supervisor.fileno() == -1
    stage.close()


def test_counts_are_added() -> None:
    """What was counted is added, numbers and causes."""
    one, other = Counts(opened=1, closed={"fin": 1, "drain": 2}), Counts(opened=2, closed={"fin": 5}, refused={"x": 1}, answered={2: 3})
    assert one + other == Counts(opened=3, closed={"fin": 6, "drain": 2}, refused={"x": 1}, answered={2: 3})
