"""Workers that belong together, and what is left of them to a supervisor's successor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

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


class LeftWorker(NamedTuple):
    """A worker that one supervisor leaves to the next: both are the same process, so it stays a child of it.

    Attributes:
        number: Its number.
        pid: Its process.
        control: The descriptor of the supervisor's end of the link.
        watch: That of its end of the socket that the witness watches.
        leaves: Whether the worker drains.
    """

    number: int
    pid: int
    control: int
    watch: int
    leaves: bool


class Heritage(msgspec.Struct, frozen=True):
    """What a supervisor leaves to the one that takes its place in the same process.

    Attributes:
        sockets: Descriptors that are listened on, by description.
        workers: The workers.
        number: The last number that was given.
        counts: What workers that have ended have counted.
    """

    sockets: dict[str, int]
    workers: list[LeftWorker]
    number: int
    counts: Counts

    def descriptors(self) -> list[int]:
        """Return all descriptors that are left."""
        return [*self.sockets.values(), *(descriptor for each in self.workers for descriptor in (each.control, each.watch))]
