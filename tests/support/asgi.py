"""ASGI applications that a test plays itself, and what stands around them: a loop whose time can be moved, a world, a carrier.

``App`` is an application that does nothing by itself: each call of it is a ``Call``, on which the test receives and sends, and which the
test ends. So a test is the application's own script, and every order of messages is one line after another.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from twisted.internet.address import IPv4Address

from tests.support.memory import RawPeer, World, masked, request
from twistedws import config
from twistedws.errors import Cause
from twistedws.exchange import Endpoints, Exchange
from twistedws.gateway.asgi import asgi_application
from twistedws.gateway.asgi.scope import Event, Scope
from twistedws.handshake import HeadParser, Request

Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

PING = 9

PATIENCE = 10.0  # real seconds after which a scenario hangs

ENDPOINTS = Endpoints(("192.0.2.1", 5), ("192.0.2.80", 80), False)


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock a test can move."""

    skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on a loop of its own; what it leaves running is cancelled."""
    loop = Loop()
    hanging = threading.Timer(PATIENCE, lambda: loop.call_soon_threadsafe(main.cancel))
    hanging.start()
    try:
        main = loop.create_task(scenario())
        loop.run_until_complete(main)
    finally:
        hanging.cancel()
        left = asyncio.all_tasks(loop)
        for each in left:
            each.cancel()
        loop.run_until_complete(_ended(left))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


async def turn(turns: int = 10) -> None:
    """Let everybody run who can."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def skip(seconds: float) -> None:
    """Let time pass on asyncio's clock."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    loop.skipped += seconds
    await turn()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread brings about."""
    while not condition():
        await asyncio.sleep(0.001)


class Call:
    """One call of an application: what it was given, and how it ends.

    Attributes:
        scope: Its scope.
        receive: As the application has it.
        send: Likewise.
        ended: What the application awaits: its result lets it return, its exception is raised, its cancelling cancels it.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_running = True

    async def end(self, how: str = "returns") -> None:
        """Have the application end: it returns, raises, or is cancelled."""
        if how == "returns":
            self.ended.set_result(None)
        elif how == "raises":
            self.ended.set_exception(ZeroDivisionError("the application is wrong"))
        else:
            self.ended.cancel()
        await turn()


class App:
    """An ASGI application that a test plays."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    @property
    def call(self) -> Call:
        """The latest call."""
        return self.calls[-1]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, send)
        self.calls.append(call)
        try:
            await call.ended
        finally:
            call.is_running = False


def configured(**settings: Any) -> config.Configuration:
    """A configuration of values by the name of their setting."""
    line = {name.replace("_", "-"): value if isinstance(value, list) else str(value) for name, value in settings.items()}
    return config.resolve(command_line=line, environment={}).configuration


class AsgiWorld(World):
    """A server's parts on a clock, with an ASGI application behind them."""

    def __init__(self, app: Any = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.app = app or App()
        all_settings = configured(**settings)
        self.application = asgi_application(
            self.app, all_settings.hosting, limits=all_settings.limits, output=all_settings.output, http=all_settings.http, name="test"
        )
        self.factory.site = replace(self.factory.site, application=self.application)

    async def settle(self) -> None:
        """Let the network and the loop work until nothing happens any more."""
        for _ in range(4):
            self.flush()
            await turn(5)

    async def pass_time(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.advance(seconds)
        await skip(seconds)
        await self.settle()


class Socket:
    """A WebSocket client of bytes and the application's call behind it."""

    def __init__(self, world: AsgiWorld, *more: bytes) -> None:
        self.world = world
        self.peer: RawPeer = world.raw(request(*more))
        self.link = world.links[-1]

    @property
    def call(self) -> Call:
        call: Call = self.world.app.call
        return call

    @property
    def head(self) -> bytes:
        """The head of the answer; b"" while there is none."""
        return bytes(self.peer.data).partition(b"\r\n\r\n")[0]

    @property
    def status(self) -> int:
        return int(self.head[9:12] or 0)

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """The frames that have come, but for pings: opcode and payload."""
        data = bytes(self.peer.data).partition(b"\r\n\r\n")[2]
        found = []
        while self.status == 101 and data:
            length, start = data[1], 2
            if length == 126:
                length, start = int.from_bytes(data[2:4], "big"), 4
            elif length == 127:
                length, start = int.from_bytes(data[2:10], "big"), 10
            if data[0] & 15 != PING:
                found.append((data[0] & 15, data[start : start + length]))
            data = data[start + length :]
        return found

    async def say(self, message: str | bytes) -> None:
        await self.put(masked(0x81, message.encode()) if isinstance(message, str) else masked(0x82, message))

    async def put(self, data: bytes) -> None:
        self.peer.send(data)
        await self.world.settle()

    async def vanish(self) -> None:
        """The connection is reset."""
        self.link.client.abortConnection()
        await self.world.settle()


class FakeCarrier:
    """A connection that notes what an exchange asks of it.

    Attributes:
        out: What was written.
        deadline: Seconds; 0 for none.
        ended: Status, octets, rest and persistence of the response, once it is over.
        cause: Why it was cut, if it was.
        waiting: What ``buffered`` returns.
        put: What was put back for a coming turn of the loop.
        reading: Whether reading goes on.
    """

    def __init__(self) -> None:
        self.out = bytearray()
        self.deadline = 0.0
        self.armed = 0
        self.ended: tuple[int, int, bytes, bool] | None = None
        self.cause: Cause | None = None
        self.waiting = 0
        self.put: list[bytes] = []
        self.reading = True
        self.exchange: Exchange
        address = IPv4Address("TCP", "192.0.2.1", 5)
        self.transport: Any = SimpleNamespace(getPeer=lambda: address, getHost=lambda: IPv4Address("TCP", "192.0.2.80", 80))

    @property
    def written(self) -> int:
        return len(self.out)

    @written.setter
    def written(self, octets: int) -> None:
        raise AssertionError("only a connection counts")

    def write(self, data: bytes) -> None:
        assert self.ended is None
        self.out += data

    def put_back(self, data: bytes) -> None:
        self.put.append(data)

    def unacknowledged(self) -> int:
        return 0

    def buffered(self) -> int:
        return self.waiting

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading = True

    def put_deadline(self, seconds: float) -> None:
        self.deadline = seconds
        self.armed += 1

    def answered(self, status: int, octets: int, rest: bytes, *, persistent: bool) -> None:
        assert self.ended is None
        self.ended = status, octets, rest, persistent

    def cut(self, cause: Cause, *, at_once: bool = True) -> None:
        self.cause, self.was_cut_at_once = cause, at_once
        self.exchange.lost()

    # What a test asks

    @property
    def head(self) -> bytes:
        """The head of the response."""
        return bytes(self.out).partition(b"\r\n\r\n")[0]

    @property
    def status(self) -> int:
        return int(self.head[9:12] or 0)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The fields of the response: names in lower case, and values."""
        pairs = [line.split(b": ", 1) for line in self.head.split(b"\r\n")[1:]]
        return [(name.lower(), value) for name, value in pairs]

    def header(self, name: bytes) -> list[bytes]:
        """The values of one field."""
        return [value for each, value in self.headers if each == name]

    @property
    def body(self) -> bytes:
        """The body of the response, without its chunks' frames."""
        data = bytes(self.out).partition(b"\r\n\r\n")[2]
        if not self.header(b"transfer-encoding"):
            return data
        body = b""
        while data and not data.startswith(b"0\r\n"):
            size, _, data = data.partition(b"\r\n")
            body, data = body + data[: int(size, 16)], data[int(size, 16) + 2 :]
        return body


def parsed(head: bytes) -> Request:
    """A request head, as our parser reads it."""
    found = HeadParser(65536, 100).feed(head)
    assert found is not None
    return found
