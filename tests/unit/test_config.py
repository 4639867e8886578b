"""What a setting may be, where it may come from, and what is said of one that is wrong."""

from __future__ import annotations

import ast
import dataclasses
import math
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twistedws import config
from twistedws.config import SETTINGS, Configuration, Resolved, Setting, resolve
from twistedws.errors import ConfigurationError

# A busy machine is no fault of the code: no example has a deadline, and making examples may take its time.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ROOT = Path(__file__).resolve().parents[2]
BY_NAME = {each.name: each for each in SETTINGS}
NUMBERS = [each for each in SETTINGS if each.kind in ("integer", "size", "number", "duration")]


def value_of(resolved: Resolved, name: str) -> Any:
    return getattr(getattr(resolved.configuration, BY_NAME[name].section), name)


def from_command_line(**given: object) -> Resolved:
    return resolve(command_line={BY_NAME[name].option: value for name, value in given.items()}, environment={})


def from_environment(environment: Mapping[str, str]) -> Resolved:
    return resolve(command_line={}, environment=environment)


def from_file(text: str) -> Resolved:
    return resolve(command_line={}, environment={}, file_text=text, file_name="ws.toml")


def or_refused(read: Callable[[], object]) -> object:
    """What is read, or None where it is refused; then in one printable line."""
    try:
        return read()
    except ConfigurationError as error:
        message = str(error)
    assert message.isprintable()
    return None


class TestDeclarations:
    def test_sections_are_what_the_parts_of_the_server_are_given(self) -> None:
        """Every field of every section is a setting, once, in the order of declaration."""
        declared = [
            (section.name, each.name)
            for section in dataclasses.fields(Configuration)
            for each in dataclasses.fields(getattr(Configuration(), section.name))
        ]
        assert [(each.section, each.name) for each in SETTINGS] == declared

    @pytest.mark.parametrize("each", SETTINGS, ids=lambda each: each.name)
    def test_default_is_accepted(self, each: Setting) -> None:
        """Each default is a value that the setting itself accepts, unchanged."""
        assert each.read(each.default, each.written) == each.default

    @pytest.mark.parametrize("each", SETTINGS, ids=lambda each: each.name)
    def test_documented(self, each: Setting) -> None:
        """Each setting has a sentence of help with its unit, the meaning of 0, and a phrase for what it accepts."""
        unit = {"s": "in seconds", "bytes": "in bytes", "1/s": "per second", "": ""}[each.unit]
        assert re.fullmatch(r"[A-Z][^\n]+\.", each.help)
        assert unit in each.help
        assert each.zero in each.help
        assert each.accepted
        assert "\n" not in each.accepted

    def test_names(self) -> None:
        """One name gives the option, the key and the variable."""
        setting = BY_NAME["ping_interval"]
        assert (setting.option, setting.key, setting.variable) == ("ping-interval", "ping-interval", "TWISTEDWS_PING_INTERVAL")
        assert (setting.written, BY_NAME["app"].written) == ("--ping-interval", "APP")
        assert [each.name for each in SETTINGS if each.positional] == ["app"]

    def test_names_that_scripts_rely_on(self) -> None:
        """The names that are promised to users exist."""
        promised = """port interface endpoint ping-interval ping-timeout handshake-timeout close-timeout write-stall-timeout
            graceful-timeout drain-seconds max-message-size max-frames-per-message max-connections max-connections-per-address
            message-rate queue-size slow-consumer compression origin subprotocol backlog accept-rate log-level log-format app-dir
            app-kind app trusted-proxies proxy-headers max-body-size body-timeout http-idle-timeout factory root-path lifespan reload
            reload-dir"""
        assert set(promised.split()) <= {each.option for each in SETTINGS}

    def test_values_are_frozen(self) -> None:
        """A configuration cannot be changed once it is made."""
        with pytest.raises(dataclasses.FrozenInstanceError):
            Configuration().listening.port = 1  # type: ignore[misc]

    def test_no_input_or_output(self) -> None:
        """The module imports nothing that reaches outside the process, and names neither environment nor arguments."""
        tree = ast.parse(Path(config.__file__).read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert not {name.split(".")[0] for name in imported} & {"os", "pathlib", "twisted", "autobahn", "asyncio", "socket", "ssl"}
        assert not attributes & {"environ", "argv", "read_text", "stdout", "stderr"}
        assert not called & {"open", "print", "input"}


ACCEPTED = [
    ("port", "0", 0),
    ("port", "65535", 65535),
    ("port", 8080, 8080),
    ("port", "008000", 8000),
    ("interface", "::1", "::1"),
    ("interface", "fe80::1%eth0", "fe80::1%eth0"),
    ("endpoint", ["tcp:80", "unix:/run/a b.sock"], ("tcp:80", "unix:/run/a b.sock")),
    ("endpoint", "tcp6:port=80,x", ("tcp6:port=80,x",)),
    ("endpoint", [], ()),
    ("endpoint", "haproxy:tcp:80", ("haproxy:tcp:80",)),
    ("backlog", "1", 1),
    ("accept_rate", "0.5", 0.5),
    ("accept_rate", 7, 7.0),
    ("handshake_timeout", "0", 0.0),
    ("handshake_timeout", "500ms", 0.5),
    ("handshake_timeout", "1ms", 0.001),
    ("handshake_timeout", "300ms", 0.3),
    ("handshake_timeout", "1.5s", 1.5),
    ("handshake_timeout", "2m", 120.0),
    ("handshake_timeout", "1h", 3600.0),
    ("handshake_timeout", "168h", 604800.0),
    ("handshake_timeout", "0ms", 0.0),
    ("handshake_timeout", 5, 5.0),
    ("handshake_timeout", 0.25, 0.25),
    ("handshake_timeout", -0.0, 0.0),
    ("max_head_size", "1024", 1024),
    ("max_head_size", "1MiB", 2**20),
    ("max_headers", "8", 8),
    ("max_message_size", "64KiB", 65536),
    ("max_message_size", "1GiB", 2**30),
    ("max_message_size", 12345, 12345),
    ("max_message_size", "0", 0),
    ("max_message_size", "0KiB", 0),
    ("max_message_size", "64GiB", 2**36),
    ("subprotocol", ["chat", "v2.json!#$%&'*+-.^_`|~"], ("chat", "v2.json!#$%&'*+-.^_`|~")),
    ("compression", "on", "on"),
    ("slow_consumer", "drop-newest", "drop-newest"),
    ("log_level", "critical", "critical"),
    ("app", "package.module:attribute", "package.module:attribute"),
    ("app_dir", "/srv/an app", "/srv/an app"),
    ("trusted_proxies", ["unix", "*", "10.0.0.0/8", "::1", "fd00::/8"], ("unix", "*", "10.0.0.0/8", "::1", "fd00::/8")),
    ("max_body_size", "0", 0),
    ("http_idle_timeout", "2m", 120.0),
    *[("factory", on, True) for on in (True, "on", "true", "YES", "1")],
    *[("factory", off, False) for off in (False, "Off", "false", "no", "0")],
    *[("root_path", path, path) for path in ("", "/chat", "/a/b.c", "/%C3%A9", "/é")],
    ("reload_dir", ["src", "an app"], ("src", "an app")),
]

REFUSED: list[tuple[str, object]] = [
    *[("port", bad) for bad in ("", "-1", "+1", "65536", "8000.0", " 80", "80 ", "80\n", "0x50", "8_0", "http", "80s", "8KiB", "9" * 5000)],
    *[("port", bad) for bad in ("\uff18\uff10", "\u00b2", "1" * 19)],  # digits to str.isdigit; one digit more than is read
    *[("port", bad) for bad in (-1, 65536, 80.0, True, False, math.nan, ["80"], {"a": 1}, None, 10**5000)],
    *[("backlog", bad) for bad in ("0", 0, -1, 65536)],
    *[("interface", bad) for bad in ("", "a b", "a\tb", "a\x00", "\udc80", 1, True, ["::1"])],
    *[("endpoint", bad) for bad in ("", "8000", ":8000", "8000:tcp", "a b:80", "tcp:\n", "tcp:\x00", "tcp:\udc80")],
    *[("endpoint", bad) for bad in (80, ["tcp:80", 1], [["tcp:80"]], {"a": 1})],
    *[("accept_rate", bad) for bad in ("nan", "inf", "-1", "1e3", ".5", "5.", "5s", "0.0001", "1000001", True, math.inf, -math.inf)],
    *[("accept_rate", bad) for bad in (math.nan, 10**400, -1, "", "one", ["5"])],
    *[("handshake_timeout", bad) for bad in ("nan", "inf", "-1", "-1s", "5 s", "5S", "5sec", "5d", "5M", "s", "169h", "0.5ms", "")],
    *[("handshake_timeout", bad) for bad in ("1h30m", "0.0005", "5KiB")],
    *[("handshake_timeout", bad) for bad in (math.nan, math.inf, -1, True, 10**400, 604801, 0.0001, [5])],
    *[("close_timeout", bad) for bad in ("0", 0, 0.0, "0s", -0.0)],
    *[("max_head_size", bad) for bad in (0, "0", 1023, 2**20 + 1, "2MiB", "1.5KiB", "64kib", "64K", "64KB", "64 KiB", "64s")],
    *[("max_head_size", bad) for bad in ("", -1, True, 1e4)],
    *[("max_headers", bad) for bad in (0, 7, 10001)],
    *[("origin", bad) for bad in ("", "a b", "null ", 1, ["null", ""])],
    *[("subprotocol", bad) for bad in ("", "a b", "a,b", "a/b", "a:b", "é", "a\n", 1, ["ok", "not ok"])],
    *[("compression", bad) for bad in ("", "On", "yes", "of", True, False, 1, ["on"], None)],
    *[("log_level", bad) for bad in ("warning", "INFO", "", 20)],
    *[("app", bad) for bad in ("", "a b", "a\nb", 1, True, ["echo"])],
    *[("trusted_proxies", bad) for bad in ("", "localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "1", "UNIX", "fe80::1%lo", "::1 ")],
    *[("trusted_proxies", bad) for bad in (1, True, ["unix", ""], "10.0.0.0/8,::1", "*.1", "::1\n", "\uff11.1.1.1")],
    *[("proxy_headers", bad) for bad in ("", "X-Forwarded", "both", True)],
    *[("factory", bad) for bad in ("", "o", "yes ", "2", "enable", 1, 0, 1.0, None, [True], "\u0130")],
    *[("root_path", bad) for bad in ("/", "chat", "/chat/", "/a b", "/a?b", "/a#b", "/a\n", "/a\x00", "/\udc80", "//", 1, True)],
    *[("reload_dir", bad) for bad in ("", "a\x00b", 1, [["a"]])],
    *[("app_dir", bad) for bad in ("", "a\x00b", "a\nb", "a\udc80", 1)],
]  # fmt: skip

ORIGINS = [
    "null", "*", "https://example.com", "HTTPS://Example.COM", "http://localhost:3000", "https://*.example.com", "https://*.example.com:8443",
    "http://127.0.0.1", "http://[::1]:8000", "http://[::ffff:1.2.3.4]", "chrome-extension://abcdef", "http://my_service:65535",
]  # fmt: skip
NO_ORIGINS = [
    "example.com", "*.example.com", "https://", "https://example.com/", "https://example.com/a", "https://example.com?a", "https://a@example.com",
    "https://example.com:", "https://example.com:65536", "https://example.com:123456", "https://example.com:x", "https://*", "https://*.",
    "https://a.*.com", "https://*example.com", "https://*.*.com", "https://.com", "https://a..b", "https://[::1", "https://::1", "://a", "1http://a",
    "NULL", "**", "https://exämple.com", "https://example.com\n", "null,*",
]  # fmt: skip


def _id(value: object) -> str:
    """A short name for a case; the repr() of some values cannot be had."""
    return ascii(value)[:40] if not isinstance(value, int) or abs(value) < 10**20 else "an integer of many digits"


class TestValues:
    @pytest.mark.parametrize(("name", "written", "value"), ACCEPTED)
    def test_accepted(self, name: str, written: object, value: object) -> None:
        """A value that the setting takes is read into the field's type."""
        read = value_of(from_command_line(**{name: written}), name)
        assert read == value
        assert type(read) is type(value)

    @pytest.mark.parametrize(("name", "written"), REFUSED, ids=_id)
    def test_refused(self, name: str, written: object) -> None:
        """A value that the setting does not take is refused in one line that names it and what is accepted."""
        with pytest.raises(ConfigurationError) as caught:
            from_command_line(**{name: written})
        text = str(caught.value)
        assert text.startswith(f"{BY_NAME[name].written}: ")
        assert text.endswith(BY_NAME[name].accepted)
        assert text.isprintable()
        assert len(text) < 400

    @pytest.mark.parametrize("origin", ORIGINS)
    def test_origin_accepted(self, origin: str) -> None:
        """An origin is null, * or scheme://host[:port], the host with or without a leading wildcard."""
        assert from_command_line(origin=[origin]).configuration.handshake.origin == (origin,)

    @pytest.mark.parametrize("origin", NO_ORIGINS)
    def test_origin_refused(self, origin: str) -> None:
        """What has a path, credentials, no scheme, a wildcard elsewhere or a port out of range is no origin."""
        with pytest.raises(ConfigurationError, match=r"^--origin: .*scheme://host"):
            from_command_line(origin=[origin])

    @pytest.mark.parametrize("name", ["compression", "slow_consumer", "log_level", "log_format", "app_kind", "proxy_headers", "lifespan"])
    def test_each_choice_is_accepted(self, name: str) -> None:
        """Each choice that is documented is accepted."""
        assert BY_NAME[name].choices
        for choice in BY_NAME[name].choices:
            assert value_of(from_command_line(**{name: choice}), name) == choice
            assert choice in BY_NAME[name].accepted

    @pytest.mark.parametrize("each", NUMBERS, ids=lambda each: each.name)
    def test_bounds(self, each: Setting) -> None:
        """A number's bounds are accepted, what lies beyond them is not, and 0 only where it has a meaning."""
        step = 1 if each.kind in ("integer", "size") else 0.0005
        for value in (each.minimum, each.maximum):
            assert each.read(value, "") == value
        for value in (each.maximum + step, -step, -1, *([each.minimum - step] if each.minimum != step or not each.zero else [])):
            with pytest.raises(ConfigurationError):
                each.read(value, "")
        if each.zero:
            assert each.read(0, "") == 0
        else:
            with pytest.raises(ConfigurationError):
                each.read(0, "")

    def test_switch_in_a_message(self) -> None:
        """A switch that is neither on nor off names what it takes."""
        with pytest.raises(ConfigurationError) as caught:
            from_environment({"TWISTEDWS_RELOAD": "maybe"})
        assert str(caught.value) == "TWISTEDWS_RELOAD: maybe: true or false (also on, off, yes, no, 1, 0)"

    def test_close_timeout_says_why(self) -> None:
        """The one deadline that cannot be switched off says so."""
        with pytest.raises(ConfigurationError, match=r"^--close-timeout: 0: .*every close has a deadline$"):
            from_command_line(close_timeout="0")

    def test_empty_value_is_seen(self) -> None:
        """An empty value shows in the message."""
        with pytest.raises(ConfigurationError, match=r'^TWISTEDWS_PORT: "": '):
            from_environment({"TWISTEDWS_PORT": ""})

    @pytest.mark.parametrize("value", ["0x" + "f" * 5000, '[["a", 0x' + "f" * 5000 + "]]"])
    def test_number_too_long_to_print(self, value: str) -> None:
        """An integer that Python does not print is refused with one line as well."""
        with pytest.raises(ConfigurationError, match=r"^ws\.toml: endpoint: \(too long to be shown\): a Twisted endpoint"):
            from_file(f"endpoint = {value}")

    @patient
    @given(st.sampled_from(SETTINGS), st.text() | st.from_regex(r"-?[0-9.]{1,25}(ms|s|m|h|KiB|MiB|GiB|e9)?\n?"))
    def test_any_text(self, each: Setting, text: str) -> None:
        """Any text is a value within the bounds, or refused as configuration: nothing else is raised."""
        value = or_refused(lambda: each.read(text, "x"))
        if value is None:
            return
        assert each.read(value, "x") == value
        if each in NUMBERS:
            assert isinstance(value, (int, float))
            assert math.isfinite(value)
            assert each.minimum <= value <= each.maximum or (each.zero and value == 0)

    @patient
    @given(
        st.sampled_from(SETTINGS),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=5,
        ),
    )
    def test_any_value(self, each: Setting, value: object) -> None:
        """Whatever a file may hold is accepted or refused as configuration: nothing else is raised."""
        or_refused(lambda: each.read(value, "x"))

    @patient
    @given(st.integers(1, 10**6))
    def test_milliseconds(self, count: int) -> None:
        """A duration in milliseconds is the float that the same duration in seconds is."""
        setting = BY_NAME["ping_interval"]
        assert setting.read(f"{count}ms", "") == setting.read(f"{count // 1000}.{count % 1000:03}", "") == count / 1000

    @patient
    @given(st.integers(1, 60), st.sampled_from([("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30)]))
    def test_size_units(self, count: int, unit: tuple[str, int]) -> None:
        """A size with a unit is that many bytes."""
        assert BY_NAME["queue_size"].read(f"{count}{unit[0]}", "") == count * unit[1]


class TestSources:
    def test_defaults(self) -> None:
        """Where nothing is given, everything is at its default."""
        resolved = resolve(command_line={}, environment={"PATH": "/bin", "twistedws_port": "1", "TWISTED": "x"})
        assert resolved.configuration == Configuration()
        assert resolved.sources == dict.fromkeys(BY_NAME, "default")

    @patient
    @given(st.none() | st.integers(0, 99), st.none() | st.integers(0, 99), st.none() | st.integers(0, 99))
    def test_precedence(self, command_line: int | None, environment: int | None, file: int | None) -> None:
        """The command line goes before the environment, that before the file, that before the default."""
        resolved = resolve(
            command_line={} if command_line is None else {"port": str(command_line)},
            environment={} if environment is None else {"TWISTEDWS_PORT": str(environment)},
            file_text="" if file is None else f"port = {file}",
            file_name="/etc/ws.toml",
        )
        sources = [
            (command_line, "command line"), (environment, "environment TWISTEDWS_PORT"), (file, "/etc/ws.toml"), (8000, "default")
        ]  # fmt: skip
        winner = next(pair for pair in sources if pair[0] is not None)
        assert (resolved.configuration.listening.port, resolved.sources["port"]) == winner

    def test_settings_do_not_disturb_each_other(self) -> None:
        """Each setting has its own source."""
        resolved = resolve(command_line={"port": "1"}, environment={"TWISTEDWS_BACKLOG": "2"}, file_text="app = 'hub'", file_name="f")
        assert {name: source for name, source in resolved.sources.items() if source != "default"} == {
            "port": "command line",
            "backlog": "environment TWISTEDWS_BACKLOG",
            "app": "f",
        }

    def test_list_is_not_merged(self) -> None:
        """The highest source that gives a list gives the whole list."""
        resolved = resolve(
            command_line={}, environment={"TWISTEDWS_ORIGIN": "http://a http://b"}, file_text='origin = ["http://c"]', file_name="f"
        )
        assert resolved.configuration.handshake.origin == ("http://a", "http://b")

    @pytest.mark.parametrize(
        ("text", "entries"),
        [
            ("", ()),
            (" \n", ()),
            ("tcp:1", ("tcp:1",)),
            (" tcp:1\n\ttcp:2  unix:/a,b", ("tcp:1", "tcp:2", "unix:/a,b")),
            ("ssl:443:privateKey=/k.pem", ("ssl:443:privateKey=/k.pem",)),
        ],
    )
    def test_list_in_a_variable(self, text: str, entries: tuple[str, ...]) -> None:
        """A variable's list is separated by white space, and by nothing that an endpoint may hold."""
        assert from_environment({"TWISTEDWS_ENDPOINT": text}).configuration.listening.endpoint == entries

    def test_value_that_is_overridden_is_checked(self) -> None:
        """A wrong file is wrong although the command line goes before it."""
        with pytest.raises(ConfigurationError, match=r"^f: port: "):
            resolve(command_line={"port": "1"}, environment={}, file_text="port = -1", file_name="f")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"command_line": {"ping-interval": "soon"}}, "--ping-interval: soon: 0, or a number of seconds from 0.001 to 604800"),
            ({"command_line": {"app": ""}}, 'APP: "": the name of a built-in application'),
            ({"environment": {"TWISTEDWS_PING_INTERVAL": "-1"}}, "TWISTEDWS_PING_INTERVAL: -1: 0, or a number"),
            ({"environment": {"TWISTEDWS_ORIGIN": "null a.b"}}, "TWISTEDWS_ORIGIN: a.b: null, * or scheme"),
            ({"file_text": "ping-interval = true"}, "ws.toml: ping-interval: True: 0, or a number"),
            ({"file_text": "ping-interval = nan"}, "ws.toml: ping-interval: nan: "),
            ({"file_text": "port = 1979-05-27"}, "ws.toml: port: datetime.date(1979, 5, 27): 0, or an integer from 1 to 65535"),
            ({"file_text": "[origin]\na = 1"}, "ws.toml: origin: {'a': 1}: null, "),
        ],
    )
    def test_setting_is_named_as_it_was_written(self, arguments: dict[str, Any], message: str) -> None:
        """A message begins with the setting as the user wrote it, the value, and what is accepted."""
        with pytest.raises(ConfigurationError) as caught:
            resolve(**{"command_line": {}, "environment": {}, "file_name": "ws.toml", **arguments})
        assert str(caught.value).startswith(message)


class TestUnknownNames:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"command_line": {"ping-intervall": "1"}}, "--ping-intervall: no such option; did you mean --ping-interval?"),
            ({"command_line": {"xyzzy": "1"}}, "--xyzzy: no such option"),
            ({"environment": {"TWISTEDWS_PROT": "1"}}, "TWISTEDWS_PROT: no such variable; did you mean TWISTEDWS_PORT?"),
            ({"environment": {"TWISTEDWS_CONFIGS": "1"}}, "TWISTEDWS_CONFIGS: no such variable; did you mean TWISTEDWS_CONFIG?"),
            ({"file_text": "ping_interval = 1"}, "ws.toml: ping_interval: no such key; did you mean ping-interval?"),
            ({"file_text": "zzz = 1"}, "ws.toml: zzz: no such key"),
            ({"file_text": '"a\\nb" = 1'}, r"ws.toml: a\nb: no such key"),
            ({"file_text": "[listening]\nport = 1"}, "ws.toml: listening: no such key; keys stand in no [table]"),
        ],
    )
    def test_refused_with_what_was_meant(self, arguments: dict[str, Any], message: str) -> None:
        """A name that does not exist is refused, with the nearest one that does."""
        with pytest.raises(ConfigurationError) as caught:
            resolve(**{"command_line": {}, "environment": {}, "file_name": "ws.toml", **arguments})
        assert str(caught.value) == message

    def test_variable_that_names_the_file(self) -> None:
        """TWISTEDWS_CONFIG is known, and no setting."""
        assert from_environment({"TWISTEDWS_CONFIG": "/etc/ws.toml"}).configuration == Configuration()

    @pytest.mark.parametrize("name", ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8000_TCP", "PORT_8000_TCP_ADDR"])
    def test_service_links(self, name: str) -> None:
        """The variables of a Kubernetes service called twistedws are explained, before TWISTEDWS_PORT is found wrong."""
        with pytest.raises(ConfigurationError, match=rf"^TWISTEDWS_{name}: .*enableServiceLinks: false"):
            from_environment({"TWISTEDWS_PORT": "tcp://10.0.0.1:8000", f"TWISTEDWS_{name}": "x"})


class TestFile:
    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("port", r"at (line 1, column 5|end of document)"),
            ("port = 1\nport = 2", r"line 2, column 9|at end of document"),
            ("backlog = 1\nport = @", "line 2, column 8"),
            ("app = 'a\nb'", "line 1, column 9"),
            ("\ufeffport = 1", "line 1, column 1"),
            ("port = " + "9" * 5000 + "x", ""),
            ("port = " + "[" * 100_000, ""),
        ],
        ids=["no value", "twice", "no such value", "open string", "byte order mark", "long number", "deep"],
    )
    def test_no_toml(self, text: str, place: str) -> None:
        """A file that is no TOML is refused in one line that names it and the place."""
        with pytest.raises(ConfigurationError) as caught:
            from_file(text)
        assert re.match(rf"ws\.toml: no valid TOML: .*({place})", str(caught.value))
        assert str(caught.value).isprintable()

    def test_integer_of_thousands_of_digits(self) -> None:
        """A decimal integer that Python does not read, or that is out of range, is refused like any other value."""
        with pytest.raises(ConfigurationError, match=r"^ws\.toml: "):
            from_file("port = " + "9" * 5000)

    def test_strings_with_units(self) -> None:
        """A quoted value may have a unit."""
        assert from_file('factory = true\nreload = "on"').configuration.hosting == dataclasses.replace(
            Configuration().hosting, factory=True, reload=True
        )
        resolved = from_file('ping-interval = "2m"\nmax-message-size = "64KiB"\nport = "80"')
        assert (resolved.configuration.keepalive.ping_interval, resolved.configuration.limits.max_message_size) == (120.0, 65536)
        assert resolved.configuration.listening.port == 80

    def test_file_without_a_name(self) -> None:
        """A file with no name is called what it is."""
        resolved = resolve(command_line={}, environment={}, file_text="port = 1")
        assert resolved.sources["port"] == "configuration file"

    @patient
    @given(st.text(max_size=60))
    def test_any_file(self, text: str) -> None:
        """Any text is a configuration, or refused as one: nothing else is raised."""
        or_refused(lambda: from_file(text))


class TestTogether:
    @pytest.mark.parametrize(
        ("drain", "graceful"),
        [("5", "5"), ("5", "0"), ("168h", "0"), ("0", "1ms"), ("0", "0")],
    )
    def test_drain_within_the_graceful_timeout(self, drain: str, graceful: str) -> None:
        """Closes may be spread over the graceful timeout, or over any time where there is none."""
        from_command_line(drain_seconds=drain, graceful_timeout=graceful)

    def test_drain_beyond_the_graceful_timeout(self) -> None:
        """Closes spread over more than the graceful timeout are refused; the message names both."""
        with pytest.raises(ConfigurationError) as caught:
            resolve(command_line={"drain-seconds": "1m"}, environment={}, file_text="graceful-timeout = 20.5", file_name="f")
        assert str(caught.value) == "--drain-seconds: 60: at most the 20.5 s of f: graceful-timeout"

    def test_drain_beyond_the_default(self) -> None:
        """The default of the other is named as such."""
        with pytest.raises(ConfigurationError) as caught:
            from_environment({"TWISTEDWS_DRAIN_SECONDS": "31"})
        assert str(caught.value) == "TWISTEDWS_DRAIN_SECONDS: 31: at most the 30 s of graceful-timeout (default)"

    def test_default_drain_is_cut(self) -> None:
        """A short graceful timeout alone is no fault: the default drain is cut to it, and what is shown is accepted again."""
        resolved = from_command_line(graceful_timeout="2")
        assert resolved.configuration.shutdown.drain_seconds == 2.0
        assert resolved.sources["drain_seconds"] == "default"
        assert from_file(resolved.show()).configuration == resolved.configuration


@pytest.mark.parametrize(
    ("given_values", "says"),
    [
        ({"stuck-after": "10", "worker-timeout": "5"}, "--stuck-after: 10: at most the 5 s of --worker-timeout"),
        ({"workers": "2", "reload": True}, "--workers: 2: 0 is accepted together with --reload, which is for development"),
        ({"workers": "many"}, "--workers: many: 0, or auto, or an integer from 1 to 256"),
        ({"workers": "257"}, "--workers: 257: 0, or auto, or an integer from 1 to 256"),
    ],
)
def test_workers_refused(given_values: dict[str, object], says: str) -> None:
    """What cannot be done with workers is refused, and both settings are named."""
    with pytest.raises(ConfigurationError) as caught:
        resolve(command_line=given_values, environment={})
    assert str(caught.value) == says


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("4", 4), ("auto", "auto")])
def test_workers_accepted(text: str, expected: object) -> None:
    """Workers are a number, or as many as there are cores."""
    assert from_command_line(workers=text).configuration.workers.workers == expected


def test_stuck_after_is_cut() -> None:
    """A worker that is killed before it would be taken for stuck by default is taken for stuck by then."""
    assert from_command_line(worker_timeout="2").configuration.workers.stuck_after == 2.0
    assert from_command_line(worker_timeout="0").configuration.workers.stuck_after == 5.0


def _values(each: Setting) -> st.SearchStrategy[object]:
    """Values that a setting accepts, as a file has them."""
    entry: st.SearchStrategy[Any]
    if each.choices:
        entry = st.sampled_from(each.choices)
    elif each.kind in ("integer", "count", "size"):
        entry = st.integers(int(each.minimum), int(each.maximum))
    elif each in NUMBERS:
        entry = st.floats(each.minimum, each.maximum)
    elif each.kind == "switch":
        entry = st.booleans()
    else:
        # with a beginning that the check wants, else nearly every text would be thrown away
        begin = {"endpoint": "tcp:", "root_path": "/a", "trusted_proxies": "::"}.get(each.name, "")
        entry = st.text(min_size=1).map(lambda text: begin + text).filter(each.check)
    return st.lists(entry, max_size=3) if each.repeatable else entry


RECONCILED = ("drain_seconds", "stuck_after", "reload")  # which may be refused beside others


class TestShow:
    def test_each_line_has_its_source(self) -> None:
        """There is one line for each setting, with its value and its source."""
        resolved = resolve(command_line={"port": "9"}, environment={"TWISTEDWS_APP": "hub"}, file_text="origin = ['*']", file_name="a b")
        lines = dict(line.split(" = ", 1) for line in resolved.show().splitlines())
        assert list(lines) == [each.key for each in SETTINGS]
        shown = {key: re.split(r"  +# ", lines[key]) for key in ("port", "app", "origin", "ping-interval")}
        assert shown == {
            "port": ["9", "command line"],
            "app": ['"hub"', "environment TWISTEDWS_APP"],
            "origin": ['["*"]', "a b"],
            "ping-interval": ["20", "default"],
        }

    def test_file_name_cannot_break_a_line(self) -> None:
        """A file's name with a line break in it stays within its comment."""
        resolved = resolve(command_line={}, environment={}, file_text="port = 1", file_name="a\nport = 2")
        assert from_file(resolved.show()).configuration.listening.port == 1

    @patient
    @given(st.fixed_dictionaries({}, optional={each.key: _values(each) for each in SETTINGS if each.name not in RECONCILED}))
    def test_shown_values_are_accepted_again(self, given_values: dict[str, object]) -> None:
        """What is shown is a file that gives the same configuration again."""
        resolved = resolve(command_line=given_values, environment={})
        assert from_file(resolved.show()).configuration == resolved.configuration


class TestDocumentation:
    def test_sample_gives_the_defaults(self) -> None:
        """The sample holds every setting: with the # taken away it is a file that gives the defaults."""
        assert from_file(config.sample()).sources == dict.fromkeys(BY_NAME, "default")
        resolved = from_file(re.sub(r"^#(?=[a-z])", "", config.sample(), flags=re.MULTILINE))
        assert resolved.configuration == Configuration()
        assert resolved.sources == dict.fromkeys(BY_NAME, "ws.toml")

    def test_table_has_every_setting(self) -> None:
        """The table has one row for each setting, of five cells."""
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in config.table().splitlines() if line.startswith("| `")]
        assert [row[0].strip(" `") for row in rows] == [each.written for each in SETTINGS]
        assert {len(row) for row in rows} == {5}
        defaults = {row[0].strip(" `"): row[2].strip() for row in rows}
        assert (defaults["--max-message-size"], defaults["--max-connections"]) == ("`1MiB`", "`0`")
        assert (defaults["--origin"], defaults["--compression"]) == ("none", "`off`")
        assert (defaults["--factory"], defaults["--root-path"]) == ("`false`", "none")

    def test_sample_in_the_tree(self) -> None:
        """etc/twistedws.toml is the generated sample (else: python docs/generate.py)."""
        assert (ROOT / "etc" / "twistedws.toml").read_text(encoding="utf-8") == config.sample()

    def test_table_in_the_tree(self) -> None:
        """docs/configuration.md holds the generated table (else: python docs/generate.py)."""
        page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
        assert runpy.run_path(str(ROOT / "docs" / "generate.py"))["with_table"](page) == page

    def test_without_docstrings(self) -> None:
        """The module works under python -OO, which has no docstrings."""
        done = subprocess.run([sys.executable, "-OO", "-c", "import twistedws.config"], cwd=ROOT, check=False, capture_output=True)
        assert done.returncode == 0, done.stderr
