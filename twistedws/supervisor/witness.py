"""A thread in a worker that can say where the event loop is stuck, and that ends the worker when its supervisor has gone.

It never gives a sign of life: that is the loop's own to give (``member``). It waits on a socket that only the supervisor holds the other
end of. Its laws:

- Asked, it answers with the stacks, at once, whatever the loop does; only a call that holds the interpreter keeps it from that, and then
  faulthandler writes them, on a signal, to the same socket.
- When the supervisor has gone, the worker ends within ``LAST_SECONDS``, whatever the loop does.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from twistedws.session import Session
from twistedws.supervisor.stacks import Place, headline
from twistedws.supervisor.worker import STACKS_SIGNAL

LAST_SECONDS = 1.5  # in which the sessions of a worker whose supervisor has gone are closed
_MOST_FRAMES = 60  # of a thread
_MOST_THREADS = 10
_OURS = "twistedws "  # begins the names of threads that are not the application's to explain


class Witness:
    """See the module.

    Args:
        watch: The worker's end of the socket.
    """

    def __init__(self, watch: socket.socket) -> None:
        self._watch = watch
        self._loop: Any = None
        self._orphaned: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Watch, from now on."""
        watch = self._watch
        watch.setblocking(True)
        faulthandler.register(STACKS_SIGNAL, file=watch.fileno(), all_threads=True)
        threading.Thread(target=self._run, name="twistedws witness", daemon=True).start()

    def attend(self, loop: Any, orphaned: Callable[[], None]) -> None:
        """The loop is about to run.

        Args:
            loop: asyncio's, which knows its current task; None where there is none.
            orphaned: Called from the thread when the supervisor has gone, to close what can be closed.
        """
        self._loop, self._orphaned = loop, orphaned

    def _run(self) -> None:
        try:
            while self._watch.recv(16):
                self._watch.sendall(f"{self._testimony()}\0".encode("utf-8", "backslashreplace"))
        except OSError:
            pass
        self._orphaned()
        threading.Event().wait(LAST_SECONDS)
        os._exit(1)

    def _testimony(self) -> str:
        """Say where the main thread is, and for whom, on the first line; the stacks on the others."""
        frames = sys._current_frames()  # noqa: SLF001 - there is no other way to another thread's
        main = threading.main_thread().ident
        frame = frames.pop(main, None) if main is not None else None
        if frame is None:
            return "in no Python code\n"
        for_whom = _served(frame, self._loop)
        where = headline(Place(each.f_code.co_filename, line, each.f_code.co_name) for each, line in _outwards(frame))
        lines = [where + (f", for {for_whom}" if for_whom else ""), *_stack("main thread", frame)]
        names = {each.ident: each.name for each in threading.enumerate()}
        others = [(names.get(ident, ""), each) for ident, each in frames.items() if not names.get(ident, "").startswith(_OURS)]
        for name, each in others[:_MOST_THREADS]:
            lines += _stack(f"thread {name}", each)
        if len(others) > _MOST_THREADS:
            lines.append(f"and {len(others) - _MOST_THREADS} more threads")
        return "\n".join(lines)


def _stack(name: str, frame: FrameType) -> list[str]:
    summary = traceback.StackSummary.extract(_outwards(frame), limit=_MOST_FRAMES)
    return [f"{name}, most recent call first:", *(f"  {each.filename}:{each.lineno} in {each.name}: {each.line}" for each in summary)]


def _outwards(frame: FrameType | None) -> Any:
    while frame is not None:
        yield frame, frame.f_lineno
        frame = frame.f_back


def _served(frame: FrameType, loop: Any) -> str:
    """Whom the main thread works for: the name of the task that runs, or the session in whose callback it is."""
    if loop is not None:
        try:
            task = asyncio.current_task(loop)
        except RuntimeError:
            task = None
        if task is not None:
            return task.get_name().replace("session ", "session=", 1)
    for each, _ in _outwards(frame):
        session = each.f_locals.get("session")
        if isinstance(session, Session):
            return f"session={session.id} peer={session.peer} path={session.request.target}"
    return ""
