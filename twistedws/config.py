"""Every setting of the server, each declared once: its default, type, unit, bounds and meaning.

That one declaration, a field of a section below, gives the command-line option, the ``TWISTEDWS_`` variable,
the key of the TOML file, the validation, the help text, the sample file and the table in the documentation. No
default stands anywhere else.

Floor 1: does no I/O. Whoever starts the server reads the command line, the environment and the file, and hands
them to `resolve`. Nothing here knows what a setting does; a part of the server gets its own section, never the
whole.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, TypeVar, cast

from twistedws.errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - of the two branches each interpreter sees one
    import tomli as tomllib

PREFIX = "TWISTEDWS_"
# Names the file, so it can be no setting: the caller has acted on it before it calls `resolve`.
FILE_VARIABLE = "TWISTEDWS_CONFIG"

Kind = Literal["integer", "count", "size", "number", "duration", "switch", "text", "choice"]
T = TypeVar("T")


# --- What a value may look like -----------------------------------------------------------------------------

_BYTES = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SECONDS = {"": Decimal(1), "ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}

# At most 18 digits, so that neither int() nor float() can fail or overflow, and only those of ASCII: \d has
# hundreds more.
_INTEGER = re.compile(r"([0-9]{1,18})([A-Za-z]*)")
_DECIMAL = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)([A-Za-z]*)")

# Bounds where a declaration gives none. Every number has both: a slip of some zeros is refused at the start, not
# found in production. A timer below a millisecond is a busy loop, and epoll counts its timeout in 31 bits of
# milliseconds: 24.8 days.
_BOUNDS: dict[str, tuple[float, float]] = {
    "integer": (1, 10**7),
    "count": (1, 256),
    "size": (1, 64 * 2**30),
    "number": (0.001, 10**6),
    "duration": (0.001, 7 * 24 * 3600),
}
_NOUNS = {
    "integer": ("an integer", ""),
    "count": ("auto, or an integer", ""),
    "size": ("a number of bytes", " (also as 64KiB, 1MiB, 1GiB)"),
    "number": ("a number", ""),
    "duration": ("a number of seconds", " (also as 500ms, 20s, 2m, 1h)"),
}
_SWITCH = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False}
_UNITS = {"": "", "s": ", in seconds", "bytes": ", in bytes", "1/s": ", per second"}

# No control character, so that a value fits on the one line of a message and of a log, and no NUL ends in a system
# call; no surrogate (a byte of the environment that is no UTF-8), since TOML could not write it down again.
_text = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+").fullmatch
_word = re.compile(r"[^\s\x00-\x1f\x7f\ud800-\udfff]+").fullmatch
_token = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch  # RFC 9110 section 5.6.2
_endpoint = re.compile(r"[A-Za-z][A-Za-z0-9_-]*:[^\x00-\x1f\x7f\ud800-\udfff]*").fullmatch
_path = re.compile(r"(?:/[^\s\x00-\x1f\x7f\ud800-\udfff?#]*(?<!/))?").fullmatch
_ORIGIN = re.compile(
    r"null|\*|[A-Za-z][A-Za-z0-9+.-]*://"  # RFC 3986 section 3.1
    r"(?:(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)


def _origin(text: str) -> bool:
    """Whether a text has the shape of an origin (RFC 6454 section 6.2); what it matches is not decided here."""
    found = _ORIGIN.fullmatch(text)
    return found is not None and int(found["port"] or 0) <= 65535


def _proxy(text: str) -> bool:
    """Whether a text names proxies. Strict: 10.0.0.1/8 is a slip, and which one cannot be told."""
    if text in ("unix", "*"):
        return True
    try:
        # A zone would be read and then compared with nothing: whoever writes one relies on it.
        return "%" not in text and bool(ipaddress.ip_network(text))
    except ValueError:
        return False


def _number(value: object) -> float | None:
    """A number, or a text of one; None if it is neither (`bool` is an `int` to Python, but not to us)."""
    if isinstance(value, str):
        found = _DECIMAL.fullmatch(value)
        return float(found[1]) if found and not found[2] else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) + 0.0  # -0.0 becomes 0.0
    except OverflowError:  # TOML's integers have no end here
        return None


def _duration(value: object) -> float | None:
    """Seconds: a number, or a text with or without a unit. Decimal, so that 300ms is the float that 0.3 is."""
    found = _DECIMAL.fullmatch(value) if isinstance(value, str) else None
    if found is None or not found[2]:
        return _number(value)
    return float(Decimal(found[1]) * _SECONDS[found[2]]) if found[2] in _SECONDS else None


def _integer(value: object) -> int | None:
    """An integer, or a text of one."""
    if isinstance(value, str):
        return int(value) if (found := _INTEGER.fullmatch(value)) and not found[2] else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _count(value: object) -> int | str | None:
    """An integer, or ``auto``."""
    return "auto" if value == "auto" else _integer(value)


def _size(value: object) -> int | None:
    """Bytes: an integer, or a text of one with or without a unit."""
    found = _INTEGER.fullmatch(value) if isinstance(value, str) else None
    if found is None or not found[2]:
        return _integer(value)
    return int(found[1]) * _BYTES[found[2]] if found[2] in _BYTES else None


def _switch(value: object) -> bool | None:
    """Whether something is on: a truth value, or a text of one. The file's 1 and 0 are numbers, and rather a slip."""
    return _SWITCH.get(value.lower()) if isinstance(value, str) else value if isinstance(value, bool) else None


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None


_READERS: dict[Kind, Callable[[object], Any]] = {
    "integer": _integer,
    "count": _count,
    "size": _size,
    "number": _number,
    "duration": _duration,
    "switch": _switch,
    "text": _string,
    "choice": _string,
}


# --- The declarations ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a declaration says of a field beyond its name, type and default. See `setting`."""

    meaning: str
    unit: str
    minimum: float | None
    maximum: float | None
    zero: str
    check: Callable[[str], object]
    accepted: str
    because: str
    positional: bool


def setting(
    default: T,
    meaning: str,
    *,
    unit: Literal["", "s", "bytes", "1/s"] = "",
    minimum: float | None = None,
    maximum: float | None = None,
    zero: str = "",
    check: Callable[[str], object] = _text,
    accepted: str = "",
    because: str = "",
    positional: bool = False,
) -> T:
    """Declare a setting: the right-hand side of a section's field, whose annotation gives the type.

    Args:
        default: The value where nothing else is given.
        meaning: What the setting does, with no full stop: unit and meaning of 0 are added.
        unit: Of a number. An `int` of bytes also takes KiB, MiB and GiB, a `float` of seconds ms, s, m and h.
        minimum: The smallest number; None for the kind's own bound.
        maximum: The largest number; None for the kind's own bound.
        zero: What 0 means; "" where 0 has no meaning of its own and only the bounds decide on it.
        check: True of each text (for a repeatable setting: of each entry) that may stand.
        accepted: Which texts `check` takes, as a phrase.
        because: Why the bounds are what they are, where a user would ask.
        positional: The command line takes it as an argument with no option in front.

    Returns:
        The dataclass field, typed as its default so that a checker sees the attribute's type.
    """
    rules = _Rules(meaning, unit, minimum, maximum, zero, check, accepted, because, positional)
    return field(default=default, metadata={"rules": rules})


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where connections are accepted, and how fast."""

    port: int = setting(8000, "TCP port to listen on", maximum=65535, zero="any free port")
    interface: str = setting(
        "127.0.0.1",
        "Address to listen on",
        check=_word,
        accepted="an address, such as 127.0.0.1, ::1, 0.0.0.0 or ::",
    )
    endpoint: tuple[str, ...] = setting(
        (),
        "Endpoint to listen on instead of port and interface",
        check=_endpoint,
        accepted="a Twisted endpoint, such as tcp:8000:interface=127.0.0.1 or unix:/run/ws.sock:mode=660",
    )
    backlog: int = setting(
        4096,
        "Connections that the kernel holds before we accept them (it may hold fewer: net.core.somaxconn)",
        maximum=65535,
    )
    accept_rate: float = setting(
        0.0,
        "Connections accepted at most, by all workers together; those who would wait longer than 5 s are answered with 503",
        unit="1/s",
        zero="no limit",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What an opening handshake may be, and what is negotiated in it."""

    handshake_timeout: float = setting(5.0, "Time from accepting a connection to the end of its request head", unit="s", zero="no deadline")
    max_head_size: int = setting(16384, "Largest request head", unit="bytes", minimum=1024, maximum=2**20)
    max_headers: int = setting(100, "Most header fields of a request", minimum=8, maximum=10000)
    origin: tuple[str, ...] = setting(
        (),
        "Origin whose pages may connect, beside those of the host that they connect to",
        check=_origin,
        accepted='null, * or scheme://host[:port] with no path, where the host may begin with "*."',
    )
    subprotocol: tuple[str, ...] = setting(
        (),
        "Subprotocol to offer",
        check=_token,
        accepted="a token of letters, digits and !#$%&'*+-.^_`|~ (RFC 9110)",
    )
    compression: Literal["off", "on"] = setting("off", "Whether to compress messages (permessage-deflate) for clients that ask for it")
    compression_window_bits: int = setting(
        12,
        "Base-two logarithm of the compression window: 12 takes some 16 KiB in each direction of a session, 15 some 200",
        minimum=9,
        maximum=15,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxying:
    """Which proxies stand in front, and what is believed of them."""

    trusted_proxies: tuple[str, ...] = setting(
        (),
        "Proxy whose forwarding headers are believed",
        check=_proxy,
        accepted="an address, a network such as 10.0.0.0/8, unix or *",
    )
    proxy_headers: Literal["x-forwarded", "forwarded"] = setting(
        "x-forwarded",
        "Which headers these proxies set: X-Forwarded-For and X-Forwarded-Proto, or Forwarded (RFC 7239); the others are never looked at",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What peers may use of us."""

    max_connections: int = setting(0, "Most connections at once, of all workers together", zero="no limit")
    max_connections_per_address: int = setting(0, "Most connections at once from one address, to one worker", zero="no limit")
    max_message_size: int = setting(2**20, "Largest message that is received", unit="bytes", zero="no limit")
    max_frames_per_message: int = setting(4096, "Most frames of one message that is received", zero="no limit")
    message_rate: float = setting(
        0.0,
        "Messages that a session may send, in bursts of at most one second's",
        unit="1/s",
        zero="no limit",
    )
    control_frame_rate: float = setting(50.0, "Pings and pongs that a session may send", unit="1/s", zero="no limit")
    inbox_size: int = setting(
        65536,
        "What may wait for an application other than a handler class before its session is read no further",
        unit="bytes",
        zero="no limit",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """What HTTP requests may use of us."""

    max_body_size: int = setting(64 * 2**20, "Largest body of an HTTP request", unit="bytes", zero="no limit")
    body_timeout: float = setting(
        30.0, "Time in which the next 64 KiB of a request body, or its end, must come", unit="s", zero="no deadline"
    )
    http_idle_timeout: float = setting(
        75.0,
        "Time that a connection may wait for its next HTTP request",
        unit="s",
        zero="no deadline",
        because="it should be longer than a load balancer's own, which is 60 s on AWS",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What may wait for a peer that reads slowly, and for how long."""

    queue_size: int = setting(2**20, "Most output that may wait in a session", unit="bytes", zero="no limit")
    slow_consumer: Literal["close", "drop-newest", "abort"] = setting(
        "close",
        "What becomes of a session whose queue is full: closed with code 1013, or the new message dropped, or the connection cut",
    )
    write_stall_timeout: float = setting(
        30.0,
        "Time after which a connection that takes none of our output is cut",
        unit="s",
        zero="no deadline",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalive:
    """How idle connections are kept open, and dead ones found."""

    ping_interval: float = setting(20.0, "Time from one ping of a session to its next", unit="s", zero="no pings")
    ping_timeout: float = setting(20.0, "Time after a ping in which something must be heard of the peer", unit="s", zero="no deadline")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """How sessions, and the server, come to their end."""

    close_timeout: float = setting(
        5.0,
        "Time for a closing handshake, after which the connection is cut",
        unit="s",
        because="every close has a deadline",
    )
    graceful_timeout: float = setting(
        30.0,
        "Time from the end of listening after which the connections that are left are cut",
        unit="s",
        zero="no deadline",
    )
    ready_delay: float = setting(
        0.0,
        "Time from the readiness check's failing to the end of listening, in which a load balancer finds out",
        unit="s",
        zero="none",
    )
    drain_seconds: float = setting(5.0, "Time over which the closes of a shutdown are spread", unit="s", zero="all at once")
    drain_rate: float = setting(
        0.0, "Sessions closed in a shutdown, by all workers together, instead of --drain-seconds", unit="1/s", zero="by --drain-seconds"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many processes serve, and what becomes of one that does not answer."""

    workers: int | Literal["auto"] = setting(
        0,
        "Worker processes below a supervisor; auto for as many as there are cores to be used",
        zero="one process and no supervisor",
    )
    worker_start_timeout: float = setting(60.0, "Time in which a new worker must be ready, or it is killed", unit="s", zero="no deadline")
    stuck_after: float = setting(
        5.0,
        "Time without a sign of life from a worker's event loop after which its stacks are logged, and it gets no more connections",
        unit="s",
        minimum=0.5,
        because="a worker gives a sign of life every tenth of a second",
    )
    worker_timeout: float = setting(
        30.0,
        "Time without a sign of life from a worker's event loop after which it is killed and replaced",
        unit="s",
        minimum=1.0,
        zero="never",
        because="a worker gives a sign of life every tenth of a second",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """What operators, and a load balancer's checks, can ask."""

    admin: tuple[str, ...] = setting(
        (),
        "Endpoint for operators, which answers GET /live and GET /ready; none by default",
        check=_endpoint,
        accepted="a Twisted endpoint, such as tcp:9000:interface=127.0.0.1 or unix:/run/twistedws/admin.sock:mode=600",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Logging:
    """What is logged, and how."""

    log_level: Literal["debug", "info", "warn", "error", "critical"] = setting("info", "Least level that is logged")
    log_format: Literal["text", "json"] = setting("text", "Form of the log: lines of text, or one JSON object a line")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosting:
    """The application, and what it is."""

    app: str = setting(
        "echo",
        "Application to serve",
        check=_word,
        accepted="the name of a built-in application, such as echo, or package.module:attribute",
        positional=True,
    )
    app_dir: str = setting(".", "Directory from which the application is imported", accepted="a directory")
    app_kind: Literal["auto", "handler", "coroutine", "asgi", "wsgi"] = setting(
        "auto", "What the application is; auto tells it by its signature"
    )
    factory: bool = setting(False, "Whether APP is a function that returns the application")
    root_path: str = setting(
        "",
        "Path below which a proxy serves the application, and which it strips (ASGI root_path, WSGI SCRIPT_NAME)",
        check=_path,
        accepted="nothing, or a path that begins with / and does not end with it, such as /chat, without spaces, ? and #",
    )
    lifespan: Literal["auto", "on", "off"] = setting(
        "auto", "Whether the ASGI application is told of start and stop; auto goes on without if it does not know how"
    )
    application_close_timeout: float = setting(
        10.0,
        "Time that an application may run on after its connection is gone: then a task is cancelled, a thread reported",
        unit="s",
        zero="no deadline",
    )
    reload: bool = setting(False, "Whether to start anew when a Python file changes, for development")
    reload_dir: tuple[str, ...] = setting((), "Directory to watch with --reload, instead of --app-dir", accepted="a directory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """In what a WSGI application runs."""

    threads: int = setting(
        1000, "Threads for a WSGI application's WebSockets, one for each; a client that finds none free is answered with 503", maximum=65536
    )
    http_threads: int = setting(32, "Threads for a WSGI application's other requests, which wait until one is free", maximum=65536)
    thread_stack_size: int = setting(
        8 * 2**20,
        "Stack of each of these threads, of which only what is used takes memory",
        unit="bytes",
        minimum=2**20,
        maximum=2**30,
        because="with less than 8 MiB a message that is nested deeply enough can end the process (ADR 12)",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """All settings; with no arguments, all defaults. A part of the server is given its section."""

    listening: Listening = field(default_factory=Listening)
    handshake: Handshake = field(default_factory=Handshake)
    proxying: Proxying = field(default_factory=Proxying)
    limits: Limits = field(default_factory=Limits)
    http: Http = field(default_factory=Http)
    output: Output = field(default_factory=Output)
    keepalive: Keepalive = field(default_factory=Keepalive)
    shutdown: Shutdown = field(default_factory=Shutdown)
    workers: Workers = field(default_factory=Workers)
    admin: Admin = field(default_factory=Admin)
    logging: Logging = field(default_factory=Logging)
    hosting: Hosting = field(default_factory=Hosting)
    threads: Threads = field(default_factory=Threads)


# --- The settings, derived from the declarations ------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting, with everything that a command line, a help text or a table needs of it.

    Attributes:
        name: The attribute in its section, and the name in `Resolved.sources`: ``ping_interval``.
        section: The attribute of `Configuration`: ``keepalive``.
        kind: How its value is read; of each entry where it is repeatable.
        default: The value where none is given.
        unit: "s", "bytes", "1/s" or "".
        help: What it does, with its unit and the meaning of 0: one sentence.
        accepted: Which values it takes: a phrase that follows the value in a message.
        repeatable: Its value is a tuple; the option may be given several times.
        choices: The texts of which it is one; () where it is no choice.
        positional: It is an argument of the command line with no option in front.
        minimum: The smallest number; 0 may be accepted below it, see `zero`.
        maximum: The largest number.
        zero: What 0 means; "" where it is not accepted, or just a number.
        check: True of each text that it takes.
    """

    name: str
    section: str
    kind: Kind
    default: object
    unit: str
    help: str
    accepted: str
    repeatable: bool
    choices: tuple[str, ...]
    positional: bool
    minimum: float
    maximum: float
    zero: str
    check: Callable[[str], object]

    @property
    def option(self) -> str:
        """The command line's name of it, with no dashes in front: ``ping-interval``."""
        return self.name.replace("_", "-")

    @property
    def key(self) -> str:
        """The file's name of it: the option's."""
        return self.option

    @property
    def variable(self) -> str:
        """The environment's name of it: ``TWISTEDWS_PING_INTERVAL``."""
        return PREFIX + self.name.upper()

    @property
    def written(self) -> str:
        """The command line's name of it as it is written there: ``--ping-interval``; ``APP`` for an argument."""
        return self.option.upper() if self.positional else f"--{self.option}"

    @property
    def shown_default(self) -> str:
        """The default as a person writes it: ``1MiB``, ``20``, ``false``; ``none`` for an empty one."""
        if isinstance(self.default, bool):
            return _toml(self.default)
        if isinstance(self.default, (str, tuple)):
            return str(self.default or "none")
        return _plain(cast("float", self.default), self.kind)

    def read(self, value: object, name: str) -> object:
        """The value of the setting that a user's value means.

        Args:
            value: A text, or what a TOML file may hold; for a repeatable setting one entry or a list of them.
            name: The setting as the user wrote it, for the message.

        Returns:
            A value of the field's type.

        Raises:
            ConfigurationError: The value is none that the setting takes.
        """
        if self.repeatable:
            entries = value if isinstance(value, (list, tuple)) else [value]
            return tuple(self._read_entry(entry, name) for entry in entries)
        return self._read_entry(value, name)

    def _read_entry(self, value: object, name: str) -> object:
        result = _READERS[self.kind](value)
        if result is None or not self._holds(result):
            raise ConfigurationError(name, _showable(value), self.accepted)
        return result

    def _holds(self, value: Any) -> bool:
        if self.kind == "text":
            return bool(self.check(value))
        if self.kind == "choice":
            return value in self.choices
        if self.kind == "switch" or value == "auto":
            return True
        # nan is in no interval, so it needs no case of its own
        return bool(self.minimum <= value <= self.maximum or (self.zero and value == 0))


def _kind(annotation: object, unit: str) -> Kind:
    """How values of a field are read, by its annotation and unit."""
    if typing.get_origin(annotation) is Literal:
        return "choice"
    if annotation is bool:
        return "switch"
    if annotation == int | Literal["auto"]:
        return "count"
    if annotation is int:
        return "size" if unit == "bytes" else "integer"
    if annotation is float:
        return "duration" if unit == "s" else "number"
    return "text"


def _phrase(kind: Kind, rules: _Rules, choices: tuple[str, ...], bounds: tuple[float, float]) -> str:
    """What a setting accepts, in words that follow a refused value."""
    if kind == "choice":
        return " or ".join(choices) if len(choices) == 2 else "one of " + ", ".join(choices)
    if kind == "text":
        return rules.accepted
    if kind == "switch":
        return "true or false (also on, off, yes, no, 1, 0)"
    noun, also = _NOUNS[kind]
    low, high = (_plain(bound, kind) for bound in bounds)
    zero = "0, or " if rules.zero else ""
    return f"{zero}{noun} from {low} to {high}{also}" + (f"; {rules.because}" if rules.because else "")


def _settings() -> Iterator[Setting]:
    """Each field of each section, in the order of declaration."""
    for section, kind_of_section in _SECTIONS.items():
        annotations = typing.get_type_hints(kind_of_section)
        for declared in dataclasses.fields(kind_of_section):
            rules: _Rules = declared.metadata["rules"]
            annotation = annotations[declared.name]
            kind = _kind(annotation, rules.unit)
            choices = typing.get_args(annotation) if kind == "choice" else ()
            low, high = _BOUNDS.get(kind, (0, 0))
            low = low if rules.minimum is None else rules.minimum
            high = high if rules.maximum is None else rules.maximum
            repeatable = typing.get_origin(annotation) is tuple
            yield Setting(
                name=declared.name,
                section=section,
                kind=kind,
                default=declared.default,
                unit=rules.unit,
                help=rules.meaning
                + _UNITS[rules.unit]
                + (f"; 0 means {rules.zero}" if rules.zero else "")
                + ("; may be given several times" if repeatable else "")
                + ".",
                accepted=_phrase(kind, rules, choices, (low, high)),
                repeatable=repeatable,
                choices=choices,
                positional=rules.positional,
                minimum=low,
                maximum=high,
                zero=rules.zero,
                check=rules.check,
            )


def _plain(value: float, kind: Kind = "number") -> str:
    """A number as a person writes it: 20 for 20.0, and 1MiB for 1048576 bytes."""
    if kind == "size" and value:
        unit = next(unit for unit, size in reversed(_BYTES.items()) if value % size == 0)
        return f"{int(value) // _BYTES[unit]}{unit}"
    return str(int(value)) if value == int(value) else repr(value)


_SECTIONS: dict[str, Any] = typing.get_type_hints(Configuration)
SETTINGS: tuple[Setting, ...] = tuple(_settings())
_BY_OPTION = {each.option: each for each in SETTINGS}
_BY_VARIABLE = {each.variable: each for each in SETTINGS}


# --- From what a user gave to a configuration ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Given:
    """A value that was read: what it is, the setting as the user wrote it, and where."""

    value: Any
    name: str
    source: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration, and where each of its values came from.

    Attributes:
        configuration: The effective values.
        sources: By `Setting.name`: "command line", "environment TWISTEDWS_X", the file's name, or "default".
    """

    configuration: Configuration
    sources: Mapping[str, str]

    def show(self) -> str:
        """The effective values as a TOML file that gives the same again, the source of each behind it."""
        lines = []
        for each in SETTINGS:
            value = getattr(getattr(self.configuration, each.section), each.name)
            lines.append(f"{f'{each.key} = {_toml(value)}':<40}  # {self.sources[each.name]}\n")
        return "".join(lines)


def resolve(
    *,
    command_line: Mapping[str, object],
    environment: Mapping[str, str],
    file_text: str | None = None,
    file_name: str = "",
) -> Resolved:
    """Put a configuration together: command line before environment before file before defaults.

    A value that another overrides is validated all the same: a wrong file is wrong whoever overrides it.

    Args:
        command_line: By `Setting.option`, a text, for repeatable settings a list of texts, for a switch True.
            Only what was given.
        environment: The process's, whole: names that do not begin with ``TWISTEDWS_`` are passed over. Repeatable
            settings are split at white space.
        file_text: The TOML file; None where there is none.
        file_name: Its name, for messages and `Resolved.sources`.

    Returns:
        The configuration and its sources.

    Raises:
        ConfigurationError: An unknown setting, a value that is not accepted, values that do not go together, or a
            file that is no TOML.
    """
    given = {each.name: _Given(each.default, f"{each.option} (default)", "default") for each in SETTINGS}
    if file_text is not None:
        given.update(_from_file(file_text, _one_line(file_name or "configuration file")))
    given.update(_from_environment(environment))
    given.update(_from_command_line(command_line))
    _reconcile(given)
    sections = {
        section: kind_of_section(**{each.name: given[each.name].value for each in SETTINGS if each.section == section})
        for section, kind_of_section in _SECTIONS.items()
    }
    return Resolved(Configuration(**sections), {name: each.source for name, each in given.items()})


def _from_command_line(command_line: Mapping[str, object]) -> Iterator[tuple[str, _Given]]:
    written = {each.written for each in SETTINGS if not each.positional}
    for option, value in command_line.items():
        known = _BY_OPTION.get(option)
        if known is None:
            raise _unknown(f"--{option}", f"--{option}", written, "option")
        yield known.name, _Given(known.read(value, known.written), known.written, "command line")


# What Kubernetes puts into the environment of each pod beside a service that is named "twistedws". TWISTEDWS_PORT
# is among it, a URL there: to pass over the others would only lead to a riddle.
_SERVICE_LINK = re.compile(PREFIX + r"(SERVICE_(HOST|PORT)|PORT_[0-9]+_(TCP|UDP|SCTP))(_[A-Z0-9_]+)?")


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, _Given]]:
    ours = {name: value for name, value in environment.items() if name.startswith(PREFIX) and name != FILE_VARIABLE}
    for variable in sorted(ours.keys() - _BY_VARIABLE.keys()):
        if _SERVICE_LINK.fullmatch(variable):
            hint = "set by Kubernetes for a service named twistedws: give the pod enableServiceLinks: false"
            raise ConfigurationError(variable, None, f"no such variable; {hint}")
        raise _unknown(variable, variable, [*_BY_VARIABLE, FILE_VARIABLE], "variable")
    for variable, value in ours.items():
        known = _BY_VARIABLE[variable]
        # White space, since a comma may stand in an endpoint, and a line break cannot be written in every kind of
        # environment file. An endpoint with a space in it has to stand in the file or on the command line.
        read = known.read(value.split() if known.repeatable else value, variable)
        yield known.name, _Given(read, variable, f"environment {variable}")


def _from_file(text: str, file_name: str) -> Iterator[tuple[str, _Given]]:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also where int() refuses thousands of digits
        raise ConfigurationError(file_name, None, f"no valid TOML: {_one_line(str(error))}") from None
    for key, value in document.items():
        name = f"{file_name}: {_one_line(key)}"
        known = _BY_OPTION.get(key)
        if known is None and isinstance(value, dict):
            raise ConfigurationError(name, None, "no such key; keys stand in no [table]")
        if known is None:
            raise _unknown(name, key, _BY_OPTION, "key")
        yield known.name, _Given(known.read(value, name), name, file_name)


def _unknown(name: str, word: str, known: Iterable[str], what: str) -> ConfigurationError:
    """The error for a setting that does not exist, with the one that was probably meant."""
    near = difflib.get_close_matches(word, known, n=1)
    return ConfigurationError(_one_line(name), None, f"no such {what}" + (f"; did you mean {near[0]}?" if near else ""))


def _reconcile(given: dict[str, _Given]) -> None:
    """Refuse values that the user gave and that do not go together, naming both; cut a default to what leaves it sense."""
    drain, graceful = given["drain_seconds"], given["graceful_timeout"]
    if 0 < graceful.value < drain.value:
        if drain.source != "default":
            accepted = f"at most the {_plain(graceful.value)} s of {graceful.name}"
            raise ConfigurationError(drain.name, _plain(drain.value), accepted)
        # The effective value, so that what `Resolved.show` prints is accepted as a file again.
        given["drain_seconds"] = dataclasses.replace(drain, value=graceful.value)
    stuck, killed = given["stuck_after"], given["worker_timeout"]
    if 0 < killed.value < stuck.value:
        if stuck.source != "default":
            raise ConfigurationError(stuck.name, _plain(stuck.value), f"at most the {_plain(killed.value)} s of {killed.name}")
        given["stuck_after"] = dataclasses.replace(stuck, value=killed.value)
    if given["reload"].value and given["workers"].value:
        workers = given["workers"]
        raise ConfigurationError(
            workers.name, workers.value, f"0 is accepted together with {given['reload'].name}, which is for development"
        )


def _showable(value: object) -> object:
    """The value as a message can show it."""
    try:
        return value if repr(value) != "''" else '""'
    except (ValueError, RecursionError):  # TOML's 0xfff... may have more digits than repr() gives
        return "(too long to be shown)"


def _one_line(text: str) -> str:
    """The text as a message, or a comment of TOML, may hold it."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _toml(value: object) -> str:
    """A setting's value as TOML writes it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return _plain(value)
    return '"' + str(value).replace("\\", r"\\").replace('"', r"\"") + '"'


# --- The documentation --------------------------------------------------------------------------------------


_SAMPLE_HEAD = """\
# The configuration of twistedws: every setting at its default. Take away the # in front to change one.
# Written by docs/generate.py from the declarations in twistedws/config.py.
"""


def sample() -> str:
    """A TOML file with every setting, commented out at its default, under its description."""
    blocks = [_SAMPLE_HEAD]
    for section, kind_of_section in _SECTIONS.items():
        blocks.append(f"\n### {section.capitalize()}: {kind_of_section.__doc__}\n")
        for each in SETTINGS:
            if each.section == section:
                text = [
                    each.help,
                    ("A list, each entry: " if each.repeatable else "Accepted: ") + each.accepted,
                ]
                comment = "\n".join(textwrap.fill(line, 100, break_on_hyphens=False) for line in text)
                blocks.append(f"{textwrap.indent(comment, '# ')}\n#{each.key} = {_toml(each.default)}\n")
    return "\n".join(blocks)


def table() -> str:
    """The settings as Markdown: a heading and a table for each section."""
    blocks = []
    for section, kind_of_section in _SECTIONS.items():
        rows = [_row(each) for each in SETTINGS if each.section == section]
        blocks.append(
            f"### {section.capitalize()}\n\n{kind_of_section.__doc__}\n\n"
            "| Option | Variable | Default | Accepted | Meaning |\n|---|---|---|---|---|\n" + "".join(rows)
        )
    return "\n".join(blocks)


def _row(each: Setting) -> str:
    shown = f"`{each.shown_default}`" if each.default not in ((), "") else each.shown_default
    accepted, meaning = (re.sub(r"([|*_`\[\]<>])", r"\\\1", text) for text in (each.accepted, each.help))
    return f"| `{each.written}` | `{each.variable}` | {shown} | {accepted} | {meaning} |\n"
