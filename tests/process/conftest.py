"""For all process tests: the server is another process, so what runs in this one is none of its coverage, and need not be measured."""

from __future__ import annotations

import coverage
import pytest


@pytest.fixture(scope="package", autouse=True)
def unmeasured() -> None:
    """End the measurement, where there is one: unit and wire tests have run before (``make test COVERAGE=1``)."""
    if (measurement := coverage.Coverage.current()) is not None:
        measurement.stop()
