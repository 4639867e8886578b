# cython: language_level=3, binding=True
"""The hot path of twistedws in Cython: a prototype, to measure what a compiled part would bring (docs/adr/0007). Nothing uses it but the bench.

The same steps as ``ServerProtocol.dataReceived``, ``ServerProtocol.send`` and ``Session.send``, with the scan, the unmasking and the framing in C;
the objects, their attributes and the calls between them stay Python's. ``servers/compiled.py`` puts it in their place.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memcpy

from twistedws.frames import BINARY, TEXT, frame
from twistedws.session import Phase

_OPEN = Phase.OPEN
cdef Py_ssize_t MOST_CORKED = 16384


cdef bytes unmask(const unsigned char* masked, Py_ssize_t length, const unsigned char* mask):
    cdef bytes made = PyBytes_FromStringAndSize(NULL, length)
    cdef unsigned char* plain = <unsigned char*>PyBytes_AS_STRING(made)
    cdef Py_ssize_t at = 0
    cdef unsigned int four
    cdef unsigned long long eight, piece
    memcpy(&four, mask, 4)
    eight = (<unsigned long long>four << 32) | four
    while at + 8 <= length:
        memcpy(&piece, masked + at, 8)
        piece ^= eight
        memcpy(plain + at, &piece, 8)
        at += 8
    while at < length:
        plain[at] = masked[at] ^ mask[at & 3]
        at += 1
    return made


cdef bytes framed(int opcode, bytes payload):
    cdef Py_ssize_t length = PyBytes_GET_SIZE(payload), head = 2 if length < 126 else 4
    cdef bytes made
    cdef unsigned char* at
    if length > 65535:
        return frame(opcode, payload)
    made = PyBytes_FromStringAndSize(NULL, head + length)
    at = <unsigned char*>PyBytes_AS_STRING(made)
    at[0] = 0x80 | opcode
    if head == 2:
        at[1] = <unsigned char>length
    else:
        at[1], at[2], at[3] = 126, <unsigned char>(length >> 8), <unsigned char>(length & 0xFF)
    memcpy(at + head, PyBytes_AS_STRING(payload), length)
    return made


def data_received(self, bytes data):
    """Be ``ServerProtocol.dataReceived``."""
    cdef const unsigned char* byte
    cdef Py_ssize_t size, start, length, payload_at, end, most
    cdef int first
    self.received += len(data)
    if self._corked is None:
        self._corked = b""
    try:
        if not self._scanning:
            data = self._receive_otherwise(data)
        while data:
            session, rate, most = self.session, self._rate, self.site.limits.max_message_size
            size, start, byte = PyBytes_GET_SIZE(data), 0, <const unsigned char*>PyBytes_AS_STRING(data)
            while size - start >= 6:
                first, length = byte[start], byte[start + 1] - 0x80
                if length < 0:
                    break
                if length < 126:
                    payload_at = start + 6
                elif length == 126 and size - start >= 8:
                    length, payload_at = byte[start + 2] << 8 | byte[start + 3], start + 8
                    if length < 126:
                        break
                else:
                    break
                end = payload_at + length
                if end > size or 0 < most < length or not 0x81 <= first <= 0x82:
                    break
                message = unmask(byte + payload_at, length, byte + payload_at - 4)
                if first == 0x81:
                    try:
                        message = PyUnicode_DecodeUTF8(PyBytes_AS_STRING(message), length, NULL)
                    except UnicodeDecodeError:
                        break
                start = end
                if rate is not None and not self._may_speak(rate):
                    return
                session.messages_in += 1
                session.octets_in += length
                try:
                    session.handler.received(session, message)
                except Exception:
                    session.raised("received")
                if session.ending is not None and not self.listening:
                    return
            data = self._consume(data[start:]) if start < size else b""
    except Exception:
        self._internal_error()
    finally:
        corked, self._corked = self._corked, None
        if corked:
            self.written += len(corked)
            self.transport.write(corked)


def send(self, int opcode, bytes payload):
    """Be ``ServerProtocol.send``, without compression."""
    corked = self._corked
    if not corked and corked is not None:
        self._corked = framed(opcode, payload)
    elif corked is not None and len(corked) < MOST_CORKED:
        self._corked = corked + framed(opcode, payload)
    else:
        self._write(framed(opcode, payload))


def session_send(self, message):
    """Be ``Session.send``, for str and bytes."""
    opcode, payload = (TEXT, (<str>message).encode()) if type(message) is str else (BINARY, message)
    if self._phase is not _OPEN or (self.congested and not self._has_room(len(payload))):
        return False
    self.messages_out += 1
    self.octets_out += len(payload)
    self.wire.send(opcode, payload)
    return True
