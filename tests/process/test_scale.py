"""Many connections: at once, and one after the other. What they leave behind is nothing."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct

from tests.support.memory import masked, request
from tests.support.server import Server, wait_until

HELLO = request()
ECHO, REPLY = masked(0x81, b"hello"), b"\x81\x05hello"
CLOSE = masked(0x88, b"\x03\xe8")
AT_ONCE = 3000
CHURN = 20_000
BEFORE = 2000  # after so many memory must not grow any more

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _open(port: int, number: int) -> Peer:
    """Open a session, from one of many addresses: one has 28,000 ports only."""
    source = (f"127.0.{number // 250 % 250 + 1}.{number % 250 + 1}", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=source)
    writer.write(HELLO)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return reader, writer


async def _echo(peer: Peer) -> None:
    peer[1].write(ECHO)
    assert await peer[0].readexactly(len(REPLY)) == REPLY


async def _end(peer: Peer, way: int) -> None:
    """End a session with a close frame, a FIN or an RST."""
    reader, writer = peer
    if way == 0:
        writer.write(CLOSE)
        assert (await reader.readexactly(4))[:1] == b"\x88"
    elif way == 2:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return
    writer.close()


def test_many_at_once() -> None:
    """3,000 connections are there at once, all echo, and their descriptors come back."""
    with Server("--ping-interval=0") as server:  # a ping would come between the bytes that are compared
        before = server.descriptors()

        async def scenario() -> None:
            peers: list[Peer] = []
            for start in range(0, AT_ONCE, 100):
                peers += await asyncio.gather(*(_open(server.port, start + each) for each in range(100)))
            assert server.descriptors() >= before + AT_ONCE
            await asyncio.gather(*map(_echo, peers))
            for peer in peers:
                await _end(peer, 1)

        asyncio.run(scenario())
        wait_until(lambda: server.descriptors() == before, 20, "the descriptors' return")
        wait_until(lambda: len(server.lines("closed session=")) == AT_ONCE, 20, "all sessions' end")


def test_churn() -> None:
    """20,000 connections, opened and ended in three ways: descriptors exactly back, memory flat after the first 2,000."""
    with Server("--ping-interval=0") as server:  # a ping would come between the bytes that are compared
        before = server.descriptors()
        numbers = itertools.count()

        async def worker(port: int, count: int) -> None:
            for _ in range(count):
                number = next(numbers)
                peer = await _open(port, number)
                await _echo(peer)
                await _end(peer, number % 3)

        def churn(count: int) -> int:
            async def scenario() -> None:
                await asyncio.gather(*(worker(server.port, count // 40) for _ in range(40)))

            asyncio.run(scenario())
            wait_until(lambda: server.descriptors() == before, 20, "the descriptors' return")
            return server.rss()

        at_first = churn(BEFORE)
        at_last = churn(CHURN - BEFORE)
        assert at_last - at_first <= 2 * 1024 * 1024, f"{at_first} bytes after {BEFORE}, {at_last} after {CHURN}"
