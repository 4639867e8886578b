"""Frames as bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twistedws import frames


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, "8200"),
        (1, "8201"),
        (125, "827d"),
        (126, "827e007e"),
        (127, "827e007f"),
        (65535, "827effff"),
        (65536, "827f0000000000010000"),
        (70000, "827f0000000000011170"),
    ],
)
def test_a_length_takes_the_fewest_bytes(length: int, head: str) -> None:
    """A payload's length is written in the shortest of the three forms (RFC 6455 section 5.2)."""
    made = frames.frame(frames.BINARY, b"x" * length)
    assert made == bytes.fromhex(head) + b"x" * length


@pytest.mark.parametrize(
    ("opcode", "first"), [(0x0, 0x80), (frames.TEXT, 0x81), (frames.CLOSE, 0x88), (frames.PING, 0x89), (frames.PONG, 0x8A)]
)
def test_a_frame_is_final_and_unmasked(opcode: int, first: int) -> None:
    """The first byte holds FIN and the opcode; the mask bit is never set."""
    made = frames.frame(opcode, b"Hello")
    assert made == bytes((first, 5)) + b"Hello"


@pytest.mark.parametrize("length", [5, 300, 70000])
def test_a_compressed_frame_has_its_bit(length: int) -> None:
    """RSV1 is set where it is asked for, for every form of the length."""
    assert frames.frame(frames.TEXT, b"x" * length, frames.COMPRESSED)[0] == 0xC1


@pytest.mark.parametrize(
    ("code", "may"),
    [
        (-1, False), (0, False), (999, False), (1000, True), (1001, True), (1002, True), (1003, True), (1004, False), (1005, False),
        (1006, False), (1007, True), (1011, True), (1012, True), (1013, True), (1014, True), (1015, False), (1016, False),
        (1100, False), (2000, False), (2999, False), (3000, True), (3999, True), (4000, True), (4999, True), (5000, False),
        (65535, False), (65536, False),
    ],
)  # fmt: skip
def test_close_codes(code: int, may: bool) -> None:
    """A close frame holds the codes of RFC 6455 section 7.4 and of the registry, no others."""
    assert frames.is_close_code(code) is may


def test_a_close_frame_may_be_empty() -> None:
    """With no code there is no payload."""
    assert frames.close_frame(None) == b"\x88\x00"
    assert frames.close_frame(None, "unsaid") == b"\x88\x00"


def test_a_close_frame_holds_code_and_reason() -> None:
    """The code comes first, in network order, then the reason as UTF-8."""
    assert frames.close_frame(1000) == bytes.fromhex("880203e8")
    assert frames.close_frame(4999, "grün") == b"\x88\x07\x13\x87gr\xc3\xbcn"


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("", ""),
        ("x" * 123, "x" * 123),
        ("x" * 124, "x" * 123),
        ("x" * 122 + "é", "x" * 122),
        ("x" * 121 + "é", "x" * 121 + "é"),
        ("x" * 120 + "\U0001f600", "x" * 120),
        ("x" * 119 + "\U0001f600y", "x" * 119 + "\U0001f600"),
        ("a\ud800b", "a?b"),
        ("\udc80" * 200, "?" * 123),
    ],
)
def test_a_reason_is_cut_between_characters(reason: str, kept: str) -> None:
    """What does not fit is left out by whole characters; lone surrogates become question marks."""
    assert frames.cut(reason) == kept


@given(st.text(alphabet=st.characters(), max_size=300), st.integers(1000, 4999))
def test_a_close_frame_is_always_a_fit_control_frame(reason: str, code: int) -> None:
    """Whatever the reason, the payload has at most 125 bytes, the code, and valid UTF-8 after it."""
    made = frames.close_frame(code, reason)
    assert made[0] == 0x88
    assert made[1] == len(made) - 2 <= frames.MAX_CONTROL_PAYLOAD
    assert struct.unpack("!H", made[2:4]) == (code,)
    assert reason.encode("utf-8", "replace").decode().startswith(made[4:].decode())


@given(st.integers(0, 15), st.binary(max_size=300) | st.integers(0, 70000).map(bytes))
def test_a_frame_can_be_read_back(opcode: int, payload: bytes) -> None:
    """The head says exactly how long the rest is."""
    made = frames.frame(opcode, payload)
    assert made[0] == 0x80 | opcode
    start, length = 2, made[1]
    if length == 126:
        start, length = 4, int.from_bytes(made[2:4], "big")
    elif length == 127:
        start, length = 10, int.from_bytes(made[2:10], "big")
    assert made[start:] == payload
    assert length == len(payload)


@pytest.mark.parametrize("opcode", [frames.TEXT, frames.BINARY])
def test_short_heads(opcode: int) -> None:
    """The heads in the table are those that ``frame`` makes."""
    assert list(frames.SHORT_HEADS[opcode]) == [frames.frame(opcode, bytes(length))[:2] for length in range(126)]


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_masking(payload: bytes, mask: bytes) -> None:
    """Masking is the exclusive or with the four bytes, in turn (RFC 6455 section 5.3)."""
    assert frames.apply_mask(payload, mask) == bytes(each ^ mask[index % 4] for index, each in enumerate(payload))
