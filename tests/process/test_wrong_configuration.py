"""What the real command says of configurations that are wrong: one line, a status, and no traceback."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.server import APPS, TWISTD
from twistedws import __version__
from twistedws.config import SETTINGS


@dataclass(frozen=True)
class Wrong:
    """A wrong configuration.

    Attributes:
        name: Of the test.
        line: What stands behind ``twistedws``; ``{tmp}`` is a directory, ``{apps}`` that of the tests' applications.
        says: Texts that the line on standard error must have: the setting, the value, what is accepted.
        status: The exit status.
        twistd: Options of twistd itself.
        variables: Of the environment.
        files: By name, what stands in files of ``{tmp}``.
    """

    name: str
    line: tuple[str, ...]
    says: tuple[str, ...]
    status: int = 2
    twistd: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    files: dict[str, str | bytes] = field(default_factory=dict)


def _file(name: str, text: str | bytes, *says: str) -> Wrong:
    return Wrong(name, ("--config", "{tmp}/ws.toml"), ("{tmp}/ws.toml", *says), files={"ws.toml": text})


def _app(name: str, app: str, *says: str, more: tuple[str, ...] = (), twistd: tuple[str, ...] = ()) -> Wrong:
    return Wrong(name, ("--app-dir", "{apps}", *more, app), (app, *says), twistd=twistd)


WRONG = [
    # type
    Wrong("port that is no number", ("--port", "http"), ("--port", "http", "65535")),
    Wrong("port that is no integer", ("--port", "80.5"), ("--port", "80.5", "65535")),
    Wrong("duration of unknown unit", ("--ping-interval", "20 parsecs"), ("--ping-interval", "20 parsecs", "seconds")),
    Wrong("size of unknown unit", ("--max-message-size", "1MB"), ("--max-message-size", "1MB", "MiB")),
    Wrong("not a number", ("--message-rate", "nan"), ("--message-rate", "nan", "number")),
    Wrong("empty value", ("--interface", ""), ("--interface", "address")),
    # range
    Wrong("port out of range", ("--port", "70000"), ("--port", "70000", "65535")),
    Wrong("negative duration", ("--ping-timeout=-1",), ("--ping-timeout", "-1", "0")),
    Wrong("no close timeout", ("--close-timeout", "0"), ("--close-timeout", "0", "every close has a deadline")),
    Wrong("infinite duration", ("--graceful-timeout", "inf"), ("--graceful-timeout", "inf", "seconds")),
    Wrong("head too small", ("--max-head-size", "10"), ("--max-head-size", "10", "1KiB")),
    Wrong("window of no bits", ("--compression-window-bits", "8"), ("--compression-window-bits", "8", "9", "15")),
    Wrong("drain over deadline", ("--drain-seconds=20", "--graceful-timeout=10"), ("--drain-seconds", "20", "10")),
    # choice and shape
    Wrong("unknown choice", ("--slow-consumer", "wait"), ("--slow-consumer", "wait", "close", "drop-newest", "abort")),
    Wrong("unknown log level", ("--log-level", "loud"), ("--log-level", "loud", "debug", "critical")),
    Wrong("unknown compression", ("--compression", "yes"), ("--compression", "yes", "off", "on")),
    Wrong("origin with a path", ("--origin", "https://a.example/x"), ("--origin", "https://a.example/x", "no path")),
    Wrong("origin with no scheme", ("--origin", "a.example"), ("--origin", "a.example", "scheme")),
    Wrong("origin with an impossible port", ("--origin", "https://a.example:99999"), ("--origin", "https://a.example:99999")),
    Wrong("subprotocol with a space", ("--subprotocol", "a b"), ("--subprotocol", "a b", "token")),
    # command line
    Wrong("unknown option", ("--prot", "1"), ("--prot", "--help")),
    Wrong("option with no value", ("--port",), ("--port",)),
    Wrong("two applications", ("echo", "echo2"), ("echo2", "one APP")),
    # environment
    Wrong("variable of wrong type", (), ("TWISTEDWS_PORT", "http", "65535"), variables={"TWISTEDWS_PORT": "http"}),
    Wrong("unknown variable", (), ("TWISTEDWS_PROT", "TWISTEDWS_PORT"), variables={"TWISTEDWS_PROT": "1"}),
    Wrong("service link", (), ("TWISTEDWS_SERVICE_HOST", "enableServiceLinks"), variables={"TWISTEDWS_SERVICE_HOST": "10.0.0.1"}),
    Wrong("variable names no file", (), ("/nowhere/ws.toml", "No such file"), variables={"TWISTEDWS_CONFIG": "/nowhere/ws.toml"}),
    # file
    Wrong("no file", ("--config", "{tmp}/none.toml"), ("--config", "{tmp}/none.toml", "No such file")),
    Wrong("file is a directory", ("--config", "{tmp}"), ("--config", "{tmp}", "directory")),
    _file("file that is no TOML", "port = = 3", "line 1"),
    _file("file that is no UTF-8", b"port = 3 # \xff", "UTF-8"),
    _file("file with an unknown key", "prot = 1", "prot", "port"),
    _file("file with a table", "[listening]\nport = 1", "listening", "table"),
    _file("file with a wrong type", 'port = "http"', "port", "http", "65535"),
    _file("file with a boolean", "ping-interval = true", "ping-interval", "True", "seconds"),
    _file("file with a key twice", "port = 1\nport = 2", "no valid TOML"),
    _file("file that the command line overrides", "port = 99999", "port", "99999", "65535"),
    # endpoint
    Wrong("endpoint that is none", ("--endpoint", "8000"), ("--endpoint", "8000", "tcp:8000")),
    Wrong("endpoint of unknown kind", ("--endpoint", "http:8000"), ("endpoint", "http:8000", "tcp:8000")),
    Wrong("endpoint with no port", ("--endpoint", "tcp:"), ("endpoint", "tcp:", "tcp:8000")),
    Wrong("endpoint with unknown argument", ("--endpoint", "tcp:0:colour=red"), ("endpoint", "colour", "tcp:8000")),
    Wrong("missing certificate", ("--endpoint", "ssl:0:privateKey={tmp}/key.pem"), ("endpoint", "{tmp}/key.pem", "No such file")),
    Wrong(
        "endpoint of a broken certificate",
        ("--endpoint", "ssl:0:privateKey={tmp}/key.pem"),
        ("endpoint", "{tmp}/key.pem"),
        files={"key.pem": "no key"},
    ),
    Wrong("endpoint of no inherited descriptor", ("--endpoint", "systemd:domain=INET:index=0"), ("endpoint", "systemd", "LISTEN_FDS")),
    # application
    _app("application with no attribute", "wrong", "package.module:attribute"),
    _app("application of no module", "no_such_module:app", "no_such_module", "{apps}"),
    _app("application of no attribute", "wrong:nothing", "nothing", "wrong.py"),
    _app("application that is a number", "wrong:number", "int", "handler class"),
    _app("application of four arguments", "wrong:of_four", "function", "handler class"),
    _app("ASGI application that is none", "wrong:NoHandler", "NoHandler", "scope, receive and send", more=("--app-kind", "asgi")),
    _app("ASGI application with no asyncio loop", "wrong:asgi", "asyncio", twistd=("--reactor=epoll",)),
    _app("factory that takes arguments", "wrong:of_four", "--factory", "no arguments", more=("--factory",)),
    Wrong("proxy that is no address", ("--trusted-proxies", "10.0.0.1/8"), ("--trusted-proxies", "10.0.0.1/8", "10.0.0.0/8")),
    Wrong("root path with a slash at its end", ("--root-path", "/api/"), ("--root-path", "/api/")),
    _app("WSGI application that is none", "wrong:NoHandler", "NoHandler", "environ and start_response", more=("--app-kind", "wsgi")),
    Wrong("stack that is too small", ("--thread-stack-size", "64KiB"), ("--thread-stack-size", "64KiB", "1MiB", "nested")),
    _app("handler with a callback missing", "wrong:NoHandler", "received"),
    _app("handler with a coroutine function", "wrong:AsyncHandler", "received", "async def app(session)"),
    _app("application said to be a coroutine", "wrong:number", "int", "coroutine function", more=("--app-kind", "coroutine")),
    _app("application whose import raises", "wrong_import:app", "RuntimeError", "no database", "wrong_import.py, line 3"),
    _app("application that needs another", "wrong_dependency:app", "surely_not_installed", "wrong_dependency.py, line 3"),
    _app("application that ends the process", "wrong_exit:app", "SECRET_KEY", "wrong_exit.py, line 3"),
    Wrong("application in no directory", ("--app-dir", "{tmp}/none", "wrong:app"), ("--app-dir", "{tmp}/none", "no such directory")),
    # reactor
    Wrong("select reactor", (), ("--reactor", "select", "epoll"), twistd=("--reactor=select",)),
    _app("coroutine with no asyncio loop", "wrong:coroutine", "asyncio", twistd=("--reactor=epoll",)),
]  # fmt: skip


def run(*line: str, cwd: Path, twistd: tuple[str, ...] = (), variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TWISTEDWS_", "LISTEN_"))}
    return subprocess.run(
        [str(TWISTD), "-n", "--pidfile=", *twistd, "twistedws", *line],
        cwd=cwd, env={**clean, **(variables or {})}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def _filled(text: str, directory: Path) -> str:
    return text.replace("{tmp}", str(directory)).replace("{apps}", str(APPS))


def _start(wrong: Wrong, directory: Path) -> subprocess.CompletedProcess[str]:
    for name, text in wrong.files.items():
        (directory / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return run(*(_filled(each, directory) for each in wrong.line), cwd=directory, twistd=wrong.twistd, variables=wrong.variables)


@dataclass(frozen=True)
class Attempt:
    """A start with a wrong configuration.

    Attributes:
        directory: Its ``{tmp}``.
        ending: What it came to, once it has.
    """

    directory: Path
    ending: Future[subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def attempts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Attempt]]:
    """The starts of all tests that are run, by name: they are made ahead, as many at once as there are processors."""
    specs = [getattr(each, "callspec", None) for each in request.session.items if each.path == request.path]
    chosen = {spec.params["wrong"].name: spec.params["wrong"] for spec in specs if spec is not None and "wrong" in spec.params}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        places = {name: tmp_path_factory.mktemp("wrong") for name in chosen}
        yield {name: Attempt(places[name], pool.submit(_start, wrong, places[name])) for name, wrong in chosen.items()}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (("wrong:cannot_start",), "no database"),
        (("--lifespan", "on", "wrong:asgi"), "the application does not answer lifespan.startup: it returned without an answer"),
    ],
)
def test_application_that_does_not_start(line: tuple[str, ...], says: str, tmp_path: Path) -> None:
    """A startup that fails ends the process, before it listens, with the application's message and status 1."""
    result = run("--app-dir", str(APPS), "--port", "0", *line, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == f"twistedws: the application did not start: {says}\n"
    assert "listening" not in result.stdout


def _one_line(result: subprocess.CompletedProcess[str]) -> str:
    lines = result.stderr.splitlines()
    assert "Traceback" not in result.stdout + result.stderr
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("twistedws: ")
    assert lines[0].isprintable()
    return lines[0]


def test_table_is_long_enough() -> None:
    """At least thirty wrong configurations are tried, under names of their own."""
    assert len({each.name for each in WRONG}) == len(WRONG) >= 30


@pytest.mark.parametrize("wrong", WRONG, ids=lambda each: each.name.replace(" ", "-"))
def test_wrong(wrong: Wrong, attempts: dict[str, Attempt]) -> None:
    """A wrong configuration ends the start with one line that names setting, value and what is accepted, and with its status."""
    attempt = attempts[wrong.name]
    result = attempt.ending.result()
    line = _one_line(result)
    for text in wrong.says:
        assert _filled(text, attempt.directory) in line
    assert result.returncode == wrong.status
    assert result.stdout == ""


@pytest.mark.parametrize("line", [("--port", "{port}"), ("--endpoint", "tcp:{port}:interface=127.0.0.1")], ids=["port", "endpoint"])
def test_port_in_use(line: tuple[str, str], tmp_path: Path) -> None:
    """A port that is in use is no configuration error: one line that names it, and status 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run(line[0], line[1].replace("{port}", port), cwd=tmp_path)
    said = _one_line_of_log(result)
    assert port in said
    assert "Address already in use" in said
    assert result.returncode == 1


def test_interface_that_is_not_here(tmp_path: Path) -> None:
    """An address that this machine does not have: one line that names it, and status 1."""
    result = run("--port", "0", "--interface", "192.0.2.1", cwd=tmp_path)
    said = _one_line_of_log(result)
    assert "192.0.2.1" in said
    assert result.returncode == 1


def _one_line_of_log(result: subprocess.CompletedProcess[str]) -> str:
    """The start had begun, so there is a log on standard output; what stopped it stands on standard error all the same."""
    assert "listening on" not in result.stdout
    return _one_line(result)


@pytest.mark.parametrize("wrong", [WRONG[0], WRONG[-2], *(each for each in WRONG if each.name == "application of no module")])
def test_check_config_finds_it(wrong: Wrong, attempts: dict[str, Attempt], tmp_path: Path) -> None:
    """``--check-config`` says of a wrong configuration what the start would say, with the same status."""
    start = attempts[wrong.name].ending.result()
    check = run("--check-config", *(_filled(each, tmp_path) for each in wrong.line), cwd=tmp_path, twistd=wrong.twistd)
    assert (check.returncode, check.stderr) == (start.returncode, start.stderr) == (2, _one_line(start) + "\n")


def test_check_config_of_a_right_one(tmp_path: Path) -> None:
    """``--check-config`` exits with 0, says so, listens nowhere, and writes nothing to standard error."""
    result = run("--check-config", "--port", "1", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "right" in result.stdout
    assert not list(tmp_path.iterdir())


def test_show_config(tmp_path: Path) -> None:
    """``--show-config`` prints every effective value with where it came from, the command line going before environment and file."""
    (tmp_path / "ws.toml").write_text("port = 1\nbacklog = 2\nping-interval = '3s'\n")
    variables = {"TWISTEDWS_PORT": "4", "TWISTEDWS_BACKLOG": "5"}
    result = run("--show-config", "--config=ws.toml", "--port=6", cwd=tmp_path, variables=variables)
    assert (result.returncode, result.stderr) == (0, "")
    shown = dict(re.findall(r"^(\S+) = (.*?)\s*$", result.stdout, re.MULTILINE))
    assert list(shown) == [each.key for each in SETTINGS]
    assert re.fullmatch(r"6 +# command line", shown["port"])
    assert re.fullmatch(r"5 +# environment TWISTEDWS_BACKLOG", shown["backlog"])
    assert re.fullmatch(r"3 +# ws\.toml", shown["ping-interval"])
    assert re.fullmatch(r"20 +# default", shown["ping-timeout"])


def test_shown_configuration_is_accepted(tmp_path: Path) -> None:
    """What ``--show-config`` prints is a file that gives the same again."""
    given = ("--origin=https://*.example.com", "--max-message-size=64KiB", "--drain-seconds=250ms")
    first = run("--show-config", *given, cwd=tmp_path)
    (tmp_path / "ws.toml").write_text(first.stdout)
    second = run("--show-config", "--config=ws.toml", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert [line.partition("#")[0] for line in second.stdout.splitlines()] == [line.partition("#")[0] for line in first.stdout.splitlines()]


def test_version(tmp_path: Path) -> None:
    """``--version`` prints this package's version and exits with 0."""
    result = run("--version", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"twistedws {__version__}\n", "")


def test_help(tmp_path: Path) -> None:
    """``--help`` names every setting and exits with 0."""
    result = run("--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    for each in SETTINGS:
        assert each.written in result.stdout


def test_values_in_messages_are_escaped_and_cut(tmp_path: Path) -> None:
    """A hostile value in a message is one printable line of bounded length."""
    line = _one_line(run("--origin", "https://\x1b[2J\n" + "a" * 10_000, cwd=tmp_path))
    assert len(line) < 400
    assert "\\x1b[2J" in line


def test_json_log_has_no_second_form_of_errors(tmp_path: Path) -> None:
    """With ``--log-format json`` a failed start still says its one plain line on standard error, and its log holds only JSON."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("--log-format=json", f"--port={taken.getsockname()[1]}", cwd=tmp_path)
    assert _one_line(result).startswith("twistedws: cannot listen")
    assert result.returncode == 1
    for line in result.stdout.splitlines():
        assert json.loads(line)["message"]
