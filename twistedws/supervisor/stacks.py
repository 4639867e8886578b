"""What is said of a place in the code where a worker is stuck: by its witness, and by faulthandler where that cannot speak.

The place that a reader wants is the application's own line, not that of the library that it has called.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

UNKNOWN = "and does not say where it is"

_LIBRARIES = tuple(
    {sysconfig.get_paths()[each] for each in ("stdlib", "platstdlib", "purelib", "platlib")} | {str(Path(__file__).parents[1])}
)
_FAULT = re.compile(r'File "(.*)", line (\d+) in (.*)')  # faulthandler.c


class Place(NamedTuple):
    """A line in a file."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"

    @property
    def is_library(self) -> bool:
        """Whether it is Python's, an installed package's, or ours."""
        return self.file.startswith(_LIBRARIES) or self.file.startswith("<")


def headline(places: Iterable[Place]) -> str:
    """Say where a thread is: the innermost line of the application's, and what it has called, if it is in there.

    Args:
        places: Innermost first.
    """
    places = list(places)
    own = next((each for each in places if not each.is_library), places[0])
    return f"at {own}" if own == places[0] else f"at {own}, in {places[0]}"


def understood(said: str) -> tuple[str, str]:
    """Part what was said of a worker's stacks into where its main thread is, and the stacks.

    Args:
        said: By a witness: the headline, then the stacks. By faulthandler: the stacks, of which one is that of the current thread.
    """
    if not said.strip():
        return UNKNOWN, ""
    first, _, rest = said.partition("\n")
    if first.startswith(("at ", "in ")):
        return first, rest
    _, _, current = said.partition("Current thread")
    places = [Place(file, int(line), function) for file, line, function in _FAULT.findall(current.partition("\n\n")[0] or said)]
    return (f"{headline(places)}, in a call that holds the interpreter" if places else UNKNOWN), said
