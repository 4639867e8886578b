"""One connection: bytes from a transport into a session, and back. Floor 5; the only server package that knows Autobahn.

Autobahn owns the semantics of frames, compression and the incremental check of UTF-8. This package owns everything else: the opening
handshake (``handshake.py`` judges the request, Autobahn never sees it), assembly of messages and their bounds, the close handshake and its
deadlines, the bounds on output. What of Autobahn is overridden, and why, stands at each place.

Laws of this package:

- A connection has one ``_Stage`` at a time, and in each stage one deadline on the wheel.
- After a failure nothing that the peer sends is looked at or kept (RFC 6455 section 7.1.7): it is read, so that our close frame is not
  lost to a TCP reset, and thrown away.
- Every end goes through ``_finish`` or ``abort``; ``connectionLost`` is the one place where a session is told.
"""

from __future__ import annotations

from twistedws.protocol.connection import ServerProtocol, SiteFactory
from twistedws.protocol.site import Observer, Site, Turn

__all__ = ["Observer", "ServerProtocol", "Site", "SiteFactory", "Turn"]
