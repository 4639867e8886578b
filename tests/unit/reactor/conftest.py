"""What the tests of the reactor are given."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import globalLogPublisher

from tests.support.reactor import LOOPS, World
from twistedws.reactor import new_event_loop


@pytest.fixture(params=LOOPS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A reactor on each kind of loop; at its end no descriptor is left behind."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    made = World(new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop())
    assert made.reactor.native == (request.param == "uvloop")
    yield made
    made.close()


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    """What is logged."""
    events: list[dict[str, Any]] = []
    observer: Any = events.append
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)
