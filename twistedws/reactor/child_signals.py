"""Notices children that end, also while uvloop runs.

Owns the handler of SIGCHLD. Its law: the handler itself only has the loop look; it reaps nothing where the signal happens to strike.
"""

from __future__ import annotations

import signal
from asyncio import AbstractEventLoop
from types import FrameType
from typing import Any

from twisted.internet import process


class ChildSignals:
    """Notices children that end.

    Twisted's own has signal.set_wakeup_fd write to a pipe that it reads; while uvloop runs, it has that for itself
    (loop.pyx:_setup_or_resume_signals).

    Args:
        loop: The loop.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop

    def install(self) -> None:
        """Handle SIGCHLD."""
        signal.signal(signal.SIGCHLD, self._ended)
        signal.siginterrupt(signal.SIGCHLD, False)
        process.reapAllProcesses()  # who ended before

    def uninstall(self) -> None:
        """Handle it no more."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _ended(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a signal handler
        self._loop.call_soon_threadsafe(process.reapAllProcesses)


class Signals:
    """Several kinds of signal handling as one.

    Args:
        kinds: The kinds.
    """

    def __init__(self, *kinds: Any) -> None:
        self._kinds = kinds

    def install(self) -> None:
        """Install each."""
        for each in self._kinds:
            each.install()

    def uninstall(self) -> None:
        """Uninstall each."""
        for each in self._kinds:
            each.uninstall()
