"""Each example, run as its docstring says."""

from __future__ import annotations

import asyncio

import pytest
import websockets

from tests.support.server import ROOT, Server

EXAMPLES = str(ROOT / "examples")


def test_echo_handler() -> None:
    """The handler class echoes, and says once why a session ended."""
    with Server("--app-dir", EXAMPLES, "echo_handler:Echo") as server:

        async def scenario() -> None:
            async with websockets.connect(server.url) as client:
                await client.send("one")
                assert await client.recv() == "one"

        asyncio.run(scenario())
        server.wait_for_line("1 messages, 1000 client by client")


def test_chat() -> None:
    """Lines go to everybody with the speaker's name, who comes late gets the last ones, and a departure is told with its cause."""
    with Server("--app-dir", EXAMPLES, "chat:app") as server:

        async def scenario() -> None:
            async with websockets.connect(f"{server.url}/?name=ann") as ann:
                assert await ann.recv() == "* ann has come"
                await ann.send("hello?")
                assert await ann.recv() == "ann: hello?"
                async with websockets.connect(f"{server.url}/?name=bob") as bob:
                    assert [await bob.recv() for _ in range(3)] == ["* ann has come", "ann: hello?", "* bob has come"]
                    assert await ann.recv() == "* bob has come"
                    await bob.send("hi")
                    assert [await each.recv() for each in (ann, bob)] == ["bob: hi", "bob: hi"]
                assert await ann.recv() == "* bob has gone (client)"

        asyncio.run(scenario())


def test_ticker() -> None:
    """Numbers come in order and without end; a wrong start is told by a close code."""
    with Server("--app-dir", EXAMPLES, "ticker:app") as server:

        async def scenario() -> None:
            async with websockets.connect(f"{server.url}/?from=7", max_queue=4) as client:
                assert [await client.recv() for _ in range(1000)] == [str(7 + index) for index in range(1000)]
                client.transport.abort()
            async with websockets.connect(f"{server.url}/?from=x") as client:
                with pytest.raises(websockets.ConnectionClosed) as caught:
                    await client.recv()
                assert caught.value.rcvd is not None
                assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4400, "from: a number is accepted")

        asyncio.run(scenario())
        server.wait_for_line("code=1006")


def test_admission() -> None:
    """Without the right bearer the handshake is answered with 401; with it, the application knows the user and the subprotocol."""
    with Server("--app-dir", EXAMPLES, "admission:app") as server:

        async def scenario() -> None:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                with pytest.raises(websockets.InvalidStatus) as caught:
                    await websockets.connect(server.url, additional_headers=headers)
                assert caught.value.response.status_code == 401
                assert caught.value.response.headers["WWW-Authenticate"] == "Bearer"
            headers = {"Authorization": "Bearer open-sesame"}
            protocols = [websockets.Subprotocol("x"), websockets.Subprotocol("chat.v1")]
            async with websockets.connect(server.url, additional_headers=headers, subprotocols=protocols) as client:
                assert await client.recv() == "hello ali, we speak chat.v1"

        asyncio.run(scenario())
