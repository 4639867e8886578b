"""A real gunicorn with gevent-websocket's worker, on a port of the loopback."""

from __future__ import annotations

import importlib.util
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.support.proxies import Proxy, free_port
from tests.support.server import ROOT
from tests.support.tools import unavailable

WORKER = "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"
DISTRIBUTIONS = ("gunicorn", "gevent", "gevent-websocket")


class Gunicorn(Proxy):
    """gunicorn with one worker of gevent-websocket's; use it as a context manager.

    Args:
        app: ``package.module:attribute``, found from the root of the repository.
        directory: An empty one, for its output.
        environment: Variables that the application finds.
    """

    def __init__(self, app: str, directory: Path, environment: Mapping[str, str]) -> None:
        for module in ("gunicorn", "gevent", "geventwebsocket"):
            if importlib.util.find_spec(module) is None:
                unavailable(f"{module} is not installed (it is in the dev extra)")
        port = free_port()
        options = ["--worker-class", WORKER, "--bind", f"127.0.0.1:{port}", "--pythonpath", str(ROOT), "--graceful-timeout", "1"]
        options += ["--no-control-socket"]  # which would be in the user's home directory
        variables = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        super().__init__([str(Path(sys.executable).with_name("gunicorn")), *options, *variables, app], port, directory)

    def _serves(self) -> bool:
        """Whether a worker answers: gunicorn listens before there is one."""
        if not super()._serves():
            return False
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{self.port}/", timeout=10):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
