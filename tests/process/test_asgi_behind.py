"""An ASGI application by every way that leads to it: TCP, TLS, UNIX sockets, nginx and HAProxy, with HTTP beside WebSocket on each.

By each way everything works, the application and the log have the client's own address and scheme, and what a client says of itself in
forwarding headers changes neither. The proxies are real, on the fragments of ``etc/``, in which a way replaces no more than it is about.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.memory import request
from tests.support.proxies import Proxy, haproxy, nginx
from tests.support.raw import Raw
from tests.support.server import Server, wait_until
from tests.support.tools import needs

APP = "asgi_ends:app"
SOURCE = "127.0.0.9"  # where clients come from; proxies come from 127.0.0.1
TRUSTING = "--trusted-proxies=127.0.0.1"
PROXIED = "haproxy:tcp:0:interface=127.0.0.1"
TLS = "ssl:0:interface=@host:privateKey=@certificate/key.pem:certKey=@certificate/cert.pem"
SIZES = [0, 125, 126, 65_535, 65_536, 1 << 20]

NGINX_TLS = (
    "listen 127.0.0.1:@port;",
    "listen 127.0.0.1:@port ssl; ssl_certificate @certificate/cert.pem; ssl_certificate_key @certificate/key.pem;",
)
HAPROXY_TLS = ("bind 127.0.0.1:@port\n", "bind 127.0.0.1:@port ssl crt @certificate/both.pem alpn http/1.1\n")
HAPROXY_6 = ("bind 127.0.0.1:@port\n", "bind 127.0.0.1:@port\n    bind ::1:@port\n")
PROXY_BACKEND = "backend twistedws_proxy_protocol from twistedws\n"
HAPROXY_PROTO = "    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]\n"

Edits = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Way:
    """How a client reaches the application.

    Attributes:
        endpoint: Where the server listens; what begins with ``@`` is replaced.
        options: More of the server's.
        proxy: "nginx", a backend of HAProxy's, or "".
        edits: What is replaced in the proxy's configuration.
        secure: Whether the client speaks TLS.
        host: Of the client and of what it connects to.
        port_known: Whether the server knows the client's port.
    """

    endpoint: str = "tcp:0:interface=127.0.0.1"
    options: tuple[str, ...] = ()
    proxy: str = ""
    edits: Edits = ()
    secure: bool = False
    host: str = "127.0.0.1"
    port_known: bool = True


def _by_headers(proxy: str, *edits: tuple[str, str], options: tuple[str, ...] = (), **more: Any) -> Way:
    return Way(options=(TRUSTING, *options), proxy=proxy, edits=edits, port_known=False, **more)


WAYS = {
    "tcp": Way(),
    "tcp6": Way("tcp6:0:interface=\\:\\:1", host="::1"),
    "tls": Way(TLS, secure=True),
    "tls6": Way(TLS, secure=True, host="::1"),
    "unix": Way("unix:@socket", host=""),
    "nginx": _by_headers("nginx"),
    "nginx-tls": _by_headers("nginx", NGINX_TLS, secure=True),
    "nginx-unix": Way(
        "unix:@socket:mode=666", ("--trusted-proxies=unix",), "nginx",
        (("server 127.0.0.1:1 max_fails=0;", "server unix:@socket max_fails=0;"),), port_known=False,
    ),
    "nginx-appends": _by_headers("nginx", ("X-Forwarded-For $remote_addr;", "X-Forwarded-For $proxy_add_x_forwarded_for;")),
    "nginx-forwarded": _by_headers(
        "nginx", ("Forwarded '';", 'Forwarded "$http_forwarded, for=$remote_addr;proto=$scheme";'), NGINX_TLS,
        options=("--proxy-headers=forwarded",), secure=True,
    ),
    "nginx6": _by_headers("nginx", ("listen 127.0.0.1:@port;", "listen 127.0.0.1:@port; listen [::1]:@port;"), host="::1"),
    "haproxy": Way(PROXIED, proxy="twistedws_proxy_protocol"),
    "haproxy6": Way(PROXIED, proxy="twistedws_proxy_protocol", edits=(HAPROXY_6,), host="::1"),
    "haproxy-plain6": _by_headers("twistedws_plain", HAPROXY_6, host="::1"),
    "haproxy-tls": Way(
        PROXIED, ("--trusted-proxies=*",), "twistedws_proxy_protocol",
        (
            ("#     http-request del-header X-Forwarded-For\n", ""),
            ("#     http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]\n", ""),
            (
                PROXY_BACKEND,
                PROXY_BACKEND + "    http-request del-header X-Forwarded-For\n" + HAPROXY_PROTO,
            ),
            HAPROXY_TLS,
        ),
        secure=True,
    ),
    "haproxy-plain": _by_headers("twistedws_plain"),
    "haproxy-plain-tls": _by_headers("twistedws_plain", HAPROXY_TLS, secure=True),
    "haproxy-appends": _by_headers("twistedws_plain", ("http-request set-header X-Forwarded-For %[src]", "option forwardfor")),
    "haproxy-forwarded": _by_headers(
        "twistedws_plain", HAPROXY_TLS,
        ("http-request del-header Forwarded", "http-request add-header Forwarded for=%[src];proto=%[ssl_fc,iif(https,http)]"),
        options=("--proxy-headers=forwarded",), secure=True,
    ),
}  # fmt: skip


class TlsSocket(ssl.SSLSocket):
    """For a client that reads in one thread and writes in another, as websockets' does: OpenSSL allows one at a time on a connection."""

    lock: threading.Lock

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Wait for something to read before the lock is taken."""
        while True:
            if not self.pending() and not select.select([self], [], [], 20)[0]:
                raise TimeoutError
            with self.lock:
                self.setblocking(False)
                try:
                    return super().recv(buflen, flags)
                except ssl.SSLWantReadError:
                    continue  # what came was no data, but a session ticket
                finally:
                    self.settimeout(20)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Write all under the lock: what a server sends meanwhile can wait."""
        with self.lock:
            super().sendall(data, flags)


class Joined(http.client.HTTPConnection):
    """An HTTP client's connection that is there already."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__("localhost", timeout=20)
        self.sock = connected


@dataclass
class Place:
    """A server that is reached by a way."""

    way: Way
    server: Server
    port: int  # that clients connect to
    path: Path  # or this
    trust: ssl.SSLContext

    def connect(self, source: str = SOURCE) -> socket.socket:
        """Return a new connection, TLS and all."""
        if not self.way.host:
            connected = socket.socket(socket.AF_UNIX)
            connected.settimeout(20)
            connected.connect(str(self.path))
            return connected
        origin = ("::1" if ":" in self.way.host else source, 0)
        connected = socket.create_connection((self.way.host, self.port), timeout=20, source_address=origin)
        if not self.way.secure:
            return connected
        wrapped = self.trust.wrap_socket(connected, server_hostname="localhost")
        assert isinstance(wrapped, TlsSocket)
        wrapped.lock = threading.Lock()
        return wrapped

    def http(self, source: str = SOURCE) -> Joined:
        """Return an HTTP client."""
        return Joined(self.connect(source))

    def websocket(self, path: str = "/", source: str = SOURCE, **options: Any) -> ClientConnection:
        """Return a WebSocket client that sends no pings of its own, and has no limit on what it receives."""
        client: ClientConnection = connect(
            f"ws://localhost{path}", sock=self.connect(source), ping_interval=None, max_size=None, compression=None, proxy=None, **options
        )
        return client

    def get(self, path: str, source: str = SOURCE) -> Any:
        """Return the JSON that a GET gives, on a connection of its own."""
        with contextlib.closing(self.http(source)) as client:
            return ask(client, "GET", path)

    def client(self, connected: socket.socket) -> list[Any] | None:
        """What the application is to know of a client."""
        if not self.way.host:
            return None
        host, port = connected.getsockname()[:2]
        return [host, port if self.way.port_known else 0]

    def peer(self, connected: socket.socket) -> str:
        """What the log is to say of a client."""
        known = self.client(connected)
        if known is None:
            return "unix"
        host, port = known
        if not port:
            return str(host)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def own(self) -> list[Any]:
        """What the application is to know of the server."""
        if "unix:" in self.way.endpoint:
            return [str(self.path), None]
        if "haproxy:" in self.way.endpoint:  # a PROXY header brings the address that the client has connected to
            return [self.way.host, self.port]
        return ["127.0.0.1" if self.way.proxy else self.way.host, self.server.port]

    def scheme(self, kind: str) -> str:
        """The right scheme of a request of a kind."""
        return {"http": ("http", "https"), "websocket": ("ws", "wss")}[kind][self.way.secure]


def ask(client: Joined, method: str, path: str, headers: tuple[tuple[str, str], ...] = ()) -> Any:
    """Return the JSON that a request gives on a connection that goes on."""
    client.putrequest(method, path)
    for name, value in headers:
        client.putheader(name, value)
    client.endheaders()
    response = client.getresponse()
    assert response.status == 200, response.status
    return json.loads(response.read())


@contextlib.contextmanager
def stand(way: Way, directory: Path, certificate: Path, *options: str, edits: Edits = ()) -> Iterator[Place]:
    """Start a server, and the proxy before it."""
    names = {"@host": way.host.replace(":", "\\:"), "@certificate": str(certificate), "@socket": str(directory / "ws.sock")}

    def filled(text: str) -> str:
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(f"--endpoint={filled(way.endpoint)}", *way.options, *options, APP))
        port = 1 if "unix:" in way.endpoint else server.port
        if way.proxy:
            proxy = nginx(directory, port) if way.proxy == "nginx" else haproxy(directory, port, way.proxy)
            names["@port"] = str(proxy.port)
            edit(directory, way.proxy, tuple((filled(old), filled(new)) for old, new in (*way.edits, *edits)))
            port = stack.enter_context(proxy).port
        trust = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        trust.sslsocket_class = TlsSocket
        yield Place(way, server, port, directory / "ws.sock", trust)


def edit(directory: Path, proxy: str, edits: Edits) -> None:
    """Replace texts, each of which must be there, in the configuration of a proxy that has not been started."""
    path = directory / ("twistedws.conf" if proxy == "nginx" else "haproxy.cfg")
    text = path.read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text, f"{path.name} has no {old!r}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a self-signed certificate for localhost; HAProxy wants it and its key in one file."""
    place = tmp_path_factory.mktemp("certificate")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(place / "key.pem"), "-out", str(place / "cert.pem")]
    command = [needs("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *names]
    subprocess.run(command, check=True, capture_output=True)
    (place / "both.pem").write_bytes((place / "cert.pem").read_bytes() + (place / "key.pem").read_bytes())
    return place


@pytest.fixture(scope="module", params=list(WAYS))
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Place]:
    """The application, by each way."""
    name = request.param
    with stand(WAYS[name], tmp_path_factory.mktemp(name), certificate) as there:
        yield there
        assert not there.server.lines(r"a fault of this server|Unhandled|Traceback|Z (error|critical) ")


# What the application is told


def test_http_scope(place: Place) -> None:
    """The scope of a request has the client's address, the right scheme and the path as sent; the log has the same client."""
    with contextlib.closing(place.http()) as client:
        told = ask(client, "GET", "/a%20b/%C3%A9?q=1%202")
        assert told["client"] == place.client(client.sock)
        assert told["scheme"] == place.scheme("http")
        assert told["server"] == place.own()
        assert (told["type"], told["method"], told["http_version"], told["root_path"]) == ("http", "GET", "1.1", "")
        assert (told["path"], told["raw_path"], told["query"]) == ("/a b/é", "/a%20b/%C3%A9", "q=1%202")
        assert dict(told["headers"])["host"] == "localhost"
        line = rf"answered peer={re.escape(place.peer(client.sock))} method=GET path=/a%20b/%C3%A9\?q=1%202 status=200 "
        place.server.wait_for_line(line)


def test_websocket_scope(place: Place) -> None:
    """The scope of a WebSocket has the same, and the line at its end too."""
    with place.websocket("/a%20b/%C3%A9?q=1%202") as client:
        told = json.loads(client.recv(timeout=20))
        assert told["client"] == place.client(client.socket)
        assert told["scheme"] == place.scheme("websocket")
        assert told["server"] == place.own()
        assert (told["type"], told["http_version"], told["root_path"]) == ("websocket", "1.1", "")
        assert (told["path"], told["raw_path"], told["query"]) == ("/a b/é", "/a%20b/%C3%A9", "q=1%202")
        peer = place.peer(client.socket)
    place.server.wait_for_line(rf"closed session=\w+ peer={re.escape(peer)} path=/a%20b/%C3%A9\?q=1%202 .* code=1000 cause=client")


SPOOFS: dict[str, tuple[tuple[str, str], ...]] = {
    "x-forwarded": (("X-Forwarded-For", "203.0.113.1"), ("X-Forwarded-Proto", "@other")),
    "several-fields": (("X-Forwarded-For", "203.0.113.1"), ("X-Forwarded-For", "203.0.113.2"), ("X-Forwarded-Proto", "@other, @other")),
    "chain-with-the-proxy": (("X-Forwarded-For", "203.0.113.1, 127.0.0.1"), ("X-Forwarded-Proto", "@other, @other")),
    "empty-elements": (("X-Forwarded-For", "203.0.113.1,,"), ("X-Forwarded-Proto", "@other,")),
    "port": (("X-Forwarded-For", "203.0.113.1:99"), ("X-Forwarded-Port", "99"), ("X-Forwarded-Host", "forged.example")),
    "forwarded": (("Forwarded", "for=203.0.113.1;proto=@other"),),
    "forwarded-with-the-proxy": (("Forwarded", "for=203.0.113.1;proto=@other, for=127.0.0.1;proto=@other"),),
    "forwarded-open-quote": (("Forwarded", 'for=203.0.113.1;proto=@other, for="'),),
    "forwarded-malformed": (("Forwarded", "for=203.0.113.1;proto=@other,;=,\\"),),
    "others": (
        ("X-Real-IP", "203.0.113.1"), ("X-Client-IP", "203.0.113.1"), ("True-Client-IP", "203.0.113.1"),
        ("CF-Connecting-IP", "203.0.113.1"), ("X_Forwarded_For", "203.0.113.1"), ("X-Forwarded-Ssl", "on"),
        ("Front-End-Https", "on"), ("X-Forwarded-Scheme", "@other"),
    ),
}  # fmt: skip


def test_spoofed(place: Place) -> None:
    """What a client says of itself changes neither its address nor the scheme, sent to the server directly or through a proxy."""
    lines = []
    for name, fields in SPOOFS.items():
        headers = tuple((field, value.replace("@other", "http" if place.way.secure else "https")) for field, value in fields)
        with contextlib.closing(place.http()) as client:
            told = ask(client, "GET", f"/spoofed-{name}", headers)
            assert (told["client"], told["scheme"]) == (place.client(client.sock), place.scheme("http")), name
            lines.append(rf"answered peer={re.escape(place.peer(client.sock))} method=GET path=/spoofed-{name} ")
        with place.websocket(f"/spoofed-{name}", additional_headers=headers) as session:
            told = json.loads(session.recv(timeout=20))
            assert (told["client"], told["scheme"]) == (place.client(session.socket), place.scheme("websocket")), name
            lines.append(rf"closed session=\w+ peer={re.escape(place.peer(session.socket))} path=/spoofed-{name} ")
    for line in lines:  # last: the log is written some time after
        place.server.wait_for_line(line)


# What passes


def test_echo(place: Place) -> None:
    """Text and binary messages of all lengths come back."""
    with place.websocket() as client:
        client.recv(timeout=20)
        for size in SIZES:
            for message in ("x" * size, os.urandom(size)):
                client.send(message)
                assert client.recv(timeout=20) == message


def test_close_codes(place: Place) -> None:
    """The code and reason of a close pass both ways: the client's to the application, the application's to the client."""
    before = place.get("/disconnects").get("/left", [])
    with place.websocket("/left") as client:
        client.recv(timeout=20)
        client.close(4001, "goodbye")
    wait_until(lambda: place.get("/disconnects").get("/left", []) == [*before, [4001, "goodbye"]], what="the application's word of the end")
    with place.websocket() as client:
        client.recv(timeout=20)
        client.send("close 4002 enough")
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=20)
        assert (client.close_code, client.close_reason) == (4002, "enough")


def test_denied(place: Place) -> None:
    """A session that the application does not accept is refused with 403."""
    with pytest.raises(InvalidStatus) as refusal:
        place.websocket("/denied")
    assert refusal.value.response.status_code == 403


def test_methods_on_one_connection(place: Place) -> None:
    """GET, HEAD, POST of known and of unknown length pass one after the other on one connection of the client's."""
    with contextlib.closing(place.http()) as client:
        kept = client.sock
        for _ in range(2):
            assert ask(client, "GET", "/")["method"] == "GET"
            client.request("HEAD", "/")
            response = client.getresponse()
            assert (response.status, response.read()) == (200, b"")
            assert int(response.headers["Content-Length"]) > 0
            for body in (b"", b"hello", os.urandom(100_000)):
                client.request("POST", "/echo", body, {"Content-Type": "application/octet-stream"})
                assert client.getresponse().read() == body
                client.request("POST", "/echo", iter([body[:3], body[3:]]), encode_chunked=True)
                assert client.getresponse().read() == body
            assert ask(client, "DELETE", "/")["method"] == "DELETE"
        assert client.sock is kept


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_upload(place: Place, is_chunked: bool) -> None:
    """A body of megabytes arrives whole."""
    body = os.urandom(4 << 20)
    pieces = (body[start : start + 50_000] for start in range(0, len(body), 50_000))
    with contextlib.closing(place.http()) as client:
        client.request("PUT", "/upload", pieces if is_chunked else body, encode_chunked=is_chunked)
        response = client.getresponse()
        assert response.status == 200
        assert json.loads(response.read()) == {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}


def test_event_stream(place: Place) -> None:
    """Each event is there before the next one is asked for: nothing on the way gathers them; the client's leaving is heard."""
    client = place.http()
    client.request("GET", "/events", headers={"Accept": "text/event-stream"})
    response = client.getresponse()
    assert response.headers["Content-Type"] == "text/event-stream"
    assert (response.readline(), response.readline()) == (b": begun\n", b"\n")
    for number in range(1, 6):
        assert place.get("/next") == 1
        assert (response.readline(), response.readline()) == (b"data: %d\n" % number, b"\n")
    response.close()
    client.close()
    wait_until(lambda: place.get("/next") == 0, 20, "the application's word of the client's leaving")


# Who may say who the client is


V2 = b"\r\n\r\n\x00\r\nQUIT\n"
PROXY_HEADERS = {
    "v1": b"PROXY TCP4 203.0.113.1 127.0.0.1 5555 80\r\n",
    "v1-unknown": b"PROXY UNKNOWN\r\n",
    "v2": V2 + b"\x21\x11" + struct.pack("!H4s4sHH", 12, bytes((203, 0, 113, 1)), bytes((127, 0, 0, 1)), 5555, 80),
    "v2-local": V2 + b"\x20\x00\x00\x00",
}
DIRECT_TCP = ["tcp", "tls", "nginx", "haproxy-plain"]  # the ways whose endpoint is no `haproxy:`


@pytest.fixture
def direct(request: pytest.FixtureRequest, tmp_path: Path, certificate: Path) -> Iterator[Place]:
    """A server by one of the ways, with no proxy before it."""
    way = WAYS[request.param]
    bare = Way(way.endpoint, way.options, secure=way.secure and not way.proxy, host=way.host)
    with stand(bare, tmp_path, certificate) as there:
        yield there


@pytest.mark.parametrize("direct", DIRECT_TCP, indirect=True)
def test_proxy_header_where_none_belongs(direct: Place) -> None:
    """An endpoint that is no ``haproxy:`` takes a PROXY header for the bad request that it is, also from a trusted proxy."""
    for header in PROXY_HEADERS.values():
        for source in (SOURCE, "127.0.0.1"):
            with contextlib.closing(direct.connect(source)) as peer:
                peer.sendall(header + request())
                answer = peer.recv(65536)
                assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert direct.get("/")["client"][0] == SOURCE
    assert not direct.server.lines(r"203\.0\.113")


HEADLESS = {
    "GET": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.1\r\n\r\n",
    "upgrade": request(),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "v1-of-no-address": b"PROXY TCP4 nowhere 127.0.0.1 5555 80\r\n" + request(),
    "v1-cut": b"PROXY TCP4 203.0.113.1\r\n" + request(),
    "v1-with-no-end": b"PROXY" + b" " * 200,
    "v4": V2 + b"\x41\x11\x00\x0c" + bytes(12) + request(),
}


@pytest.fixture(scope="module")
def proxied() -> Iterator[Server]:
    """A server with a ``haproxy:`` endpoint, for peers that send it anything."""
    with Server(f"--endpoint={PROXIED}", APP) as server:
        yield server
        assert not server.lines(r"Unhandled|Traceback|Z (error|critical) ")


@pytest.mark.parametrize("data", HEADLESS.values(), ids=HEADLESS)
def test_no_proxy_header_where_one_belongs(proxied: Server, data: bytes) -> None:
    """A ``haproxy:`` endpoint ends a connection that does not begin with a PROXY header, with no answer, and serves all others."""
    with Raw(proxied.port) as peer:
        peer.send(data)
        assert peer.read_end() == b""
    for header, client in ((PROXY_HEADERS["v1"], ["203.0.113.1", 5555]), (PROXY_HEADERS["v2"], ["203.0.113.1", 5555])):
        with Raw(proxied.port) as peer:
            peer.send(header + b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert peer.read_head()[0] == 200
            assert json.loads(peer.read_end())["client"] == client
    assert not proxied.lines(r"Unhandled|Traceback|Z (error|critical) ")


@pytest.mark.parametrize(
    "options",
    [(), ("--trusted-proxies=10.0.0.0/8",), ("--trusted-proxies=unix",), (TRUSTING, "--proxy-headers=forwarded")],
    ids=["nobody", "others", "unix", "another-family"],
)
def test_not_trusted(options: tuple[str, ...]) -> None:
    """What a neighbour says of others is not believed where it is not trusted, or says it in headers that are not read."""
    with Server(*options, APP) as server, Raw(server.port) as peer:
        for _ in range(2):
            peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.1\r\nX-Forwarded-Proto: https\r\n\r\n")
            status, head = peer.read_head()
            length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]  # the application gives one
            while len(peer.data) < length:
                assert peer._read()
            told = json.loads(bytes(peer.data[:length]))
            del peer.data[:length]
            assert (status, told["client"], told["scheme"]) == (200, list(peer.socket.getsockname()), "http")


# Connections that a proxy shares


def ends_at(port: int) -> set[int]:
    """The other ports of the connections that are established at a port of the loopback."""
    fields = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    local = f"0100007F:{port:04X}"
    return {int(each[2].partition(":")[2], 16) for each in fields if (each[1], each[3]) == (local, "01")}


REUSING = {
    "nginx": (WAYS["nginx"], ()),
    "nginx-forwarded": (WAYS["nginx-forwarded"], ()),
    "haproxy": (WAYS["haproxy-plain"], (("http-reuse safe", "http-reuse always"),)),
}  # fmt: skip


@pytest.mark.parametrize("name", REUSING)
def test_shared_connection(name: str, tmp_path: Path, certificate: Path) -> None:
    """Requests of several clients, then an upgrade, go on one connection of the proxy's, and each has its own client's address."""
    way, edits = REUSING[name]
    # HAProxy's health checks would be connections too
    quiet = ((" check inter 2s fall 2 rise 1", ""),) if way.proxy.startswith("twistedws") else ()
    with stand(way, tmp_path, certificate, edits=(*edits, *quiet)) as place:
        shared: set[int] = set()
        for host in ("127.0.0.2", "127.0.0.3", "127.0.0.2"):
            told = place.get(f"/from-{host}", host)
            assert (told["client"], told["scheme"]) == ([host, 0], place.scheme("http"))
            place.server.wait_for_line(rf"answered peer={re.escape(host)} method=GET path=/from-{host} ")
            shared = shared or ends_at(place.server.port)
            assert len(shared) == 1
            assert ends_at(place.server.port) == shared
        with place.websocket("/upgraded", "127.0.0.4") as session:
            told = json.loads(session.recv(timeout=20))
            assert (told["client"], told["scheme"]) == (["127.0.0.4", 0], place.scheme("websocket"))
            assert ends_at(place.server.port) == shared
            session.send("hello")
            assert session.recv(timeout=20) == "hello"
        place.server.wait_for_line(r"closed session=\w+ peer=127\.0\.0\.4 path=/upgraded .* code=1000")


def test_upgrade_on_the_clients_own_connection(tmp_path: Path, certificate: Path) -> None:
    """With the PROXY protocol a connection to the server is one client's: it may become a WebSocket, another client gets another."""
    edits = (
        (" check inter 2s fall 2 rise 1", ""),
        ("balance leastconn", "balance leastconn\n    http-reuse always"),
        ("http-reuse safe", ""),
    )
    with stand(WAYS["haproxy"], tmp_path, certificate, edits=edits) as place, contextlib.closing(place.http("127.0.0.2")) as client:
        assert ask(client, "GET", "/")["client"] == list(client.sock.getsockname())
        first = ends_at(place.server.port)
        assert len(first) == 1
        with contextlib.closing(place.http("127.0.0.3")) as other:
            assert ask(other, "GET", "/")["client"] == list(other.sock.getsockname())
            assert len(ends_at(place.server.port) | first) == 2
        options: dict[str, Any] = {"sock": client.sock, "ping_interval": None, "proxy": None}
        with connect("ws://localhost/", **options) as session:
            assert json.loads(session.recv(timeout=20))["client"] == list(client.sock.getsockname())
            assert first <= ends_at(place.server.port)


def test_request_without_forwarding_headers() -> None:
    """A request that a trusted proxy sends of its own is the proxy's, in scope and log, also on a connection that carried a client's."""
    with Server(TRUSTING, APP) as server, contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as proxy:

        def told(path: str, **headers: str) -> Any:
            proxy.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            return json.loads(proxy.getresponse().read())

        assert told("/first", X_Forwarded_For="203.0.113.1", X_Forwarded_Proto="https")["client"] == ["203.0.113.1", 0]
        server.wait_for_line(r"answered peer=203\.0\.113\.1 method=GET path=/first ")
        second = told("/second")
        assert (second["client"], second["scheme"]) == (list(proxy.sock.getsockname()), "http")
        server.wait_for_line(rf"answered peer=127\.0\.0\.1:{proxy.sock.getsockname()[1]} method=GET path=/second ")
        sixth = told("/sixth", X_Forwarded_For="[2001:db8::1]:99")
        assert sixth["client"] == ["2001:db8::1", 99]
        server.wait_for_line(r"answered peer=\[2001:db8::1\]:99 method=GET path=/sixth ")


# Limits per address


@pytest.mark.parametrize("name", ["tcp", "tls", "nginx", "nginx-unix", "nginx-forwarded", "haproxy", "haproxy-tls", "haproxy-plain"])
def test_connections_per_address(name: str, tmp_path: Path, certificate: Path) -> None:
    """The limit counts the connections of each client's address, and not the proxy's: one too many is refused, another's is not."""
    with stand(WAYS[name], tmp_path, certificate, "--max-connections-per-address=2") as place, contextlib.ExitStack() as stack:
        for host in ("127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.4"):
            session = stack.enter_context(place.websocket(source=host))
            assert json.loads(session.recv(timeout=20))["client"][0] == host
        with pytest.raises(InvalidStatus) as refusal:
            place.websocket(source="127.0.0.2")
        assert refusal.value.response.status_code == 429
        with contextlib.closing(place.http("127.0.0.2")) as client:
            client.request("GET", "/")
            assert client.getresponse().status == 429
        assert place.get("/", "127.0.0.3")["client"][0] == "127.0.0.3"
        with place.websocket(source="127.0.0.5") as session:
            session.recv(timeout=20)


def test_idle_connections_of_a_proxy_count_for_nobody() -> None:
    """A connection that a trusted proxy keeps idle is not counted as the client's whose request it carried last."""
    head = b"HEAD / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.1\r\n\r\n"
    with Server(TRUSTING, "--max-connections-per-address=1", APP) as server, Raw(server.port) as first, Raw(server.port) as second:
        for peer in (first, second, first):
            peer.send(head)
            assert peer.read_head()[0] == 200


# The end


def test_restart_behind_haproxy(tmp_path: Path) -> None:
    """While one of two servers stops, a client that asks all the time is answered every time, and a session may open every time."""
    with Server(TRUSTING, "--drain-seconds=1", APP) as first, Server(TRUSTING, APP) as second:
        proxy = haproxy(tmp_path, first.port, "twistedws_plain")
        one, often = f"server ws1 127.0.0.1:{first.port} check inter 2s fall 2 rise 1", "check inter 200ms fall 2 rise 1"
        both = f"server ws1 127.0.0.1:{first.port} {often}\n    server ws2 127.0.0.1:{second.port} {often}"
        edit(tmp_path, "haproxy", ((one, both),))
        with proxy, Requests(proxy) as requests:
            for each in (first, second):
                wait_until(lambda each=each: each.lines(r"answered peer=127\.0\.0\.1 "), what="requests at both")  # type: ignore[misc]
            first.send_signal(signal.SIGTERM)
            for _ in range(20):
                options: dict[str, Any] = {"ping_interval": None, "proxy": None}
                with connect(f"{proxy.url}/", **options) as session:
                    session.recv(timeout=20)
            assert first.wait() == 0
            requests.more(50)
        assert requests.failures == []


class Requests:
    """Requests one after the other, each on a connection of its own, while the block runs."""

    def __init__(self, proxy: Proxy) -> None:
        self.count, self.failures = 0, list[object]()
        self._port, self._stopping = proxy.port, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Requests:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)

    def more(self, count: int) -> None:
        """Wait for so many more."""
        target = self.count + count
        wait_until(lambda: self.count >= target or self.failures, 30, "more requests")

    def _run(self) -> None:
        while not self._stopping.is_set():
            client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            try:
                client.request("GET", "/")
                response = client.getresponse()
                response.read()
                if response.status != 200:
                    self.failures.append(response.status)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
            finally:
                client.close()
            self.count += 1
