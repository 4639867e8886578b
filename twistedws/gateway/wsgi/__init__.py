"""A WSGI application (PEP 3333) with WebSockets as gevent-websocket gives them: ``environ['wsgi.websocket']``. Floor 6.

``session_thread.py`` has one session, ``websocket.py`` what the application sees of it, ``http.py`` one plain request, ``threads.py`` what
they run in, ``environ.py`` what the application is told, ``clients.py`` what it may see of the other sessions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from twistedws import config
from twistedws.gateway.wsgi.clients import Server
from twistedws.gateway.wsgi.http import answerer
from twistedws.gateway.wsgi.session_thread import WSGI, Hosted, admission
from twistedws.gateway.wsgi.threads import FromThreads, Relay, Threads
from twistedws.gateway.wsgi.websocket import WebSocket, WebSocketError
from twistedws.metrics import Metrics
from twistedws.session import Application

__all__ = ["WSGI", "WebSocket", "WebSocketError", "wsgi_application"]

# Seconds that a thread which computes keeps Python's lock while the reactor's waits for it. With Python's own, 5 ms, a reply takes 66 ms
# (the median) beside four such threads; with this, 18.
SWITCH_INTERVAL = 0.001
MOST_WAITING = 1000  # plain requests that wait for a thread, with their bodies


def wsgi_application(
    app: WSGI,
    hosting: config.Hosting,
    *,
    threads: config.Threads,
    limits: config.Limits,
    output: config.Output,
    http: config.Http,
    clock: IReactorTime,
    call_from_thread: Callable[[Callable[[], None]], object],
    call_soon: Callable[[Callable[[], None]], object],
    metrics: Metrics,
) -> Application:
    """Make an application of a WSGI application.

    Args:
        app: Called with environ and start_response, in a thread: once for each session and each plain request.
        hosting: How it is hosted.
        threads: In how many threads.
        limits: What may wait for it.
        output: What may wait for a peer, and how long.
        http: Bounds of HTTP requests.
        clock: For threads that run on too long.
        call_from_thread: Has a function called in the reactor's thread; may be called in any.
        call_soon: Has a function called in a coming turn of the loop; may be called in its thread only.
        metrics: Where refusals and such threads are counted.
    """
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL))
    hosted = Hosted(
        app=app,
        turns=FromThreads(call_from_thread),
        relay=Relay(call_soon, clock.callLater),
        threads=Threads(threads.threads, threads.thread_stack_size),
        http_threads=Threads(threads.http_threads, threads.thread_stack_size, least=1, most_waiting=MOST_WAITING),
        most_unsent=output.queue_size or sys.maxsize,
        root_path=hosting.root_path,
        inbox_size=limits.inbox_size,
        late_after=hosting.application_close_timeout,
        clock=clock,
        metrics=metrics,
        server=Server(app),
    )
    admit, build = admission(hosted)
    return Application(
        build,
        hosting.app,
        admit=admit,
        busy=lambda: hosted.threads.busy + hosted.http_threads.busy,
        answerer=answerer(hosted, http, output.write_stall_timeout),
    )
