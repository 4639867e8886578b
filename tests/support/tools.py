"""Programs that a test needs beside Python: where one is missing, the test is skipped on a user's machine, and fails in CI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def needs(program: str, *, package: str = "") -> str:
    """Return the path of a program.

    Args:
        program: Its name.
        package: What to install for it, where that is named otherwise.

    Raises:
        pytest.skip.Exception: It is not there, and this is not CI.
    """
    found = shutil.which(program, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/sbin")
    if found is None:
        unavailable(f"{program} is not installed (Debian: apt-get install {package or program})")
    return found


def unavailable(why: str) -> NoReturn:
    """Skip the running test with the reason; in CI, where everything is to be there, fail it."""
    if os.environ.get("CI"):
        pytest.fail(f"{why}, and CI is to have it")
    pytest.skip(why)
