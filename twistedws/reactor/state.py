"""The state of a connection, and what its protocol is told at its end.

Owns the bits of ``LoopTransport._flags`` and the shared reasons. Its laws:

- A bit that an ordinary connection has, or gets as it is served, is below 256: greater numbers are objects of their own.
- What only some connections need stands in their ``__dict__``, and a bit says whether it is there. Nobody else looks into ``__dict__``,
  for that makes one.
"""

# mypy: disallow-untyped-calls=False
# (Twisted's Failure has no annotations)

from __future__ import annotations

from twisted.internet import main
from twisted.internet.error import ConnectionAborted
from twisted.python.failure import Failure

# What a connection is told at its end. Shared, as Twisted's own reactors do (posixbase._disconnectSelectable): a Failure costs 2 us.
DONE, LOST, ABORTED = Failure(main.CONNECTION_DONE), Failure(main.CONNECTION_LOST), Failure(ConnectionAborted())

# A connection's state in one small integer: an attribute each would cost 8 bytes, and there are 10,000 connections.
CONNECTED, DISCONNECTING, DISCONNECTED, ABORTING = 1, 2, 4, 8
STREAMING, PRODUCER_PAUSED, PULLING = 16, 32, 64  # the producer is a push producer; we paused it; we are about to ask a pull producer
FULL = 128  # the loop's buffer is over its high-water mark
PAUSED, READ_CLOSED, WRITE_CLOSING, WRITE_CLOSED = 256, 512, 1024, 2048
NOT_WANTED = PAUSED | DISCONNECTING | DISCONNECTED | ABORTING
DELAYED = 4096  # TCP_NODELAY, which both loops set on every connection, was cleared

# What is in __dict__: _held; _failure; the methods that TLS took over
HOLDING, FAILED, SECURE = 8192, 16384, 32768
