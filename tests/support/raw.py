"""A WebSocket client of bytes on a real socket, for what no well-behaved client would do; and a healthy client to run beside it.

``Raw`` never hides anything from its test: it sends what it is given, reads while it sends, and keeps whatever came before a reset.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import websockets
from websockets.asyncio.client import connect

from tests.support.memory import request
from tests.support.server import Server, wait_until

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NO_CLOSE_FRAME = 1006

_LINGER_NOT = struct.pack("ii", 1, 0)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x00\x00\x00\x00",
    length: int | None = None,
    width: int | None = None,
) -> bytes:
    """Return a frame of any shape (RFC 6455 section 5.2).

    Args:
        opcode: 0x0 to 0xF.
        payload: What follows the head.
        fin: Whether it is its message's last.
        rsv: The three reserved bits, RSV1 being 4.
        mask: None for an unmasked frame; four zeros mask without changing anything.
        length: What the head says, if it is a lie.
        width: 7, 16 or 64 bits of length, if not the fewest that do.
    """
    size = len(payload) if length is None else length
    bits = width or (7 if size < 126 else 16 if size < 65536 else 64)
    masked = 0x80 if mask is not None else 0
    head = bytes(((0x80 if fin else 0) | rsv << 4 | opcode,))
    if bits == 7:
        head += bytes((masked | size,))
    elif bits == 16:
        head += bytes((masked | 126,)) + size.to_bytes(2, "big")
    else:
        head += bytes((masked | 127,)) + size.to_bytes(8, "big")
    if mask is None:
        return head + payload
    if any(mask):
        payload = bytes(each ^ mask[index % 4] for index, each in enumerate(payload))
    return head + mask + payload


def close_payload(code: int, reason: bytes = b"") -> bytes:
    """Return the payload of a close frame."""
    return code.to_bytes(2, "big") + reason


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that the server sent."""

    fin: bool
    rsv: int
    opcode: int
    payload: bytes


class Raw:
    """A connection of bytes; use it as a context manager.

    Args:
        port: Where to, on the loopback.
        source: The address to come from.
        receive_buffer: SO_RCVBUF, so that the server's output soon has nowhere to go; 0 for the system's own.
        timeout: Seconds after which a read or a write is a failure of the test.
    """

    def __init__(self, port: int, *, source: str = "127.0.0.1", receive_buffer: int = 0, timeout: float = 20.0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.bind((source, 0))
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = bytearray()  # read, and not looked at yet
        self.ended = False  # the server has ended its side, or reset the connection
        self._timeout = timeout

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.sendall(data)

    def pour(self, chunks: Iterable[bytes], *, reading: bool = True) -> None:
        """Send as much as the server takes, by default reading all the while; a reset ends it."""
        deadline = time.monotonic() + self._timeout
        try:
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    readable, writable, _ = select.select([self.socket] if reading and not self.ended else [], [self.socket], [], 1.0)
                    if readable:
                        self._read()
                    if writable:
                        rest = rest[self.socket.send(rest) :]
                    assert time.monotonic() < deadline, f"the server did not take what was sent within {self._timeout} s"
        except (ConnectionError, TimeoutError):
            self.ended = True

    def upgrade(self, *headers: bytes, path: bytes = b"/") -> bytes:
        """Do the opening handshake, and return the head of the answer."""
        self.send(request(*headers, path=path))
        status, head = self.read_head()
        assert status == 101, head
        return head

    def read_head(self) -> tuple[int, bytes]:
        """Return status and head of a response; status 0 if the connection ended with none."""
        while (end := self.data.find(b"\r\n\r\n")) < 0:
            if not self._read():
                return 0, bytes(self.data)
        head = bytes(self.data[: end + 4])
        del self.data[: end + 4]
        return int(head.split(b" ", 2)[1]), head

    def read_frame(self) -> Frame | None:
        """Return the next frame; None if the connection ended before there was one."""
        while (found := self._take_frame()) is None:
            if not self._read():
                return None
        return found

    def read_message(self) -> bytes:
        """Return the next data frame's payload."""
        while (found := self.read_frame()) is not None:
            if found.opcode in (TEXT, BINARY):
                return found.payload
        raise AssertionError("the connection ended with no message")

    def read_close(self) -> tuple[int, bytes]:
        """Return code and reason of the server's close frame, passing over what comes before; 1006 if there is none."""
        while (found := self.read_frame()) is not None:
            if found.opcode == CLOSE:
                return (int.from_bytes(found.payload[:2], "big"), found.payload[2:]) if found.payload else (1005, b"")
        return NO_CLOSE_FRAME, b""

    def read_end(self) -> bytes:
        """Return everything up to the server's FIN, or a reset."""
        while self._read():
            pass
        return bytes(self.data)

    def say_goodbye(self, code: int = 1000) -> None:
        """Close as a well-behaved client does."""
        self.send(frame(CLOSE, close_payload(code)))
        assert self.read_close()[0] == code
        self.read_end()
        self.close()

    def reset(self) -> None:
        """End with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self.socket.close()

    def close(self) -> None:
        """End with a FIN, or a RST if something is unread."""
        self.socket.close()

    def _read(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            raise AssertionError(f"nothing came from the server within {self._timeout} s") from None
        except ConnectionError:
            data = b""
        self.ended = self.ended or not data
        self.data += data
        return bool(data)

    def _take_frame(self) -> Frame | None:
        data = self.data
        if len(data) < 2:
            return None
        assert not data[1] & 0x80, "a server masks no frame"
        size, start = data[1] & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        if len(data) < start + size:
            return None
        found = Frame(bool(data[0] & 0x80), data[0] >> 4 & 7, data[0] & 0xF, bytes(data[start : start + size]))
        del data[: start + size]
        return found


def sources(first: int = 1, count: int = 8) -> list[str]:
    """Return addresses of the loopback to come from, each with its own ports."""
    return [f"127.0.0.{first + index}" for index in range(count)]


class Canary:
    """A healthy client that echoes all the time beside a fault, and must not notice it; use it as a context manager.

    At the end it closes with 1000, having got back everything that it sent, in order; otherwise the block fails.

    Args:
        server: Whose.
        path: Where the application echoes.
        pace: Seconds between messages.
    """

    def __init__(self, server: Server, path: str = "/", pace: float = 0.02) -> None:
        self.echoes = 0
        self._port, self._path, self._pace = server.port, path, pace
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._close_code: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Canary:
        self._thread.start()
        wait_until(lambda: self.echoes > 2 or self._error is not None, 20, "the canary's first echoes")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join(60)
        if kind is None:
            assert self._error is None, f"the healthy client beside was harmed: {self._error!r}"
            assert self._close_code == 1000

    def sing(self, more: int, timeout: float = 60.0) -> None:
        """Wait for so many further echoes."""
        target = self.echoes + more
        wait_until(lambda: self.echoes >= target or self._error is not None, timeout, f"{more} more echoes of the canary")
        assert self._error is None, f"the healthy client beside was harmed: {self._error!r}"

    def _run(self) -> None:
        try:
            asyncio.run(self._echo())
        except (OSError, AssertionError, TimeoutError, websockets.WebSocketException) as error:
            self._error = error

    async def _echo(self) -> None:
        options = {"open_timeout": 30, "ping_interval": None, "proxy": None}
        async with connect(f"ws://127.0.0.1:{self._port}{self._path}", **options) as client:  # type: ignore[arg-type]
            while not self._stopping.is_set():
                message: str | bytes = f"canary {self.echoes}" if self.echoes % 2 else os.urandom(64)
                await client.send(message)
                assert await asyncio.wait_for(client.recv(), 30) == message
                self.echoes += 1
                await asyncio.sleep(self._pace)
        self._close_code = client.close_code


class Memory:
    """How much a server's resident memory has grown at its highest since here.

    The kernel keeps the high-water mark, so that no peak falls between two samples; without the right to reset it, the mark of the
    whole life of the process counts, which is never less.
    """

    def __init__(self, server: Server) -> None:
        self._status, before = Path(f"/proc/{server.pid}/status"), server.rss()
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")
        self._before = before

    def grown(self) -> int:
        """Bytes."""
        (line,) = [each for each in self._status.read_text().splitlines() if each.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024 - self._before
