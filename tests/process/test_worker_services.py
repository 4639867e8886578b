"""Workers and what is around them: systemd's notifications and sockets, privileges, TLS, UNIX sockets, proxies."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support.memory import request
from tests.support.proxies import free_port
from tests.support.raw import TEXT, Raw, frame
from tests.support.server import APPS, Server, wait_until
from tests.support.tools import needs
from tests.support.workers import children, gone, numbers


class Systemd:
    """systemd's end of NOTIFY_SOCKET: a datagram socket that keeps all that it is told.

    Args:
        path: Where.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.said: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while data := self._socket.recv(4096):
            self.said.append(dict(line.partition("=")[::2] for line in data.decode().splitlines()))

    def has(self, **variables: str) -> dict[str, str] | None:
        """Return the first message with these variables."""
        return next((each for each in tuple(self.said) if variables.items() <= each.items()), None)

    def wait_for(self, **variables: str) -> dict[str, str]:
        """Wait for a message with these variables."""
        return wait_until(lambda: self.has(**variables), 20, f"{variables} in {self.said}")


@pytest.mark.parametrize("workers", [0, 2])
def test_notify(tmp_path: Path, workers: int) -> None:
    """Systemd hears READY, STATUS with counts, signs of life, RELOADING with the time, READY again, STOPPING; workers know of none."""
    systemd = Systemd(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "1000000"}
    with Server(f"--workers={workers}", "--drain-seconds=0", "echo", environment=environment) as server:
        systemd.wait_for(READY="1")
        for each in children(server.pid):
            assert b"NOTIFY_SOCKET" not in Path(f"/proc/{each}/environ").read_bytes()
        with Raw(server.port) as peer:
            peer.upgrade()
            wait_until(lambda: any("1 sessions" in each.get("STATUS", "") for each in systemd.said), 10, "the session is counted")
        wait_until(lambda: sum(each.get("WATCHDOG") == "1" for each in systemd.said) >= 3, 10, "signs of life")
        systemd.said.clear()
        server.send_signal(signal.SIGHUP)
        assert int(systemd.wait_for(RELOADING="1")["MONOTONIC_USEC"]) > 0
        systemd.wait_for(READY="1")
        assert server.stop() == 0
        systemd.wait_for(STOPPING="1")


def test_no_sign_of_life_when_all_are_stuck(tmp_path: Path) -> None:
    """While no worker answers, systemd gets no sign of life; once one does, it does again."""
    systemd = Systemd(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "500000"}
    options = ("--workers=1", "--stuck-after=1", "--worker-timeout=0")
    with Server(*options, "blocks:App", environment=environment) as server, Raw(server.port) as peer:
        peer.upgrade()
        peer.send(frame(TEXT, b"block 4"))
        server.wait_for_line("is stuck")
        systemd.said.clear()
        server.wait_for_line("answers again")
        assert sum("WATCHDOG" in each for each in systemd.said) <= 1
        systemd.wait_for(WATCHDOG="1")


@pytest.mark.parametrize("name", ["tcp", "unix"])
def test_socket_activation(tmp_path: Path, name: str) -> None:
    """Sockets of systemd's are shared by workers, survive a reload and a new supervisor, and a UNIX socket's file stays."""
    activate = needs("systemd-socket-activate", package="systemd")
    port, path = free_port(), tmp_path / "ws.sock"
    place, domain = (f"127.0.0.1:{port}", "INET") if name == "tcp" else (str(path), "UNIX")
    prefix = (activate, f"--listen={place}", "--fdname=web", "-E", "PATH")
    options = (f"--endpoint=systemd:domain={domain}:index=0", "--workers=2", "--drain-seconds=0", f"--app-dir={APPS}", "whoami:App")
    server = Server(*options, prefix=prefix, cwd=tmp_path)
    server.start_process()

    def asked() -> str:
        with socket.create_connection(("127.0.0.1", port)) if name == "tcp" else _unix(path) as peer:
            peer.settimeout(20)
            peer.sendall(request() + frame(TEXT, b"7"))
            answer = b""
            while not answer.endswith(b" 7"):
                answer += peer.recv(4096) or pytest.fail("ended")
            return answer.rpartition(b"\r\n\r\n")[2][2:].decode().split()[0]

    try:
        wait_until(lambda: server.lines("Listening on"), 10, "systemd's socket")
        assert asked() == "1"
        (tmp_path / "version.txt").write_text("2")
        first = children(server.pid)
        server.send_signal(signal.SIGHUP)
        gone(*first)
        assert asked() == "2"
        (tmp_path / "version.txt").write_text("3")
        server.send_signal(signal.SIGUSR2)
        wait_until(lambda: len(server.lines("2 new workers are ready")) == 2, 30, "the new supervisor's workers")
        wait_until(lambda: len(children(server.pid)) == 2, 20, "the end of the old ones")
        assert asked() == "3"
    finally:
        assert server.stop() == 0
    assert name == "tcp" or path.exists()


def _unix(path: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(path))
    return peer


def test_privileges(tmp_path: Path) -> None:
    """``twistd --uid`` binds a low port as root, and then supervisor and workers run as somebody else; a reload works all the same."""
    if os.getuid() != 0:
        pytest.skip("only root can bind a low port and give rights up")
    port = next(each for each in range(700, 1024) if _is_free(each))
    # Nobody may read the interpreter's files all the same, as this one's may lie in a directory of root's.
    prefix = (
        needs("setpriv", package="util-linux"),
        "--securebits=+no_setuid_fixup",
        "--inh-caps=+dac_read_search",
        "--ambient-caps=+dac_read_search",
    )
    with Server(f"--port={port}", "--workers=2", "echo", twistd=("--uid=nobody",), cwd=tmp_path, prefix=prefix) as server:
        first = children(server.pid)
        uid = pwd.getpwnam("nobody").pw_uid
        for each in (server.pid, *first):
            assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in Path(f"/proc/{each}/status").read_text()
        with Raw(port) as peer:
            peer.upgrade()
        server.send_signal(signal.SIGHUP)
        server.wait_for_line("2 new workers are ready", 20)
        gone(*first)
        with Raw(port) as peer:
            peer.upgrade()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_tls_and_proxies(tmp_path: Path) -> None:
    """Workers share TLS, UNIX and PROXY protocol endpoints; each connection is what it would be in one process."""
    openssl = needs("openssl", package="openssl")
    key, chain, path = tmp_path / "key.pem", tmp_path / "chain.pem", tmp_path / "ws.sock"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    ports = [free_port(), free_port()]
    endpoints = (
        f"--endpoint=ssl:{ports[0]}:interface=127.0.0.1:privateKey={key}:certKey={chain}",
        f"--endpoint=unix:{path}:mode=600",
        f"--endpoint=haproxy:tcp:{ports[1]}:interface=127.0.0.1",
    )
    with Server(*endpoints, "--workers=2", "--log-level=debug", "echo") as server:
        assert path.stat().st_mode & 0o777 == 0o600
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for _ in range(3):
            with context.wrap_socket(socket.create_connection(("127.0.0.1", ports[0]))) as secure:
                secure.sendall(request())
                assert b" 101 " in secure.recv(4096)
            with _unix(path) as near:
                near.sendall(request())
                assert b" 101 " in near.recv(4096)
            with Raw(ports[1]) as behind:
                behind.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n")
                behind.upgrade()
        server.wait_for_line("peer=192.0.2.7:5000")
        os.kill(numbers(server)[1], signal.SIGTERM)  # a worker that ends removes nothing that the others need
        server.wait_for_line("worker 3 .* is ready", 20)
        with _unix(path) as near:
            near.sendall(request())
            assert b" 101 " in near.recv(4096)
        assert server.stop() == 0
    assert not path.exists()


def test_wrong_configuration(tmp_path: Path) -> None:
    """What is wrong with endpoints, twistd's options or the machine is said in one line, with its status, before any worker is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for line, status, says in [
            ((f"--port={port}",), 1, rf"twistedws: cannot listen on tcp:{port}.*: Address already in use$"),
            (("--endpoint=tcp:x",), 2, "twistedws: endpoint: tcp:x"),
            (
                ("--endpoint=ssl:1:privateKey=/no/such",),
                2,
                "twistedws: endpoint: ssl:1:privateKey=/no/such.*: No such file or directory: /no/such; a server endpoint",
            ),
            (("--reload",), 2, "twistedws: --workers: 2: 0 is accepted together with --reload"),
        ]:
            server = Server("--workers=2", *line, "echo", cwd=tmp_path)
            server.start_process()
            assert server.wait() == status
            assert server.lines(says), server.lines()
            assert not server.lines("is ready")
