"""``twistedws.reactor.child_signals``: children of a process that runs the reactor."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tests.support.reactor import LOOPS, ROOT

CHILD = """
    import asyncio, sys
    from twistedws.reactor import install, new_event_loop
    install(new_event_loop() if sys.argv[1] == "uvloop" else asyncio.new_event_loop())
    from twisted.internet import reactor
    from twisted.internet.protocol import ProcessProtocol

    class Child(ProcessProtocol):
        def outReceived(self, data):
            print(data.decode(), end="", flush=True)

        def processEnded(self, reason):
            print("with status", reason.value.exitCode, flush=True)
            reactor.stop()

    reactor.callWhenRunning(reactor.spawnProcess, Child(), sys.executable, [sys.executable, "-c", "print('ended'); raise SystemExit(3)"])
    reactor.run()
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_a_child_that_ends(loop: str) -> None:
    """The end of a child is noticed, though uvloop takes the signals' descriptor for itself; a reactor that stops returns from run."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(CHILD), loop], capture_output=True, text=True, timeout=30, check=False,
                          cwd=ROOT)  # fmt: skip
    assert done.stdout == "ended\nwith status 3\n", done.stderr
    assert done.returncode == 0
