"""What exceptions say."""

from __future__ import annotations

from typing import Any

import pytest

from twistedws.errors import ApplicationLoadError, By, Cause, Close, Closed, ConfigurationError, ListenError, Refused, TwistedWSError


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        ("--port", 70000, "--port: 70000: an integer"),
        ("--port", "x", "--port: x: an integer"),
        ("--prot", None, "--prot: an integer"),
        ("--port", "", "--port: : an integer"),
        ("--port", 0, "--port: 0: an integer"),
        ("--port", "a\nb", "--port: a\\nb: an integer"),
        ("--port", "a\x1b[2Jb", "--port: a\\x1b[2Jb: an integer"),
        ("--port", "a\u2028b", "--port: a\\u2028b: an integer"),
        ("--port", "a\ud800b", "--port: a\\ud800b: an integer"),
        ("--port", "grüße", "--port: grüße: an integer"),
        ("--port", ["a\nb"], "--port: ['a\\nb']: an integer"),
        ("--port", "y" * 100, f"--port: {'y' * 100}: an integer"),
        ("--port", "y" * 101, f"--port: {'y' * 97}...: an integer"),
        ("--port", "\n" * 101, f"--port: {ascii(chr(10) * 101)[1:98]}...: an integer"),
    ],
)
def test_a_configuration_error_is_one_short_printable_line(setting: str, value: object, text: str) -> None:
    """The setting, what was found, and what is accepted stand on one line which no value can break or lengthen."""
    error = ConfigurationError(setting, value, "an integer")
    assert str(error) == text
    assert str(error).isprintable()
    assert (error.setting, error.value, error.accepted) == (setting, value, "an integer")


@pytest.mark.parametrize("status", [300, 403, 429, 503, 599])
def test_a_refusal_keeps_what_it_was_given(status: int) -> None:
    """A refusal holds its status, its headers as a tuple, and its body."""
    refusal = Refused(status, iter([("Retry-After", "5")]), "later")
    assert (refusal.status, refusal.headers, refusal.body) == (status, (("Retry-After", "5"),), "later")
    assert str(refusal) == str(status)


def test_a_refusal_is_403_by_default() -> None:
    """A refusal of which nothing is said is an empty 403."""
    assert (Refused().status, Refused().headers, Refused().body) == (403, (), b"")


@pytest.mark.parametrize("status", [-1, 0, 100, 101, 199, 600, 1000, "403", 403.0, None])
def test_a_refusal_has_a_refusing_status(status: Any) -> None:
    """A status that would not refuse, or is none, is an error where it is made."""
    with pytest.raises(ValueError, match="200 to 599"):
        Refused(status)


@pytest.mark.parametrize(
    ("close", "text"),
    [
        (Close(1000, "bye", Cause.CLIENT, By.CLIENT), "session closed: 1000 client (bye)"),
        (Close(1006, "", Cause.PONG_TIMEOUT, By.SERVER), "session closed: 1006 pong_timeout"),
    ],
)
def test_closed_says_how(close: Close, text: str) -> None:
    """``Closed`` holds the close, and says its code, cause and reason."""
    assert str(Closed(close)) == text
    assert Closed(close).close is close


@pytest.mark.parametrize("kind", [ConfigurationError, ApplicationLoadError, ListenError, Refused, Closed])
def test_every_exception_is_ours(kind: type[Exception]) -> None:
    """One except clause catches all that this package raises on purpose."""
    assert issubclass(kind, TwistedWSError)


@pytest.mark.parametrize("words", [Cause, By])
def test_the_words_are_fit_for_a_log(words: Any) -> None:
    """Each cause and each party has a word of its own, its own name in lower case."""
    assert [each.value for each in words] == [name.lower() for name in words.__members__]
