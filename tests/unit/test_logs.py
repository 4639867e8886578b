"""What reaches the log: formats, escaping, bounds, and a log that cannot be written."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger, LogPublisher

from tests.support.server import ROOT
from tests.support.wire import make_session
from twistedws.errors import By, Cause, Close
from twistedws.logs import DELAY, MOST_TEXT, AppendedFile, ConnectionLog, LogWriter, SharedStream, Unwritten, pieces


class Sink:
    """A stream, a writer on it, and a logger that leads there."""

    def __init__(self, log_format: str = "text", level: str = "info", process: str = "") -> None:
        self.stream, self.now = io.StringIO(), 0.0
        self.writer = LogWriter(self.stream, log_format, level, lambda: self.now, process)
        publisher = LogPublisher()
        publisher.addObserver(self.writer)
        self.log = Logger("test", observer=publisher)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


def test_text() -> None:
    """A line of text has time, level, logger and message."""
    sink = Sink()
    sink.writer({"log_time": 1.5, "log_namespace": "here", "log_format": "hello {who}", "who": "you"})
    assert sink.lines == ["1970-01-01T00:00:01.500Z info  here: hello you"]


def test_json() -> None:
    """A line of JSON has them too, and the event's fields."""
    sink = Sink("json")
    sink.log.warn("hello {who}", who="you", count=3, other=object())
    line = json.loads(sink.lines[0])
    assert {key: line[key] for key in ("level", "logger", "message", "who", "count")} == {
        "level": "warn", "logger": "test", "message": "hello you", "who": "you", "count": 3,
    }  # fmt: skip
    assert "other" not in line


@pytest.mark.parametrize(("level", "count"), [("debug", 5), ("info", 4), ("warn", 3), ("error", 2), ("critical", 1)])
def test_levels(level: str, count: int) -> None:
    """What is below the level is not written; an event with no level counts as info."""
    sink = Sink(level=level)
    for each in ("debug", "info", "warn", "error", "critical"):
        getattr(sink.log, each)("x")
    assert len(sink.lines) == count


@given(st.text(st.characters(codec=None)))
def test_one_line_whatever_comes(text: str) -> None:
    """Whatever stands in a message, it is one line of printable text, and bounded."""
    for log_format in ("text", "json"):
        sink = Sink(log_format)
        sink.log.info("{text}", text=text)
        written = sink.stream.getvalue()
        assert written.count("\n") == 1
        assert len(written.splitlines()) == 1
        assert written[:-1].isprintable() or log_format == "json"


def test_cut() -> None:
    """A long message is cut."""
    sink = Sink()
    sink.log.info("{text}", text="x" * 100_000)
    assert len(sink.lines[0]) < MOST_TEXT + 100
    assert sink.lines[0].endswith("...")


def test_traceback() -> None:
    """A failure's traceback follows, set in, so that no line of it can be taken for an event; in JSON it is a field."""
    for log_format in ("text", "json"):
        sink = Sink(log_format)
        try:
            raise ValueError("a\n2026-01-01T00:00:00.000Z info forged: line")
        except ValueError:
            sink.log.failure("failed")
        if log_format == "text":
            assert sink.lines[0].endswith("failed")
            assert all(each.startswith("\t") for each in sink.lines[1:])
        else:
            assert "ValueError" in json.loads(sink.lines[0])["traceback"]
            assert len(sink.lines) == 1


def test_limited() -> None:
    """Of a kind that can be caused at will a few lines are written, then one a second, with the number left out."""
    sink = Sink()
    for _ in range(100):
        sink.log.info("again", limit="kind")
    sink.log.info("other", limit="other kind")
    assert len(sink.lines) == 6
    sink.now = 1.0
    sink.log.info("again", limit="kind")
    assert sink.lines[-1].endswith("again (95 more like this were left out)")
    sink.now = 2.0
    sink.log.info("again", limit="kind")
    assert sink.lines[-1].endswith("again")


class Full(io.StringIO):
    """A disk that is full for a while."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


class Short:
    """A disk with so many bytes left."""

    def __init__(self, room: int) -> None:
        self.room, self.text = room, b""

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = data[: self.room]
        self.text += taken
        self.room -= len(taken)
        return len(taken)


def test_full_disk() -> None:
    """While nothing can be written nothing is raised; afterwards the number of lost lines is told."""
    stream = Full()
    writer = LogWriter(stream, "text", "info")
    for _ in range(3):
        writer({"log_format": "lost", "log_time": 0.0})
    stream.full = False
    writer({"log_format": "back", "log_time": 0.0})
    first, second = stream.getvalue().splitlines()
    assert "warn  twistedws.logs: 3 log lines could not be written" in first
    assert second.endswith("back")


def test_deferred() -> None:
    """Once lines may wait they are written together when their time has come, at once with a warning, and at once when they may no more."""
    sink, calls = Sink(), list[tuple[float, Any]]()
    sink.writer.defer(lambda seconds, callback: calls.append((seconds, callback)))
    for each in ("one", "two"):
        sink.log.info(each)
    assert sink.lines == []
    ((seconds, write),) = calls
    assert seconds == DELAY
    write()
    assert [line.rsplit(" ", 1)[1] for line in sink.lines] == ["one", "two"]
    sink.log.info("three")
    sink.log.warn("four")
    assert [line.rsplit(" ", 1)[1] for line in sink.lines[2:]] == ["three", "four"]
    sink.log.info("five")
    sink.writer.defer(None)
    sink.log.info("six")
    assert [line.rsplit(" ", 1)[1] for line in sink.lines[4:]] == ["five", "six"]


def test_deferred_lines_are_bounded() -> None:
    """However many lines come while none is written, they do not pile up."""
    sink = Sink()
    sink.writer.defer(lambda seconds, callback: None)
    for _ in range(1000):
        sink.log.info("again")
    assert len(sink.lines) > 700


def test_deferred_lines_that_are_lost() -> None:
    """Lines that waited and could not be written are counted one by one."""
    stream = Full()
    writer = LogWriter(stream, "text", "info")
    writer.defer(lambda seconds, callback: None)
    for _ in range(3):
        writer({"log_format": "lost", "log_time": 0.0})
    writer.flush()
    stream.full = False
    writer.defer(None)
    writer({"log_format": "back", "log_time": 0.0})
    assert "3 log lines could not be written" in stream.getvalue()


def test_partly_full_disk(tmp_path: Path) -> None:
    """Where a part of many lines fits, those that do not, or not whole, count as lost."""
    stream = AppendedFile(tmp_path / "log")
    stream._file = Short(8)  # type: ignore[assignment]
    with pytest.raises(Unwritten) as caught:
        stream.write("one\ntwo\nthree\nfour\n")
    assert caught.value.lines == 2
    writer = LogWriter(stream, "text", "info")
    stream._file = disk = Short(300)  # type: ignore[assignment]
    writer.defer(lambda seconds, callback: None)
    for _ in range(10):
        writer({"log_format": "x" * 30, "log_time": 0.0})
    writer.flush()
    assert writer._lost == 10 - disk.text.count(b"\n")


def test_disk_that_stays_full(tmp_path: Path) -> None:
    """Where not even the note of lost lines can be written, the lines behind it count, and it does not."""
    stream = AppendedFile(tmp_path / "log")
    stream._file = disk = Short(0)  # type: ignore[assignment]
    writer = LogWriter(stream, "text", "info")
    writer.defer(lambda seconds, callback: None)
    for count in (2, 3, 4):
        for _ in range(count):
            writer({"log_format": "lost", "log_time": 0.0})
        writer.flush()
    assert writer._lost == 9
    disk.room = 1000
    writer({"log_format": "back", "log_time": 0.0})
    writer.flush()
    assert b"9 log lines could not be written" in disk.text


def test_reopening_where_that_fails(tmp_path: Path) -> None:
    """A log that cannot be opened anew goes on where it was."""
    stream = AppendedFile(tmp_path / "log")
    stream.path = tmp_path / "none" / "log"
    stream.reopen()
    stream.write("x\n")
    assert (tmp_path / "log").read_text() == "x\n"


def test_reopen(tmp_path: Path) -> None:
    """After a file was moved away, reopening writes to a new one; a plain stream is left alone."""
    writer = LogWriter(AppendedFile(tmp_path / "log"), "text", "info")
    writer({"log_format": "one", "log_time": 0.0})
    (tmp_path / "log").rename(tmp_path / "old")
    writer({"log_format": "two", "log_time": 0.0})
    writer.reopen()
    writer({"log_format": "three", "log_time": 0.0})
    assert [len((tmp_path / name).read_text().splitlines()) for name in ("old", "log")] == [2, 1]
    Sink().writer.reopen()


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Sink:
    """Where the lines on connections go."""
    sink = Sink(level="debug")
    monkeypatch.setattr("twistedws.logs._log", sink.log)
    return sink


def test_session_lines(connections: Sink) -> None:
    """A session has a line when it opens and one when it ends, with everything that a person would ask for."""
    session, log = make_session(), ConnectionLog()
    log.opened(session)
    session.ending = Close(4000, "so\nlong", Cause.APPLICATION, By.APPLICATION)
    log.closed(session, 1.23456)
    first, second = connections.lines
    assert f"opened session={session.id} peer=192.0.2.1:5 path=/" in first
    assert "debug" in first
    for part in (
        f"closed session={session.id}", "seconds=1.235", "messages_in=0", "octets_out=0", "code=4000", "cause=application",
        "by=application", "reason='so\\nlong'",
    ):  # fmt: skip
        assert part in second
    assert "info" in second


@pytest.mark.parametrize(
    ("cause", "level"),
    [(Cause.HANDSHAKE_REFUSED, "info"), (Cause.HANDSHAKE_TIMEOUT, "info"), (Cause.FIN, "debug"), (Cause.RESET, "debug"), (None, "debug")],
)
def test_refusal_lines(cause: Any, level: str, connections: Sink) -> None:
    """What was refused is info; what never asked, or just went away, is debug."""
    ConnectionLog().refused("192.0.2.1:5", cause, 400, "because")
    assert f" {level} " in connections.lines[0]
    assert "because" in connections.lines[0]


class Chatty:
    """What logs while it is formatted."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def __str__(self) -> str:
        self.sink.log.warn("inner")
        return "outer"


def test_logging_while_formatting() -> None:
    """A line whose formatting logs is written, and so is what that logs."""
    sink = Sink()
    sink.writer.defer(lambda seconds, callback: None)
    sink.log.info("{chatty}", chatty=Chatty(sink))
    sink.writer.flush()
    assert [line.rsplit(" ", 1)[1] for line in sink.lines] == ["inner", "outer"]


def test_logging_from_another_thread() -> None:
    """Where lines may wait, one of another thread does not: only the reactor's thread may call the reactor."""
    sink, calls = Sink(), list[float]()
    sink.writer.defer(lambda seconds, callback: calls.append(seconds))
    thread = threading.Thread(target=sink.log.info, args=("from afar",))
    thread.start()
    thread.join()
    assert [line.rsplit(" ", 1)[1] for line in sink.lines] == ["afar"]
    assert calls == []


def test_process_in_text() -> None:
    """A line of text says whose it is, between level and logger."""
    sink = Sink(process="worker 3")
    sink.writer({"log_time": 1.5, "log_namespace": "here", "log_format": "hello"})
    assert sink.lines == ["1970-01-01T00:00:01.500Z info  [worker 3] here: hello"]


def test_process_in_json() -> None:
    """A line of JSON has a field for it, which no field of an event replaces; without a process it has none."""
    sink = Sink("json", process="worker 3")
    sink.log.info("hello", process="another")
    assert json.loads(sink.lines[0])["process"] == "worker 3"
    alone = Sink("json")
    alone.log.info("hello")
    assert "process" not in json.loads(alone.lines[0])


@pytest.mark.parametrize(
    ("process", "expected"), [("", "info  twistedws.logs: closed"), ("worker 3", "info  [worker 3] twistedws.logs: closed")]
)
def test_process_of_a_session_that_ends(process: str, expected: str) -> None:
    """The line that is made with no event says it too."""
    session, log, sink = make_session(), ConnectionLog(), Sink(process=process)
    session.ending = Close(4000, "", Cause.APPLICATION, By.APPLICATION)
    log.writer = sink.writer
    log.closed(session, 1.0)
    assert f"Z {expected} session={session.id}" in sink.lines[0]


def test_process_in_the_note_of_lost_lines() -> None:
    """The note of lost lines says whose they were."""
    stream = Full()
    writer = LogWriter(stream, "text", "info", process="supervisor")
    writer({"log_format": "lost"})
    stream.full = False
    writer({"log_format": "back"})
    assert "warn  [supervisor] twistedws.logs: 1 log lines could not be written" in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", []),
        (b"a\n", [b"a\n"]),
        (b"aaaa\nbbb\n", [b"aaaa\n", b"bbb\n"]),
        (b"aa\nbbb\n", [b"aa\nbbb\n"]),  # exactly as much as fits
        (b"aaaaaaaaaa\nb\n", [b"aaaaaaaaaa\n", b"b\n"]),  # one line that does not fit
        (b"a\nbbbbbbbbbb\nc\n", [b"a\n", b"bbbbbbbbbb\n", b"c\n"]),
        (b"aa\nb\n\tc\n\td\n", [b"aa\n", b"b\n\tc\n", b"\td\n"]),  # an event that fits nowhere: between its lines
        (b"aaa\nb\n\tc\n", [b"aaa\n", b"b\n\tc\n"]),  # an event that fits is not parted
    ],
)
def test_pieces(text: bytes, expected: list[bytes]) -> None:
    """Text is parted between lines, and between events where that can be."""
    assert list(pieces(text, 7)) == expected


@given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=4).map(lambda sizes: b"\t".join(b"x" * each + b"\n" for each in sizes))),
       st.integers(1, 40))  # fmt: skip
def test_pieces_of_anything(events: list[bytes], most: int) -> None:
    """Pieces are the text, in whole lines, none longer than it may be but a single line; an event that fits into one is in one."""
    parts = list(pieces(b"".join(events), most))
    assert b"".join(parts) == b"".join(events)
    for each in parts:
        assert each.endswith(b"\n")
        assert len(each) <= most or each.count(b"\n") == 1
    assert all(any(event in each for each in parts) for event in events if len(event) <= most)


class Pipe:
    """A pipe that does not wait for its reader, and a stream on its writing end."""

    def __init__(self) -> None:
        self._reading, writing = os.pipe()
        os.set_blocking(writing, False)
        os.set_blocking(self._reading, False)
        self.stream = os.fdopen(writing, "w", encoding="utf-8")

    def read(self) -> str:
        """What has been written."""
        text = b""
        while True:
            try:
                data = os.read(self._reading, 65536)
            except BlockingIOError:
                return text.decode()
            text += data

    def close(self) -> None:
        """End."""
        os.close(self._reading)
        self.stream.close()


def test_full_pipe() -> None:
    """Lines that a full pipe does not take are counted, each other one comes whole and once, and what was printed before comes before."""
    pipe = Pipe()
    writer = LogWriter(pipe.stream, "text", "info", process="worker 1")
    writer.defer(lambda seconds, callback: None)
    print("printed", file=pipe.stream)
    for number in range(2560):
        writer({"log_format": "{number} " + "x" * 90, "number": number, "log_time": 0.0})
    writer.flush()
    first, *taken = pipe.read().splitlines()
    writer({"log_format": "back", "log_time": 0.0})
    writer.flush()
    note, last = pipe.read().splitlines()
    pipe.close()
    assert first == "printed"
    assert all(each.endswith("x" * 90) for each in taken)
    assert f"{2560 - len(taken)} log lines could not be written" in note
    assert last.endswith("back")
    numbers = [int(each.split()[5]) for each in taken]
    assert numbers == sorted(set(numbers))


def test_shared_stream_that_was_closed() -> None:
    """Nothing is written to a descriptor that was closed, and that somebody else may have by now."""
    pipe = Pipe()
    writer = LogWriter(pipe.stream, "text", "info", process="worker 1")
    pipe.close()
    writer({"log_format": "lost"})
    assert writer._lost == 1
    with pytest.raises(ValueError, match="closed"):
        SharedStream(pipe.stream).write("x\n")


SHARER = """
import sys
from twistedws.logs import LogWriter
name, count = sys.argv[1], 20_000
writer = LogWriter(sys.stdout, "text", "info", process=name)
writer.defer(lambda seconds, callback: None)
for number in range(count):
    writer({"log_format": "{number} {text} end", "number": number, "text": "x" * (number * 7 % 300), "log_time": 0.0})
writer.flush()
"""


def test_two_processes_and_one_pipe() -> None:
    """20,000 lines of each of two processes come whole to the one who reads their pipe, and in order."""
    reading, writing = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)  # so that it is full again and again, amid whatever is longer
    processes = [subprocess.Popen([sys.executable, "-c", SHARER, name], stdout=writing, cwd=ROOT) for name in ("a", "b")]
    os.close(writing)
    seen: dict[str, int] = {"a": 0, "b": 0}
    with os.fdopen(reading, encoding="utf-8") as lines:
        for line in lines:
            start, name, _, number, *text = line.split()[1:]
            assert start == "info"
            expected = seen[name.strip("[]")]
            assert (int(number), text[-1], len("".join(text[:-1]))) == (expected, "end", expected * 7 % 300)
            seen[name.strip("[]")] += 1
    assert [each.wait() for each in processes] == [0, 0]
    assert seen == {"a": 20_000, "b": 20_000}
