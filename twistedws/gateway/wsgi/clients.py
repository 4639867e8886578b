"""What applications use of gevent-websocket's handler: ``active_client`` and ``server.clients``. Floor 6."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any

from twistedws.exchange import Endpoints


class Client:
    """One of ``handler.server.clients``; applications add attributes of their own, such as a nickname.

    Attributes:
        address: Host and port.
        ws: Its ``WebSocket``.
    """

    def __init__(self, address: tuple[str, int], ws: object) -> None:
        self.address, self.ws = address, ws


class Clients(dict[Any, Client]):
    """The clients by address. What iterates over it sees those of its beginning: other threads add and remove meanwhile."""

    def __iter__(self) -> Iterator[Any]:
        return iter(list(super().keys()))

    def keys(self) -> KeysView[Any]:  # type: ignore[override]  # of a copy
        """Return the addresses of now."""
        return dict.fromkeys(list(super().keys())).keys()

    def values(self) -> ValuesView[Client]:  # type: ignore[override]
        """Return the clients of now."""
        return dict(list(super().items())).values()

    def items(self) -> ItemsView[Any, Client]:  # type: ignore[override]
        """Return both of now."""
        return dict(list(super().items())).items()


class Server:
    """``handler.server``.

    Attributes:
        application: The WSGI application.
        clients: Those with a live session, by address.
    """

    def __init__(self, application: object) -> None:
        self.application = application
        self.clients = Clients()


class Handler:
    """``websocket.handler``: of gevent-websocket's, what applications use.

    Attributes:
        server: What all sessions share.
        client_address: Host and port, and what makes them unlike any other's where a proxy does not tell the port.
        active_client: This session's entry in ``server.clients``.
    """

    __slots__ = ("active_client", "client_address", "server")

    def __init__(self, server: Server, websocket: object, endpoints: Endpoints, session_id: str) -> None:
        self.server = server
        host, port = endpoints.client or ("", 0)
        address = (host, port or 0)
        self.client_address: tuple[Any, ...] = address if port and address not in server.clients else (*address, session_id)
        self.active_client = Client(address, websocket)
