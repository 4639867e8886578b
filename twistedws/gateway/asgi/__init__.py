"""An ASGI 3 application (https://asgi.readthedocs.io): WebSocket and HTTP by the WWW specification 2.5, lifespan 2.0. Floor 6.

``websocket.py`` and ``http.py`` have one connection, or one request, each; ``lifespan.py`` the process; ``scope.py`` what the application
is told of each.
"""

from __future__ import annotations

from twistedws import config
from twistedws.gateway.asgi.http import answerer
from twistedws.gateway.asgi.lifespan import Lifespan
from twistedws.gateway.asgi.scope import ASGI, Hosted
from twistedws.gateway.asgi.websocket import admission
from twistedws.gateway.pump import Share, Tasks
from twistedws.session import Application

__all__ = ["ASGI", "asgi_application"]


def asgi_application(
    app: ASGI, hosting: config.Hosting, *, limits: config.Limits, output: config.Output, http: config.Http, name: str = ""
) -> Application:
    """Make an application of an ASGI application.

    Args:
        app: Called with scope, receive and send: once for each session and each request, and once for the process.
        hosting: How it is hosted.
        limits: What may wait for it.
        output: What may wait for a peer, and how long.
        http: Bounds of HTTP requests.
        name: For the log; the one in ``hosting`` by default.
    """
    tasks = Tasks(hosting.application_close_timeout)
    lifespan = Lifespan(app, hosting.lifespan, hosting.application_close_timeout)
    hosted = Hosted(
        app=app,
        tasks=tasks,
        share=Share(),
        state=lifespan.state,
        root_path=hosting.root_path,
        inbox_size=limits.inbox_size,
        most_denial=output.queue_size,
    )
    admit, build = admission(hosted)
    return Application(
        build,
        name or hosting.app,
        admit=admit,
        busy=lambda: len(tasks),
        answerer=answerer(hosted, http, output.write_stall_timeout),
        startup=lifespan.startup,
        shutdown=lifespan.shutdown,
    )
