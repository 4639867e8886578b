"""A crowd at a server with a rate of accepts: a part waits and is served at the rate, the rest is told to come back, nobody is left."""

from __future__ import annotations

import re
import signal
import time
from contextlib import ExitStack

from tests.support.memory import request
from tests.support.raw import Raw
from tests.support.server import Server, wait_until

RATE, CROWD = 20, 300
MOST = RATE * 5  # as many as are let in in the time that one may wait


def test_a_crowd() -> None:
    """Of a crowd as many as may wait are served, no faster than the rate; the others get 503 and when to come back; the next is served."""
    with Server("--accept-rate", str(RATE)) as server:
        with Raw(server.port) as first:
            first.upgrade()
            first.say_goodbye()
        wait_until(lambda: server.lines("closed"), what="the end of the first session")
        descriptors = server.descriptors()
        with ExitStack() as crowd:
            server.send_signal(signal.SIGSTOP)  # so that all are in the kernel's queue before the first is taken
            clients = [crowd.enter_context(Raw(server.port, timeout=30)) for _ in range(CROWD)]
            for each in clients:
                each.send(request())
            began = time.monotonic()
            server.send_signal(signal.SIGCONT)
            served: list[tuple[Raw, int, bytes]] = []
            refused: list[tuple[Raw, int, bytes]] = []
            for each in clients:
                status, head = each.read_head()
                (served if status == 101 else refused).append((each, status, head))
            took = time.monotonic() - began

            assert {status for _, status, _ in refused} == {503}, "each is answered"
            assert MOST <= len(served) <= MOST + RATE
            assert (len(served) - 1 - RATE / 10) / RATE <= took, "none is served before its time"
            waits = [int(found[1]) for _, _, head in refused if (found := re.search(rb"\r\nRetry-After: (\d+)\r\n", head))]
            assert len(waits) == len(refused)
            assert min(waits) >= 1
            assert max(waits) <= 10
            assert len(set(waits)) > 3, "they do not all come back at once"
            for each, _, _ in refused:
                assert each.read_end().endswith(b"too many at once")
            for each, _, _ in served:
                each.say_goodbye()
        wait_until(lambda: server.descriptors() == descriptors, what="as many descriptors as before")
        with Raw(server.port) as last:
            last.upgrade()
            last.say_goodbye()
        assert server.lines("connections wait, and accept-rate lets in")
        assert server.stop() == 0
        server.wait_for_line(rf"served {len(served) + 2} sessions")
