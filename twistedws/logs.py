"""What is written to the log: the observer that formats, bounds and writes events, and the lines on connections. Floor 5.

Whatever an attacker sent reaches a line only escaped and cut. An event with a ``limit`` field is one of a kind that a peer can cause at
will: of each kind a few are written at once and then one a second, with the number of those left out. A log that cannot be written (a
full disk) never disturbs the service: lines are lost, counted, and the count is written when writing works again. While the server
runs, lines below ``warn`` are written together, at most 0.1 s late; a process that is killed loses those.

Several processes may write to one place. Each line then says whose it is, and a line is whole at the reader: what is appended to a file
goes there as one, and to a pipe no more goes at once than the system takes as one. A single line longer than that may be torn.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from io import FileIO
from pathlib import Path
from threading import RLock, get_ident
from typing import Any, TextIO

import msgspec
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent
from zope.interface import implementer

from twistedws.errors import Cause, TwistedWSError
from twistedws.handshake import Request
from twistedws.limits import TokenBucket
from twistedws.session import Session

_log = Logger()

MOST_TEXT = 2000  # characters of a line's message
DELAY = 0.1  # seconds that a line waits at most, once lines wait
_MOST_WAITING = 256  # lines
_AT_ONCE: int = getattr(select, "PIPE_BUF", 512)  # bytes that a pipe takes as one, whoever else writes there; 512 is the least of POSIX
_BURST, _RATE = 5.0, 1.0  # lines of one kind at once, and per second afterwards

_OWN = frozenset({"format", "isError", "message", "time", "system", "limit", "failure", "why"})
_LEVELS = {level.name: rank for rank, level in enumerate(LogLevel.iterconstants())}  # to compare two LogLevels takes 2 us
_URGENT = _LEVELS["warn"]


class Unwritten(TwistedWSError):  # noqa: N818 - what is left, rather than what went wrong
    """Not all could be written.

    Args:
        lines: How many were not, or not to their end.
    """

    def __init__(self, lines: int) -> None:
        self.lines = lines
        super().__init__(f"{lines} lines")


class AppendedFile:
    """A file that is only added to, unbuffered, and can be opened anew under its name.

    Args:
        path: Its name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = self._open()

    def _open(self) -> FileIO:
        return FileIO(self.path, "a")

    def write(self, text: str) -> None:
        """Add a text; raises ``Unwritten`` if the disk takes only a part of it."""
        left = text.encode("utf-8", "backslashreplace")
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            raise Unwritten(left.count(b"\n")) from None

    def flush(self) -> None:
        """Nothing waits here."""

    def reopen(self) -> None:
        """Open it anew; go on with the old one where that fails."""
        with contextlib.suppress(OSError):
            old, self._file = self._file, self._open()
            old.close()


class SharedStream:
    """A stream to which other processes write too: a pipe, a terminal, a socket. What is written comes there in whole lines.

    Its text goes past the stream's buffer. That keeps what could not be written, and would later write it with a part of what follows.

    Args:
        stream: Standard output, or what else has a descriptor.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write whole lines; raises ``Unwritten`` if not all of them could be."""
        descriptor = self._stream.fileno()  # each time: the stream may have been closed, and its number be somebody else's
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()  # what the application has printed comes before
        data, written = text.encode("utf-8", "backslashreplace"), 0
        try:
            for piece in pieces(data, _AT_ONCE):
                end = written + len(piece)
                while written < end:
                    written += os.write(descriptor, data[written:end])
        except OSError:
            raise Unwritten(data.count(b"\n", written)) from None

    def flush(self) -> None:
        """Nothing of ours waits here."""


def pieces(data: bytes, most: int) -> Iterator[bytes]:
    """Part text of whole lines where a line ends, and between events where one fits: the further lines of an event begin with a tab.

    Args:
        data: The text; it ends with a line's end.
        most: Bytes of a piece; only a single line may be longer.
    """
    start = 0
    while len(data) - start > most:
        last = end = data.rfind(b"\n", start, start + most)
        while end >= 0 and data.startswith(b"\t", end + 1):
            end = data.rfind(b"\n", start, end)
        if end < 0:
            end = last if last >= 0 else data.index(b"\n", start)
        yield data[start : end + 1]
        start = end + 1
    if start < len(data):
        yield data[start:]


@implementer(ILogObserver)
class LogWriter:
    """An observer that writes one line per event: at once, or, once ``defer`` was called, soon, with all others of that time.

    Args:
        stream: Where to.
        log_format: ``text`` or ``json``.
        level: The lowest level written.
        now: Seconds of a monotonic clock, for the rate limits.
        process: Which of several processes this is, if they write to the same place; each line says it.

    Attributes:
        closed_prefix: What stands between the time and the message of the lines on sessions that have ended.
    """

    def __init__(
        self,
        stream: TextIO | AppendedFile,
        log_format: str,
        level: str,
        now: Callable[[], float] = time.monotonic,
        process: str = "",
    ) -> None:
        self._stream = _shared(stream) if process and not isinstance(stream, AppendedFile) else stream
        self._level, self._now, self._process = _LEVELS[level], now, process
        self.is_text = log_format == "text"
        self._format = _text_line if self.is_text else _json_line
        self.closed_prefix = _prefix("info", process, __name__)
        self._buckets: dict[str, TokenBucket] = {}
        self._suppressed: dict[str, int] = {}
        self._lost = 0
        self._later: Callable[[float, Callable[[], None]], object] | None = None
        self._waiting: list[str] = []
        self._lock, self._thread = RLock(), get_ident()

    def __call__(self, event: LogEvent) -> None:
        """Write an event, unless its level or its kind's rate forbids it."""
        level = (event.get("log_level") or LogLevel.info).name
        if _LEVELS[level] < self._level:
            return
        kind = event.get("limit")
        if kind is not None:
            if not self._may_write(kind):
                self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
                return
            left_out = self._suppressed.pop(kind, 0)
            if left_out:
                event = {**event, "left_out": left_out}
        self.put(self._format(event, level, self._process), urgent=_LEVELS[level] >= _URGENT)

    def put(self, line: str, *, urgent: bool = False) -> None:
        """Write a line that is made already, its end included; see ``defer``."""
        with self._lock:
            self._waiting.append(line)
            # From another thread at once: ``later`` is the reactor's, which only its own may call.
            if self._later is None or urgent or len(self._waiting) >= _MOST_WAITING or get_ident() != self._thread:
                self.flush()
            elif len(self._waiting) == 1:
                self._later(DELAY, self.flush)

    def defer(self, later: Callable[[float, Callable[[], None]], object] | None) -> None:
        """From now on let lines below ``warn`` wait a little, to write many at once: a system call each costs more than the rest of them.

        Args:
            later: Has a function called in so many seconds, as ``reactor.callLater``; None to write at once again.
        """
        self._later, self._thread = later, get_ident()
        self.flush()

    def reopen(self) -> None:
        """Open the log file again under its name, after somebody has moved it away (SIGUSR1, logrotate)."""
        self.flush()
        if isinstance(self._stream, AppendedFile):
            self._stream.reopen()

    def _may_write(self, kind: str) -> bool:
        now = self._now()
        bucket = self._buckets.get(kind)
        if bucket is None:
            bucket = self._buckets[kind] = TokenBucket(_RATE, _BURST, now)
        return bucket.take(now)

    def flush(self) -> None:
        """Write the lines that wait."""
        with self._lock:
            lines, self._waiting = self._waiting, []
            if not lines:
                return
            try:
                if self._lost:
                    note = {"log_format": "{lost} log lines could not be written", "lost": self._lost, "log_namespace": __name__}
                    self._stream.write(self._format({**note, "log_time": time.time()}, "warn", self._process))
                    self._lost = 0
                self._stream.write("".join(lines))
                self._stream.flush()
            except Unwritten as rest:
                self._lost += len(lines) if self._lost else rest.lines  # the note was what failed, or the lines
            except (OSError, ValueError):  # a full disk, a closed pipe, a closed file
                self._lost += len(lines)


class ConnectionLog:
    """The lines on connections: one when a session opens (debug), one when it ends (info).

    The line at the end is most of what a short connection costs after its handshake. So its event is made here, text and all: Twisted's
    formatter takes 25 us for so many fields, and its ``Logger`` three. Where lines of text go to our own writer alone, there is no event
    either. Where the level is higher, nothing is made.

    Args:
        level: The lowest level written.

    Attributes:
        writer: The only observer of the log, if it is ours.
    """

    def __init__(self, level: str = "debug") -> None:
        self.writer: LogWriter | None = None
        self._writes_debug, self._writes_info = _LEVELS[level] <= _LEVELS["debug"], _LEVELS[level] <= _LEVELS["info"]

    def opened(self, session: Session) -> None:
        """A session has opened."""
        if self._writes_debug:
            name, peer, path, subprotocol = session.id, session.peer, session.request.target, session.subprotocol
            text = f"opened session={name} peer={peer} path={path} subprotocol={subprotocol}"
            _log.debug("{log_text}", log_text=text, session=name, peer=peer, path=path, subprotocol=subprotocol)

    def closed(self, session: Session, duration: float) -> None:
        """A session has ended, after so many seconds."""
        if not self._writes_info:
            return
        close = session.ending
        assert close is not None  # noqa: S101 - a session that has ended has an end
        if self.writer is not None and self.writer.is_text:
            now = time.time()
            text = (
                f"closed session={session.id} peer={session.peer} path={session.request.target} seconds={duration:.3f} "
                f"messages_in={session.messages_in} messages_out={session.messages_out} octets_in={session.octets_in} "
                f"octets_out={session.octets_out} dropped={session.dropped} code={close.code} cause={close.cause._value_} "
                f"by={close.by._value_} reason={close.reason!r}"
            )
            self.writer.put(f"{_second(int(now))}.{int(now % 1 * 1000):03d}Z {self.writer.closed_prefix}{_printable(text)}\n")
            return
        event = {
            "session": session.id, "peer": session.peer, "path": session.request.target, "seconds": round(duration, 3),
            "messages_in": session.messages_in, "messages_out": session.messages_out, "octets_in": session.octets_in,
            "octets_out": session.octets_out, "dropped": session.dropped, "code": close.code, "cause": close.cause._value_,
            "by": close.by._value_, "reason": close.reason,
            "log_level": LogLevel.info, "log_namespace": __name__, "log_format": "{log_text}", "log_time": time.time(),
        }  # fmt: skip
        event["log_text"] = _CLOSED % event
        _log.observer(event)

    def refused(self, peer: str, cause: Cause | None, status: int | None, why: str) -> None:
        """A connection ended that never became a session."""
        if cause in (None, Cause.FIN, Cause.RESET):  # a page, a health check, a scan: nothing went wrong here
            _log.debug("answered peer={peer} status={status}: {text}", peer=peer, status=status, text=why)
            return
        _log.info(
            "refused peer={peer} status={status} cause={cause}: {text}",
            peer=peer, status=status, cause=cause.value if cause else None, text=why, limit=f"refused {status}",
        )  # fmt: skip

    def answered(self, peer: str, request: Request, status: int, octets: int, duration: float, cause: Cause | None) -> None:
        """A plain request was answered, or was not, for a cause."""
        if not self._writes_info:
            return
        text = f"answered peer={peer} method={request.method} path={request.target} status={status} octets={octets} seconds={duration:.3f}"
        if cause is not None:
            text += f" cause={cause.value}"
        _log.info(
            "{log_text}", log_text=text, peer=peer, method=request.method, path=request.target, status=status, octets=octets,
            seconds=round(duration, 3), cause=cause.value if cause else None,
        )  # fmt: skip


_CLOSED = (
    "closed session=%(session)s peer=%(peer)s path=%(path)s seconds=%(seconds).3f messages_in=%(messages_in)d "
    "messages_out=%(messages_out)d octets_in=%(octets_in)d octets_out=%(octets_out)d dropped=%(dropped)d code=%(code)d "
    "cause=%(cause)s by=%(by)s reason=%(reason)r"
)


def _message(event: LogEvent) -> str:
    text = event.get("log_text") or formatEvent(event)
    left_out = event.get("left_out")
    return _printable(text) + (f" ({left_out} more like this were left out)" if left_out else "")


def _prefix(level: str, process: str, namespace: str) -> str:
    return f"{level:<5} [{process}] {namespace}: " if process else f"{level:<5} {namespace}: "


def _shared(stream: TextIO) -> TextIO | SharedStream:
    try:
        stream.fileno()
    except (OSError, ValueError):  # in memory: no other process has it
        return stream
    return SharedStream(stream)


def _text_line(event: LogEvent, level: str, process: str) -> str:
    line = f"{_timestamp(event)} {_prefix(level, process, event.get('log_namespace', '-'))}{_message(event)}\n"
    failure = event.get("log_failure")
    if failure is not None:
        # each line of it is set in, and so cannot be taken for an event
        line += _set_in(failure.getTraceback())
    stack = event.get("stack")
    return line + _set_in(stack) if stack else line


def _set_in(text: str) -> str:
    return "".join(f"\t{_printable(each)}\n" for each in text.splitlines())


def _json_line(event: LogEvent, level: str, process: str) -> str:
    fields: dict[str, Any] = {
        "time": _timestamp(event),
        "level": level,
        **({"process": process} if process else {}),
        "logger": event.get("log_namespace", "-"),
        "message": _message(event),
    }
    for name, value in event.items():
        if not name.startswith("log_") and name not in _OWN and isinstance(value, (str, int, float, type(None))):
            fields.setdefault(name, _encodable(_cut(value)) if isinstance(value, str) else value)
    failure = event.get("log_failure")
    if failure is not None:
        fields["traceback"] = _encodable(failure.getTraceback())
    line = msgspec.json.encode(fields).decode()
    if not line.isprintable():  # what JSON leaves as it is, and a terminal, or a reader of lines, does not
        line = "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in line)
    return line + "\n"


def _timestamp(event: LogEvent) -> str:
    seconds = float(event.get("log_time") or time.time())
    return f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03d}Z"


@lru_cache(1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _printable(text: str) -> str:
    """The text on one line: control, format, separator and surrogate characters escaped, the length bounded."""
    text = _cut(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        each if unicodedata.category(each)[0] not in "CZ" or each == " " else each.encode("unicode_escape").decode() for each in text
    )


def _encodable(text: str) -> str:
    """The text without lone surrogates, which UTF-8 cannot carry."""
    return text.encode("utf-8", "backslashreplace").decode()


def _cut(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 3] + "..."
