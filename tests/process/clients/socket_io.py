"""The Socket.IO clients of Python and of Node, with the same few methods. The other end of ``socketio.mjs``.

Both answer whatever they are asked with ``{"answer": …}``, and reconnect within half a second.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import functools
import itertools
import json
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol

import socketio

from tests.support.server import ROOT
from tests.support.tools import needs, unavailable

SCRIPT = ROOT / "tests" / "process" / "clients" / "socketio.mjs"
PACKAGES = ROOT / ".tools" / "socketio"
VERSION = "4.8.4"
DEADLINE = 20.0


class Inbox:
    """The events that have come, by namespace and name."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, str], asyncio.Queue[list[Any]]] = collections.defaultdict(asyncio.Queue)

    def put(self, namespace: str, event: str, data: Sequence[Any]) -> None:
        """Keep an event."""
        self._events[namespace, event].put_nowait(list(data))

    async def take(self, event: str, namespace: str = "/") -> list[Any]:
        """Wait for the next event of a name, and return its data."""
        return await asyncio.wait_for(self._events[namespace, event].get(), DEADLINE)

    def is_empty(self, event: str, namespace: str = "/") -> bool:
        """Say whether no event of a name has come that was not taken."""
        return self._events[namespace, event].empty()


class Client(Protocol):
    """A client; enter it, so that it ends.

    Attributes:
        inbox: What the server has emitted, and ``connect``, ``disconnect`` and ``connect_error`` of the client itself.
    """

    inbox: Inbox

    async def __aenter__(self) -> Client:
        """Make what must be there."""

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End."""

    async def connect(self, url: str, transports: Sequence[str], namespaces: Sequence[str] = ("/",), auth: Any = None) -> None:
        """Begin to connect; ``connect`` or ``connect_error`` tell, for each namespace, what comes of it."""

    async def call(self, event: str, *data: Any, namespace: str = "/") -> Any:
        """Emit an event, wait until it is acknowledged, and return with what."""

    async def leave(self) -> None:
        """Begin to disconnect; ``disconnect`` tells when it has."""


class PythonClient:
    """The client of python-socketio."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self._client = socketio.AsyncClient(
            reconnection_delay=0.1, reconnection_delay_max=0.5, request_timeout=DEADLINE, handle_sigint=False
        )
        self._leaving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> PythonClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._client.eio.disconnect(abort=True)  # not waiting for a long poll to end, which the server ends with its next ping
        await self._client.shutdown()  # if it is about to reconnect
        if self._leaving is not None:
            self._leaving.cancel()

    async def connect(self, url: str, transports: Sequence[str], namespaces: Sequence[str] = ("/",), auth: Any = None) -> None:
        """Begin to connect."""
        for namespace in namespaces:
            self._client.on("*", functools.partial(self._heard, namespace), namespace)
            for event in ("connect", "disconnect", "connect_error"):
                self._client.on(event, functools.partial(self._told, namespace, event), namespace)
        await self._client.connect(url, auth=auth, transports=list(transports), namespaces=list(namespaces), wait=False)

    async def call(self, event: str, *data: Any, namespace: str = "/") -> Any:
        """Emit an event, and return with what it is acknowledged."""
        return await self._client.call(event, data, namespace, timeout=DEADLINE)

    async def leave(self) -> None:
        """Begin to disconnect."""
        self._leaving = asyncio.create_task(self._client.disconnect())

    async def _heard(self, namespace: str, event: str, *data: Any) -> Any:
        self.inbox.put(namespace, event, data)
        return {"answer": data[0] if data else None}

    async def _told(self, namespace: str, event: str, *data: Any) -> None:
        self.inbox.put(namespace, event, [each["message"] if isinstance(each, dict) else each for each in data])


class NodeClient:
    """The package ``socket.io-client``, in a process of its own."""

    def __init__(self) -> None:
        install()
        self.inbox = Inbox()
        self._numbers = itertools.count()
        self._calls: dict[int, asyncio.Future[list[Any]]] = {}

    async def __aenter__(self) -> NodeClient:
        line = [needs("node", package="nodejs"), str(SCRIPT), str(PACKAGES)]
        self._process = await asyncio.create_subprocess_exec(
            *line, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=16 * 2**20
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except asyncio.TimeoutError:  # it has that name of its own in Python 3.10
            self._process.kill()
            await self._process.wait()
        await self._reading

    async def connect(self, url: str, transports: Sequence[str], namespaces: Sequence[str] = ("/",), auth: Any = None) -> None:
        """Begin to connect."""
        await self._order("connect", url=url, transports=transports, namespaces=namespaces, auth=auth)

    async def call(self, event: str, *data: Any, namespace: str = "/") -> Any:
        """Emit an event, and return with what it is acknowledged."""
        number = next(self._numbers)
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        await self._order("call", id=number, namespace=namespace, event=event, data=_pack(data))
        told = await asyncio.wait_for(answer, DEADLINE)
        return told[0] if len(told) == 1 else tuple(told) or None

    async def leave(self) -> None:
        """Begin to disconnect."""
        await self._order("leave")

    async def _order(self, order: str, **details: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"order": order, **details}).encode() + b"\n")
        await self._process.stdin.drain()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "id" in told:
                self._calls.pop(told["id"]).set_result(_unpack(told["data"]))
            else:
                self.inbox.put(told["namespace"], told["event"], _unpack(told["data"]))


CLIENTS: dict[str, type[PythonClient | NodeClient]] = {"python-socketio": PythonClient, "socket.io-client": NodeClient}


@functools.cache
def install() -> None:
    """Install Node's client, if it is not there."""
    manifest = PACKAGES / "node_modules" / "socket.io-client" / "package.json"
    if not manifest.exists() or json.loads(manifest.read_text())["version"] != VERSION:
        PACKAGES.mkdir(parents=True, exist_ok=True)
        line = [needs("npm"), "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--prefix", str(PACKAGES)]
        done = subprocess.run([*line, f"socket.io-client@{VERSION}"], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            unavailable(f"npm cannot install socket.io-client: {done.stderr.strip()}")


def _pack(value: Any) -> Any:
    """Return a value as JSON can have it."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: _pack(each) for key, each in value.items()}
    return [_pack(each) for each in value] if isinstance(value, (list, tuple)) else value


def _unpack(value: Any) -> Any:
    """Return the value that was packed."""
    if isinstance(value, dict):
        return base64.b64decode(value["bytes"]) if set(value) == {"bytes"} else {key: _unpack(each) for key, each in value.items()}
    return [_unpack(each) for each in value] if isinstance(value, list) else value
