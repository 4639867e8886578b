"""The sockets that the supervisor holds and workers adopt: real ones."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet import endpoints
from twisted.internet.defer import succeed
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, formatEvent

from tests.support.reactor import Echo, World
from twistedws import config
from twistedws.errors import ConfigurationError, ListenError
from twistedws.supervisor import sockets
from twistedws.supervisor.sockets import Inherited, ListeningSockets, address_text, adopted_endpoints

HERE = "tcp:0:interface=127.0.0.1"


def listening(*wanted: str) -> config.Listening:
    """The section with these endpoints."""
    return config.Listening(endpoint=wanted, backlog=16)


@pytest.fixture
def held() -> Iterator[ListeningSockets]:
    """What a supervisor holds; at its end all is closed."""
    made = ListeningSockets(MemoryReactorClock())
    yield made
    made.close()
    assert made.descriptors() == {}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that vouches for itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(days=1))
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture
def world() -> Iterator[World]:
    """Our reactor."""
    made = World(asyncio.new_event_loop())
    yield made
    made.close()


class Opened:
    """What systemd has opened."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def inheritedDescriptors(self) -> list[int]:
        return [self.descriptor]


def from_systemd(opened: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have systemd opened this socket; the descriptor is the endpoint's, which closes it."""
    monkeypatch.setattr(endpoints._SystemdParser, "_sddaemon", Opened(opened.detach()))


def opened_by(held: ListeningSockets, *wanted: str) -> list[socket.socket]:
    return held.of(held.open(listening(*wanted)))


def let_go(held: ListeningSockets) -> None:
    """Close what is held as the end of a process does: a duplicate listens on."""
    while held._held:
        held._held.popitem()[1].close()


def connects(each: socket.socket) -> bool:
    """Whether a client is let into the queue."""
    with socket.socket(each.family) as client:
        return client.connect_ex(each.getsockname()) == 0


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


# --- Opening -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", ["", "haproxy:"])
def test_tcp(held: ListeningSockets, wrapped: str) -> None:
    """A TCP endpoint is listened on, blocks nobody, and the log says where."""
    with capturedLogs() as events:
        (each,) = opened_by(held, wrapped + HERE)
    assert each.getblocking() is False
    assert each.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    assert connects(each)
    assert [formatEvent(event) for event in events] == [f"listening on 127.0.0.1:{each.getsockname()[1]}"]


@pytest.mark.skipif(not has_ipv6(), reason="there is no ::1")
def test_tcp6(held: ListeningSockets) -> None:
    """An IPv6 endpoint is listened on."""
    (each,) = opened_by(held, "tcp6:0:interface=\\:\\:1")
    assert each.family == socket.AF_INET6
    assert connects(each)
    assert address_text(each) == f"[::1]:{each.getsockname()[1]}"


def test_unix(held: ListeningSockets, tmp_path: Path) -> None:
    """A UNIX socket has the mode that was asked for; one that a dead process has left there is removed first, and it at the end."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    (each,) = opened_by(held, f"unix:{path}:mode=600")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert connects(each)
    assert address_text(each) == f"unix:{path}"
    held.close()
    assert not path.exists()


def test_a_file_that_is_removed_already(held: ListeningSockets, tmp_path: Path) -> None:
    """A UNIX socket whose file somebody has removed is closed all the same."""
    opened_by(held, f"unix:{tmp_path / 's'}")
    (tmp_path / "s").unlink()
    held.close()
    assert held.descriptors() == {}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux alone has abstract socket addresses")
def test_an_abstract_address(held: ListeningSockets) -> None:
    """An address in no file system has no mode, and no file."""
    opener = sockets._Opener(MemoryReactorClock(), held._at)
    opener.listenUNIX(f"\0twistedws-test-{os.getpid()}", None)
    assert opener.socket is not None
    held._held["unix:abstract"] = opener.socket
    assert connects(opener.socket)
    held.close()


def test_ssl(held: ListeningSockets, certificate: Path) -> None:
    """Of a TLS endpoint the supervisor opens the TCP socket."""
    (each,) = opened_by(held, f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}")
    assert each.family == socket.AF_INET
    assert connects(each)


@pytest.mark.parametrize("wrapped", ["", "haproxy:"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_systemd(
    held: ListeningSockets, wrapped: str, family: socket.AddressFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that systemd opened is held as one of our own, but for its file, which stays."""
    path = tmp_path / "s"
    theirs = socket.socket(family)
    theirs.bind(str(path) if family == socket.AF_UNIX else ("127.0.0.1", 0))
    theirs.listen()
    name = theirs.getsockname()
    from_systemd(theirs, monkeypatch)
    (each,) = opened_by(held, f"{wrapped}systemd:domain={family.name[3:]}:index=0")
    assert each.getsockname() == name
    assert connects(each)
    held.close()
    assert path.exists() == (family == socket.AF_UNIX)


def test_in_use(held: ListeningSockets, tmp_path: Path) -> None:
    """What another listens on is named, with the reason in plain words; what was opened before it is closed again, what was held stays."""
    (before,) = opened_by(held, HERE)
    path, port = tmp_path / "s", before.getsockname()[1]
    taken = f"tcp:{port}:interface=127.0.0.1"
    with pytest.raises(ListenError, match=f"^{taken}:backlog=16: Address already in use$"):
        held.open(listening(HERE, f"unix:{path}", taken))
    assert not path.exists()
    assert list(held.descriptors()) == [f"{HERE}:backlog=16"]
    assert connects(before)


def test_a_place_that_is_none(held: ListeningSockets, tmp_path: Path) -> None:
    """A UNIX socket in a directory that is not there is named, with the reason in plain words."""
    with pytest.raises(ListenError, match=r"s:backlog=16: No such file or directory$"):
        held.open(listening(f"unix:{tmp_path}/none/s"))


@pytest.mark.parametrize("wrong", ["nonsense:1", "tcp:", "systemd:domain=INET:index=9"])
def test_nonsense(held: ListeningSockets, wrong: str) -> None:
    """A text that is no endpoint is a wrong configuration that names it."""
    with pytest.raises(ConfigurationError, match=f"^endpoint: {wrong}"):
        held.open(listening(HERE, wrong))
    assert held.descriptors() == {}


class Strange:
    """An endpoint of another kind."""

    def listen(self, factory: Any) -> Any:
        return succeed(None)


def test_an_endpoint_that_opens_no_socket(held: ListeningSockets, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that asks the reactor for no socket cannot be shared; the error says what is accepted."""
    monkeypatch.setattr(sockets, "serverFromString", lambda reactor, description: Strange())
    with pytest.raises(ConfigurationError, match=r"strange:1: workers cannot share it; .*tcp:.* are accepted"):
        held.open(listening("strange:1"))


# --- Holding -------------------------------------------------------------------------------------------------


def test_keeping(held: ListeningSockets, tmp_path: Path) -> None:
    """What is held stays the same socket when it is asked for again; what is wanted no more is closed, with its file."""
    unix = f"unix:{tmp_path / 's'}"
    first, _ = opened_by(held, HERE, unix)
    assert opened_by(held, HERE) == [first]
    held.keep({f"{HERE}:backlog=16"})
    assert not (tmp_path / "s").exists()
    assert held.descriptors() == {f"{HERE}:backlog=16": first.fileno()}


def test_a_successor(held: ListeningSockets) -> None:
    """Who inherits the descriptors listens on the same sockets, with none opened anew: what waits in their queues waits on."""
    (each,) = opened_by(held, HERE)
    name = each.getsockname()
    with socket.create_connection(name) as client:
        successor = ListeningSockets(MemoryReactorClock(), {text: os.dup(fd) for text, fd in held.descriptors().items()})
        let_go(held)
        with capturedLogs() as events:
            (inherited,) = opened_by(successor, HERE)
        assert events == []
        assert inherited.getsockname() == name
        accepted, address = inherited.accept()
        accepted.close()
        assert address == client.getsockname()
    successor.close()


def test_an_address_without_an_interface(held: ListeningSockets) -> None:
    """An endpoint that names no interface keeps its socket too where its text changes."""
    (first,) = opened_by(held, "tcp:0")
    port = first.getsockname()[1]
    held._held = {f"tcp:{port}:backlog=16": first}
    (second,) = opened_by(held, f"tcp:{port}:backlog=7")
    assert second.getsockname() == first.getsockname()
    held.keep({f"tcp:{port}:backlog=7"})
    assert connects(second)


@pytest.mark.skipif(not has_ipv6(), reason="there is no ::1")
def test_another_text_for_ipv6(held: ListeningSockets) -> None:
    """So does an IPv6 endpoint."""
    (first,) = opened_by(held, "tcp6:0:interface=\\:\\:1")
    port = first.getsockname()[1]
    held._held = {f"tcp6:{port}": first}
    (second,) = opened_by(held, f"tcp6:{port}:interface=\\:\\:1:backlog=7")
    assert second.getsockname() == first.getsockname()


def test_another_text_for_an_address(held: ListeningSockets, tmp_path: Path) -> None:
    """Where the text of an endpoint changes, and its address does not, the socket stays: what waits in its queue waits on."""
    path = tmp_path / "s"
    (first,) = opened_by(held, f"unix:{path}:mode=600")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        (second,) = opened_by(held, f"unix:{path}:mode=640:backlog=9")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert second.fileno() != first.fileno()
        held.keep({f"unix:{path}:mode=640:backlog=9"})
        assert len(held.descriptors()) == 1
        accepted, _ = second.accept()  # the first: nobody has tried whether somebody answers there
        client.sendall(b"x")
        assert accepted.recv(1) == b"x"
        accepted.close()
    assert connects(second)
    assert path.exists()


def test_a_stale_socket_beside_ours(held: ListeningSockets, tmp_path: Path) -> None:
    """What a dead process has left is removed also where its path begins with that of a socket that is held."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "s2"))
    opened_by(held, f"unix:{tmp_path / 's'}")
    _, each = opened_by(held, f"unix:{tmp_path / 's'}", f"unix:{tmp_path / 's2'}")
    assert connects(each)


def test_an_endpoint_twice(held: ListeningSockets) -> None:
    """An endpoint that is given twice is a wrong configuration that names it; nothing is opened."""
    with pytest.raises(ConfigurationError, match=f"^endpoint: {HERE}:backlog=16: it is given twice"):
        held.open(listening(HERE, HERE))
    assert held.descriptors() == {}


def test_an_address_twice(held: ListeningSockets, tmp_path: Path) -> None:
    """Two endpoints of one address are refused, whatever their texts; what was held stays."""
    path = tmp_path / "s"
    (each,) = opened_by(held, f"unix:{path}")
    with pytest.raises(ListenError, match=r"mode=600:backlog=16: Address already in use$"):
        held.open(listening(f"unix:{path}", f"unix:{path}:mode=600"))
    assert list(held.descriptors()) == [f"unix:{path}:backlog=16"]
    assert connects(each)


def test_a_listening_that_fails_on_what_is_shared(held: ListeningSockets, tmp_path: Path) -> None:
    """Where a socket's file is gone its mode cannot be changed: that is said, and the socket is held on."""
    path = tmp_path / "s"
    opened_by(held, f"unix:{path}")
    path.unlink()
    with pytest.raises(ListenError, match=r"No such file or directory$"):
        held.open(listening(f"unix:{path}:mode=600"))
    assert list(held.descriptors()) == [f"unix:{path}:backlog=16"]


def test_closing_for_all(held: ListeningSockets) -> None:
    """What is closed is listened on no more, though somebody has a duplicate: a worker, or what it has started."""
    (each,) = opened_by(held, HERE)
    with each.dup() as theirs:
        held.close()
        assert not connects(theirs)


def test_closing_systemds(held: ListeningSockets, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket of systemd's is listened on after us: what comes waits for the next start."""
    theirs = socket.create_server(("127.0.0.1", 0))
    with theirs.dup() as systemds:
        from_systemd(theirs, monkeypatch)
        opened_by(held, "systemd:domain=INET:index=0")
        held.close()
        assert connects(systemds)


def test_probing(held: ListeningSockets, tmp_path: Path) -> None:
    """To see whether all could be opened opens nothing for good, and leaves what is held; what cannot be is said as it is else."""
    (each,) = opened_by(held, HERE)
    before = held.descriptors()
    held.probe(listening(HERE, f"unix:{tmp_path / 's'}", "tcp:0:interface=127.0.0.1:backlog=9"))
    assert (held.descriptors(), (tmp_path / "s").exists()) == (before, False)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ListenError, match="in use"):
        held.probe(listening(HERE, f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"))
    with pytest.raises(ConfigurationError, match="nonsense"):
        held.probe(listening("tcp:nonsense"))
    assert held.descriptors() == before
    assert connects(each)


def test_what_an_endpoint_is_given() -> None:
    """The port of an endpoint in the supervisor is nobody's: it is not asked for its address."""
    port = sockets._Listened()
    port.startListening()
    port.stopListening()
    with pytest.raises(NotImplementedError):
        port.getHost()


def test_all_else_is_the_reactors() -> None:
    """What stands for the reactor where an endpoint is parsed has all else of the reactor's own."""
    reactor = MemoryReactorClock()
    assert sockets._Opener(reactor, lambda *_: None).getDelayedCalls == reactor.getDelayedCalls


# --- Adopting ------------------------------------------------------------------------------------------------


def adopt(world: World, held: ListeningSockets, *wanted: str) -> Any:
    """Listen in a worker on what a supervisor holds; return its port."""
    inherited = [Inherited(os.dup(each.fileno()), int(each.family)) for each in held.of(held.open(listening(*wanted)))]
    ((description, endpoint),) = adopted_endpoints(listening(*wanted), inherited, world.reactor)
    assert description.startswith(wanted[0])
    ports: list[Any] = []
    endpoint.listen(world.factory(Echo)).addCallback(ports.append)
    port = world.until(lambda: ports)[0]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(inherited[0].descriptor)  # the port has its own
    return port


def stop(world: World, port: Any) -> None:
    stopped: list[bool] = []
    port.stopListening().addCallback(lambda _: stopped.append(True))
    world.until(lambda: stopped)


def test_adopting_tcp(world: World, held: ListeningSockets) -> None:
    """A worker serves what comes to the supervisor's socket, which stays open when the worker's port stops."""
    port = adopt(world, held, HERE)
    client, _ = world.pair(port=port)
    client.sendall(b"x")
    assert world.receive(client, 1) == b"x"
    stop(world, port)
    assert connects(held.of([f"{HERE}:backlog=16"])[0])


def test_adopting_unix(world: World, held: ListeningSockets, tmp_path: Path) -> None:
    """A worker serves a UNIX socket too, and leaves its file when its port stops."""
    path = tmp_path / "s"
    port = adopt(world, held, f"unix:{path}")
    client, _ = world.pair(port=port)
    client.sendall(b"x")
    assert world.receive(client, 1) == b"x"
    stop(world, port)
    assert path.exists()


def test_adopting_unix_on_another_reactor(held: ListeningSockets, tmp_path: Path) -> None:
    """A port of a reactor that is not ours leaves the file too."""
    path, reactor = tmp_path / "s", MemoryReactorClock()
    (each,) = opened_by(held, f"unix:{path}")
    port = sockets._Adopter(reactor, Inherited(os.dup(each.fileno()), int(each.family))).listenUNIX(str(path), Factory())
    assert reactor.getReaders() == [port]
    stopped = port.stopListening()
    reactor.advance(0)
    assert stopped.called
    assert path.exists()


@pytest.mark.parametrize("wrapped", ["", "haproxy:"])
def test_adopting_systemds(world: World, held: ListeningSockets, wrapped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker needs no systemd to serve what the supervisor has of it."""
    theirs = socket.socket()
    theirs.bind(("127.0.0.1", 0))
    theirs.listen()
    from_systemd(theirs, monkeypatch)
    held.open(listening(f"{wrapped}systemd:domain=INET:index=0"))
    monkeypatch.setattr(endpoints._SystemdParser, "_sddaemon", None)
    port = adopt(world, held, f"{wrapped}systemd:domain=INET:index=0")
    client = world.connect(port)
    client.sendall((b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" if wrapped else b"") + b"x")
    assert world.receive(client, 1) == b"x"
    stop(world, port)


def test_adopting_tls(world: World, held: ListeningSockets, certificate: Path) -> None:
    """TLS is the worker's: it answers the handshake on the TCP socket that it adopted."""
    port = adopt(world, held, f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}")
    secure = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), world.connect(port))
    secure.set_connect_state()

    def ready(step: Any) -> Any:
        try:
            return step() or True
        except SSL.WantReadError:
            return None

    world.until(lambda: ready(secure.do_handshake))
    secure.send(b"x")
    assert world.until(lambda: ready(lambda: secure.recv(1))) == b"x"
    stop(world, port)


def test_adopting_whatever_it_asks_for(world: World, held: ListeningSockets) -> None:
    """An endpoint that would adopt a descriptor itself adopts the one that was inherited: the supervisor's number means nothing here."""
    (each,) = opened_by(held, HERE)
    adopter = sockets._Adopter(world.reactor, Inherited(os.dup(each.fileno()), int(each.family)))
    port = adopter.adoptStreamPort(-1, 0, world.factory(Echo))
    assert port.getHost().port == each.getsockname()[1]
    stop(world, port)


def test_adopting_nonsense() -> None:
    """What a worker cannot make of an endpoint's text is a wrong configuration."""
    wrong = "ssl:1:privateKey=/no/such/file"
    with pytest.raises(ConfigurationError, match=f"^endpoint: {wrong}"):
        adopted_endpoints(listening(wrong), [Inherited(-1, int(socket.AF_INET))], MemoryReactorClock())
