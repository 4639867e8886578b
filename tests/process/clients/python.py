"""The clients that are Python libraries."""

from __future__ import annotations

import asyncio
import struct

import aiohttp
import websocket
import websockets

from tests.process.clients import Plan, Report, content

DEADLINE = 60.0  # of a whole plan; nothing here takes long


def _last(plan: Plan) -> str | bytes | None:
    return content(plan.last_kind, plan.last) if isinstance(plan.last, int) else plan.last


def websockets_client(plan: Plan) -> Report:
    """Follow a plan with ``websockets``."""

    async def run() -> Report:
        echoed = []
        client = await websockets.connect(
            plan.url,
            subprotocols=[websockets.Subprotocol(each) for each in plan.protocols] or None,
            compression="deflate" if plan.compress else None,
            max_size=2**21,  # its default is the limit of the server, held against what is on the wire: deflate may have made it larger
        )
        for kind, size in plan.messages:
            message = content(kind, size)
            await client.send(message)
            if await client.recv() == message:
                echoed.append((kind, size))
        if (last := _last(plan)) is not None:
            await client.send(last)
        if plan.code is None:
            await client.wait_closed()
        else:
            await client.close(plan.code, plan.reason)
        compressed = any(each.name == "permessage-deflate" for each in client.protocol.extensions)
        assert client.close_code is not None
        return Report(tuple(echoed), client.subprotocol or "", compressed, client.close_code, client.close_reason or "")

    return asyncio.run(asyncio.wait_for(run(), DEADLINE))


def aiohttp_client(plan: Plan) -> Report:
    """Follow a plan with ``aiohttp``."""

    async def run() -> Report:
        echoed = []
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(plan.url, protocols=plan.protocols, compress=15 if plan.compress else 0) as client,
        ):
            for kind, size in plan.messages:
                message = content(kind, size)
                await _send(client, message)
                if (await client.receive()).data == message:
                    echoed.append((kind, size))
            if (last := _last(plan)) is not None:
                await _send(client, last)
            reason = plan.reason
            if plan.code is None:
                ending = await client.receive()
                assert ending.type is aiohttp.WSMsgType.CLOSE, ending
                reason = ending.extra or ""
            else:
                await client.close(code=plan.code, message=plan.reason.encode())
            assert client.close_code is not None
            return Report(tuple(echoed), client.protocol or "", bool(client.compress), client.close_code, reason)

    return asyncio.run(asyncio.wait_for(run(), DEADLINE))


async def _send(client: aiohttp.ClientWebSocketResponse, message: str | bytes) -> None:
    if isinstance(message, str):
        await client.send_str(message)
    else:
        await client.send_bytes(message)


def websocket_client(plan: Plan) -> Report:
    """Follow a plan with ``websocket-client``, which blocks and knows no compression."""
    echoed = []
    client = websocket.create_connection(plan.url, timeout=DEADLINE, subprotocols=list(plan.protocols) or None)
    for kind, size in plan.messages:
        message = content(kind, size)
        _send_blocking(client, message)
        if client.recv() == message:
            echoed.append((kind, size))
    if (last := _last(plan)) is not None:
        _send_blocking(client, last)
    if plan.code is not None:
        client.send_close(plan.code, plan.reason.encode())
    opcode, data = client.recv_data(control_frame=True)
    while opcode != websocket.ABNF.OPCODE_CLOSE:
        opcode, data = client.recv_data(control_frame=True)
    (code,) = struct.unpack_from("!H", data)
    client.shutdown()
    return Report(tuple(echoed), client.getsubprotocol() or "", False, code, data[2:].decode())


def _send_blocking(client: websocket.WebSocket, message: str | bytes) -> None:
    if isinstance(message, str):
        client.send(message)
    else:
        client.send_binary(message)
