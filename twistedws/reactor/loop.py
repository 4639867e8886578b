"""The event loop: which one it is, and its coroutines, run without a task.

Owns the import of uvloop. Its law: nothing here runs the loop, or waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import AbstractEventLoop
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

try:
    import uvloop
except ImportError:  # it is made for neither Windows nor PyPy
    uvloop = None  # type: ignore[assignment]

_Result = TypeVar("_Result")


def new_event_loop() -> AbstractEventLoop:
    """Make a loop: uvloop's where it can be imported."""
    return asyncio.new_event_loop() if uvloop is None else uvloop.new_event_loop()


def running_loop() -> AbstractEventLoop | None:
    """Return the loop that runs; None where none does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def is_uvloop(loop: AbstractEventLoop) -> bool:
    """Whether a loop is uvloop's."""
    return uvloop is not None and isinstance(loop, uvloop.Loop)


def at_once(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine that never waits, as uvloop's create_server does not where it is given a socket (loop.pyx:1641)."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("_Result", end.value)
    coroutine.close()
    raise RuntimeError(f"{coroutine} waits")


def finish(coroutine: Coroutine[Any, Any, object]) -> None:
    """Let ``connect_accepted_socket`` return."""
    with contextlib.suppress(StopIteration):
        coroutine.send(None)
