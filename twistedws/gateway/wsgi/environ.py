"""What a WSGI application is told of a request: its ``environ`` (PEP 3333). Floor 6."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.logger import Logger

from twistedws.exchange import Endpoints
from twistedws.handshake import Request

_log = Logger()

Environ = dict[str, Any]

# Whoever could send X_Forwarded_For beside a proxy's X-Forwarded-For would be believed: both become HTTP_X_FORWARDED_FOR. Such a name
# is left out, as gunicorn and nginx do. The three of the body are said otherwise; HTTP_PROXY is a variable that HTTP clients go by.
_LEFT_OUT = frozenset({b"content-type", b"content-length", b"transfer-encoding", b"proxy"})


class ErrorStream:
    """``wsgi.errors``: each line is one of the log."""

    def write(self, text: str) -> int:
        """Log a text, line by line; frameworks write tracebacks here."""
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors: {type(text).__name__}: str is accepted")
        for line in text.splitlines():
            if line.strip():
                _log.error("wsgi.errors: {line}", line=line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Log several texts as one."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Nothing waits here."""


_ERRORS = ErrorStream()


def environ_of(request: Request, endpoints: Endpoints, root_path: str, body: Any = None, length: int | None = None) -> Environ:
    """Return the environ of a request.

    Args:
        request: The request.
        endpoints: Who has sent it, and to whom.
        root_path: ``SCRIPT_NAME``: the path below which a proxy serves the application, and which it strips.
        body: ``wsgi.input``; None for an empty one.
        length: Of the body, in bytes; None if there is none.
    """
    server, client = endpoints.server, endpoints.client
    scheme = "https" if endpoints.secure else "http"
    environ: Environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": root_path.encode().decode("latin-1"),
        "PATH_INFO": unquote_to_bytes(request.raw_path).decode("latin-1"),
        "QUERY_STRING": request.query_string.decode("latin-1"),
        "RAW_URI": request.target,  # as gunicorn says it
        "REQUEST_URI": request.target,
        "SERVER_SOFTWARE": "twistedws",
        "SERVER_PROTOCOL": f"HTTP/{request.version}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input": io.BytesIO() if body is None else body,
        "wsgi.input_terminated": True,  # it ends where the body does, whatever CONTENT_LENGTH says
        "wsgi.errors": _ERRORS,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if client is not None and client[1] is not None:
        environ["REMOTE_ADDR"] = client[0]
        if client[1]:  # a proxy may not tell
            environ["REMOTE_PORT"] = str(client[1])
    else:
        environ["REMOTE_ADDR"] = ""  # of a UNIX socket
    for name, value in request.headers:
        if b"_" in name or name in _LEFT_OUT:
            continue
        key, text = "HTTP_" + name.decode("latin-1").upper().replace("-", "_"), value.decode("latin-1")
        if key in environ:
            text = f"{environ[key]}{'; ' if name == b'cookie' else ','}{text}"
        environ[key] = text
    content_type = request.header("content-type")
    if content_type is not None:
        environ["CONTENT_TYPE"] = content_type
    if length is not None:
        environ["CONTENT_LENGTH"] = str(length)
    if server is not None and server[1] is not None:
        environ["SERVER_NAME"], environ["SERVER_PORT"] = server[0], str(server[1])
    else:  # of a UNIX socket; neither may be empty
        host, _, port = (request.header("host") or "localhost").rpartition(":")
        if not host or (port and not port.isdigit()):  # no port, and colons at most in an address
            host, port = request.header("host") or "localhost", ""
        environ["SERVER_NAME"], environ["SERVER_PORT"] = host, port or ("443" if endpoints.secure else "80")
    return environ
