"""When what is sent leaves: with the read that it answers, at the end of a turn of the loop, at once; and what faults of ours do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import RawPeer, World, masked, request
from twistedws.errors import Cause
from twistedws.protocol import Turn
from twistedws.protocol.connection import MOST_CORKED
from twistedws.session import framed


class Turning:
    """A world on a loop that turns when it is told to, with one peer, and the writes that reached its transport.

    Args:
        head: What the peer asks for a session with.
        settings: As a world's.
    """

    def __init__(self, head: bytes = request(), **settings: Any) -> None:
        self.world = World(**settings)
        self.writes: list[bytes] = []
        self.soon: list[Callable[[], None]] = []
        self.world.factory.site = dataclasses.replace(self.world.factory.site, turn=Turn(self.soon.append))
        self.peer = self.world.raw(head)
        self.session = self.world.handler.session
        server: Any = self.world.links[0].server
        server.write = self.writes.append
        self.server = server

    def turn(self) -> None:
        """Let a turn of the loop end."""
        soon, self.soon[:] = self.soon[:], []
        for each in soon:
            each()


class Corked(SynchronousTestCase):
    """What leaves in one write."""

    def test_answers_to_one_read(self) -> None:
        """What is sent while a read is looked at leaves in one write, behind it, with no turn waited for."""
        turning = Turning()
        turning.server.protocol.dataReceived(masked(0x81, b"a") + masked(0x89) + masked(0x81, b"b"))
        self.assertEqual(turning.writes, [b"\x81\x01a\x8a\x00\x81\x01b"])
        self.assertEqual(turning.soon, [])

    def test_one_turn(self) -> None:
        """What is sent outside of a read leaves in one write at the end of the turn, and so again in the next."""
        turning = Turning()
        for _ in range(2):
            turning.session.send("a")
            turning.session.send("b")
            self.assertEqual((turning.writes, len(turning.soon)), ([], 1))
            turning.turn()
            self.assertEqual(turning.writes, [b"\x81\x01a\x81\x01b"])
            turning.writes.clear()

    def test_much_leaves_before(self) -> None:
        """Once much is corked it leaves, in the order in which it was sent."""
        turning = Turning()
        messages = [bytes([each]) * 3000 for each in range(8)]
        for message in messages:
            turning.session.send(message)
        self.assertTrue(turning.writes)
        self.assertGreater(len(turning.writes[0]), MOST_CORKED - 3004)
        turning.turn()
        self.assertEqual(b"".join(turning.writes), b"".join(framed(each).frame for each in messages))

    def test_a_large_message_is_not_corked(self) -> None:
        """A message larger than what may wait leaves at once, behind what waits; so the bound on output sees it."""
        turning = Turning()
        turning.session.send("a")
        turning.session.send(b"x" * (MOST_CORKED + 1))
        self.assertEqual([len(each) for each in turning.writes], [3, MOST_CORKED + 5])

    def test_buffered_counts_what_is_corked(self) -> None:
        """Whoever asks what waits has it written first."""
        turning = Turning()
        turning.session.send("a")
        turning.session.wire.buffered()
        self.assertEqual(turning.writes, [b"\x81\x01a"])

    def test_framed_once_for_many(self) -> None:
        """A message that is framed already leaves at once; behind what is corked, if something is; compressed, where that was agreed."""
        turning = Turning()
        turning.session.wire.send_framed(framed("a"))
        self.assertEqual(turning.writes, [b"\x81\x01a"])
        turning.session.send("b")
        turning.session.wire.send_framed(framed("c"))
        self.assertEqual(len(turning.writes), 1)
        turning.turn()
        self.assertEqual(turning.writes[1:], [b"\x81\x01b\x81\x01c"])
        turning = Turning(request(b"Sec-WebSocket-Extensions: permessage-deflate"), compression="on")
        turning.session.wire.send_framed(framed("a"))
        turning.turn()
        self.assertEqual(turning.writes[0][0], 0xC1)

    def test_soon(self) -> None:
        """A function is called in a coming turn, not at once."""
        turning, called = Turning(), list[int]()
        turning.session.wire.soon(lambda: called.append(1))
        self.assertEqual(called, [])
        turning.world.advance(0.1)
        self.assertEqual(called, [1])

    def test_one_that_cannot_write(self) -> None:
        """A connection whose transport raises is aborted, is logged with its peer, and keeps nobody else from writing."""
        turning = Turning()
        turning.world.raw(request(), "192.0.2.2")
        other: Any = turning.world.links[1].server
        other.out.clear()

        def broken(data: bytes) -> None:
            raise OSError("told to")

        turning.server.write = broken
        turning.session.send("a")
        turning.world.handlers[1].session.send("b")
        turning.turn()
        self.assertTrue(turning.server.aborted)
        self.assertEqual(bytes(other.out), b"\x81\x01b")
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)


class Faults(SynchronousTestCase):
    """Something of ours raises."""

    def test_while_opening(self) -> None:
        """A fault before there is a session ends the connection, and is told as a fault of ours."""
        world, nobody = World(), cast("Any", None)
        world.factory.site = dataclasses.replace(world.factory.site, origins=nobody)
        world.raw(request(b"Origin: https://example.com"))
        self.assertEqual(world.ledger.refusals, [(Cause.INTERNAL_ERROR, None, "a fault of this server")])
        self.assertEqual(world.registry.connections, 0)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_while_open(self) -> None:
        """A fault in an open session closes it with 1011."""
        world = World()
        peer = world.raw(request())
        server: Any = world.links[0].server.protocol
        server._onPing = None
        peer.data.clear()
        peer.send(masked(0x89))
        world.flush()
        self.assertEqual(bytes(peer.data), b"\x88\x02\x03\xf3")
        self.assertEqual(world.handler.close.cause, Cause.INTERNAL_ERROR)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)


class Kept(SynchronousTestCase):
    """What a connection holds of its opening handshake."""

    def test_nothing_once_open(self) -> None:
        """Of the opening handshake nothing is left but what the session and the count by address need."""
        world = World()
        world.raw(request())
        server: Any = world.links[0].server.protocol
        self.assertIsNone(server._opening)
        self.assertEqual(server.peer, "192.0.2.1:50000")
        self.assertLess(len(vars(server)), 30)  # Python shares the keys of at most 30 attributes among instances

    def test_tls_is_told_what_is_spoken(self) -> None:
        """A client that asks over TLS (ALPN) is told HTTP/1.1, the protocol that an opening handshake begins in."""
        self.assertEqual(World().factory.acceptableProtocols(), [b"http/1.1"])

    def test_peer_before_the_head(self) -> None:
        """Before the first byte the peer is whom the transport names, and before there is a transport nobody."""
        world = World()
        self.assertEqual(world.factory.buildProtocol(None).peer, "unknown")
        world.join(RawPeer())
        server: Any = world.links[0].server.protocol
        self.assertEqual(server.peer, "192.0.2.1:50000")
        server.dataReceived(b"GET")
        self.assertEqual(server.peer, "192.0.2.1:50000")

    def test_shut_while_the_application_decides(self) -> None:
        """A connection that is no session yet is ended when the server goes away, and its decision is cancelled."""
        decisions: list[Deferred[None]] = []

        async def decide(session: Any) -> None:
            decisions.append(Deferred(lambda each: heard.append("cancelled")))
            await decisions[0]

        heard: list[str] = []
        world = World(admit=decide)
        world.raw(request())
        world.registry.shut_idle()
        world.flush()
        self.assertEqual(heard, ["cancelled"])
        self.assertEqual(world.ledger.refusals, [(Cause.DRAIN, None, "the server goes away")])
        self.assertEqual(world.handlers, [])
