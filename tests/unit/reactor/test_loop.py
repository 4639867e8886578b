"""``twistedws.reactor.loop``: which loop it is, and coroutines that are run without a task."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from twistedws.reactor import loop


async def _answer() -> int:
    return 42


def test_which_loop() -> None:
    """A new loop is uvloop's, and is told from asyncio's own; where uvloop cannot be imported, it is asyncio's."""
    uvloop = pytest.importorskip("uvloop")
    ours, plain = loop.new_event_loop(), asyncio.new_event_loop()
    try:
        assert isinstance(ours, uvloop.Loop)
        assert (loop.is_uvloop(ours), loop.is_uvloop(plain)) == (True, False)
    finally:
        ours.close()
        plain.close()


def test_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where uvloop cannot be imported the loop is asyncio's own."""
    monkeypatch.setattr(loop, "uvloop", None)
    made = loop.new_event_loop()
    try:
        assert isinstance(made, asyncio.SelectorEventLoop)
        assert not loop.is_uvloop(made)
    finally:
        made.close()


def test_the_running_loop() -> None:
    """The loop that runs is found, and that none does is no error."""
    assert loop.running_loop() is None

    async def find() -> Any:
        return loop.running_loop()

    made = asyncio.new_event_loop()
    try:
        assert made.run_until_complete(find()) is made
    finally:
        made.close()


def test_at_once() -> None:
    """A coroutine that does not wait is run; one that waits is refused, and closed."""
    assert loop.at_once(_answer()) == 42
    closed = []

    async def waits() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            closed.append(True)

    with pytest.raises(RuntimeError, match="waits"):
        loop.at_once(waits())
    assert closed == [True]


def test_finish() -> None:
    """A coroutine that ends is left in peace."""
    loop.finish(_answer())
