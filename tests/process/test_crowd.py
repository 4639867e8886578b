"""The crowd of clients that other tests of processes rest on: it talks, comes back, and notices whatever goes wrong."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import signal
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import crowd as crowd_module
from tests.support.crowd import Crowd, histogram
from tests.support.reconnecting import Visit, reconnecting
from tests.support.server import Server, wait_until

UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
SIZE = 500


def test_talking_and_leaving() -> None:
    """500 clients open and talk, each message is answered once, and all end with 1000."""
    with Server() as server, Crowd(server.port, SIZE, interval=0.5) as crowd:
        crowd.open_all()
        wait_until(lambda: crowd.answered >= 2 * SIZE, what="two replies to each")
        assert crowd.answering == {"": SIZE}
        crowd.finish()
        assert not crowd.faults
        assert not crowd.closes
        assert crowd.goodbyes == {1000: SIZE}
        assert crowd.opened == SIZE
        assert 0 < crowd.longest_silence < 10


@pytest.mark.parametrize("interval", [0.0, 0.2])
def test_drain(interval: float) -> None:
    """SIGTERM amid the talk: all are closed with 1012, none without a close frame, and nothing that was answered is wrong."""
    with Server("--drain-seconds=1") as server, Crowd(server.port, SIZE, interval=interval, reconnects=False) as crowd:
        crowd.open_all()
        wait_until(lambda: crowd.answered >= SIZE, what="the talk")
        assert server.stop() == 0
        wait_until(lambda: len(crowd.closes) == SIZE, what="the closes")
        assert crowd.codes == {1012: SIZE}
        assert len({each.client for each in crowd.closes}) == SIZE
        assert sum(histogram(each.time for each in crowd.closes)) == SIZE
        assert len(crowd) == 0
        assert not crowd.faults


def test_coming_back() -> None:
    """Clients whose server has gone try again, and are with its successor soon."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Server(f"--port={port}", "--drain-seconds=0", "whoami:App"))
        crowd = stack.enter_context(Crowd(port, 50, backoff=0.1, interval=0.1))
        crowd.open_all()
        wait_until(lambda: crowd.answering == {f"1 {first.pid}": 50}, what="all at the first server")
        first.stop(signal.SIGTERM)
        wait_until(lambda: len(crowd.refusals) >= 50, what="refusals")
        assert {(each.kind, each.errno) for each in crowd.refusals} == {("ConnectionRefusedError", 111)}
        second = Server(f"--port={port}", "whoami:App")
        (second.directory / "version.txt").write_text("2\n")
        stack.enter_context(second)
        crowd.open_all()
        wait_until(lambda: crowd.answering == {f"2 {second.pid}": 50}, what="all at the second server")
        crowd.finish()
        assert set(crowd.answers) == {f"1 {first.pid}", f"2 {second.pid}"}
        assert crowd.codes == {1012: 50}
        assert crowd.opened == 100
        assert not crowd.faults


# From here on: against a server that does what ours never may.

Talk = Callable[["Conversation"], None]


class Conversation:
    """The server's side of one connection."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer, self._stream = peer, peer.makefile("rb")

    def read_head(self) -> bytes:
        """Return what belongs to the key of the handshake."""
        accept = b""
        while (line := self._stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.strip().partition(b": ")
            if name.lower() == b"sec-websocket-key":
                accept = base64.b64encode(hashlib.sha1(value + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        return accept

    def read(self) -> bytes | None:
        """Return the next message's payload; None for a close frame or the end."""
        head = self._stream.read(6)
        if len(head) < 6 or head[0] & 15 == 8:
            return None
        payload = self._stream.read(head[1] & 127)
        return bytes(each ^ head[2 + index % 4] for index, each in enumerate(payload))

    def reply(self, payload: bytes, first: int = 0x81) -> None:
        self.peer.sendall(bytes((first, len(payload))) + payload)

    def echo(self) -> None:
        """Answer all that is left, and the close."""
        while (message := self.read()) is not None:
            self.reply(message)
        with contextlib.suppress(OSError):
            self.reply(b"\x03\xe8", 0x88)

    def reset(self) -> None:
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@contextlib.contextmanager
def fake(*talks: Talk, opens: bool = True) -> Iterator[int]:
    """A server whose first connections go as given, and all further ones as they should."""
    left = list(talks)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            conversation = Conversation(self.request)
            accept = conversation.read_head()
            talk = left.pop(0) if left else None
            if opens or talk is None:
                self.request.sendall(UPGRADE % accept)
            (talk or Conversation.echo)(conversation)
            self.request.close()

    class Fake(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: Any, address: Any) -> None:
            """Say nothing: the peer has gone."""

    with Fake(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def busy(it: Conversation) -> None:
    it.peer.sendall(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\n\r\n")


def reset(it: Conversation) -> None:
    it.reset()


def hang_up(it: Conversation) -> None:
    pass


@pytest.mark.parametrize(
    ("talk", "rejections", "silences"), [(busy, [(503, "7")], []), (reset, [], ["ConnectionResetError"]), (hang_up, [], ["FIN"])]
)
def test_handshakes_that_fail(talk: Talk, rejections: list[tuple[int, str]], silences: list[str]) -> None:
    """A handshake that is rejected, or is not answered, is noted as such, and tried again."""
    with fake(talk, opens=False) as port, Crowd(port, 1, backoff=0.05) as crowd:
        crowd.open_all()
        crowd.finish()
        assert [(each.status, each.retry_after) for each in crowd.rejections] == rejections
        assert [each.how for each in crowd.silences] == silences
        assert (crowd.opened, crowd.refusals, crowd.closes, crowd.faults) == (1, [], [], [])


def swallow(it: Conversation) -> None:
    it.read()
    it.echo()


def repeat(it: Conversation) -> None:
    message = it.read() or b""
    it.reply(message)
    it.reply(message)
    it.echo()


def swap(it: Conversation) -> None:
    first, second = it.read() or b"", it.read() or b""
    it.reply(second)
    it.reply(first)
    it.echo()


def invent(it: Conversation) -> None:
    it.reply(b"17")
    it.echo()


def babble(it: Conversation) -> None:
    it.reply(b"hello")
    it.echo()


def fragment(it: Conversation) -> None:
    it.reply(b"hello", 0x01)
    it.echo()


@pytest.mark.parametrize(
    ("talk", "fault"),
    [(swallow, "lost"), (repeat, "duplicate"), (swap, "order"), (invent, "strange"), (babble, "strange"), (fragment, "strange")],
)
def test_faults(talk: Talk, fault: str) -> None:
    """Each thing that may not be is found, and told as what it is."""
    with fake(talk) as port, Crowd(port, 1, interval=0.02) as crowd:
        wait_until(lambda: crowd.answered >= 5, what="replies")
        crowd.finish(0.2)
        assert [each.kind for each in crowd.faults] == [fault]
        assert not crowd.closes


def test_lost_with_one_in_flight() -> None:
    """A reply that never comes, where nothing is sent before it has, is lost too, and makes a long silence."""
    with fake(swallow) as port, Crowd(port, 1) as crowd:
        wait_until(lambda: crowd.longest_silence > 0.2, what="the silence")
        crowd.finish(0.1)
        assert [each.kind for each in crowd.faults] == ["lost"]
        assert crowd.longest_silence > 0.2


def die(it: Conversation) -> None:
    it.reply(it.read() or b"")
    it.read()
    it.reset()


def leave(it: Conversation) -> None:
    it.reply(it.read() or b"")
    it.read()
    it.reply(b"\x03\xf4restart", 0x88)
    it.read()


@pytest.mark.parametrize(("talk", "code", "reason"), [(die, 1006, ""), (leave, 1012, "restart")])
def test_ends(talk: Talk, code: int, reason: str) -> None:
    """A server that goes away amid the talk: how is noted, with what it left unanswered, and that is no fault."""
    with fake(talk) as port, Crowd(port, 1, reconnects=False) as crowd:
        wait_until(lambda: crowd.closes, what="the end")
        crowd.finish()
        assert [(each.code, each.reason, each.client) for each in crowd.closes] == [(code, reason, 0)]
        assert [(each.code, each.numbers) for each in crowd.unanswered_at_close] == [(code, (1,))]
        assert not crowd.faults


def test_somebody_elses_client() -> None:
    """A client of the ``websockets`` package comes back after 1012, by itself."""
    visits: list[Visit] = []
    with fake(leave) as port:
        talk = reconnecting(f"ws://127.0.0.1:{port}", visits, lambda: len(visits) == 2 and len(visits[1].replies) == 3)
        asyncio.run(asyncio.wait_for(talk, 30))
    assert [(each.code, each.reason) for each in visits] == [(1012, "restart"), (None, "")]
    assert [each.replies for each in visits] == [["0"], ["0", "1", "2"]]


def test_its_own_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong in the crowd itself fails the test."""

    def fail(*arguments: object) -> bytes:
        raise RuntimeError("no frame")

    monkeypatch.setattr(crowd_module, "frame", fail)
    with fake() as port, pytest.raises(RuntimeError, match="no frame"), Crowd(port, 1) as crowd:
        crowd.open_all()


@pytest.mark.parametrize(("times", "expected"), [([], []), ([5.0], [1]), ([9.5, 7.0, 7.9, 10.0], [2, 0, 1, 1])])
def test_histogram(times: list[float], expected: list[int]) -> None:
    """Times are counted by seconds from the first."""
    assert histogram(times) == expected
