"""Workers that belong together, and what is left of them to a supervisor's successor."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from twistedws import config
from twistedws.supervisor.control import Counts
from twistedws.supervisor.restarts import Restarts
from twistedws.supervisor.worker import Stage, Worker


@dataclass(slots=True)
class Generation:
    """Workers of one configuration, and of the code as it was when they were started."""

    resolved: config.Resolved
    endpoints: list[str]
    target: int
    restarts: Restarts
    workers: list[Worker] = field(default_factory=list)
    due: list[float] = field(default_factory=list)  # when those that are missing are to be started
    failed_at: float = 0.0

    @property
    def settings(self) -> config.Configuration:
        """The configuration."""
        return self.resolved.configuration

    @property
    def is_ready(self) -> bool:
        """Whether all its workers serve."""
        return len(self.workers) >= self.target and all(each.stage is Stage.SERVING for each in self.workers)

    def see_who_lives(self, now: float) -> None:
        """Forget the failures if a worker that was started after the last one serves for long enough."""
        if self.restarts.failures:
            served = [now - each.ready_at for each in self.workers if each.ready_at is not None and each.started_at >= self.failed_at]
            self.restarts.lives(max(served, default=0.0))


class Heritage(msgspec.Struct, frozen=True):
    """What a supervisor leaves to the one that takes its place in the same process.

    Attributes:
        sockets: Descriptors that are listened on, by description.
        workers: Of each worker its number, pid, both descriptors, and whether it leaves.
        number: The last number that was given.
        counts: What workers that have ended have counted.
    """

    sockets: dict[str, int]
    workers: list[tuple[int, int, int, int, bool]]
    number: int
    counts: Counts
