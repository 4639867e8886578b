"""The files for systemd in ``etc/``: systemd accepts them, their limits fit the server's, and the service is as closed as it says."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.proxies import ETC, fragment
from tests.support.server import TWISTD
from tests.support.tools import needs
from twistedws import config

DEFAULTS = config.resolve(command_line={}, environment={}).configuration


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with this installation's twistd and a configuration file that exists."""
    (tmp_path / "twistedws.toml").write_bytes((ETC / "twistedws.toml").read_bytes())
    places = {
        "/opt/twistedws/bin/twistd": str(TWISTD),
        "--config /etc/twistedws.toml": f"--config {tmp_path / 'twistedws.toml'}",
        "WorkingDirectory=/opt/twistedws": f"WorkingDirectory={tmp_path}",
    }
    path = tmp_path / "twistedws.service"
    path.write_text(fragment("twistedws.service", places))
    return path


@pytest.fixture
def socket_unit(unit: Path) -> Path:
    """The socket unit, beside the service that it is for."""
    path = unit.with_name("twistedws.socket")
    path.write_bytes((ETC / "twistedws.socket").read_bytes())
    return path


def settings(path: Path, section: str = "Service") -> configparser.SectionProxy:
    """Return the settings of a section; of one that is given several times, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names of systemd's have capitals
    parser.read(path)
    return parser[section]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program that ends by itself."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def verify(path: Path) -> None:
    result = run(needs("systemd-analyze", package="systemd"), "verify", path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def verdict(path: Path) -> None:
    """Have systemd measure what an intruder into the service could do."""
    result = run(needs("systemd-analyze", package="systemd"), "security", "--offline=yes", "--threshold=20", path)
    if "unrecognized option" in result.stderr:
        pytest.skip("this systemd-analyze, before version 250, judges no unit that is not loaded")
    assert result.returncode == 0, result.stdout[-500:] + result.stderr


def test_verify(unit: Path) -> None:
    """Every line is one that systemd understands."""
    verify(unit)


def test_verify_socket(socket_unit: Path) -> None:
    """Every line of the socket unit is one that systemd understands, and there is a service for it."""
    verify(socket_unit)


def test_verify_unix_socket(socket_unit: Path) -> None:
    """So it is with the UNIX socket that the socket unit suggests, instead of the port."""
    text = socket_unit.read_text()
    for name in ("ListenStream=/", "SocketMode", "SocketGroup"):
        assert f"\n#{name}" in text
        text = text.replace(f"\n#{name}", f"\n{name}")
    socket_unit.write_text(text.replace("\nListenStream=8000\n", "\n").replace("www-data", "root"))
    verify(socket_unit)
    where = Path(settings(socket_unit, "Socket")["ListenStream"]).parent
    assert where != Path("/run", settings(socket_unit.with_suffix(".service"))["RuntimeDirectory"])


def test_security(unit: Path) -> None:
    """What an intruder could still do is at most 2 by systemd's own measure, from 0 to 10."""
    verdict(unit)


def test_security_below_1024(unit: Path) -> None:
    """So it is with the one capability that the unit suggests for low ports."""
    text, count = re.subn(r"^CapabilityBoundingSet=\n", "", unit.read_text(), flags=re.MULTILINE)
    text, more = re.subn(r"^#(\w+=CAP_NET_BIND_SERVICE)$", r"\1", text, flags=re.MULTILINE)
    assert (count, more) == (1, 2)
    unit.write_text(text)
    verify(unit)
    verdict(unit)


def test_calls(unit: Path) -> None:
    """The system calls of a supervisor are allowed: to start, signal and await processes, and to hand them sockets."""
    analyze = needs("systemd-analyze", package="systemd")

    def expand(name: str) -> set[str]:
        found = run(analyze, "--no-pager", "syscall-filter", name).stdout.splitlines()[1:]
        entries = [each.strip() for each in found if each.strip() and not each.strip().startswith("#")]
        return {call for each in entries for call in (expand(each) if each.startswith("@") else (each,))}

    lines = re.findall(r"^SystemCallFilter=(.*)$", unit.read_text(), re.MULTILINE)
    assert lines == ["@system-service", "~@privileged"]
    allowed = expand("@system-service") - expand("@privileged")
    assert allowed >= {"execve", "clone", "clone3", "vfork", "kill", "wait4", "waitid", "pidfd_open", "pidfd_send_signal"}
    assert allowed >= {"socketpair", "sendmsg", "recvmsg", "sendto", "prctl", "prlimit64", "sched_getaffinity", "sched_setaffinity"}
    assert "AF_UNIX" in settings(unit)["RestrictAddressFamilies"].split()


def test_command_line(unit: Path) -> None:
    """What ExecStart runs is a command line that the server accepts."""
    command = settings(unit)["ExecStart"].split()
    result = subprocess.run([*command, "--check-config"], capture_output=True, text=True, check=False, cwd=unit.parent)
    assert (result.returncode, result.stderr) == (0, "")


def test_notifies(unit: Path) -> None:
    """The service has started when its main process says so; a reload is a signal to that process, which stands for all others."""
    service = settings(unit)
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert service["ExecReload"].split() == ["/bin/kill", "-HUP", "$MAINPID"]
    assert (service["KillMode"], service["OOMPolicy"]) == ("mixed", "continue")


def test_threads(unit: Path) -> None:
    """There may be more tasks than the threads that a WSGI application has by default in four workers, and in four new ones."""
    threads = DEFAULTS.threads
    assert int(settings(unit)["TasksMax"]) > 2 * 4 * (threads.threads + threads.http_threads + 100)


def test_patience(unit: Path) -> None:
    """The server is killed only after the longest drain, and a wrong configuration is not tried again."""
    shutdown = DEFAULTS.shutdown
    drain = shutdown.ready_delay + shutdown.graceful_timeout + DEFAULTS.hosting.application_close_timeout
    assert float(settings(unit)["TimeoutStopSec"]) > drain
    wrong = subprocess.run([sys.executable, str(TWISTD), "-n", "twistedws", "--port=no"], capture_output=True, check=False, cwd=unit.parent)
    assert settings(unit)["RestartPreventExitStatus"] == str(wrong.returncode)


def test_patience_with_workers(unit: Path) -> None:
    """The supervisor gives a worker up, whether it starts or is stuck, before systemd gives the service up."""
    service, workers = settings(unit), DEFAULTS.workers
    assert float(service["TimeoutStartSec"]) > workers.worker_start_timeout
    assert float(service["WatchdogSec"]) > workers.worker_timeout > 0


def test_socket(unit: Path, socket_unit: Path) -> None:
    """The socket is one that the comment's endpoint takes: a single one, not accepted by systemd, with a name and our own backlog."""
    values = settings(socket_unit, "Socket")
    assert (values["ListenStream"], values["BindIPv6Only"], values["FileDescriptorName"]) == ("8000", "both", "twistedws")
    assert "Accept" not in values
    assert int(values["Backlog"]) == DEFAULTS.listening.backlog
    (endpoint,) = re.findall(r"^# +endpoint = \[\"(.*)\"\]$", socket_unit.read_text(), re.MULTILINE)
    assert endpoint == "systemd:domain=INET6:index=0"
    configuration = config.resolve(command_line={"endpoint": (endpoint,)}, environment={}).configuration
    assert configuration.listening.endpoint == (endpoint,)


def test_account(tmp_path: Path) -> None:
    """The account is one that systemd-sysusers makes: of the system, with neither a shell nor a home."""
    (tmp_path / "etc").mkdir()
    result = run(needs("systemd-sysusers", package="systemd"), f"--root={tmp_path}", ETC / "twistedws.sysusers")
    assert result.returncode == 0, result.stderr
    (line,) = [each for each in (tmp_path / "etc/passwd").read_text().splitlines() if each.startswith("twistedws:")]
    _, _, user, group, comment, home, shell = line.split(":")
    assert 0 < int(user) < 1000
    assert 0 < int(group) < 1000
    assert (comment, home, shell) == ("WebSocket server", "/", "/usr/sbin/nologin")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another account")
def test_directory(tmp_path: Path) -> None:
    """The directory is that of the account, and everybody may enter it."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\ntwistedws:x:321:322::/:/bin/false\n")
    (tmp_path / "etc/group").write_text("root:x:0:\ntwistedws:x:322:\n")
    result = run(needs("systemd-tmpfiles", package="systemd"), f"--root={tmp_path}", "--create", ETC / "twistedws.tmpfiles")
    assert (result.returncode, result.stderr) == (0, "")
    found = (tmp_path / "run/twistedws").stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o755, 321, 322)
