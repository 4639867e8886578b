"""Two hosts on one machine: network namespaces joined by a cable (a veth pair) that can be pulled. No packet leaves them."""

from __future__ import annotations

import os
import subprocess
from types import TracebackType

from tests.support.tools import needs, unavailable

SERVER_ADDRESS, CLIENT_ADDRESS = "192.0.2.1", "192.0.2.2"  # TEST-NET-1 (RFC 5737)


class Network:
    """A server's and a client's namespace; use it as a context manager.

    Attributes:
        server: What to put in front of a command line that is to run on the server's host.
        client: Likewise for the client's host.
    """

    def __init__(self) -> None:
        self._ip = needs("ip", package="iproute2")
        self._names = [f"tws-{side}-{os.getpid()}" for side in ("server", "client")]
        self.server, self.client = [(self._ip, "netns", "exec", name) for name in self._names]

    def __enter__(self) -> Network:
        made = subprocess.run([self._ip, "netns", "add", self._names[0]], capture_output=True, text=True, check=False)
        if made.returncode:
            unavailable(f"network namespaces cannot be made here: {made.stderr.strip()}")
        try:
            self._lay_cable()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remove()

    def pull(self) -> None:
        """Pull the cable at the client's end: nothing arrives any more, and nobody is told."""
        self._run("-n", self._names[1], "link", "set", "cable", "down")

    def _lay_cable(self) -> None:
        here, there = self._names
        self._run("netns", "add", there)
        self._run("-n", here, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", there)
        for name, address in ((here, SERVER_ADDRESS), (there, CLIENT_ADDRESS)):
            self._run("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            self._run("-n", name, "link", "set", "lo", "up")
            self._run("-n", name, "link", "set", "cable", "up")

    def _remove(self) -> None:
        for name in self._names:
            subprocess.run([self._ip, "netns", "delete", name], capture_output=True, check=False)

    def _run(self, *arguments: str) -> None:
        subprocess.run([self._ip, *arguments], check=True, capture_output=True, text=True)
