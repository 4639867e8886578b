"""Where connections come from: endpoints, their backlog, the rate of accepts, and the descriptors for them. Floor 4."""

from __future__ import annotations

import os
import resource
import socket
import stat
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

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
MOST_WAIT = 5  # seconds that a connection waits for the accept rate, about as long as clients have patience; who is behind that is refused

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
    return parsed("endpoint", descriptions(settings), reactor)


def parsed(setting: str, described: Iterable[str], reactor: object) -> list[tuple[str, IStreamServerEndpoint]]:
    """Make the endpoints that a setting describes; see ``endpoints``."""
    made = []
    for description in described:
        try:
            made.append((description, serverFromString(reactor, description)))
        except Exception as error:
            raise endpoint_error(description, error, setting) from error
    return made


def endpoint_error(description: str, error: Exception, setting: str = "endpoint") -> ConfigurationError:
    """Say what is wrong with an endpoint's string, after whatever its parser, or OpenSSL below it, has raised."""
    if isinstance(error, LookupError):
        text = "no such descriptor was inherited (LISTEN_FDS)"
    elif isinstance(error, OSError) and error.errno:
        text = os.strerror(error.errno) + (f": {error.filename}" if error.filename else "")
    else:
        text = str(error) or type(error).__name__
    return ConfigurationError(
        setting, description, f"{' '.join(text.split())}; a server endpoint string of Twisted is accepted, as tcp:8000"
    )


class ListeningService(Service):
    """Listens from start to stop, accepts at a bounded rate.

    Args:
        settings: Where, and how fast.
        reactor: For timers.
        places: What ``endpoints`` returned.
        doing: What is done there, for the log; "" for no line, where another process has said it.
    """

    def __init__(
        self,
        settings: config.Listening,
        reactor: IReactorTime,
        places: list[tuple[str, IStreamServerEndpoint]],
        doing: str = "listening",
    ) -> None:
        self.factory: Factory | None = None  # set before start; it calls ``accepted``
        self._reactor, self._places, self._doing = reactor, places, doing
        self._ports: list[IListeningPort] = []
        rate = settings.accept_rate
        self._bucket = TokenBucket(rate, max(1.0, rate / 10), reactor.seconds()) if rate else None
        self._most_waiting = rate * MOST_WAIT
        self._waiting: IDelayedCall | None = None
        self._shedding = False  # whether more wait than there may
        self._rests = False

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
            remove_stale_socket(description)
            listening = maybeDeferred(endpoint.listen, self.factory)
            listening.addCallbacks(self._listens, lambda failure, where=description: failures.append((where, failure)))
        if failures:
            self.stopService()
            where, failure = failures[0]
            raise ListenError(f"{where}: {listen_error(failure)}")

    def stopService(self) -> Deferred[None]:
        """Listen no more; connections stay."""
        super().stopService()
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        ports, self._ports = self._ports, []
        stopping = DeferredList([maybeDeferred(port.stopListening) for port in ports], consumeErrors=True)
        return cast("Deferred[None]", stopping.addCallback(lambda _: None))

    def accepted(self) -> bool:
        """A connection was accepted: pause all listening while there were too many. The others wait in the backlog, within bounds.

        Returns:
            Whether it is to be served. If not it is to be refused: more wait behind it than are accepted in ``MOST_WAIT`` seconds.
        """
        if self._bucket is None:
            return True
        self._take_one_by_one(0)  # it makes 1 of this, and 21 of the 1 that it was
        if self._shedding and self._crowd() >= self._most_waiting:
            return False
        self._shedding = False
        now = self._reactor.seconds()
        self._bucket.spend(now)
        wait = self._bucket.wait(now)
        if wait > 0 and self._waiting is None:
            for port in self._ports:
                cast("IPushProducer", port).pauseProducing()
            self._waiting = self._reactor.callLater(wait, self._accept_again)
        return True

    def _accept_again(self) -> None:
        self._waiting = None
        crowd = self._crowd()
        self._shedding = crowd > self._most_waiting
        if self._shedding:
            _log.warn(
                "{crowd} connections wait, and accept-rate lets in {most:g} in {seconds} s: refusing those above", crowd=crowd,
                most=self._most_waiting, seconds=MOST_WAIT, limit="accept-rate",
            )  # fmt: skip
        self._take_one_by_one(1)
        for port in self._ports:
            cast("IPushProducer", port).resumeProducing()

    def rest(self) -> None:
        """Accept nothing until ``resume``; what has been accepted is served. Ports that are opened meanwhile rest too."""
        self._rests = True
        for port in self._ports:
            cast("IPushProducer", port).pauseProducing()

    def resume(self) -> None:
        """Accept again."""
        self._rests = False
        self._take_one_by_one(1)
        for port in self._ports:
            cast("IPushProducer", port).resumeProducing()

    def _crowd(self) -> int:
        """Return how many wait to be accepted, as far as the kernel tells."""
        return sum(waiting_in(each) for port in self._ports if (each := getattr(port, "socket", None)) is not None)

    def _take_one_by_one(self, number: int) -> None:
        """Have a port of Twisted's take one connection at a time; it takes a hundred otherwise (tcp.Port.doRead)."""
        for port in self._ports:
            cast("Any", port).numberAccepts = number

    def _listens(self, port: IListeningPort) -> None:
        self._ports.append(port)
        if self._bucket is not None:
            self._take_one_by_one(1)
        if self._rests:
            port.holds_accepted = False  # type: ignore[attr-defined]  # it is one of ours
            cast("IPushProducer", port).pauseProducing()
        if self._doing:
            _log.info("{doing} on {address}", doing=self._doing, address=_address_text(port))


def waiting_in(listening: socket.socket) -> int:
    """Return how many connections wait in a listening socket's queue to be accepted; 0 where that is not known."""
    if sys.platform != "linux" or listening.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    try:
        # tcp_info.tcpi_unacked of a listening socket is the length of its queue (net/ipv4/tcp.c:tcp_get_info)
        return cast("int", struct.unpack_from("=I", listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)[0])
    except OSError:
        return 0


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


def remove_stale_socket(description: str) -> None:
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


def listen_error(failure: Failure) -> str:
    """Say in a few words why an endpoint cannot be listened on."""
    error = failure.value
    cause = error.socketError if isinstance(error, CannotListenError) else error
    if str(cause) == "Cannot acquire lock":  # Twisted's lock file beside a UNIX socket
        return "another process listens there"
    number = getattr(cause, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    # a name that cannot be resolved has a number of another list (socket.gaierror)
    return " ".join(str(getattr(cause, "strerror", None) or cause).split()) or type(cause).__name__


def _address_text(port: IListeningPort) -> str:
    host = port.getHost()
    if isinstance(host, UNIXAddress):
        return f"unix:{os.fsdecode(host.name or b'')}"
    if isinstance(host, IPv6Address):
        return f"[{host.host}]:{host.port}"
    return f"{host.host}:{host.port}" if isinstance(host, IPv4Address) else str(host)
