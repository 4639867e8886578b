"""ASGI applications and peers that are wrong: bounded memory, a deadline, one line in the log, and healthy clients that notice nothing."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.support.memory import request
from tests.support.raw import CLOSE, TEXT, Canary, Memory, Raw, close_payload, frame
from tests.support.server import Server, wait_until


def _heard(server: Server, name: str) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/heard", timeout=20) as response:
        notes: list[str] = json.load(response).get(name, [])
    return notes


def test_peer_that_never_reads() -> None:
    """A peer that never reads what the application floods it with costs little memory, makes ``send`` wait, and is cut, which it hears."""
    with Server("--write-stall-timeout=2", "asgi_faults:app") as server, Canary(server) as canary:
        descriptors = server.descriptors()
        memory = Memory(server)
        with Raw(server.port, receive_buffer=4096) as peer:
            peer.upgrade(path=b"/flood")
            server.wait_for_line(r"path=/flood .*code=1006 cause=write_stall by=server")
            notes = wait_until(lambda: _heard(server, "flood")[1:] and _heard(server, "flood"), what="the application's end")
        assert notes[1] == "1006"
        assert int(notes[0].split()[0]) < 2000  # 20 MB; without a wait it would have sent some gigabytes
        assert memory.grown() < 20_000_000
        canary.sing(20)
        wait_until(lambda: server.descriptors() <= descriptors, what="the descriptor's return")
        assert server.lines("Traceback") == []


@pytest.mark.parametrize("name", ["ignore", "send-on"])
def test_application_that_ignores_its_disconnect(name: str) -> None:
    """It is cancelled after its grace time, its place logged once; serving goes on, and so does the stop."""
    with Server("--application-close-timeout=1", "asgi_faults:app") as server, Canary(server) as canary:
        with Raw(server.port) as peer:
            peer.upgrade(path=f"/{name}".encode())
            peer.send(frame(TEXT, b"hello") + frame(CLOSE, close_payload(1000)))
            assert peer.read_close()[0] == 1000
        server.wait_for_line(r"cancelling the application of session=\w+: it ran on for 1 s .*asgi_faults\.py:\d+")
        if name == "ignore":
            wait_until(lambda: _heard(server, name) == ["cancelled"], what="its cancellation")
        canary.sing(20)
    assert len(server.lines("cancelling")) == 1
    assert server.lines("Traceback") == []


@pytest.mark.parametrize(("path", "status"), [(b"/raise-before", 500), (b"/raise-after", 101)])
def test_application_that_raises(path: bytes, status: int) -> None:
    """Before it accepts the client gets 500, afterwards 1011, and the log one traceback; others are served."""
    with Server("asgi_faults:app") as server, Canary(server), Raw(server.port) as peer:
        peer.send(request(path=path))
        assert peer.read_head()[0] == status
        if status == 101:
            peer.send(frame(TEXT, b"hello"))
            assert peer.read_close() == (1011, b"")
        server.wait_for_line("application raised")
        assert len(server.lines("RuntimeError: the application is wrong")) == 1
