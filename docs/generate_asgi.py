"""Rewrite ``docs/asgi.md`` from the tables that the tests play, ``tests/support/asgi_table.py``: ``python docs/generate_asgi.py``.

A unit test holds the two equal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support import asgi_table as table  # noqa: E402 - the tests are no package that is installed

HEAD = """# ASGI messages, one by one

<!-- written by docs/generate_asgi.py from tests/support/asgi_table.py -->

What an application may send and when, what comes of it, and what it receives: ASGI 3.0, the WWW specification 2.5, the lifespan
specification 2.0, and the extensions "Websocket Denial Response" and "Path Send". `tests/unit/asgi` plays every row of it. How to write an
application is in [applications.md](applications.md).

`Disconnected` is an `OSError`. A message that raises has changed nothing: another may follow. What is no message at all, in
words: "no type" has no `type`, "no dict" is no `dict`.
"""


def page() -> str:
    """Return the page."""
    parts = [HEAD, "## WebSocket\n", _words(table.WEBSOCKET_STAGES), "### Every message at every stage\n", _matrix(table.WEBSOCKET_ORDERS)]
    parts.append(f"In this table the client offers the subprotocols {' and '.join(f'`{name}`' for name in table.OFFERS)}.\n")
    for name, rows in (
        ("websocket.accept", table.WEBSOCKET_ACCEPTS),
        ("websocket.send", table.WEBSOCKET_SENDS),
        ("websocket.close", table.WEBSOCKET_CLOSES),
        ("Denial responses", table.WEBSOCKET_DENIALS),
    ):
        parts += [f"### {name}\n", _rows(rows)]
    parts += [
        "### What `websocket.disconnect` says\n",
        _table(
            ("How it ends", "code", "reason"),
            ((how, str(code), "what was wrong" if reason is None else _code(reason)) for how, (code, reason) in _disconnects()),
        ),
        "Messages that came before the end are received first. Who receives again waits, until he is cancelled.\n",
        "### How the application ends\n",
        _ends(table.WEBSOCKET_ENDS),
        "## HTTP\n",
        _words({stage: words for stage, (_, words) in table.HTTP_STAGES.items()}),
        "### Every message at every stage\n",
        _matrix(table.HTTP_ORDERS),
        "Once the peer has gone, every message that would be in order raises `Disconnected`.\n",
    ]
    for name, rows in (
        ("http.response.start", table.HTTP_STARTS),
        ("http.response.body", table.HTTP_BODIES),
        ("http.response.pathsend", (*table.HTTP_FILES, *table.HTTP_BAD_FILES)),
    ):
        parts += [f"### {name}\n", _rows(rows)]
    parts += [
        "A body that is longer than the Content-Length of its response, or ends shorter, raises `ValueError`.\n",
        "### How the application ends\n",
        _ends(table.HTTP_ENDS),
        "## Lifespan\n",
        _table(
            ("`--lifespan`", "The application", "receives", "The start", "The log at the stop", "Why"),
            (
                (
                    life.mode, ", ".join(life.script), ", ".join(life.asked) or "nothing",
                    "goes on" if life.startup is None else f"fails: {_code(life.startup)}", ", ".join(life.shutdown) or "nothing", life.why,
                )
                for life in table.LIVES
            ),
        ),
        "## Scopes\n",
        _table(
            ("Key", "When", "http", "websocket", "Why"),
            (
                (
                    _code(fact.key), fact.when,
                    *(_code(repr(fact.of(kind))) if kind in fact.kinds else "-" for kind in ("http", "websocket")), fact.why,
                )
                for fact in table.SCOPE
            ),
        ),
        "On a UNIX socket `client` is None, and `server` is `(path, None)`. `state` is a shallow copy of the lifespan's.\n",
    ]  # fmt: skip
    return "\n".join(parts)


def _code(text: str) -> str:
    return f"`{text}`" if text else '""'


def _disconnects() -> Iterable[tuple[str, tuple[int, str | None]]]:
    return table.WEBSOCKET_DISCONNECTS.items()


def _words(stages: dict[str, str]) -> str:
    return _table(("Stage", ""), stages.items())


def _matrix(rows: Iterable[table.Row]) -> str:
    """One line for each message, one column for each stage; what is refused everywhere is named below."""
    stages: dict[str, None] = {}
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        stages[row.stage] = None
        found.setdefault(row.message, {})[row.stage] = "-" if row.outcome == table.OUT_OF_ORDER else str(row.outcome)
    refused = [message for message, outcomes in found.items() if set(outcomes.values()) == {"-"}]
    lines = ((message, *(outcomes[stage] for stage in stages)) for message, outcomes in found.items() if message not in refused)
    shown = _table(("Message", *stages), lines)
    return f"{shown}\nA dash: `send` raises `RuntimeError`. So it does at every stage for: {', '.join(refused)}.\n"


def _rows(rows: Iterable[table.Row]) -> str:
    return _table(
        ("When", "Message", "Outcome", "Why"),
        (
            (row.stage + (f", {row.request}" if row.request != "GET" else ""), row.message.strip(), str(row.outcome), row.why)
            for row in rows
        ),
    )


def _ends(ends: Iterable[table.End]) -> str:
    lines = []
    for end in ends:
        said = [f"HTTP {end.status}"] if end.status else ["no answer"]
        said += [f"close {end.code}"] if end.code else []
        said += ["the connection is cut"] if end.cut else []
        lines.append((end.stage, end.how, ", ".join(said), "logged once" if end.logged else ""))
    return _table(("When", "It", "What the peer has in all", ""), lines)


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    whole = [tuple(head), *map(tuple, lines)]
    shown = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in whole]
    shown.insert(1, "|" + "---|" * len(whole[0]))
    return "\n".join(shown) + "\n"


def main() -> None:
    """Rewrite the page."""
    (ROOT / "docs" / "asgi.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
