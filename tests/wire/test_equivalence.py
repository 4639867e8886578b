"""The fast way in, and Autobahn alone: the same bytes, cut in the same places, have the same effects.

Two connections are fed in step: one with our protocol as it is, one with a protocol that lets Autobahn take every byte. After each piece
everything that can be seen of the two is compared: what the application heard, what the peer was sent, the counters, the transport.
"""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import pytest
from autobahn.websocket.utf8validator import Utf8Validator
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone

from tests.support.memory import RawPeer, Recorder, World, masked, request
from twistedws.protocol import ServerProtocol
from twistedws.session import Session

MOST = 70_000  # bytes of a message, so that one of each encoding of its length passes and one does not
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover"


class AutobahnAlone(ServerProtocol):
    """Our protocol with the fast way closed."""

    _scanning = property(lambda self: False, lambda self, value: None)

    def _consume(self, data: bytes) -> bytes:
        if self.utf8validator is None:
            self.utf8validator = Utf8Validator()
        self.data = data
        self.consumeData()
        return b""

    def _receive_otherwise(self, data: bytes) -> bytes:
        return self._consume(rest) if (rest := super()._receive_otherwise(data)) else b""  # what came behind the head, too


class Actor(Recorder):
    """Echoes, and does what a message tells it to."""

    def received(self, session: Session, message: str | bytes) -> None:
        self.heard.append(message)
        word = message[:6]
        if word in ("raise!", b"raise!"):
            raise RuntimeError("told to")
        if word in ("close!", b"close!"):
            session.close(4001, "told to")
        elif word in ("abort!", b"abort!"):
            session.abort()
        elif word in ("twice!", b"twice!"):
            session.send("once")
        elif word in ("pause!", b"pause!"):
            session.pause()
        session.send(message)


class Side:
    """One of the two connections."""

    def __init__(self, protocol: type[ServerProtocol], options: dict[str, Any], head: bytes) -> None:
        self.world = World(Actor, max_message_size=MOST, max_frames_per_message=6, **options)
        self.world.factory.protocol = protocol
        self.peer = RawPeer()
        self.link = self.world.join(self.peer)
        self.head = head

    @property
    def server(self) -> Any:
        return self.link.server.protocol

    def feed(self, piece: bytes) -> None:
        """Let the server read a piece, whether it reads or not: what is on its way comes also behind a pause."""
        if not self.link.server.lost:
            self.server.dataReceived(piece)
            self.world.clock.advance(0)

    def seen(self) -> dict[str, Any]:
        """All that can be seen of it."""
        out, transport = bytes(self.link.server.out), self.link.server
        handlers = self.world.handlers
        session = self.world.ledger.sessions[0] if self.world.ledger.sessions else None
        counters = ("messages_in", "messages_out", "octets_in", "octets_out", "dropped", "phase", "ending", "held")
        return {
            "sent": out,
            "heard": handlers[0].heard[:] if handlers else None,
            "counted": [getattr(session, each) for each in counters] if session is not None else None,
            "read": self.server.received,
            "written": self.server.written,
            "transport": (transport.reading, transport.disconnecting, transport.half_closed, transport.aborted),
            "stage": self.server._stage,
        }


def compare(stream: bytes, cuts: list[int], options: dict[str, Any] | None = None, head: bytes | None = None) -> dict[str, Any]:
    """Feed both sides with the stream in pieces, behind an opening handshake, and compare after each."""
    first = request() if head is None else head
    data = first + stream
    ours, alone = (Side(each, options or {}, first) for each in (ServerProtocol, AutobahnAlone))
    places = sorted({0, len(data), *(len(first) + each for each in cuts if 0 <= each < len(stream))})
    for start, end in itertools.pairwise(places):
        for side in (ours, alone):
            side.feed(data[start:end])
        assert ours.seen() == alone.seen(), f"after {data[start:end][:100]!r}"
    for side in (ours, alone):
        side.world.flush()
        side.link.server.lose(ConnectionDone())
    assert ours.world.ledger.ends == alone.world.ledger.ends
    assert ours.peer.data == alone.peer.data
    return ours.seen()


def deflated(payload: bytes) -> bytes:
    codec = zlib.compressobj(wbits=-12)
    return (codec.compress(payload) + codec.flush(zlib.Z_SYNC_FLUSH))[:-4]


MASK = b"\x00\xff\x5a\x81"
VALID = [
    masked(0x81, b"", mask=MASK), masked(0x82, b"", mask=MASK), masked(0x81, b"one", mask=MASK), masked(0x82, bytes(range(256)), mask=MASK),
    masked(0x81, "grün €😀".encode(), mask=MASK), masked(0x81, b"x" * 125, mask=MASK), masked(0x82, b"y" * 126, mask=MASK),
    masked(0x81, b"z" * 65535, mask=MASK), masked(0x82, b"w" * 65536, mask=MASK), masked(0x82, b"v" * MOST, mask=MASK),
    masked(0x89, b"ping", mask=MASK), masked(0x89, mask=MASK), masked(0x8A, b"p" * 125, mask=MASK),
    masked(0x01, b"fr\xc3", mask=MASK) + masked(0x00, b"", mask=MASK) + masked(0x80, b"\xbcag", mask=MASK),
    masked(0x02, b"a", mask=MASK) + masked(0x89, b"between", mask=MASK) + masked(0x80, b"b", mask=MASK),
    masked(0x81, b"twice!", mask=MASK), masked(0x82, b"pause!", mask=MASK),
]  # fmt: skip
ENDING = [
    masked(0x88, mask=MASK), masked(0x88, b"\x03\xe8bye", mask=MASK), masked(0x88, b"\x03", mask=MASK),
    masked(0x88, b"\x03\xed", mask=MASK),
    masked(0x88, b"\x03\xe8\xff", mask=MASK), masked(0x89, b"p" * 126, mask=MASK), masked(0x09, b"p", mask=MASK), masked(0x8B, mask=MASK),
    masked(0x81, b"\xff", mask=MASK), masked(0x81, b"ab\xed\xa0\x80cd", mask=MASK), masked(0x81, b"\xf0\x9f\x98", mask=MASK),
    masked(0x83, b"x", mask=MASK), masked(0x80, b"x", mask=MASK), masked(0xC1, b"x", mask=MASK), masked(0xA2, b"x", mask=MASK),
    masked(0x01, b"a", mask=MASK) + masked(0x81, b"b", mask=MASK), masked(0x01, b"", mask=MASK) + masked(0x00, b"", mask=MASK) * 8,
    masked(0x82, b"v" * (MOST + 1), mask=MASK), masked(0x82, b"", length=2**62), masked(0x82, b"", length=2**63 + 1),
    bytes((0x82, 0x80 | 126, 0, 5)) + MASK + b"12345", bytes((0x82, 0x80 | 127)) + (5).to_bytes(8, "big") + MASK + b"12345",
    b"\x81\x03abc", b"\x82\x00", b"\x89\x00", masked(0x81, b"raise!", mask=MASK), masked(0x82, b"close!", mask=MASK),
    masked(0x81, b"abort!", mask=MASK), b"GET / HTTP/1.1\r\n\r\n",
]  # fmt: skip
COMPRESSED = [
    masked(0xC1, deflated(b"hello " * 50), mask=MASK), masked(0xC2, deflated(b""), mask=MASK), masked(0xC1, deflated(b"\xff"), mask=MASK),
    masked(0xC2, b"\xff\xff\xff", mask=MASK), masked(0xC2, deflated(b"0" * (MOST + 1)), mask=MASK),
    masked(0x41, deflated(b"parts")[:3], mask=MASK) + masked(0x80, deflated(b"parts")[3:], mask=MASK), masked(0xC9, b"", mask=MASK),
]  # fmt: skip


@pytest.mark.parametrize("last", [b"", *ENDING], ids=lambda each: each[:12].hex() or "nothing")
def test_every_cut_of_a_mixed_stream(last: bytes) -> None:
    """A stream of all short kinds of frames, with each possible end, has the same effects wherever it is cut in two."""
    stream = b"".join(each for each in VALID if len(each) < 40) + last[:60] + VALID[2]
    for cut in range(len(stream)):
        compare(stream, [cut])


def test_byte_by_byte() -> None:
    """Bytes that come one at a time have the effects of the same bytes at once."""
    stream = b"".join(each for each in VALID if len(each) < 300)
    apart = compare(stream, list(range(len(stream))))
    assert apart == compare(stream, [])


@pytest.mark.parametrize("frame", [each for each in VALID + ENDING if len(each) > 200], ids=len)
def test_around_the_edges_of_large_frames(frame: bytes) -> None:
    """A large frame has the same effects when it is cut in its head, near its ends and in its middle."""
    stream = VALID[2] + frame + VALID[2]
    start, end = len(VALID[2]), len(VALID[2]) + len(frame)
    for cut in [*range(start, start + 20), (start + end) // 2, *range(end - 8, end + 8)]:
        compare(stream, [cut])


_data = st.builds(
    lambda first, payload, mask: masked(first, payload, mask=mask),
    st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8A]),
    st.one_of(st.binary(max_size=130), st.text(max_size=60).map(str.encode)),
    st.binary(min_size=4, max_size=4),
)
_frames = st.lists(
    st.one_of(st.sampled_from(VALID), st.sampled_from(VALID), _data, st.sampled_from(ENDING), st.binary(max_size=20)), max_size=12
)
_cuts = st.lists(st.integers(0, 2000), max_size=12)
_options = st.sampled_from(
    [{}, {"message_rate": 3}, {"control_frame_rate": 2}, {"inbox_size": 64}, {"slow_consumer": "abort", "queue_size": 2000}]
)


@settings(max_examples=400, deadline=None)
@given(_frames, _cuts, _options)
def test_any_stream_and_any_cuts(frames: list[bytes], cuts: list[int], options: dict[str, Any]) -> None:
    """Whatever a peer sends, in whatever pieces, has the same effects, under every bound."""
    compare(b"".join(frames), cuts, options)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(COMPRESSED + VALID), max_size=8), _cuts)
def test_any_stream_with_compression(frames: list[bytes], cuts: list[int]) -> None:
    """Likewise where compressed messages may be among them."""
    compare(b"".join(frames), cuts, {"compression": "on"}, request(DEFLATE))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), _cuts)
def test_any_bytes(data: bytes, cuts: list[int]) -> None:
    """Likewise bytes that were not made as frames."""
    compare(data, cuts)


def test_the_other_side_is_autobahn_alone() -> None:
    """The side that ours is compared with scans nothing: each of its messages came out of Autobahn."""
    side = Side(AutobahnAlone, {}, request())
    side.feed(request() + VALID[2])
    assert side.server.utf8validator is not None
    assert not side.server._scanning
    assert side.seen()["heard"] == ["opened", "one"]
