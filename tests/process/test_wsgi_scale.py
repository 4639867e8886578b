"""As many blocking WebSockets as there are threads, and one more. What they leave behind is nothing."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

from tests.support.memory import masked, request
from tests.support.raw import Raw
from tests.support.server import Server, wait_until

THREADS = 1000
ROUNDS = 5
MOST_RESIDENT = 120_000  # bytes for each connection and its thread: five times what is measured on Python 3.11

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def _threads(server: Server) -> int:
    return sum(1 for _ in Path(f"/proc/{server.pid}/task").iterdir())


def _get(server: Server) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=20) as response:
        body: bytes = response.read()
    return body


async def _open(port: int) -> Peer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return reader, writer


async def _echo(peer: Peer, number: int) -> None:
    """Send a number of one's own, and get it back."""
    text = b"%06d" % number
    peer[1].write(masked(0x81, text))
    assert await peer[0].readexactly(2 + len(text)) == b"\x81\x06" + text


async def _end(peer: Peer) -> None:
    peer[1].write(masked(0x88, b"\x03\xe8"))
    assert await peer[0].readexactly(4) == b"\x88\x02\x03\xe8"
    assert await peer[0].read() == b""
    peer[1].close()


def _status(port: int) -> tuple[int, bytes]:
    """Ask for one session more, and leave at once if it is given."""
    with Raw(port) as peer:
        peer.send(request())
        status, head = peer.read_head()
        if status == 101:
            peer.say_goodbye()
    return status, head


def test_as_many_as_there_are_threads() -> None:
    """1,000 blocking sessions all echo, the next gets 503, and is accepted once one has left; all descriptors and threads come back."""
    with Server(f"--threads={THREADS}", "--ping-interval=0", "wsgi_faults:app") as server:  # a ping would come between what is compared
        descriptors, threads = server.descriptors(), _threads(server)
        assert _status(server.port)[0] == 101  # what is done once is done
        assert _get(server) == b"a page"
        resident = server.rss()

        async def scenario() -> None:
            peers: list[Peer] = []
            for _ in range(0, THREADS, 50):
                peers += await asyncio.gather(*(_open(server.port) for _ in range(50)))
            for round_ in range(ROUNDS):
                await asyncio.gather(*(_echo(peer, round_ * THREADS + number) for number, peer in enumerate(peers)))
            assert _threads(server) >= threads + THREADS
            each = (server.rss() - resident) / THREADS
            print(f"{each:.0f} bytes resident for each session and its thread")
            assert each <= MOST_RESIDENT

            status, head = await asyncio.to_thread(_status, server.port)
            assert status == 503
            assert b"\r\nretry-after: 5\r\n" in head.lower()
            server.wait_for_line(rf"all {THREADS} threads are in use \(--threads\)")
            assert await asyncio.to_thread(_get, server) == b"a page"

            await _end(peers.pop())
            # its thread returns a little later than its connection
            await asyncio.to_thread(wait_until, lambda: _status(server.port)[0] == 101, 20, "a thread for one more")
            await asyncio.gather(*(_echo(peer, number) for number, peer in enumerate(peers)))
            await asyncio.gather(*map(_end, peers))

        asyncio.run(scenario())
        wait_until(lambda: server.descriptors() == descriptors, 20, "the descriptors' return")
        # one for plain requests stays, whatever sessions take
        wait_until(lambda: _threads(server) == threads + 1, 40, "the end of the idle threads")
        assert server.lines("Traceback|a fault of this server") == []
