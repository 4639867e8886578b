"""``twistedws.reactor.loop_reactor``: the reactor as a whole, its end, and its want of descriptors."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionLost, UnsupportedAddressFamily

from tests.support.reactor import LOOPS, ROOT, Echo, HalfCloseable, World, descriptors, listen_on
from twistedws.reactor import LoopTransport


def test_the_end_of_the_reactor(world: World) -> None:
    """A reactor that stops tells each protocol, once, and closes each descriptor."""
    world.listen()  # the spare descriptors of Twisted and libuv come with the first port
    before = world.until(descriptors)
    port = world.listen(HalfCloseable)
    pairs = [world.pair(port=port) for _ in range(4)]
    pairs[0][1].transport.pauseProducing()
    pairs[1][0].shutdown(socket.SHUT_WR)
    world.until(lambda: pairs[1][1].events)
    world.reactor.disconnectAll()
    assert [server.lost.check(ConnectionLost) for _, server in pairs] == [ConnectionLost] * 4
    for client, _ in pairs:
        client.close()
    world.until(lambda: descriptors() <= before)
    assert [server.told for _, server in pairs] == [1] * 4


def test_adopted_connection(world: World) -> None:
    """An adopted connection is served on a duplicate of its descriptor."""
    ours, client = socket.socketpair()
    with ours, client:
        client.setblocking(False)
        transport = world.reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, world.factory(Echo))
        assert isinstance(transport, LoopTransport)
        ours.close()
        client.sendall(b"x")
        assert world.receive(client, 1) == b"x"
    with pytest.raises(UnsupportedAddressFamily):
        world.reactor.adoptStreamConnection(0, 12345, world.factory())


def test_haproxy_endpoint(world: World) -> None:
    """A ``haproxy:`` endpoint tells the address that the PROXY header names."""
    port = listen_on(world, "haproxy:tcp:0:interface=127.0.0.1")
    client = world.connect(port)
    client.sendall(b"PROXY TCP4 198.51.100.7 192.0.2.1 1234 80\r\nhello")
    assert world.receive(client, 5) == b"hello"
    assert world.made[0].transport.getPeer() == IPv4Address("TCP", "198.51.100.7", 1234)


OUT_OF_DESCRIPTORS = """
    import os, resource, socket, subprocess, sys, time, asyncio
    from twistedws.reactor import LoopReactor, new_event_loop
    loop = new_event_loop() if sys.argv[1] == "uvloop" else asyncio.new_event_loop()
    reactor = LoopReactor(loop)
    from twisted.internet.protocol import Factory, Protocol
    from twisted.logger import globalLogPublisher
    logged = []
    globalLogPublisher.addObserver(lambda event: logged.append(str(event.get("log_format", ""))))

    class Echo(Protocol):
        def dataReceived(self, data):
            self.transport.write(data)

    async def until(condition, seconds=10):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    def answers(client):
        try:
            return client.recv(1) == b"x"
        except BlockingIOError:
            return False

    async def main():
        reactor.startRunning(False)
        port = reactor.listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1", backlog=200)
        clients = [socket.socket() for _ in range(40)]
        await until(lambda: reactor.ports)
        free = os.open(os.devnull, os.O_RDONLY)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        # first at the limit, then, which is worse, below what is open already: then even libuv's spare descriptor cannot be had again
        for most, more in ((200, 8), (300, -4)):
            while (top := os.dup(free)) < most:  # so that there are no gaps below it
                pass
            limit = top + more
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            for each in clients[:20]:
                each.setblocking(False)
                each.connect_ex(("127.0.0.1", port.getHost().port))
            await until(lambda: reactor.starved)
            burnt = time.process_time()
            await asyncio.sleep(1.5)
            assert time.process_time() - burnt < 0.5, "it spins"
            assert reactor.starved
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            await until(lambda: not reactor.starved, 2)
            with socket.socket() as client:
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port.getHost().port))
                await until(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0)
                client.send(b"x")
                await until(lambda: answers(client))
            for each in clients[:20]:
                each.close()
            await until(lambda: not reactor.connections)
            clients = clients[20:]
        about = [each for each in logged if "descriptors" in each]
        assert len(about) == 4, about
        print("survived")

    loop.run_until_complete(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
@pytest.mark.parametrize("loop", LOOPS)
def test_out_of_descriptors(loop: str, tmp_path: Path) -> None:
    """Without descriptors a port neither spins nor dies, says so in one line, and accepts within a second of there being some again."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(OUT_OF_DESCRIPTORS))
    done = subprocess.run([sys.executable, str(script), loop], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert "survived" in done.stdout, done.stdout + done.stderr


def test_twistd_knows_it() -> None:
    """``twistd --reactor=uvloop`` is offered, and installs it."""
    pytest.importorskip("uvloop")
    done = subprocess.run([sys.executable, "-m", "twisted", "--help"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "uvloop" in done.stdout, done.stdout + done.stderr
    script = "from twistedws.reactor import *; install(); from twisted.internet import reactor as r; print(type(r).__name__, r.native)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.split() == ["LoopReactor", "True"], done.stderr
