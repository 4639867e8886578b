"""Which pages may connect."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twistedws.origin import OriginPolicy

SAME_HOST = [
    ("http://example.com", "example.com"),
    ("https://example.com", "example.com"),
    ("https://example.com", "example.com:"),
    ("https://example.com", "example.com:443"),
    ("https://example.com:443", "example.com"),
    ("http://example.com", "EXAMPLE.com:80"),
    ("HTTPS://Example.Com", "example.com"),
    ("http://example.com:8000", "example.com:8000"),
    ("http://localhost:8000", "localhost:8000"),
    ("http://127.0.0.1:8000", "127.0.0.1:8000"),
    ("http://my_service:8000", "my_service:8000"),
    ("http://[::1]:8000", "[::1]:8000"),
    ("http://[::1]", "[0:0:0:0:0:0:0:1]:80"),
    ("https://[2001:DB8::A]", "[2001:db8::a]"),
    ("https://example.com.", "example.com."),
    ("wss://example.com", "example.com"),
]

FOREIGN = [
    "https://example.com.evil.net",
    "https://evilexample.com",
    "https://evil.net",
    "https://example.comx",
    "https://example.co",
    "https://sub.example.com",
    "https://example.com.",
    "https://example.com..",
    "https://.example.com",
    "https://example.com:444",
    "https://example.com:80",
    "http://example.com:443",
    "https://example.com:65979",
    "https://example.com:4294967739",
    "https://example.com:99999",
    "https://example.com:",
    "https://example.com:443:443",
    "https://example.com:+443",
    "https://example.com: 443",
    "https://example.com:443@evil",
    "https://example.com:443@evil.net",
    "https://example.com@evil.net",
    "https://user@example.com",
    "https://user:pass@example.com",
    "https://example.com/",
    "https://example.com/path",
    "https://example.com?x",
    "https://example.com#x",
    "https://example.com\\",
    "https://evil.net\\example.com",
    "https://evil.net/example.com",
    "https:/example.com",
    "https:example.com",
    "https:///example.com",
    "//example.com",
    "example.com",
    "https://example.com https://example.com",
    "https://example.com, https://example.com",
    "https://example.com,https://evil.net",
    " https://example.com",
    "https://example.com ",
    "https://example.com\n",
    "https://example.com\x85",
    "https://example.com\x00",
    "https://exam\xadple.com",
    "https://example\u3002com",
    "https://e\u212aample.com",
    "https://%65xample.com",
    "https://example%2ecom",
    "https://[example.com]",
    "https://[::1",
    "https://[:::1]",
    "https://[::1%25eth0]",
    "https://*",
    "https://*.example.com",
    "https://",
    "chrome-extension://example.com",
    "file://",
    "data:text/html,x",
    "null",
    "NULL",
    "Null",
    "*",
    "",
]


@pytest.mark.parametrize(("origin", "host"), SAME_HOST)
def test_pages_of_the_same_host_may_connect(origin: str, host: str) -> None:
    """A page of the host that it connects to passes without any setting, whichever way the two are written."""
    assert OriginPolicy([]).allows(origin, host)


@pytest.mark.parametrize("origin", FOREIGN)
def test_foreign_pages_may_not_connect(origin: str) -> None:
    """No other origin passes, be it the host or an entry that it resembles."""
    assert not OriginPolicy([]).allows(origin, "example.com")
    assert not OriginPolicy([]).allows(origin, "example.com:8443")
    assert not OriginPolicy(["https://example.com"]).allows(origin, "ws.example.org")


@pytest.mark.parametrize("host", ["", ":", ":443", "example.com:99999999", "a b", "[::1", "[:::]", "ex/ample.com"])
def test_a_host_that_is_none_is_nobodys(host: str) -> None:
    """A Host that is empty or broken is the same as no origin's."""
    assert not OriginPolicy([]).allows("https://example.com", host)


def test_clients_that_are_no_browsers_may_connect() -> None:
    """A handshake without Origin passes."""
    assert OriginPolicy([]).allows(None, "example.com")


@pytest.mark.parametrize(
    ("entry", "passes", "fails"),
    [
        ("https://app.example.com", "https://app.example.com", "http://app.example.com"),
        ("https://app.example.com", "https://app.example.com:443", "https://app.example.com:8443"),
        ("https://app.example.com:443", "https://app.example.com", "https://app.example.com:80"),
        ("http://app.example.com", "http://app.example.com:80", "http://app.example.com:8080"),
        ("http://app.example.com:8080", "http://app.example.com:8080", "http://app.example.com"),
        ("HTTPS://App.Example.COM", "https://app.example.com", "https://xapp.example.com"),
        ("https://*.example.com", "https://a.example.com", "https://example.com"),
        ("https://*.example.com", "https://a.b.c.example.com", "https://evilexample.com"),
        ("https://*.example.com", "https://A.EXAMPLE.com", "https://a.example.com.evil.net"),
        ("https://*.example.com", "https://a.example.com:443", "https://a.example.com:8443"),
        ("https://*.example.com", "https://a.example.com", "http://a.example.com"),
        ("https://*.example.com", "https://a.example.com", "https://.example.com"),
        ("https://*.example.com", "https://a.example.com", "https://a..example.com"),
        ("https://*.example.com", "https://a.example.com", "https://a.example.com."),
        ("https://*.example.com", "https://a.example.com", "https://evil.net/.example.com"),
        ("https://*.example.com", "https://a.example.com", "https://evil.net@a.example.com"),
        ("http://*.localhost:3000", "http://a.localhost:3000", "http://a.localhost:3001"),
        ("http://[::1]:3000", "http://[0:0::1]:3000", "http://[::2]:3000"),
        ("capacitor://localhost", "capacitor://localhost", "capacitor://localhost:80"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef", "chrome-extension://abcdeg"),
        ("null", "null", "https://null"),
        ("*", "https://anything.example", ""),
        ("*", "null", ""),
    ],
)
def test_entries_allow_what_they_say(entry: str, passes: str, fails: str) -> None:
    """An entry is compared by scheme, host and port, where a wildcard is for subdomains alone."""
    policy = OriginPolicy(["https://other.example", entry])
    assert policy.allows(passes, "ws.example.org")
    assert policy.allows("https://other.example", "ws.example.org")
    if fails:
        assert not policy.allows(fails, "ws.example.org")


@pytest.mark.parametrize(
    "entry",
    [
        "", "example.com", "//example.com", "https://", "https://*", "https://*.", "https://*example.com",
        "https://a.*.com", "https://example.com/", "https://example.com/path", "https://example.com:65536",
        "https://example.com:", "https://example.com:*", "https://user@example.com", "https://example.com.",
        "https://example..com", "https://[:::]", "https://*.[::1]", "NULL", "**", " https://example.com",
        "https://example.com\n", "https://b\xfccher.example",
    ],
)  # fmt: skip
def test_wrong_entries_are_named(entry: str) -> None:
    """An entry that is no origin is refused with the entry and with what is accepted."""
    with pytest.raises(ValueError, match=r"scheme://host\[:port\]") as caught:
        OriginPolicy(["https://example.com", entry])
    assert repr(entry) in str(caught.value)


@given(st.text(), st.text())
def test_nothing_that_a_peer_sends_raises(origin: str, host: str) -> None:
    """Any texts get an answer, and one origin alone is not made of just anything."""
    assert OriginPolicy(["https://*.example.com"]).allows(origin, host) in (True, False)


@given(st.from_regex(r"https?://[a-z0-9.:@/\\\[\]]{0,30}example\.com[a-z0-9.:@/\\]{0,10}", fullmatch=True))
def test_a_wildcard_allows_only_what_is_below_it(origin: str) -> None:
    """Whatever passes as a subdomain's page is https, one or more labels, the domain, and at most the default port."""
    if OriginPolicy(["https://*.example.com"]).allows(origin, "ws.example.org"):
        assert origin.startswith("https://")
        *labels, domain, top = origin.removeprefix("https://").removesuffix(":443").split(".")
        assert (domain, top) == ("example", "com")
        assert labels
        assert all(label.isalnum() for label in labels)


def test_long_origins_are_read_once() -> None:
    """An origin and a host as long as a head may be get an answer; were the search exponential, this would not end."""
    assert not OriginPolicy([]).allows("https://" + "a." * 8000 + "/", "a." * 8000 + "/")
