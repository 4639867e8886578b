"""A reactor in memory that notes what it is asked."""

from __future__ import annotations

from typing import Any

from twisted.internet.testing import MemoryReactorClock


class Reactor(MemoryReactorClock):
    """A reactor that never runs.

    Attributes:
        stopped: How often it was stopped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stopped = 0

    def stop(self) -> None:
        self.stopped += 1

    def callFromThread(self, callable: Any, *arguments: Any, **keywords: Any) -> None:  # noqa: A002 - Twisted's name
        callable(*arguments, **keywords)
