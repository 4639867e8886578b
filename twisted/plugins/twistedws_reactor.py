"""Makes ``twistd --reactor=uvloop`` known."""

from twisted.application.reactors import Reactor

uvloop = Reactor("uvloop", "twistedws.reactor", "asyncio based reactor on uvloop, whose servers use uvloop's own transports (twistedws).")
