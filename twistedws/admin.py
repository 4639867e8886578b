"""The operators' endpoint: whether the process lives, and whether it wants to be sent connections. Floor 6.

It answers GET and HEAD of two paths, at endpoints of its own, so that no client of the application's can ask:

- ``/live``: 200 as long as the event loop runs.
- ``/ready``: 200, or 503 with the reason in a few words; with ``Accept: application/json`` as JSON, with more facts.

It decides nothing: whoever starts and stops the server writes ``Health``, and stops this last.
"""

# mypy: disallow-untyped-calls=False, disallow-subclassing-any=False
# (twisted.web's sites and requests have few annotations)

from __future__ import annotations

import json
from io import BytesIO
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.web import http, server
from twisted.web.resource import Resource

from twistedws import config
from twistedws.health import Health
from twistedws.listening import ListeningService, parsed

_log = Logger()

TIMEOUT = 10  # seconds that a connection may be idle, within a request or between two
MOST_BODY = 65536  # bytes of a request's body, which nobody reads; twisted.web bounds the head, by 16 KiB

_METHODS = (b"GET", b"HEAD")


class AdminService(Service):
    """Answers operators from start to stop.

    Args:
        settings: Where; nowhere by default.
        health: What is asked for.
        reactor: Where to listen, and for timers.

    Raises:
        ConfigurationError: One of ``admin`` is no endpoint.
    """

    def __init__(self, settings: config.Admin, health: Health, reactor: Any) -> None:
        self._listening = ListeningService(config.Listening(), reactor, parsed("admin", settings.admin, reactor), "answering operators")
        self._listening.factory = cast("Factory", AdminSite(health, reactor))  # mypy: a factory of whatever

    @property
    def ports(self) -> tuple[IListeningPort, ...]:
        """What is listened on."""
        return self._listening.ports

    def startService(self) -> None:
        """Listen.

        Raises:
            ListenError: An endpoint cannot be listened on.
        """
        super().startService()
        self._listening.startService()

    def stopService(self) -> Deferred[None]:
        """Listen no more."""
        super().stopService()
        return self._listening.stopService()


class AdminSite(server.Site):
    """Makes an HTTP channel of each connection.

    Args:
        health: What is asked for.
        reactor: For timers.
    """

    noisy = False

    def __init__(self, health: Health, reactor: Any) -> None:
        super().__init__(Resource(), _Request, timeout=TIMEOUT, reactor=reactor)
        self.health = health

    def startFactory(self) -> None:
        """Open no access log, and start no timer for its dates."""

    def stopFactory(self) -> None:
        """There is nothing to close."""

    def log(self, request: http.Request) -> None:
        """Log no access: checks come every second."""


class _Request(http.Request):
    """A request of an operator's. Not ``server.Request``, which says who it is, and looks for resources where two paths are all."""

    _body = 0

    def gotLength(self, length: int | None) -> None:  # noqa: ARG002 - its body is not kept, however long
        """Keep no body."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Throw the body away; end the connection if there is too much of it."""
        self._body += len(data)
        if self._body > MOST_BODY:
            self.channel.forceAbortClient()

    def process(self) -> None:
        """Answer."""
        if self.path not in (b"/live", b"/ready"):
            self._answer(404, "not found\n")
        elif self.method not in _METHODS:
            self.setHeader(b"Allow", b", ".join(_METHODS))
            self._answer(405, "GET and HEAD are accepted\n")
        elif self.path == b"/live":
            self._answer(200, "live\n")
        else:
            self._tell_ready(cast("Any", self.channel).site.health)

    def _tell_ready(self, health: Health) -> None:
        status = 200 if health.ready else 503
        if "application/json" in _media_types(self.getHeader(b"accept") or b""):
            self._answer(status, _facts(health), "application/json")
        else:
            self._answer(status, "ready\n" if health.ready else f"not ready: {health.why}\n")

    def _answer(self, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        body = text.encode()
        self.setResponseCode(status)
        for name, value in (
            ("Date", http.datetimeToString()), ("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"),
        ):  # fmt: skip
            self.setHeader(name, value)
        self.write(body)
        self.finish()


def _media_types(accept: bytes) -> list[str]:
    """Return what an Accept header names, with no parameters (RFC 9110 section 12.5.1)."""
    return [each.split(";")[0].strip().lower() for each in accept.decode("latin-1").split(",")]


def _facts(health: Health) -> str:
    """Return the JSON of ``/ready``. A fault in the facts is logged, and does not make a server that is ready look otherwise."""
    told: dict[str, object] = {"ready": health.ready} if health.ready else {"ready": False, "why": health.why}
    try:
        return json.dumps({**told, **(health.state() if health.state is not None else {})}) + "\n"
    except Exception:
        _log.failure("cannot tell the state of this server", limit="server fault")
        return json.dumps(told) + "\n"
