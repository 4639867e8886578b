"""Twisted's asyncio reactor, made to run on uvloop too: what Twisted polls, its timers, its signals.

Owns the selector. Its laws:

- The loop polls one descriptor of ours, the selector's; nothing of Twisted reaches ``loop.add_reader`` (docs/adr/0004).
- A timer is never early.
- It knows nothing of ports and connections: ``loop_reactor`` adds them.
"""

# mypy: disallow-untyped-calls=False
# (Twisted's reactors and transports have no annotations)

from __future__ import annotations

import selectors
from asyncio import AbstractEventLoop
from collections.abc import Callable
from math import ceil
from typing import Any, cast

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import DelayedCall, ReactorBase
from twisted.python.log import callWithLogger

from twistedws.reactor.child_signals import ChildSignals, Signals


class PollingReactor(AsyncioSelectorReactor):
    """See the module.

    Args:
        loop: The loop.

    Attributes:
        loop: The loop.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self._selector = selectors.DefaultSelector()
        self._polled: dict[int, list[Any]] = {}  # descriptor: its reader and its writer
        loop.add_reader(cast("Any", self._selector).fileno(), self._poll)
        super().__init__(loop)

    # What Twisted polls (IReactorFDSet)

    def _poll(self) -> None:
        """Something in our selector is ready."""
        for key, events in self._selector.select(0):
            for which, event in enumerate((selectors.EVENT_READ, selectors.EVENT_WRITE)):
                if events & event and key.data[which] is not None:
                    callWithLogger(key.data[which], self._readOrWrite, key.data[which], which == 0)

    def _watch(self, fd: int, which: int, who: Any) -> None:
        pair = self._polled.get(fd)
        if pair is not None and any(each is not None and each.fileno() != fd for each in pair):
            self._selector.unregister(fd)  # closed without a word, and the number is another file's now
            pair = None
        if pair is None:
            pair = [None, None]
            pair[which] = who
            self._selector.register(fd, _events(pair), pair)
            self._polled[fd] = pair
        else:
            pair[which] = who
            self._selector.modify(fd, _events(pair), pair)

    def _unwatch(self, fd: int, which: int, who: Any) -> None:
        pair = self._polled.get(fd)
        if pair is None or pair[which] is not who:
            return
        pair[which] = None
        events = _events(pair)
        if events:
            self._selector.modify(fd, events, pair)
        else:
            self._selector.unregister(fd)
            del self._polled[fd]

    def addReader(self, reader: Any) -> None:
        """Call ``reader.doRead`` when there is something to read."""
        if reader not in self._readers and not self._continuousPolling.isReading(reader):
            fd = reader.fileno()
            try:
                self._watch(fd, 0, reader)
                self._readers[reader] = fd
            except PermissionError:  # epoll takes no regular files
                self._continuousPolling.addReader(reader)

    def addWriter(self, writer: Any) -> None:
        """Call ``writer.doWrite`` when something can be written."""
        if writer not in self._writers and not self._continuousPolling.isWriting(writer):
            fd = writer.fileno()
            try:
                self._watch(fd, 1, writer)
                self._writers[writer] = fd
            except PermissionError:
                self._continuousPolling.addWriter(writer)
            except BrokenPipeError:  # kqueue says it here
                pass

    def removeReader(self, reader: Any) -> None:
        """Call it no more."""
        if reader in self._readers:
            self._unwatch(self._readers.pop(reader), 0, reader)
        else:
            self._continuousPolling.removeReader(reader)

    def removeWriter(self, writer: Any) -> None:
        """Call it no more."""
        if writer in self._writers:
            self._unwatch(self._writers.pop(writer), 1, writer)
        else:
            self._continuousPolling.removeWriter(writer)

    # Timers and the end

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object) -> DelayedCall:  # noqa: A002
        """Call something later (IReactorTime)."""
        call = ReactorBase.callLater(self, delay, callable, *args, **kwargs)
        if self._scheduledAt is None or call.time < self._scheduledAt:
            self._reschedule()
        return call

    def _reschedule(self) -> None:
        delay = self.timeout()
        if delay is None:
            return
        self._scheduledAt = self.seconds() + delay  # type: ignore[assignment]  # Twisted sets it to None first
        if self._timerHandle is not None:
            self._timerHandle.cancel()
        # Up, to the milliseconds that uvloop knows: it rounds to the nearest (loop.pyx:1289), and would come too early, to no avail.
        self._timerHandle = self.loop.call_later(ceil(delay * 1000) / 1000, self._onTimer)  # type: ignore[assignment]

    def iterate(self, delay: float = 0.0) -> None:
        """Run for some time."""
        super().iterate(delay)

    def run(self, installSignalHandlers: bool = True) -> None:
        """Run until stopped."""
        super().run(installSignalHandlers)
        if not self.loop.is_closed():  # one more turn: connections that disconnectAll has ended are closed in it
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def _signalsFactory(self) -> Any:
        return Signals(ReactorBase._signalsFactory(self), ChildSignals(self.loop))  # noqa: SLF001


def _events(pair: list[Any]) -> int:
    return (selectors.EVENT_READ if pair[0] is not None else 0) | (selectors.EVENT_WRITE if pair[1] is not None else 0)
