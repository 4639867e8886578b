"""SIGTERM and SIGINT: what sessions, messages and the process come to, with real clients on real sockets."""

from __future__ import annotations

import asyncio
import collections
import signal
import socket
import time

import pytest
import websockets

from tests.support.memory import request
from tests.support.server import Server, wait_until

SESSIONS = 200


async def _converse(url: str, name: int, sent: dict[int, list[str]], got: dict[int, list[str]]) -> int | None:
    """Send numbered messages and note the answers until the server closes; return the close code."""
    client = await websockets.connect(f"{url}/{name}", open_timeout=30)

    async def talk() -> None:
        number = 0
        try:
            while True:
                sent[name].append(str(number))
                await client.send(str(number))
                number += 1
                await asyncio.sleep(0.02)
        except websockets.ConnectionClosed:
            pass

    talking = asyncio.create_task(talk())
    try:
        while True:
            got[name].append(str(await client.recv()))
    except websockets.ConnectionClosed:
        await talking
    await client.wait_closed()
    return client.close_code


@pytest.mark.parametrize("app", ["numbered:Handler", "numbered:coroutine"])
def test_nothing_that_was_read_is_lost(app: str) -> None:
    """SIGTERM amid traffic: every session gets 1012, every message read before its close is answered exactly once, status 0."""
    sent: dict[int, list[str]] = collections.defaultdict(list)
    got: dict[int, list[str]] = collections.defaultdict(list)
    with Server("--drain-seconds=2", app) as server:

        async def scenario() -> list[int | None]:
            conversations = [asyncio.create_task(_converse(server.url, name, sent, got)) for name in range(SESSIONS)]
            while sum(map(bool, got.values())) < SESSIONS:
                await asyncio.sleep(0.02)
            server.send_signal(signal.SIGTERM)
            return await asyncio.wait_for(asyncio.gather(*conversations), 60)

        codes = asyncio.run(scenario())
        assert server.wait() == 0
        assert collections.Counter(codes) == {1012: SESSIONS}
        answered: dict[int, list[str]] = collections.defaultdict(list)
        for line in server.lines(r"answered /\d+ "):
            path, message = line.rpartition("answered /")[2].split()
            answered[int(path)].append(message.strip("'"))
        for name in range(SESSIONS):
            assert got[name] == answered[name] == sent[name][: len(got[name])], f"session {name}"
        assert not server.lines("lost /")
        assert len(server.lines(r"stdout: ended /")) == SESSIONS
        assert not server.lines("cause=(?!drain)")


def test_spread_over_the_time_given() -> None:
    """The closes come spread over ``--drain-seconds``, not all at once."""
    with Server("--drain-seconds=4") as server:

        async def scenario() -> list[float]:
            clients = await asyncio.gather(*(websockets.connect(server.url) for _ in range(80)))
            start = time.monotonic()
            server.send_signal(signal.SIGTERM)

            async def until_closed(client: websockets.ClientConnection) -> float:
                await client.wait_closed()
                assert client.close_code == 1012
                return time.monotonic() - start

            return sorted(await asyncio.gather(*map(until_closed, clients)))

        times = asyncio.run(scenario())
        assert server.wait() == 0
        in_each_second = collections.Counter(int(each) for each in times)
        assert all(10 <= in_each_second[second] <= 30 for second in range(4)), in_each_second


def test_peer_that_never_reads() -> None:
    """A peer that never reads does not keep the process beyond the graceful timeout."""
    with Server("--graceful-timeout=1.5", "--drain-seconds=0", "--close-timeout=60", "numbered:flood") as server:
        with socket.create_connection(("127.0.0.1", server.port)) as peer:
            peer.sendall(request())
            wait_until(lambda: server.rss(), what="the flood")
            start = time.monotonic()
            assert server.stop(timeout=10) == 0
            assert time.monotonic() - start >= 1.4
        server.wait_for_line("aborting 1 sessions")
        server.wait_for_line("cause=drain")


def test_asked_twice() -> None:
    """A second signal closes what is left at once."""
    with Server("--drain-seconds=25") as server:

        async def scenario() -> list[int | None]:
            clients = await asyncio.gather(*(websockets.connect(server.url) for _ in range(20)))
            server.send_signal(signal.SIGINT)
            while not server.lines("draining 20 sessions"):
                await asyncio.sleep(0.02)
            server.send_signal(signal.SIGTERM)
            await asyncio.wait_for(asyncio.gather(*(each.wait_closed() for each in clients)), 10)
            return [each.close_code for each in clients]

        assert asyncio.run(scenario()) == [1012] * 20
        assert server.wait(10) == 0


def test_new_connections_meanwhile() -> None:
    """While it drains, the server accepts no connection, and a handshake on one that it has gets 503."""
    with Server("--drain-seconds=25") as server:

        async def scenario() -> None:
            first, second = [await websockets.connect(server.url) for _ in range(2)]
            waiting = socket.create_connection(("127.0.0.1", server.port))
            wait_until(lambda: server.descriptors(), what="the third connection")
            server.send_signal(signal.SIGTERM)
            while not server.lines("draining"):
                await asyncio.sleep(0.02)
            waiting.sendall(request())
            waiting.settimeout(5)
            assert waiting.recv(4096).startswith(b"HTTP/1.1 503 ")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", server.port))
            waiting.close()
            server.send_signal(signal.SIGTERM)  # closes what is left at once
            await asyncio.gather(first.wait_closed(), second.wait_closed())

        asyncio.run(scenario())
        assert server.wait() == 0
