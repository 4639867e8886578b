"""What a client does with the applications of gevent-websocket's kind, the same under each server, and what came of it in a few words.

A scenario is a function of the ``Site`` to talk to. It asserts nothing that depends on the server: what is to come of it stands in
``table``. Nothing here measures time: what waits, waits for something to happen, and fails after a deadline.
"""

from __future__ import annotations

import hashlib
import json
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, Raw, close_payload, frame
from tests.support.server import wait_until

DEADLINE = 10.0  # seconds, for whatever is waited for
UPLOAD = bytes(range(256)) * 4096
KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="
FRAMEWORKS = ("plain", "flask", "bottle")  # whose applications have the same paths


@dataclass(frozen=True, slots=True)
class Site:
    """Where an application is served.

    Attributes:
        port: On the loopback.
        origin: A page of the same host.
    """

    port: int

    @property
    def origin(self) -> str:
        """The origin of the application's own pages."""
        return f"http://127.0.0.1:{self.port}"

    def connect(self, path: str, **options: Any) -> ClientConnection:
        """A WebSocket connection; to be entered."""
        options |= {"proxy": None, "open_timeout": DEADLINE, "close_timeout": DEADLINE}
        client: ClientConnection = connect(f"ws://127.0.0.1:{self.port}{path}", **options)
        return client

    def raw(self, path: str) -> Raw:
        """A WebSocket connection of bytes; to be entered."""
        raw = Raw(self.port)
        raw.upgrade(path=path.encode())
        return raw

    def client(self) -> httpx.Client:
        """An HTTP client, which keeps its connections open."""
        return httpx.Client(base_url=self.origin, timeout=DEADLINE, trust_env=False)

    def told(self, visit: str) -> str:
        """What the application has seen in a visit, once it has ended."""
        with self.client() as client:
            return wait_until(lambda: client.get(f"/told/{visit}").text, DEADLINE, "the end of what the application does in this visit")


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario.

    Attributes:
        run: What the client does.
        applications: Whose application it is for.
    """

    run: Callable[[Site], str]
    applications: tuple[str, ...]


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, *applications: str) -> Callable[[Callable[[Site], str]], Callable[[Site], str]]:
    """Make a function a scenario for some applications; for those of all frameworks, if none are named."""

    def register(run: Callable[[Site], str]) -> Callable[[Site], str]:
        SCENARIOS[name] = Scenario(run, applications or FRAMEWORKS)
        return run

    return register


def new_visit() -> str:
    """A name that no other scenario uses."""
    return uuid.uuid4().hex


def receive(client: ClientConnection) -> str | bytes:
    """The next message."""
    return client.recv(DEADLINE)


def ending(client: ClientConnection) -> str:
    """The messages that still come, and how the server closes, in words."""
    words = []
    try:
        while True:
            words.append(str(client.recv(DEADLINE)))
    except ConnectionClosed as closed:
        rcvd, sent = closed.rcvd, closed.sent
        if rcvd is not None:
            words.append("closed without a code" if rcvd.code == 1005 else f"closed with {rcvd.code} {rcvd.reason}".strip())
        elif sent is not None and sent.code == 1002:
            words.append("closed with a frame that is not valid")
        else:
            words.append("cut without a close frame")
    return ", ".join(words)


def raw_ending(raw: Raw) -> str:
    """How the server closes, in words."""
    code, reason = raw.read_close()
    if code == 1006:
        return "cut without a close frame"
    if code == 1005:
        return "closed without a code"
    if not 1000 <= code < 5000:
        return "closed with a frame that is not valid"
    return f"closed with {code} {reason.decode('utf-8', 'replace')}".strip()


def next_frame(raw: Raw) -> Frame | None:
    """The next frame, but for the pings by which a server looks for its peers: those are not empty."""
    while (found := raw.read_frame()) is not None and found.opcode == PING and found.payload:
        pass
    return found


# Messages


@scenario("echo: text")
def echo_text(site: Site) -> str:
    with site.connect("/echo") as client:
        return _echoed(client, "hello", "Grüße, 世界 🙂", "", "a\0b\n")


@scenario("echo: binary")
def echo_binary(site: Site) -> str:
    with site.connect("/echo") as client:
        return _echoed(client, b"\x00\xff\x80", b"", bytes(range(256)))


@scenario("echo: a message of 200 KiB")
def echo_large(site: Site) -> str:
    with site.connect("/echo") as client:
        return _echoed(client, "x" * 200 * 1024, bytes(200 * 1024))


@scenario("echo: 100 messages sent ahead")
def echo_pipelined(site: Site) -> str:
    with site.connect("/echo") as client:
        return _echoed(client, *(f"message {number}" for number in range(100)))


def _echoed(client: ClientConnection, *messages: str | bytes) -> str:
    for each in messages:
        client.send(each)
    got = [receive(client) for _ in messages]
    return "the same comes back" if got == list(messages) else f"other messages come back: {got!r:.200}"


@scenario("echo: a message in fragments, with a ping between")
def echo_fragments(site: Site) -> str:
    euro = "€".encode()
    with site.raw("/echo") as raw:
        raw.send(frame(TEXT, b"1 " + euro[:1], fin=False) + frame(PING, b"between") + frame(CONTINUATION, euro[1:] + b"!"))
        return _shown(next_frame(raw), next_frame(raw))


def _shown(*frames: Frame | None) -> str:
    names = {TEXT: "text", BINARY: "binary", PING: "ping", PONG: "pong", CLOSE: "close"}
    return ", ".join(f"{names[each.opcode]} {each.payload.decode('utf-8', 'replace')}".strip() if each else "end" for each in frames)


@scenario("types: what receive() returns")
def received_types(site: Site) -> str:
    with site.connect("/kinds") as client:
        client.send("text")
        client.send(b"binary")
        return f"text {receive(client)!s}, binary {receive(client)!s}"


@scenario("types: what send() sends")
def sent_types(site: Site) -> str:
    with site.connect("/binary") as client:
        return f"{[receive(client) for _ in range(5)]}"


@scenario("handshake: what the WebSocket tells", "plain")
def told_by_websocket(site: Site) -> str:
    return _told_of_handshake(site)[0]


@scenario("handshake: what the environ tells", "plain")
def told_by_environ(site: Site) -> str:
    return _told_of_handshake(site)[1]


def _told_of_handshake(site: Site) -> list[str]:
    headers = [("Cookie", "seen=1"), ("X-Tag", "a"), ("X-Tag", "b"), ("X_Name", "forged")]
    options: dict[str, Any] = {"additional_headers": headers, "origin": site.origin, "subprotocols": ["one", "two"]}
    with site.connect("/environ%20%C3%A9?name=%C3%A9&x", **options) as client:
        return [_listed(site, json.loads(receive(client))) for _ in range(2)]


def _listed(site: Site, found: dict[str, Any]) -> str:
    text = ", ".join(f"{name} {value!r}" for name, value in found.items() if value is not None)
    return text.replace(site.origin, "ORIGIN").replace(str(site.port), "PORT")


@scenario("handshake: path, query, cookie and headers", "flask", "bottle")
def told_of_handshake_by_framework(site: Site) -> str:
    with site.connect("/environ?name=%C3%A9", additional_headers={"Cookie": "seen=1", "X-Tag": "a"}, origin=site.origin) as client:
        return str(receive(client))


@scenario("handshake: a subprotocol is offered", "plain")
def subprotocol(site: Site) -> str:
    with site.connect("/echo", subprotocols=["chat"]) as client:
        return f"{client.subprotocol} is selected"


@scenario("handshake: version 12", "plain")
def wrong_version(site: Site) -> str:
    return _handshake(site, Sec_WebSocket_Version="12")


@scenario("handshake: without a key", "plain")
def no_key(site: Site) -> str:
    return _handshake(site, Sec_WebSocket_Key="")


@scenario("handshake: by POST", "plain")
def posted(site: Site) -> str:
    return _handshake(site, "POST")


def _handshake(site: Site, method: str = "GET", **changed: str) -> str:
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
    }
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    sent = {name: value for name, value in headers.items() if value}
    with site.client() as client, client.stream(method, "/echo", headers=sent) as response:
        return str(response.status_code)


@scenario("a message of 8 MiB to the client", "plain")
def large(site: Site) -> str:
    with site.connect("/large", max_size=None) as client:
        return f"{len(receive(client))} bytes"


@scenario("a client that reads late", "plain")
def reads_late(site: Site) -> str:
    with site.connect("/many") as client, site.client() as http:
        meanwhile = http.get("/").status_code
        in_order = [int(str(receive(client)).partition(" ")[0]) for _ in range(2000)] == list(range(2000))
    return f"2000 messages of 4 KiB {'' if in_order else 'not '}in order, HTTP meanwhile {meanwhile}"


# Several at once


@scenario("200 clients at once", "plain")
def crowd(site: Site) -> str:
    with ExitStack() as stack:
        clients = [stack.enter_context(site.raw("/echo")) for _ in range(200)]
        for number, each in enumerate(clients):
            each.send(frame(TEXT, str(number).encode()))
        echoed = [each.read_message().decode() for each in clients]
    return f"{len(set(echoed))} echoes"


@scenario("chat with a global set of sockets")
def chat(site: Site) -> str:
    with ExitStack() as stack:
        one, two, three = clients = [stack.enter_context(site.connect("/chat")) for _ in range(3)]
        for client in clients:  # until everybody is there
            while receive(client) != "3 here":
                pass
        two.send("hello")
        said = [receive(client) for client in clients]
        three.close()
        left = [receive(client) for client in (one, two)]
        one.socket.shutdown(socket.SHUT_RDWR)  # with no goodbye
        return f"{said}, {left}, {receive(two)!s}"


@scenario("chat: an HTTP request sends to the sockets")
def announcement(site: Site) -> str:
    with site.connect("/chat") as client, site.client() as http:
        while receive(client) != "1 here":  # those of a scenario before are still leaving
            pass
        answer = http.post("/announce", content="dinner").text
        return f"{answer}: {receive(client)!s}"


@scenario("waiting for another client, with threading.Event")
def meeting(site: Site) -> str:
    visit = new_visit()
    with site.connect(f"/meeting?visit={visit}") as one, site.connect(f"/meeting?visit={visit}") as two:
        one.send("wait")
        assert receive(one) == "waiting"
        two.send("come")
        return str(receive(one))


@scenario("a call that blocks in C: a locked SQLite database")
def blocking(site: Site) -> str:
    with site.connect("/orders") as one, site.connect("/orders") as two:
        _order(one, "BEGIN IMMEDIATE")
        two.send("INSERT INTO orders VALUES ('coffee')")
        assert str(receive(two)).startswith("begun")
        one.send("COMMIT")  # which the other waits for
        return f"the one that waits: {str(receive(two)).partition(':')[0]}"


def _order(client: ClientConnection, text: str) -> None:
    client.send(text)
    assert [receive(client), receive(client)] == [f"begun: {text}", f"done: {text}"]


@scenario("a second thread sends")
def second_thread(site: Site) -> str:
    visit = new_visit()
    with site.connect(f"/worker?visit={visit}") as client:
        for item in "abc":
            client.send(item)
        got = [receive(client) for _ in "abc"]
    return f"{got}, {site.told(visit)}"


@scenario("a thread outlives the application's call, and sends")
def survivor(site: Site) -> str:
    visit = new_visit()
    with site.connect(f"/survivor?visit={visit}") as client:
        end = ending(client).rpartition(", ")[2]
    return f"{end}, {site.told(visit)}"


@scenario("a greenlet of gevent's sends while the application receives")
def greenlet(site: Site) -> str:
    with site.connect("/spawned") as client:
        got = set()
        for number in range(50):  # in each of which the application waits for the next
            client.send(str(number))
            while (message := receive(client)) != str(number):
                got.add(message)
        return f"{len(got)} of 1 messages in 50 exchanges"


@scenario("gevent.Timeout around receive()")
def timeout(site: Site) -> str:
    with site.connect("/patient") as one, site.connect("/later") as two:
        receive(two)
        with suppress(ConnectionClosed):  # it has been answered and closed
            one.send("too late")
        return str(receive(one))


@scenario("the application pings with send_frame()")
def application_pings(site: Site) -> str:
    with site.raw("/pinging") as raw:
        raw.send(frame(TEXT, b"hello"))
        return _shown(next_frame(raw), next_frame(raw))


# Applications that never receive


@scenario("never receives: the client pings")
def push_ping(site: Site) -> str:
    with site.raw(f"/ticker?visit={new_visit()}") as raw:
        raw.read_message()
        raw.send(frame(PING, b"here?"))
        return "a pong comes" if PONG in _opcodes(raw) else "no pong within 100 messages"


@scenario("never receives: the client closes")
def push_close(site: Site) -> str:
    visit = new_visit()
    with site.raw(f"/ticker?visit={visit}") as raw:
        raw.read_message()
        raw.send(frame(CLOSE, close_payload(1000)))
        seen = "the close is answered" if CLOSE in _opcodes(raw) else "100 messages come behind the close"
    return f"{seen}, {site.told(visit)}"


def _opcodes(raw: Raw) -> Iterator[int]:
    for _ in range(100):
        found = next_frame(raw)
        if found is None:
            return
        yield found.opcode


@scenario("never receives: the connection is cut")
def push_cut(site: Site) -> str:
    visit = new_visit()
    with site.raw(f"/ticker?visit={visit}") as raw:
        raw.read_message()
        raw.reset()
    return site.told(visit)


@scenario("never receives, `while not ws.closed` and gevent.sleep(): the connection is cut")
def push_greenlets(site: Site) -> str:
    visit = new_visit()
    with site.raw(f"/greenlets?visit={visit}") as raw:
        raw.read_message()
        raw.reset()
    return site.told(visit)


# The client ends


@scenario("the client closes: what the application sees")
def client_closes(site: Site) -> str:
    visit = new_visit()
    with site.connect(f"/goodbye?visit={visit}") as client:
        receive(client)
        client.send("last")
        receive(client)
    return site.told(visit)


@scenario("the client is cut: what the application sees")
def client_cut(site: Site) -> str:
    visit = new_visit()
    with site.raw(f"/goodbye?visit={visit}") as raw:
        raw.read_message()
        raw.reset()
    return site.told(visit)


@scenario("the client closes: the application sends on what it received, None")
def careless(site: Site) -> str:
    visit = new_visit()
    with site.connect(f"/careless?visit={visit}") as client:
        client.send("hello")
        receive(client)
    return site.told(visit)


@scenario("the client closes with 4001 and a reason: what comes back")
def client_closes_with_reason(site: Site) -> str:
    return _close_answered(site, close_payload(4001, b"bye for now"))


@scenario("the client closes with 1000 and no reason: what comes back")
def client_closes_plainly(site: Site) -> str:
    return _close_answered(site, close_payload(1000))


@scenario("the client closes without a code: what comes back")
def client_closes_without_code(site: Site) -> str:
    return _close_answered(site, b"")


def _close_answered(site: Site, payload: bytes) -> str:
    with site.raw("/echo") as raw:
        raw.send(frame(CLOSE, payload))
        return raw_ending(raw)


@scenario("the application keeps sending after the client has closed")
def deaf_closed(site: Site) -> str:
    visit = new_visit()
    with site.raw(f"/deaf?visit={visit}") as raw:
        raw.send(frame(TEXT, b"go") + frame(CLOSE, close_payload(1000)))
        raw.read_frame()
    return site.told(visit)


@scenario("the application keeps sending after the client was cut")
def deaf_cut(site: Site) -> str:
    visit = new_visit()
    with site.raw(f"/deaf?visit={visit}") as raw:
        raw.send(frame(TEXT, b"go"))
        raw.reset()
    return site.told(visit)


# The application ends


@scenario("the application returns at once")
def returns(site: Site) -> str:
    with site.connect("/nothing") as client:
        return ending(client)


@scenario("the application calls close()")
def close_plain(site: Site) -> str:
    visit = new_visit()
    with site.connect(f"/close-plain?visit={visit}") as client:
        client.send("go")
        return f"{ending(client)}; twice is no error: {site.told(visit)}"


@scenario("the application calls close(4001)")
def close_code(site: Site) -> str:
    with site.connect("/close-code") as client:
        client.send("go")
        return ending(client)


@scenario("the application calls close(4001, 'enough')")
def close_reason(site: Site) -> str:
    with site.connect("/close-reason") as client:
        client.send("go")
        return ending(client)


@scenario("the application raises at once")
def raises_at_once(site: Site) -> str:
    with site.connect("/raises-at-once") as client:
        return ending(client)


@scenario("the application raises behind a message")
def raises(site: Site) -> str:
    with site.connect("/raises") as client:
        receive(client)
        client.send("go")
        return ending(client)


@scenario("abort(401) in answer to a WebSocket")
def denied(site: Site) -> str:
    with site.connect("/denied") as client:
        return ending(client)


@scenario("404 in answer to a WebSocket")
def not_found(site: Site) -> str:
    with site.connect("/no-such-path") as client:
        return ending(client)


@scenario("abort(503) in answer to a WebSocket")
def unavailable(site: Site) -> str:
    with site.connect("/unavailable") as client:
        return ending(client)


@scenario("a route without websocket=True", "flask")
def unmarked(site: Site) -> str:
    with site.connect("/unmarked/echo") as client:
        return ending(client)


# Faults of the client


@scenario("the client sends text that is not UTF-8")
def not_utf8(site: Site) -> str:
    return _fault(site, frame(TEXT, b"\xff\xfe"))


@scenario("the client sends a reserved opcode")
def reserved_opcode(site: Site) -> str:
    return _fault(site, frame(0x3, b"x"))


@scenario("the client sends a frame that is not masked")
def unmasked(site: Site) -> str:
    return _fault(site, frame(TEXT, b"x", mask=None))


@scenario("the client sends a message of 2 MiB")
def too_large(site: Site) -> str:
    return _fault(site, frame(TEXT, b"x" * (2 << 20)))


def _fault(site: Site, data: bytes) -> str:
    visit = new_visit()
    with site.raw(f"/goodbye?visit={visit}") as raw:
        raw.read_message()
        raw.pour([data])
        found = next_frame(raw)
        if found is not None and found.opcode == TEXT:
            return "the message is taken"
        if found is None:
            words = "cut without a close frame"
        else:
            words = f"closed with {int.from_bytes(found.payload[:2], 'big')}" if found.payload else "closed without a code"
    return f"{words}, the application {site.told(visit).partition(', ')[0]}"


# Flask-Sockets


@scenario("Flask-Sockets: a route", "flask")
def sockets_echo(site: Site) -> str:
    with site.connect("/sockets/echo") as client:
        return _echoed(client, "hello", b"hello")


@scenario("Flask-Sockets: a value in the path, and request and session in the handler", "flask")
def sockets_room(site: Site) -> str:
    with site.connect("/sockets/rooms/7?name=%C3%A9", additional_headers={"Cookie": "seen=1", "X-Tag": "a"}) as client:
        return ending(client)


@scenario("Flask-Sockets: a handler raises", "flask")
def sockets_raises(site: Site) -> str:
    with site.connect("/sockets/raises") as client:
        receive(client)
        client.send("go")
        return ending(client)


# WebSocketApplication and Resource


@scenario("Resource: a chat with active_client and server.clients", "resource")
def resource_chat(site: Site) -> str:
    with ExitStack() as stack:
        one = stack.enter_context(site.connect("/chat"))
        seen = [receive(one)]
        two = stack.enter_context(site.connect("/chat"))
        seen += [receive(two)]
        one.send(json.dumps({"nickname": "Ann"}))
        seen += [receive(one)]
        two.send(json.dumps({"nickname": "Bob"}))
        seen += [receive(two)]
        two.send(json.dumps({"say": "hello"}))
        seen += [receive(one), receive(two)]
        one.close()
        told = site.told("Ann")
        two.send(json.dumps({"nickname": "Bob"}))
        seen += [receive(two)]
    return f"{'; '.join(map(str, seen))}; {told}"


@scenario("Resource: WebSocketApplication as it is", "resource")
def resource_default(site: Site) -> str:
    with site.connect("/default") as client:
        return _echoed(client, "hello", b"hello")


@scenario("Resource: a subprotocol with a protocol class", "resource")
def resource_protocol(site: Site) -> str:
    with site.connect("/counting", subprotocols=["lines.v1"]) as client:
        client.send("one\nthree\n")
        return f"{client.subprotocol} is selected; {receive(client)!s}, {receive(client)!s}"


@scenario("Resource: on_message raises", "resource")
def resource_raises(site: Site) -> str:
    with site.connect("/raising") as client:
        client.send("go")
        return ending(client)


@scenario("Resource: a path of none of its applications", "resource")
def resource_no_path(site: Site) -> str:
    with site.connect("/no-such-path") as client:
        return ending(client)


@scenario("Resource: a page over HTTP", "resource")
def resource_page(site: Site) -> str:
    with site.client() as client:
        return _answer(client.get("/"))


# HTTP


def _answer(response: httpx.Response) -> str:
    return f"{response.status_code} {response.headers.get('content-type', '')}: {response.text}"


@scenario("HTTP: a page")
def page(site: Site) -> str:
    with site.client() as client:
        return _answer(client.get("/")).lower()


@scenario("HTTP: HEAD")
def head(site: Site) -> str:
    with site.client() as client:
        response = client.head("/")
        return f"{response.status_code}, {response.headers.get('content-length')} bytes, {len(response.content)} of them sent"


@scenario("HTTP: JSON is posted")
def post(site: Site) -> str:
    with site.client() as client:
        response = client.post("/items", json={"name": "é", "price": 1.5})
        return f"{response.status_code} {response.headers['content-type']}: {response.json()}"


@scenario("HTTP: 1 MiB is posted")
def upload(site: Site) -> str:
    return _upload(site, UPLOAD)


@scenario("HTTP: 1 MiB is posted in chunks, to Bottle", "bottle")
@scenario("HTTP: 1 MiB is posted in chunks", "plain", "flask")
def upload_in_chunks(site: Site) -> str:
    return _upload(site, iter([UPLOAD[:1000], UPLOAD[1000:]]))


def _upload(site: Site, content: bytes | Iterator[bytes]) -> str:
    with site.client() as client:
        response = client.post("/upload", content=content)
        return "it arrives" if response.text == hashlib.sha256(UPLOAD).hexdigest() else f"{response.status_code}"


@scenario("HTTP: a response in pieces")
def stream(site: Site) -> str:
    with site.client() as client:
        response = client.get("/stream")
        encoding = response.headers.get("transfer-encoding", "no encoding")
        return f"{response.status_code} {encoding}, {len(response.text.splitlines())} lines"


@scenario("HTTP: the client leaves in the middle of a response")
def leaves(site: Site) -> str:
    visit = new_visit()
    with site.client() as client, client.stream("GET", f"/endless/{visit}") as response:
        next(response.iter_raw())
    return site.told(visit)


@scenario("HTTP: start_response() gives write()", "plain")
def written(site: Site) -> str:
    with site.client() as client:
        return _answer(client.get("/written"))


@scenario("HTTP: the application raises")
def fails(site: Site) -> str:
    with site.client() as client:
        response = client.get("/failing")
        return f"{response.status_code}, {'the exception shows' if 'secret' in response.text else 'without a word of the exception'}"


@scenario("HTTP: the application raises in the middle of a response")
def breaks(site: Site) -> str:
    visit, seen = new_visit(), ""
    with site.client() as client, client.stream("GET", f"/breaks/{visit}") as response:
        try:
            for chunk in response.iter_text():
                seen += chunk
                with site.client() as other:
                    other.get(f"/arrived/{visit}")
        except (httpx.RemoteProtocolError, httpx.ReadError):  # by a FIN or by a RST
            return f"{response.status_code} {seen}, then cut"
    return f"{response.status_code} {seen}, then its end"


@scenario("HTTP: 404")
def missing(site: Site) -> str:
    with site.client() as client:
        return str(client.get("/no/such/path").status_code)


@scenario("HTTP: a plain request for a WebSocket's path")
def plain_request(site: Site) -> str:
    with site.client() as client:
        return str(client.get("/echo").status_code)


@scenario("HTTP: what the application is told", "plain")
def told_of_request(site: Site) -> str:
    with site.client() as client:
        headers = [("Cookie", "seen=1"), ("X-Tag", "a"), ("X-Tag", "b"), ("X_Name", "forged"), ("Content-Type", "text/x")]
        response = client.post("/environ%20%C3%A9?name=%C3%A9", headers=headers, content=b"12345")
    return _listed(site, response.json())
