"""Counting what a peer may do: token buckets. Floor 1: no I/O, no clock; time is an argument, in seconds of any monotonic clock."""

from __future__ import annotations


class TokenBucket:
    """A bucket that fills at ``rate`` tokens a second up to ``burst``, and starts full.

    Args:
        rate: Tokens per second; positive.
        burst: The most that can be taken at once; at least one token, whatever is given.
        now: Seconds.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, max(1.0, burst)
        self._tokens, self._at = self._burst, now

    def take(self, now: float) -> bool:
        """Take one token; False, and nothing taken, if there is none."""
        self._fill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def spend(self, now: float) -> None:
        """Take one token for something that has happened already, going into debt if need be."""
        self._fill(now)
        self._tokens -= 1.0

    def wait(self, now: float) -> float:
        """Return the seconds until a token is there; 0.0 if one is."""
        self._fill(now)
        return 0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) / self._rate

    def tokens(self, now: float) -> float:
        """Return how many tokens there are; less than none is a debt."""
        self._fill(now)
        return self._tokens

    def _fill(self, now: float) -> None:
        elapsed = now - self._at
        if elapsed > 0:
            self._tokens = min(self._burst, self._tokens + elapsed * self._rate)
            self._at = now
