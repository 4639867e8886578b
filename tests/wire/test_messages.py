"""Messages, there and back, between a real client and our protocol in memory."""

from __future__ import annotations

from typing import Any

from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from twisted.internet.error import ConnectionDone
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import Recorder, World, masked, request
from twistedws.errors import Cause

SIZES = (0, 1, 125, 126, 65535, 65536, 1048576)


def _accept(response: Any) -> Any:
    return PerMessageDeflateResponseAccept(response) if isinstance(response, PerMessageDeflateResponse) else None


class Messages(SynchronousTestCase):
    """Whole messages of every size."""

    def test_every_length_encoding_both_ways(self) -> None:
        """Text and binary messages at each boundary of the length encoding come back as they were sent."""
        world = World()
        client = world.client()
        for size in SIZES:
            for message in (b"\x00\xff"[: size % 3] + b"b" * (size - min(size, size % 3)), "é" * (size // 2)):
                client.messages.clear()
                client.say(message)
                world.flush()
                self.assertEqual(client.messages, [message], f"{size} bytes")

    def test_compressed(self) -> None:
        """With permessage-deflate negotiated, messages are compressed both ways and arrive whole."""
        world = World(compression="on")
        client = world.client(deflate=([PerMessageDeflateOffer()], _accept))
        self.assertIn("permessage-deflate", client.response.headers["sec-websocket-extensions"])
        message = "compressible " * 5000
        client.say(message)
        before = world.links[0].client.protocol.trafficStats.incomingOctetsWireLevel
        world.flush()
        self.assertEqual(client.messages, [message])
        self.assertLess(world.links[0].client.protocol.trafficStats.incomingOctetsWireLevel - before, len(message) // 10)

    def test_compressed_to_next_to_nothing(self) -> None:
        """What inflates to many times its size comes out whole, also where a step of the inflation ends within a repetition."""
        world = World(compression="on")
        client = world.client(deflate=([PerMessageDeflateOffer()], _accept))
        sizes = [step * 65536 + more for step in (1, 2, 3) for more in (-258, -2, -1, 0, 1, 2, 258)]
        for size in sizes:
            for payload in (bytes(size), (b"ab" * size)[:size]):
                client.say(payload)
                world.flush()
                self.assertEqual(client.messages.pop(), payload)

    def test_much_at_once_takes_turns(self) -> None:
        """A peer that sends very much at once is read in parts, one in each turn of the loop, and loses nothing by it."""
        for frames, number in ((masked(0x81, b"x") * 30_000, 30_000), ((masked(0x01, b"a") + masked(0x80, b"b")) * 1000, 1000)):
            world = World(lambda session: Recorder(session, echo=False))
            world.raw(request())
            server = world.links[0].server
            server.protocol.dataReceived(frames)
            first = world.handler.session.messages_in
            self.assertTrue(0 < first < number, first)
            self.assertFalse(server.reading)
            world.clock.advance(0)
            self.assertTrue(server.reading)
            self.assertEqual(world.handler.session.messages_in, number)
            self.assertEqual(server.protocol.received, len(request()) + len(frames))

    def test_what_is_put_off_waits_for_a_paused_session(self) -> None:
        """While the application has paused reading, what was read and put off is not delivered; afterwards it is, and reading goes on."""
        world = World(lambda session: Recorder(session, echo=False))
        world.raw(request())
        server, session = world.links[0].server, world.handler.session
        server.protocol.dataReceived(masked(0x81, b"x") * 30_000)
        session.pause()
        before = session.messages_in
        world.clock.advance(0)
        self.assertEqual(session.messages_in, before)
        session.resume()
        world.clock.advance(0)
        self.assertEqual(session.messages_in, 30_000)
        self.assertTrue(server.reading)

    def test_what_is_put_off_is_forgotten_at_the_end(self) -> None:
        """After a failure, and after a loss, nothing that was put off is delivered."""
        for is_lost in (False, True):
            world = World(lambda session: Recorder(session, echo=False))
            world.raw(request())
            server, session = world.links[0].server, world.handler.session
            server.protocol.dataReceived(masked(0x81, b"x") * 30_000)
            if is_lost:
                server.lose(ConnectionDone())
            else:
                session.fail(1011, "", Cause.APPLICATION_ERROR)
            before = session.messages_in
            world.clock.advance(0)
            self.assertEqual(session.messages_in, before)
            self.assertEqual(server.protocol._unread, b"")

    def test_much_is_thrown_away_after_a_failure(self) -> None:
        """After a failure reading goes on, however much comes at once: a reset over unread bytes could overtake our close frame."""
        world = World()
        world.raw(request())
        server = world.links[0].server
        server.protocol.dataReceived(b"\x81\x01x")  # unmasked
        for _ in range(3):
            server.protocol.dataReceived(masked(0x81, b"x") * 30_000)
            self.assertTrue(server.reading)
        world.clock.advance(0)
        self.assertTrue(server.reading)
        self.assertEqual(server.protocol._unread, b"")

    def test_compression_is_off_by_default(self) -> None:
        """An offer of permessage-deflate is passed over unless compression is on."""
        world = World()
        client = world.client(deflate=([PerMessageDeflateOffer()], _accept))
        self.assertTrue(client.is_opened)
        self.assertNotIn("sec-websocket-extensions", client.response.headers)

    def test_compression_windows(self) -> None:
        """The client's limit on our window, and ours on its, are both kept to in the answer."""
        for offers, answer in {
            b"permessage-deflate": b"permessage-deflate",
            b"permessage-deflate; client_max_window_bits": b"permessage-deflate; client_max_window_bits=12",
            b"permessage-deflate; server_max_window_bits=10": b"permessage-deflate; server_max_window_bits=10",
            b"permessage-deflate; server_no_context_takeover": b"permessage-deflate; server_no_context_takeover",
            b"x-other, permessage-deflate; server_max_window_bits=8, permessage-deflate": b"permessage-deflate",
        }.items():
            peer = World(compression="on").raw(request(b"Sec-WebSocket-Extensions: " + offers))
            self.assertIn(b"\r\nSec-WebSocket-Extensions: " + answer + b"\r\n", bytes(peer.data), offers)

    def test_offers_that_cannot_be_accepted(self) -> None:
        """An invalid or unknown offer is declined, not a reason to refuse (RFC 7692 section 5.1)."""
        for offers in (b"permessage-deflate; server_max_window_bits=99", b"permessage-deflate; x=1", b"x-unknown; a=b"):
            peer = World(compression="on").raw(request(b"Sec-WebSocket-Extensions: " + offers))
            self.assertIn(b"101 Switching", bytes(peer.data))
            self.assertNotIn(b"Sec-WebSocket-Extensions", bytes(peer.data))

    def test_fragments_and_a_ping_between(self) -> None:
        """A fragmented message is delivered whole; a ping between its fragments is answered at once."""
        world = World()
        peer = world.raw(request())
        peer.data.clear()
        peer.send(masked(0x01, b"Hel") + masked(0x89, b"now") + masked(0x00, b"l") + masked(0x80, b"o"))
        world.flush()
        self.assertEqual(world.handler.heard, ["opened", "Hello"])
        self.assertEqual(bytes(peer.data), b"\x8a\x03now\x81\x05Hello")

    def test_byte_by_byte(self) -> None:
        """Handshake and frames that arrive one byte at a time are understood the same."""
        world = World()
        peer = world.raw()
        for each in request() + masked(0x82, b"abc", mask=b"mask") + masked(0x81, b"\xc3\xa9"):
            peer.send(bytes((each,)))
            world.flush()
        self.assertEqual(world.handler.heard, ["opened", b"abc", "é"])

    def test_messages_behind_the_head(self) -> None:
        """Frames that come in one segment with the request head are not lost."""
        world = World()
        peer = world.raw(request() + masked(0x81, b"early"))
        self.assertEqual(world.handler.heard, ["opened", "early"])
        self.assertTrue(bytes(peer.data).endswith(b"\x81\x05early"))

    def test_no_delay(self) -> None:
        """TCP_NODELAY is set on every connection."""
        world = World()
        world.client()
        self.assertTrue(world.links[0].server.no_delay)

    def test_counters(self) -> None:
        """Messages and bytes are counted in both directions, and added up when the session ends."""
        world = World()
        client = world.client()
        client.say("héllo")
        client.say(b"12345")
        world.flush()
        client.sendClose(1000)
        world.flush()
        metrics = world.metrics
        self.assertEqual((metrics.opened, metrics.messages_in, metrics.messages_out), (1, 2, 2))
        self.assertEqual((metrics.octets_in, metrics.octets_out), (11, 11))


class Limits(SynchronousTestCase):
    """What a peer may send."""

    def _violates(self, data: bytes, code: int, cause: str, **settings: Any) -> World:
        world = World(**settings)
        peer = world.raw(request())
        peer.data.clear()
        peer.send(data)
        world.flush()
        self.assertEqual(bytes(peer.data[:1]), b"\x88", f"{code} expected, got {bytes(peer.data[:40])!r}")
        self.assertEqual(int.from_bytes(peer.data[2:4], "big"), code)
        self.assertEqual((world.handler.close.code, world.handler.close.cause.value), (code, cause))
        self.assertEqual([each for each in world.handler.heard if isinstance(each, (str, bytes))], ["opened"])
        self.assertEqual((len(world.registry), world.registry.connections, len(world.wheel)), (0, 0, 0))
        return world

    def test_protocol_errors(self) -> None:
        """Every breach of RFC 6455 section 5 ends the session with 1002, and nothing of it reaches the application."""
        for data in (
            b"\x81\x05Hello",  # unmasked
            masked(0xC1, b"x"),  # RSV1 with no extension
            masked(0xA1, b"x"),
            masked(0x83, b"x"),  # reserved opcodes
            masked(0x8B, b"x"),
            masked(0x80, b"x"),  # continuation of nothing
            masked(0x01, b"x") + masked(0x81, b"y"),  # a new message inside one
            masked(0x09, b"x"),  # fragmented control frame
            masked(0x89, b"x" * 126),  # long control frame
            masked(0x88, b"\x03"),  # close frame of one byte
            masked(0x88, (999).to_bytes(2, "big")),
            masked(0x88, (1005).to_bytes(2, "big")),
            masked(0x88, (2999).to_bytes(2, "big")),
            masked(0x88, (5000).to_bytes(2, "big")),
            b"\x81\xfe\x00\x05mask" + b"x" * 5,  # not the shortest length
            b"\x81\xff" + (5).to_bytes(8, "big") + b"mask" + b"x" * 5,
            b"\x82\xff\x80" + bytes(7) + b"mask",  # length above 2**63
        ):
            self._violates(data, 1002, "protocol_error")

    def test_invalid_utf8(self) -> None:
        """Text, or a close reason, that is no UTF-8 ends the session with 1007, whole or split."""
        for data in (
            masked(0x81, b"\xff"),
            masked(0x81, b"\xed\xa0\x80"),
            masked(0x01, b"\xc3") + masked(0x80, b"\x28"),
            masked(0x01, b"\xf4\x90"),  # already impossible, though the message goes on
            masked(0x81, b"\xc3"),  # ends within a character
            masked(0x88, b"\x03\xe8\xff"),
        ):
            self._violates(data, 1007, "invalid_utf8")

    def test_too_big(self) -> None:
        """A message over the limit ends the session with 1009 at its declared length, before its payload has come."""
        for data in (
            masked(0x82, b"", length=101),
            masked(0x02, b"x" * 60) + masked(0x80, b"x", length=41),
            masked(0x82, b"", length=2**62),
        ):
            self._violates(data, 1009, "too_big", max_message_size=100)

    def test_at_the_limit(self) -> None:
        """A message of exactly the limit passes."""
        world = World(max_message_size=100)
        peer = world.raw(request() + masked(0x82, b"x" * 100) + masked(0x02, b"y" * 60) + masked(0x80, b"y" * 40))
        self.assertEqual(world.handler.heard[1:], [b"x" * 100, b"y" * 100])
        self.assertIsNone(peer.ended)

    def test_bomb(self) -> None:
        """A compressed message that inflates over the limit ends with 1009, without having been inflated."""
        import zlib

        squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = squeezer.compress(bytes(10_000_000)) + squeezer.flush(zlib.Z_SYNC_FLUSH)[:-4]
        world = World(compression="on", max_message_size=100_000)
        peer = world.raw(request(b"Sec-WebSocket-Extensions: permessage-deflate"))
        peer.data.clear()
        peer.send(masked(0xC2, bomb))
        world.flush()
        self.assertEqual(bytes(peer.data[:4]), b"\x88\x11\x03\xf1")
        self.assertEqual(world.handler.close.cause.value, "too_big")

    def test_incompressible_at_the_limit(self) -> None:
        """A compressed message of exactly the limit passes, though deflate has made it larger; one byte more does not."""
        import random
        import zlib

        for size, passes in ((100_000, True), (100_001, False)):
            message = random.Random(1).randbytes(size)
            squeezer = zlib.compressobj(6, zlib.DEFLATED, -15)
            data = squeezer.compress(message) + squeezer.flush(zlib.Z_SYNC_FLUSH)[:-4]
            self.assertGreater(len(data), size)
            world = World(compression="on", max_message_size=100_000)
            peer = world.raw(request(b"Sec-WebSocket-Extensions: permessage-deflate"))
            framed = masked(0xC2, data)
            for start in range(0, len(framed), 30_000):
                peer.send(framed[start : start + 30_000])
                world.flush()
            self.assertEqual(world.handler.heard[1] == message, passes)

    def test_broken_deflate(self) -> None:
        """A compressed message that is no deflate data ends with 1007."""
        world = World(compression="on")
        peer = world.raw(request(b"Sec-WebSocket-Extensions: permessage-deflate"))
        peer.data.clear()
        peer.send(masked(0xC2, b"\xff\xff\xff\xff\xff"))
        world.flush()
        self.assertEqual(bytes(peer.data[2:4]), (1007).to_bytes(2, "big"))

    def test_frames_per_message(self) -> None:
        """Frames of one message are counted, empty ones too."""
        at = masked(0x01) + masked(0x00) * 8 + masked(0x80)
        world = World(max_frames_per_message=10)
        world.raw(request() + at + at)
        self.assertEqual(world.handler.heard, ["opened", "", ""])
        self._violates(masked(0x01) + masked(0x00) * 10, 1008, "too_big", max_frames_per_message=10)

    def test_message_rate(self) -> None:
        """Messages above the rate end the session with 1008; at the rate they pass for ever."""
        world = World(message_rate=10)
        client = world.client()
        for _ in range(50):
            client.say("x")
            world.advance(0.1)
        self.assertEqual(len(client.messages), 50)
        for _ in range(20):
            client.say("x")
        world.flush()
        self.assertEqual(client.ended[1] if client.ended else None, 1008)
        self.assertEqual(world.handler.close.cause.value, "rate_limit")

    def test_ping_flood(self) -> None:
        """Pings above the rate end the session with 1008."""
        world = World(control_frame_rate=20)
        peer = world.raw(request())
        peer.send(masked(0x89, b"x" * 125) * 1000)
        world.flush()
        self.assertEqual(world.handler.close.code, 1008)
        self.assertEqual(bytes(peer.data).count(b"\x8a\x7d"), 20)

    def test_unasked_pongs(self) -> None:
        """A pong that nobody asked for is ignored (section 5.5.3), a flood of them is not."""
        world = World(control_frame_rate=20)
        peer = world.raw(request())
        peer.send(masked(0x8A, b"hello"))
        world.flush()
        self.assertIsNone(peer.ended)
        peer.send(masked(0x8A, b"hello") * 30)
        world.flush()
        self.assertEqual(world.handler.close.code, 1008)

    def test_nothing_is_kept_after_a_failure(self) -> None:
        """What a peer sends after its violation is thrown away, and the connection is gone at the close deadline."""
        world = World(close_timeout=2)
        peer = world.raw(request())
        link = world.links[0]
        link.client.reading = False  # it does not read our close frame either
        peer.send(masked(0x82, b"", length=2**40))
        world.flush()
        for _ in range(30):
            peer.send(b"x" * 1_000_000)
            world.advance(0.1)
        self.assertTrue(link.server.lost)
        self.assertEqual(world.handler.close.code, 1009)
        self.assertEqual(len(link.server.protocol.data), 0)

    def test_slow_pieces_cost_their_size(self) -> None:
        """A message that trickles in is kept in one buffer, not in a list of its pieces."""
        world = World()
        peer = world.raw(request() + masked(0x82, b"", length=1000))
        for _ in range(999):
            peer.send(b"ab"[:1])
            world.flush()
        self.assertEqual(len(world.links[0].server.protocol._payload), 999)
        self.assertIsInstance(world.links[0].server.protocol._payload, bytearray)
        peer.send(b"z")
        world.flush()
        self.assertEqual(world.handler.heard[1], b"a" * 999 + b"z")
