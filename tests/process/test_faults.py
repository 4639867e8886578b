"""What one server process must stand: hostile peers, dying peers, a faulty application, a machine that runs out of things.

One named test for each row of the plan. Beside each fault a healthy client echoes, and must lose nothing. Bounds on resident memory
are those of the plan where it names one; a wider one says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect as blocking_connect

from tests.support.memory import KEY, request
from tests.support.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Canary,
    Memory,
    Raw,
    close_payload,
    frame,
    sources,
)
from tests.support.server import Server, wait_until
from tests.support.tools import needs, unavailable

MIB = 2**20
SLACK = 10.0  # seconds over a deadline of the server, for a machine that is busy with other tests
SECRET = b"hunter2"  # stands in every exception that the tests' applications raise

Events = list[dict[str, Any]]


class Site(Server):
    """A server of the application that misbehaves by path, and what that application heard."""

    def __init__(self, *arguments: str, app: str = "faults:Faults", **more: Any) -> None:
        environment = {"EVENTS": "events", **more.pop("environment", {})}
        super().__init__(*arguments, app, environment=environment, **more)

    def __enter__(self) -> Site:
        super().__enter__()
        return self

    def heard(self, path: str, event: str = "") -> Events:
        """The events of the sessions on this path, or those of one kind."""
        file = self.directory / "events"
        entries = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [each for each in entries if each["path"] == path and event in ("", each["event"])]

    def ending(self, path: str, timeout: float = 10.0) -> tuple[int, str]:
        """Code and cause that the application heard at the end of the only session on this path."""
        (closed,) = wait_until(lambda: self.heard(path, "closed"), timeout, f"the end of {path}")
        return closed["code"], closed["cause"]

    def warm_up(self) -> None:
        """Let everything that is done once be done, so that growth is due to what a test does."""
        with Canary(self) as canary:
            canary.sing(5)
        for payload in (b"x", b"x" * 70_000):
            with Raw(self.port) as peer:
                peer.upgrade(b"Sec-WebSocket-Extensions: permessage-deflate")
                peer.send(frame(BINARY, payload) + frame(PING, b"x"))
                peer.read_message()
                peer.say_goodbye()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One server that has to stand all attacks that need no settings of their own."""
    with Site("--handshake-timeout=3", "--close-timeout=2", "--compression=on") as server:
        server.warm_up()
        pid = server.pid
        yield server
        assert server.running
        assert server.pid == pid
        assert not server.lines("a fault of this server|Unhandled|Traceback")


@pytest.fixture
def canary(site: Site) -> Iterator[Canary]:
    """The healthy client beside, on the shared server."""
    with Canary(site) as bird:
        yield bird


def gone(server: Server, before: int, timeout: float = SLACK) -> None:
    """Wait until the server holds as many descriptors as before."""
    wait_until(lambda: server.descriptors() <= before, timeout, f"the return to {before} descriptors")


# The opening handshake


def test_slowloris() -> None:
    """5,000 peers that send a byte a second are gone at the handshake timeout, and cost at most 8 KiB each."""
    with Server("--handshake-timeout=3") as server, Canary(server):
        before, memory, timeout = server.descriptors(), Memory(server), 3.0
        addresses = sources(count=4)
        peers = {}
        for index in range(5000):
            peer = Raw(server.port, source=addresses[index % 4])
            peers[peer.socket.fileno()] = peer
        started, letters = time.monotonic(), iter(request(b"X: " + b"x" * 1000))
        poll = select.epoll()
        for descriptor in peers:
            poll.register(descriptor, select.EPOLLIN)
        while peers:
            assert time.monotonic() - started < timeout + SLACK, f"{len(peers)} are still connected"
            letter, until = bytes((next(letters),)), time.monotonic() + 1
            for peer in peers.values():
                _send_if_open(peer, letter)
            while peers and time.monotonic() < until:
                for descriptor, _ in poll.poll(0.1):
                    data = _receive_if_open(peers[descriptor])
                    assert data == b"" or data.startswith(b"HTTP/1.1 408 ")
                    if not data:
                        poll.unregister(descriptor)
                        peers.pop(descriptor).close()
        poll.close()
        gone(server, before)
        assert memory.grown() <= 5000 * 8192
        assert len(server.lines()) < 100


def _send_if_open(peer: Raw, data: bytes) -> None:
    try:
        peer.socket.send(data)
    except ConnectionError:
        peer.ended = True


def _receive_if_open(peer: Raw) -> bytes:
    try:
        return peer.socket.recv(4096)
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000_000, 431, id="20-MB-header"),
        pytest.param(b"GET /" + b"x" * 20_000_000, 414, id="20-MB-request-line"),
        pytest.param(request(*(b"X-%d: y" % index for index in range(10_000))), 431, id="10k-headers"),
        pytest.param(request(*(b"X-%d: y" % index for index in range(96))), 431, id="101-headers"),
        pytest.param(b"\r\n" * 10_000_000, 400, id="20-MB-of-empty-lines"),
    ],
)
def test_huge_head(site: Site, canary: Canary, head: bytes, status: int) -> None:
    """A head over its bounds is answered with 431 (414 for the request line), and never held in memory."""
    memory = Memory(site)
    with Raw(site.port) as peer:
        peer.pour(head[start : start + 65536] for start in range(0, len(head), 65536))
        assert peer.read_head()[0] == status
    assert memory.grown() <= MIB


FORGED = b"X-Forged: 1"
SPLITTING = {
    "85": (b"X-A: a\x85" + FORGED, 101),
    "85-as-UTF-8": (b"X-A: a\xc2\x85" + FORGED, 101),
    "letter-with-85": (b"Cookie: name=\xc3\x85sa", 101),
    "line-separator": (b"X-A: a\xe2\x80\xa8" + FORGED, 101),
    "0B": (b"X-A: a\x0b" + FORGED, 400),
    "0C": (b"X-A: a\x0c" + FORGED, 400),
    "1C": (b"X-A: a\x1c" + FORGED, 400),
    "1D": (b"X-A: a\x1d" + FORGED, 400),
    "1E": (b"X-A: a\x1e" + FORGED, 400),
    "NUL": (b"X-A: a\x00" + FORGED, 400),
    "DEL": (b"X-A: a\x7f" + FORGED, 400),
    "bare-LF": (b"X-A: a\n" + FORGED, 400),
    "bare-CR": (b"X-A: a\r" + FORGED, 400),
    "LF-CR": (b"X-A: a\n\r" + FORGED, 400),
    "CR-CR-LF": (b"X-A: a\r\r\n" + FORGED, 400),
    "LF-LF": (b"X-A: a\n\n" + FORGED, 400),
    "folding-by-space": (b"X-A: a\r\n " + FORGED, 400),
    "folding-by-tab": (b"X-A: a\r\n\t" + FORGED, 400),
    "folding-by-85": (b"X-A: a\r\n\x85" + FORGED, 400),
    "space-before-colon": (b"X-Forged : 1", 400),
    "tab-before-colon": (b"X-Forged\t: 1", 400),
    "85-before-colon": (b"X-Forged\x85: 1", 400),
    "no-colon": (b"X-Forged", 400),
    "no-name": (b": X-Forged", 400),
    "name-that-is-no-token": (b"X(Forged): 1", 400),
    "name-beyond-ASCII": (b"X-Forg\xe9d: 1", 400),
    "two-hosts": (b"Host: evil.example", 400),
    "two-hosts-the-same": (b"Host: example.com", 400),
    "two-keys": (b"Sec-WebSocket-Key: " + KEY, 400),
    "content-length": (b"Content-Length: 5", 400),
    "content-length-twice": (b"Content-Length: 0\r\nContent-Length: 5", 400),
    "content-length-of-sign": (b"Content-Length: +5", 400),
    "content-length-list": (b"Content-Length: 0, 5", 400),
    "chunked": (b"Transfer-Encoding: chunked", 400),
    "chunked-after-0B": (b"Transfer-Encoding:\x0bchunked", 400),
    "xchunked": (b"Transfer-Encoding: xchunked", 400),
    "content-length-and-chunked": (b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
    "chunked-twice": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400),
}


@pytest.mark.parametrize("name", SPLITTING)
def test_header_splitting(site: Site, canary: Canary, name: str) -> None:
    """No byte but CRLF ends a header: the application sees no forged one, 0x85 is data, everything ambiguous is 400."""
    line, status = SPLITTING[name]
    path = f"/split/{name}"
    with Raw(site.port) as peer:
        peer.send(request(line, path=path.encode()))
        assert peer.read_head()[0] == status
        if status == 101:
            peer.say_goodbye()
        else:
            peer.read_end()
            assert peer.ended
    admitted = site.heard(path, "admit")
    assert len(admitted) == (status == 101)
    for each in admitted:
        value = line.partition(b": ")[2].decode("latin-1")
        assert [header for header in each["headers"] if header[1] == value], "the value was changed on its way"
        assert not [header for header in each["headers"] if "forged" in header[0]]


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"GET /line HTTP/1.1\nX-Forged: 1\r\n", 400),
        (b"GET /line\x0b HTTP/1.1\r\n", 400),
        (b"GET /line\x85 HTTP/1.1\r\n", 400),
        (b"GET  /line HTTP/1.1\r\n", 400),
        (b"GET /line  HTTP/1.1\r\n", 400),
        (b"GET /line HTTP/1.1 \r\n", 400),
        (b"GET\t/line\tHTTP/1.1\r\n", 400),
        (b" GET /line HTTP/1.1\r\n", 400),
        (b"GET /line\r\n", 400),
        (b"GET /line HTTP/2.0\r\n", 505),
        (b"PRI * HTTP/2.0\r\n", 505),
        (b"GET /line HTTP/1.1\r\n X-Forged: 1\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
def test_request_line(site: Site, canary: Canary, start: bytes, status: int) -> None:
    """A request line of any shape but the one of RFC 9112 is refused, and the application never asked."""
    with Raw(site.port) as peer:
        peer.send(start + request().partition(b"\r\n")[2])
        assert peer.read_head()[0] == status
    assert not site.heard("/line")


def test_pipelined_requests(site: Site, canary: Canary) -> None:
    """Of three requests at once, with an admission that takes its time, one is a session, opened once and closed once."""
    with Raw(site.port) as peer:
        peer.send(3 * request(path=b"/pipelined?wait=0.3"))
        assert peer.read_head()[0] == 101
        assert peer.read_close()[0] == 1002  # the second request is no frame
    assert site.ending("/pipelined") == (1002, "protocol_error")
    assert Counter(each["event"] for each in site.heard("/pipelined")) == {"admit": 1, "opened": 1, "closed": 1}


def test_frames_before_the_answer(site: Site, canary: Canary) -> None:
    """What a peer sends while the application still decides is kept, in order, until the session is open."""
    with Raw(site.port) as peer:
        peer.send(request(path=b"/early?wait=0.3") + b"".join(frame(TEXT, b"%d" % index) for index in range(100)))
        assert peer.read_head()[0] == 101
        assert [peer.read_message() for _ in range(100)] == [b"%d" % index for index in range(100)]
        peer.say_goodbye()


def test_flood_before_the_answer(site: Site, canary: Canary) -> None:
    """A peer that floods while the application still decides is read no further than the inbox size, then served in order."""
    memory, message = Memory(site), frame(BINARY, bytes(16_000))
    with Raw(site.port) as peer:
        peer.send(request(path=b"/early-flood?wait=1"))
        peer.pour([message] * 1000)
        if peer.read_head()[0] == 101:
            for _ in range(1000):
                assert len(peer.read_message()) == 16_000
            peer.say_goodbye()
    assert memory.grown() <= 2 * MIB  # the echoes' high-water mark and one read of 64 KiB come on top


def _begun(site: Site, number: int) -> None:
    wait_until(lambda: len(site.heard("/hasty", "admit")) == number, what="a decision begun")


def test_gone_while_the_application_decides(site: Site, canary: Canary) -> None:
    """A peer that goes, with FIN or RST, while the application decides is never opened; nothing of it is left."""
    before = site.descriptors()
    for index in range(50):
        peer = Raw(site.port)
        peer.send(request(path=b"/hasty?wait=0.5"))
        # one that is reset before it is accepted was never there: the kernel does not tell where it came from
        _begun(site, index + 1)
        peer.reset() if index % 2 else peer.close()
    with Raw(site.port) as peer:
        peer.upgrade(path=b"/patient?wait=0.5")  # answered after all others would have been
        peer.say_goodbye()
    gone(site, before)
    assert not site.heard("/hasty", "opened")
    assert not site.heard("/hasty", "closed")
    assert len(site.heard("/patient", "opened")) == len(site.heard("/patient", "closed")) == 1


def test_application_that_never_decides(site: Site, canary: Canary) -> None:
    """An application that does not decide in time is not waited for: the peer gets 503 at the handshake timeout."""
    with Raw(site.port) as peer:
        peer.send(request(path=b"/undecided?wait=3600"))
        assert peer.read_head()[0] == 503
    assert not site.heard("/undecided", "opened")


# Peers that do not answer, or do not read


HALF_OPEN = """
import sys, time
from websockets.sync.client import connect
with connect(sys.argv[1], ping_interval=None, proxy=None) as client:
    client.send("ready")
    print(client.recv(), flush=True)
    client.recv()
"""


def test_half_open_peer() -> None:
    """A peer that is stopped dead is cut at interval + timeout, and the application hears pong_timeout; others are not touched."""
    with Site("--ping-interval=1", "--ping-timeout=1") as server, Canary(server):
        before = server.descriptors()
        child = subprocess.Popen([sys.executable, "-c", HALF_OPEN, server.url + "/half-open"], stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            child.send_signal(signal.SIGSTOP)
            assert server.ending("/half-open", 2 + SLACK) == (1006, "pong_timeout")
            gone(server, before)
        finally:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        server.wait_for_line("cause=pong_timeout")
        assert len(server.lines("cause=pong_timeout")) == 1


@pytest.mark.parametrize(
    ("policy", "ending"),
    [("close", (1013, "slow_consumer")), ("drop-newest", (1006, "write_stall")), ("abort", (1006, "slow_consumer"))],
    ids=["close", "drop-newest", "abort"],
)
def test_never_reading_peer(policy: str, ending: tuple[int, str]) -> None:
    """A peer that never reads while the application floods it costs its queue and no more, and is ended as the policy says."""
    with Site(f"--slow-consumer={policy}", "--write-stall-timeout=2", "--close-timeout=2") as server, Canary(server) as canary:
        server.warm_up()
        before, memory = server.descriptors(), Memory(server)
        with Raw(server.port, receive_buffer=4096) as peer:
            peer.send(request(path=b"/flood"))
            assert server.ending("/flood", 2 + SLACK) == ending
            gone(server, before)
        # the queue of 1 MiB, once more while Twisted joins its pieces into one buffer, and a message
        assert memory.grown() <= 3 * MIB
        canary.sing(3)


@pytest.mark.parametrize("path", ["/little", "/some"])
def test_reads_nothing_then_closes(path: str) -> None:
    """A peer that reads nothing and sends Close is gone by the close timeout, or where much output waits, the write-stall timeout.

    Nothing of a congested peer is read, so neither is its Close.
    """
    with Site("--close-timeout=1", "--write-stall-timeout=2", "--ping-interval=0") as server, Canary(server):
        before = server.descriptors()
        with Raw(server.port, receive_buffer=4096) as peer:
            peer.send(request(path=path.encode()))
            wait_until(lambda: server.heard(path, "opened"), what="the session")
            peer.send(frame(CLOSE, close_payload(1000)))
            gone(server, before, 3 + SLACK)
        expected = (1000, "client") if path == "/little" else (1006, "write_stall")
        assert server.ending(path) == expected


# Floods of frames


def test_ping_flood(site: Site, canary: Canary) -> None:
    """200,000 pings of 125 bytes end in 1008 after some answers, with no queue of pongs."""
    memory, pings = Memory(site), frame(PING, bytes(125)) * 500
    with Raw(site.port) as peer:
        peer.upgrade(path=b"/pings")
        peer.pour([pings] * 400)
        frames = list(iter(peer.read_frame, None))
    assert frames[-1].opcode == CLOSE
    assert frames[-1].payload[:2] == (1008).to_bytes(2, "big")
    assert Counter(each.opcode for each in frames)[PONG] <= 100  # 50 a second, 50 at once
    assert site.ending("/pings") == (1008, "rate_limit")
    assert memory.grown() <= MIB


def test_ping_flood_of_a_peer_that_never_reads() -> None:
    """Even with no limit on pings, a peer that floods with them and reads nothing makes no queue of pongs, and is cut."""
    with Site("--control-frame-rate=0", "--write-stall-timeout=2") as server, Canary(server):
        server.warm_up()
        memory, pings = Memory(server), frame(PING, bytes(125)) * 500
        with Raw(server.port, receive_buffer=4096) as peer:
            peer.send(request(path=b"/pings"))
            peer.pour([pings] * 4000, reading=False)
        assert server.ending("/pings") == (1006, "write_stall")
        assert memory.grown() <= MIB


@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "one-byte"])
def test_fragment_flood(site: Site, canary: Canary, payload: bytes) -> None:
    """A message of a million fragments, empty or of one byte, ends in 1008 at the limit, in bounded memory."""
    memory, more = Memory(site), frame(CONTINUATION, payload, fin=False) * 10_000
    path = f"/fragments-{len(payload)}"
    with Raw(site.port) as peer:
        peer.upgrade(path=path.encode())
        peer.send(frame(TEXT, payload, fin=False))
        peer.pour([more] * 100)
        assert peer.read_close() == (1008, b"too many frames in a message")
    assert site.ending(path) == (1008, "too_big")
    assert not site.heard(path, "received")
    assert memory.grown() <= MIB


def test_one_byte_message_flood() -> None:
    """A million messages of one byte end in 1008 where messages are limited, in bounded memory."""
    with Site("--message-rate=1000") as server, Canary(server):
        server.warm_up()
        memory, messages = Memory(server), frame(BINARY, b"x") * 10_000
        with Raw(server.port) as peer:
            peer.upgrade(path=b"/messages")
            peer.pour([messages] * 100)
            assert peer.read_close() == (1008, b"too many messages")
        assert server.ending("/messages") == (1008, "rate_limit")
        assert memory.grown() <= MIB


HUGE: dict[str, tuple[bytes, int]] = {
    "data": (frame(BINARY, length=2**62), 1009),
    "data-of-2-to-the-63": (frame(BINARY, length=2**63), 1002),
    "data-of-2-to-the-63-less-1": (frame(BINARY, length=2**63 - 1), 1009),
    "data-of-the-limit-and-one": (frame(BINARY, length=MIB + 1), 1009),
    "continuation": (frame(BINARY, b"x", fin=False) + frame(CONTINUATION, length=2**62), 1009),
    "continuation-that-overflows": (frame(BINARY, bytes(10), fin=False) + frame(CONTINUATION, length=2**63 - 1), 1009),
    "ping": (frame(PING, length=2**62), 1002),
    "ping-of-126": (frame(PING, length=126), 1002),
    "pong": (frame(PONG, length=2**62), 1002),
    "close": (frame(CLOSE, length=2**62), 1002),
    "reserved-opcode": (frame(0x3, length=2**62), 1002),
    "reserved-control-opcode": (frame(0xB, length=2**62), 1002),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_frame(site: Site, canary: Canary, name: str) -> None:
    """A frame that declares more than there may be is refused by its head; the 64 MiB behind it are not kept."""
    head, code = HUGE[name]
    memory, path = Memory(site), f"/huge-{name}"
    with Raw(site.port) as peer:
        peer.upgrade(path=path.encode())
        peer.send(head)
        peer.pour([bytes(65536)] * 1024)
        assert peer.read_close()[0] == code
    assert site.ending(path)[0] == code
    assert not site.heard(path, "received")
    assert memory.grown() <= MIB


@pytest.mark.parametrize("pieces", [1, 16], ids=["whole", "in-fragments"])
@pytest.mark.parametrize("takeover", [True, False], ids=["takeover", "no-takeover"])
def test_zip_bomb(site: Site, canary: Canary, takeover: bool, pieces: int) -> None:
    """64 KiB that inflate to 64 MiB end in 1009 and are never held, with and without context takeover."""
    offer = b"Sec-WebSocket-Extensions: permessage-deflate" + (b"" if takeover else b"; client_no_context_takeover")
    path = f"/bomb-{takeover}-{pieces}"
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)

    def deflated(data: bytes) -> bytes:
        return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]

    first = deflated(b"hello")
    if not takeover:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(deflate.compress(bytes(MIB)) for _ in range(64)) + deflate.flush(zlib.Z_SYNC_FLUSH)[:-4]
    size = -(-len(bomb) // pieces)
    memory = Memory(site)
    with Raw(site.port) as peer:
        assert b"permessage-deflate" in peer.upgrade(offer, path=path.encode())
        peer.send(frame(TEXT, first, rsv=4))
        peer.read_message()
        for index in range(pieces):
            piece = bomb[index * size : (index + 1) * size]
            opcode, rsv = (BINARY, 4) if index == 0 else (CONTINUATION, 0)
            _send_if_open(peer, frame(opcode, piece, rsv=rsv, fin=index == pieces - 1))
        assert peer.read_close()[0] == 1009
    assert site.ending(path) == (1009, "too_big")
    assert [each["octets"] for each in site.heard(path, "received")] == [5]
    assert memory.grown() <= 2 * MIB


# What RFC 6455 forbids


VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "unmasked": (frame(TEXT, b"x", mask=None), 1002),
    "unmasked-ping": (frame(PING, b"x", mask=None), 1002),
    "unmasked-close": (frame(CLOSE, close_payload(1000), mask=None), 1002),
    "RSV1": (frame(TEXT, b"x", rsv=4), 1002),
    "RSV2": (frame(TEXT, b"x", rsv=2), 1002),
    "RSV3": (frame(TEXT, b"x", rsv=1), 1002),
    "RSV-of-ping": (frame(PING, b"x", rsv=4), 1002),
    **{f"opcode-{opcode}": (frame(opcode, b"x"), 1002) for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)},
    "fragmented-ping": (frame(PING, b"x", fin=False), 1002),
    "fragmented-close": (frame(CLOSE, close_payload(1000), fin=False), 1002),
    "ping-of-126": (frame(PING, bytes(126)), 1002),
    "length-not-minimal-16": (frame(BINARY, b"x", width=16), 1002),
    "length-not-minimal-64": (frame(BINARY, b"x", width=64), 1002),
    "continuation-of-nothing": (frame(CONTINUATION, b"x"), 1002),
    "text-inside-text": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    "bad-UTF-8": (frame(TEXT, b"\xff"), 1007),
    "overlong-UTF-8": (frame(TEXT, b"\xc0\xaf"), 1007),
    "surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "above-U+10FFFF": (frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    "truncated-UTF-8": (frame(TEXT, b"\xe2\x82"), 1007),
    "bad-UTF-8-masked": (frame(TEXT, b"caf\xe9", mask=b"\x12\x34\x56\x78"), 1007),
    "bad-UTF-8-across-fragments": (frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"\x28"), 1007),
    "truncated-UTF-8-in-last-fragment": (frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"\xe2\x82"), 1007),
    "bad-UTF-8-at-once": (frame(TEXT, b"\xff", fin=False), 1007),
    "close-of-one-byte": (frame(CLOSE, b"\x03"), 1002),
    "close-reason-bad-UTF-8": (frame(CLOSE, close_payload(1000, b"\xff")), 1007),
    **{
        f"close-code-{code}": (frame(CLOSE, close_payload(code)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violation(site: Site, canary: Canary, name: str) -> None:
    """What RFC 6455 forbids is answered with the code that it names; the application sees nothing of it or of what follows."""
    data, code = VIOLATIONS[name]
    path = f"/violation/{name}"
    with Raw(site.port) as peer:
        peer.upgrade(path=path.encode())
        peer.send(data + frame(TEXT, b"after the violation"))
        assert peer.read_close()[0] == code
        peer.read_end()
        assert peer.ended
    assert site.ending(path)[0] == code
    assert not site.heard(path, "received")


@pytest.mark.parametrize("code", [None, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999])
def test_close_code(site: Site, canary: Canary, code: int | None) -> None:
    """Each code that may stand in a close frame is answered with itself, and heard by the application."""
    path = f"/code/{code}"
    with Raw(site.port) as peer:
        peer.upgrade(path=path.encode())
        peer.send(frame(CLOSE, close_payload(code) if code is not None else b""))
        assert peer.read_close()[0] == (code or 1005)
        peer.read_end()
    assert site.ending(path) == (code or 1005, "client")


# Many peers that come and go


def test_churn(site: Site, canary: Canary) -> None:
    """2,000 peers that end with Close, FIN or RST, some inside a frame, are each opened and closed once; no descriptor is left."""
    before = site.descriptors()
    for index in range(2000):
        peer = Raw(site.port, source=f"127.0.0.{2 + index % 4}")
        peer.upgrade(path=b"/churn")
        peer.send(frame(TEXT, b"hello"))
        if index % 4 == 0:
            peer.send(frame(CLOSE, close_payload(1000)))
            assert peer.read_close()[0] == 1000
            peer.close()
        elif index % 4 == 1:
            assert peer.read_message() == b"hello"
            peer.close()
        elif index % 4 == 2:
            peer.reset()
        else:
            peer.send(frame(TEXT, b"hello", length=100))
            peer.close()
    gone(site, before)
    wait_until(lambda: len(site.heard("/churn", "closed")) >= 2000, what="2,000 ends")
    opened, closed = ([each["session"] for each in site.heard("/churn", event)] for event in ("opened", "closed"))
    assert len(opened) == len(set(opened)) == 2000
    assert sorted(opened) == sorted(closed)
    causes = Counter(each["cause"] for each in site.heard("/churn", "closed"))
    assert causes["client"] == 500
    assert causes["reset"] >= 500
    assert set(causes) == {"client", "fin", "reset"}


def test_rst_storm(site: Site, canary: Canary) -> None:
    """20,000 resets, on accept, inside the head and after it, leave process, memory and descriptors as they were, the log quiet."""
    before, lines, memory, pid = site.descriptors(), len(site.lines()), Memory(site), site.pid
    head, started, settled = request(path=b"/storm"), time.monotonic(), list[int]()
    for half in range(2):
        for index in range(10_000):
            peer = Raw(site.port, source=f"127.0.0.{2 + index % 8}")
            if index % 20 == 0:
                peer.send(head)
            elif index % 2:
                peer.send(head[: index % len(head)])
            peer.reset()
        gone(site, before, 3 + SLACK)
        settled.append(site.rss())
        assert (site.pid, site.running) == (pid, True), f"after {half + 1} x 10,000"
    sessions = len(site.heard("/storm", "opened"))
    assert len(site.heard("/storm", "closed")) == sessions <= 1000
    # one line for each session that there was, as for every session, and one a second
    assert len(site.lines()) - lines <= sessions + (time.monotonic() - started) + 20
    assert settled[1] - settled[0] <= MIB
    assert memory.grown() <= 8 * MIB  # those that are accepted in one turn are there at once, with what Python keeps for each


def test_descriptors_run_out() -> None:
    """With no descriptor left the server refuses or defers, does not spin, and serves again once there is one; sessions live on."""
    with Server("--close-timeout=1") as server, Canary(server) as canary:
        before = server.descriptors()
        limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (before + 20, limits[1]))
        peers = [Raw(server.port) for _ in range(60)]
        try:
            for peer in peers:
                _send_if_open(peer, request())
            wait_until(lambda: server.descriptors() >= before + 19, what="the last descriptor taken")
            canary.sing(10)
            cpu, started = server.cpu(), time.monotonic()
            canary.sing(100)
            assert server.cpu() - cpu < 0.5 * (time.monotonic() - started), "it spins"
            assert len(server.lines()) < 100
        finally:
            for peer in peers:
                peer.close()
        gone(server, before)

        def served() -> bool:
            with Raw(server.port) as peer:
                peer.send(request())
                return peer.read_head()[0] == 101

        wait_until(served, what="a new session")


# Time


class Counting(ClientConnection):
    """A healthy client that only answers pings, and counts them."""

    pings = 0

    def process_event(self, event: Any) -> None:
        """Count a ping."""
        if isinstance(event, Frame) and event.opcode is Opcode.PING:
            self.pings += 1
        super().process_event(event)


class Idlers:
    """Healthy clients that send nothing, as most do, in a thread of their own; use it as a context manager.

    Args:
        server: Whose.
        count: How many.
    """

    def __init__(self, server: Server, count: int) -> None:
        self._url, self._count = server.url + "/idle", count
        self._clients: list[ClientConnection] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Idlers:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._connect(), self._loop).result(60)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def lost(self) -> list[int | None]:
        """The close codes of those that are connected no more."""
        return [each.close_code for each in self._clients if each.close_code is not None]

    def await_pings(self, more: int, timeout: float = 60.0) -> None:
        """Wait until every client has seen so many further pings; none may be lost meanwhile."""
        targets = [each.pings + more for each in self._clients if isinstance(each, Counting)]

        def seen() -> bool:
            assert not self.lost(), "healthy clients were dropped"
            return all(each.pings >= target for each, target in zip(self._clients, targets, strict=True) if isinstance(each, Counting))

        wait_until(seen, timeout, f"{more} more pings for each client")

    async def _connect(self) -> None:
        for _ in range(self._count):
            options: dict[str, Any] = {"ping_interval": None, "proxy": None, "open_timeout": 30, "create_connection": Counting}
            self._clients.append(await connect(self._url, **options))

    async def _close(self) -> None:
        await asyncio.gather(*(each.close() for each in self._clients))


def test_blocked_reactor() -> None:
    """An application that blocks the process for 5 s makes no healthy peer miss its pong, though deadlines of 2 s passed meanwhile."""
    with Site("--ping-interval=0.5", "--ping-timeout=2") as server, Canary(server) as canary, Idlers(server, 20) as idlers:
        idlers.await_pings(2)
        with blocking_connect(f"{server.url}/blocker", ping_interval=None, proxy=None) as blocker:
            for _ in range(2):
                blocker.send("block")
                assert blocker.recv(30) == "block"
            idlers.await_pings(5)
            canary.sing(3)
        assert not server.lines("cause=pong_timeout")


@pytest.fixture
def clock(tmp_path: Path) -> tuple[dict[str, str], Callable[[str], None]]:
    """The environment of servers whose wall clock can be set, and the function that sets it."""
    program = needs("faketime")
    shown = subprocess.run([program, "-f", "+0", "env"], capture_output=True, text=True, check=True).stdout
    preload = re.search(r"^LD_PRELOAD=(.*)$", shown, re.MULTILINE)
    assert preload is not None
    file = tmp_path / "clock"

    def put(offset: str) -> None:
        new = tmp_path / "clock.new"
        new.write_text(offset + "\n")
        new.replace(file)

    put("+0")
    environment = {
        "LD_PRELOAD": preload[1], "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    return environment, put


def test_clock_is_set(clock: tuple[dict[str, str], Callable[[str], None]]) -> None:
    """A wall clock set an hour on, then two hours back, drops nobody, and the cadence of pings goes on, on each kind of reactor."""
    environment, put = clock

    def logged_hour(server: Server) -> float:
        """The server's own idea of the time, from a line that it writes now, less ours, in hours."""
        known = len(server.lines("closed session"))
        with Raw(server.port) as peer:
            peer.upgrade()
            peer.say_goodbye()
        wait_until(lambda: len(server.lines("closed session")) > known, what="a line of the log")
        stamp = server.lines("closed session")[-1].split()[0]
        return (calendar(stamp) - time.time()) / 3600

    settings = ("--ping-interval=0.5", "--ping-timeout=2")
    servers = [Server(*settings, environment=environment, twistd=twistd) for twistd in ((), ("--reactor=epoll",))]
    with contextlib.ExitStack() as stack:
        for each in servers:
            stack.enter_context(each)
        canaries = [stack.enter_context(Canary(each)) for each in servers]
        idlers = [stack.enter_context(Idlers(each, 5)) for each in servers]
        pool = stack.enter_context(ThreadPoolExecutor())  # on all servers at the same time

        def await_pings(more: int, timeout: float) -> None:
            list(pool.map(lambda each: each.await_pings(more, timeout), idlers))

        await_pings(2, 60)
        for offset, hour in (("+3600", 1), ("-3600", -1)):
            put(offset)
            for each in servers:
                wait_until(lambda: abs(logged_hour(each) - hour) < 0.1, what="the clock that has been set")  # noqa: B023  # at once
            await_pings(6, 3 + 2 + SLACK)
            for canary in canaries:
                canary.sing(10)
    for each in servers:
        assert not each.lines("pong_timeout|write_stall|handshake_timeout")


def calendar(stamp: str) -> float:
    """Seconds of a time stamp of the log."""
    return time.mktime(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone


# The application's faults


Raising = Callable[[str], Site]


@pytest.fixture(scope="module")
def raising() -> Iterator[Raising]:
    """Gives a server of an application that may raise, a new one to every third test: five lines of a kind are logged at once, no more."""
    servers: dict[str, list[Site]] = {}
    with contextlib.ExitStack() as stack:

        def give(app: str) -> Site:
            given = servers.setdefault(app, [])
            if len(given) % 3 == 0:
                given.append(stack.enter_context(Site("--close-timeout=10", app=app)))
            else:
                given.append(given[-1])
            return given[-1]

        yield give


@pytest.mark.parametrize(
    ("app", "callback"),
    [
        *(("faults:Faults", each) for each in ("admit", "build", "opened", "received", "closed", "writable")),
        *(("faults:coroutine", each) for each in ("opened", "received", "closed")),
    ],
)
def test_application_raises(raising: Raising, app: str, callback: str) -> None:
    """An exception in any callback ends its session with 1011 (500 before it is open), is logged once, and tells the peer nothing."""
    server = raising(app)
    with Canary(server) as canary:
        path, known = f"/raise/{callback}", len(server.lines("application raised in"))
        with Raw(server.port) as peer:
            peer.send(request(path=path.encode()))
            status, head = peer.read_head()
            assert status == (500 if callback in ("admit", "build") else 101)
            seen = head + (peer.read_end() if status == 500 else _raise_in(callback, peer))
        _assert_tells_nothing(seen)
        line = _logged_once(server, known)
        assert re.search(r"session=[0-9a-f]{12} peer=127\.0\.0\.1:\d+", line)
        opened = status == 101
        closed = opened and (app, callback) not in COROUTINES_THAT_NOTE_NO_END
        wait_until(lambda: len(server.heard(path, "opened")) == opened and len(server.heard(path, "closed")) == closed, what="its events")
        canary.sing(3)
        assert len(server.lines("application raised in")) == known + 1


COROUTINES_THAT_NOTE_NO_END = [("faults:coroutine", "opened"), ("faults:coroutine", "received")]  # they have raised before


def test_application_raises_in_draining() -> None:
    """An exception while the server goes away ends its session with 1011; the others get their 1012, and the exit status is 0."""
    with Site("--close-timeout=2", "--drain-seconds=0", app="faults:RaisesInDraining") as server:
        with Raw(server.port) as peer, Raw(server.port) as other:
            peer.upgrade(path=b"/raise/draining")
            other.upgrade(path=b"/other")
            server.send_signal(signal.SIGTERM)
            assert peer.read_close() == (1011, b"")
            assert other.read_close() == (1012, b"service restart")
            other.send(frame(CLOSE, close_payload(1012)))
            _assert_tells_nothing(peer.read_end())
        assert server.wait() == 0
        _logged_once(server)


def _assert_tells_nothing(seen: bytes) -> None:
    for text in (SECRET, b"Traceback", b"RuntimeError", b"Injected"):
        assert text not in seen


def _logged_once(server: Server, known: int = 0) -> str:
    (line,) = wait_until(lambda: server.lines("application raised in")[known:], what="the exception in the log")
    return line


def _raise_in(callback: str, peer: Raw) -> bytes:
    """Bring the application to raise, and return what the peer sees."""
    if callback == "received":
        peer.send(frame(TEXT, b"x"))
    elif callback == "closed":
        peer.send(frame(CLOSE, close_payload(1000)))
        assert peer.read_close() == (1000, b"")
        return peer.read_end()
    assert peer.read_close() == (1011, b"")
    return peer.read_end()


# The log


def test_log_on_a_full_device(tmp_path: Path) -> None:
    """A log that can never be written to keeps nobody from being served, nor the end from being an orderly one."""
    server = Server(f"--endpoint=unix:{tmp_path}/socket", "--port=0", twistd=("--logfile=/dev/full",))
    server.start_process()
    try:
        wait_until(lambda: (tmp_path / "socket").exists(), 20, "the socket")
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(10)
                peer.connect(str(tmp_path / "socket"))
                peer.sendall(request() + frame(TEXT, b"hello") + frame(CLOSE, close_payload(1000)))
                answer = b""
                while data := peer.recv(4096):
                    answer += data
                assert answer.startswith(b"HTTP/1.1 101 ")
                assert answer.endswith(b"\x81\x05hello\x88\x02\x03\xe8")
        assert server.stop() == 0
        assert not server.lines("Traceback")
    finally:
        server.__exit__(None, None, None)


def test_log_disk_that_fills_up(tmp_path: Path) -> None:
    """While the disk of the log is full the server serves on; with space again it logs again, and says how much is missing."""
    unshare, mount = needs("unshare"), needs("mount")
    if subprocess.run([unshare, "-m", "true"], capture_output=True, check=False).returncode:
        unavailable("mount namespaces cannot be made here")
    disk, socket_file = tmp_path / "disk", tmp_path / "socket"
    disk.mkdir()
    script = f'{mount} -t tmpfs -o size=64k none {disk} && exec "$@"'
    prefix = (unshare, "-m", "sh", "-c", script, "sh")
    server = Server(f"--endpoint=unix:{socket_file}", twistd=(f"--logfile={disk}/log",), prefix=prefix)
    server.start_process()
    try:
        wait_until(socket_file.exists, 20, "the socket")
        inside = Path(f"/proc/{server.pid}/root{disk}")

        def serve() -> None:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(10)
                peer.connect(str(socket_file))
                peer.sendall(request(path=b"/" + b"x" * 1000) + frame(TEXT, b"hello") + frame(CLOSE, close_payload(1000)))
                answer = b""
                while data := peer.recv(4096):
                    answer += data
                assert answer.endswith(b"\x81\x05hello\x88\x02\x03\xe8")

        def log() -> str:
            return (inside / "log").read_text(errors="replace")

        serve()
        wait_until(lambda: "closed session" in log(), what="a line of the log")
        filler = inside / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(65536))
        for _ in range(300):  # more than wait to be written together
            serve()
        assert log().count("closed session") < 300
        filler.unlink()
        serve()
        wait_until(lambda: re.search(r"\d+ log lines could not be written", log()), what="the count of what is missing")
        serve()
        wait_until(lambda: log().splitlines()[-1].count("closed session") == 1, what="a log that goes on")
        assert server.stop() == 0
    finally:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_flood(log_format: str) -> None:
    """Whatever peers send reaches the log escaped, cut, on a line of its own; what they can repeat is rate-limited, with a count."""
    with Site(f"--log-format={log_format}", "--log-level=debug", "--close-timeout=1") as server, Canary(server):
        started, known = time.monotonic(), len(server.lines())
        for index in range(2000):
            with Raw(server.port) as peer:
                peer.send(request(b"X-%d: \x1b[2J\r" % index, path=b"/" + b"x" * (index % 1000)))
                assert peer.read_head()[0] == 400
        for path in (b"/%0a2026-01-01T00:00:00.000Z%20info%20forged", b"/%1b[2J%e2%80%a8%c2%85", b"/" + b"%f0%9f%92%a3" * 1000):
            with Raw(server.port) as peer:
                peer.upgrade(b"Origin: http://example.com", b"User-Agent: \xff{x} {0}%s", path=path)
                peer.send(frame(CLOSE, close_payload(4000, b"\n\x1b[2J {session} {0} %s \xe2\x80\xae")))
                assert peer.read_close()[0] == 4000
        wait_until(lambda: len(server.lines("closed session")) >= 3, what="three ends")
        refusals = server.lines("refused peer")
        assert 1 <= len(refusals) <= 5 + (time.monotonic() - started) + 2
        assert len(server.lines()) - known < 200 + 2 * (time.monotonic() - started)
        for line in server.lines():
            assert line.isprintable()
            assert len(line) < 8000
            if log_format == "json":
                assert json.loads(line)["level"]
            else:
                assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [a-z]+ +\S+: ", line)
                assert len(line) < 2100
                assert "forged" not in line.split(": ")[0]

        def counted() -> bool:
            with Raw(server.port) as peer:
                peer.send(b"GET /\x00\r\n")
                assert peer.read_head()[0] == 400
            return bool(server.lines(r"more like this were left out|left_out"))

        wait_until(counted, what="the count of what was left out")


# Other people's pages


@pytest.fixture(scope="module")
def guarded() -> Iterator[Site]:
    """A server that lets certain origins in."""
    origins = ("https://app.example.com", "https://*.wild.example", "http://plain.example:8080")
    with Site(*(f"--origin={each}" for each in origins)) as server:
        yield server


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        ("http://ws.example.org:9000", 101),
        ("http://WS.EXAMPLE.ORG:9000", 101),
        ("https://app.example.com", 101),
        ("https://app.example.com:443", 101),
        ("https://a.b.wild.example", 101),
        ("http://plain.example:8080", 101),
        ("null", 403),
        ("http://app.example.com", 403),
        ("https://app.example.com:8443", 403),
        ("https://app.example.com.evil.example", 403),
        ("https://evil.example/https://app.example.com", 403),
        ("https://evil.example#https://app.example.com", 403),
        ("https://app.example.com@evil.example", 403),
        ("https://evilapp.example.com", 403),
        ("https://wild.example", 403),
        ("https://evilwild.example", 403),
        ("https://wild.example.evil.example", 403),
        ("http://plain.example", 403),
        ("http://ws.example.org", 403),
        ("http://ws.example.org:9001", 403),
        ("http://example.org:9000", 403),
        ("https://app.example.com, https://evil.example", 403),
        ("file://", 403),
        ("", 403),
    ],
)
def test_cross_site_hijacking(guarded: Site, origin: str | None, status: int) -> None:
    """A page may connect only from the host that it connects to or an origin that is named, compared part by part."""
    path = b"/origin"
    with Canary(guarded), Raw(guarded.port) as peer:
        known = len(guarded.heard("/origin", "admit"))
        headers = [b"Origin: " + origin.encode()] if origin is not None else []
        peer.send(request(*headers, path=path, host=b"ws.example.org:9000"))
        assert peer.read_head()[0] == status
        assert len(guarded.heard("/origin", "admit")) - known == (status == 101)


def test_two_origins(guarded: Site) -> None:
    """Of two Origin fields none is believed, in whichever order."""
    good, evil = b"Origin: https://app.example.com", b"Origin: https://evil.example"
    for pair in ((good, evil), (evil, good)):
        with Canary(guarded), Raw(guarded.port) as peer:
            peer.send(request(*pair))
            assert peer.read_head()[0] in (400, 403)
