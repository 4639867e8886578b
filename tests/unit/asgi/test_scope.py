"""What an ASGI application is told of a connection or a request: every key of its scope."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import UNIXAddress

from tests.support.asgi import App, AsgiWorld, play, turn
from tests.support.asgi_table import ACCEPT, BODY, SCOPE, SCOPE_TYPES, START, Fact
from tests.support.memory import KEY
from twistedws.gateway.asgi.scope import Scope, described

KINDS = ("http", "websocket")
UPGRADE = (b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: " + KEY)


def head(kind: str, *more: bytes, method: bytes = b"GET", target: bytes = b"/", version: bytes = b"1.1") -> bytes:
    """A request of a kind."""
    lines = [b"%b %b HTTP/%b" % (method, target, version), b"Host: example.com", *more, *(UPGRADE if kind == "websocket" else ())]
    return b"\r\n".join([*lines, b"", b""])


async def scope_of(world: AsgiWorld, data: bytes) -> Scope:
    world.raw(data)
    await turn()
    found: Scope = world.app.call.scope
    return found


@pytest.mark.parametrize(("fact", "kind"), [(fact, kind) for fact in SCOPE for kind in fact.kinds], ids=str)
def test_key(fact: Fact, kind: str) -> None:
    """A key of the scope holds what its row says."""

    async def scenario() -> None:
        world = AsgiWorld(**dict(fact.settings))
        scope = await scope_of(world, head(kind, *fact.headers, method=fact.method, target=fact.target, version=fact.version))
        assert scope["type"] == kind
        assert scope[fact.key] == fact.of(kind)
        assert type(scope[fact.key]) is type(fact.of(kind))

    play(scenario)


@pytest.mark.parametrize("kind", KINDS)
def test_keys(kind: str) -> None:
    """A scope has the keys of the specification and no others, each of its type."""

    async def scenario() -> None:
        scope = await scope_of(AsgiWorld(), head(kind))
        more = {"method": str} if kind == "http" else {"subprotocols": list}
        assert {name: type(value) for name, value in scope.items()} == {**SCOPE_TYPES, **more}
        assert all(type(name) is type(value) is bytes for name, value in scope["headers"])

    play(scenario)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("client", [None, b"/run/client.sock"])
def test_unix(kind: str, client: bytes | None) -> None:
    """On a UNIX socket there is no client address, whether the client's end has a name or not; the server's is its path and None."""

    async def scenario() -> None:
        world = AsgiWorld()
        peer = world.raw()
        transport: Any = world.links[0].server
        transport._peer, transport._host = UNIXAddress(client), UNIXAddress(b"/run/server.sock")
        transport.protocol._opening.address = transport._peer
        peer.send(head(kind))
        await world.settle()
        scope = world.app.call.scope
        assert (scope["client"], scope["server"]) == (None, ("/run/server.sock", None))

    play(scenario)


def test_state() -> None:
    """A scope's state is a shallow copy of the lifespan's: what a request puts there is its own, what is in it is everybody's."""
    states: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["pool"] = []
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        states.append(dict(scope["state"]))
        scope["state"]["own"] = 1
        scope["state"]["pool"].append(1)
        await send(START if scope["type"] == "http" else ACCEPT)
        if scope["type"] == "http":
            await send(BODY)

    async def scenario() -> None:
        world = AsgiWorld(app)
        assert world.application.startup is not None
        assert world.application.shutdown is not None
        await world.application.startup()
        pool: list[int] = []
        for number, kind in enumerate(KINDS * 2):
            world.raw(head(kind))
            await world.settle()
            assert set(states[-1]) == {"pool"}
            pool = states[-1]["pool"]
            assert len(pool) == number + 1
        assert all(state["pool"] is pool for state in states)
        await world.application.shutdown()

    play(scenario)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_shared(kind: str) -> None:
    """What an application changes in one scope is not seen in the next."""

    async def scenario() -> None:
        world = AsgiWorld(App())
        first = await scope_of(world, head(kind))
        (name,) = first["extensions"]
        first["extensions"][name]["seen"] = True
        first["extensions"]["more"] = {}
        first["asgi"]["version"] = "2.0"
        first["headers"].append((b"x-a", b"1"))
        second = await scope_of(world, head(kind))
        assert second["extensions"] == {name: {}}
        assert second["asgi"]["version"] == "3.0"
        assert second["headers"][0] == (b"host", b"example.com")
        assert (b"x-a", b"1") not in second["headers"]

    play(scenario)


@pytest.mark.parametrize(
    ("event", "text"),
    [({"type": "x.y"}, "'x.y'"), ({}, "dict without a type"), ({"type": 7}, "dict without a type"), (None, "NoneType without a type")],
)
def test_described(event: object, text: str) -> None:
    """An event is named by its type, and by its Python type where it has none."""
    assert described(event) == text


def test_page() -> None:
    """docs/asgi.md shows the tables that are played here (else: python docs/generate_asgi.py)."""
    root = Path(__file__).resolve().parents[3]
    written = (root / "docs" / "asgi.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(root / "docs" / "generate_asgi.py"))["page"]() == written
