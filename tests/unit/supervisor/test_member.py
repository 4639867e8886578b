"""A worker's side: its turn to accept, what it inherited, its reports; over a real socket pair, on a clock."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, cast

import msgspec
import pytest
from twisted.logger import capturedLogs

from tests.support.played import DEADLINE, Parent, Reactor, membership_of
from tests.support.wire import FakeWire, make_session
from twistedws import config
from twistedws.errors import Cause
from twistedws.listening import ListeningService
from twistedws.metrics import Metrics
from twistedws.registry import Registry
from twistedws.supervisor.control import REPORT, Accept, Counts, Drain, Failed, Hurry, Ready, Reopen, Report, Rest
from twistedws.supervisor.member import _ALARM, _LATE, AcceptTurn, Membership, counts_of
from twistedws.supervisor.processes import MARK


class Ports:
    """What listens, as far as a turn asks."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def rest(self) -> None:
        self.calls.append("rest")

    def resume(self) -> None:
        self.calls.append("resume")


class Turns:
    """A turn, and what came of it."""

    def __init__(self) -> None:
        self.ports = Ports()
        self.reports: list[int] = []  # how many connections each says are not counted yet
        self.turn = AcceptTurn(cast("ListeningService", self.ports), self._report)

    def _report(self, new: int) -> None:
        self.reports.append(new)

    def take(self, number: int) -> list[bool]:
        return [self.turn.take() for _ in range(number)]


def test_turns() -> None:
    """A turn begins once and ends once, however often it is said."""
    here = Turns()
    assert here.turn.rests
    here.turn.end()
    here.turn.begin(Accept())
    here.turn.begin(Accept())
    assert not here.turn.rests
    here.turn.end()
    here.turn.end()
    assert here.ports.calls == ["resume", "rest"]


def test_reports_after_so_many() -> None:
    """After so many connections the supervisor is told, each time, and the turn goes on."""
    here = Turns()
    here.turn.begin(Accept(after=3))
    assert here.take(2) == [True, True]
    assert here.reports == []
    here.take(1)
    assert here.reports == [1]
    here.take(3)
    assert here.reports == [1, 1]
    assert (here.turn.accepted, here.turn.rests) == (6, False)


def test_rests_after_so_many() -> None:
    """The last connection that there may be ends the turn, and is reported at once; what was accepted behind it is served too."""
    here = Turns()
    here.turn.begin(Accept(after=100, until=2))
    assert here.take(2) == [True, True]
    assert (here.ports.calls, here.reports) == (["resume", "rest"], [1])
    assert here.take(1) == [True]
    assert (here.turn.accepted, here.ports.calls) == (3, ["resume", "rest"])


def test_the_last_connections() -> None:
    """Where no more are to be had at all, what was accepted behind the last one is refused, and counts nowhere."""
    here = Turns()
    here.turn.begin(Accept(after=100, until=2, is_last=True))
    assert here.take(4) == [True, True, False, False]
    assert (here.turn.accepted, here.reports) == (2, [1])


@pytest.mark.parametrize("resting", [False, True])
def test_a_turn_that_is_over_as_it_begins(resting: bool) -> None:
    """Who has accepted as many already as it may by now rests, and reports."""
    here = Turns()
    here.turn.begin(Accept(after=100))
    here.take(3)
    if resting:
        here.turn.end()
    here.turn.begin(Accept(after=100, until=3))
    assert (here.ports.calls, here.reports) == (["resume", "rest"], [0])
    here.turn.begin(Accept(after=100, until=4))
    assert not here.turn.rests


def test_refuses_though_it_has_accepted_all() -> None:
    """Who has accepted all that it may refuses those that it is to refuse all the same."""
    here = Turns()
    here.turn.begin(Accept(after=100))
    here.take(1)
    here.turn.begin(Accept(after=100, until=1, shed=-1))
    assert not here.turn.rests
    assert here.take(2) == [False, False]


def test_refuses_so_many() -> None:
    """So many connections are refused before the first is served; they count nowhere."""
    here = Turns()
    here.turn.begin(Accept(after=2, shed=2))
    assert here.take(3) == [False, False, True]
    assert (here.turn.accepted, here.reports) == (1, [])


def test_refuses_all() -> None:
    """Where all are to be refused, none is served until another turn says so."""
    here = Turns()
    here.turn.begin(Accept(after=0, shed=-1))
    assert here.take(5) == [False] * 5
    assert (here.turn.accepted, here.reports) == (0, [])
    here.turn.begin(Accept())
    assert here.take(1) == [True]


# --- Membership ----------------------------------------------------------------------------------------------


@pytest.fixture
def supervisor() -> Iterator[Parent]:
    """A supervisor that has started a worker."""
    made = Parent()
    yield made
    made.close()


class Member:
    """A worker, and what it was made to do.

    Attributes:
        done: What the supervisor had it do.
    """

    def __init__(self, supervisor: Parent, membership: Membership) -> None:
        self.supervisor, self.membership = supervisor, membership
        self.reactor, self.ports = Reactor(), Ports()
        self.registry, self.metrics = Registry(), Metrics()
        self.done: list[tuple[object, ...]] = []
        self.take = membership.take_turns(cast("ListeningService", self.ports))

    def join(self, longest_silence: float = 0.0) -> None:
        self.membership.join(
            self.reactor,
            None,
            registry=self.registry,
            metrics=self.metrics,
            drain=lambda seconds: self.done.append(("drain", seconds)),
            hurry=lambda: self.done.append(("hurry",)),
            reopen=lambda: self.done.append(("reopen",)),
            longest_silence=longest_silence,
        )


@pytest.fixture
def member(supervisor: Parent, monkeypatch: pytest.MonkeyPatch) -> Iterator[Member]:
    """A worker whose witness watches."""
    with membership_of(supervisor, monkeypatch) as membership:
        yield Member(supervisor, membership)


def test_no_worker() -> None:
    """A process that no supervisor has started is no worker."""
    assert Membership.from_environment({"PATH": "/"}) is None


def test_what_was_inherited(supervisor: Parent) -> None:
    """The mark is taken out of the environment, and what the application starts inherits no descriptor."""
    birth = supervisor.birth()
    environment = {"PATH": "/", MARK: msgspec.json.encode(birth).decode()}
    membership = Membership.from_environment(environment)
    assert environment == {"PATH": "/"}
    assert membership is not None
    assert (membership.name, membership.configuration, membership.is_trial) == ("worker 7", "port = 1\n", False)
    descriptors = [birth.control, birth.watch, birth.sockets[0][0]]
    assert [os.get_inheritable(each) for each in descriptors] == [False] * 3
    for each in descriptors:
        os.close(each)


def test_endpoints(member: Member) -> None:
    """Its endpoints are those of the settings, of the sockets that it has inherited."""
    settings = config.Listening(endpoint=("tcp:0",), backlog=5)
    ((description, endpoint),) = member.membership.endpoints(settings, member.reactor)
    assert description == "tcp:0:backlog=5"
    adopted: list[tuple[object, ...]] = []
    member.reactor.adoptStreamPort = lambda *arguments: adopted.append(arguments)  # type: ignore[method-assign]
    endpoint.listen(cast("Any", "factory"))
    ((_, family, factory),) = adopted
    assert (family, factory) == (socket.AF_INET, "factory")


def test_a_trial() -> None:
    """A trial has inherited nothing, has no endpoints, and tells nobody of a failure."""
    membership = Membership.of_a_trial()
    assert membership.is_trial
    assert membership.endpoints(config.Listening(), Reactor()) == []
    membership.failed(2, "nobody listens")
    membership.report()
    membership.leave()


def test_failed(member: Member) -> None:
    """A start that has failed is said, even where the socket does not block any more; a supervisor that has gone is no error."""
    control = member.membership._control
    assert control is not None
    control.setblocking(False)
    member.membership.failed(2, "no such module: ü")
    assert member.supervisor.heard() == [Failed(2, "no such module: ü")]
    member.supervisor.control.close()
    member.membership.failed(2, "no such module: ü")
    control.close()


def test_who_cannot_join(supervisor: Parent) -> None:
    """To join with no witness is a fault of the program's."""
    birth = supervisor.birth()
    with pytest.raises(RuntimeError, match="witness"):
        Membership(birth).join(
            Reactor(),
            None,
            registry=Registry(),
            metrics=Metrics(),
            drain=lambda _: None,
            hurry=lambda: None,
            reopen=lambda: None,
            longest_silence=0.0,
        )
    for each in (birth.control, birth.watch, birth.sockets[0][0]):
        os.close(each)


def test_reports(member: Member) -> None:
    """A worker rests, says that it is ready, and reports how it fares at once and then every quarter of a second."""
    assert member.ports.calls == ["rest"]
    member.membership.report()
    assert member.supervisor.heard() == []
    member.join()
    assert member.supervisor.heard() == [Ready(), Report(rests=True)]
    wire = cast("Any", FakeWire())
    member.registry.connected(wire)
    member.registry.connected(cast("Any", FakeWire()))
    member.registry.add(make_session(wire))
    member.supervisor.say(Accept(after=100))
    member.reactor.poll()
    assert member.take()
    member.metrics.opened = 1
    member.reactor.advance(REPORT - 0.01)
    assert member.supervisor.heard() == []
    member.reactor.advance(0.01)
    assert member.supervisor.heard() == [Report(accepted=1, connections=2, sessions=1, counts=Counts(opened=1))]
    member.supervisor.say(Accept(after=1))
    member.reactor.poll()
    assert member.take()
    assert member.supervisor.heard() == [Report(accepted=2, connections=3, sessions=1, counts=Counts(opened=1))]  # one is about to be


def test_a_supervisor_that_does_not_listen(member: Member) -> None:
    """While the link waits nothing is reported: a supervisor that is stopped need not know all of it afterwards."""
    member.join()
    link = member.membership._link
    assert link is not None
    link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    while not link.waiting:
        member.membership.report()
    waiting = link._unwritten
    member.reactor.pump([REPORT] * 3)
    assert link._unwritten == waiting
    while link.waiting:
        member.supervisor.heard()
        member.reactor.poll()
    member.supervisor.heard()
    member.reactor.advance(REPORT)
    assert member.supervisor.heard() == [Report(rests=True)]


def test_what_the_supervisor_says(member: Member) -> None:
    """What the supervisor says is done, in its order."""
    member.join()
    member.supervisor.say(Accept(), Rest(), Reopen(), Drain(3.5), Hurry())
    member.reactor.poll()
    assert member.ports.calls == ["rest", "resume", "rest"]
    assert member.done == [("reopen",), ("drain", 3.5), ("hurry",)]


def test_the_last_report(member: Member) -> None:
    """Who leaves reports once more, and then no more."""
    member.join()
    member.supervisor.heard()
    member.metrics.closed[Cause.DRAIN] = 3
    member.membership.leave()
    member.membership.leave()
    assert member.supervisor.heard() == [Report(rests=True, counts=Counts(closed={"drain": 3}))]
    member.reactor.advance(10.0)
    assert member.supervisor.heard() == []


def test_the_alarm(member: Member) -> None:
    """A worker would end itself a little after its supervisor should have killed it; each second puts that off, and leaving ends it."""
    member.join(30.0)
    alarms = member.supervisor.alarms
    assert alarms == [30.0 + _LATE]
    member.reactor.pump([_ALARM] * 2)
    assert alarms == [30.0 + _LATE] * 3
    member.membership.leave()
    member.membership.leave()
    member.reactor.advance(10.0)
    assert alarms == [*[30.0 + _LATE] * 3, None]


def test_no_alarm(member: Member) -> None:
    """A worker that nobody kills however long it is silent does not end itself either."""
    member.join(0.0)
    member.reactor.advance(10.0)
    member.membership.leave()
    assert member.supervisor.alarms == []


def test_the_supervisor_goes(member: Member) -> None:
    """A worker whose supervisor has gone closes all sessions, in the reactor's thread, and says why."""
    member.join()
    called: Future[tuple[str, Any]] = Future()
    member.reactor.callFromThread = lambda function: called.set_result((threading.current_thread().name, function))  # type: ignore[method-assign,misc]
    member.supervisor.control.close()
    member.reactor.poll()
    assert member.done == []
    member.supervisor.watch.close()
    thread, function = called.result(DEADLINE)
    assert thread == "twistedws witness"
    with capturedLogs() as events:
        function()
    assert member.done == [("drain", 0.0), ("hurry",)]
    assert [event["log_format"] for event in events] == ["the supervisor has gone: closing all sessions"]


def test_counts_of() -> None:
    """All that is counted is reported, causes by their texts."""
    numbers = {name: index for index, name in enumerate(Counts.__struct_fields__, 1) if name not in ("closed", "refused", "answered")}
    metrics = Metrics(**numbers)  # type: ignore[arg-type]
    metrics.closed[Cause.FIN] = 2
    metrics.refused[Cause.HANDSHAKE_REFUSED] = 3
    metrics.answered[4] = 5
    counts = counts_of(metrics)
    assert counts == Counts(closed={"fin": 2}, refused={"handshake_refused": 3}, answered={4: 5}, **numbers)
    assert set(Counts.__struct_fields__) == set(Metrics.__dataclass_fields__)
