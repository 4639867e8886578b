"""Runs Twisted's own test cases for reactors against ours, on uvloop's loop and on asyncio's, and judges them.

    python tests/conformance/twisted_reactor.py [--write-docs] [--loop uvloop|asyncio] [--only MODULE] [--case SUBSTRING]

Two kinds of modules are run. Those of ``BUILT`` hold the cases that Twisted makes for each of its reactors (``ReactorBuilder``): each case
gets a reactor of its own. Those of ``GLOBAL`` run on one reactor, the one that is installed; of these only Twisted's ``TestCase`` waits for
it, the other cases in them are run too.

A case must pass. One that does not is a fault unless it is named in ``NOT_OURS``, or Twisted itself skips it with a reason of ``SKIPS``, or
it fails on Twisted's epoll reactor here as well. A case that is named and passes is a fault too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "reactor.md"
LOOPS = ("uvloop", "asyncio")
SECONDS = 100  # for one module
PATIENCE = 15  # seconds for one case, of Twisted's 120
WORKERS = 4  # they wait more than they work

BUILT = tuple(
    f"twisted.internet.test.test_{name}"
    for name in ("core", "fdset", "newtls", "process", "socket", "stdio", "tcp", "threads", "time", "tls", "udp", "unix")
)
GLOBAL = (
    "twisted.test.test_tcp", "twisted.test.test_unix", "twisted.test.test_ssl", "twisted.test.test_internet", "twisted.test.test_udp",
    "twisted.test.test_threads", "twisted.test.test_loopback", "twisted.test.test_policies", "twisted.test.test_amp",
    "twisted.test.test_process", "twisted.test.test_stdio", "twisted.test.test_sslverify", "twisted.protocols.test.test_tls",
    "twisted.protocols.haproxy.test.test_wrapper", "twisted.internet.test.test_base", "twisted.internet.test.test_default",
    "twisted.internet.test.test_endpoints", "twisted.web.test.test_webclient",
)  # fmt: skip

_LATE = (
    "The case assigns `dataReceived` on a protocol that is connected. Our transports look it up when the protocol is made, and when one "
    "is assigned to `transport.protocol`, since the loop calls it directly. The case is run with a protocol that assigns itself again."
)
_CONTEXT = (
    "The case asks for the log context (`system`) inside `dataReceived`. The loop calls the protocol directly, and nothing pushes a "
    "context around it; `transport.logPrefix()` gives the same text (tests/unit/reactor/test_transport.py)."
)
# Cases that are not run as they are. Their names begin with the last part of the module's name.
NOT_OURS = {
    "test_fdset.ReactorFDSetTestsBuilder.test_lostFileDescriptor": (
        "Twisted skips it on each of its reactors over epoll or kqueue, by the name of the reactor's class: a descriptor that is closed "
        "leaves epoll without a word."
    ),
    "test_tcp.TCP4ClientTestsBuilder.test_logPrefix": _CONTEXT,
    "test_tcp.TCP6ClientTestsBuilder.test_logPrefix": _CONTEXT,
    "test_tls.SSLClientTestsMixin.test_logPrefix": _CONTEXT,
    "test_tls.StartTLSClientTestsMixin.test_logPrefix": _CONTEXT,
    "test_unix.UNIXTestsBuilder.test_logPrefix": _CONTEXT,
    "test_tcp.ListeningTests.test_serverRepr": (
        "It wants the number that a port counts in `repr`. Ours has the peer's port there, as Twisted's adopted connections have: a number "
        "of its own would cost 40 bytes for each connection."
    ),
    "test_tcp.LoopbackTests.test_tcpNoDelay": (
        "It wants TCP_NODELAY to be off at first. Both loops set it on every connection as they accept it; ours says so, and can clear it "
        "(tests/unit/reactor/test_transport.py)."
    ),
}
ADAPTED = {
    "test_tcp.TCPTransportTestsBuilder.test_writeSequeceWithoutWrite": _LATE,
    "test_tcp.AdoptStreamConnectionTestsBuilder.test_writeSequeceWithoutWrite": _LATE,
    "test_unix.UNIXAdoptStreamConnectionTestsBuilder.test_writeSequeceWithoutWrite": _LATE,
}
# What Twisted says when it skips a case that has nothing to do with us: part of its reason, and what it means.
SKIPS = {
    "No module named 'gi'": "for GTK's reactor",
    "SIGBREAK": "for Windows",
    "indows": "for Windows",
    "IPv6 has hops": "IPv6 has no such option",
}


def main() -> int:
    """Run, judge, report; return the exit status."""
    parser = argparse.ArgumentParser(description="Run Twisted's test cases for reactors against ours.")
    parser.add_argument("--write-docs", action="store_true", help="write the result to docs/reactor.md")
    parser.add_argument("--loop", choices=LOOPS, help="only on this loop")
    parser.add_argument("--only", choices=(*BUILT, *GLOBAL), metavar="MODULE", help="only this module")
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--child", choices=(*LOOPS, "epoll"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        sys.path.insert(0, str(ROOT))
        return run_here(options.only, options.child, options.case)
    started = time.monotonic()
    loops = [each for each in LOOPS if options.loop in (None, each)]
    work = [(module, loop) for module in (*BUILT, *GLOBAL) if options.only in (None, module) for loop in loops]
    with ThreadPoolExecutor(WORKERS) as pool:
        results = dict(zip(work, pool.map(lambda each: judged(each[0], each[1], options.case), work), strict=True))
    faults = [each for cases in results.values() for each in cases if each["outcome"] == "failed"]
    for each in faults:
        print(f"reactor: {each['module']}, {each['loop']}: {each['name']}: {each['detail']}")
    counts = Counter(each["outcome"] for cases in results.values() for each in cases)
    print(f"reactor: {sum(counts.values())} cases in {time.monotonic() - started:.0f} s: {dict(counts)}")
    if options.write_docs and not faults:
        DOCS.write_text(document(results), encoding="utf-8")
    return 1 if faults else 0


def judged(module: str, loop: str, case: str) -> list[dict[str, str]]:
    """Run the cases of a module, and judge each: passed, adapted, skipped with its reason, or failed."""
    cases = run(module, loop, case)
    for each in cases:
        each.update(module=module, loop=loop)
        if each["outcome"] == "failed" and each["name"] in NOT_OURS:
            each.update(outcome="skipped", detail=NOT_OURS[each["name"]])
        elif each["outcome"] == "passed" and each["name"] in NOT_OURS:
            each.update(outcome="failed", detail="it is named in NOT_OURS, and passes")
        elif each["outcome"] == "passed" and each["name"] in ADAPTED:
            each.update(outcome="adapted", detail=ADAPTED[each["name"]])
        elif each["outcome"] == "skipped" and not any(reason in each["detail"] for reason in SKIPS):
            each.update(outcome="failed", detail=f"skipped with a reason that is not known here: {each['detail']}")
        elif each["outcome"] == "failed" and each["name"]:
            theirs = run(module, "epoll", each["name"].partition(".")[2])
            if theirs and all(one["outcome"] == "failed" for one in theirs):
                each.update(outcome="skipped", detail="It fails on Twisted's own epoll reactor here as well: a matter of the environment.")
    return cases


def run(module: str, loop: str, case: str) -> list[dict[str, str]]:
    """Run the cases of a module in a process of their own, of which nothing is left behind."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", loop, "--only", module, "--case", case]
    # Trial's cases make files where they stand, and in TMPDIR; a child that outlived its case may still do so.
    with tempfile.TemporaryDirectory(prefix="reactor-", ignore_cleanup_errors=True) as place:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": place}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=place, env=environment, start_new_session=True
        ) as process:
            try:
                output, errors = process.communicate(timeout=SECONDS)
                end = errors.decode(errors="replace")
            except subprocess.TimeoutExpired as late:
                output, end = late.stdout or b"", f"not done after {SECONDS} s"
            finally:
                with contextlib.suppress(ProcessLookupError):  # nobody is left
                    os.killpg(process.pid, signal.SIGKILL)
    lines = output.decode(errors="replace").splitlines()
    cases, begun = [], ""
    for line in lines:
        if line.startswith("begin "):
            begun = line[6:]
        elif line.startswith("case "):
            cases.append(json.loads(line[5:]))
    if "end" not in lines[-3:]:
        cases.append({"name": "", "outcome": "failed", "detail": f"the process ended in {begun or 'its start'}: {end[-2000:]}"})
    return cases


# In the process of one module


def run_here(module: str, loop: str, case: str) -> int:
    """Run the cases of a module in this process; print a line for each."""
    from twisted.internet.test.reactormixins import ReactorBuilder

    if loop == "epoll":
        kind = "twisted.internet.epollreactor.EPollReactor"
        if module in GLOBAL:
            importlib.import_module("twisted.internet.epollreactor").install()
    else:
        kind = f"__main__.on_{loop}"
        if module in GLOBAL:
            importlib.import_module("twistedws.reactor").install(make_loop(loop))
    ReactorBuilder._reactors = [kind]  # before the module makes its cases of it
    if module in BUILT:
        adapt()
    reporter = make_reporter(module)
    for test in cases_of(importlib.import_module(module), built=module in BUILT):
        if case in name_of(module, test):
            print(f"begin {test.id()}", flush=True)
            test.run(reporter)
    print("end", flush=True)
    os._exit(0)  # some cases of test_threads and test_process leave behind what a clean exit would wait for


def on_uvloop(test: Any) -> Any:
    """Make a reactor of ours for a case, as ``reactormixins.asyncioSelectorReactor`` makes Twisted's."""
    return make_reactor(test, "uvloop")


def on_asyncio(test: Any) -> Any:
    """Likewise."""
    return make_reactor(test, "asyncio")


def make_reactor(test: Any, kind: str) -> Any:
    """Make a reactor of ours on a new loop, which is closed after the case."""
    from twistedws.reactor import LoopReactor

    loop = make_loop(kind)
    test.addCleanup(loop.close)
    reactor = LoopReactor(loop)
    if reactor.native != (kind == "uvloop"):
        raise RuntimeError(f"{loop} is not the kind of loop that is to be tested")
    return reactor


def make_loop(kind: str) -> Any:
    """Make a loop."""
    import uvloop

    return uvloop.new_event_loop() if kind == "uvloop" else asyncio.new_event_loop()


def adapt() -> None:
    """Have the protocol of ``ADAPTED`` assign itself to its transport when its ``dataReceived`` is replaced."""
    from twisted.test import test_tcp

    theirs: Any = test_tcp.MyServerFactory.protocolFactory

    class AccumulatingProtocol(theirs):  # type: ignore[misc]  # the name is in what the cases compare
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "dataReceived":
                self.transport.protocol = self

    test_tcp.MyServerFactory.protocolFactory = AccumulatingProtocol


def cases_of(module: Any, *, built: bool) -> Iterator[Any]:
    """The cases of a module: those that it makes for a reactor, or all."""
    from twisted.internet.test.reactormixins import ReactorBuilder
    from twisted.trial.runner import TestLoader
    from twisted.trial.unittest import SynchronousTestCase

    if built:
        for kind in tuple(vars(module).values()):
            if isinstance(kind, type) and issubclass(kind, ReactorBuilder) and issubclass(kind, SynchronousTestCase):
                for name in sorted(each for each in dir(kind) if each.startswith("test")):
                    test: Any = kind(name)
                    test.timeout = PATIENCE
                    yield test
        return
    waiting = list(TestLoader().loadModule(module))
    while waiting:
        test = waiting.pop(0)
        if hasattr(test, "_testMethodName"):
            if not isinstance(test, ReactorBuilder):
                yield test
        else:
            waiting[:0] = list(test)


def name_of(module: str, test: Any) -> str:
    """Name a case without naming a reactor."""
    kind = type(test).__name__
    for suffix in ("_on_uvloopTests", "_on_asyncioTests", "_EPollReactorTests"):
        kind = kind.removesuffix(suffix)
    return f"{module.rpartition('.')[2]}.{kind}.{test._testMethodName}"


def make_reporter(module: str) -> Any:
    """Return a reporter that prints each outcome as JSON."""
    from twisted.trial.reporter import TestResult

    class Reporter(TestResult):
        def stopTest(self, test: Any) -> None:
            super().stopTest(test)
            outcome, detail = "passed", ""
            faults = [*self.errors, *self.failures]
            if faults:
                outcome, detail = "failed", "\n".join(str(each[1]) for each in faults)[-3000:]
            elif self.skips:
                outcome, detail = "skipped", str(self.skips[-1][1])
            elif self.expectedFailures:  # a case that Twisted itself marks as `todo`, and that behaves so
                outcome, detail = "passed", ""
            self.errors, self.failures, self.skips, self.expectedFailures = [], [], [], []
            print("\ncase " + json.dumps({"name": name_of(module, test), "outcome": outcome, "detail": detail}), flush=True)

    return Reporter()


# The document


def document(results: dict[tuple[str, str], list[dict[str, str]]]) -> str:
    """Return docs/reactor.md."""
    rows = []
    for (module, loop), cases in results.items():
        counts = Counter(each["outcome"] for each in cases)
        rows.append(f"| {module} | {loop} | {len(cases)} | {counts['passed']} | {counts['adapted']} | {counts['skipped']} |")
    reasons: dict[tuple[str, str], list[str]] = {}
    for cases in results.values():
        for each in cases:
            if each["outcome"] != "passed":
                kind = "adapted" if each["outcome"] == "adapted" else "skipped"
                reasons.setdefault((kind, " ".join(each["detail"].split())), []).append(f"{each['name']} ({each['loop']})")
    lines = [
        "# The reactor, judged by Twisted's own test cases", "",
        "Written by `python tests/conformance/twisted_reactor.py --write-docs`; do not edit.", "",
        f"Python {platform.python_version()}, Twisted {version('twisted')}, uvloop {version('uvloop')}, {platform.system()}.", "",
        "In the modules of `twisted.internet.test` up to test_unix each case builds a reactor of its own (`ReactorBuilder`), here ours;",
        "the others run on ours as the installed reactor, as with `trial --reactor=uvloop`.", "",
        "| module | loop | cases | passed | adapted | skipped |", "|---|---|---:|---:|---:|---:|", *rows, "",
        "## What is adapted or skipped, and why", "",
    ]  # fmt: skip
    for (kind, reason), names in sorted(reasons.items()):
        lines += [f"- **{kind}**: {reason}", *(f"  - `{each}`" for each in sorted(set(names)))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
