"""Runs the Autobahn|Testsuite's fuzzing client against our server, and judges its report.

    python tests/conformance/run.py [--full] [--write-docs] [--reactor NAME]

The suite (PyPI ``autobahntestsuite``) still needs a Python 2.7: ``$PYTHON27``, one of pyenv, or ``python2.7``. The server runs
with its limits relaxed, since group 9 sends messages of 16 MiB and 65,536 fragments, and with compression on.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.server import Server  # noqa: E402 - found through the line above

SUITE = "autobahntestsuite==25.10.1"
PLACE = ROOT / ".tools" / "autobahntestsuite"
REPORTS = Path(__file__).parent / "reports"
DOCS = ROOT / "docs" / "conformance.md"

CASES = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1, "12": 90, "13": 126}
GROUPS = {
    "1": "Framing", "2": "Pings and pongs", "3": "Reserved bits", "4": "Opcodes", "5": "Fragmentation", "6": "UTF-8",
    "7": "Close handshake", "9": "Limits and performance", "10": "Miscellaneous",
    "12": "Compression, different payloads", "13": "Compression, different parameters",
}  # fmt: skip
COMPRESSION = ("12", "13")
# What an implementation does in these cases is its own choice, and only noted.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}

RELAXED = (
    "--max-message-size=0", "--max-frames-per-message=0", "--control-frame-rate=0", "--queue-size=0", "--write-stall-timeout=0",
    "--ping-interval=0", "--close-timeout=10", "--compression=on",
)  # fmt: skip

SKIPPED = 0
FAILED = 1


def main() -> int:
    """Run, judge, report; return the exit status."""
    parser = argparse.ArgumentParser(description="Run the Autobahn|Testsuite against twistedws.")
    parser.add_argument("--full", action="store_true", help="also groups 12 and 13, compression: 517 cases, some 15 minutes")
    parser.add_argument("--write-docs", action="store_true", help="write the result to docs/conformance.md")
    parser.add_argument("--reactor", help="twistd's, instead of ours: epoll, asyncio, poll, kqueue")
    options = parser.parse_args()
    python = find_python()
    if python is None:
        print("conformance: skipped: the Autobahn|Testsuite needs a Python 2.7; set PYTHON27, or: pyenv install 2.7.18")
        return FAILED if os.environ.get("CI") else SKIPPED
    install(python)
    groups = [each for each in CASES if options.full or each not in COMPRESSION]
    started = time.monotonic()
    results = run(python, groups, (f"--reactor={options.reactor}",) if options.reactor else ())
    faults = judge(results, groups)
    behaviours = collections.Counter(each["behavior"] for each in results.values())
    print(f"conformance: {len(results)} cases in {time.monotonic() - started:.0f} s: {dict(behaviours)}")
    for fault in faults:
        print(f"conformance: {fault}")
    if options.write_docs and not faults:
        DOCS.write_text(document(results, groups))
    print(f"conformance: {len(results) - len(faults)} passed, {len(faults)} failed")
    return FAILED if faults else 0


def find_python() -> str | None:
    """Return a Python 2.7, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))) / "versions"
    candidates = [os.environ.get("PYTHON27"), *sorted(str(each) for each in pyenv.glob("2.7*/bin/python")), shutil.which("python2.7")]
    check = "import ssl, zlib, sys; sys.exit(sys.version_info[:2] != (2, 7))"
    for each in candidates:
        found = shutil.which(each) if each else None
        if found and subprocess.run([found, "-c", check], check=False, stderr=subprocess.DEVNULL).returncode == 0:
            return found
    return None


def install(python: str) -> None:
    """Install the suite into a folder of its own, once."""
    done = PLACE / "zope" / "__init__.py"
    if done.exists():
        return
    print(f"conformance: installing {SUITE}", flush=True)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(PLACE), SUITE]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    done.touch()  # a namespace package that Python 2.7 does not find in a target folder


def run(python: str, groups: list[str], twistd: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Run the cases of these groups, and return the report's index."""
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    with Server(*RELAXED, "echo", twistd=twistd) as server:
        specification = {
            "outdir": str(REPORTS),
            "servers": [{"agent": "twistedws", "url": f"ws://127.0.0.1:{server.port}"}],
            "cases": [f"{each}.*" for each in groups],
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        (REPORTS / "specification.json").write_text(json.dumps(specification))
        command = [python, str(PLACE / "bin" / "wstest"), "-m", "fuzzingclient", "-s", str(REPORTS / "specification.json")]
        with (REPORTS / "client.log").open("w") as log:
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(PLACE)}, stdout=log, stderr=log, cwd=REPORTS)
    results: dict[str, dict[str, str]] = json.loads((REPORTS / "index.json").read_text())["twistedws"]
    return results


def judge(results: dict[str, dict[str, str]], groups: list[str]) -> list[str]:
    """Return what is wrong with a report; nothing, if all is well."""
    counted = collections.Counter(case.split(".")[0] for case in results)
    faults = [f"group {each}: {counted[each]} of {CASES[each]} cases were run" for each in groups if counted[each] != CASES[each]]
    for case, result in results.items():
        for aspect in ("behavior", "behaviorClose"):
            accepted = ("OK", "INFORMATIONAL") if case in INFORMATIONAL else ("OK",)
            if result[aspect] not in accepted:
                faults.append(f"case {case}: {aspect} is {result[aspect]}, see {REPORTS.name}/{result['reportfile']}")
    return faults


def document(results: dict[str, dict[str, str]], groups: list[str]) -> str:
    """Return the table for the documentation."""
    from importlib.metadata import version

    rows = []
    for group in groups:
        counted = collections.Counter(result["behavior"] for case, result in results.items() if case.split(".")[0] == group)
        numbers = (sum(counted.values()), counted["OK"], counted["INFORMATIONAL"], 0)
        rows.append(f"| {group} | {GROUPS[group]} | {' | '.join(map(str, numbers))} |")
    total = collections.Counter(result["behavior"] for result in results.values())
    rows.append(f"| | **all** | **{len(results)}** | **{total['OK']}** | **{total['INFORMATIONAL']}** | **0** |")
    packages = ", ".join(f"{each} {version(each)}" for each in ("twistedws", "autobahn", "twisted"))
    command = "make conformance-full" if set(COMPRESSION) <= set(groups) else "make conformance"
    table = "\n".join(rows)
    return f"""# Conformance

The Autobahn|Testsuite ({SUITE.replace("==", " ")}, fuzzing client) against `twistd -n twistedws echo`, limits relaxed, compression on:
`{command}` runs it and judges; `--write-docs` writes this page. Cases whose outcome is an implementation's own choice are informational:
{", ".join(sorted(INFORMATIONAL))}. Measured with {packages}, Python {sys.version.split()[0]}.

| group | what | cases | OK | informational | failed, unclean or non-strict |
|---|---|---|---|---|---|
{table}
"""


if __name__ == "__main__":
    raise SystemExit(main())
