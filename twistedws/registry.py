"""Who is connected: the sessions of this process, and the count of connections, in all and by address. Floor 3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from twistedws.session import Session


class Connection(Protocol):
    """A connection as the registry knows it: from accept to its end, session or not."""

    def shut(self, *, at_once: bool) -> None:
        """End it, if it is no session: there will be none. One that answers a request may do so, unless it is to end at once."""


class Registry:
    """The connections and sessions of one process.

    Attributes:
        draining: True once the server goes away: no session is opened any more.
        emptied: Called whenever the last session has gone; None for nobody.
    """

    def __init__(self) -> None:
        self.draining = False
        self.emptied: Callable[[], None] | None = None
        self._connections: set[Connection] = set()
        self._sessions: set[Session] = set()
        self._addresses: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over the sessions as they are now; they may end meanwhile."""
        return iter(tuple(self._sessions))

    @property
    def connections(self) -> int:
        """How many connections there are, sessions or not."""
        return len(self._connections)

    def connected(self, connection: Connection) -> None:
        """A connection was accepted."""
        self._connections.add(connection)

    def disconnected(self, connection: Connection) -> None:
        """A connection has gone."""
        self._connections.discard(connection)

    def shut_idle(self, *, at_once: bool = False) -> None:
        """End all connections that are no sessions (yet); those that answer a request when they have done so, or at once."""
        for connection in tuple(self._connections):
            connection.shut(at_once=at_once)

    def enter(self, address: str) -> int:
        """Count a connection from an address and return how many there are from it now."""
        count = self._addresses[address] = self._addresses.get(address, 0) + 1
        return count

    def leave(self, address: str) -> None:
        """Undo one ``enter``."""
        count = self._addresses[address] - 1
        if count:
            self._addresses[address] = count
        else:
            del self._addresses[address]

    def add(self, session: Session) -> None:
        """A session has opened."""
        self._sessions.add(session)

    def remove(self, session: Session) -> None:
        """A session has ended."""
        self._sessions.discard(session)
        if not self._sessions and self.emptied is not None:
            self.emptied()
