"""``twistedws.reactor.polling``: what Twisted polls, and timers."""

from __future__ import annotations

import select
import socket
import time
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from tests.support.reactor import Recorder, World, descriptors, reset


def test_timers_are_not_early(world: World) -> None:
    """A timer comes at its time, not before it, by a clock that can be replaced, and without a spin before it."""
    world.reactor.seconds = time.monotonic
    for delay in (0.0004, 0.0014, 0.0106, 0.02):
        came: list[float] = []
        begun = time.monotonic()
        world.reactor.callLater(delay, lambda: came.append(time.monotonic()))  # noqa: B023 - it is called in this round
        world.until(lambda: came)  # noqa: B023
        assert came[0] - begun >= delay


def test_an_earlier_timer(world: World) -> None:
    """A timer that is set after a later one comes first."""
    came: list[str] = []
    late = world.reactor.callLater(60, came.append, "late")
    world.reactor.callLater(0.01, came.append, "soon")
    world.until(lambda: came)
    assert came == ["soon"]
    late.reset(0)
    world.until(lambda: len(came) == 2)


def test_a_descriptor_that_was_closed_without_a_word(world: World) -> None:
    """A reader whose descriptor was closed does not keep the next with that number from being read."""

    class Reads(FileDescriptor):
        def __init__(self, handle: socket.socket) -> None:
            super().__init__(world.reactor)
            self.handle, self.reads = handle, 0
            self.fileno = handle.fileno  # type: ignore[method-assign]

        def doRead(self) -> None:
            self.handle.recv(10)
            self.reads += 1

    ours, theirs = socket.socketpair()
    stale = Reads(ours)
    world.reactor.addReader(stale)
    ours.close()
    theirs.close()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fresh = Reads(ours)
        world.reactor.addReader(fresh)
        world.reactor.removeReader(stale)
        theirs.send(b"x")
        world.until(lambda: fresh.reads)
        world.reactor.removeReader(fresh)
    assert stale.reads == 0


def test_resets_against_clients(world: World) -> None:
    """Clients of connectTCP that are reset, with data unread before the reset, each hear of it, and no descriptor stays."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        listening.setblocking(False)
        before = world.until(descriptors)
        ends = []

        class Client(Recorder):
            def connectionMade(self) -> None:
                self.transport.write(b"x" * 1000)

            def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
                ends.append(reason)

        class Clients(ClientFactory):
            noisy = False
            protocol = Client

            def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
                ends.append(reason)  # the reset was there before the connection was noticed

        factory = Clients()
        for number in range(100):
            world.reactor.connectTCP("127.0.0.1", listening.getsockname()[1], factory)
            world.until(lambda: select.select([listening], [], [], 0)[0])
            accepted, _ = listening.accept()
            accepted.sendall(b"y" * 1000)
            if number % 2:
                world.turns(1)
            reset(accepted)
        world.until(lambda: len(ends) == 100)
        world.until(lambda: descriptors() <= before)
        assert all(each.check(ConnectionLost, ConnectionDone, ConnectError) for each in ends)
