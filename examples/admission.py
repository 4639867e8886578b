"""Refuses a handshake before it is answered, asynchronously; offers subprotocols; hands what it found to the application.

twistd -n twistedws --app-dir examples admission:app   then connect with the header Authorization: Bearer open-sesame
"""

from __future__ import annotations

import asyncio
import hmac

import twistedws

USERS = {"open-sesame": "ali"}  # an application would ask a database


async def check(session: twistedws.Session) -> None:
    """Raise ``Refused`` unless the bearer is known; the peer's going away meanwhile cancels this."""
    token = (session.request.header("authorization") or "").removeprefix("Bearer ")
    await asyncio.sleep(0.01)  # stands for the question to the database
    for known, user in USERS.items():
        if hmac.compare_digest(known.encode(), token.encode("latin-1", "replace")):
            session.state["user"] = user
            return
    raise twistedws.Refused(401, headers=[("WWW-Authenticate", "Bearer")], body="Who are you?\n")


@twistedws.application(admit=check, subprotocols=("chat.v2", "chat.v1"))
async def app(session: twistedws.AsyncSession) -> None:
    """Greet, then echo."""
    await session.send(f"hello {session.state['user']}, we speak {session.subprotocol}")
    async for message in session:
        await session.send(message)
