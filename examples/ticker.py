"""Numbers pushed to each client as fast as it takes them: awaiting ``send`` waits for a slow one, and raises once it is gone.

twistd -n twistedws --app-dir examples ticker:app      then connect to /?from=10
"""

from __future__ import annotations

import itertools
from urllib.parse import parse_qs

from twistedws import AsyncSession


async def app(session: AsyncSession) -> None:
    """Count for ever; ``Closed``, which ends the loop, needs no handling."""
    start = parse_qs(session.request.query_string.decode("latin-1")).get("from", ["0"])[0]
    if not start.isascii() or not start.isdigit():
        await session.close(4400, "from: a number is accepted")
        return
    for number in itertools.count(int(start)):
        await session.send(str(number))
