"""Plain requests on connections of ours, in memory, through ``twisted.web``: one after another, and an upgrade behind them."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import HIGH_WATER, RawPeer, World, masked, request
from twistedws import config
from twistedws.errors import Cause
from twistedws.exchange import Carrier, Endpoints
from twistedws.handshake import Request
from twistedws.http import Channel, StreamedRequest

GET = b"GET /a?b HTTP/1.1\r\nHost: example.com\r\n\r\n"


class Answer(StreamedRequest):
    """A request that is answered when its body is complete, or when a test says so: with what it was sent."""

    def __init__(self, channel: Channel, notes: Notes) -> None:
        super().__init__(channel)
        self.exchange, self.notes, self.received, self.gone = channel, notes, b"", False

    def begin(self) -> None:
        self.notes.requests.append(self)

    def body(self, data: bytes) -> None:
        self.received += data

    def end_of_body(self) -> None:
        if self.notes.answers:
            self.answer(self.received)

    def connectionLost(self, reason: object) -> None:
        self.gone = True

    def answer(self, body: bytes) -> None:
        """Answer, with the length said beforehand."""
        self.setHeader(b"Content-Length", b"%d" % len(body))
        self.write(body)
        self.finish()


class Notes:
    """The requests of a world, and whether they are answered by themselves."""

    def __init__(self, *, answers: bool = True) -> None:
        self.answers = answers
        self.requests: list[Answer] = []
        self.endpoints: list[Endpoints] = []

    def answerer(self, carrier: Carrier, head: Request, endpoints: Endpoints) -> Channel:
        self.endpoints.append(endpoints)
        return Channel(carrier, head, endpoints, config.Http(max_body_size=100_000, body_timeout=3.0), 4.0, self._make)

    def _make(self, channel: Channel) -> Answer:
        return Answer(channel, self)


def serve(*, answers: bool = True, **settings: Any) -> tuple[World, Notes]:
    """A world whose plain requests are answered."""
    notes = Notes(answers=answers)
    return World(answerer=notes.answerer, **settings), notes


def statuses(peer: RawPeer) -> list[int]:
    """The statuses of the answers that a peer has got."""
    return [int(each[:3]) for each in bytes(peer.data).split(b"HTTP/1.1 ")[1:]]


class OneAfterAnother(SynchronousTestCase):
    """A connection that goes on."""

    def test_three_and_an_upgrade(self) -> None:
        """A connection that has carried plain requests becomes a WebSocket when its next head asks for one."""
        world, notes = serve()
        peer = world.raw(GET)
        for _ in range(2):
            peer.send(b"POST /b HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n\r\nhi")
            world.flush()
        self.assertEqual(statuses(peer), [200, 200, 200])
        self.assertEqual([each.received for each in notes.requests], [b"", b"hi", b"hi"])
        peer.send(request() + masked(0x81, b"hello"))
        world.flush()
        self.assertEqual(statuses(peer), [200, 200, 200, 101])
        self.assertEqual(world.handler.heard, ["opened", "hello"])
        self.assertEqual([each[1:] for each in world.ledger.answers], [("/a?b", 200, None), ("/b", 200, None), ("/b", 200, None)])
        self.assertEqual(world.metrics.answered[2], 3)

    def test_all_in_one_read(self) -> None:
        """Requests that come together are answered in order, the upgrade behind them too, wherever the bytes are cut."""
        data = GET + b"POST /b HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n" + GET + request()
        for cut in range(1, len(data) + 1):
            world, notes = serve()
            peer = world.raw(data[:cut])
            peer.send(data[cut:])
            world.advance(1)
            self.assertEqual(statuses(peer), [200, 200, 200, 101], cut)
            self.assertEqual([each.received for each in notes.requests], [b"", b"hi", b""])

    def test_a_bad_head_behind_a_good_one(self) -> None:
        """Every head is read by the one parser: what it refuses first, it refuses later."""
        for bad in (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: a\n\r\n\r\n", b"CONNECT / HTTP/1.1\r\n\r\n"):
            world, notes = serve()
            peer = world.raw(GET + bad + GET)
            world.advance(1)
            self.assertEqual(statuses(peer)[0], 200)
            self.assertEqual(len(statuses(peer)), 2, bad)
            self.assertEqual(len(notes.requests), 1)
            self.assertIsNotNone(peer.ended)

    def test_idle(self) -> None:
        """Between two requests a connection may wait for its own time; with a head begun, for the time of a head."""
        world, _ = serve(http_idle_timeout=10, handshake_timeout=2)
        quiet, slow = world.raw(GET), world.raw(GET)
        world.advance(9)
        slow.send(b"GET / HTTP/1.1\r\n")
        world.advance(1.5)
        self.assertEqual(statuses(quiet), [200])
        self.assertIsNotNone(quiet.ended)
        self.assertIsNone(slow.ended)
        world.advance(1)
        self.assertEqual(statuses(slow), [200, 408])
        self.assertEqual(world.registry.connections, 0)

    def test_the_last_one(self) -> None:
        """The connection ends with a request that says so, of an older HTTP, or that is not complete when it is answered."""
        for data in (
            GET.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive, Close\r\n\r\n"),
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        ):
            world, notes = serve()
            peer = world.raw(data + GET)
            self.assertEqual(len(notes.requests), 1)
            self.assertIsNotNone(peer.ended)
        world, notes = serve(answers=False)
        peer = world.raw(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhal")
        notes.requests[0].answer(b"enough")
        world.flush()
        self.assertTrue(bytes(peer.data).endswith(b"enough"))
        self.assertIsNotNone(peer.ended)

    def test_upgrade_of_an_older_http(self) -> None:
        """In HTTP/1.0 an Upgrade field is nothing, where plain requests are answered (RFC 9110 section 7.8)."""
        world, notes = serve()
        world.raw(request().replace(b"HTTP/1.1", b"HTTP/1.0"))
        self.assertEqual((len(notes.requests), world.handlers), (1, []))


class Bounds(SynchronousTestCase):
    """What a peer may use of us."""

    def test_answers_that_are_not_taken(self) -> None:
        """No further request is looked at while answers wait for their peer, and one that takes nothing is cut."""
        world, notes = serve(write_stall_timeout=4)
        peer = world.raw()
        link = world.links[0]
        notes.answers = False
        peer.send(GET * 50)
        world.flush()
        link.cut = True
        notes.requests[0].answer(b"x" * (2 * HIGH_WATER))
        world.advance(1)
        self.assertEqual(len(notes.requests), 1)
        link.server.taken(HIGH_WATER)
        world.advance(4)  # some was taken: once more the same time
        self.assertFalse(link.server.aborted)
        world.advance(5)
        self.assertTrue(link.server.aborted)
        self.assertEqual(world.ledger.refusals[-1][0], Cause.WRITE_STALL)

    def test_answers_that_are_taken_at_last(self) -> None:
        """What waited behind them is looked at then."""
        world, notes = serve(answers=False)
        peer = world.raw(GET + GET)
        world.links[0].cut = True
        notes.requests[0].answer(b"x" * (2 * HIGH_WATER))
        world.advance(1)
        self.assertEqual(len(notes.requests), 1)
        world.links[0].cut = False
        world.advance(1)
        self.assertEqual(len(notes.requests), 2)
        notes.requests[1].answer(b"")
        world.flush()
        self.assertEqual(statuses(peer), [200, 200])

    def test_what_comes_though_reading_is_paused(self) -> None:
        """Requests that TLS has already read while answers wait keep their place, and none is lost."""
        world, notes = serve(answers=False)
        peer = world.raw(GET + GET)
        world.links[0].cut = True
        notes.requests[0].answer(b"x" * (2 * HIGH_WATER))
        world.links[0].server.protocol.dataReceived(GET.replace(b"/a?b", b"/last"))
        notes.answers = True
        world.links[0].cut = False
        world.advance(1)
        self.assertEqual(statuses(peer), [200, 200, 200])
        self.assertEqual([each[1] for each in world.ledger.answers], ["/a?b", "/a?b", "/last"])

    def test_an_upgrade_behind_an_answer_that_is_not_taken(self) -> None:
        """The session knows from its beginning that its peer is slow."""
        world, notes = serve(answers=False)
        world.raw(GET + request())
        world.links[0].cut = True
        notes.requests[0].answer(b"x" * (2 * HIGH_WATER))
        world.advance(1)
        self.assertEqual(world.handlers, [])
        world.links[0].cut = False
        world.advance(1)
        self.assertFalse(world.handler.session.congested)

    def test_many_behind_one(self) -> None:
        """What is pipelined behind a request that is not answered is not read beyond a bound."""
        world, _ = serve(answers=False)
        peer = world.raw(GET)
        for _ in range(40):
            peer.send(b"x" * 10_000)
            world.flush()
        self.assertFalse(world.links[0].server.reading)
        self.assertGreater(len(world.links[0].client.out), 300_000)

    def test_bodies(self) -> None:
        """A body over its bound is refused, by its declared length at once, by its chunks when they exceed it; one that stops is late."""
        world, notes = serve()
        declared = world.raw(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n")
        chunked = world.raw(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + b"x" * 65535 + b"\r\n")
        self.assertEqual((statuses(declared), statuses(chunked)), ([413], []))
        chunked.send(b"ffff\r\n" + b"x" * 65535 + b"\r\n")
        late = world.raw(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhal")
        world.advance(3.5)
        self.assertEqual((statuses(chunked), statuses(late)), ([413], [408]))
        self.assertEqual([each.gone for each in notes.requests], [True, True])
        self.assertEqual(world.registry.connections, 0)


class Ends(SynchronousTestCase):
    """Who goes away."""

    def test_the_peer(self) -> None:
        """A peer that goes before it is answered is told to the request and to the log."""
        world, notes = serve(answers=False)
        peer = world.raw(GET)
        assert peer.transport is not None
        peer.transport.loseConnection()
        world.flush()
        self.assertTrue(notes.requests[0].gone)
        self.assertEqual(world.ledger.answers, [("192.0.2.1:50000", "/a?b", 0, Cause.FIN)])
        self.assertEqual((world.registry.connections, len(world.wheel)), (0, 0))

    def test_drain(self) -> None:
        """A drain ends idle connections at once, lets an answer be given, and takes it for the last."""
        world, notes = serve(answers=False, graceful_timeout=10)
        busy = world.raw(GET)
        notes.answers = True
        idle, fresh = world.raw(GET), world.raw()
        _, done = world.drain()
        world.advance(1)
        self.assertIsNotNone(idle.ended)
        self.assertIsNotNone(fresh.ended)
        self.assertIsNone(busy.ended)
        notes.requests[0].answer(b"late, but whole")
        world.advance(1)
        self.assertTrue(bytes(busy.data).endswith(b"late, but whole"))
        self.assertIsNotNone(busy.ended)
        self.assertEqual(len(done), 1)

    def test_the_end_of_a_drain(self) -> None:
        """What is not answered when the graceful timeout is over is cut, and the request hears it."""
        world, notes = serve(answers=False, graceful_timeout=3)
        world.raw(GET)
        _, done = world.drain()
        world.advance(4)
        self.assertTrue(notes.requests[0].gone)
        self.assertEqual((len(done), world.ledger.answers[0][2:]), (1, (0, Cause.DRAIN)))

    def test_a_request_in_a_drain(self) -> None:
        """One that comes meanwhile, beside a session that is still there, is answered, and the connection's last."""
        world, notes = serve(drain_seconds=60, graceful_timeout=0)
        world.client()
        peer = world.raw(GET)
        world.registry.draining = True
        peer.send(GET)
        world.flush()
        self.assertEqual((statuses(peer), len(notes.requests)), ([200, 200], 2))
        self.assertIsNotNone(peer.ended)


class Addresses(SynchronousTestCase):
    """Whose request it is."""

    def test_behind_a_proxy(self) -> None:
        """Each request on a proxy's connection has the client that the proxy names, and is counted by it till the answer; sessions too."""
        world, notes = serve(trusted_proxies=["192.0.2.0/24"], max_connections_per_address=1)
        peer = world.raw(GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\r\n"))
        peer.send(GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 1.2.3.4, 203.0.113.8\r\n\r\n"))
        world.flush()
        self.assertEqual([each.client for each in notes.endpoints], [("203.0.113.7", 0), ("203.0.113.8", 0)])
        self.assertEqual([each.secure for each in notes.endpoints], [True, False])
        self.assertEqual([each[0] for each in world.ledger.answers], ["203.0.113.7", "203.0.113.8"])
        other = world.raw(request(b"X-Forwarded-For: 203.0.113.7:99", b"X-Forwarded-Proto: https"))
        self.assertEqual(statuses(other), [101])  # the first request's client is counted no more
        self.assertEqual((world.handler.session.peer, world.handler.session.scheme), ("203.0.113.7:99", "wss"))
        self.assertEqual(statuses(world.raw(request(b"X-Forwarded-For: 203.0.113.7"))), [429])
        self.assertEqual(statuses(world.raw(request(b"X-Forwarded-For: 203.0.113.8"))), [101])  # an idle proxy's connection is nobody's

    def test_no_proxy(self) -> None:
        """Who is no trusted proxy is the client, whatever it says."""
        world, notes = serve(trusted_proxies=["198.51.100.1"])
        world.raw(GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\r\n"))
        self.assertEqual(notes.endpoints, [Endpoints(("192.0.2.1", 50000), ("192.0.2.80", 80), False)])

    def test_the_other_family(self) -> None:
        """Of the two families of headers only the one that is named is looked at."""
        forwarded = GET.replace(b"\r\n\r\n", b"\r\nForwarded: for=203.0.113.7;proto=https\r\n\r\n")
        for family, client in {"forwarded": ("203.0.113.7", 0), "x-forwarded": ("192.0.2.1", 50000)}.items():
            world, notes = serve(trusted_proxies=["192.0.2.1"], proxy_headers=family)
            world.raw(forwarded)
            self.assertEqual(notes.endpoints[0].client, client)
