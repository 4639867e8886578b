"""One session, however it behaves, does not keep the loop, or their messages, from the others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import websockets

from tests.support.memory import request
from tests.support.server import ROOT, Server, wait_until

MESSAGES, SIZE = 120, 65_536  # more than a kernel holds for one connection, and the bound besides


def test_a_coroutine_that_only_sends() -> None:
    """While a coroutine sends without end to a peer that takes everything, others are served, and a shutdown ends in time."""
    taken = [0]

    def take_all(greedy: socket.socket) -> None:
        with contextlib.suppress(ConnectionResetError):  # the end of the drain
            while piece := greedy.recv(1 << 20):
                taken[0] += len(piece)

    with (
        Server("--app-dir", str(ROOT / "examples"), "--drain-seconds=0", "ticker:app") as server,
        socket.create_connection(("127.0.0.1", server.port)) as greedy,
    ):
        greedy.sendall(request())
        reader = threading.Thread(target=take_all, args=(greedy,), daemon=True)
        reader.start()
        wait_until(lambda: taken[0] > 10_000_000, what="ten million bytes taken")

        async def other() -> list[str | bytes]:
            async with websockets.connect(f"{server.url}/?from=5", max_queue=1, ping_interval=None) as client:
                received = [await client.recv() for _ in range(100)]
                client.transport.abort()  # a closing handshake would come behind all that is on its way
                return received

        for _ in range(5):
            assert asyncio.run(asyncio.wait_for(other(), 10)) == [str(each) for each in range(5, 105)]
        assert server.stop(timeout=15) == 0
        reader.join(5)
        server.wait_for_line("cause=drain")


def test_a_member_that_does_not_read() -> None:
    """Of a room in which one does not read, all others get everything; that one is ended by its own bound."""
    counts = [0] * 20

    async def member(url: str, index: int, arrived: asyncio.Semaphore) -> None:
        async with websockets.connect(url, max_queue=None) as client:
            arrived.release()
            while counts[index] < MESSAGES:
                message = await client.recv()
                assert len(message) == SIZE
                assert int(message[:8]) == counts[index]
                counts[index] += 1

    async def scenario(url: str) -> None:
        arrived = asyncio.Semaphore(0)
        members = [asyncio.create_task(member(url, index, arrived)) for index in range(len(counts))]
        for _ in members:
            await arrived.acquire()
        async with websockets.connect(url, max_queue=None) as speaker:
            for number in range(MESSAGES):
                await speaker.send(f"{number:08}".ljust(SIZE))
                while min(counts) < number - 8:  # no faster than these clients read: their bounds are not what is tested
                    await asyncio.sleep(0)
            await asyncio.gather(*members)

    with Server("room:Member") as server, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.port))
        deaf.sendall(request())
        assert deaf.recv(12) == b"HTTP/1.1 101"
        asyncio.run(asyncio.wait_for(scenario(server.url), 60))
        assert counts == [MESSAGES] * 20
        server.wait_for_line("cause=slow_consumer")
