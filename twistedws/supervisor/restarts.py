"""How soon a worker that ended is replaced. Pure: time is an argument.

One that lived is replaced at once. Those that end before they are ready, or soon after, are replaced at once too, but each round of them
later than the round before: a loop of crashes never becomes a busy loop, and is reported.
"""

from __future__ import annotations

LIVED = 2.0  # seconds after it was ready for which a worker must serve to count as one that lived
FIRST_DELAY = 0.5
MOST_DELAY = 10.0


class Restarts:
    """The restarts of one generation of workers.

    Args:
        target: How many workers there are to be.
    """

    def __init__(self, target: int) -> None:
        self._target = max(1, target)
        self.failures = 0  # in a row

    def ended(self, served: float | None) -> float:
        """A worker has ended of itself.

        Args:
            served: Seconds since it was ready; None if it never was.

        Returns:
            Seconds after which another is to be started.
        """
        if served is not None and served >= LIVED:
            self.failures = 0
            return 0.0
        self.failures += 1
        rounds = (self.failures - 1) // self._target
        return 0.0 if not rounds else min(MOST_DELAY, FIRST_DELAY * 2.0 ** min(rounds - 1, 10))

    def lives(self, served: float) -> None:
        """A worker that was started after the last failure serves, for so many seconds by now."""
        if served >= LIVED:
            self.failures = 0

    @property
    def is_loop(self) -> bool:
        """Whether workers end again and again."""
        return self.failures > self._target
