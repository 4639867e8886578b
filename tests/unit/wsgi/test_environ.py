"""What a WSGI application is told of a request: each key of its environ (PEP 3333)."""

from __future__ import annotations

import io
from typing import Any
from wsgiref.validate import check_environ  # type: ignore[attr-defined]  # the validator without its wrapper, which nothing describes

import pytest
from twisted.logger import capturedLogs

from tests.support.asgi import ENDPOINTS, parsed
from twistedws.exchange import Endpoints
from twistedws.gateway.wsgi.environ import Environ, environ_of

UNIX = Endpoints(None, ("/run/app.sock", None), False)
TLS = Endpoints(("2001:db8::1", 5), ("2001:db8::80", 443), True)


def environ(
    *lines: bytes,
    method: bytes = b"GET",
    target: bytes = b"/",
    version: bytes = b"1.1",
    host: bytes | None = b"example.com",
    endpoints: Endpoints = ENDPOINTS,
    **more: Any,
) -> Environ:
    """The environ of a request."""
    hosts = () if host is None else (b"Host: " + host,)
    head = b"\r\n".join([b"%b %b HTTP/%b" % (method, target, version), *hosts, *lines, b"", b""])
    return environ_of(parsed(head), endpoints, more.pop("root_path", ""), **more)


def test_keys() -> None:
    """An environ of the plainest request has the keys of PEP 3333, and those that gunicorn gives beside them, and no others."""
    found = environ()
    assert isinstance(found.pop("wsgi.input"), io.BytesIO)
    assert callable(found.pop("wsgi.errors").write)
    assert found == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "RAW_URI": "/",
        "REQUEST_URI": "/",
        "SERVER_SOFTWARE": "twistedws",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "192.0.2.80",
        "SERVER_PORT": "80",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "5",
        "HTTP_HOST": "example.com",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input_terminated": True,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(environ(), id="plain"),
        pytest.param(environ(endpoints=TLS), id="TLS"),
        pytest.param(environ(endpoints=UNIX), id="UNIX socket"),
        pytest.param(environ(endpoints=UNIX, version=b"1.0", host=None), id="UNIX socket, no Host"),
        pytest.param(environ(target=b"/a%20b?x=%2F", root_path="/r\u00f6ot"), id="root path"),
        pytest.param(environ(b"Content-Type: text/plain", b"Content-Length: 2", method=b"POST", length=2), id="body"),
        pytest.param(environ(b"Cookie: a=1", b"Cookie: b=2", b"X-A: \xe9"), id="headers"),
    ],
)
def test_valid(found: Environ) -> None:
    """The standard library's validator has nothing to say against an environ."""
    check_environ(found)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a/b", "/a/b", ""),
        (b"/a%20b?c%20d", "/a b", "c%20d"),
        (b"/%E2%82%AC", "/\xe2\x82\xac", ""),
        (b"/a%2Fb", "/a/b", ""),
        (b"/%25?", "/%", ""),
        (b"/?a?b", "/", "a?b"),
        (b"http://example.com/x?y", "/x", "y"),
    ],
)
def test_path(target: bytes, path: str, query: str) -> None:
    """The path is percent-decoded, its bytes as characters; query and target are as they were sent."""
    found = environ(target=target)
    assert (found["PATH_INFO"], found["QUERY_STRING"]) == (path, query)
    assert found["RAW_URI"] == found["REQUEST_URI"] == target.decode()


def test_root_path() -> None:
    """The path below which a proxy serves the application is its SCRIPT_NAME, in UTF-8 whose bytes are characters."""
    found = environ(target=b"/a", root_path="/r\u00f6ot")
    assert (found["SCRIPT_NAME"], found["PATH_INFO"]) == ("/r\xc3\xb6ot", "/a")


@pytest.mark.parametrize(("method", "version"), [(b"GET", b"1.1"), (b"POST", b"1.0"), (b"BREW", b"1.1"), (b"get", b"1.1")])
def test_method_and_version(method: bytes, version: bytes) -> None:
    """The method is as it was sent, and the version is the client's."""
    found = environ(method=method, version=version)
    assert (found["REQUEST_METHOD"], found["SERVER_PROTOCOL"]) == (method.decode(), f"HTTP/{version.decode()}")


def test_headers() -> None:
    """A header is there by its name in upper case, its bytes as characters."""
    found = environ(b"X-Some-Thing: caf\xc3\xa9", b"user-agent: a b", b"X1.2: three", b"X-Empty:")
    assert found["HTTP_X_SOME_THING"] == "caf\xc3\xa9"
    assert found["HTTP_USER_AGENT"] == "a b"
    assert found["HTTP_X1.2"] == "three"
    assert found["HTTP_X_EMPTY"] == ""


def test_repeated_headers() -> None:
    """Headers of one name are joined, cookies by their own separator."""
    found = environ(b"X-A: 1", b"Cookie: a=1", b"x-a: 2", b"cookie: b=2", b"X-A: 3", b"COOKIE: c=3")
    assert found["HTTP_X_A"] == "1,2,3"
    assert found["HTTP_COOKIE"] == "a=1; b=2; c=3"


def test_underscores() -> None:
    """A header with an underscore, which could pass for one with a hyphen, is not there at all."""
    found = environ(b"X-Forwarded_For: 6.6.6.6", b"X-Forwarded-For: 192.0.2.7", b"X_A: 1", b"Content_Length: 1", b"Content_Type: x")
    assert found["HTTP_X_FORWARDED_FOR"] == "192.0.2.7"
    assert {key for key in found if key.startswith(("HTTP", "CONTENT"))} == {"HTTP_HOST", "HTTP_X_FORWARDED_FOR"}


def test_content() -> None:
    """What a body is has keys of its own, and how it came none: its length is that of what can be read."""
    body = io.BytesIO(b"abc")
    found = environ(b"Content-Type: text/plain", b"Transfer-Encoding: chunked", method=b"POST", body=body, length=3)
    assert (found["CONTENT_TYPE"], found["CONTENT_LENGTH"]) == ("text/plain", "3")
    assert found["wsgi.input"] is body
    assert {key for key in found if key.startswith("HTTP")} == {"HTTP_HOST"}
    sized = environ(b"Content-Length: 4", method=b"POST", body=io.BytesIO(b"abcd"), length=4)
    assert sized["CONTENT_LENGTH"] == "4"
    assert "HTTP_CONTENT_LENGTH" not in sized
    assert environ(length=0)["CONTENT_LENGTH"] == "0"


def test_no_content() -> None:
    """Where there is no body its keys are not there, and nothing can be read."""
    found = environ()
    assert not {"CONTENT_TYPE", "CONTENT_LENGTH"} & set(found)
    assert found["wsgi.input"].read() == b""


def test_tls() -> None:
    """Over TLS the scheme is https."""
    found = environ(endpoints=TLS)
    assert (found["wsgi.url_scheme"], found["SERVER_NAME"], found["SERVER_PORT"]) == ("https", "2001:db8::80", "443")
    assert (found["REMOTE_ADDR"], found["REMOTE_PORT"]) == ("2001:db8::1", "5")


@pytest.mark.parametrize(
    ("host", "secure", "expected"),
    [
        (b"example.com", False, ("example.com", "80")),
        (b"example.com", True, ("example.com", "443")),
        (b"example.com:8080", True, ("example.com", "8080")),
        (b"[2001:db8::1]", False, ("[2001:db8::1]", "80")),
        (b"[2001:db8::1]:99", False, ("[2001:db8::1]", "99")),
        (None, True, ("localhost", "443")),
    ],
)
def test_unix_socket(host: bytes | None, secure: bool, expected: tuple[str, str]) -> None:
    """Behind a UNIX socket the server is what the client calls it, with the port of its scheme; the client has no address."""
    found = environ(host=host, version=b"1.1" if host is not None else b"1.0", endpoints=Endpoints(None, ("/run/app.sock", None), secure))
    assert (found["SERVER_NAME"], found["SERVER_PORT"]) == expected
    assert found["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in found


def test_client_of_a_unix_socket() -> None:
    """A client whose address is a path has none."""
    found = environ(endpoints=Endpoints(("/tmp/client", None), ("/run/app.sock", None), False))
    assert found["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in found


def test_behind_a_proxy() -> None:
    """The client is the one that a trusted proxy names, which may not tell its port."""
    found = environ(endpoints=Endpoints(("203.0.113.7", 0), ("/run/app.sock", None), True))
    assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == ("203.0.113.7", "https")
    assert "REMOTE_PORT" not in found


def test_errors() -> None:
    """What is written to ``wsgi.errors`` is in the log, line by line, and nothing for an empty one; bytes are refused."""
    stream = environ()["wsgi.errors"]
    with capturedLogs() as events:
        assert stream.write("one\n") == 4
        assert stream.write("\n") == 1
        stream.writelines(["two, ", "three\n"])
        stream.flush()
        with pytest.raises(TypeError, match="str is accepted"):
            stream.write(b"four")
        stream.write("Traceback:\n  four\n")
    assert [each["line"] for each in events] == ["one", "two, three", "Traceback:", "  four"]
    print("five", file=stream)
