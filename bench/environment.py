"""What is built before anything can be measured, all of it below ``.tools/bench``: the peers and the load generator.

A part that cannot be had is an ``Unavailable`` with the reason, which becomes the row of whatever needs it.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
PLACE = ROOT / ".tools" / "bench"
LOGS = PLACE / "logs"
COMPILED = PLACE / "compiled"
NODE_PACKAGES = ("ws@8.23.0", "bufferutil@4.1.0")  # bufferutil: unmasking in C, as ws's README recommends


class Unavailable(Exception):
    """Something that a measurement needs is not there; the text says what and why."""


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{what}: {' / '.join(done.stdout.strip().splitlines()[-3:]) or f'status {done.returncode}'}")


def _is_built(stamp: Path, *inputs: bytes) -> bool:
    """Tell whether the stamp says that it was made from these inputs."""
    return stamp.is_file() and stamp.read_text() == _digest(*inputs)


def _digest(*inputs: bytes) -> str:
    return hashlib.sha256(b"\0".join(inputs)).hexdigest()


@functools.cache
def load_generator() -> Path:
    """Compile ``load.c`` where it has changed, and return the program."""
    source, program, stamp = BENCH / "load.c", PLACE / "load", PLACE / "load.stamp"
    if program.exists() and _is_built(stamp, source.read_bytes()):
        return program
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unavailable("no C compiler (cc, gcc or clang): the load generator, bench/load.c, cannot be built")
    PLACE.mkdir(parents=True, exist_ok=True)
    _run([compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", str(program), str(source), "-lz"], "bench/load.c (does it find zlib.h?)")
    stamp.write_text(_digest(source.read_bytes()))
    return program


@functools.cache
def peers_python() -> Path:
    """Install what ``requirements.txt`` names where that has changed, and return the Python of its environment."""
    requirements, venv = BENCH / "requirements.txt", PLACE / "venv"
    python, stamp = venv / "bin" / "python", venv / "installed.stamp"
    inputs = (requirements.read_bytes(), sys.version.encode())
    if _is_built(stamp, *inputs):
        return python
    print(f"installing the peers into {venv}", file=sys.stderr)
    _run([sys.executable, "-m", "venv", "--clear", str(venv)], "python -m venv")
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    _run([*pip, "--requirement", str(requirements)], "pip install")
    stamp.write_text(_digest(*inputs))
    return python


@functools.cache
def compiled_hot_path(python: Path) -> None:
    """Compile ``compiled/hot_path.pyx`` for a Python where it has changed, into ``COMPILED``."""
    source, stamp = BENCH / "compiled" / "hot_path.pyx", COMPILED / "hot_path.stamp"
    inputs = (source.read_bytes(), str(python).encode())
    if _is_built(stamp, *inputs):
        return
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unavailable("no C compiler (cc, gcc or clang): bench/compiled/hot_path.pyx cannot be built")
    COMPILED.mkdir(parents=True, exist_ok=True)
    c_file = COMPILED / "hot_path.c"
    _run([str(peers_python()), "-m", "cython", "-3", str(source), "-o", str(c_file)], "cython")
    headers = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['include'])"], capture_output=True, text=True, check=True
    ).stdout.strip()
    _run([compiler, "-O3", "-shared", "-fPIC", f"-I{headers}", "-o", str(COMPILED / "hot_path.so"), str(c_file)], "hot_path.c")
    stamp.write_text(_digest(*inputs))


@functools.cache
def node_modules() -> Path:
    """Install ``ws`` where it is missing, and return the folder of the modules."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Unavailable("node or npm is not installed")
    place = PLACE / "node"
    stamp, inputs = place / "installed.stamp", tuple(each.encode() for each in NODE_PACKAGES)
    if not _is_built(stamp, *inputs):
        place.mkdir(parents=True, exist_ok=True)
        _run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(place), *NODE_PACKAGES], "npm install")
        stamp.write_text(_digest(*inputs))
    return place / "node_modules"
