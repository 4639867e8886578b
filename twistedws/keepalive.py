"""Deadlines of all connections, and the keepalive of all sessions, on one wheel turned by one ``LoopingCall``. Floor 4.

A connection has one deadline at a time: for its request head, for its next ping, for the pong, for output to move, for the close to
end. So each connection stands in one slot of a hashed timing wheel, and nothing here costs a timer per connection.

Time on the wheel is the time during which the event loop was alive. After a tick that came late, what had been missed is paid at most
``MOST_OWED`` ticks at a time, and one tick later, when everything that arrived meanwhile has been read: a loop that was blocked, or a
machine that slept, makes no peer miss its deadline. The price is that a deadline is met up to two ticks late.
"""

from __future__ import annotations

import math
import struct
from typing import Protocol

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from twistedws import config
from twistedws.errors import By, Cause
from twistedws.session import Session

_log = Logger()

TICK = 0.1
MOST_OWED = 5
SLOTS = 1024
AGAIN = 1.0  # seconds after which a deadline that failed comes again
FIRST_LOOK = 1.0  # seconds after which output that has become congested is looked at first: the kernel takes some for a while

_PING_PAYLOAD = struct.Struct("!I")


class Timed(Protocol):
    """What can stand on the wheel.

    Attributes:
        due: The tick at which it is due; -1 while it does not stand on the wheel. Only the wheel writes it.
    """

    due: int

    def expired(self) -> None:
        """The deadline has come. It stands on the wheel no more, and may be put there again."""


class Wheel:
    """A hashed timing wheel.

    Args:
        tick: Seconds from one slot to the next.
    """

    def __init__(self, tick: float = TICK) -> None:
        self._tick = tick
        self._slots: list[set[Timed]] = [set() for _ in range(SLOTS)]
        self._counts = [0] * SLOTS
        self._position = 0

    def __len__(self) -> int:
        return sum(self._counts)

    @property
    def now(self) -> float:
        """Seconds turned so far."""
        return self._position * self._tick

    def put(self, item: Timed, delay: float) -> None:
        """Give an item its one deadline, in so many seconds; an earlier one is forgotten."""
        self._place(item, self._position + max(1, math.ceil(delay / self._tick - 1e-9)))

    def put_sooner(self, item: Timed, delay: float) -> None:
        """Give an item its deadline in so many seconds, unless it has an earlier one: one put off again and again would never come."""
        if item.due < 0 or item.due > self._position + delay / self._tick:
            self.put(item, delay)

    def put_evenly(self, item: Timed, within: float) -> None:
        """Give an item its deadline in the emptiest of the slots of the next seconds, the first such."""
        self.take(item)
        start = (self._position + 1) % SLOTS
        if not self._counts[start]:
            self._place(item, self._position + 1)
            return
        end = start + max(1, min(SLOTS - 1, int(within / self._tick)))
        ahead = self._counts[start:end] + self._counts[: max(0, end - SLOTS)]
        self._place(item, self._position + 1 + ahead.index(0 if 0 in ahead else min(ahead)))

    def take(self, item: Timed) -> None:
        """Take an item off the wheel, if it is there."""
        if item.due >= 0:
            slot = item.due % SLOTS
            self._slots[slot].discard(item)
            self._counts[slot] -= 1
            item.due = -1

    def turn(self) -> None:
        """Go on by one slot and let expire what is due there."""
        self._position += 1
        slot = self._position % SLOTS
        if self._counts[slot]:
            for item in tuple(self._slots[slot]):
                if item.due == self._position:  # others are due in a later round, or have been moved by one that expired
                    self.take(item)
                    try:
                        item.expired()
                    except Exception:  # one faulty item must not stop everybody's deadlines
                        _log.failure("a deadline of {item} failed", item=item, limit="deadline failed")
                        self.put(item, AGAIN)  # it must not be without one either

    def _place(self, item: Timed, due: int) -> None:
        self.take(item)
        slot = due % SLOTS
        self._slots[slot].add(item)
        self._counts[slot] += 1
        item.due = due


class KeepaliveService(Service):
    """Turns the wheel, and decides what becomes of an open session when its time has come.

    Args:
        settings: The intervals of pings and pongs.
        write_stall_timeout: Seconds without a byte of waiting output leaving after which a session is aborted; 0 for never.
        clock: The reactor, or a ``Clock``.
    """

    def __init__(self, settings: config.Keepalive, write_stall_timeout: float, clock: IReactorTime) -> None:
        self.wheel = Wheel()
        self._interval, self._timeout = settings.ping_interval, settings.ping_timeout
        self._write_stall_timeout = write_stall_timeout
        self._clock = clock
        self._owed = self._turned_at = 0.0
        self._loop = LoopingCall(self._tick)
        self._loop.clock = clock
        self._pings = 0

    def startService(self) -> None:
        """Start turning."""
        super().startService()
        self._turned_at = self._clock.seconds()
        self._loop.start(TICK, now=False)

    def stopService(self) -> None:
        """Stop turning; the service's owner stops it last, since a drain needs its deadlines."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def _tick(self) -> None:
        """Pay the ticks that the last call found owing; see the module's docstring."""
        now = self._clock.seconds()
        due = int(self._owed)
        self._owed = min(self._owed - due + (now - self._turned_at) / TICK, float(MOST_OWED))
        self._turned_at = now
        for _ in range(due):
            self.wheel.turn()

    def begin(self, item: Timed, session: Session) -> None:
        """Give a session that has just opened its deadline, instead of the handshake's; its end calls ``sweep``."""
        session.moved_at = self.wheel.now
        if self._interval:
            self.wheel.put_evenly(item, self._interval)
        elif self._write_stall_timeout:
            self.wheel.put(item, self._write_stall_timeout / 4)
        else:
            self.wheel.take(item)

    def watch(self, item: Timed, session: Session) -> None:
        """A session's output has become congested: from now on it is looked at often enough to meet the write-stall deadline."""
        if self._write_stall_timeout:
            session.moved = _moved(session, session.wire.buffered())
            session.moved_at = self.wheel.now
            self.wheel.put_sooner(item, min(FIRST_LOOK, self._write_stall_timeout / 4))

    def sweep(self, item: Timed, session: Session) -> None:
        """Ping the session, or abort it if a deadline has passed, and put it on the wheel again if it lives on."""
        now = self.wheel.now
        waiting = session.wire.buffered()
        if self._write_stall_timeout and self._stalled(session, waiting, now):
            session.abort(Cause.WRITE_STALL, By.SERVER)
            return
        if self._unheard(session, now):
            session.abort(Cause.PONG_TIMEOUT, By.SERVER)
            return
        following = self._ping(session, waiting, now) if self._interval else math.inf
        if self._write_stall_timeout and (waiting or not self._interval):
            left = session.moved_at + self._write_stall_timeout - now if waiting else math.inf
            following = min(following, self._write_stall_timeout / 4, left)
        if following < math.inf:
            self.wheel.put(item, following)

    def pong(self, session: Session, payload: bytes) -> bool:
        """Note a pong.

        Returns:
            Whether it answers the ping that is out (RFC 6455 section 5.5.3 allows others, unasked).
        """
        if not payload or payload != session.ping_payload:
            return False
        session.rtt = self._clock.seconds() - session.ping_sent
        session.ping_payload = b""
        return True

    def _stalled(self, session: Session, waiting: int, now: float) -> bool:
        moved = _moved(session, waiting)
        if not waiting or moved != session.moved:
            session.moved, session.moved_at = moved, now
        return now - session.moved_at >= self._write_stall_timeout - TICK / 2

    def _unheard(self, session: Session, now: float) -> bool:
        """Whether the deadline for the ping that is out has passed, no byte having come since, though we were listening."""
        if session.pinged_mark < 0 or not self._timeout:
            return False
        if session.held or session.wire.received != session.pinged_mark:
            session.pinged_mark = -1
            return False
        return now - session.pinged_at >= self._timeout - TICK / 2

    def _ping(self, session: Session, waiting: int, now: float) -> float:
        """Send a ping if it is time; return the seconds until the session must be looked at for its next ping or its pong."""
        until_next = session.ping_due - now
        if until_next < TICK / 2:
            # Behind what the peer does not take it would only queue, and the write-stall deadline holds, if there is one.
            if not waiting or not self._write_stall_timeout:
                self._send_ping(session, now)
            until_next = self._interval
            session.ping_due = now + until_next
        if session.pinged_mark < 0 or not self._timeout:
            return until_next
        return min(until_next, session.pinged_at + self._timeout - now)

    def _send_ping(self, session: Session, now: float) -> None:
        self._pings = (self._pings + 1) & 0xFFFFFFFF
        session.ping_payload, session.ping_sent = _PING_PAYLOAD.pack(self._pings), self._clock.seconds()
        session.wire.ping(session.ping_payload)
        if session.pinged_mark < 0 and not session.held:  # else an earlier ping is out, and its deadline holds
            session.pinged_mark, session.pinged_at = session.wire.received, now


def _moved(session: Session, waiting: int) -> int:
    """Return how much of the output the peer's machine has, where so much waits for the operating system to take it."""
    return session.wire.written - waiting - (session.wire.unacknowledged() if waiting else 0)
