"""``etc/twistedws.service``: systemd accepts it, its limits fit the server's, and it is as closed as it says."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.proxies import ETC, fragment
from tests.support.server import TWISTD
from tests.support.tools import needs
from twistedws import config


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with this installation's twistd and a configuration file that exists."""
    (tmp_path / "twistedws.toml").write_bytes((ETC / "twistedws.toml").read_bytes())
    places = {
        "/opt/twistedws/bin/twistd": str(TWISTD),
        "/etc/twistedws.toml": str(tmp_path / "twistedws.toml"),
        "WorkingDirectory=/opt/twistedws": f"WorkingDirectory={tmp_path}",
    }
    path = tmp_path / "twistedws.service"
    path.write_text(fragment("twistedws.service", places))
    return path


def settings(path: Path) -> configparser.SectionProxy:
    """Return the settings of the service section; of one that is given several times, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names of systemd's have capitals
    parser.read(path)
    return parser["Service"]


def test_verify(unit: Path) -> None:
    """Every line is one that systemd understands."""
    result = subprocess.run([needs("systemd-analyze", package="systemd"), "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_security(unit: Path) -> None:
    """What an intruder could still do is at most 2 by systemd's own measure, from 0 to 10."""
    command = [needs("systemd-analyze", package="systemd"), "security", "--offline=yes", "--threshold=20", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in result.stderr:
        pytest.skip("this systemd-analyze, before version 250, judges no unit that is not loaded")
    assert result.returncode == 0, result.stdout[-500:] + result.stderr


def test_command_line(unit: Path) -> None:
    """What ExecStart runs is a command line that the server accepts."""
    command = settings(unit)["ExecStart"].split()
    result = subprocess.run([*command, "--check-config"], capture_output=True, text=True, check=False, cwd=unit.parent)
    assert (result.returncode, result.stderr) == (0, "")


def test_threads(unit: Path) -> None:
    """There may be more tasks than the threads that a WSGI application has by default."""
    threads = config.resolve(command_line={}, environment={}).configuration.threads
    assert int(settings(unit)["TasksMax"]) > threads.threads + threads.http_threads


def test_patience(unit: Path) -> None:
    """The server is killed only after the graceful timeout, and a wrong configuration is not tried again."""
    shutdown = config.resolve(command_line={}, environment={}).configuration.shutdown
    assert float(settings(unit)["TimeoutStopSec"]) > shutdown.graceful_timeout
    wrong = subprocess.run([sys.executable, str(TWISTD), "-n", "twistedws", "--port=no"], capture_output=True, check=False, cwd=unit.parent)
    assert settings(unit)["RestartPreventExitStatus"] == str(wrong.returncode)
