"""permessage-deflate (RFC 7692) that never inflates more than it may.

wsproto's own extension inflates each chunk without a bound (0.5 MB become 512 MB), and trips over malformed
offers. This one keeps no state between messages (`…_no_context_takeover` on both sides), so a connection that
says nothing costs nothing, and it tells nothing of one message by the length of another.
"""

import re
import zlib
from typing import Final, Protocol

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

NAME: Final = "permessage-deflate"

_PARAMETER: Final = re.compile(r'([a-z_]+)(?:[ \t]*=[ \t]*(?:([0-9]{1,2})|"([0-9]{1,2})"))?\Z')
_FLAGS: Final = ("client_no_context_takeover", "server_no_context_takeover")
_WINDOWS: Final = ("client_max_window_bits", "server_max_window_bits")
_LARGEST: Final = 15
_SMALLEST: Final = 9
"""zlib cannot write a raw stream with a window of 8 bits, which the RFC allows to be asked for."""
_TAIL: Final = b"\x00\x00\xff\xff"
"""What a sender cuts off the end of each message (section 7.2.1)."""
_OFFER: Final = "; ".join(_FLAGS)


class _Inflater(Protocol):
    """What `zlib.decompressobj` gives; it has no public name."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Deflate(Extension):
    """One connection's compression. `limit` is the size of a message after inflating, in bytes."""

    name = NAME

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._enabled = False
        self._window = _LARGEST
        self._inflater: _Inflater | None = None
        self._inflated = 0

    def enabled(self) -> bool:
        return self._enabled

    # --- the agreement ---

    def offer(self) -> str:
        """A client's offer."""
        return _OFFER

    def accept(self, offer: str) -> str | None:
        """A server's answer to one offer; None declines it, as an offer must be that says what is unknown."""
        if self._enabled:
            return None
        parameters = _parameters(offer)
        if parameters is None:
            return None
        window = parameters.get("server_max_window_bits", _LARGEST)
        if window is None or window < _SMALLEST:
            return None
        self._enabled, self._window = True, window
        return _OFFER if window == _LARGEST else f"{_OFFER}; server_max_window_bits={window}"

    def finalize(self, offer: str) -> None:
        """A server's answer to our offer. Raises ValueError where it agrees to what was not offered."""
        parameters = _parameters(offer)
        if parameters is None or "client_max_window_bits" in parameters:
            raise ValueError(f"not what was offered: {offer[:80]!r}")
        if "server_no_context_takeover" not in parameters:
            raise ValueError("the server would keep its context, which was not offered")
        self._enabled = True

    # --- messages that come in ---

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        if opcode.iscontrol() or opcode is Opcode.CONTINUATION:
            # "An endpoint MUST NOT set the Per-Message Compressed bit of … non-first fragments" (section 6).
            return RsvBits(False, False, False)
        self._inflater = zlib.decompressobj(-_LARGEST) if rsv.rsv1 else None
        self._inflated = 0
        return RsvBits(True, False, False)

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol, data: bytes
    ) -> bytes | CloseReason:
        if self._inflater is None or _is_control(proto):
            return data
        return self._inflate(self._inflater, data)

    def frame_inbound_complete(
        self, proto: FrameDecoder | FrameProtocol, fin: bool
    ) -> bytes | CloseReason | None:
        if self._inflater is None or not fin or _is_control(proto):
            return None
        inflater, self._inflater = self._inflater, None
        return self._inflate(inflater, _TAIL)

    def _inflate(self, inflater: _Inflater, data: bytes) -> bytes | CloseReason:
        room = self._limit - self._inflated
        try:
            # One byte above the limit tells that it is passed; what else there is stays deflated.
            inflated = inflater.decompress(data, room + 1)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        if len(inflated) > room:
            return CloseReason.MESSAGE_TOO_BIG
        self._inflated += len(inflated)
        return inflated

    # --- messages that go out ---

    def compress(self, message: bytes) -> bytes:
        """The payload of one message, to be sent with the first reserved bit."""
        deflater = zlib.compressobj(wbits=-self._window)
        return (deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]


def _is_control(proto: FrameDecoder | FrameProtocol) -> bool:
    """Whether the frame that is read is a control frame, which may come between the frames of a message."""
    header = proto.header if isinstance(proto, FrameDecoder) else None
    return header is not None and header.opcode.iscontrol()


def _parameters(offer: str) -> dict[str, int | None] | None:
    """The parameters of an offer or of an answer; None where one is unknown, malformed or said twice."""
    found: dict[str, int | None] = {}
    for text in offer.split(";")[1:]:
        match = _PARAMETER.match(text.strip())
        if match is None or match[1] in found:
            return None
        name, digits = match[1], match[2] or match[3]
        value = None if digits is None else int(digits)
        if name in _FLAGS:
            if value is not None:
                return None
        elif name not in _WINDOWS or (value is not None and not 8 <= value <= _LARGEST):
            return None
        found[name] = value
    return found
