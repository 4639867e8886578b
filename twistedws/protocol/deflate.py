"""permessage-deflate (RFC 7692): its negotiation, and a bound on what a message may inflate to. The codec is Autobahn's."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from autobahn.websocket.compress import PerMessageDeflate, PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.protocol import WebSocketProtocol

from twistedws import config
from twistedws.errors import Cause

INFLATED_AT_ONCE = 65536  # bytes
_parse = WebSocketProtocol._parseExtensionsHeader  # noqa: SLF001 - Autobahn's only parser of it, a method that looks at no instance


class BoundedDeflate(PerMessageDeflate):  # type: ignore[misc]  # Autobahn has no types
    """permessage-deflate with a bound of ours on what a message may inflate to.

    Autobahn has one since 26.7.1, which needs Python 3.11; on 3.10 there are only versions that inflate a frame whole. With this the bound
    is the same on both.
    """

    def bound(self, limit: int, fail: Callable[[int, str, Cause], None]) -> None:
        """Set the bound.

        Args:
            limit: Bytes of one inflated message; 0 for any number.
            fail: Called with close code, reason and cause when a message is larger, or is no deflate data.
        """
        self._limit, self._fail, self._inflated, self._failed = limit, fail, 0, False

    def start_decompress_message(self) -> None:
        """A compressed message begins."""
        super().start_decompress_message()
        self._inflated = 0

    def decompress_message_data(self, data: bytes, max_output_len: int | None = None) -> bytes:  # noqa: ARG002 - the bound is ours
        """Inflate a piece of a message; nothing once it has failed."""
        inflated: list[bytes] = []
        while data or (inflated and len(inflated[-1]) == INFLATED_AT_ONCE):  # a full buffer: zlib may hold more, with all input taken
            try:
                # in steps: zlib's own buffer for all at once takes twice the limit before a bomb is seen to be one
                inflated.append(self._decompressor.decompress(data, INFLATED_AT_ONCE))
            except zlib.error:
                return self._give_up(1007, "invalid payload", Cause.INVALID_UTF8)
            self._inflated += len(inflated[-1])
            if 0 < self._limit < self._inflated:
                return self._give_up(1009, "message too big", Cause.TOO_BIG)
            data = self._decompressor.unconsumed_tail
        return inflated[0] if len(inflated) == 1 else b"".join(inflated)

    def end_decompress_message(self) -> None:
        """A compressed message ends: feed what the sender left out (RFC 7692 section 7.2.2)."""
        if not self._failed:
            try:
                self._decompressor.decompress(b"\x00\x00\xff\xff")
            except zlib.error:
                self._give_up(1007, "invalid payload", Cause.INVALID_UTF8)

    def _give_up(self, code: int, reason: str, cause: Cause) -> bytes:
        self._failed = True
        self._fail(code, reason, cause)
        return b""


def negotiate(
    offers: str, handshake: config.Handshake, limit: int, fail: Callable[[int, str, Cause], None]
) -> tuple[BoundedDeflate | None, str]:
    """Accept the first usable offer of permessage-deflate (RFC 7692 section 7), if compression is on.

    Args:
        offers: The client's Sec-WebSocket-Extensions.
        handshake: Whether compression is on, and its window.
        limit: Bytes of one inflated message; 0 for any number.
        fail: As for ``BoundedDeflate.bound``.

    Returns:
        Autobahn's codec, or None, and the value for Sec-WebSocket-Extensions, "" for none.
    """
    if handshake.compression == "off" or not offers:
        return None, ""
    bits = handshake.compression_window_bits
    for name, parameters in _parse(None, offers):
        if name != PerMessageDeflate.EXTENSION_NAME:
            continue
        try:
            offer = PerMessageDeflateOffer.parse(parameters)
        except Exception:  # noqa: S112 - Autobahn's plain Exception; section 5.1: an invalid offer is declined
            continue
        accept = PerMessageDeflateOfferAccept(
            offer,
            request_max_window_bits=bits if offer.accept_max_window_bits else 0,
            window_bits=min(bits, offer.request_max_window_bits or bits),
            mem_level=max(1, bits - 7),  # zlib's hash table in proportion to its window, as its own default of 15 and 8
        )
        codec: BoundedDeflate = BoundedDeflate.create_from_offer_accept(True, accept)
        codec.bound(limit, fail)
        return codec, accept.get_extension_string()
    return None, ""
