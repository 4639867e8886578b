"""What this process has counted since it started. Floor 1: plain numbers, no I/O; who shows them is somebody else's business."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from twistedws.errors import Cause


@dataclass(slots=True)
class Metrics:
    """Counters of one process.

    Attributes:
        opened: Sessions opened.
        closed: Sessions ended, by cause.
        refused: Connections that never became a session, by cause.
        answered: Plain requests answered, by the first digit of the status; 0 for those whose connection ended before.
        messages_in: Messages received on sessions that have ended; so are the next three.
        messages_out: Messages sent.
        octets_in: Bytes of their payloads, received.
        octets_out: Bytes of their payloads, sent.
        dropped: Messages not sent because a slow consumer's queue was full.
        no_thread: Sessions refused because no thread was free for them.
        late_threads: Threads that ran on too long after their connection was gone.
    """

    opened: int = 0
    closed: Counter[Cause] = field(default_factory=Counter)
    refused: Counter[Cause] = field(default_factory=Counter)
    answered: Counter[int] = field(default_factory=Counter)
    messages_in: int = 0
    messages_out: int = 0
    octets_in: int = 0
    octets_out: int = 0
    dropped: int = 0
    no_thread: int = 0
    late_threads: int = 0
