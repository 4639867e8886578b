"""A crowd of real WebSocket clients that talk, are closed and come back; what became of each message and connection is written down.

One thread with an event loop of its own holds all of them, with framing that is only as much as this needs: a client costs some tenths
of a millisecond to open and a few hundredths for each message. Its results may be read from the test's thread at any time: lists only
grow, and counters are given as copies.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from tests.support.memory import KEY, request
from tests.support.raw import BINARY, CLOSE, NO_CLOSE_FRAME, PING, PONG, TEXT, close_payload, frame
from tests.support.server import wait_until
from twistedws.listening import raise_descriptor_limit

try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop  # type: ignore[assignment] # of another loop

_ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # RFC 6455 section 4.2.2

_AT_ONCE = 100  # connections that are being opened at the same time, when the crowd gathers; afterwards each comes when it comes
_PER_SOURCE = 1000  # clients of one address: an address has 28,000 ports, and those of connections that have ended rest for a minute
_OPEN_TIMEOUT = _CLOSE_TIMEOUT = 10.0  # seconds, as the `websockets` package has


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection that the server ended, or that broke: code 1006 where no close frame came."""

    time: float
    code: int
    reason: str
    client: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A connect that failed, as class and number of its error."""

    time: float
    kind: str
    errno: int | None
    client: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """A handshake that was answered with another status than 101."""

    time: float
    status: int
    retry_after: str
    client: int


@dataclass(frozen=True, slots=True)
class Silence:
    """A connection that ended, or said nothing for long, before it had answered the handshake: ``FIN``, ``timeout``, or an error's name."""

    time: float
    how: str
    client: int


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Messages sent after the last that was answered, on a connection that the server ended, or that broke."""

    client: int
    code: int
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """What must never be, whatever happens to servers: no test passes with one.

    ``lost``: a later message was answered, this one never; or it never was on a connection that the server did not end. ``duplicate``:
    answered twice. ``order``: answered after a later one. ``strange``: whatever else a server may not send.
    """

    kind: Literal["lost", "duplicate", "order", "strange"]
    client: int
    detail: str


def histogram(times: Iterable[float], bucket: float = 1.0) -> list[int]:
    """Return how many of the times are in each span of so many seconds, from the first time on."""
    ordered = sorted(times)
    counts = Counter(int((each - ordered[0]) / bucket) for each in ordered)
    return [counts[index] for index in range(max(counts) + 1)] if counts else []


class Crowd:
    """So many clients; use it as a context manager. Each sends numbered text messages, and expects replies that end in the number.

    Args:
        port: Where the server listens.
        size: How many clients.
        host: Its address.
        path: What they ask for.
        sources: Addresses to come from; by default as many of the loopback's as ports ask for, where the server is there.
        reconnects: Whether a client comes back after its connection has ended, and tries again where it cannot be opened.
        backoff: Seconds before that, times a random factor from 0.5 to 1.5.
        talks: Whether clients send at all.
        interval: Seconds from one message of a client to the next, whether that has been answered or not; 0 to send the next as soon as
            the reply has come, with one in flight.

    Attributes:
        opened: Handshakes that succeeded, in all.
        answered: Messages that were answered, in all.
        closes: Connections that ended, but for those that the crowd itself closed at the end.
        refusals: Connects that failed.
        rejections: Handshakes answered with another status than 101.
        silences: Handshakes that were not answered.
        unanswered_at_close: Messages that had not been answered when the server ended their connection.
        faults: What must not be.
        size: How many clients.
    """

    def __init__(
        self,
        port: int,
        size: int,
        *,
        host: str = "127.0.0.1",
        path: str = "/",
        sources: Sequence[str] | None = None,
        reconnects: bool = True,
        backoff: float = 0.5,
        talks: bool = True,
        interval: float = 0.0,
    ) -> None:
        if sources is None:
            sources = [f"127.0.0.{number + 2}" for number in range((size - 1) // _PER_SOURCE + 1)] if host.startswith("127.") else []
        self.size, self.opened, self.answered = size, 0, 0
        self.closes: list[Closed] = []
        self.refusals: list[Refusal] = []
        self.rejections: list[Rejection] = []
        self.silences: list[Silence] = []
        self.unanswered_at_close: list[Unanswered] = []
        self.faults: list[Fault] = []
        self._answers: Counter[str] = Counter()
        self._goodbyes: Counter[int] = Counter()
        self._errors: list[BaseException] = []
        self._longest = 0.0
        self._address, self._head = (host, port), request(path=path.encode())
        self._reconnects, self._backoff = reconnects, backoff
        self.talks, self.interval, self.ending = talks, interval, False
        self.loop: asyncio.AbstractEventLoop = new_event_loop()
        self.clients = [_Client(self, number, sources[number % len(sources)] if sources else None) for number in range(size)]
        self._connects: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)

    def __enter__(self) -> Crowd:
        raise_descriptor_limit()
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._gather(), self.loop)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.finish()
            return
        with contextlib.suppress(Exception):  # the test has failed already
            self.finish(0.5)
        print(f"--- the crowd: {self}")

    def __len__(self) -> int:
        """Return how many connections are open now."""
        return sum(1 for each in self.clients if each.is_open)

    def __bool__(self) -> bool:
        return True  # with nobody there, too

    def __str__(self) -> str:
        refusals, rejections, silences = tuple(self.refusals), tuple(self.rejections), tuple(self.silences)
        return (
            f"{len(self)} of {self.size} open, {self.opened} opened in all, {self.answered} messages answered, closes {dict(self.codes)}, "
            f"refusals {dict(Counter(each.kind for each in refusals))}, rejections {dict(Counter(each.status for each in rejections))}, "
            f"silences {dict(Counter(each.how for each in silences))}, {len(self.unanswered_at_close)} with unanswered messages, "
            f"longest wait for a reply {self.longest_silence:.3f} s, answers {dict(self.answers.most_common(8))}, faults {self.faults[:8]}"
        )

    @property
    def answers(self) -> Counter[str]:
        """What replies said before the number, and how many did."""
        return self._answers.copy()

    @property
    def answering(self) -> Counter[str]:
        """What the last reply of each connection said, of those that are open and have had one."""
        return Counter(each.said for each in self.clients if each.is_open and each.said is not None)

    @property
    def codes(self) -> Counter[int]:
        """Close codes, and how many connections ended with each."""
        return Counter(each.code for each in tuple(self.closes))

    @property
    def goodbyes(self) -> Counter[int]:
        """Codes of the answers to the crowd's own close frames, 1006 for none."""
        return self._goodbyes.copy()

    @property
    def longest_silence(self) -> float:
        """The longest time that a message waited for its reply, or for the end of its connection, or has waited by now; seconds."""
        since = min((each.asked_at for each in self.clients), default=float("inf"))
        return max(self._longest, time.monotonic() - since)

    def open_all(self, timeout: float = 30.0) -> None:
        """Wait until all clients are open."""

        def are_all_open() -> bool:
            self.check()
            return len(self) == self.size

        try:
            wait_until(are_all_open, timeout, "the crowd's opening")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self}") from None

    def check(self) -> None:
        """Raise what has gone wrong in the crowd itself, if something has."""
        if self._errors:
            raise self._errors[0]

    def finish(self, timeout: float = 10.0) -> None:
        """Ask nothing more, wait for the replies, close every connection with 1000, and end the crowd; a second time does nothing.

        Args:
            timeout: Seconds for the replies, and as many for the closes; a message that has none then is lost.
        """
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._finish(timeout), self.loop).result(2 * timeout + 30)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(10)
            self.loop.close()
        self.check()

    def _run(self) -> None:
        self.loop.set_exception_handler(self._went_wrong)
        self.loop.run_forever()

    def _went_wrong(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._errors.append(context.get("exception") or RuntimeError(context["message"]))

    async def _gather(self) -> None:
        """Open all, only so many at once: a listening socket's queue is not endless, and what does not fit tries again after a second."""
        clients = iter(self.clients)

        async def open_some() -> None:
            for client in clients:
                await client.connect()

        for _ in range(_AT_ONCE):
            self._start(open_some())

    def _start(self, coroutine: Any) -> None:
        task = self.loop.create_task(coroutine)
        self._connects.add(task)
        task.add_done_callback(self._started)

    def _started(self, task: asyncio.Task[None]) -> None:
        self._connects.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._errors.append(task.exception())  # type: ignore[arg-type] # it is not None

    async def _finish(self, timeout: float) -> None:
        self.ending = True
        for task in tuple(self._connects):
            task.cancel()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._all(lambda each: not each.waiting), timeout)
        for client in self.clients:
            client.say_goodbye()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._all(lambda each: each.connection is None), timeout)
        for client in self.clients:
            if client.connection is not None:
                client.connection.transport.abort()
        await self._all(lambda each: each.connection is None)

    async def _all(self, condition: Any) -> None:
        while not all(map(condition, self.clients)):
            await asyncio.sleep(0.02)

    # What clients tell, in the loop's thread.

    async def connect(self, client: _Client) -> None:
        source = (client.source, 0) if client.source else None
        try:
            await self.loop.create_connection(lambda: _Connection(client, self._head), *self._address, local_addr=source)
        except OSError as error:
            self.refusals.append(Refusal(time.monotonic(), type(error).__name__, error.errno, client.number))
            self.come_back(client)

    def come_back(self, client: _Client) -> None:
        """Open this client's connection anew in a while, if it does that."""
        if self._reconnects and not self.ending:
            self.loop.call_later(self._backoff * random.uniform(0.5, 1.5), self._come, client)

    def _come(self, client: _Client) -> None:
        if not self.ending:
            self._start(client.connect())

    def waited(self, seconds: float) -> None:
        self._longest = max(self._longest, seconds)

    def has_answered(self, said: str) -> None:
        self.answered += 1
        self._answers[said] += 1

    def has_said_goodbye(self, code: int) -> None:
        self._goodbyes[code] += 1


class _Client:
    """One of the crowd, through all of its connections. Its messages' numbers are its own: no other client's are the same."""

    __slots__ = ("_numbers", "asked_at", "connection", "crowd", "first", "has_said_goodbye", "is_open", "last", "number", "said",
                 "source", "waiting")  # fmt: skip

    def __init__(self, crowd: Crowd, number: int, source: str | None) -> None:
        self.crowd, self.number, self.source = crowd, number, source
        self.connection: _Connection | None = None
        self.is_open = self.has_said_goodbye = False
        self.said: str | None = None
        self.asked_at = float("inf")  # when the oldest message that waits for its reply was sent
        self.waiting: deque[tuple[int, float]] = deque()
        self.first = self.last = -1  # the first number of this connection, and the last that was answered
        self._numbers = itertools.count(number, crowd.size)

    async def connect(self) -> None:
        await self.crowd.connect(self)

    def has_opened(self) -> None:
        self.crowd.opened += 1
        self.is_open, self.said, self.first, self.last = True, None, -1, -1
        if self.crowd.talks and self.crowd.interval and self.connection is not None:
            self.crowd.loop.call_later(random.uniform(0, self.crowd.interval), self._keep_asking, self.connection)
        elif self.crowd.talks:
            self._ask()

    def _ask(self) -> None:
        if self.crowd.ending or not self.is_open or self.connection is None:
            return
        number, now = next(self._numbers), time.monotonic()
        if self.first < 0:
            self.first = number
        if not self.waiting:
            self.asked_at = now
        self.waiting.append((number, now))
        self.connection.transport.write(frame(TEXT, b"%d" % number))

    def _keep_asking(self, connection: _Connection) -> None:
        if connection is self.connection and self.is_open and not self.crowd.ending:
            self._ask()
            self.crowd.loop.call_later(self.crowd.interval, self._keep_asking, connection)

    def has_heard(self, payload: bytes) -> None:
        """Match a reply with its message."""
        if not self.is_open:  # we have given up waiting
            return
        said, _, word = payload.decode("utf-8", "replace").rpartition(" ")
        try:
            number = int(word)
        except ValueError:
            self._blame("strange", f"a reply without a number: {payload[:80]!r}")
            return
        index = next((index for index, (each, _) in enumerate(self.waiting) if each == number), None)
        if index is None:
            is_mine = 0 <= self.first <= number <= self.last and (number - self.number) % self.crowd.size == 0
            self._blame("duplicate" if is_mine else "strange", f"a reply to {number}, which was answered or never asked here")
            return
        self.crowd.waited(time.monotonic() - self.waiting[index][1])
        del self.waiting[index]
        if number < self.last:
            self._blame("order", f"{number} answered after {self.last}")
        self.last = max(number, self.last)
        self.asked_at = self.waiting[0][1] if self.waiting else float("inf")
        self.said = said
        self.crowd.has_answered(said)
        if not self.crowd.interval:
            self._ask()

    def _blame(self, kind: Literal["lost", "duplicate", "order", "strange"], detail: str) -> None:
        self.crowd.faults.append(Fault(kind, self.number, detail))

    def say_goodbye(self) -> None:
        """Close with 1000, if open; give up opening."""
        if self.is_open and self.connection is not None:
            self._count_unanswered(None)
            self.is_open, self.has_said_goodbye = False, True
            self.connection.transport.write(frame(CLOSE, close_payload(1000)))
        elif self.connection is not None:
            self.connection.give_up_opening()

    def was_closed(self, code: int, reason: str) -> None:
        """The server has sent a close frame, or the open connection has broken."""
        if self.has_said_goodbye:
            self.crowd.has_said_goodbye(code)
        elif self.is_open:
            self._count_unanswered(code)
            self.crowd.closes.append(Closed(time.monotonic(), code, reason, self.number))
        self.is_open = self.has_said_goodbye = False

    def has_ended(self) -> None:
        """The connection is gone."""
        self.connection = None
        self.crowd.come_back(self)

    def _count_unanswered(self, code: int | None) -> None:
        if self.waiting:
            self.crowd.waited(time.monotonic() - self.asked_at)
        for number, _ in self.waiting:
            if number < self.last or code is None:
                self._blame("lost", f"{number} was never answered")
        rest = tuple(number for number, _ in self.waiting if number > self.last)
        if rest and code is not None:
            self.crowd.unanswered_at_close.append(Unanswered(self.number, code, rest))
        self.waiting.clear()
        self.asked_at = float("inf")


class _Connection(asyncio.Protocol):
    """The bytes of one connection."""

    __slots__ = ("_closing", "_data", "_head", "_is_upgraded", "_timer", "client", "transport")

    def __init__(self, client: _Client, head: bytes) -> None:
        self.client, self._head = client, head
        self._data = b""
        self._is_upgraded = self._closing = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # of a TCP connection
        self.client.connection = self
        self._timer = self.client.crowd.loop.call_later(_OPEN_TIMEOUT, self._too_late)
        self.transport.write(self._head)

    def give_up_opening(self) -> None:
        """End, if there was no answer yet."""
        if not self._is_upgraded:
            self._closing = True
            self.transport.abort()

    def _too_late(self) -> None:
        if self._is_upgraded:
            self._strange(f"the server did not end the connection within {_CLOSE_TIMEOUT} s of the close")
        else:
            self._closing = True
            self.client.crowd.silences.append(Silence(time.monotonic(), "timeout", self.client.number))
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        data = self._data + data if self._data else data
        if not self._is_upgraded:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._data = data
                return
            self._timer.cancel()
            if not self._upgrade(data[:end]):
                return
            data = data[end:]
        self._data = self._read_frames(data)

    def _upgrade(self, head: bytes) -> bool:
        status = int(head.split(b" ", 2)[1])
        if status == 101:
            self._is_upgraded = True
            if b": " + _ACCEPT + b"\r\n" not in head:
                self._strange(f"an opening handshake with a wrong key: {head!r}")
            self.client.has_opened()
            return True
        headers = dict(each.lower().split(b": ", 1) for each in head.split(b"\r\n")[1:] if b": " in each)
        after = headers.get(b"retry-after", b"").decode()
        self.client.crowd.rejections.append(Rejection(time.monotonic(), status, after, self.client.number))
        self._closing = True
        self.transport.close()
        return False

    def _read_frames(self, data: bytes) -> bytes:
        """Take the whole frames, and return the rest."""
        start, size = 0, len(data)
        while size - start >= 2:
            length, begin = data[start + 1], start + 2
            if length > 125:
                width = 2 if length == 126 else 8
                begin += width
                if size < begin:
                    break
                length = int.from_bytes(data[begin - width : begin], "big")
            if size < begin + length:
                break
            self._take(data[start], data[begin : begin + length])
            start = begin + length
            if self._closing:
                return b""
        return data[start:]

    def _take(self, first: int, payload: bytes) -> None:
        if first in (0x80 | TEXT, 0x80 | BINARY):
            self.client.has_heard(payload)
        elif first == 0x80 | PING:
            self.transport.write(frame(PONG, payload))
        elif first == 0x80 | CLOSE:
            self._closing = True
            self._timer = self.client.crowd.loop.call_later(_CLOSE_TIMEOUT, self._too_late)
            if not self.client.has_said_goodbye:
                self.transport.write(frame(CLOSE, payload[:2]))
            code = int.from_bytes(payload[:2], "big") if payload else 1005
            self.client.was_closed(code, payload[2:].decode("utf-8", "replace"))
        elif first != 0x80 | PONG:
            self._strange(f"a frame that begins with {first:#04x}")

    def _strange(self, detail: str) -> None:
        self.client.crowd.faults.append(Fault("strange", self.client.number, detail))

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        if self._is_upgraded:
            self.client.was_closed(NO_CLOSE_FRAME, "")
        elif not self._closing:
            self.client.crowd.silences.append(Silence(time.monotonic(), type(error).__name__ if error else "FIN", self.client.number))
        self.client.has_ended()
