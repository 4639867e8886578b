"""Whether the server wants to be sent connections: what load balancers and operators ask. Floor 4."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Health:
    """How the server is, as whoever runs it says.

    Attributes:
        ready: Whether it wants to be sent connections.
        why: Why it does not, in a few words on one line.
        state: Facts for the JSON of ``/ready``, by their names; None for none.
    """

    ready: bool = False
    why: str = "starting"
    state: Callable[[], dict[str, object]] | None = None
