"""Counters."""

from __future__ import annotations

from dataclasses import fields

from twistedws.errors import Cause
from twistedws.metrics import Metrics


def test_everything_starts_at_nothing() -> None:
    """A process that has done nothing has counted nothing."""
    metrics = Metrics()
    assert not any(getattr(metrics, each.name) for each in fields(metrics))


def test_causes_are_counted_apart() -> None:
    """Each cause has its own count; one that never happened counts 0."""
    metrics = Metrics()
    metrics.closed[Cause.CLIENT] += 2
    metrics.refused[Cause.HANDSHAKE_TIMEOUT] += 1
    assert metrics.closed == {Cause.CLIENT: 2}
    assert metrics.refused == {Cause.HANDSHAKE_TIMEOUT: 1}
    assert metrics.closed[Cause.DRAIN] == 0


def test_counters_are_not_shared() -> None:
    """What one counts no other sees."""
    one, other = Metrics(), Metrics()
    one.closed[Cause.CLIENT] += 1
    one.refused[Cause.CLIENT] += 1
    assert not other.closed
    assert not other.refused
