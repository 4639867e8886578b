"""Keeps its process from going on, or ends it, where the message says so: "block 3", "spin 3", "regex 3", "die", "segfault", "memory".

The number is seconds. Every other message is echoed, and so are those, once they are through.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import time
from collections.abc import Callable

from twistedws import Close, Session

_SAMPLE = 5000  # characters, for which the search below takes some 20 ms


def wait_for_a_slow_database(seconds: float) -> None:
    """Block in a system call, which lets other threads go on."""
    time.sleep(seconds)


def spin_in_python(seconds: float) -> None:
    """Compute; other threads get their turn."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def search_with_a_quadratic_pattern(seconds: float) -> None:
    """Stay in one call of C, about so long, in which no other thread runs."""
    _search(int(_SAMPLE * (seconds / _SAMPLE_SECONDS) ** 0.5))


def _search(length: int) -> float:
    """Search for what is not there, in time that grows with the square of the length; return the seconds."""
    start = time.perf_counter()
    re.search("a*b", "a" * length)
    return time.perf_counter() - start


_SAMPLE_SECONDS = min(_search(_SAMPLE) for _ in range(3))


def exit_at_once() -> None:
    """End as a process whose C extension calls exit."""
    os._exit(3)


def crash() -> None:
    """End as a process whose C extension has a wild pointer."""
    os.kill(os.getpid(), signal.SIGSEGV)


def allocate_until_killed() -> None:
    """Take all memory that there is, and be killed as by the kernel; only where a limit keeps that from harming others."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        raise RuntimeError("RLIMIT_AS is not set")
    taken = []
    try:
        while True:
            taken.append(bytes(1024 * 1024))
    except MemoryError:
        os.kill(os.getpid(), signal.SIGKILL)


FOR_SECONDS: dict[str, Callable[[float], None]] = {
    "block": wait_for_a_slow_database,
    "spin": spin_in_python,
    "regex": search_with_a_quadratic_pattern,
}
FOR_EVER: dict[str, Callable[[], None]] = {"die": exit_at_once, "segfault": crash, "memory": allocate_until_killed}


class App:
    """Do what the message says, and echo it."""

    def __init__(self, session: Session) -> None: ...

    def opened(self, session: Session) -> None: ...

    def received(self, session: Session, message: str | bytes) -> None:
        if isinstance(message, str):
            word, _, seconds = message.partition(" ")
            if word in FOR_SECONDS:
                FOR_SECONDS[word](float(seconds))
            elif message in FOR_EVER:
                FOR_EVER[message]()
        session.send(message)

    def closed(self, session: Session, close: Close) -> None: ...
