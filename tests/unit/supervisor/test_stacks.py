"""How a place in the code is told: the application's own line first, whoever speaks."""

from __future__ import annotations

import json
import sysconfig

import pytest

from twistedws.supervisor.stacks import UNKNOWN, Place, headline, understood

STDLIB = sysconfig.get_paths()["stdlib"]
SOCKET = Place(f"{STDLIB}/socket.py", 700, "readinto")
OURS = Place(json.__file__.replace("json/__init__", "selectors"), 5, "select")
APP = Place("/srv/main.py", 31, "lookup")


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([APP, OURS], "at /srv/main.py:31 in lookup"),
        ([SOCKET, APP, OURS], f"at /srv/main.py:31 in lookup, in {SOCKET}"),
        (
            [Place("<frozen importlib._bootstrap>", 241, "_call"), APP],
            "at /srv/main.py:31 in lookup, in <frozen importlib._bootstrap>:241 in _call",
        ),
        ([OURS, SOCKET], f"at {OURS}"),
    ],
)
def test_headline(places: list[Place], expected: str) -> None:
    """The innermost line of the application's is named, and what it has called; a library's if there is no other."""
    assert headline(places) == expected


FAULT = f"""\
Thread 0x00007fad229126c0 (most recent call first):
  File "/srv/other.py", line 1 in run

Current thread 0x00007fad263dbb80 (most recent call first):
  File "{STDLIB}/re/__init__.py", line 176 in search
  File "/srv/main.py", line 31 in lookup
"""


@pytest.mark.parametrize(
    ("said", "place", "stack"),
    [
        ("", UNKNOWN, ""),
        (" \n", UNKNOWN, ""),
        ("at x.py:1 in f, for session=a\nmain thread\n  x", "at x.py:1 in f, for session=a", "main thread\n  x"),
        ("in no Python code\n", "in no Python code", ""),
        (FAULT, f"at /srv/main.py:31 in lookup, in {STDLIB}/re/__init__.py:176 in search, in a call that holds the interpreter", FAULT),
        ("Fatal\n", UNKNOWN, "Fatal\n"),
        (
            'Fatal\n  File "/srv/x.py", line 3 in f\n',
            "at /srv/x.py:3 in f, in a call that holds the interpreter",
            'Fatal\n  File "/srv/x.py", line 3 in f\n',
        ),
    ],
)
def test_understood(said: str, place: str, stack: str) -> None:
    """What a witness has said, or faulthandler, is parted into a place that fits behind a comma, and the stacks."""
    assert understood(said) == (place, stack)
