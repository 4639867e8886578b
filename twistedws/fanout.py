"""One message to many sessions: framed once, written to each. Floor 3.

Laws of this module:

- A session that does not read delays none of the others: its own bound and policy decide what becomes of its copy.
- The loop gets its turn after every ``BATCH`` sessions, so that a fan-out to 100,000 stops neither pings nor other messages.
- Fan-outs are done one after the other: two of them reach every session in the order in which they were called, whoever is in either.
- What waits is bounded: beyond ``MOST_WAITING`` fan-outs, or ``MOST_OCTETS`` of messages, a further one is dropped, and says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twistedws.session import Framed, Session, framed

_log = Logger()

BATCH = 512  # sessions, of some 3 us each
MOST_WAITING = 256  # fan-outs behind the one that is under way
MOST_OCTETS = 64 * 2**20  # bytes of their messages, together


class Addressee(Protocol):
    """Who can be sent a message: a ``Session``, or what wraps one for a coroutine."""

    @property
    def session(self) -> Session:
        """The session itself."""


def fan_out(sessions: Iterable[Session | Addressee], message: str | bytes | bytearray | memoryview) -> Deferred[int]:
    """Send a message to many sessions.

    The first batch, 512 sessions, is sent before this returns, unless an earlier fan-out is still under way; the others follow in the next
    turns of the loop. What is sent to one of those sessions by ``session.send`` meanwhile may reach it before this message does.

    Args:
        sessions: As they are now: who joins later is not sent it. Those that are not open are left out.
        message: Text for a str, binary for bytes.

    Returns:
        Fires, when all is done, with the number of sessions that it was sent to; with 0 at once if too much waits already. Who sends much
        to many awaits it.

    Raises:
        TypeError: The message is neither text nor bytes.
        UnicodeEncodeError: The text holds lone surrogates, which UTF-8 cannot carry.
    """
    recipients = [each if isinstance(each, Session) else each.session for each in sessions]
    job = _Job(framed(message), recipients, Deferred())
    if not recipients:
        job.end.callback(0)
    elif len(_queue) > MOST_WAITING or sum(len(each.message.frame) for each in _queue) > MOST_OCTETS:
        _log.warn("a fan-out to {sessions} sessions was dropped: {waiting} are under way", sessions=len(recipients), waiting=len(_queue),
                  limit="fan-out dropped")  # fmt: skip
        job.end.callback(0)
    else:
        _queue.append(job)
        if len(_queue) == 1:
            _work()
    return job.end


class _Job(msgspec.Struct):
    message: Framed
    recipients: list[Session]
    end: Deferred[int]
    done: int = 0  # of the recipients
    sent: int = 0


_queue: deque[_Job] = deque()  # the first is under way; of the process, as sessions are


def _work() -> None:
    """Do one batch; go on in the next turn of the loop while there are more."""
    job = _queue[0]
    batch = job.recipients[job.done : job.done + BATCH]
    job.done += len(batch)
    for session in batch:
        try:
            job.sent += session.send_framed(job.message)
        except Exception:  # one session's fault is no other's
            _log.failure("cannot send to session={session}", session=session.id, limit="fan-out")
            session.abort()
    finished = job.done == len(job.recipients)
    if finished:
        _queue.popleft()
    if _queue:
        try:
            batch[-1].wire.soon(_work)
        except Exception:  # there will be no next turn: the reactor has gone
            _log.failure("fan-outs were dropped", limit="fan-out dropped")
            while _queue:
                job = _queue.popleft()
                job.end.callback(job.sent)
            return
    if finished:
        job.end.callback(job.sent)
