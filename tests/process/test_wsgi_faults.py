"""WSGI applications and peers that are wrong: a defined end, one line in the log, and sessions beside it that notice nothing."""

from __future__ import annotations

import functools
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import pytest

from tests.process.test_wrong_configuration import run
from tests.support.memory import request
from tests.support.network import SERVER_ADDRESS, Network
from tests.support.raw import CLOSE, NO_CLOSE_FRAME, PING, PONG, TEXT, Canary, Memory, Raw, close_payload, frame
from tests.support.server import ROOT, Server, wait_until
from tests.support.tools import needs

APP = "wsgi_faults:app"
CLIENT = (sys.executable, str(ROOT / "tests" / "support" / "idle_client.py"))
MIB = 2**20


def _get(server: Server, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/{path}", timeout=20) as response:
        body: bytes = response.read()
    return body


def heard(server: Server, name: str, number: int = 1, timeout: float = 20.0) -> list[str]:
    """Wait for so many notes of the application, and return them."""
    pattern = f" stdout: heard {re.escape(name)}: "

    def notes() -> list[str]:
        found = server.lines(pattern)
        return [each.partition(f": heard {name}: ")[2] for each in found] if len(found) >= number else []

    return wait_until(notes, timeout, f"what {name} has heard")


def release(server: Server, name: str) -> None:
    """Let those go on who wait for it."""
    assert _get(server, f"release/{name}") == b"released"


def threads(server: Server) -> int:
    """How many threads the process has."""
    return sum(1 for _ in Path(f"/proc/{server.pid}/task").iterdir())


class Bystanders:
    """A client that echoes and one that is only pinged, beside a fault; use them as a context manager."""

    def __init__(self, server: Server) -> None:
        self._canary = Canary(server)
        self._pinged = Raw(server.port)
        self._pings = 0
        self._thread = threading.Thread(target=self._pong, daemon=True)

    def __enter__(self) -> Bystanders:
        self._pinged.upgrade()
        self._thread.start()
        self._canary.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._canary.__exit__(kind, error, trace)
        self._pinged.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self._pinged.close()

    def notice_nothing(self) -> None:
        """Wait for echoes and pings that come after this."""
        pings = self._pings
        self._canary.sing(20)
        wait_until(lambda: self._pings >= pings + 2, 20, "two more pings")

    def _pong(self) -> None:
        while (found := self._pinged.read_frame()) is not None:
            if found.opcode == PING:
                self._pinged.send(frame(PONG, found.payload))
                self._pings += 1


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    """One server that has to stand all that needs no settings of its own."""
    settings = ("--ping-interval=0.25", "--ping-timeout=3", "--write-stall-timeout=1", "--application-close-timeout=0.5")
    with Server(*settings, "--http-threads=4", "--graceful-timeout=5", "--drain-seconds=0", APP) as server:
        yield server
        assert server.running
        assert server.lines("a fault of this server|Unhandled") == []
        assert server.stop() == 0


@pytest.fixture
def bystanders(site: Server) -> Iterator[Bystanders]:
    """The healthy clients beside, on the shared server."""
    with Bystanders(site) as both:
        yield both


# Applications


def test_blocks(site: Server, bystanders: Bystanders) -> None:
    """While one sleeps, others are served, and its own peer is pinged."""
    with Raw(site.port) as peer:
        peer.upgrade(path=b"/sleep")
        peer.send(frame(TEXT, b"3"))
        assert peer.read_message() == b"begun"
        bystanders.notice_nothing()
        came = []
        while (found := peer.read_frame()) is not None and found.opcode == PING:
            peer.send(frame(PONG, found.payload))
            came.append(found)
        assert len(came) > 1
        assert found is not None
        assert found.payload == b"done"
        peer.say_goodbye()


@pytest.mark.parametrize("way", ["error", "exit", "interrupt", "at-once"])
def test_raises(site: Server, bystanders: Bystanders, way: str) -> None:
    """Whatever it raises, its peer gets 1011 and no word of it, the log one traceback; nobody else, and no thread, is harmed."""
    path = "/fail/error" if way == "at-once" else f"/fail?{way}"
    before = len(site.lines("application raised in its WebSocket session="))
    with Raw(site.port) as peer:
        peer.upgrade(path=path.encode())
        if way != "at-once":
            peer.send(frame(TEXT, way.encode()))
        assert peer.read_close() == (1011, b"")
    site.wait_for_line(rf"closed session=\w+ .* path={re.escape(path)} .* code=1011 cause=application_error by=server")
    assert len(site.lines("application raised in its WebSocket session=")) == before + 1
    bystanders.notice_nothing()


def test_thread_that_does_not_return() -> None:
    """It is reported once, with its place, and keeps its slot until it returns; the stop waits for it as long as it may, and no longer."""
    settings = ("--threads=2", "--application-close-timeout=0.5", "--graceful-timeout=1", "--drain-seconds=0")
    with Server(*settings, APP) as server:
        with Canary(server) as canary:
            _hang_up(server, b"/hang")
            line = r"warn .* the thread of session=\w+ runs on, 0\.5 s after its connection was gone, at .*hang \(\S*wsgi_faults\.py:\d+\)"
            server.wait_for_line(line)
            canary.sing(20)
            assert not _opens(server)
            release(server, "hang")
            server.wait_for_line(r"info .* the thread of session=\w+ has returned after all")
            wait_until(lambda: _opens(server), what="its slot")
            assert len(server.lines("runs on")) == 1
            assert heard(server, "hang") == ["released"]
        _hang_up(server, b"/hang/on")
        assert server.stop(timeout=20) == 0
        assert server.lines("Traceback") == []


def _hang_up(server: Server, path: bytes) -> None:
    with Raw(server.port) as peer:
        peer.upgrade(path=path)
        assert peer.read_message() == b"hung"
        peer.say_goodbye()


def _opens(server: Server) -> bool:
    with Raw(server.port) as peer:
        peer.send(request())
        status, _ = peer.read_head()
        if status == 101:
            peer.say_goodbye()
    assert status in (101, 503)
    return status == 101


def test_many_threads_send(site: Server, bystanders: Bystanders) -> None:
    """Eight threads send while the first receives: each one's messages come whole and in order, and its send raises after the end."""
    with Raw(site.port) as peer:
        peer.upgrade(path=b"/chorus")
        peer.send(frame(TEXT, b"hello"))
        came: dict[str, list[int]] = {str(each): [] for each in range(8)}
        echoed = False
        while not echoed or sum(map(len, came.values())) < 8000:
            voice, _, number = peer.read_message().decode().partition(" ")
            if voice == "hello":
                echoed = True
            else:
                came[voice].append(int(number))
        assert came == {str(each): list(range(1000)) for each in range(8)}
        peer.say_goodbye()
    assert Counter(heard(site, "chorus", 9)) == {"send raised Socket is dead": 8, "returned": 1}
    bystanders.notice_nothing()


@pytest.mark.parametrize("way", ["close", "fin", "reset"])
def test_sends_after_the_end(site: Server, bystanders: Bystanders, way: str) -> None:
    """However its peer has left, send raises, which ends an application that lets it, without a traceback."""
    peer = Raw(site.port)
    peer.upgrade(path=f"/ticker/{way}".encode())
    assert peer.read_message() == b"tick"
    if way == "close":
        peer.say_goodbye()
    elif way == "fin":
        peer.socket.shutdown(socket.SHUT_WR)
        peer.read_end()
    else:
        peer.reset()
    assert heard(site, f"ticker/{way}") == ["WebSocketError: Socket is dead"]
    cause = {"close": "code=1000 cause=client by=client", "fin": "code=1006 cause=fin", "reset": "code=1006 cause=reset"}[way]
    site.wait_for_line(rf"path=/ticker/{way} .*{cause}")
    peer.close()
    bystanders.notice_nothing()
    assert not site.lines(r"^\t.*WebSocketError|runs on, .* ticker")


def test_sends_on_whatever_is_raised(site: Server, bystanders: Bystanders) -> None:
    """One that takes no notice of what send raises harms nobody, and is reported as one that runs on."""
    with Raw(site.port) as peer:
        peer.upgrade(path=b"/stubborn")
        assert peer.read_message() == b"more"
        peer.send(frame(CLOSE, close_payload(1000)))
        assert peer.read_close()[0] == 1000
    site.wait_for_line(r"the thread of session=\w+ runs on, 0\.5 s .* stubborn \(\S*wsgi_faults\.py:\d+\)")
    bystanders.notice_nothing()
    release(site, "stubborn")
    assert heard(site, "stubborn") == ["raised True"]


def test_floods_a_peer_that_never_reads(site: Server, bystanders: Bystanders) -> None:
    """Send waits, little memory is taken, the peer is cut at the write-stall timeout, and send raises."""
    memory = Memory(site)
    with Raw(site.port, receive_buffer=4096) as peer:
        peer.upgrade(path=b"/flood")
        site.wait_for_line(r"path=/flood .*dropped=0 code=1006 cause=write_stall by=server")
        sent, raised = heard(site, "flood", 2)
    assert raised == "WebSocketError: Socket is dead"
    assert int(sent.split()[0]) < 2000  # 20 MB: what the kernels hold; without a wait it would have sent some gigabytes
    assert memory.grown() < 8 * MIB
    bystanders.notice_nothing()


@pytest.mark.parametrize("size", [8, 60_000])
def test_flooded_and_never_receives(site: Server, bystanders: Bystanders, size: int) -> None:
    """Its peer is read no further than the inbox size; it is pinged, and not cut though no pong is read; later all is there in order."""
    count = 100_000 if size == 8 else 400
    name = f"deaf/{size}"
    memory, number = Memory(site), 0
    with Raw(site.port) as peer:
        peer.upgrade(path=f"/{name}".encode())
        assert peer.read_message() == b"deaf"
        messages = [frame(TEXT, b"%08d" % number + b"x" * (size - 8)) for number in range(count)]
        pouring = threading.Thread(target=peer.socket.sendall, args=(b"".join(messages),))
        pouring.start()
        for _ in range(3):
            found = peer.read_frame()
            assert found is not None
            assert found.opcode == PING
        bystanders.notice_nothing()
        assert memory.grown() < 4 * MIB
        assert pouring.is_alive() == (size > 8)  # all of the small ones is in the kernels' buffers
        release(site, name)
        pouring.join(20)
        assert not pouring.is_alive()
        if size == 8:
            for number in range(1, count + 1):
                assert peer.read_message() == b"%d in order" % number
        peer.say_goodbye()
    assert heard(site, name) == [f"received None after {count}"]
    site.wait_for_line(rf"path=/{name} .*messages_in={count} .*code=1000 cause=client")


def test_leaves_one_that_never_receives(site: Server, bystanders: Bystanders) -> None:
    """A peer that has flooded it and is gone is noticed by a ping, though nothing of it is read; what was read is still received."""
    with Raw(site.port) as peer:
        peer.upgrade(path=b"/deaf/left")
        assert peer.read_message() == b"deaf"
        peer.socket.setblocking(False)
        number = 0
        while _sent(peer.socket, frame(TEXT, b"%08d" % number + b"x" * 10_000)):
            number += 1
    site.wait_for_line(r"path=/deaf/left .*code=1006 cause=(reset|fin) by=client")
    bystanders.notice_nothing()
    release(site, "deaf/left")
    assert re.fullmatch(r"received None after [1-9]\d*", heard(site, "deaf/left")[0])


def _sent(connection: socket.socket, data: bytes) -> bool:
    deadline = time.monotonic() + 1
    while data and time.monotonic() < deadline:
        try:
            data = data[connection.send(data) :]
        except BlockingIOError:
            continue
    return not data


# Peers that are gone without a word


def test_stopped_peer(site: Server, bystanders: Bystanders) -> None:
    """A peer whose process is stopped is cut for want of a pong; receive returns None, and the thread ends."""
    process = subprocess.Popen([*CLIENT, f"{site.url}/echo/stopped"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        process.send_signal(signal.SIGSTOP)
        bystanders.notice_nothing()
        site.wait_for_line(r"path=/echo/stopped .*code=1006 cause=pong_timeout by=server", 20)
        assert heard(site, "echo/stopped") == ["received None"]
    finally:
        process.kill()
        process.communicate()


def test_link_down() -> None:
    """So is one whose link is down; one to which much is being sent is cut for that, and its send raises."""
    settings = (f"--interface={SERVER_ADDRESS}", "--ping-interval=0.5", "--ping-timeout=1", "--write-stall-timeout=1")
    with Network() as network, Server(*settings, "--graceful-timeout=5", APP, prefix=network.server) as server:
        processes = []
        try:
            for path in ("echo/far", "flood/far"):
                line = [*network.client, *CLIENT, f"ws://{SERVER_ADDRESS}:{server.port}/{path}"]
                processes.append(process := subprocess.Popen(line, stdout=subprocess.PIPE, text=True))
                assert process.stdout is not None
                assert process.stdout.readline() == "open\n"
            network.pull()
            server.wait_for_line(r"path=/echo/far .*code=1006 cause=pong_timeout by=server", 20)
            assert heard(server, "echo/far") == ["received None"]
            server.wait_for_line(r"path=/flood/far .*code=1006 cause=write_stall by=server", 20)
            assert heard(server, "flood/far", 2)[1] == "WebSocketError: Socket is dead"
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        assert server.stop(timeout=20) == 0


# Computing and recursion


def test_burns_the_processor(site: Server, bystanders: Bystanders) -> None:
    """While three compute in Python without a pause, others are served, and pinged."""
    peers = [Raw(site.port) for _ in range(3)]
    for peer in peers:
        peer.upgrade(path=b"/spin")
        assert peer.read_message() == b"spinning"
    bystanders.notice_nothing()
    release(site, "spin")
    for peer in peers:
        assert peer.read_message() == b"done"
        assert peer.read_close()[0] == 1000
        peer.close()


BOMBS = {"lists": "[" * 100_000, "objects": '{"":' * 100_000, "closed": "[" * 100_000 + "]" * 100_000}


@pytest.fixture(scope="module")
def stacks() -> Iterator[Callable[[str], Server]]:
    """Gives the server whose threads have stacks of a size, started when first asked for."""
    with ExitStack() as stack:

        @functools.cache
        def give(size: str) -> Server:
            return stack.enter_context(Server(*([f"--thread-stack-size={size}"] if size else []), APP))

        yield give


@pytest.mark.parametrize("size", ["", "1MiB"], ids=["default", "least"])
def test_nested_json(stacks: Callable[[str], Server], size: str) -> None:
    """JSON nested a hundred thousand deep is a RecursionError in the thread that parses it, and no more, even on the smallest stack."""
    server = stacks(size)
    with Canary(server) as canary:
        for bomb in BOMBS.values():
            with Raw(server.port) as peer:
                peer.upgrade(path=b"/parse")
                for _ in range(3):
                    peer.send(frame(TEXT, bomb.encode()))
                    assert peer.read_message() == b"RecursionError"
                peer.send(frame(TEXT, b"[[]]"))
                assert peer.read_message() == b"parsed"
                peer.say_goodbye()
        canary.sing(3)


@pytest.mark.parametrize("way", ["python", "repr", "sort", "uncaught"])
def test_recursion_without_end(stacks: Callable[[str], Server], way: str) -> None:
    """Python functions, and those of C that call Python, come to a RecursionError too; where it is not caught, to 1011.

    Sorting takes more stack for each call than anything else: a thousand calls take more than 2 MiB.
    """
    server = stacks("4MiB" if way == "sort" else "")
    with Canary(server) as canary:
        with Raw(server.port) as peer:
            peer.upgrade(path=b"/recurse")
            peer.send(frame(TEXT, way.encode()))
            if way == "uncaught":
                assert peer.read_close() == (1011, b"")
                server.wait_for_line("application raised in its WebSocket session=")
            else:
                assert peer.read_message() == b"RecursionError"
                peer.say_goodbye()
        canary.sing(3)


# Plain requests


def test_requests_that_block() -> None:
    """One that blocks leaves the other threads to others; when all do, requests wait, in order, and those whose peers leave are not run."""
    settings = ("--http-threads=2", "--ping-interval=0.25", "--ping-timeout=3", "--graceful-timeout=2", "--drain-seconds=0")
    with Server(*settings, APP) as server, Bystanders(server) as bystanders:
        waiting = [_ask(server, "block/first")]
        heard(server, "block", 1)
        for _ in range(5):
            assert _get(server, "") == b"a page"
        waiting.append(_ask(server, "block/second"))
        heard(server, "block", 2)
        waiting += [_ask(server, f"block/{number}") for number in range(20)]
        leaving = [_ask(server, "block/left") for _ in range(20)]
        bystanders.notice_nothing()
        for each in leaving:
            each.close()
        wait_until(lambda: len(server.lines("path=/block/left status=0 .* cause=fin")) == 20, what="their leaving")
        assert heard(server, "block", 2) == ["first", "second"]
        with Raw(server.port) as peer:
            peer.upgrade(path=b"/free/block")
            assert peer.read_close()[0] == 1000
        for each, name in zip(waiting, ["first", "second", *map(str, range(20))], strict=True):
            status, _ = each.read_head()
            assert status == 200
            assert each.read_end().endswith(name.encode())
            each.close()
        assert sorted(heard(server, "block", 22)) == sorted(["first", "second", *map(str, range(20))])
        assert heard(server, "block", 22)[:2] == ["first", "second"]
        assert _get(server, "") == b"a page"


def _ask(server: Server, path: str) -> Raw:
    peer = Raw(server.port)
    peer.send(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    return peer


def test_requests_that_are_given_up() -> None:
    """Of requests that wait for a thread and are given up nothing stays: neither memory nor the files that their bodies are in."""
    with Server("--http-threads=1", "--graceful-timeout=1", "--drain-seconds=0", APP) as server, Canary(server):
        stuck = _ask(server, "block/stuck")
        heard(server, "block")
        before = server.descriptors()

        def come_and_go(count: int) -> int:
            for number in range(count):
                size = (60_000, 200_000)[number % 2]  # kept in memory, and in a file
                with Raw(server.port) as peer:
                    peer.send(b"POST /block/left HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            wait_until(lambda: server.descriptors() <= before, what="the descriptors' return")
            return server.rss()

        at_first = come_and_go(300)
        assert come_and_go(1000) - at_first <= 15 * MIB  # half of the small bodies; on Twisted's reactors memory grows by 15 in all
        with Raw(server.port) as peer:
            peer.upgrade(path=b"/free/block")
            assert peer.read_close()[0] == 1000
        assert stuck.read_head()[0] == 200
        stuck.close()


def test_response_that_is_not_read(site: Server, bystanders: Bystanders) -> None:
    """A response without end to a peer that never reads waits, takes little memory, is cut at the write-stall timeout, and is closed."""
    memory = Memory(site)
    with Raw(site.port, receive_buffer=4096) as peer:
        peer.send(b"GET /stream/unread HTTP/1.1\r\nHost: localhost\r\n\r\n")
        site.wait_for_line(r"answered .* path=/stream/unread status=200 .* cause=write_stall")
        (sent,) = heard(site, "stream/unread")
    assert int(sent.split()[0]) < 2000
    assert memory.grown() < 8 * MIB
    bystanders.notice_nothing()


@pytest.mark.parametrize("way", ["fin", "reset"])
def test_response_whose_peer_leaves(site: Server, bystanders: Bystanders, way: str) -> None:
    """A response without end is ended, and closed, when its peer leaves."""
    peer = _ask(site, f"stream/{way}")
    assert peer.read_head()[0] == 200
    peer.close() if way == "fin" else peer.reset()
    assert heard(site, f"stream/{way}")[0].endswith(" sent")
    site.wait_for_line(rf"path=/stream/{way} status=200 .* cause=(fin|reset)")
    bystanders.notice_nothing()


# Half of a connection


def test_half_closed(site: Server, bystanders: Bystanders) -> None:
    """A peer that ends its side without a close frame has gone: receive returns None."""
    with Raw(site.port) as peer:
        peer.upgrade(path=b"/echo/half")
        peer.send(frame(TEXT, b"last"))
        assert peer.read_message() == b"last"
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.read_close()[0] == NO_CLOSE_FRAME
    assert heard(site, "echo/half") == ["received None"]
    site.wait_for_line(r"path=/echo/half .*messages_in=1 messages_out=1 .*code=1006 cause=fin by=client")


# Too many threads for the machine


def test_no_thread_can_be_had() -> None:
    """Where the machine gives no thread, a client gets 503, and the log says why; those that are served, are, and requests too."""
    prefix = (needs("prlimit", package="util-linux"), f"--as={6 * 2**30}")
    with Server("--thread-stack-size=1GiB", "--ping-interval=0", APP, prefix=prefix) as server, Canary(server) as canary:
        peers: list[Raw] = []
        status = 101
        while status == 101:
            peers.append(peer := Raw(server.port))
            peer.send(request())
            status, head = peer.read_head()
            assert len(peers) < 10
        assert status == 503
        assert b"\r\nretry-after: 5\r\n" in head.lower()
        server.wait_for_line(r"(warn|error) .* cannot start a thread beside \d+: can't start new thread")
        asked = _ask(server, "")
        assert asked.read_head()[0] == 200
        for peer in peers[:-1]:
            peer.send(frame(TEXT, b"hello"))
            assert peer.read_message() == b"hello"
            peer.say_goodbye()
        for peer in (peers[-1], asked):
            peer.close()
        canary.sing(20)
        assert _opens(server)


# The end


DRAIN = ("--drain-seconds=0.2", "--graceful-timeout=2", "--close-timeout=0.5")


def test_stop_while_they_wait() -> None:
    """Those that wait in receive get 1012 each, hear None, and the process ends at once, with status 0."""
    with Server("--drain-seconds=0.5", "--graceful-timeout=60", "--ping-interval=0", APP) as server:
        peers = [Raw(server.port) for _ in range(30)]
        for number, peer in enumerate(peers):
            peer.upgrade(path=b"/echo/stop")
            peer.send(frame(TEXT, b"%d" % number))
        server.send_signal(signal.SIGTERM)
        for number, peer in enumerate(peers):
            assert peer.read_message() == b"%d" % number  # what had come is answered first
            assert peer.read_close() == (1012, b"service restart")
            peer.send(frame(CLOSE, close_payload(1012)))
        assert server.wait(20) == 0
        for peer in peers:
            peer.close()
        assert heard(server, "echo/stop", 30) == ["received None"] * 30
        assert len(server.lines("code=1012 cause=drain by=server")) == 30
        assert not server.lines("aborting|Traceback")


def test_stop_while_one_works() -> None:
    """What one has received is answered before its 1012."""
    with Server("--drain-seconds=0", "--graceful-timeout=60", "--ping-interval=0", APP) as server, Raw(server.port) as peer:
        peer.upgrade(path=b"/sleep")
        peer.send(2 * frame(TEXT, b"0.5"))
        assert peer.read_message() == b"begun"
        server.send_signal(signal.SIGTERM)
        server.wait_for_line("draining 1 sessions")
        assert [peer.read_message() for _ in range(3)] == [b"done", b"begun", b"done"]
        assert peer.read_close() == (1012, b"service restart")
        peer.send(frame(CLOSE, close_payload(1012)))
        assert server.wait(20) == 0


def test_stop_while_requests_wait() -> None:
    """Requests that are still not answered at the graceful timeout, and those that no thread was free for, are cut; the status is 0."""
    with Server(*DRAIN, "--http-threads=1", APP) as server:
        asked = [_ask(server, "block/one")]
        heard(server, "block")
        asked.append(_ask(server, "block/two"))
        with Canary(server) as canary:
            canary.sing(3)
        assert server.stop(timeout=20) == 0
        for each in asked:
            assert each.read_end() == b""
            each.close()
        assert len(server.lines(r"answered .* path=/block/\w+ status=0 .* cause=drain")) == 2
        assert heard(server, "block") == ["one"]
        assert not server.lines("Traceback")


def test_stop_while_some_run_on() -> None:
    """Threads that run on do not keep the process beyond the graceful timeout, nor from status 0; the peers of all get 1012."""
    paths = ("hang", "spin", "stubborn", "sleep", "printing", "echo")
    with Server(*DRAIN, APP) as server:
        peers = [Raw(server.port) for _ in paths]
        for peer, path in zip(peers, paths, strict=True):
            peer.upgrade(path=f"/{path}".encode())
            peer.send(frame(TEXT, b"1000"))
            peer.read_message()
        server.send_signal(signal.SIGTERM)
        for peer in peers:
            assert peer.read_close()[0] == 1012
            peer.read_end()
            peer.close()
        assert server.running  # it waits for the threads
        assert server.wait(20) == 0
        assert server.lines("Traceback|Fatal|aborting") == []


def test_stop_while_a_pool_runs_on() -> None:
    """Nor does a thread of a pool of the application's own."""
    with Server(*DRAIN, APP) as server, Raw(server.port) as peer:
        peer.upgrade(path=b"/pooled")
        assert peer.read_message() == b"pooled"
        assert server.stop(timeout=20) == 0
        assert len(server.lines("ending without threads that do not end: ThreadPoolExecutor-0_0")) == 1


def test_asked_twice() -> None:
    """A second signal closes all at once, and ends the process within the close timeout, whatever threads still run."""
    with Server("--drain-seconds=25", "--graceful-timeout=60", "--close-timeout=1", APP) as server:
        peers = [Raw(server.port) for _ in range(3)]
        for peer, path in zip(peers, ("hang", "spin", "echo"), strict=True):
            peer.upgrade(path=f"/{path}".encode())
            peer.send(frame(TEXT, b"hello"))
            peer.read_message()
        server.send_signal(signal.SIGTERM)
        server.wait_for_line("draining 3 sessions")
        server.send_signal(signal.SIGTERM)
        for peer in peers:
            assert peer.read_close()[0] == 1012
            peer.close()
        assert server.wait(20) == 0


# What cannot work


def test_monkey_patched(tmp_path: Path) -> None:
    """An application whose import has gevent patch the process ends the start: one line that says why, and status 2."""
    pytest.importorskip("gevent")
    (tmp_path / "patched.py").write_text(
        "from gevent import monkey\nmonkey.patch_all()\n\n\ndef app(environ, start_response):\n    return []\n"
    )
    result = run("--app-dir", str(tmp_path), "--port", "0", "patched:app", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("twistedws: ")
    assert "patched:app" in line
    assert "its import calls gevent.monkey.patch_all()" in line
