"""twistedws with the compiled hot path of ``bench/compiled`` in place of its own: the application ``compiled:Echo``."""

from __future__ import annotations

import hot_path  # type: ignore[import-not-found]  # bench/environment.py compiles it
from ours import Echo as Echo  # type: ignore[import-not-found]  # beside this file

from twistedws.protocol import ServerProtocol
from twistedws.session import Session

ServerProtocol.dataReceived = hot_path.data_received  # type: ignore[method-assign]
ServerProtocol.send = hot_path.send  # type: ignore[method-assign]
Session.send = hot_path.session_send  # type: ignore[method-assign]
