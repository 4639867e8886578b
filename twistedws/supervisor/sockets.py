"""The sockets that are listened on: held by the supervisor for as long as it lives, and adopted by each worker.

Owns the descriptors. Its laws:

- A socket stays open from one configuration to the next, and from one supervisor to its successor, if its address is the same: no
  connection is refused meanwhile. What waits in the kernel's queue belongs to no worker.
- The supervisor never accepts; it only listens. A worker never removes a socket's file.

Both sides have Twisted parse the same endpoint strings, so that everything around a socket (TLS, the PROXY protocol) is as in one process.
They differ in the reactor that the endpoint is given: here one that opens a socket, there one that adopts it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from twistedws import config
from twistedws.errors import ConfigurationError, ListenError
from twistedws.listening import descriptions, endpoint_error, listen_error, remove_stale_socket
from twistedws.reactor.loop_reactor import LoopReactor
from twistedws.reactor.port import InheritedUNIXPort

_log = Logger()

_ADOPTED = re.compile(r"^(haproxy:)?systemd:.*")  # endpoints that name descriptors which only the supervisor has inherited


class ListeningSockets:
    """The sockets that the supervisor holds, by the description of their endpoint.

    Args:
        reactor: For endpoints to be parsed with.
        inherited: Descriptors, by description, of the supervisor that this one replaces.
    """

    def __init__(self, reactor: Any, inherited: Mapping[str, int] | None = None) -> None:
        self._reactor = reactor
        self._held = {description: socket.socket(fileno=fd) for description, fd in (inherited or {}).items()}

    def open(self, settings: config.Listening) -> list[str]:
        """Open those of the settings' endpoints that are not open.

        Returns:
            The descriptions, in the order in which workers count them.

        Raises:
            ConfigurationError: A text is no endpoint.
            ListenError: An endpoint cannot be listened on. Those that this call has opened are closed again.
        """
        wanted = descriptions(settings)
        opened: list[str] = []
        try:
            if twice := [each for each in wanted if wanted.count(each) > 1]:
                raise ConfigurationError("endpoint", twice[0], "it is given twice")
            for description in wanted:
                if description not in self._held:
                    self._held[description] = self._listen(description)
                    opened.append(description)
                    _log.info("listening on {address}", address=address_text(self._held[description]))
            places = [(each.family, each.getsockname()) for each in self.of(wanted)]
            if shared := [each for at, each in enumerate(wanted) if places[at] in places[:at]]:
                raise ListenError(f"{shared[0]}: {os.strerror(errno.EADDRINUSE)}")
        except Exception:
            self._close(opened)
            raise
        return wanted

    def probe(self, settings: config.Listening) -> None:
        """See whether ``open`` would succeed, and leave everything as it is.

        Raises:
            ConfigurationError: As ``open``.
            ListenError: As ``open``.
        """
        before = set(self._held)
        self.open(settings)
        self._close([each for each in self._held if each not in before])

    def _listen(self, description: str) -> socket.socket:
        opener = _Opener(self._reactor, self._at)
        try:
            endpoint = serverFromString(opener, description)
        except Exception as error:
            raise endpoint_error(description, error) from error
        if not self._is_ours(description):
            remove_stale_socket(description)
        failures: list[Any] = []
        endpoint.listen(Factory()).addErrback(failures.append)
        if failures:
            raise ListenError(f"{description}: {listen_error(failures[0])}")
        if opener.socket is None:
            raise ConfigurationError(
                "endpoint", description, "workers cannot share it; tcp:, tcp6:, ssl:, unix:, systemd: and haproxy: of these are accepted"
            )
        return opener.socket

    def of(self, wanted: list[str]) -> list[socket.socket]:
        """Return the sockets of these endpoints, in their order."""
        return [self._held[each] for each in wanted]

    def keep(self, wanted: set[str]) -> None:
        """Close all but those of these endpoints, and of systemd's: those could not be opened again."""
        self._close([each for each in self._held if each not in wanted and not _ADOPTED.match(each)])

    def close(self) -> None:
        """Close all."""
        self._close(list(self._held))

    def descriptors(self) -> dict[str, int]:
        """Return the descriptors, by description."""
        return {description: held.fileno() for description, held in self._held.items()}

    def _at(self, family: int, place: object) -> socket.socket | None:
        """Return a duplicate of the socket that is held at an address, if there is one: its endpoint's text may have changed."""
        for held in self._held.values():
            if held.family == family and held.getsockname() == place:
                return held.dup()
        return None

    def _is_ours(self, description: str) -> bool:
        """Whether a UNIX endpoint's socket is held already: to try whether somebody answers there would be a connection."""
        parts = re.split("[:=]", description)
        return any(held.family == socket.AF_UNIX and held.getsockname() in parts for held in self._held.values())

    def _close(self, given_up: list[str]) -> None:
        for description in given_up:
            held = self._held.pop(description)
            name, family = held.getsockname(), held.family
            if _ADOPTED.match(description) or any((each.family, each.getsockname()) == (family, name) for each in self._held.values()):
                held.close()
                continue
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)  # also for what a worker has forked, and what holds it still
            held.close()
            path = name if family == socket.AF_UNIX else ""
            if path and isinstance(path, str):
                with contextlib.suppress(OSError):
                    os.unlink(path)  # noqa: PTH108 - it may be no text of the file system's encoding


def address_text(listening: socket.socket) -> str:
    """Return what is listened on, as the log has it."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    return f"[{name[0]}]:{name[1]}" if listening.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


class _Stand:
    """Stands for the reactor where an endpoint is parsed and listened on; all but listening is the reactor's own."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


class _Opener(_Stand):
    """Opens the socket of an endpoint, and does not accept.

    Args:
        reactor: For all but listening.
        at: Returns the socket that is listened on at an address already; of a family, and an address as ``getsockname`` gives it.

    Attributes:
        socket: The socket; None until it is open.
    """

    def __init__(self, reactor: Any, at: Callable[[int, object], socket.socket | None]) -> None:
        super().__init__(reactor)
        self._at = at
        self.socket: socket.socket | None = None

    def listenTCP(self, port: int, factory: object, backlog: int = 50, interface: str = "") -> _Listened:  # noqa: ARG002
        """Open a TCP socket."""
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        if family == socket.AF_INET:  # as the system will say it: 0.0.0.0 for none
            place: Any = (socket.gethostbyname(interface), port)
        else:  # with its zone
            place = socket.getaddrinfo(interface, port, family, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)[0][4]
        shared = self._at(family, place)
        opened = socket.socket(family, socket.SOCK_STREAM) if shared is None else shared
        try:
            if shared is None:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                opened.bind(place)
            opened.listen(backlog)
        except BaseException:
            opened.close()
            raise
        return self._hold(opened)

    def listenSSL(self, port: int, factory: object, contextFactory: object, backlog: int = 50, interface: str = "") -> _Listened:  # noqa: ARG002
        """Open the TCP socket: TLS is the workers'."""
        return self.listenTCP(port, factory, backlog, interface)

    def listenUNIX(self, address: Any, factory: object, backlog: int = 50, mode: int = 0o666, wantPID: bool = False) -> _Listened:  # noqa: ARG002
        """Open a UNIX socket."""
        shared = self._at(socket.AF_UNIX, os.fsdecode(address))
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) if shared is None else shared
        try:
            if shared is None:
                opened.bind(address)
            if os.fsencode(address)[:1] != b"\0":
                Path(os.fsdecode(address)).chmod(mode)
            opened.listen(backlog)
        except BaseException:
            opened.close()
            raise
        return self._hold(opened)

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: object) -> _Listened:  # noqa: ARG002
        """Take a duplicate of a descriptor that was inherited."""
        return self._hold(socket.fromfd(fileDescriptor, addressFamily, socket.SOCK_STREAM))

    def _hold(self, opened: socket.socket) -> _Listened:
        opened.setblocking(False)
        self.socket = opened
        return _Listened()


@implementer(IListeningPort)
class _Listened:
    """What an endpoint is given for a port in the supervisor, where nobody asks it for anything."""

    def startListening(self) -> None:
        """It listens already."""

    def stopListening(self) -> None:
        """``ListeningSockets`` closes it."""

    def getHost(self) -> IPv4Address | IPv6Address | UNIXAddress:
        """Nobody asks."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Inherited:
    """A listening socket that a worker has inherited.

    Attributes:
        descriptor: Its number here.
        family: ``socket.AF_INET`` and the like.
    """

    descriptor: int
    family: int


def adopted_endpoints(settings: config.Listening, inherited: list[Inherited], reactor: Any) -> list[tuple[str, IStreamServerEndpoint]]:
    """Make a worker's endpoints, each with the string that describes it.

    Args:
        settings: Those that the supervisor opened the sockets by.
        inherited: The sockets, in the order of the endpoints.
        reactor: The worker's.

    Raises:
        ConfigurationError: A string is no endpoint, or names what cannot be read (a certificate).
    """
    made = []
    for description, each in zip(descriptions(settings), inherited, strict=True):
        here = _ADOPTED.sub(r"\1tcp:0", description)  # the number of the descriptor is the supervisor's
        try:
            made.append((description, serverFromString(_Adopter(reactor, each), here)))
        except Exception as error:
            raise endpoint_error(description, error) from error
    return made


class _Adopter(_Stand):
    """Adopts the socket of an endpoint, whatever it asks for.

    Args:
        reactor: The worker's.
        adopted: The socket.
    """

    def __init__(self, reactor: Any, adopted: Inherited) -> None:
        super().__init__(reactor)
        self._adopted = adopted

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:  # noqa: ARG002
        """Adopt it."""
        if self._adopted.family == socket.AF_UNIX and not isinstance(self._reactor, LoopReactor):  # ours knows how to leave its file alone
            shared = InheritedUNIXPort._fromListeningDescriptor(self._reactor, self._adopted.descriptor, factory)  # noqa: SLF001
            shared.startListening()
        else:
            shared = self._reactor.adoptStreamPort(self._adopted.descriptor, self._adopted.family, factory)
        os.close(self._adopted.descriptor)  # the port has a duplicate
        return shared

    def listenSSL(self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Adopt it, for TLS."""
        return self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory, cast("Any", self._reactor)), backlog, interface)

    def listenUNIX(self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: bool = False) -> Any:  # noqa: ARG002
        """Adopt it."""
        return self.listenTCP(0, factory)

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> Any:  # noqa: ARG002
        """Adopt it; the number is the supervisor's."""
        return self.listenTCP(0, factory)
