"""The application that is served when none is named."""

from __future__ import annotations

import pytest

from tests.support.wire import FakeWire, make_session
from twistedws.apps.echo import echo_application
from twistedws.errors import Cause


@pytest.mark.parametrize(
    ("message", "sent"), [("grün", ("send", b"gr\xc3\xbcn", True)), (b"\x00\xff", ("send", b"\x00\xff", False)), ("", ("send", b"", True))]
)
def test_a_message_comes_back_as_it_came(message: str | bytes, sent: tuple[object, ...]) -> None:
    """Text comes back as text, bytes as bytes, and nothing else is said from the opening to the end."""
    wire = FakeWire()
    session = make_session(wire)
    session.open(echo_application()(session), 0.0)
    session.deliver(message, len(message))
    session.lost(Cause.FIN)
    assert wire.calls == [sent]


def test_echo_has_a_page() -> None:
    """The application is named echo, has an HTML page, speaks no subprotocol and admits everybody."""
    application = echo_application()
    assert application.name == "echo"
    assert application.page is not None
    assert b"<html" in application.page.lower() or b"<!doctype html" in application.page.lower()
    assert application.subprotocols == ()
    assert application.admit is None
