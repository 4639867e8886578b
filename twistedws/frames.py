"""Frames as bytes, from server to client (RFC 6455 section 5), their masking, and the rules on close codes. Floor 1: no I/O."""

from __future__ import annotations

from struct import Struct

try:
    from websockets.speedups import apply_mask as apply_mask  # C: 0.1 us for 64 bytes, where Autobahn's masker takes 2.7 us
except ImportError:  # a platform without its wheels
    from websockets.utils import apply_mask as apply_mask

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
COMPRESSED = 0x40  # RSV1, RFC 7692 section 6

# By opcode and length, the heads of final, unmasked frames of less than 126 bytes: to look one up takes a third of making it.
SHORT_HEADS = {opcode: tuple(bytes((0x80 | opcode, length)) for length in range(126)) for opcode in (TEXT, BINARY)}

MAX_CONTROL_PAYLOAD = 125  # RFC 6455 section 5.5
MAX_REASON = MAX_CONTROL_PAYLOAD - 2

_U16 = Struct("!H")
U64 = Struct("!Q")
_HEAD_U16 = Struct("!BBH")
_HEAD_U64 = Struct("!BBQ")


def frame(opcode: int, payload: bytes, flags: int = 0) -> bytes:
    """Return one final, unmasked frame (section 5.2; a server must not mask, section 5.1).

    Args:
        opcode: 0x0 to 0xF.
        payload: Any length below 2**63; the caller keeps control frames within 125 bytes.
        flags: Reserved bits to set, such as ``COMPRESSED``.
    """
    first, length = 0x80 | flags | opcode, len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    if length < 65536:
        return _HEAD_U16.pack(first, 126, length) + payload
    return _HEAD_U64.pack(first, 127, length) + payload


def is_close_code(code: int) -> bool:
    """Say whether a close frame may hold this code (section 7.4 and the registry's 1012 to 1014).

    1004 is reserved; 1005, 1006 and 1015 only ever describe a close that had no such frame.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def close_frame(code: int | None, reason: str = "") -> bytes:
    """Return a close frame; a reason of more than 123 bytes is cut between characters (sections 5.5 and 5.5.1)."""
    if code is None:
        return frame(CLOSE, b"")
    return frame(CLOSE, _U16.pack(code) + (cut(reason).encode() if reason else b""))


def cut(reason: str) -> str:
    """Return as much of a close reason as a close frame can hold: 123 bytes of UTF-8; what is no UTF-8 becomes "?"."""
    encoded = reason.encode("utf-8", "replace")
    return encoded[:MAX_REASON].decode("utf-8", "ignore")
