"""Twisted's asyncio reactor, whose servers use the event loop's own transports. Floor 5.

On a uvloop loop a connection costs half of what it costs on Twisted's own transports: libuv accepts it and reads it, uvloop writes it, and
between the loop and the protocol stands nothing of Python. Everything else that Twisted polls (client connections, UDP, pipes, the waker
of the threads) goes through a selector of this reactor's own, of which the loop polls the one descriptor.

Laws of this package:

- The loop calls ``protocol.dataReceived`` itself, and ``transport.write`` is the loop transport's own bound method. No message passes
  through a function of this package.
- What a protocol or a factory raises ends its own connection, and is logged once.
- A protocol that was told ``makeConnection`` is told ``connectionLost`` exactly once, and its descriptor is closed right after.
- A paused port shows no connection to its factory: they wait in the kernel. A port outlives a want of descriptors.
- Nothing of Twisted is polled with ``loop.add_reader``: uvloop loses resets there (docs/adr/0004).

Imports go one way: ``loop_reactor`` > ``port`` and ``polling`` > ``unix_transport`` and ``child_signals`` > ``transport`` > ``tls`` >
``state``, ``descriptors`` and ``loop``. A port and a connection know their reactor as what they are given.

Lines of uvloop that these modules cite are those of 0.23.0, with libuv 1.52.1.
"""

from __future__ import annotations

from twistedws.reactor.loop import new_event_loop
from twistedws.reactor.loop_reactor import LoopReactor, install
from twistedws.reactor.port import LoopPort, LoopUNIXPort
from twistedws.reactor.transport import LoopTransport
from twistedws.reactor.unix_transport import LoopUNIXTransport

__all__ = ["LoopPort", "LoopReactor", "LoopTransport", "LoopUNIXPort", "LoopUNIXTransport", "install", "new_event_loop"]
