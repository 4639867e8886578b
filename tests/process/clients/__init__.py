"""Real clients, each made to follow the same plan against a server and to report what it saw."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """What a client does: connect, have each message echoed, then end.

    Attributes:
        url: Where.
        protocols: The subprotocols that it asks for.
        compress: Whether it asks for permessage-deflate, where it has a choice.
        messages: Kind ("text" or "binary") and size in bytes of the messages to have echoed, each awaited before the next.
        code: The code to close with after that; None to wait for the server's close instead.
        reason: The reason to close with.
        last: A text, or a number of bytes, sent before that with no echo awaited; None for nothing.
        last_kind: Whether ``last`` bytes are text or binary.
    """

    url: str
    protocols: tuple[str, ...] = ()
    compress: bool = True
    messages: tuple[tuple[str, int], ...] = ()
    code: int | None = 1000
    reason: str = ""
    last: str | int | None = None
    last_kind: str = "text"


@dataclass(frozen=True, slots=True)
class Report:
    """What a client saw.

    Attributes:
        echoed: The messages of the plan that came back the same, in kind and content.
        protocol: The subprotocol agreed on; "" for none.
        compressed: Whether permessage-deflate was agreed on.
        code: The close code that the client was told of: the server's.
        reason: The close reason likewise.
    """

    echoed: tuple[tuple[str, int], ...]
    protocol: str
    compressed: bool
    code: int
    reason: str


Client = Callable[[Plan], Report]


def content(kind: str, size: int) -> str | bytes:
    """A message of a size in bytes: text compresses well and has characters of one to four bytes, binary cannot be compressed."""
    if kind == "binary":
        return random.Random(size).randbytes(size)
    piece = "WebSocket å € 🙂 "
    text = piece * (size // len(piece.encode()))
    return text + "x" * (size - len(text.encode()))
