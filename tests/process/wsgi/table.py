"""What is to come of each scenario under gunicorn with gevent-websocket's worker and under this server, and why where they differ."""

from __future__ import annotations

from dataclasses import dataclass

NO_CODE = "closed without a code"
GUNICORN, OURS = "gunicorn", "twistedws"

_EMPTY = "gevent-websocket closes without a code however an application has ended; here the code says how"
_CLOSE_FRAME = "gevent-websocket leaves the code out of its close frames, so that a reason's first two bytes stand where a code is read"
_FAULT = "gevent-websocket leaves the code out, here it says what was wrong; the application sees the same"
_STATUS = "the 101 has been answered before the application is called, as gevent-websocket does it; here its status still shows in the code"
_THREADS = "what is gevent's goes on while a greenlet waits in gevent, and here receive() waits in a thread of its own"
_READER = "gevent-websocket reads only while the application receives; here frames are read all the time"


@dataclass(frozen=True, slots=True)
class Expected:
    """The outcomes of a scenario.

    Attributes:
        gunicorn: Under gunicorn with gevent-websocket's worker.
        twistedws: Under this server.
        why: Where they differ, why.
    """

    gunicorn: str
    twistedws: str
    why: str = ""

    def under(self, server: str) -> str:
        """The outcome under ``GUNICORN`` or under ``OURS``."""
        return self.gunicorn if server == GUNICORN else self.twistedws


def _same(outcome: str) -> Expected:
    return Expected(outcome, outcome)


_ENVIRON = (
    "REQUEST_METHOD 'GET', SCRIPT_NAME '', PATH_INFO '/environ Ã©', QUERY_STRING 'name=%C3%A9&x', SERVER_PROTOCOL 'HTTP/1.1', "
    "REMOTE_ADDR '127.0.0.1', HTTP_COOKIE 'seen=1', HTTP_ORIGIN 'ORIGIN', HTTP_X_TAG 'a,b', wsgi.url_scheme 'http', "
    "wsgi.version [1, 0], wsgi.multithread True, wsgi.run_once False, wsgi.websocket_version '13'"
)
_HTTP_ENVIRON = (
    "REQUEST_METHOD 'POST', SCRIPT_NAME '', PATH_INFO '/environ Ã©', QUERY_STRING 'name=%C3%A9', SERVER_PROTOCOL 'HTTP/1.1', "
    "REMOTE_ADDR '127.0.0.1', HTTP_COOKIE 'seen=1', HTTP_X_TAG 'a,b', CONTENT_TYPE 'text/x', CONTENT_LENGTH '5', "
    "wsgi.url_scheme 'http', wsgi.version [1, 0], wsgi.multithread True, wsgi.run_once False"
)
_CHAT = (
    '{"clients": 1}; {"clients": 2}; {"here": ["Ann", "anonymous"]}; {"here": ["Ann", "Bob"]}; {"from": "Bob", "said": "hello"}; '
    '{"from": "Bob", "said": "hello"}; {"here": ["Bob"]}; on_message(None), on_close(None)'
)
_AFTER_THE_END = "received None, closed, receive raised WebSocketError, send raised WebSocketError"

EXPECTED: dict[str, Expected] = {
    "echo: text": _same("the same comes back"),
    "echo: binary": _same("the same comes back"),
    "echo: a message of 200 KiB": _same("the same comes back"),
    "echo: 100 messages sent ahead": _same("the same comes back"),
    "echo: a message in fragments, with a ping between": _same("pong between, text 1 €!"),
    "types: what receive() returns": _same("text str, binary bytearray"),
    "types: what send() sends": _same("[b'bytes', b'bytearray', b'binary', 'text', 'text']"),
    "handshake: what the WebSocket tells": _same("path '/environ Ã©', origin 'ORIGIN', protocol 'one, two', version '13'"),
    "handshake: what the environ tells": _same(_ENVIRON),
    "handshake: path, query, cookie and headers": _same("/environ é 1 a http HOST"),
    "handshake: a subprotocol is offered": _same("None is selected"),
    "handshake: version 12": Expected("400", "426", "RFC 6455 section 4.4 asks for 426, with the versions that would be accepted"),
    "handshake: without a key": _same("400"),
    "handshake: by POST": Expected("400", "405", "gevent-websocket gives it to the application as a plain request"),
    "a message of 8 MiB to the client": _same("8388608 bytes"),
    "a client that reads late": _same("2000 messages of 4 KiB in order, HTTP meanwhile 200"),
    "200 clients at once": _same("200 echoes"),
    "chat with a global set of sockets": _same("['hello', 'hello', 'hello'], ['2 here', '2 here'], 1 here"),
    "chat: an HTTP request sends to the sockets": _same("announced: dinner"),
    "waiting for another client, with threading.Event": _same("met"),
    "a call that blocks in C: a locked SQLite database": Expected(
        "the one that waits: database is locked",
        "the one that waits: done",
        "in gevent's one thread the call keeps everybody waiting, also the one who would unlock the database; "
        "here each WebSocket has a thread",
    ),
    "a second thread sends": _same("['worked on a', 'worked on b', 'worked on c'], its send after the end raised WebSocketError"),
    "a thread outlives the application's call, and sends": Expected(
        f"{NO_CODE}, send raised WebSocketError", "closed with 1000, send raised WebSocketError", _EMPTY
    ),
    "a greenlet of gevent's sends while the application receives": Expected(
        "1 of 1 messages in 50 exchanges",
        "0 of 1 messages in 50 exchanges",
        f"{_THREADS}; such an application takes threading.Thread in place of gevent.spawn",
    ),
    "gevent.Timeout around receive()": Expected(
        "nothing in time", "too late", f"{_THREADS}; such an application has the client, or a thread that closes, end the wait"
    ),
    "the application pings with send_frame()": _same("ping, text hello"),
    "never receives: the client pings": Expected("no pong within 100 messages", "a pong comes", _READER),
    "never receives: the client closes": Expected(
        "100 messages come behind the close, send raised WebSocketError", "the close is answered, send raised WebSocketError", _READER
    ),
    "never receives: the connection is cut": _same("send raised WebSocketError"),
    "never receives, `while not ws.closed` and gevent.sleep(): the connection is cut": _same("the loop ended"),
    "the client closes: what the application sees": _same(f"received 'last', {_AFTER_THE_END}"),
    "the client is cut: what the application sees": _same(_AFTER_THE_END),
    "the client closes: the application sends on what it received, None": _same("WebSocketError ends it"),
    "the client closes with 4001 and a reason: what comes back": Expected(
        "closed with a frame that is not valid", "closed with 4001", _CLOSE_FRAME
    ),
    "the client closes with 1000 and no reason: what comes back": Expected(NO_CODE, "closed with 1000", _CLOSE_FRAME),
    "the client closes without a code: what comes back": _same(NO_CODE),
    "the application keeps sending after the client has closed": _same("send raised WebSocketError"),
    "the application keeps sending after the client was cut": _same("send raised WebSocketError"),
    "the application returns at once": Expected(NO_CODE, "closed with 1000", _EMPTY),
    "the application calls close()": Expected(
        f"{NO_CODE}; twice is no error: closed", "closed with 1000; twice is no error: closed", _CLOSE_FRAME
    ),
    "the application calls close(4001)": Expected(NO_CODE, "closed with 4001", _CLOSE_FRAME),
    "the application calls close(4001, 'enough')": Expected(
        "closed with a frame that is not valid", "closed with 4001 enough", _CLOSE_FRAME
    ),
    "the application raises at once": Expected(NO_CODE, "closed with 1011", _EMPTY),
    "the application raises behind a message": Expected(NO_CODE, "closed with 1011", _EMPTY),
    "abort(401) in answer to a WebSocket": Expected(NO_CODE, "closed with 1008", _STATUS),
    "404 in answer to a WebSocket": Expected(NO_CODE, "closed with 1008", _STATUS),
    "abort(503) in answer to a WebSocket": Expected(NO_CODE, "closed with 1011", _STATUS),
    "a route without websocket=True": Expected(
        NO_CODE, "closed with 1008", "since Werkzeug 2 a route is one of WebSockets only if it says so, and the answer is 400 otherwise"
    ),
    "the client sends text that is not UTF-8": Expected(
        f"{NO_CODE}, the application received None", "closed with 1007, the application received None", _FAULT
    ),
    "the client sends a reserved opcode": Expected(
        f"{NO_CODE}, the application received None", "closed with 1002, the application received None", _FAULT
    ),
    "the client sends a frame that is not masked": Expected(
        "the message is taken", "closed with 1002, the application received None", "RFC 6455 section 5.1 asks a server to close then"
    ),
    "the client sends a message of 2 MiB": Expected(
        "the message is taken",
        "closed with 1009, the application received None",
        "gevent-websocket has no bound; here it is `--max-message-size`",
    ),
    "Flask-Sockets: a route": _same("the same comes back"),
    "Flask-Sockets: a value in the path, and request and session in the handler": Expected(
        f"room 8, é, 1, a, {{}}, {NO_CODE}", "room 8, é, 1, a, {}, closed with 1000", _EMPTY
    ),
    "Flask-Sockets: a handler raises": Expected(NO_CODE, "closed with 1011", _EMPTY),
    "Resource: a chat with active_client and server.clients": _same(_CHAT),
    "Resource: WebSocketApplication as it is": _same("the same comes back"),
    "Resource: a subprotocol with a protocol class": _same("lines.v1 is selected; 3 True, 5 True"),
    "Resource: on_message raises": Expected(NO_CODE, "closed with 1011", _EMPTY),
    "Resource: a path of none of its applications": Expected(NO_CODE, "closed with 1011", _EMPTY),
    "Resource: a page over HTTP": _same("200 text/html; charset=utf-8: <h1>chat</h1>"),
    "HTTP: a page": _same("200 text/html; charset=utf-8: <h1>hello</h1>"),
    "HTTP: HEAD": _same("200, 14 bytes, 0 of them sent"),
    "HTTP: JSON is posted": _same("201 application/json: {'name': 'é', 'price': 1.5}"),
    "HTTP: 1 MiB is posted": _same("it arrives"),
    "HTTP: 1 MiB is posted in chunks": _same("it arrives"),
    "HTTP: 1 MiB is posted in chunks, to Bottle": Expected(
        "400",
        "it arrives",
        "gevent takes the chunks apart and still says `Transfer-Encoding: chunked`, so that Bottle looks for chunks once more",
    ),
    "HTTP: a response in pieces": _same("200 chunked, 100 lines"),
    "HTTP: the client leaves in the middle of a response": _same("the response was closed"),
    "HTTP: start_response() gives write()": _same("200 text/plain: written twice, then returned"),
    "HTTP: the application raises": _same("500, without a word of the exception"),
    "HTTP: the application raises in the middle of a response": _same("200 begun, then cut"),
    "HTTP: 404": _same("404"),
    "HTTP: a plain request for a WebSocket's path": _same("400"),
    "HTTP: what the application is told": _same(_HTTP_ENVIRON),
}
