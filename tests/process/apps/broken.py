"""Answers as ``whoami`` does; while the file ``broken`` is in the current directory, it cannot be imported."""

from pathlib import Path

from whoami import App  # type: ignore[import-not-found] # the tests' applications lie in the server's --app-dir

__all__ = ["App"]

if Path("broken").exists():
    raise ImportError("no module named 'database'")
