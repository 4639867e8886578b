"""What systemd is told of the service: readiness, reloads, its end, a line of status, signs of life (sd_notify(3)). Floor 4.

Never raises and never blocks: a service manager that does not listen must not hold up, or end, a server that works.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, MutableMapping

from twisted.logger import Logger

_log = Logger()

# systemd throws away a datagram of more than PIPE_BUF (4096) octets (NOTIFY_BUFFER_MAX in manager.c), and with it the state that
# stands before the status. A character has at most four octets.
LONGEST_STATUS = 1000
MOST_OWED = 16  # changes of state that could not be told yet; there are two in a reload

_INFINITY = 2**64 - 1  # USEC_INFINITY: no time at all (sd_watchdog_enabled.c refuses it, and 0)


def _monotonic() -> int:
    """Return CLOCK_MONOTONIC in microseconds, which is what Python's clock of that name reads where systemd runs."""
    return time.monotonic_ns() // 1000


class Notifier:
    """sd_notify(3): tells systemd of the service's state over the datagram socket of NOTIFY_SOCKET. Does nothing where there is none.

    A change of state that cannot be told, since the socket is full or gone, is told ahead of whatever is told next. A status or a sign
    of life is not kept: the next one says more.

    Args:
        address: A path, or ``@`` and a name in Linux's abstract namespace; None or "" where nobody wants to know.
        watchdog_seconds: How long systemd waits for a sign of life before it ends the service; 0.0 where it does not.
        now: CLOCK_MONOTONIC in microseconds.

    Attributes:
        watchdog_interval: Seconds between two calls of ``alive``: half of what systemd waits, as sd_watchdog_enabled(3) recommends;
            0.0 where none is wanted.
    """

    def __init__(self, address: str | None, watchdog_seconds: float = 0.0, now: Callable[[], int] = _monotonic) -> None:
        if address and (address[0] not in "/@" or len(address) < 2):  # systemd has others for virtual machines (vsock:)
            _log.warn("NOTIFY_SOCKET={address!r} is not understood, systemd is told nothing: a path or @name is accepted", address=address)
            address = None
        self._address, self._now = address or "", now
        self._watchdog = watchdog_seconds if self._address else 0.0
        self.watchdog_interval = self._watchdog / 2
        # Kept open from the first message on, so that signs of life need no descriptor at a time when connections have taken all.
        self._socket: socket.socket | None = None
        self._owed: deque[str] = deque(maxlen=MOST_OWED)
        self._status: str | None = None  # the last that was told
        self._failing = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str], pid: int) -> Notifier:
        """Make the notifier of this process, and take what it is made from out of the environment: children must not have it.

        Args:
            environment: ``os.environ``.
            pid: This process's, for WATCHDOG_PID may name another one whom the watchdog is for (sd_watchdog_enabled(3)).
        """
        address = environment.pop("NOTIFY_SOCKET", None)
        text = environment.pop("WATCHDOG_USEC", None)
        ours = environment.pop("WATCHDOG_PID", str(pid)) == str(pid)
        microseconds = 0
        if text is not None and ours:
            number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(_INFINITY)) else 0
            if 0 < number < _INFINITY:
                microseconds = number
            else:
                _log.warn("WATCHDOG_USEC={text!r} is ignored: a number of microseconds is accepted", text=text)
        return cls(address, microseconds / 1_000_000)

    def environment(self) -> dict[str, str]:
        """Return the variables of which ``from_environment`` makes the same notifier again, for execve(2) in this process.

        WATCHDOG_PID is not among them: without it, the watchdog is for whoever reads them, which is this process after the call.
        """
        variables = {}
        if self._address:
            variables["NOTIFY_SOCKET"] = self._address
        if self._watchdog:
            variables["WATCHDOG_USEC"] = str(round(self._watchdog * 1_000_000))
        return variables

    def ready(self, status: str) -> None:
        """The service has started, or reloaded: it serves.

        Args:
            status: The line that ``systemctl status`` shows.
        """
        self._change("READY=1", status)

    def reloading(self, status: str) -> None:
        """The service reloads; ``ready`` tells of the end. The time makes it an answer to systemd's signal (``Type=notify-reload``).

        Args:
            status: The line that ``systemctl status`` shows.
        """
        self._change(f"RELOADING=1\nMONOTONIC_USEC={self._now()}", status)

    def stopping(self, status: str) -> None:
        """The service has begun to end.

        Args:
            status: The line that ``systemctl status`` shows.
        """
        self._change("STOPPING=1", status)

    def status(self, text: str) -> None:
        """Show a line in ``systemctl status``; nothing is sent if it is there already.

        Args:
            text: The line. What would not fit on one, or is too long, is replaced or cut.
        """
        line = _one_line(text)
        if self._flush() and line != self._status and self._send(f"STATUS={line}"):
            self._status = line

    def alive(self) -> None:
        """Give a sign of life; to be called every ``watchdog_interval`` seconds."""
        if self._flush():
            self._send("WATCHDOG=1")

    def _change(self, state: str, status: str) -> None:
        self._owed.append(f"{state}\nSTATUS={_one_line(status)}")
        self._flush()

    def _flush(self) -> bool:
        """Tell of the changes of state that are owed, in their order; return whether none is left."""
        while self._owed:
            if not self._send(self._owed[0]):
                return False
            self._status = self._owed.popleft().rpartition("\nSTATUS=")[2]
        return True

    def _send(self, message: str) -> bool:
        """Send a datagram; return whether nothing is left to be done for it."""
        if not self._address:
            return True
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # with CLOEXEC (PEP 446)
                self._socket.setblocking(False)
            # Not connected: a service manager that has started anew is found again.
            self._socket.sendto(message.encode(), _socket_name(self._address))
        except OSError as error:
            if not self._failing:
                _log.warn("cannot tell systemd {what}: {error}", what=message.partition("\n")[0], error=error)
            self._failing = True
            return False
        self._failing = False
        return True


def _one_line(text: str) -> str:
    """Return a text in which nothing ends the line, and with it the assignment; no surrogate, which UTF-8 does not have."""
    return "".join(each if each.isprintable() else " " for each in text[:LONGEST_STATUS])


def _socket_name(address: str) -> bytes:
    """Return the address as the kernel has it: the abstract namespace begins with NUL (unix(7))."""
    name = os.fsencode(address)
    return b"\0" + name[1:] if name.startswith(b"@") else name
