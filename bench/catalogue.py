"""The table of servers: how each is started. To measure another, add a line to ``SERVERS``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.environment import BENCH, COMPILED, ROOT, compiled_hot_path, node_modules, peers_python

APPS = BENCH / "servers"
ALL = frozenset({"echo", "compression", "churn", "idle", "fanout", "latency"})
WITHOUT_FANOUT = ALL - {"fanout"}


@dataclass(frozen=True, slots=True)
class Launch:
    """What a server is started for.

    Attributes:
        port: To listen on, on 127.0.0.1.
        section: The section of measurements: ``fanout`` needs another application, ``compression`` permessage-deflate.
        ping: Seconds between the pings that the server sends; 0 for none.
    """

    port: int
    section: str
    ping: int

    @property
    def compressed(self) -> bool:
        """Whether the clients ask for permessage-deflate."""
        return self.section == "compression"


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout of twistedws with the Python that has its dependencies."""

    label: str
    directory: Path
    python: Path


@dataclass(frozen=True, slots=True)
class Server:
    """A server that can be measured.

    Attributes:
        name: For the command line and the results.
        title: For people.
        command: Returns its command line. It may raise ``Unavailable``.
        note: How it is configured.
        sections: In which sections it takes part.
        pings: Whether it can ping of itself.
        environment: Variables that it is started with, beside ours.
        checkout: That of ours.
    """

    name: str
    title: str
    command: Callable[[Launch], list[str]]
    note: str
    sections: frozenset[str] = WITHOUT_FANOUT
    pings: bool = True
    environment: Callable[[], Mapping[str, str]] = field(default=dict)
    checkout: Checkout | None = None


def _ours(checkout: Checkout, application: str, *arguments: str) -> Callable[[Launch], list[str]]:
    """Start twistd with the defaults of every setting, its log to a file."""

    def command(launch: Launch) -> list[str]:
        name = "ours:FanOut" if launch.section == "fanout" else application
        if name.startswith("compiled:"):
            compiled_hot_path(checkout.python)
        line = [str(checkout.python), str(checkout.python.with_name("twistd")), "-n", "--pidfile=", "twistedws"]
        line += ["--port", str(launch.port), "--app-dir", str(APPS), *arguments]
        return [*line, "--compression=on", name] if launch.compressed else [*line, name]

    return command


def ours(checkout: Checkout) -> list[Server]:
    """Return the rows of one checkout of twistedws. Their keepalive is on, as it is by default: the peers' is off unless it is measured."""
    suffix = f"@{checkout.label}" if checkout.label else ""

    def row(name: str, title: str, application: str, note: str, sections: frozenset[str], *arguments: str) -> Server:
        command = _ours(checkout, application, *arguments)
        environment = {"PYTHONPATH": os.pathsep.join([str(checkout.directory), str(COMPILED)])}
        return Server(name + suffix, title + suffix, command, note, sections, True, lambda: environment, checkout)

    quiet = "--log-level=warn"
    return [
        row("ours-handler", "twistedws, handler class", "ours:Echo", "all defaults", ALL),
        row("ours-coroutine", "twistedws, coroutine", "ours:echo", "all defaults", WITHOUT_FANOUT),
        row("ours-asgi", "twistedws, ASGI", "asgi_app:app", "all defaults", WITHOUT_FANOUT),
        row("ours-wsgi", "twistedws, WSGI", "wsgi_app:app", "a thread for each, --threads=10000", WITHOUT_FANOUT, "--threads=10000"),
        row(
            "ours-compiled",
            "twistedws, handler class, compiled hot path (prototype)",
            "compiled:Echo",
            "docs/adr/0007",
            frozenset({"echo"}),
        ),
        row("ours-handler-quiet", "twistedws, handler class, --log-level=warn", "ours:Echo", quiet, frozenset({"churn"}), quiet),
    ]


def _script(name: str) -> Callable[[Launch], list[str]]:
    """A script below ``servers``, given the port and the interval of pings."""
    return lambda launch: [str(peers_python()), str(APPS / name), str(launch.port), str(launch.ping)]


def _uvicorn(implementation: str) -> Callable[[Launch], list[str]]:
    """One worker, uvloop and httptools, no access log. Its pings go out whenever wsproto or websockets is told an interval."""

    def command(launch: Launch) -> list[str]:
        ping = str(launch.ping or 86400)
        return [
            str(peers_python()), "-m", "uvicorn", "asgi_app:app", "--app-dir", str(APPS), "--host", "127.0.0.1", "--port", str(launch.port),
            "--ws", implementation, "--loop", "uvloop", "--http", "httptools", "--lifespan", "off", "--backlog", "4096",
            "--log-level", "warning", "--no-access-log", "--ws-ping-interval", ping, "--ws-ping-timeout", ping,
        ]  # fmt: skip

    return command


def _daphne(launch: Launch) -> list[str]:
    """Quiet; a connection may live for ever."""
    ping = str(launch.ping or 86400)
    return [
        str(peers_python()), "-m", "daphne", "--bind", "127.0.0.1", "--port", str(launch.port), "--verbosity", "0",
        "--websocket_timeout", "-1", "--ping-interval", ping, "--ping-timeout", ping, "asgi_app:app",
    ]  # fmt: skip


def _hypercorn(launch: Launch) -> list[str]:
    """The uvloop worker class; no access log, which is its default."""
    line = [str(peers_python()), "-m", "hypercorn", "--bind", f"127.0.0.1:{launch.port}", "--worker-class", "uvloop", "--backlog", "4096"]
    line += ["--log-level", "WARNING"]
    return [*line, *(("--websocket-ping-interval", str(launch.ping)) if launch.ping else ()), "asgi_app:app"]


def _granian(launch: Launch) -> list[str]:
    """One worker; its backpressure, by default as large as the backlog, would refuse the idle connections."""
    return [
        str(peers_python()), "-m", "granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", str(launch.port), "--http", "1",
        "--ws", "--workers", "1", "--loop", "uvloop", "--backlog", "4096", "--backpressure", "20000", "--log-level", "warning",
        "--no-access-log", "asgi_app:app",
    ]  # fmt: skip


def _ws(launch: Launch) -> list[str]:
    node_modules()
    return [shutil.which("node") or "node", str(APPS / "echo_ws.cjs"), str(launch.port), str(launch.ping), str(int(launch.compressed))]


def _node_environment() -> Mapping[str, str]:
    return {"NODE_PATH": str(node_modules()), "NODE_ENV": "production"}


def _asgi_environment() -> Mapping[str, str]:
    return {"PYTHONPATH": str(APPS)}


PEERS = [
    Server("picows", "picows + uvloop", _script("echo_picows.py"), "core API: a listener is given frames, unvalidated", ALL),
    Server("ws", "Node ws", _ws, "with bufferutil", ALL, environment=_node_environment),
    Server("aiohttp", "aiohttp + uvloop", _script("echo_aiohttp.py"), "web.Application, a coroutine for each connection"),
    Server("websockets", "websockets + uvloop", _script("echo_websockets.py"), "asyncio server, a coroutine for each connection", ALL),
    Server("granian", "granian, ASGI", _granian, "1 worker, uvloop", pings=False, environment=_asgi_environment),
    Server("uvicorn", "uvicorn, ASGI", _uvicorn("auto"), "uvloop, httptools, its default implementation: websockets, sans-I/O",
           environment=_asgi_environment),
    Server("uvicorn-websockets", "uvicorn + websockets (legacy), ASGI", _uvicorn("websockets"), "uvloop, httptools",
           environment=_asgi_environment),
    Server("uvicorn-wsproto", "uvicorn + wsproto, ASGI", _uvicorn("wsproto"), "uvloop, httptools", environment=_asgi_environment),
    Server("hypercorn", "hypercorn, ASGI", _hypercorn, "1 worker, uvloop", environment=_asgi_environment),
    Server("gevent-websocket", "gevent-websocket", _script("echo_gevent.py"), "gevent's pywsgi server, no log", pings=False),
    Server("autobahn", "Autobahn on Twisted's epoll reactor", _script("echo_autobahn.py"), "defaults", ALL),
    Server("daphne", "daphne, ASGI", _daphne, "Twisted's asyncio reactor, as it is", environment=_asgi_environment),
]  # fmt: skip


def environment(server: Server) -> dict[str, str]:
    """Return the variables with which a server is started."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TWISTEDWS_"))}
    return {**variables, "PYTHONDONTWRITEBYTECODE": "1", **server.environment()}


def catalogue(checkouts: list[Checkout]) -> dict[str, Server]:
    """Return all servers by name, ours first."""
    rows = [server for each in checkouts for server in ours(each)]
    return {server.name: server for server in [*rows, *PEERS]}


def default_checkout(python: Path) -> Checkout:
    """Return this checkout."""
    return Checkout("", ROOT, python)
