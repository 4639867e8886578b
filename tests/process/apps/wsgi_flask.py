"""A Flask application for gevent-websocket: Flask's own routes, and routes of Flask-Sockets' kind.

Flask-Sockets 0.2.1, its last release (2016), finds no route of its own with Werkzeug 2 or later, under any server
(https://github.com/heroku-python/flask-sockets/issues/81). ``Sockets`` is what people put in its place: the same, with its rules marked
as those of WebSockets, as https://github.com/heroku-python/flask-sockets/pull/82 has it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Response, abort, jsonify, request, session
from geventwebsocket import WebSocketError
from werkzeug.exceptions import NotFound
from werkzeug.routing import Map, Rule

from tests.process.apps.wsgi_handlers import HANDLERS, announce, arrived, broken, chunks, echo, raises, told

View = Callable[..., None]


class Sockets:
    """Routes of WebSockets beside those of a Flask application."""

    def __init__(self, flask: Flask) -> None:
        self.url_map = Map()
        self._flask, self._app = flask, flask.wsgi_app
        flask.wsgi_app = self  # type: ignore[method-assign]

    def route(self, rule: str) -> Callable[[View], View]:
        """Make a function of the WebSocket a route."""

        def register(view: View) -> View:
            self.url_map.add(Rule(rule, endpoint=view, websocket=True))
            return view

        return register

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        adapter = self.url_map.bind_to_environ(environ)
        try:
            view, values = adapter.match()
            ws = environ["wsgi.websocket"]
        except (NotFound, KeyError):
            return self._app(environ, start_response)
        with self._flask.app_context(), self._flask.request_context(environ):
            view(ws, **values)
        return []


app = Flask(__name__)
app.secret_key = "of a test"
sockets = Sockets(app)


@sockets.route("/sockets/echo")
def sockets_echo(ws: Any) -> None:
    echo(ws, "")


@sockets.route("/sockets/rooms/<int:number>")
def sockets_room(ws: Any, number: int) -> None:
    ws.send(f"room {number + 1}, {request.args['name']}, {request.cookies['seen']}, {request.headers['X-Tag']}, {dict(session)}")


@sockets.route("/sockets/raises")
def sockets_raises(ws: Any) -> None:
    raises(ws, "")


@app.route("/<name>", websocket=True)
def handle(name: str) -> str:
    if name not in HANDLERS:
        abort(404)
    with contextlib.suppress(WebSocketError):  # the peer has gone
        HANDLERS[name](request.environ["wsgi.websocket"], request.args.get("visit", ""))
    return ""


@app.route("/denied", websocket=True)
def denied() -> str:
    abort(401)


@app.route("/unavailable", websocket=True)
def unavailable() -> str:
    abort(503)


@app.route("/unmarked")
def unmarked() -> str:
    """A route from before Werkzeug 2, which does not say that it is one of WebSockets."""
    echo(request.environ["wsgi.websocket"], "")
    return ""


@app.route("/environ", websocket=True)
def environ() -> str:
    told_of = f"{request.path} {request.args['name']} {request.cookies['seen']} {request.headers['X-Tag']} {request.scheme} {request.host}"
    request.environ["wsgi.websocket"].send(told_of.replace(request.host, "HOST"))
    return ""


@app.route("/")
def page() -> str:
    return "<h1>hello</h1>"


@app.route("/items", methods=["POST"])
def items() -> tuple[Response, int]:
    return jsonify(request.get_json()), 201


@app.route("/upload", methods=["POST"])
def upload() -> str:
    return hashlib.sha256(request.get_data()).hexdigest()


@app.route("/stream")
def stream() -> Response:
    return Response((f"{number}\n" for number in range(100)), mimetype="text/plain")


@app.route("/endless/<visit>")
def endless(visit: str) -> Response:
    return Response(chunks(visit), mimetype="text/plain")


@app.route("/breaks/<visit>")
def breaks(visit: str) -> Response:
    return Response(broken(visit), mimetype="text/plain")


@app.route("/arrived/<visit>")
def let_break(visit: str) -> str:
    return arrived(visit)


@app.route("/failing")
def failing() -> str:
    raise RuntimeError("secret")


@app.route("/announce", methods=["POST"])
def announced() -> str:
    announce(request.get_data(as_text=True))
    return "announced"


@app.route("/told/<visit>")
def tell(visit: str) -> str:
    return told.get(visit, "")


@app.route("/echo")
def expected() -> str:
    abort(400, "Expected a WebSocket request.")
