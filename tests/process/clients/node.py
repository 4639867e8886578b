"""The clients of Node: the package ``ws``, and the one that is built in. The other end of ``node.mjs``."""

from __future__ import annotations

import base64
import functools
import json
import subprocess
from typing import Any

from tests.process.clients import Plan, Report, content
from tests.support.server import ROOT
from tests.support.tools import needs, unavailable

SCRIPT = ROOT / "tests" / "process" / "clients" / "node.mjs"
PACKAGES = ROOT / ".tools" / "node"


def ws_client(plan: Plan) -> Report:
    """Follow a plan with the package ``ws``."""
    _install()
    return _run(plan, [], "ws")


def builtin_client(plan: Plan) -> Report:
    """Follow a plan with the client that Node has of its own."""
    return _run(plan, list(_options()), "builtin")


@functools.cache
def _install() -> None:
    if not (PACKAGES / "node_modules" / "ws").is_dir():
        PACKAGES.mkdir(parents=True, exist_ok=True)
        line = [needs("npm"), "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--prefix", str(PACKAGES), "ws@8"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            unavailable(f"npm cannot install ws: {done.stderr.strip()}")


@functools.cache
def _options() -> tuple[str, ...]:
    """Node 22 has its client switched on; before, it wants an option, if it has one at all."""
    node, probe = needs("node", package="nodejs"), "process.exit(typeof WebSocket === 'function' ? 0 : 1)"
    for options in ((), ("--experimental-websocket",)):
        if subprocess.run([node, *options, "-e", probe], capture_output=True, check=False).returncode == 0:
            return options
    return unavailable("this Node has no WebSocket client of its own: 20.10 or later is needed")


def _run(plan: Plan, options: list[str], which: str) -> Report:
    last = None
    if plan.last is not None:
        data = plan.last if isinstance(plan.last, str) else content(plan.last_kind, plan.last)
        last = _message(data)
    messages = [_message(content(kind, size)) for kind, size in plan.messages]
    order = {"url": plan.url, "protocols": plan.protocols, "compress": plan.compress, "code": plan.code, "reason": plan.reason}
    done = subprocess.run(
        [needs("node", package="nodejs"), "--no-warnings", *options, str(SCRIPT), which, str(PACKAGES)],
        input=json.dumps({**order, "messages": messages, "last": last}), capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    echoed = tuple(each for each, same in zip(plan.messages, said["same"], strict=True) if same)
    return Report(echoed, said["protocol"], "permessage-deflate" in said["extensions"], said["code"], said["reason"])


def _message(data: str | bytes) -> dict[str, Any]:
    if isinstance(data, str):
        return {"kind": "text", "data": data}
    return {"kind": "binary", "data": base64.b64encode(data).decode()}
