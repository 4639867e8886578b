"""Whose turn it is to accept: so that connections are spread evenly over the workers. See docs/adr/0013.

All workers have the same listening sockets, and one at a time accepts from them: the one with the fewest connections. It reports when it
has accepted so many that another may have fewer. No connection passes through the supervisor, and what waits in the kernel's queue
belongs to no worker: a worker that is stuck, or dies, takes none of it with it.

This module decides, and sends to workers what it has decided; it knows neither processes nor sockets. Its laws:

- At most one worker has the turn.
- To move the turn costs some 0.1 ms of CPU: it is moved at most ``MOVES`` times a second in the long run. A burst after quiet is spread
  one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from twistedws.limits import TokenBucket
from twistedws.listening import MOST_WAIT
from twistedws.supervisor.control import Accept, Message, Rest

MOVES = 100.0  # per second
BURST = 300.0  # moves at once
PATIENCE = 3.0  # seconds for which others leave the share of a worker that died to its replacement
_FEW = 50  # connections that are not worth to wait for
_TOLERANCE = 1.02  # of an even share that a worker may have meanwhile
_LITTLE = 100  # a hundredth of its load more than another's is no reason to move the turn
_NEAR = 1000  # connections less than there may be
_RARELY = 8  # connections from one report to the next of a worker that has more than another already
_CROWD = 16  # connections from one report to the next in a crowd: a report for each would cost nearly half of what a connection does
_SOON = 0.001  # seconds; less may be lost in rounding, and the same moment come again and again
_STEPS = 50.0  # times a second that a worker is told how many it may accept, at --accept-rate


class Candidate(Protocol):
    """A worker that may accept."""

    @property
    def load(self) -> int:
        """Connections that it has."""

    @property
    def accepted(self) -> int:
        """Connections that it has accepted since its start."""

    @property
    def is_busy(self) -> bool:
        """Whether its event loop has given no sign of life for longer than usual."""

    def send(self, message: Message) -> None:
        """Tell it something."""


class Balance:
    """Gives the turn.

    Args:
        clock: The reactor, or a ``Clock``.
        waiting: Returns how many connections wait in the kernel's queues, as far as is known.
        accept_rate: Connections that may be accepted per second; 0 for any number.
        max_connections: Connections that there may be, on all workers together; 0 for any number.
    """

    def __init__(self, clock: IReactorTime, waiting: Callable[[], int], accept_rate: float, max_connections: int) -> None:
        self._clock, self._waiting, self._rate, self._most = clock, waiting, accept_rate, max_connections
        now = clock.seconds()
        self._moves = TokenBucket(MOVES, BURST, now)
        self._pace = TokenBucket(accept_rate, max(1.0, accept_rate / 10), now) if accept_rate else None
        self._again: IDelayedCall | None = None
        self._candidates: Sequence[Candidate] = ()
        self._others = 0
        self._awaited = 0  # connections of workers that died, which are left to their replacements
        self._awaited_until = 0.0
        self.holder: Candidate | None = None
        self._granted: Accept | None = None

    def candidates(self, candidates: Sequence[Candidate], others: int) -> None:
        """Say which workers may accept.

        Args:
            candidates: Those that serve, and are not leaving or stuck.
            others: Connections of all other workers.
        """
        self._candidates, self._others = candidates, others
        if self.holder is not None and self.holder not in candidates:
            self._take_away()
        self.decide()

    def lost(self, load: int) -> None:
        """A worker has died with so many connections: leave them to its replacement, for a while, since most come back at once."""
        self._awaited += load
        if self._awaited >= _FEW:
            self._awaited_until = self._clock.seconds() + PATIENCE

    def replaced(self) -> None:
        """A replacement is there."""
        self._awaited_until = 0.0

    def accepted(self, number: int) -> None:
        """So many connections were accepted."""
        self._awaited = max(0, self._awaited - number)
        if self._pace is not None:
            now = self._clock.seconds()
            for _ in range(number):
                self._pace.spend(now)

    def spent(self) -> None:
        """The worker that had the turn has accepted as many as it was allowed, and rests."""
        self._granted = None

    def decide_soon(self) -> None:
        """Give the turn to whom it is due, once for all that is heard in this turn of the loop."""
        self._decide_later(0.0)

    def decide(self) -> None:
        """Give the turn to whom it is due."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if not self._candidates:
            return
        now = self._clock.seconds()
        loads = sorted(each.load for each in self._candidates)
        best = min(self._candidates, key=lambda each: (each.is_busy, each.load))
        share = self._share(sum(loads), now)
        if share is not None and best.load >= share:
            self._take_away()
            self._decide_later(0.05)
            return
        wait = self._pace.wait(now) if self._pace is not None else 0.0
        if wait > 0:
            self._take_away()
            self._decide_later(max(wait, 1 / _STEPS))
            return
        is_counted = self._pace is not None or 0 < self._most <= sum(loads) + self._others + _NEAR
        if self.holder is not None and self.holder is not best and not self._may_move(self.holder, best, is_counted, now):
            best = self.holder
        second = min((each.load for each in self._candidates if each is not best), default=None)
        self._give(best, self._grant(best, second, share, sum(loads), now))

    def _share(self, total: int, now: float) -> int | None:
        """Return how many connections a worker may have while what comes is left to one that will be there soon; None for any number."""
        if now >= self._awaited_until:
            self._awaited = 0
            return None
        return math.ceil((total + self._awaited) / (len(self._candidates) + 1) * _TOLERANCE)

    def _may_move(self, holder: Candidate, best: Candidate, is_counted: bool, now: float) -> bool:
        """Say whether the turn is to move from the one to the other.

        Args:
            holder: Who has it.
            best: Who has the fewest connections.
            is_counted: Whether it matters how many are accepted: for there is a rate, or they are nearly as many as there may be. Then one
                ends its turn before another begins, since what it has accepted meanwhile is not known.
            now: Seconds.
        """
        if holder.is_busy and not best.is_busy:
            return True
        if is_counted and self._granted is not None:
            return False
        if holder.load - best.load <= best.load // _LITTLE:
            return False
        if self._moves.take(now):
            return True
        self._decide_later(max(self._moves.wait(now), _SOON))
        return False

    def _grant(self, worker: Candidate, second: int | None, share: int | None, total: int, now: float) -> Accept:
        """Work out how many connections a worker may accept before it reports, and before it rests."""
        after = 1_000_000 if second is None else max(1, second - worker.load + 1)
        # After quiet it rests of itself, so that what comes at once is spread one by one; in a crowd it goes on until it is told.
        is_quiet = self._moves.tokens(now) > BURST / 2
        most = after if second is not None and is_quiet else 0
        shed, is_last = 0, False
        if self._pace is not None:
            tokens = max(1, int(self._pace.tokens(now)))
            most = min(most or max(after, _RARELY), tokens)
            shed = max(0, self._waiting() - int(self._rate * MOST_WAIT))
        if self._most:
            left = self._most - total - self._others
            if left <= 0:
                return Accept(after=1_000_000, shed=-1)
            most = min(most or (left if left > _NEAR else max(after, _RARELY)), left)
            is_last = most == left
        if share is not None:
            most = min(most or share, max(1, share - worker.load))
        if second is not None and not is_quiet and not most:
            after = max(after, _CROWD)
        elif second is not None and second < worker.load:  # it keeps the turn only since to move it would cost too much
            after = _RARELY
        return Accept(after=after, until=worker.accepted + most if most else 0, is_last=is_last, shed=shed)

    def _give(self, worker: Candidate, grant: Accept) -> None:
        if worker is self.holder and grant == self._granted:
            return
        if worker is self.holder and grant.until:  # to have it rest, and accept again, costs as much as to move the turn
            self._moves.spend(self._clock.seconds())
        previous, self.holder, self._granted = self.holder, worker, grant
        worker.send(grant)
        if previous is not None and previous is not worker:
            previous.send(Rest())

    def _take_away(self) -> None:
        if self.holder is not None:
            self.holder.send(Rest())
            self.holder = self._granted = None

    def _decide_later(self, seconds: float) -> None:
        if self._again is not None:
            if self._again.getTime() <= self._clock.seconds() + seconds:
                return
            self._again.cancel()
        self._again = self._clock.callLater(seconds, self._decide_again)

    def _decide_again(self) -> None:
        self._again = None
        self.decide()

    def stop(self) -> None:
        """Give nobody the turn any more."""
        self._candidates = ()
        self._take_away()
        if self._again is not None:
            self._again.cancel()
            self._again = None
