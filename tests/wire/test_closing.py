"""How sessions end: close handshakes, deadlines, backpressure, keepalive and drains, on a clock, in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import Client, Recorder, World, masked, request
from twistedws.errors import By, Cause, Close
from twistedws.session import Session


def nothing_left(world: World) -> tuple[int, int, int]:
    """Sessions, connections and deadlines that are left; all 0 when all has ended."""
    return len(world.registry), world.registry.connections, len(world.wheel)


class Closing(SynchronousTestCase):
    """Close frames both ways."""

    def test_every_code_of_the_peer(self) -> None:
        """The peer's code and reason reach the application, and the same code is sent back."""
        for code in (1000, 1001, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 4999):
            world = World()
            peer = world.raw(request())
            peer.data.clear()
            peer.send(masked(0x88, code.to_bytes(2, "big") + "adé".encode()))
            world.flush()
            self.assertEqual(bytes(peer.data), b"\x88\x02" + code.to_bytes(2, "big"))
            self.assertEqual(world.handler.close, Close(code, "adé", Cause.CLIENT, By.CLIENT))
            self.assertEqual(nothing_left(world), (0, 0, 0))

    def test_close_without_a_code(self) -> None:
        """A close frame with no code is answered with one, and told as 1005."""
        world = World()
        peer = world.raw(request())
        peer.data.clear()
        peer.send(masked(0x88))
        world.flush()
        self.assertEqual(bytes(peer.data), b"\x88\x00")
        self.assertEqual(world.handler.close, Close(1005, "", Cause.CLIENT, By.CLIENT))

    def test_every_code_of_the_application(self) -> None:
        """The application's codes, 1011 to 1013 included, and reason reach the client, and the close is clean."""
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999):
            world = World()
            client = world.client()
            world.handler.session.close(code, "bye")
            world.flush()
            self.assertEqual(world.handler.close, Close(code, "bye", Cause.APPLICATION, By.APPLICATION))
            if code != 1014:  # which this client takes for an error
                self.assertEqual(client.ended, (True, code, "bye"))
            self.assertEqual(nothing_left(world), (0, 0, 0))

    def test_the_peer_sends_on_before_it_answers(self) -> None:
        """What the peer sent before it saw our close is delivered; nothing is sent to it any more."""
        world = World()
        peer = world.raw(request())
        world.handler.session.close(1000)
        peer.data.clear()
        peer.send(masked(0x81, b"late") + masked(0x88, b"\x03\xe8") + masked(0x81, b"too late"))
        world.flush()
        self.assertEqual(world.handler.heard[:-1], ["opened", "late"])
        self.assertEqual(bytes(peer.data), b"\x88\x02\x03\xe8")

    def test_the_peer_does_not_answer(self) -> None:
        """A peer that leaves our close unanswered is cut at the deadline; the cause stays what it was."""
        world = World(close_timeout=3)
        peer = world.raw(request())
        world.handler.session.close(4000, "go")
        world.advance(2.9)
        self.assertIsNone(peer.ended)
        world.advance(0.4)
        self.assertIsNotNone(peer.ended)
        self.assertEqual(world.handler.close, Close(4000, "go", Cause.APPLICATION, By.APPLICATION))
        self.assertEqual(nothing_left(world), (0, 0, 0))

    def test_the_peer_closes_and_does_not_read(self) -> None:
        """A peer that closes while output waits for it is cut at the deadline, and its descriptor freed."""
        world = World(close_timeout=3, queue_size=0)
        peer = world.raw(request())
        link = world.links[0]
        link.client.reading = False
        world.handler.session.send(b"x" * 200_000)
        peer.send(masked(0x88, b"\x03\xe8"))
        world.flush()
        link.server.resumeProducing()
        world.flush()
        world.advance(3.3)
        self.assertTrue(link.server.lost)
        self.assertEqual(world.registry.connections, 0)

    def test_fin_and_reset(self) -> None:
        """The end of TCP with no close frame is 1006, told as ``fin`` or ``reset``."""
        for leave, cause in (("loseConnection", Cause.FIN), ("abortConnection", Cause.RESET)):
            world = World()
            world.raw(request())
            getattr(world.links[0].client, leave)()
            world.flush()
            self.assertEqual(world.handler.close, Close(1006, "", cause, By.CLIENT))
            self.assertEqual(nothing_left(world), (0, 0, 0))

    def test_abort(self) -> None:
        """An application that aborts leaves the peer with 1006 and no close frame."""
        world = World()
        client = world.client()
        world.handler.session.abort()
        world.flush()
        self.assertEqual(client.ended[1] if client.ended else None, 1006)
        self.assertEqual(world.handler.close.cause, Cause.APPLICATION)

    def test_application_raises(self) -> None:
        """An application that raises, wherever, ends its own session with 1011; the peer learns nothing; others go on."""

        class Raises(Recorder):
            def __init__(self, session: Session) -> None:
                super().__init__(session)
                self.at = session.request.path[1:]

            def opened(self, session: Session) -> None:
                super().opened(session)
                if self.at == "opened":
                    raise ZeroDivisionError("secret")

            def received(self, session: Session, message: str | bytes) -> None:
                super().received(session, message)
                if self.at == "received":
                    raise ZeroDivisionError("secret")

            def closed(self, session: Session, close: Close) -> None:
                super().closed(session, close)
                if self.at == "closed":
                    raise ZeroDivisionError("secret")

        for where in ("opened", "received", "closed"):
            world = World(Raises)
            other = world.client("/other")
            peer = world.raw(request(path=b"/" + where.encode()))
            if where != "opened":
                peer.send(masked(0x81, b"x") + masked(0x81, b"y"))
                world.flush()
            if where == "closed":
                peer.send(masked(0x88))
                world.flush()
            else:
                self.assertTrue(bytes(peer.data).endswith(b"\x88\x02\x03\xf3"), bytes(peer.data[-30:]))
                self.assertEqual(world.handlers[1].close, Close(1011, "", Cause.APPLICATION_ERROR, By.SERVER))
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
            self.assertEqual(world.handlers[1].heard[0], "opened")
            other.say("still here")
            world.flush()
            self.assertEqual(other.messages, ["still here"])

    def test_closing_at_once(self) -> None:
        """An application may close in ``opened``; what came behind the head is delivered, and ``closed`` follows."""

        class Closes(Recorder):
            def opened(self, session: Session) -> None:
                super().opened(session)
                session.close(4001)

        world = World(Closes)
        peer = world.raw(request() + masked(0x81, b"early") + masked(0x88, b"\x0f\xa1"))
        self.assertEqual(world.handler.heard[:2], ["opened", "early"])
        self.assertEqual(world.handler.close.code, 4001)
        self.assertIsNotNone(peer.ended)


class Backpressure(SynchronousTestCase):
    """Peers that take less than they are sent."""

    def _stuffed(self, **settings: Any) -> tuple[World, Recorder]:
        """A session whose peer takes nothing, over its transport's high-water mark."""
        world = World(write_stall_timeout=settings.pop("write_stall_timeout", 0), ping_interval=0, **settings)
        world.raw(request())
        world.links[0].client.reading = False
        world.handler.session.send(b"x" * 70_000)
        self.assertTrue(world.handler.session.congested)
        return world, world.handler

    def test_policy_close(self) -> None:
        """Over the bound, the default policy closes with 1013; the buffer holds no more than the bound and one message."""
        world, handler = self._stuffed(queue_size=100_000, close_timeout=2)
        sent = [handler.session.send(b"y" * 10_000) for _ in range(20)]
        self.assertEqual(sent, [True] * 2 + [False] * 18)
        self.assertLessEqual(handler.session.buffered, 110_000)
        world.advance(2.3)
        self.assertEqual(handler.close, Close(1013, "slow consumer", Cause.SLOW_CONSUMER, By.SERVER))

    def test_policy_drop_newest(self) -> None:
        """With ``drop-newest``, what does not fit is dropped and counted, and the session goes on once there is room."""
        world, handler = self._stuffed(queue_size=100_000, slow_consumer="drop-newest")
        sent = [handler.session.send(b"y" * 10_000) for _ in range(20)]
        self.assertEqual((sum(sent), handler.session.dropped), (2, 18))
        world.links[0].client.reading = True
        world.flush()
        self.assertFalse(handler.session.congested)
        self.assertTrue(handler.session.send(b"z"))

    def test_policy_abort(self) -> None:
        """With ``abort``, the connection is cut."""
        world, handler = self._stuffed(queue_size=100_000, slow_consumer="abort")
        for _ in range(20):
            handler.session.send(b"y" * 10_000)
        world.flush()
        self.assertEqual(handler.close, Close(1006, "", Cause.SLOW_CONSUMER, By.SERVER))

    def test_reading_pauses(self) -> None:
        """From a peer that does not take the replies nothing more is read, so that an echo needs no queue."""
        world, handler = self._stuffed()
        peer = world.links[0].client.protocol
        peer.send(masked(0x81, b"more"))
        world.flush()
        self.assertEqual(handler.heard, ["opened"])
        world.links[0].client.reading = True
        world.flush()
        self.assertEqual(handler.heard, ["opened", "more"])

    def test_one_pong_waits(self) -> None:
        """Of the pings that come while output is congested only the latest is answered, once there is room."""
        world, _ = self._stuffed()
        link = world.links[0]
        for each in (b"1", b"2", b"3"):
            link.server.protocol.dataReceived(masked(0x89, each))
        before = link.server.get_write_buffer_size()
        link.client.reading = True
        world.flush()
        self.assertEqual(before, 70_000 + 10)
        self.assertTrue(bytes(link.client.protocol.data).endswith(b"\x8a\x013"))
        self.assertEqual(bytes(link.client.protocol.data[-80:]).count(b"\x8a\x01"), 1)

    def test_write_stall(self) -> None:
        """A peer that takes no byte for the deadline is cut, though it sends all the while."""
        world, handler = self._stuffed(write_stall_timeout=4)
        peer = world.links[0].client.protocol
        for _ in range(37):
            world.advance(0.1)
            peer.send(masked(0x81, b"I am alive"))
        self.assertEqual(world.registry.connections, 1)
        world.advance(1.6)
        self.assertEqual(handler.close, Close(1006, "", Cause.WRITE_STALL, By.SERVER))
        self.assertEqual(nothing_left(world), (0, 0, 0))

    def test_write_stall_is_met_within_a_second(self) -> None:
        """What the kernel still takes after congestion began does not put the deadline off by a quarter of it."""
        world, handler = self._stuffed(write_stall_timeout=30)
        world.advance(0.5)
        world.links[0].server.taken(100)
        world.advance(29.5)
        self.assertEqual(world.registry.connections, 1)
        world.advance(1.7)
        self.assertEqual(handler.close.cause, Cause.WRITE_STALL)

    def test_slow_is_not_stalled(self) -> None:
        """A peer that takes a little now and then keeps its session."""
        world, handler = self._stuffed(write_stall_timeout=4)
        for _ in range(10):
            world.links[0].server.taken(100)
            world.advance(2)
        self.assertEqual(handler.heard, ["opened"])

    def test_writable(self) -> None:
        """A handler that asks for it hears when there is room again."""

        class Hears(Recorder):
            def writable(self, session: Session) -> None:
                self.heard.append("writable")

        world = World(Hears, write_stall_timeout=0, ping_interval=0)
        world.raw(request())
        world.links[0].client.reading = False
        world.handler.session.send(b"x" * 70_000)
        world.links[0].client.reading = True
        world.flush()
        self.assertEqual(world.handler.heard, ["opened", "writable"])


class Keepalive(SynchronousTestCase):
    """Pings and what becomes of those who do not answer."""

    def test_idle(self) -> None:
        """An idle client is pinged once an interval, stays, and its round trip is known."""
        world = World(ping_interval=5, ping_timeout=5)
        client = world.client()
        world.advance(51)
        self.assertIsNone(client.ended)
        self.assertIn(len(client.pings), (10, 11))
        self.assertEqual(world.handler.session.rtt, 0.0)

    def test_dead_peer(self) -> None:
        """A peer of whom nothing is heard is gone at interval and timeout, and the application hears ``pong_timeout``."""
        world = World(ping_interval=5, ping_timeout=3)
        client = world.client()
        world.advance(6)
        world.links[0].cut = True
        pinged = len(client.pings)
        world.advance(4.7)
        self.assertEqual(world.registry.connections, 1, "too early")
        world.advance(3.6)
        self.assertEqual((pinged, world.handler.close), (len(client.pings), Close(1006, "", Cause.PONG_TIMEOUT, By.SERVER)))
        self.assertEqual(nothing_left(world), (0, 0, 0))

    def test_timeout_longer_than_the_interval(self) -> None:
        """With a timeout of several intervals the first unanswered ping counts."""
        world = World(ping_interval=1, ping_timeout=3.5)
        client = world.client()
        client.answers_pings = False
        world.advance(3.4)
        self.assertIsNone(client.ended)
        world.advance(1.4)
        self.assertEqual(world.handler.close.cause, Cause.PONG_TIMEOUT)

    def test_any_byte_counts(self) -> None:
        """A peer that answers no ping but sends something is not taken for dead."""
        world = World(ping_interval=1, ping_timeout=2)
        client = world.client()
        client.answers_pings = False
        for _ in range(20):
            world.advance(0.9)
            client.say("here")
        world.flush()
        self.assertIsNone(client.ended)

    def test_no_pings(self) -> None:
        """An interval of 0 sends none."""
        world = World(ping_interval=0)
        client = world.client()
        world.advance(120)
        self.assertEqual((client.pings, client.ended), ([], None))

    def test_spread(self) -> None:
        """Sessions that open at the same moment are pinged spread evenly over the interval."""
        world = World(ping_interval=5)
        clients = [world.client() for _ in range(200)]
        per_tick = []
        for _ in range(50):
            before = sum(len(each.pings) for each in clients)
            world.advance(0.1)
            per_tick.append(sum(len(each.pings) for each in clients) - before)
        self.assertEqual(sum(per_tick), 200 - 4)  # the wheel pays one tick later
        self.assertEqual(max(per_tick), 4)

    def test_blocked_loop(self) -> None:
        """After a loop that was blocked for longer than any deadline, nobody is dropped who has answered meanwhile."""
        world = World(ping_interval=2, ping_timeout=1)
        clients = [world.client() for _ in range(20)]
        world.advance(3)
        for link in world.links:
            link.cut = True  # nothing is read while the loop stands still
        world.advance(0.1)
        world.clock.advance(60)
        for link in world.links:
            link.cut = False
        world.advance(5)
        self.assertEqual([each.ended for each in clients], [None] * 20)

    def test_held_reading(self) -> None:
        """A session whose reading the application has paused is not dropped for the pong that nobody reads."""
        world = World(ping_interval=1, ping_timeout=1)
        client = world.client()
        world.handler.session.pause()
        world.advance(10)
        self.assertIsNone(client.ended)
        world.handler.session.resume()
        world.advance(5)
        self.assertIsNone(client.ended)


class Draining(SynchronousTestCase):
    """The end of the server."""

    def test_all_are_closed(self) -> None:
        """Every session is closed with 1012, spread over the time given, and the drain ends with the last."""
        world = World(drain_seconds=4)
        clients = [world.client() for _ in range(40)]
        _, done = world.drain()
        closed = []
        for _ in range(45):
            world.advance(0.1)
            closed.append(sum(each.ended is not None for each in clients))
        self.assertEqual([each.ended for each in clients], [(True, 1012, "service restart")] * 40)
        self.assertEqual((len(done), nothing_left(world)), (1, (0, 0, 0)))
        for second in (1, 2, 3):
            self.assertAlmostEqual(closed[second * 10 - 1], second * 10, delta=2)
        self.assertEqual({each.cause for each in world.ledger.ends}, {Cause.DRAIN})

    def test_new_ones_are_told_to_wait(self) -> None:
        """A handshake during the drain gets 503 with Retry-After; a connection that says nothing is ended with the drain."""
        world = World(drain_seconds=2)
        world.client()
        world.client()
        late, silent = world.raw(), world.raw()
        _, done = world.drain()
        late.send(request())
        world.flush()
        self.assertIn(b"503 Service Unavailable", bytes(late.data))
        self.assertIn(b"Retry-After", bytes(late.data))
        world.advance(3)
        self.assertIsNotNone(silent.ended)
        self.assertEqual(len(done), 1)

    def test_nothing_to_drain(self) -> None:
        """A drain of nothing ends at once."""
        self.assertEqual(len(World().drain()[1]), 1)

    def test_deadline(self) -> None:
        """A peer that does not answer is cut by the graceful timeout at the latest."""
        world = World(drain_seconds=1, graceful_timeout=3, close_timeout=30)
        world.raw(request())
        _, done = world.drain()
        world.advance(2.9)
        self.assertEqual(done, [])
        world.advance(0.3)
        self.assertEqual((len(done), nothing_left(world)), (1, (0, 0, 0)))
        self.assertEqual(world.handler.close.cause, Cause.DRAIN)

    def test_hurry(self) -> None:
        """Asked again, the drain closes all that is left at once; asked a third time, it cuts them."""
        world = World(drain_seconds=20, close_timeout=10)
        clients = [world.client() for _ in range(10)]
        stubborn = world.raw(request())
        drain, done = world.drain()
        world.advance(1)
        drain.hurry()
        world.advance(0.2)
        self.assertEqual([each.ended for each in clients], [(True, 1012, "service restart")] * 10)
        self.assertEqual((done, stubborn.ended), ([], None))
        drain.hurry()
        world.advance(0.2)
        self.assertEqual((len(done), nothing_left(world)), (1, (0, 0, 0)))

    def test_an_application_that_answers_first(self) -> None:
        """A handler with ``draining`` is closed when it says so, with reading paused; or after the close timeout."""

        class Answers(Recorder):
            proceed: Callable[[], None]

            def draining(self, session: Session, proceed: Callable[[], None]) -> None:
                self.proceed = proceed
                session.send("one more")

        world = World(Answers, drain_seconds=0, close_timeout=3)
        clients: list[Client] = [world.client(), world.client()]
        _, done = world.drain()
        world.advance(0.2)
        clients[0].say("unread")
        world.advance(0.2)
        self.assertEqual([each.messages for each in clients], [["one more"]] * 2)
        self.assertEqual(world.handlers[0].heard, ["opened"])
        world.handlers[0].proceed()
        world.advance(0.2)
        self.assertEqual((clients[0].ended, clients[1].ended), ((True, 1012, "service restart"), None))
        world.advance(3)
        self.assertEqual((clients[1].ended, len(done)), ((True, 1012, "service restart"), 1))
