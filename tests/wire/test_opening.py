"""Opening handshakes against our protocol in memory: what is answered, what the application hears, what the ledger says."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import KEY, RawPeer, Recorder, World, masked, request
from twistedws.errors import Cause, Refused
from twistedws.session import Session


def status(peer: Any) -> int:
    """The status of the answer that a peer of bytes got; 0 for none."""
    return int(bytes(peer.data[9:12]) or 0)


class Opening(SynchronousTestCase):
    """What opens a session."""

    def test_accepted(self) -> None:
        """A browser's handshake is answered as RFC 6455 section 4.2.2 says, and the session has what it needs."""
        world = World()
        peer = world.raw(request(b"Origin: http://example.com", b"Cookie: a=b", path=b"/chat%20room?x=1&y=2"))
        head = bytes(peer.data)
        self.assertTrue(head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n"))
        self.assertIn(b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", head)
        session = world.handler.session
        self.assertEqual((session.request.path, session.request.query_string), ("/chat room", b"x=1&y=2"))
        self.assertEqual((session.peer, session.scheme), ("192.0.2.1:50000", "ws"))
        self.assertEqual(session.request.header("cookie"), "a=b")
        self.assertEqual(world.ledger.sessions, [session])

    def test_subprotocol(self) -> None:
        """The client's first choice among what is offered is taken; none at all is no reason to refuse."""
        world = World(subprotocols=("v1", "v2"))
        client = world.client(protocols=["v3", "v2", "v1"])
        self.assertEqual((client.response.protocol, world.handler.session.subprotocol), ("v2", "v2"))
        other = World(subprotocol=["v1"]).client(protocols=["v9"])
        self.assertTrue(other.is_opened)
        self.assertIsNone(other.response.protocol)

    def test_early_refusals(self) -> None:
        """What is no valid opening handshake is answered with its status, and the connection ends."""
        good = request()
        for data, expected in {
            good.replace(b"Version: 13", b"Version: 8"): 426,
            good.replace(b"GET ", b"POST ") + b"": 405,
            good.replace(b"Host: example.com\r\n", b""): 400,
            good.replace(KEY, b"short"): 400,
            good.replace(b"Connection: Upgrade", b"Connection: close"): 400,
            request(b"Content-Length: 5") + b"hello": 400,
            request(b"Transfer-Encoding: chunked"): 400,
            request(b"X: " + b"a" * 17000): 431,
            request(*[b"X: y"] * 100): 431,
            request(b"X-A : b"): 400,
            request(b"X-A: b\r\n folded"): 400,
            request(b"X-A: b\nOrigin: http://example.com"): 400,
            b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n": 426,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on": 400,
        }.items():
            world = World()
            peer = world.raw(data)
            self.assertEqual(status(peer), expected, data[:200])
            self.assertIsNotNone(peer.ended)
            self.assertEqual((world.handlers, world.registry.connections, len(world.wheel)), ([], 0, 0))

    def test_next_line_is_data(self) -> None:
        """0x85 and its kin split no header: no Origin can be forged with them."""
        for separator in (b"\x85", b"\xc2\x85", b"\xe2\x80\xa8"):
            world = World()
            world.raw(request(b"X-A: foo" + separator + b"Origin: http://evil.example"))
            self.assertIsNone(world.handler.session.request.header("origin"))
            self.assertEqual(
                world.handler.session.request.header("x-a"), (b"foo" + separator + b"Origin: http://evil.example").decode("latin-1")
            )

    def test_origins(self) -> None:
        """A page of another host gets 403 unless it is named; with no Origin, or the same host, it passes."""
        for origin, allowed, opens in (
            (None, [], True),
            ("http://example.com", [], True),
            ("https://example.com", [], True),
            ("http://evil.example", [], False),
            ("null", [], False),
            ("null", ["null"], True),
            ("https://app.example", ["https://app.example"], True),
            ("http://app.example", ["https://app.example"], False),
            ("https://a.app.example", ["https://*.app.example"], True),
        ):
            world = World(origin=allowed) if allowed else World()
            peer = world.raw(request(*([b"Origin: " + origin.encode()] if origin else [])))
            self.assertEqual(status(peer), 101 if opens else 403, origin)
        self.assertEqual(World().raw(request(b"Origin: x y")).data[9:12], b"403")

    def test_head_deadline(self) -> None:
        """A peer that does not finish its head in time gets 408, however busily it trickles; one that says nothing too."""
        for chatty in (True, False):
            world = World(handshake_timeout=2)
            peer = world.raw(b"GET / HTTP/1.1\r\n" if chatty else b"")
            for _ in range(19):
                self.assertIsNone(peer.ended)
                world.advance(0.1)
                if chatty:
                    peer.send(b"X")
            world.advance(0.4)
            self.assertEqual(status(peer), 408)
            self.assertEqual(world.ledger.refusals[0][0], Cause.HANDSHAKE_TIMEOUT)
            self.assertEqual(world.registry.connections, 0)

    def test_page(self) -> None:
        """An application's page answers GET and HEAD of /; everything else that is no upgrade is told what is needed."""
        world = World(page=b"<p>hello")
        answer = bytes(world.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").data)
        self.assertIn(b"200 OK", answer)
        self.assertTrue(answer.endswith(b"<p>hello"))
        head = bytes(world.raw(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").data)
        self.assertIn(b"200 OK", head)
        self.assertTrue(head.endswith(b"\r\n\r\n"))
        for line in (b"GET /x", b"POST /"):
            other = bytes(world.raw(line + b" HTTP/1.1\r\nHost: a\r\n\r\n").data)
            self.assertIn(b"426 Upgrade Required", other)
            self.assertIn(b"\r\nUpgrade: websocket\r\n", other)
            self.assertIn(b"connect to it with a WebSocket client", other)
        self.assertEqual(world.metrics.refused, {})

    def test_too_many(self) -> None:
        """Over the limit of connections a new one gets 503 at once; when one has gone, the next is served."""
        world = World(most_connections=2)
        first = world.client()
        world.client()
        self.assertEqual(status(world.raw()), 503)
        first.sendClose(1000)
        world.flush()
        self.assertTrue(world.client().is_opened)

    def test_a_crowd(self) -> None:
        """Of too many at once each gets 503 with its own time to come back before it has said anything, and reaches nobody."""
        world = World()
        world.factory._accepted = lambda: False
        waits = set()
        for _ in range(100):
            peer = world.raw()
            self.assertEqual(status(peer), 503)
            self.assertTrue(bytes(peer.data).endswith(b"\r\n\r\ntoo many at once"))
            (wait,) = re.findall(rb"\r\nRetry-After: (\d+)\r\n", peer.data)
            waits.add(int(wait))
            self.assertIsNotNone(peer.ended)
        self.assertTrue(waits <= set(range(1, 11)))
        self.assertGreater(len(waits), 3)
        self.assertEqual(set(world.ledger.refusals), {(Cause.HANDSHAKE_REFUSED, 503, "accept-rate")})
        self.assertEqual((world.handlers, world.registry.connections, len(world.wheel)), ([], 0, 0))
        self.assertEqual(world.metrics.refused, {Cause.HANDSHAKE_REFUSED: 100})
        world.factory._accepted = lambda: True
        self.assertTrue(world.client().is_opened)

    def test_a_crowd_does_not_pile_up(self) -> None:
        """Those of a crowd that do not go away are cut once there are too many of them."""
        world = World(most_connections=1)
        world.factory._accepted = lambda: False
        world.flush = lambda: None  # type: ignore[method-assign]  # nobody takes the answer, and nobody goes
        ends = [world.join(RawPeer()).server.aborted for _ in range(80)]
        self.assertEqual(ends, [False] * 65 + [True] * 15)

    def test_refusals_do_not_pile_up(self) -> None:
        """Refused connections that do not go away are cut once there are too many of them."""
        world = World(most_connections=1)
        world.client()
        peers = []
        for _ in range(80):
            peer = world.raw()
            peers.append(peer)
        self.assertLessEqual(world.registry.connections, 66)

    def test_too_many_from_one_address(self) -> None:
        """The limit per address holds for that address alone, and only for connections that are there."""
        world = World(max_connections_per_address=2)
        world.client()
        second = world.client()
        self.assertEqual(status(world.raw(request())), 429)
        self.assertEqual(status(world.raw(request(), address="192.0.2.9")), 101)
        second.sendClose(1000)
        world.flush()
        self.assertEqual(status(world.raw(request())), 101)

    def test_peer_gone_before_the_head(self) -> None:
        """A peer that goes away before it asked for anything leaves nothing behind."""
        world = World()
        world.raw(b"GET /")
        world.links[0].client.abortConnection()
        world.flush()
        self.assertEqual((world.registry.connections, len(world.wheel)), (0, 0))
        self.assertEqual(world.ledger.refusals[0][0], Cause.RESET)

    def test_application_that_cannot_be_built(self) -> None:
        """An application that raises for a session is answered with 500, logged once, and tells the peer nothing."""

        def build(session: Session) -> Recorder:
            raise LookupError("secret")

        with capturedLogs() as events:
            world = World(build)
            peer = world.raw(request())
        self.assertEqual(status(peer), 500)
        self.assertNotIn(b"secret", bytes(peer.data))
        self.assertEqual(len([each for each in events if "log_failure" in each]), 1)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
        self.assertEqual(world.ledger.refusals, [(Cause.APPLICATION_ERROR, 500, "the application raised")])


class Admission(SynchronousTestCase):
    """An application that decides first."""

    def test_refused_at_once(self) -> None:
        """``Refused`` raised by a plain ``admit`` becomes the answer, with its headers and body."""

        def admit(session: Session) -> None:
            raise Refused(401, [("WWW-Authenticate", "Bearer")], "who are you?")

        world = World(admit=admit)
        answer = bytes(world.raw(request()).data)
        self.assertTrue(answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n"))
        self.assertIn(b"WWW-Authenticate: Bearer", answer)
        self.assertTrue(answer.endswith(b"who are you?"))
        self.assertEqual(world.handlers, [])

    def test_headers_cannot_be_injected(self) -> None:
        """A line break in a header that the application gives becomes 500, not a second header."""
        for admit in (
            lambda session: (_ for _ in ()).throw(Refused(403, [("X", "a\r\nSet-Cookie: b")])),
            lambda session: session.response_headers.append(("X", "a\r\nSet-Cookie: b")),
        ):

            def decide(session: Session, admit: Any = admit) -> None:
                result = admit(session)
                if result is not None:
                    next(result)

            peer = World(admit=decide).raw(request())
            self.assertEqual(status(peer), 500)
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
            self.assertNotIn(b"Set-Cookie", bytes(peer.data))

    def test_decides_later(self) -> None:
        """While a coroutine decides, nothing is answered; what the peer sends meanwhile waits, and comes after ``opened``."""
        gate: Deferred[None] = Deferred()

        async def admit(session: Session) -> None:
            await gate
            session.subprotocol = "v2"
            session.response_headers.append(("X-Room", "7"))
            session.state["user"] = "ann"

        world = World(admit=admit)
        peer = world.raw(request(b"Sec-WebSocket-Protocol: v1, v2"))
        peer.send(masked(0x81, b"early"))
        world.flush()
        self.assertEqual((bytes(peer.data), world.handlers), (b"", []))
        gate.callback(None)
        world.flush()
        self.assertIn(b"\r\nSec-WebSocket-Protocol: v2\r\n", bytes(peer.data))
        self.assertIn(b"\r\nX-Room: 7\r\n", bytes(peer.data))
        self.assertEqual((world.handler.heard, world.handler.session.state), (["opened", "early"], {"user": "ann"}))

    def test_refuses_later(self) -> None:
        """A coroutine that raises ``Refused`` after a wait has refused; one that raises otherwise gets 500."""
        for error, expected in ((Refused(404), 404), (ValueError("x"), 500)):
            gate: Deferred[None] = Deferred()

            async def admit(session: Session, gate: Deferred[None] = gate, error: Exception = error) -> None:
                await gate
                raise error

            world = World(admit=admit)
            peer = world.raw(request())
            gate.callback(None)
            world.flush()
            self.assertEqual(status(peer), expected)
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), int(expected == 500))
            self.assertIsNotNone(peer.ended)

    def test_peer_gone_meanwhile(self) -> None:
        """A peer that vanishes while the application decides is noticed at once; neither opened nor closed is heard."""
        for leave in ("abortConnection", "loseConnection"):
            gate: Deferred[None] = Deferred()
            cancelled: list[object] = []
            gate.addErrback(cancelled.append)

            async def admit(session: Session, gate: Deferred[None] = gate) -> None:
                await gate

            world = World(admit=admit)
            world.raw(request())
            getattr(world.links[0].client, leave)()
            world.flush()
            self.assertEqual((len(cancelled), world.handlers, world.registry.connections), (1, [], 0))
            self.assertEqual((len(world.wheel), world.metrics.opened), (0, 0))

    def test_pipelined_handshakes(self) -> None:
        """Further requests sent while the application decides do not make it decide again."""
        gate: Deferred[None] = Deferred()
        asked = []

        async def admit(session: Session) -> None:
            asked.append(session)
            await gate

        world = World(admit=admit)
        peer = world.raw(request() * 3)
        gate.callback(None)
        world.flush()
        self.assertEqual(len(asked), 1)
        self.assertEqual([world.handler.heard[0], world.handler.close.code], ["opened", 1002])
        self.assertEqual(bytes(peer.data).count(b"101 Switching"), 1)

    def test_takes_too_long(self) -> None:
        """An application that does not decide by the deadline is cancelled, and the peer gets 503."""
        gate: Deferred[None] = Deferred()
        cancelled: list[object] = []
        gate.addErrback(cancelled.append)

        async def admit(session: Session) -> None:
            await gate

        world = World(admit=admit, handshake_timeout=2)
        peer = world.raw(request())
        world.advance(2.5)
        self.assertEqual((status(peer), len(cancelled)), (503, 1))
        self.assertIn(b"Retry-After", bytes(peer.data))
        self.assertEqual(world.registry.connections, 0)

    def test_floods_meanwhile(self) -> None:
        """What a peer sends before it is answered is bounded: reading pauses, and goes on once it is open."""
        gate: Deferred[None] = Deferred()

        async def admit(session: Session) -> None:
            await gate

        world = World(admit=admit, inbox_size=1000)
        peer = world.raw(request())
        for _ in range(10):
            peer.send(masked(0x82, b"x" * 600))
            world.flush()
        self.assertFalse(world.links[0].server.reading)
        gate.callback(None)
        world.flush()
        self.assertEqual(world.handler.heard[1:], [b"x" * 600] * 10)

    def test_foreign_subprotocol(self) -> None:
        """A subprotocol that the client did not offer cannot be chosen for it: 500, and a line for the developer."""

        def admit(session: Session) -> None:
            session.subprotocol = "v9"

        peer = World(admit=admit).raw(request(b"Sec-WebSocket-Protocol: v1"))
        self.assertEqual(status(peer), 500)
        (failure,) = self.flushLoggedErrors(ValueError)
        self.assertIn("v9", str(failure.value))
