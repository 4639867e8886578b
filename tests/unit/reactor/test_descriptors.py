"""``twistedws.reactor.descriptors``: whether there are file descriptors."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from tests.support.reactor import descriptors
from twistedws.reactor.descriptors import are_there_descriptors


@pytest.mark.parametrize(("code", "says"), [(errno.EMFILE, False), (errno.ENFILE, False), (errno.EACCES, True)])
def test_are_there_descriptors(monkeypatch: pytest.MonkeyPatch, code: int, says: bool) -> None:
    """That a few can be had is said, as is that they cannot; another error is no want of them; none is kept."""
    before = descriptors()
    assert are_there_descriptors(5)
    opened = os.open
    left = 3

    def opens(*args: Any) -> int:
        nonlocal left
        if not left:
            raise OSError(code, os.strerror(code))
        left -= 1
        return opened(*args)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", opens)
        assert are_there_descriptors(5) is says
    assert descriptors() == before
