"""Token buckets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twistedws.limits import TokenBucket


@pytest.mark.parametrize(("burst", "at_once"), [(5, 5), (1, 1), (2.5, 2), (0.1, 1), (0, 1)])
def test_a_bucket_starts_full(burst: float, at_once: int) -> None:
    """At once there are as many whole tokens as the burst holds, at least one."""
    bucket = TokenBucket(1, burst, 100.0)
    assert [bucket.take(100.0) for _ in range(at_once + 1)] == [True] * at_once + [False]


def test_a_bucket_fills_at_its_rate() -> None:
    """Tokens come back with time, as many as the rate says."""
    bucket = TokenBucket(2, 4, 0.0)
    for _ in range(4):
        assert bucket.take(0.0)
    assert not bucket.take(0.25)
    assert bucket.take(0.5)
    assert not bucket.take(0.5)
    assert [bucket.take(1.5) for _ in range(3)] == [True, True, False]


def test_a_bucket_does_not_overflow() -> None:
    """However long nothing was taken, no more than the burst can be."""
    bucket = TokenBucket(10, 3, 0.0)
    assert [bucket.take(1e9) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    """Time that runs backwards neither gives nor takes tokens, nor gives any twice."""
    bucket = TokenBucket(1, 1, 10.0)
    assert bucket.take(10.0)
    assert not bucket.take(5.0)
    assert not bucket.take(10.5)
    assert bucket.take(11.0)


def test_spending_goes_into_debt() -> None:
    """What has happened is counted even without a token, and must be paid back before the next."""
    bucket = TokenBucket(10, 1, 0.0)
    for _ in range(4):
        bucket.spend(0.0)
    assert bucket.wait(0.0) == pytest.approx(0.4)
    assert not bucket.take(0.3)
    assert bucket.wait(0.3) == pytest.approx(0.1)
    assert bucket.take(0.41)


def test_nothing_is_waited_for_while_there_are_tokens() -> None:
    """The wait is 0 exactly while a token is there."""
    bucket = TokenBucket(10, 2, 0.0)
    bucket.spend(0.0)
    assert bucket.wait(0.0) == 0.0
    bucket.spend(0.0)
    assert bucket.wait(0.0) == pytest.approx(0.1)


@given(
    rate=st.floats(0.01, 1000),
    burst=st.floats(0, 1000),
    steps=st.lists(st.floats(0, 10), max_size=100),
)
def test_a_bucket_never_gives_more_than_its_rate_and_burst(rate: float, burst: float, steps: list[float]) -> None:
    """Over any time, what was taken is at most the burst and what has flowed in."""
    bucket, now, taken = TokenBucket(rate, burst, 0.0), 0.0, 0
    for step in steps:
        now += step
        taken += bucket.take(now)
        assert taken <= max(1.0, burst) + rate * now + 1e-6


@given(rate=st.floats(0.01, 1000), spent=st.integers(1, 50))
def test_after_the_wait_there_is_a_token(rate: float, spent: int) -> None:
    """Whoever waits as long as he was told finds a token, whatever the debt."""
    bucket = TokenBucket(rate, 1, 0.0)
    for _ in range(spent):
        bucket.spend(0.0)
    wait = bucket.wait(0.0)
    assert wait > 0
    assert bucket.take(wait * (1 + 1e-9) + 1e-9)
