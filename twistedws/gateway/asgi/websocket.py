"""A WebSocket as an ASGI application sees it (WWW specification 2.5, "WebSocket"). Floor 6.

Laws of this module:

- The application decides first: until it accepts, the client waits, within the handshake timeout.
- ``send`` waits while the peer is slow, and raises ``Disconnected``, an ``OSError``, once it has gone.
- A message out of order raises, and says what is accepted; it never disappears.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twistedws.errors import By, Cause, Closed, Disconnected, Refused
from twistedws.gateway.asgi.scope import Event, Header, Hosted, Scope, checked_body, checked_headers, checked_status, described
from twistedws.gateway.pump import MESSAGE_OVERHEAD, SHARE, Pump
from twistedws.handshake import check_accept_headers, requested_subprotocols
from twistedws.session import Phase, Session

_log = Logger()

_DECIDED_HERE = (b"content-length", b"transfer-encoding", b"connection")  # by whoever sends a denial


def admission(hosted: Hosted) -> tuple[Callable[[Session], Deferred[None]], Callable[[Session], Pump]]:
    """Return what decides on a session, by starting the application, and what gives the session its handler then."""

    def admit(session: Session) -> Deferred[None]:
        connection = WebSocket(session, hosted)
        session.handler = connection  # it is the handler from here on, though it hears nothing before the session is open
        return connection.begin()

    def build(session: Session) -> WebSocket:
        assert isinstance(session.handler, WebSocket)  # noqa: S101 - admit has put it there
        return session.handler

    return admit, build


class _Stage(enum.IntEnum):
    """What the application has done."""

    CONNECTING = 0  # nothing yet
    ACCEPTED = 1
    DENYING = 2  # it has begun a denial response
    CLOSED = 3  # it has closed or refused


_ACCEPTED = _Stage.ACCEPTED  # looked up once

_ACCEPTS = {
    _Stage.CONNECTING: "websocket.accept, websocket.close or websocket.http.response.start is accepted",
    _Stage.ACCEPTED: "websocket.send or websocket.close is accepted",
    _Stage.DENYING: "websocket.http.response.body is accepted",
    _Stage.CLOSED: "nothing is accepted after websocket.close or a complete response",
}


class WebSocket(Pump):
    """One session's handler, and what the application calls: ``receive`` and ``send``."""

    __slots__ = ("_decision", "_denial", "_has_connected", "_has_heard", "_has_left", "_hosted", "_scope", "_stage")

    def __init__(self, session: Session, hosted: Hosted) -> None:
        super().__init__(session, hosted.tasks, hosted.share, hosted.inbox_size)
        self._hosted = hosted
        self._stage = _Stage.CONNECTING
        self._has_connected = self._has_heard = False  # whether the application has received connect, and disconnect
        self._has_left = False  # whether the peer did not wait for its decision
        self._decision: Deferred[None] | None = None
        self._scope: Scope = {}  # until the application has it
        self._denial: tuple[int, list[Header], bytearray] | None = None

    def begin(self) -> Deferred[None]:
        """Start the application; return its decision."""
        decision = self._decision = Deferred(lambda _: self._left())
        session = self._session
        extensions: dict[str, dict[str, Any]] = {"websocket.http.response": {}}
        # here, not in the task: the client may have left by its first step, and the ends of the connection with it
        self._scope = self._hosted.scope("websocket", session.scheme, session.request, session.wire.endpoints(), extensions)
        self._scope["subprotocols"] = list(requested_subprotocols(session.request))
        self.start()
        return decision

    def opened(self, session: Session) -> None:
        """The session: the answer is on its way."""

    @property
    def is_gone(self) -> bool:
        """Whether the connection is gone, for the application."""
        return self._has_left or self._session.phase is Phase.CLOSED

    # What the application calls

    async def receive(self) -> Event:
        """Wait for the next event: connect, then messages, then disconnect; who asks again is left to wait until it is cancelled."""
        if not self._has_connected:
            self._has_connected = True
            return {"type": "websocket.connect"}
        while not self.inbox:
            if self.is_gone:
                if self._has_heard:
                    await self._loop.create_future()  # Channels asks again after each event
                self._has_heard = True
                return self._disconnect()
            with suppress(Closed):
                await self.message()
        message = self.take()
        if type(message) is str:
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    async def send(self, event: Event) -> None:
        """Accept, deny, send a message, or close.

        Raises:
            Disconnected: The peer has gone.
            RuntimeError: The message is out of order.
            TypeError: A value is of the wrong type.
            ValueError: A value cannot be sent.
        """
        if self._stage is not _ACCEPTED or not isinstance(event, dict) or event.get("type") != "websocket.send":
            try:
                self._send_other(event)
            except Exception:
                await asyncio.sleep(0)  # also for a loop that takes no notice of it
                raise
            return
        session, share = self._session, self.share
        message: str | bytes | None = event.get("bytes")
        if message is None:
            message = event.get("text")
            if not isinstance(message, str):
                raise TypeError(f"websocket.send: text: {type(message).__name__}: bytes as bytes, or str as text, is accepted")
        elif isinstance(message, str):
            raise TypeError("websocket.send: bytes: str: text goes by the name of text")
        elif event.get("text") is not None:
            raise ValueError("websocket.send: bytes and text: one of them is accepted")
        if session.congested:
            await self.writable_or_closed()
        share.spent += MESSAGE_OVERHEAD + len(message)
        if share.spent > SHARE:
            share.spent = 0
            await asyncio.sleep(0)
        if not session.send(message) and session.ending is not None:
            await asyncio.sleep(0)
            raise Disconnected(_gone(session))

    # Inside

    def _send_other(self, event: Event) -> None:
        kind = event["type"] if isinstance(event, dict) and "type" in event else None
        stage = self._stage
        if stage is _Stage.CONNECTING and kind in ("websocket.accept", "websocket.close", "websocket.http.response.start"):
            if self._has_left:
                raise Disconnected("the client went away, or the handshake timeout passed, before the application decided")
            if kind == "websocket.accept":
                self._accept(event)
            elif kind == "websocket.close":
                self._stage = _Stage.CLOSED
                self._decide(Refused(403))
            else:
                self._denial = checked_status(event), checked_headers(event), bytearray()
                self._stage = _Stage.DENYING
        elif stage is _Stage.ACCEPTED and kind == "websocket.close":
            self._close(event)
        elif stage is _Stage.DENYING and kind == "websocket.http.response.body":
            self._deny(event)
        elif stage is _Stage.CLOSED and self._denial is None and kind in ("websocket.send", "websocket.close"):
            raise Disconnected("the application has closed")
        else:
            raise RuntimeError(f"ASGI message {described(event)}: {_ACCEPTS[stage]}")

    def _accept(self, event: Event) -> None:
        session = self._session
        subprotocol = event.get("subprotocol")
        offered = requested_subprotocols(session.request)
        if subprotocol is not None and subprotocol not in offered:
            raise ValueError(f"websocket.accept: subprotocol: {subprotocol!r}: one of those that the client offered is accepted: {offered}")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in checked_headers(event)]
        check_accept_headers(headers)
        session.subprotocol = subprotocol
        session.response_headers.extend(headers)
        self._stage = _Stage.ACCEPTED
        self._decide(None)
        if session.phase is Phase.CONNECTING:
            self._left()
            raise Disconnected("the session could not be opened")

    def _close(self, event: Event) -> None:
        session = self._session
        code = event.get("code")
        reason = event.get("reason")
        if reason is None:
            reason = ""
        elif not isinstance(reason, str):
            raise TypeError(f"websocket.close: reason: {type(reason).__name__}: str is accepted")
        if session.ending is not None:
            self._stage = _Stage.CLOSED
            raise Disconnected(_gone(session))
        session.close(1000 if code is None else code, reason)  # raises for a code that cannot be sent; nothing has changed then
        self._stage = _Stage.CLOSED

    def _deny(self, event: Event) -> None:
        assert self._denial is not None  # noqa: S101 - the stage says so
        if self._has_left:
            raise Disconnected("the client went away before it was denied")
        status, headers, body = self._denial
        piece = checked_body(event)
        if len(body) + len(piece) > self._hosted.most_denial > 0:
            raise ValueError(f"websocket.http.response.body: more than {self._hosted.most_denial} bytes (--queue-size) are not sent")
        body += piece
        if not event.get("more_body", False):
            self._stage = _Stage.CLOSED
            pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers if name.lower() not in _DECIDED_HERE]
            self._decide(Refused(status, pairs, bytes(body)))

    def _decide(self, refused: BaseException | None) -> None:
        decision, self._decision = self._decision, None
        if decision is not None and refused is None:
            decision.callback(None)
        elif decision is not None:
            decision.errback(refused)
            self._left()

    def _left(self) -> None:
        """There will be no session: the peer went away before the application decided, or the application refused it, or took too long."""
        self._decision = None
        self._has_left = True
        self.wake()
        if self._task is not None:
            self._tasks.limit(self._task, f"session={self._session.id}")

    def _disconnect(self) -> Event:
        ending = self._session.ending
        if ending is None:
            return {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        return {"type": "websocket.disconnect", "code": ending.code, "reason": ending.reason}

    async def _run(self) -> None:
        scope, self._scope = self._scope, {}
        try:
            await self._hosted.app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._ended(None)
        except BaseException as error:  # a sys.exit() somewhere would end the process, and everybody's sessions
            if not self._loop.is_running():  # the process ends, and Python closes what is left
                raise
            self._ended(error)
        else:
            self._returned()
        finally:
            self.finished()

    def _returned(self) -> None:
        """The application has returned."""
        if self._decision is not None:
            self._decide(RuntimeError("the ASGI application returned, and has neither accepted nor closed"))
        elif self._stage is _Stage.ACCEPTED and self._session.phase is Phase.OPEN:
            self._session.close(1000, cause=Cause.APPLICATION, by=By.APPLICATION)

    def _ended(self, error: BaseException | None) -> None:
        """The application has raised, or was cancelled."""
        session = self._session
        has_ended = self.is_gone or session.ending is not None
        if error is not None and has_ended and is_disconnected(error):
            _log.debug("application ended by a send to a peer that has gone session={session}", session=session.id)
        elif self._decision is not None:
            self._decide(error or RuntimeError("the ASGI application was cancelled"))  # whoever is told logs it
        elif error is not None:
            self.failed("WebSocket")
        elif session.ending is None and not self.is_gone:
            _log.error("application cancelled itself session={session}", session=session.id, limit="application cancelled itself")
            session.fail(1011, "", Cause.APPLICATION_ERROR)


def is_disconnected(error: BaseException | None, most: int = 16) -> bool:
    """Whether an exception is that of a send to a peer that has gone, or what a framework made of it, as Starlette's WebSocketDisconnect.

    Any other that is raised meanwhile, as in a ``finally``, is the application's own. At most so many exceptions of a chain are looked at.
    """
    if not most:
        return False
    inner = getattr(error, "exceptions", None)  # of a group
    if inner:
        return all(is_disconnected(each, most - 1) for each in inner)
    if error is None or isinstance(error, Disconnected):
        return error is not None
    if error.__cause__ is not None:
        return is_disconnected(error.__cause__, most - 1)
    return "Disconnect" in type(error).__name__ and is_disconnected(error.__context__, most - 1)


def _gone(session: Session) -> str:
    ending = session.ending
    return "the session has ended" if ending is None else f"the session has ended: {ending.code} {ending.cause.value}"
