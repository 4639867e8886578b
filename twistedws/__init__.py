"""A production WebSocket server for long-lived connections, on Twisted and Autobahn.

The names here are what an application uses. The server itself is started with ``twistd -n twistedws``.
"""

from twistedws.errors import By, Cause, Close, Closed, Refused
from twistedws.fanout import fan_out
from twistedws.gateway.coroutine import AsyncSession
from twistedws.session import Application, Handler, Session, application

__version__ = "0.1.0"

__all__ = ["Application", "AsyncSession", "By", "Cause", "Close", "Closed", "Handler", "Refused", "Session", "application", "fan_out"]
