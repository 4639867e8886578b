"""Flask with WebSockets as gevent-websocket gives them: boards that are read over a WebSocket and written over HTTP.

pip install flask
twistd -n twistedws --port 8000 --app-dir examples flask_ws:app
curl http://127.0.0.1:8000/boards/tea --json '{"text": "the kettle is on"}'        while a WebSocket is at ws://127.0.0.1:8000/boards/tea

It runs unchanged under gunicorn, too:
gunicorn --chdir examples --worker-class geventwebsocket.gunicorn.workers.GeventWebSocketWorker flask_ws:app
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

from flask import Flask, Response, abort, jsonify, request

try:
    from geventwebsocket import WebSocketError
except ImportError:  # it is not needed here; where it is installed, its name goes on to work
    from twistedws import WebSocketError

app = Flask(__name__)
readers: defaultdict[str, set[Any]] = defaultdict(set)  # the WebSockets at each board
lock = threading.Lock()


@app.route("/boards/<name>", websocket=True)  # without websocket=True, Werkzeug answers a WebSocket request with 400
def read_board(name: str) -> str:
    """Show a board for as long as the reader stays; what a reader sends is for the others."""
    ws = request.environ["wsgi.websocket"]
    with lock:
        readers[name].add(ws)
    try:
        ws.send(f"This is the board {name}.")
        while (message := ws.receive()) is not None:
            publish(name, f"{request.args.get('name', 'somebody')}: {message}")
    except WebSocketError:  # gone while something was sent
        pass
    finally:
        with lock:
            readers[name].discard(ws)
            if not readers[name]:
                del readers[name]
    return ""  # Flask wants an answer; the WebSocket is closed with 1000 unless it says an error


@app.get("/boards")
def list_boards() -> Response:
    """How many read which."""
    with lock:
        return jsonify({name: len(board) for name, board in readers.items()})


@app.post("/boards/<name>")
def write_board(name: str) -> tuple[Response, int]:
    """Write on a board, from a plain request."""
    text = request.get_json().get("text")
    if not isinstance(text, str):
        abort(400, "text: a string is needed")
    return jsonify(told=publish(name, text)), 201


def publish(name: str, text: str) -> int:
    """Send to all who read a board; return how many that were."""
    with lock:
        present = list(readers.get(name, ()))
    told = 0
    for ws in present:
        try:
            ws.send(text)
            told += 1
        except WebSocketError:  # it has gone, and its own thread will see it
            pass
    return told
