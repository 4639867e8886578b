"""What Schemathesis makes of an application's OpenAPI schema, valid and invalid, against the application on this server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import ROOT, Server
from tests.support.tools import unavailable

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
PLACES = {"fastapi_items": ROOT / "tests" / "process" / "apps", "fastapi_chat": ROOT / "examples"}
APPLICATIONS = [name for name, place in PLACES.items() if (place / f"{name}.py").exists()]


@pytest.mark.parametrize("name", APPLICATIONS)
def test_no_server_error(name: str, tmp_path: Path) -> None:
    """No request that follows the schema, or breaks it, is a server error; the server logs none, and ends as it should."""
    if not SCHEMATHESIS.exists():
        unavailable("schemathesis is not installed (pip install schemathesis)")
    with Server(f"--app-dir={PLACES[name]}", "--drain-seconds=0", f"{name}:app") as server:
        command = [
            str(SCHEMATHESIS), "run", f"http://127.0.0.1:{server.port}/openapi.json", "--checks=not_a_server_error",
            "--phases=examples,coverage,fuzzing,stateful", "--max-examples=40", "--seed=20260101", "--request-timeout=10",
            "--no-color", "--report=ndjson", f"--report-dir={tmp_path}",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)},
            text=True, capture_output=True, timeout=120, check=False)  # fmt: skip
        print(done.stdout, done.stderr, sep="\n")
        assert done.returncode == 0
        assert not server.lines("a fault of this server|application raised|Traceback|Unhandled")
        assert server.stop() == 0
