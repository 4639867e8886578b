"""Where connections come from: endpoints, their backlog, the rate of accepts, and the descriptors for them. Floor 4."""

from __future__ import annotations

import os
import resource
import socket
import stat
from pathlib import Path
from typing import cast

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IPushProducer, IReactorTime, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from twistedws import config
from twistedws.errors import ConfigurationError, ListenError
from twistedws.limits import TokenBucket

_log = Logger()

RESERVED_DESCRIPTORS = 100  # for logs, name look-ups, the application's files; the rest may be connections

_WITH_BACKLOG = ("tcp:", "tcp6:", "ssl:", "unix:")


def descriptions(settings: config.Listening) -> list[str]:
    """Return the endpoint strings to listen on, each with the backlog where its kind takes one and it names none."""
    if not settings.endpoint:
        interface = quoteStringArgument(settings.interface)
        return [f"tcp:{settings.port}:interface={interface}:backlog={settings.backlog}"]
    return [_with_backlog(each, settings.backlog) for each in settings.endpoint]


def _with_backlog(description: str, backlog: int) -> str:
    kind = description[len("haproxy:") :] if description.startswith("haproxy:") else description
    if kind.startswith(_WITH_BACKLOG) and ":backlog=" not in description:
        return f"{description}:backlog={backlog}"
    return description


def endpoints(settings: config.Listening, reactor: object) -> list[tuple[str, IStreamServerEndpoint]]:
    """Make the endpoints, each with the string that describes it.

    Raises:
        ConfigurationError: A string is no endpoint, or names what cannot be read (a certificate).
    """
    made = []
    for description in descriptions(settings):
        try:
            made.append((description, serverFromString(reactor, description)))
        except Exception as error:  # whatever an endpoint's parser, or OpenSSL below it, raises
            text = "no such descriptor was inherited (LISTEN_FDS)" if isinstance(error, IndexError) else str(error) or type(error).__name__
            raise ConfigurationError(
                "endpoint", description, f"{' '.join(text.split())}; a server endpoint string of Twisted is accepted, as tcp:8000"
            ) from error
    return made


class ListeningService(Service):
    """Listens from start to stop, accepts at a bounded rate.

    Args:
        settings: Where, and how fast.
        reactor: For timers.
        places: What ``endpoints`` returned.
    """

    def __init__(self, settings: config.Listening, reactor: IReactorTime, places: list[tuple[str, IStreamServerEndpoint]]) -> None:
        self.factory: Factory | None = None  # set before start; it calls ``accepted``
        self._reactor, self._places = reactor, places
        self._ports: list[IListeningPort] = []
        rate = settings.accept_rate
        self._bucket = TokenBucket(rate, max(1.0, rate / 10), reactor.seconds()) if rate else None
        self._waiting: IDelayedCall | None = None

    @property
    def ports(self) -> tuple[IListeningPort, ...]:
        """What is listened on."""
        return tuple(self._ports)

    def startService(self) -> None:
        """Listen.

        Raises:
            ListenError: An endpoint cannot be listened on; those before it are listened on no more.
        """
        super().startService()
        if self.factory is None:
            raise RuntimeError("a factory is set before the start")
        failures: list[tuple[str, Failure]] = []
        for description, endpoint in self._places:
            _remove_stale_socket(description)
            listening = maybeDeferred(endpoint.listen, self.factory)
            listening.addCallbacks(self._listens, lambda failure, where=description: failures.append((where, failure)))
        if failures:
            self.stopService()
            where, failure = failures[0]
            raise ListenError(f"{where}: {_plain(failure)}")

    def stopService(self) -> Deferred[None]:
        """Listen no more; connections stay."""
        super().stopService()
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        ports, self._ports = self._ports, []
        stopping = DeferredList([maybeDeferred(port.stopListening) for port in ports], consumeErrors=True)
        return cast("Deferred[None]", stopping.addCallback(lambda _: None))

    def accepted(self) -> None:
        """A connection was accepted: pause all listening while there were too many. They wait in the backlog; none is refused."""
        if self._bucket is None:
            return
        now = self._reactor.seconds()
        self._bucket.spend(now)
        wait = self._bucket.wait(now)
        if wait > 0 and self._waiting is None:
            for port in self._ports:
                cast("IPushProducer", port).pauseProducing()
            self._waiting = self._reactor.callLater(wait, self._accept_again)

    def _accept_again(self) -> None:
        self._waiting = None
        for port in self._ports:
            port.numberAccepts = 1  # type: ignore[attr-defined]  # Twisted's port takes a hundred at a time otherwise
            cast("IPushProducer", port).resumeProducing()

    def _listens(self, port: IListeningPort) -> None:
        self._ports.append(port)
        _log.info("listening on {address}", address=_address_text(port))


def raise_descriptor_limit() -> int:
    """Raise this process's limit on descriptors to the hard limit.

    Returns:
        The limit now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # macOS says "infinity" and takes no more than OPEN_MAX
        fitting = min(hard, 10240) if hard > 0 else 10240
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, fitting), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def most_connections(asked: int, descriptors: int) -> int:
    """Return how many connections there may be: as many as asked for (0: any number), and never more than there are descriptors."""
    possible = max(1, descriptors - RESERVED_DESCRIPTORS) if descriptors > 0 else 0
    return min(asked or possible, possible or asked)


def _remove_stale_socket(description: str) -> None:
    """Remove the socket that a process which died has left where a UNIX endpoint is to be; never one that somebody answers on."""
    kind = description[len("haproxy:") :] if description.startswith("haproxy:") else description
    if not kind.startswith("unix:"):
        return
    path = Path(kind[len("unix:") :].split(":")[0].removeprefix("address="))
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink()
    except OSError:
        return  # listening will say what is wrong


def _plain(failure: Failure) -> str:
    error = failure.value
    if isinstance(error, CannotListenError):
        cause = error.socketError
        if str(cause) == "Cannot acquire lock":  # Twisted's lock file beside a UNIX socket
            return "another process listens there"
        number = getattr(cause, "errno", None)
        return os.strerror(number) if isinstance(number, int) else str(cause)
    return " ".join(str(error).split()) or type(error).__name__


def _address_text(port: IListeningPort) -> str:
    host = port.getHost()
    if isinstance(host, UNIXAddress):
        return f"unix:{os.fsdecode(host.name or b'')}"
    if isinstance(host, IPv6Address):
        return f"[{host.host}]:{host.port}"
    return f"{host.host}:{host.port}" if isinstance(host, IPv4Address) else str(host)
