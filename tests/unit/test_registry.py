"""Who is connected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.wire import make_session
from twistedws.registry import Registry


class FakeConnection:
    """A connection that, shut, goes at once, as one that is no session does."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.shuts = 0
        self.at_once = False

    def shut(self, *, at_once: bool) -> None:
        self.shuts += 1
        self.at_once = at_once
        self.registry.disconnected(self)


def test_a_registry_starts_empty() -> None:
    """Nobody is there, and it takes sessions."""
    registry = Registry()
    assert (len(registry), list(registry), registry.connections, registry.draining) == (0, [], 0, False)


def test_sessions_come_and_go() -> None:
    """The registry holds the sessions that were added and not removed; a second removal does nothing."""
    registry, one, other = Registry(), make_session(), make_session()
    registry.add(one)
    registry.add(other)
    assert (len(registry), set(registry)) == (2, {one, other})
    registry.remove(one)
    registry.remove(one)
    assert (len(registry), set(registry)) == (1, {other})


def test_sessions_may_end_while_they_are_gone_through() -> None:
    """Removing sessions inside a loop over them skips none and raises nothing."""
    registry = Registry()
    for _ in range(5):
        registry.add(make_session())
    seen = 0
    for session in registry:
        registry.remove(session)
        seen += 1
    assert (seen, len(registry)) == (5, 0)


def test_it_says_when_the_last_session_is_gone() -> None:
    """``emptied`` is called with the last removal and with no other."""
    registry, one, other = Registry(), make_session(), make_session()
    calls: list[int] = []
    registry.emptied = lambda: calls.append(len(registry))
    registry.add(one)
    registry.add(other)
    registry.remove(one)
    assert calls == []
    registry.remove(other)
    assert calls == [0]


def test_nobody_need_hear_of_it() -> None:
    """Without ``emptied`` the last session goes in silence."""
    registry, one = Registry(), make_session()
    registry.add(one)
    registry.remove(one)
    assert len(registry) == 0


def test_connections_are_counted_and_shut() -> None:
    """All connections are told to end, though each leaves the registry while they are gone through."""
    registry = Registry()
    connections = [FakeConnection(registry) for _ in range(3)]
    for each in connections:
        registry.connected(each)
    assert registry.connections == 3
    registry.disconnected(connections[0])
    registry.disconnected(connections[0])
    assert registry.connections == 2
    registry.shut_idle()
    assert [each.shuts for each in connections] == [0, 1, 1]
    assert registry.connections == 0


@pytest.mark.parametrize("at_once", [False, True])
def test_connections_are_told_how_much_time_there_is(at_once: bool) -> None:
    """Whether an answer that is under way may still be given is passed on."""
    registry = Registry()
    connection = FakeConnection(registry)
    registry.connected(connection)
    registry.shut_idle(at_once=at_once)
    assert connection.at_once == at_once


def test_addresses_are_counted_apart() -> None:
    """Each address has its count, which ``leave`` takes back."""
    registry = Registry()
    assert [registry.enter("a"), registry.enter("a"), registry.enter("b")] == [1, 2, 1]
    registry.leave("a")
    assert registry.enter("a") == 2
    registry.leave("b")
    assert registry.enter("b") == 1


def test_leaving_without_having_entered_is_a_fault() -> None:
    """An address that never entered cannot leave."""
    with pytest.raises(KeyError):
        Registry().leave("a")


@given(st.lists(st.sampled_from("abc"), max_size=50))
def test_addresses_that_have_left_cost_nothing(entered: list[str]) -> None:
    """After all have left nothing is kept of any address, so that a scan of many addresses leaves no trace."""
    registry = Registry()
    for each in entered:
        registry.enter(each)
    for each in reversed(entered):
        registry.leave(each)
    assert registry._addresses == {}
