"""Messages out of bytes and bytes out of messages, once the upgrade is done (RFC 6455, section 5).

wsproto is the judge of every frame but one kind: a text message that is whole, in one frame, not deflated, and all
there. That is nearly every message of MCP, and is taken without wsproto, which needs 8 us for it and is the
largest part of a pipelined call then (benchmarks/websocket.py). `tests/io/websocket/test_frames.py` holds both
ways to the same outcome for any bytes. To know when a frame begins, the heads of frames are read here; this also
refuses a message by the length that it declares, before anything of it is kept.
"""

import os
from typing import Final, TypeAlias

from msgspec import Struct
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from kvmcp.io.websocket.deflate import Deflate

SMALL: Final = 16 * 1024
"""Bytes of a frame that are waited for here; longer ones that are not all there go to wsproto as they come."""

_WHOLE_TEXT: Final = 0x81
_MASKED: Final = 0x80
_LONG, _LONGER = 126, 127
_DATA_OPCODES: Final = 2
"""Continuation, text and binary; what is above is a control frame or reserved."""
_SHORT_HEADS: Final = tuple(bytes((_WHOLE_TEXT, length)) for length in range(_LONG))


class Received(Struct, frozen=True):
    """The peer's Ping or Pong: it lives. A Ping has been answered."""


class Closed(Struct, frozen=True):
    """The peer wants to end; nothing that comes behind it counts."""

    code: int
    reason: str


class Violated(Struct, frozen=True):
    """The peer broke a rule: close with this code. Nothing that comes behind it counts."""

    code: int
    reason: str


Incoming: TypeAlias = bytes | Received | Closed | Violated
"""Bytes are a whole text message."""


class Frames:
    """Both directions of an open connection; `limit` is the size of a message in bytes."""

    def __init__(
        self, side: ConnectionType, limit: int, deflate: Deflate | None = None, compress_from: int = 0
    ) -> None:
        self._wsproto = Connection(side, [] if deflate is None else [deflate])
        self._deflate = deflate
        self._compress_from = compress_from
        self._limit = limit
        self._expected = _MASKED if side is ConnectionType.SERVER else 0
        self._head_size = 6 if self._expected else 2
        self._rest = b""
        self._owed: int = 0
        self._parts = bytearray()
        self._in_message = False
        self._ended = False
        self._answers: list[bytes] = []

    # --- in ---

    @property
    def is_between(self) -> bool:
        """Whether no message, and no frame, has begun that is not yet whole."""
        return not (self._rest or self._owed or self._in_message)

    def receive(self, data: bytes) -> list[Incoming]:
        """What `data`, cut anywhere, completes, in order."""
        incoming: list[Incoming] = []
        if self._rest:
            data, self._rest = self._rest + data, b""
        position, end = 0, len(data)
        expected, head_size, limit = self._expected, self._head_size, self._limit
        while position < end and not self._ended:
            if self._owed:
                stop = min(end, position + self._owed)
                self._owed -= stop - position
                self._judge(data[position:stop], incoming)
                position = stop
                continue
            # The common frame first, without another call (benchmarks/websocket.py).
            start = position + head_size
            if start > end and (end < position + 2 or data[position + 1] ^ expected <= _LONGER):
                break
            first, length = data[position], data[position + 1] ^ expected
            is_plain = first == _WHOLE_TEXT and not self._in_message
            if length >= _LONG:
                if length > _LONGER:  # A mask where there must be none, or the other way round.
                    self._judge(data[position:], incoming)
                    return self._end(incoming)
                size = 2 if length == _LONG else 8
                start += size
                if start > end:
                    break
                length = int.from_bytes(data[position + 2 : position + 2 + size], "big")
                is_plain = is_plain and length >= (_LONG if size == 2 else 1 << 16)
            stop = start + length
            if first & 15 <= _DATA_OPCODES and len(self._parts) + length > limit:
                incoming.append(_too_big(limit))
                return self._end(incoming)
            if stop > end and stop - position <= SMALL:
                break
            if is_plain and stop <= end:
                message = data[start:stop]
                if expected:
                    message = unmask(message, data[start - 4 : start])
                if not message.isascii() and not _is_utf8(message):
                    incoming.append(_NOT_UTF8)
                    return self._end(incoming)
                incoming.append(message)
            elif stop <= end:
                self._judge(data[position:stop], incoming)
            else:
                self._judge(data[position:end], incoming)
                self._owed = stop - end
                stop = end
            position = stop
        if not self._ended:
            self._rest = data[position:]
        return incoming

    def _judge(self, data: bytes, incoming: list[Incoming]) -> None:
        """Give wsproto a frame, or a piece of one; it never gets more than the frame that is read."""
        self._wsproto.receive_data(data)
        for event in self._wsproto.events():
            outcome = self._outcome(event)
            if outcome is not None:
                incoming.append(outcome)
            if self._ended:
                return

    def _outcome(self, event: Event) -> Incoming | None:
        match event:
            case TextMessage(data=text, message_finished=finished):
                return self._assemble(text, finished)
            case BytesMessage():
                self._ended = True
                return Violated(CloseReason.UNSUPPORTED_DATA, "messages are text")
            case Ping():
                if self._wsproto.state is ConnectionState.OPEN:  # Nothing may follow our Close.
                    self._answers.append(bytes(self._wsproto.send(event.response())))
                return Received()
            case Pong():
                return Received()
            case CloseConnection(code=code, reason=reason):
                self._ended = True
                has_closed = self._wsproto.state is not ConnectionState.OPEN
                if not has_closed and code == CloseReason.MESSAGE_TOO_BIG:  # by `Deflate`
                    return _too_big(self._limit)
                return (Closed if has_closed else Violated)(int(code), reason or "")
            case _:  # wsproto has no others
                return None

    def _assemble(self, text: str, finished: bool) -> Incoming | None:
        self._parts += text.encode()
        self._in_message = not finished
        if len(self._parts) > self._limit:
            self._ended = True
            return _too_big(self._limit)
        if not finished:
            return None
        message, self._parts = bytes(self._parts), bytearray()
        return message

    def _end(self, incoming: list[Incoming]) -> list[Incoming]:
        self._ended = True
        self._rest = b""
        self._parts = bytearray()
        return incoming

    # --- out ---

    def take_answers(self) -> list[bytes]:
        """The Pongs that are owed, framed."""
        answers, self._answers = self._answers, []
        return answers

    def text(self, messages: list[bytes]) -> bytes:
        """The messages as frames, in one piece. They are UTF-8."""
        if self._deflate is not None or not self._expected:
            return b"".join([self._frame(message) for message in messages])
        pieces: list[bytes] = []
        for message in messages:
            length = len(message)
            if length < _LONG:
                pieces.append(_SHORT_HEADS[length])
            elif length < 1 << 16:
                pieces.append(b"\x81\x7e" + length.to_bytes(2, "big"))
            else:
                pieces.append(b"\x81\x7f" + length.to_bytes(8, "big"))
            pieces.append(message)
        return b"".join(pieces)

    def _frame(self, message: bytes) -> bytes:
        first = _WHOLE_TEXT
        if self._deflate is not None and len(message) >= self._compress_from:
            first, message = first | 0x40, self._deflate.compress(message)
        masked = _MASKED ^ self._expected
        length = len(message)
        if length < _LONG:
            head = bytes((first, masked | length))
        elif length < 1 << 16:
            head = bytes((first, masked | _LONG)) + length.to_bytes(2, "big")
        else:
            head = bytes((first, masked | _LONGER)) + length.to_bytes(8, "big")
        if not masked:
            return head + message
        # "The masking key needs to be unpredictable" (section 5.3).
        key = os.urandom(4)
        return head + key + unmask(message, key)

    def ping(self) -> bytes:
        """Ask the peer for a sign of life."""
        return bytes(self._wsproto.send(Ping()))

    def close(self, code: int, reason: str = "") -> bytes:
        """The end: nothing may follow it. Empty where it was said already."""
        try:
            # wsproto knows the code that stands for none by identity.
            status = CloseReason.NO_STATUS_RCVD if code == CloseReason.NO_STATUS_RCVD else code
            return bytes(self._wsproto.send(CloseConnection(status, reason)))
        except LocalProtocolError:
            return b""


_NOT_UTF8: Final = Violated(CloseReason.INVALID_FRAME_PAYLOAD_DATA, "a text message that is not UTF-8")


def unmask(payload: bytes, key: bytes) -> bytes:
    """Mask or unmask (section 5.3): XOR with the repeated key, all at once as one number."""
    length = len(payload)
    keys = (key * (length // 4 + 1))[:length]
    masked = int.from_bytes(payload, "little") ^ int.from_bytes(keys, "little")
    return masked.to_bytes(length, "little")


def _is_utf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True


def _too_big(limit: int) -> Violated:
    return Violated(CloseReason.MESSAGE_TOO_BIG, f"a message has at most {limit} bytes")
