"""Whether there are file descriptors.

Owns the errors that say that there are none, and the trial that says whether there are some. It keeps none.
"""

from __future__ import annotations

import errno
import os

NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def are_there_descriptors(number: int) -> bool:
    """Whether so many can be had."""
    taken = []
    try:
        for _ in range(number):
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401 - those taken before an error are given back
    except OSError as error:
        return error.errno not in NO_DESCRIPTORS
    finally:
        for each in taken:
            os.close(each)
    return True
