"""Messages out of frames: Autobahn reduced to its parser. It validates frames, unmasks and inflates them and checks UTF-8, step by step.

What of Autobahn is overridden, and why, stands at each place. Assembly and the bounds on what comes in are ours.
"""

from __future__ import annotations

from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.protocol import TrafficStats

from twistedws.errors import Cause
from twistedws.limits import TokenBucket
from twistedws.protocol.deflate import BoundedDeflate
from twistedws.protocol.site import Site
from twistedws.session import Session

_CAUSES = {1002: Cause.PROTOCOL_ERROR, 1007: Cause.INVALID_UTF8, 1009: Cause.TOO_BIG}


class MessageAssembly(WebSocketServerProtocol):  # type: ignore[misc]  # Autobahn has no types
    """Delivers a session's messages, and fails it where its peer breaks the protocol or exceeds a bound."""

    # What Autobahn copies into each instance with a formatted debug line (protocol.py:_connectionMade, 70 % of its handshake): the
    # same for all, so on the class.
    logOctets = logFrames = False
    trackTimings = False
    trackedTimings = None
    utf8validateIncoming = True
    applyMask = True
    requireMaskedClientFrames = True
    maskServerFrames = False
    maxFramePayloadSize = 0
    maxMessagePayloadSize = 0  # Autobahn would judge a compressed message by its compressed length; we bound it, below and in the codec
    failByDrop = False  # with True, 1002, 1007 and 1009 never reach the peer
    autoPingTimeoutCall = None
    autoPingPending = None
    autoPingRestartOnAnyTraffic = False
    websocket_version = 13
    trafficStats = TrafficStats()  # counted by Autobahn, read by nobody: one for all
    _perMessageCompress: BoundedDeflate | None = None
    utf8validator = None  # made with the first frame that is Autobahn's

    # Likewise ours that few connections need
    _control_rate: TokenBucket | None = None
    _frames = 0
    _is_text = False

    current_frame: Any  # Autobahn's, which has no types; so are the next two
    inside_message: bool
    state: int

    def __init__(self, site: Site) -> None:
        # Not Autobahn's: it makes two Deferreds and a table of listeners that nobody uses here.
        self.site = site
        self.session: Session | None = None
        self.failedByMe = False
        self._scanning = False  # messages may be scanned: Autobahn holds no part of any
        self._rate: TokenBucket | None = None
        self._payload: bytes | bytearray = b""

    def _adopt(self, deflate: BoundedDeflate | None) -> None:
        """Put Autobahn into the state that its own handshake would have left (protocol.py:succeedHandshake)."""
        self.state = self.STATE_OPEN
        self.data = b""
        self.current_frame = None
        self.inside_message = False
        self._scanning = True
        self._perMessageCompress = deflate
        rate = self.site.limits.message_rate
        if rate:
            self._rate = TokenBucket(rate, rate, self.site.clock.seconds())

    def _onMessageBegin(self, isBinary: bool) -> None:
        self._is_text = not isBinary
        self._payload = b""
        self._frames = 0
        self.message_data_total_length = 0  # Autobahn bounds inflation by it

    def _onMessageFrameBegin(self, length: int) -> None:
        limits = self.site.limits
        self._frames += 1
        self.message_data_total_length += length
        most = limits.max_message_size
        if most and self._isMessageCompressed:
            most += (most >> 8) + 64  # deflate adds a little to what it cannot compress; the codec bounds what comes of it
        if 0 < most < self.message_data_total_length:
            self._fail(1009, "message too big", Cause.TOO_BIG)
        elif 0 < limits.max_frames_per_message < self._frames:
            self._fail(1008, "too many frames in a message", Cause.TOO_BIG)

    def _onMessageFrameData(self, payload: bytes) -> None:
        # One buffer, not Autobahn's list of pieces: a message that trickles in would cost some forty times its size.
        if not self._payload:
            self._payload = payload
        elif isinstance(self._payload, bytearray):
            self._payload += payload
        else:
            self._payload = bytearray(self._payload) + payload

    def _onMessageFrameEnd(self) -> None:
        pass

    def _onMessageEnd(self) -> None:
        session = self.session
        if self.failedByMe or session is None:
            return
        payload, self._payload = self._payload, b""
        if self._rate is None or self._may_speak(self._rate):
            session.deliver(payload.decode() if self._is_text else bytes(payload), len(payload))

    def _may_speak(self, rate: TokenBucket) -> bool:
        """Count a message against the rate limit."""
        if rate.take(self.site.clock.seconds()):
            return True
        self._fail(1008, "too many messages", Cause.RATE_LIMIT)
        return False

    def _may_control(self) -> bool:
        """Count a ping, or a pong that nobody asked for, against the rate limit."""
        rate = self.site.limits.control_frame_rate
        if rate:
            now = self.site.clock.seconds()
            if self._control_rate is None:
                self._control_rate = TokenBucket(rate, rate, now)
            if not self._control_rate.take(now):
                self._fail(1008, "too many control frames", Cause.RATE_LIMIT)
                return False
        return True

    def _protocol_violation(self, reason: str) -> bool:
        self._fail(1002, reason, Cause.PROTOCOL_ERROR)
        return True  # Autobahn: look at nothing more

    def _invalid_payload(self, reason: str) -> bool:  # noqa: ARG002 - it quotes offsets; the code says enough
        self._fail(1007, "invalid payload", Cause.INVALID_UTF8)
        return True

    def _fail_connection(self, code: int = 1002, reason: str = "") -> None:
        """Autobahn found the peer at fault in a way of its own."""
        self._fail(code, reason, _CAUSES.get(code, Cause.PROTOCOL_ERROR))

    def _fail(self, code: int, reason: str, cause: Cause) -> None:
        if self.session is not None:
            self.session.fail(code, reason, cause)
