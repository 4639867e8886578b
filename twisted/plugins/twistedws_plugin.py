"""Makes ``twistd twistedws`` known; everything else is in ``twistedws.tap``, imported only when it is chosen."""

from twisted.application.service import ServiceMaker

twistedws = ServiceMaker("twistedws", "twistedws.tap", "A WebSocket server for long-lived connections.", "twistedws")
