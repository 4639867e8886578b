"""What a connection is before its session is open: an opening handshake, and plain requests that may come before it.

``handshake.py`` knows what a request must look like; this module decides about one connection: by its address, by its origin, by what the
application says. Autobahn never sees an opening handshake. A plain request is handed to whoever answers those; the head that comes
behind it is looked at here again, by a new parser, and may be an upgrade: proxies keep their connections, and use them for both.

Laws of this module:

- A connection owns its ``Opening`` until its session is open, and drops it then with all that only the handshake needed. One that is
  refused keeps it until its transport has gone, when the log hears why; only peer and refusal are left in it.
- It is decided once: whatever the application says after the peer went away, the deadline passed or the server shut is not heard.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from inspect import isawaitable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, ISSLTransport
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from twistedws.errors import Cause, Refused
from twistedws.exchange import Answerer, Endpoints, Exchange, taken_of
from twistedws.handshake import (
    BadRequest,
    HeadParser,
    Request,
    Upgrade,
    check_upgrade,
    choose_subprotocol,
    response,
    switching_protocols,
    wants_upgrade,
)
from twistedws.listening import MOST_WAIT
from twistedws.protocol.deflate import BoundedDeflate, negotiate
from twistedws.protocol.plain import Connection as PlainConnection
from twistedws.protocol.plain import PlainRequests
from twistedws.protocol.transports import address_text, canonical, host_of, place_of, place_text
from twistedws.proxy import Client
from twistedws.session import Handler, Session, Wire

_log = Logger()

RETRY_AFTER = "5"  # seconds, sent with every 503 but those of a crowd
MOST_REFUSALS = 64  # refused connections that may linger at once; above, they are aborted
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self' ws: wss:"
_PAGE_HEADERS = (("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", _PAGE_POLICY))
_UPGRADE_NEEDED = "This is a WebSocket endpoint: connect to it with a WebSocket client (RFC 6455), at ws:// or wss:// and this address.\n"


class Connection(Wire, PlainConnection, Protocol):
    """What an opening handshake needs of its connection, which is also the wire of its session and carries plain requests."""

    is_opening: bool  # whether it is still to be decided what becomes of it

    def enter(self, address: str) -> int:
        """Count it among the connections from an address, until it ends or enters another; return how many there are now."""

    def open(self, session: Session, handler: Handler, answer: bytes, deflate: BoundedDeflate | None, *, paused: bool) -> None:
        """Write the answer, drop the handshake, and open the session; read on if reading was paused."""

    def refuse(self, answer: bytes) -> None:
        """Write the answer, if any, and end."""

    def leave(self) -> None:
        """Count it no more among the connections from an address."""

    def heard(self) -> None:
        """The first bytes have come."""

    def hang_up(self) -> None:
        """End between two requests, when the peer has nothing to say."""

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come, or came before they could be looked at."""


class Opening:
    """An opening handshake.

    Args:
        connection: Whose it is.

    Attributes:
        peer: The client's address as text; None until the first byte has come, since a PROXY protocol endpoint knows no earlier.
        is_surplus: Whether it is one of a crowd that is not to be served.
        congested: Whether the transport's buffer is over its high-water mark.
        refusal: Why there was no session: the cause, None if the peer never asked for one; the status answered, if any; a few words.
    """

    __slots__ = (
        "_client", "_connection", "_decision", "_early", "_is_idle", "_is_stalled", "_parser", "_plain", "_session", "_taken",
        "address", "congested", "is_surplus", "peer", "refusal",
    )  # fmt: skip

    def __init__(self, connection: Connection) -> None:
        handshake = connection.site.handshake
        self._connection = connection
        self._parser: HeadParser | None = HeadParser(handshake.max_head_size, handshake.max_headers)
        self._session: Session | None = None  # that the application decides about, once the head has been read
        self._decision: Deferred[None] | None = None
        self._early = b""  # what came behind the head while the application decides, or before the peer has taken its answers
        self._client: Client | None = None  # that a trusted proxy names
        self._plain: PlainRequests | None = None  # made for the first
        self._is_idle = False  # between two requests
        self._is_stalled = False  # between two requests, and the peer has not taken the answers yet
        self._taken = 0  # of what was written, when a deadline for it was put
        self.is_surplus = False  # the factory says otherwise
        self.congested = False
        self.peer: str | None = None
        self.address: IAddress | None = None  # that the factory was told
        self.refusal: tuple[Cause | None, int | None, str] | None = None

    # What the connection calls

    def begin(self) -> None:
        """The transport is there."""
        connection, site = self._connection, self._connection.site
        connection.put_deadline(site.handshake.handshake_timeout)
        surplus = site.registry.connections - site.most_connections if site.most_connections else 0
        if self.is_surplus:
            soon = random.randint(1, 2 * MOST_WAIT)  # noqa: S311 - no secret; the crowd is not to come back at once
            self._refuse(503, "too many at once", "accept-rate", [("Retry-After", str(soon))])
        elif surplus > 0:
            self._refuse(503, "the server is full", "max-connections", [("Retry-After", RETRY_AFTER)])
        if surplus > MOST_REFUSALS:
            connection.abort()

    def receive(self, data: bytes) -> bytes:
        """Take bytes; return what came behind the head, if the session is open already."""
        exchange = self._exchange
        if exchange is not None:
            exchange.received(data)
            return b""
        if self._parser is None:
            self._hold_early(data)
            return b""
        if self._is_idle:
            self._is_idle = False
            self._connection.put_deadline(self._connection.site.handshake.handshake_timeout)
        if self.peer is None and not self._enter():
            return b""
        try:
            request = self._parser.feed(data)
            if request is None:
                return b""
            head, rest, self._parser = self._parser.head, self._parser.rest, None
            if not self._locate(request):
                return b""
            answerer = self._connection.site.application.answerer
            # RFC 9110 section 7.8: an Upgrade in HTTP/1.0 must be ignored; who answers nothing else says what is wrong with it
            if wants_upgrade(request) and (answerer is None or request.version != "1.0"):
                self._upgrade(request, check_upgrade(request), rest)
            elif answerer is not None:
                self._answer(answerer, request, head, rest)
            else:
                self._answer_plain(request)
        except BadRequest as bad:
            self._refuse(bad.status, bad.text, bad.text, bad.headers)
        return self._take_early()

    def expired(self) -> None:
        """Its deadline has come."""
        exchange = self._exchange
        if exchange is not None:
            exchange.expired()
        elif self._is_stalled:
            if taken_of(self._connection) > self._taken:
                self._await_progress()
            else:
                self._connection.cut(Cause.WRITE_STALL)
        elif self._is_idle:
            self._connection.hang_up()
        elif self._session is None:
            self._refuse(408, "the request took too long", "no whole request head in time", cause=Cause.HANDSHAKE_TIMEOUT)
        else:
            self.cancel()
            self._refuse(
                503, "the server took too long", "the application did not decide in time", [("Retry-After", RETRY_AFTER)],
                cause=Cause.HANDSHAKE_TIMEOUT,
            )  # fmt: skip

    def cancel(self) -> None:
        """Do not wait for the application's decision any more."""
        self._session = None  # so that the cancelled decision, when it comes, is not heard
        decision, self._decision = self._decision, None
        if decision is not None:
            decision.cancel()

    def shut(self, *, at_once: bool) -> None:
        """There will be no session any more: the server goes away."""
        if self._plain is not None and self._plain.exchange is not None:
            self._plain.shut()
            if at_once:
                self._connection.cut(Cause.DRAIN)
            return
        if (self._is_idle or self._is_stalled) and not at_once:
            self._connection.hang_up()
            return
        self.cancel()
        if not self._is_idle:
            self.refusal = (Cause.DRAIN, None, "the server goes away")
        self._connection.abort()

    def forget(self) -> None:
        """The connection ends: drop all but what the log will be told, and who is still to hear of the end."""
        self._parser = self._session = None
        self._early = b""

    def lost(self, cause: Cause) -> None:
        """The connection has gone: tell who waits for it."""
        self.cancel()
        if self._plain is not None and self._plain.exchange is not None:
            cut = self.refusal[0] if self.refusal is not None else None
            self.refusal = (None, None, "the connection ended before the answer was complete")
            self._plain.lost(cut or cause)

    @property
    def is_full(self) -> bool:
        """Whether no more is to be read for now."""
        exchange = self._exchange
        if exchange is not None:
            return exchange.held
        return self._is_stalled or len(self._early) > self._connection.site.limits.inbox_size > 0

    def congest(self) -> None:
        """The transport's buffer is over its high-water mark."""
        self.congested = True
        exchange = self._exchange
        if exchange is not None:
            exchange.congested()

    def decongest(self) -> None:
        """The transport's buffer has left."""
        self.congested = False
        exchange = self._exchange
        if exchange is not None:
            exchange.decongested()
        elif self._is_stalled:
            self._is_stalled = False
            early, self._early = self._early, b""
            self._await_request(early)

    def endpoints(self) -> Endpoints:
        """Return both ends of the connection, as of the latest request."""
        transport, client = self._connection.transport, self._client
        server = place_of(canonical(transport.getHost()))
        if client is not None:
            return Endpoints((client.host, client.port) if client.host else None, server, client.secure)
        return Endpoints(place_of(self._near()), server, ISSLTransport.providedBy(transport))

    # Plain requests

    def _answer(self, answerer: Answerer, request: Request, head: bytes, rest: bytes) -> None:
        """Hand a plain request on."""
        if self._plain is None:
            self._plain = PlainRequests(self._connection)
        self.refusal = None
        rest = self._plain.answer(answerer, request, head, rest, self.endpoints(), self.peer or "unknown")
        if rest and self._is_stalled:
            self._early += rest
        elif rest and self._connection.is_opening:
            self._connection.put_back(rest)
        if self.congested:
            self.congest()

    def answered(self, status: int, octets: int, rest: bytes, *, persistent: bool) -> None:
        """A plain request is answered: await the next, or end."""
        connection = self._connection
        self.refusal = (None, status, "a plain request")
        if self._plain is None or not self._plain.done(status, octets, persistent=persistent):
            connection.refuse(b"")
        elif self.congested:  # what it has asked for so far is to be taken first: answers are bounded by nothing else
            self._early, self._is_stalled = rest, True
            connection.pause()
            self._await_progress()
        else:
            self._await_request(rest)

    def _await_progress(self) -> None:
        """Give the peer its time to take some of what it was answered."""
        connection = self._connection
        self._taken = taken_of(connection)
        connection.put_deadline(connection.site.output.write_stall_timeout)

    def _await_request(self, rest: bytes) -> None:
        """Await the next request, of which there may be bytes."""
        connection = self._connection
        handshake = connection.site.handshake
        self._parser = HeadParser(handshake.max_head_size, handshake.max_headers)
        self._is_idle = True
        if self._client is not None:  # a proxy's connection, which is nobody's until its next request
            connection.leave()
        connection.put_deadline(connection.site.http.http_idle_timeout)
        connection.put_back(rest)

    @property
    def _exchange(self) -> Exchange | None:
        return self._plain.exchange if self._plain is not None else None

    # The request

    def _near(self) -> IAddress:
        """The address at the other end of the connection, the client's or a proxy's."""
        transport, peer = self._connection.transport, self.address
        if peer is None or isinstance(transport, ProtocolWrapper):  # behind a PROXY protocol it is another's by now
            peer = canonical(transport.getPeer())
        return peer

    def _enter(self) -> bool:
        """Note the address, now known also behind a PROXY protocol, and count the connection by it; not by a trusted proxy's."""
        self._connection.heard()
        try:
            near = self._near()
        except ValueError:
            self.peer, self.refusal = "unknown", (Cause.HANDSHAKE_REFUSED, None, "its PROXY header has an address that is none")
            self._connection.abort()
            return False
        self.peer = address_text(near)
        proxies = self._connection.site.proxies
        return (bool(proxies) and proxies.trusts(host_of(near))) or self._count(host_of(near))

    def _locate(self, request: Request) -> bool:
        """Take the client's address from a trusted proxy's headers, and count the connection by it."""
        proxies = self._connection.site.proxies
        if not proxies:
            return True
        near = self._near()
        place, host = place_of(near), host_of(near)
        if not proxies.trusts(host):
            return True
        port = (place[1] or 0) if place is not None and host else 0
        secure = ISSLTransport.providedBy(self._connection.transport)
        self._client = client = proxies.client(host, port, secure, request.headers)
        self.peer = address_text(near) if (client.host, client.port) == (host, port) else place_text(client.host, client.port)
        return self._count(client.host)

    def _count(self, host: str) -> bool:
        """Count the connection by an address; refuse it if it is one too many."""
        if self._connection.enter(host) > self._connection.site.limits.max_connections_per_address > 0 and host:
            self._refuse(429, "too many connections from this address", "max-connections-per-address", [("Retry-After", RETRY_AFTER)])
            return False
        return True

    def _answer_plain(self, request: Request) -> None:
        page = self._connection.site.application.page
        if page is not None and request.path == "/" and request.method in ("GET", "HEAD"):
            self._refuse(200, page, "the page", _PAGE_HEADERS, cause=None, head_only=request.method == "HEAD")
        else:
            self._refuse(
                426, _UPGRADE_NEEDED, "not a WebSocket request", [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
                cause=None, head_only=request.method == "HEAD",
            )  # fmt: skip

    def _upgrade(self, request: Request, upgrade: Upgrade, rest: bytes) -> None:
        connection, site = self._connection, self._connection.site
        if site.registry.draining:
            self._refuse(503, "the server is restarting", "draining", [("Retry-After", RETRY_AFTER)], cause=Cause.DRAIN)
            return
        if upgrade.origin is not None and not site.origins.allows(upgrade.origin, request.header("host") or ""):
            self._refuse(403, "this origin may not connect", "origin not allowed")
            return
        session = Session(
            connection,
            request,
            peer=self.peer or "unknown",
            scheme="wss" if (self._client.secure if self._client else ISSLTransport.providedBy(connection.transport)) else "ws",
            queue_size=site.output.queue_size,
            slow_consumer=site.output.slow_consumer,
        )
        session.subprotocol = choose_subprotocol(upgrade.subprotocols, site.application.subprotocols or site.handshake.subprotocol)
        self._session, self._early = session, rest
        self._ask(session, upgrade)

    # The application's decision

    def _ask(self, session: Session, upgrade: Upgrade) -> None:
        """Have the application decide, if it wants to, now or later."""
        site = self._connection.site
        admit = site.application.admit
        if admit is None:
            self._admitted(session, upgrade)
            return
        self._connection.put_deadline(site.handshake.handshake_timeout)
        try:
            outcome = admit(session)
        except BaseException:  # a sys.exit() somewhere would end the process
            self._not_admitted(Failure(), session)
            return
        if isawaitable(outcome):
            # Deferred.addCallbacks runs at once where the awaitable did not have to wait
            self._decision = decision = outcome if isinstance(outcome, Deferred) else site.start(outcome)
            decision.addCallbacks(lambda _: self._admitted_late(session, upgrade), self._not_admitted, errbackArgs=(session,))
            decision.addErrback(lambda failure: self._not_admitted(failure, session))
        else:
            self._admitted(session, upgrade)

    def _hold_early(self, data: bytes) -> None:
        """Keep what a peer sends before it is answered, unseen. Reading goes on, so that its leaving is noticed; within bounds."""
        connection = self._connection
        if not self._is_stalled:  # what is put back later is counted already
            connection.received -= len(data)  # it counts when it is looked at
        self._early += data
        if self.is_full:
            connection.pause()

    def _take_early(self) -> bytes:
        """Return what came behind the head, once the session is open."""
        if not self._connection.listening:
            return b""
        early, self._early = self._early, b""
        return early

    def _admitted(self, session: Session, upgrade: Upgrade) -> None:
        self._decision = None
        if self._session is None:  # the peer, or the deadline, was faster
            return
        site = self._connection.site
        if site.registry.draining:  # meanwhile
            self._session = None
            self._refuse(503, "the server is restarting", "draining", [("Retry-After", RETRY_AFTER)], cause=Cause.DRAIN)
            return
        try:
            if session.subprotocol is not None and session.subprotocol not in upgrade.subprotocols:
                raise ValueError(f"subprotocol: {session.subprotocol!r}: the client offered {upgrade.subprotocols}")
            handler = site.application(session)
            deflate, extensions = negotiate(upgrade.extensions, site.handshake, site.limits.max_message_size, session.fail)
            answer = switching_protocols(upgrade, session.subprotocol, extensions, session.response_headers)
        except BaseException:
            self._not_admitted(Failure(), session)
            return
        self._connection.open(session, handler, answer, deflate, paused=len(self._early) > site.limits.inbox_size > 0)

    def _admitted_late(self, session: Session, upgrade: Upgrade) -> None:
        self._admitted(session, upgrade)
        early = self._take_early()
        if early:
            self._connection.dataReceived(early)

    def _not_admitted(self, failure: Failure, session: Session) -> None:
        self._decision = None
        if self._session is None or not self._connection.is_opening:  # likewise; or it was admitted, and something else raised
            return
        refused = failure.value
        if isinstance(refused, Refused):
            try:
                self._refuse(refused.status, refused.body, refused.why, refused.headers)
                return
            except ValueError as error:  # a header that must not be sent
                failure = Failure(error)
        _log.failure(
            "application raised in the opening handshake session={session} peer={peer}", failure, session=session.id, peer=session.peer,
            limit="application raised",
        )  # fmt: skip
        self._refuse(500, "internal server error", "the application raised", cause=Cause.APPLICATION_ERROR)

    def _refuse(
        self,
        status: int,
        body: bytes | str,
        why: str,
        headers: Sequence[tuple[str, str]] = (),
        *,
        cause: Cause | None = Cause.HANDSHAKE_REFUSED,
        head_only: bool = False,
    ) -> None:
        """Answer with something other than 101 and end the connection; no cause if it never asked to be a session."""
        answer = response(status, headers, body, now=time.time(), head_only=head_only)
        self.refusal = (cause, status, why)
        self._connection.refuse(answer)
