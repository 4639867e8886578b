"""How soon workers are replaced: those that lived at once, loops of crashes ever later."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twistedws.supervisor.restarts import FIRST_DELAY, LIVED, MOST_DELAY, Restarts


def test_one_that_lived() -> None:
    """A worker that served is replaced at once, however often, and that is no loop."""
    restarts = Restarts(1)
    assert [restarts.ended(LIVED) for _ in range(10)] == [0.0] * 10
    assert restarts.failures == 0
    assert not restarts.is_loop


@pytest.mark.parametrize("served", [None, 0.0, LIVED - 0.001])
def test_each_round_is_later(served: float | None) -> None:
    """Of workers that end too soon a first round is replaced at once, and each round after it later than the one before."""
    restarts = Restarts(2)
    assert [restarts.ended(served) for _ in range(14)] == [0, 0, 0.5, 0.5, 1, 1, 2, 2, 4, 4, 8, 8, MOST_DELAY, MOST_DELAY]


def test_a_loop() -> None:
    """More failures in a row than there are workers are a loop; as many are none, since one cause may end them all."""
    restarts = Restarts(3)
    seen = []
    for _ in range(5):
        restarts.ended(None)
        seen.append(restarts.is_loop)
    assert seen == [False, False, False, True, True]


@pytest.mark.parametrize("ends", [False, True])
def test_a_loop_is_over(ends: bool) -> None:
    """Once a worker has served long enough, whether it ends then or goes on, the next failure is the first."""
    restarts = Restarts(1)
    for _ in range(6):
        restarts.ended(None)
    restarts.lives(LIVED - 0.001)
    assert restarts.is_loop
    if ends:
        assert restarts.ended(LIVED) == 0.0
    else:
        restarts.lives(LIVED)
    assert not restarts.is_loop
    assert restarts.failures == 0
    assert restarts.ended(None) == 0.0
    assert restarts.ended(None) == FIRST_DELAY


@given(st.integers(-1, 64), st.integers(1, 5000))
def test_never_a_busy_loop(target: int, failures: int) -> None:
    """However many failures there are, delays never fall, never pass the longest, and only a round of the target comes at once."""
    restarts = Restarts(target)
    delays = [restarts.ended(None) for _ in range(failures)]
    assert all(first <= second for first, second in pairwise(delays))
    assert delays.count(0.0) == min(failures, max(1, target))
    assert delays[-1] <= MOST_DELAY
