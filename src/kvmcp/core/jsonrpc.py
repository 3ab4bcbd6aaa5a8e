"""JSON-RPC 2.0 messages out of bytes and back (reference: MCP base protocol, JSON-RPC 2.0).

Knows the envelope (`jsonrpc`, `id`, `method`, `params`, `result`, `error`), not what a method means. Decoding
never raises: what is wrong with a message is the value `Malformed`. A well-formed message is read in one pass;
everything else is looked at again, slowly, to say what is wrong and to find the id.
"""

import re
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Raw, Struct

from kvmcp.core.errors import INVALID_REQUEST, PARSE_ERROR, RpcError
from kvmcp.core.json_text import has_more_items, too_deep
from kvmcp.core.limits import Limits

Id: TypeAlias = bytes
"""A request id as canonical JSON text: `7` and `"7"` differ, `"a"` and its escaped spellings do not."""


class Request(Struct, frozen=True, gc=False):
    """`params` is the JSON text of an object, `{}` where there was none."""

    id: Id
    method: str
    params: Raw


class Notification(Struct, frozen=True, gc=False):
    method: str
    params: Raw


class Response(Struct, frozen=True, gc=False):
    """The peer's answer to a request of ours. `result` is the JSON text of an object."""

    id: Id
    result: Raw


class ErrorResponse(Struct, frozen=True, gc=False):
    """The peer's refusal of a request of ours; `id` is None where the peer could not read it."""

    id: Id | None
    error: RpcError


class Batch(Struct, frozen=True, gc=False):
    """An array of messages, each still to be decoded. Only 2025-03-26 knows it."""

    messages: tuple[bytes, ...]


class Malformed(Struct, frozen=True, gc=False):
    """Not a message; `error` says why, `id` is its id where that could be read."""

    error: RpcError
    id: Id | None = None
    is_answer: bool = False
    """Whether it was to be an answer: the id is then one of ours, and must not be echoed."""


Message: TypeAlias = Request | Notification | Response | ErrorResponse | Batch | Malformed


class Envelope(Struct, gc=False):
    jsonrpc: Literal["2.0"]
    id: Raw = Raw()
    method: str = ""
    params: Raw = Raw()
    result: Raw = Raw()
    error: Raw = Raw()


class _Members(Struct, gc=False):
    """The same members, whatever they hold: to find out what is wrong with a message."""

    jsonrpc: Raw = Raw()
    id: Raw = Raw()
    method: Raw = Raw()
    params: Raw = Raw()
    result: Raw = Raw()
    error: Raw = Raw()


decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_members = msgspec.json.Decoder(_Members).decode
_check_json = msgspec.json.Decoder(Raw).decode
_decode_array = msgspec.json.Decoder(tuple[Raw, ...]).decode
_decode_error = msgspec.json.Decoder(RpcError).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode

_NO_PARAMS: Final = Raw(b"{}")
REQUEST_BYTES: Final = len('{"jsonrpc":"2.0","id":,"method":"","params":}')
"""Length of a request written compactly, without its four values. A message of exactly its values' length more
has no other member, and no member twice."""

_NAMES: Final = (b'"jsonrpc"', b'"id"', b'"method"', b'"params"', b'"result"', b'"error"')
_FRAME_BYTES: Final = 16 * 1024
"""A message without params, result and error: an id, a method and what else a peer adds need far less."""


def decode(line: bytes, limits: Limits) -> Message:
    """The message that `line` (one whole message, UTF-8) is."""
    try:
        envelope = decode_envelope(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _explain(line, limits)
    id, method, params = envelope.id, envelope.method, envelope.params
    # The common case first: a compact request. Its length proves that nothing else is in it (see REQUEST_BYTES).
    # Without a method, or with an empty one, it would prove nothing.
    if not (method and params and id):
        return _decode_other(line, envelope, limits)
    length = len(line)
    if length != REQUEST_BYTES + len(id) + len(method) + len(params):
        return _decode_other(line, envelope, limits)
    if not line.isascii() and not _is_utf8(line):
        return _explain(line, limits)
    if length > 2 * limits.nesting_depth and too_deep(line, limits.nesting_depth):
        return Malformed(_depth_error(limits), _read_id(bytes(id), limits))
    text = bytes(id)
    if not (text.isdigit() and len(text) <= limits.id_bytes):
        read = _read_id(text, limits)
        if read is None:
            return Malformed(_id_error(text, limits))
        text = read
    return Request(text, method, params)


def decode_batch(batch: Batch, limits: Limits) -> list[Message]:
    """The messages of a batch; one `Malformed` where it is empty."""
    if not batch.messages:
        return [Malformed(RpcError(INVALID_REQUEST, "a batch must hold at least one message"))]
    return [decode(message, limits) for message in batch.messages]


def oversized(head: bytes, seen: int, limits: Limits) -> Malformed:
    """What a message above the size limit is. `head` is its beginning, `seen` how many bytes had arrived."""
    problem = f"message of at least {seen} bytes, limit is {limits.message_bytes}"
    return _malformed_at_edge(RpcError(INVALID_REQUEST, problem), head, limits)


# --- writing ---


def request(id: Id, method: str, params: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":%b}' % (id, _encode(method), params)


def notification(method: str, params: bytes | None = None) -> bytes:
    if params is None:
        return b'{"jsonrpc":"2.0","method":%b}' % _encode(method)
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (_encode(method), params)


def response(id: Id, result: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id, result)


def error_response(id: Id | None, error: RpcError) -> bytes:
    """Where the id could not be read it is left out, as the schemas since 2025-11-25 have it; never null."""
    if id is None:
        return b'{"jsonrpc":"2.0","error":%b}' % _encode(error)
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (id, _encode(error))


def read_id(raw: Raw, limits: Limits) -> Id | None:
    """The canonical form of an id inside params (`requestId`), None where it is no legal id."""
    return _read_id(bytes(raw), limits)


# --- the slow paths ---


def _decode_other(line: bytes, envelope: Envelope, limits: Limits) -> Message:
    """A message that is no compact request: checked member by member."""
    fault = _text_fault(line, envelope, limits)
    if fault is not None:
        return fault
    has_id = len(envelope.id) > 0
    id = _read_id(bytes(envelope.id), limits) if has_id else None
    if has_id and id is None:
        if _is_null_error(envelope):
            return _error_response(None, envelope)
        return Malformed(_id_error(bytes(envelope.id), limits))
    answered = (len(envelope.result) > 0) + (len(envelope.error) > 0)
    if envelope.method:
        if answered:
            return Malformed(RpcError(INVALID_REQUEST, "a message has either a method or a result"), id)
        params = envelope.params if len(envelope.params) else _NO_PARAMS
        return Notification(envelope.method, params) if id is None else Request(id, envelope.method, params)
    if answered != 1:
        problem = "a message needs a method, or exactly one of result and error"
        return Malformed(RpcError(INVALID_REQUEST, problem), id, answered > 0)
    if len(envelope.error):
        return _error_response(id, envelope)
    if id is None:
        return Malformed(RpcError(INVALID_REQUEST, "a result needs the id of its request"))
    return Response(id, envelope.result)


def _is_null_error(envelope: Envelope) -> bool:
    """`"id":null` on an error: what plain JSON-RPC asks for and some SDKs send; read as no id."""
    return bytes(envelope.id) == b"null" and len(envelope.error) > 0 and not envelope.method


def _error_response(id: Id | None, envelope: Envelope) -> ErrorResponse | Malformed:
    try:
        return ErrorResponse(id, _decode_error(envelope.error))
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = "error must be an object with code and message"
        return Malformed(RpcError(INVALID_REQUEST, problem), id, is_answer=True)


def _text_fault(line: bytes, envelope: Envelope, limits: Limits) -> Malformed | None:
    """What makes well-formed JSON unacceptable: encoding, depth, a member that stands twice."""
    if not line.isascii() and not _is_utf8(line):
        return _malformed(RpcError(PARSE_ERROR, "a message must be UTF-8"), line, limits)
    if too_deep(line, limits.nesting_depth):
        return _malformed(_depth_error(limits), line, limits)
    frame = _frame(line, envelope)
    if len(frame) > _FRAME_BYTES:
        problem = f"{len(frame)} bytes besides params, result and error, limit is {_FRAME_BYTES}"
        return _malformed(RpcError(INVALID_REQUEST, problem), line, limits)
    if _has_duplicates(frame):
        return Malformed(RpcError(INVALID_REQUEST, "a member of the envelope stands twice"))
    return None


def _frame(line: bytes, envelope: Envelope) -> bytes:
    """The message without its large parts: what is left is read token by token."""
    for part in (envelope.params, envelope.result, envelope.error):
        text = bytes(part)
        # An object's text holds whole strings, so that taking it out, wherever it stands first, leaves the
        # others whole.
        if text.startswith(b"{"):
            line = line.replace(text, b"0", 1)
    return line


def _explain(line: bytes, limits: Limits) -> Message:
    """Why the envelope could not be decoded; a batch, too, ends up here."""
    fault = _text_fault_of_unread(line, limits)
    if fault is not None:
        return fault
    try:
        _check_json(line)
    except (msgspec.DecodeError, RecursionError) as error:
        return _malformed(RpcError(PARSE_ERROR, f"not JSON: {_reason(error, line)}"), line, limits)
    try:
        members = _decode_members(line)
    except msgspec.ValidationError:
        return _explain_no_object(line, limits)
    versioned = bytes(members.jsonrpc) == b'"2.0"'
    problem = "method must be a string" if versioned else 'jsonrpc must be "2.0"'
    return _malformed(RpcError(INVALID_REQUEST, problem), line, limits)


def _text_fault_of_unread(line: bytes, limits: Limits) -> Malformed | None:
    if not _is_utf8(line):
        return _malformed(RpcError(PARSE_ERROR, "a message must be UTF-8"), line, limits)
    if too_deep(line, limits.nesting_depth):
        return _malformed(_depth_error(limits), line, limits)
    return None


def _explain_no_object(line: bytes, limits: Limits) -> Batch | Malformed:
    if has_more_items(line, limits.batch_messages):
        problem = f"a batch of more than {limits.batch_messages} messages, which is the limit"
        return Malformed(RpcError(INVALID_REQUEST, problem))
    try:
        return Batch(tuple(bytes(message) for message in _decode_array(line)))
    except msgspec.ValidationError:
        return Malformed(RpcError(INVALID_REQUEST, "a message must be an object"))


_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def _reason(error: Exception, line: bytes) -> str:
    """msgspec's sentence without its preamble; it names a byte offset, never content."""
    reason = str(error).removeprefix("JSON is malformed: ")
    if "truncated" in reason and _SURROGATE.search(line):
        return "it ends too early, or a \\u escape is half of a surrogate pair"
    return reason


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_duplicates(frame: bytes) -> bool:
    """Whether a member of the envelope stands twice: parsers disagree on which one counts."""
    if b"\\u" not in frame and all(frame.count(name) <= 1 for name in _NAMES):
        return False
    names = [_decode_text(name) for name in _top_level_names(frame)]
    return any(names.count(known) > 1 for known in Envelope.__struct_fields__)


_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}:]', re.DOTALL)


def _top_level_names(line: bytes) -> list[bytes]:
    """The names of the outermost object's members, as written. `line` is well-formed JSON."""
    names: list[bytes] = []
    depth, last = 0, b""
    for match in _TOKEN.finditer(line):
        token = match[0]
        if token == b":":
            if depth == 1:
                names.append(last)
        elif token in b"[{":
            depth += 1
        elif token in b"]}":
            depth -= 1
        else:
            last = token
    return names


def _malformed(error: RpcError, line: bytes, limits: Limits) -> Malformed:
    """With the id of the message, so that nobody need wait for it in vain."""
    try:
        members = _decode_members(line)
    except (msgspec.DecodeError, RecursionError):
        return _malformed_at_edge(error, line, limits)
    is_answer = not len(members.method) and (len(members.result) > 0 or len(members.error) > 0)
    return Malformed(error, _read_id(bytes(members.id), limits), is_answer)


def _malformed_at_edge(error: RpcError, line: bytes, limits: Limits) -> Malformed:
    """For text that is no JSON, or only the beginning of it."""
    from kvmcp.core.salvage import id_and_body  # its patterns take 1 ms, and most peers send JSON

    if (found := id_and_body(line)) is None:
        return Malformed(error)
    id, body = found
    return Malformed(error, _read_id(id, limits), body in (b"result", b"error"))


def _read_id(text: bytes, limits: Limits) -> Id | None:
    """Canonical text of an id; None for anything but a string or an integer, and above the limit."""
    if not 0 < len(text) <= limits.id_bytes:
        return None
    if text.startswith(b'"'):
        return _canonical_string(text)
    digits = text.removeprefix(b"-")
    if not digits.isdigit() or (digits[:1] == b"0" and len(digits) > 1):
        return None
    return b"0" if text == b"-0" else text


def _canonical_string(text: bytes) -> Id | None:
    if text.isascii() and b"\\" not in text:
        return text
    try:
        return _encode(_decode_text(text))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _id_error(text: bytes, limits: Limits) -> RpcError:
    if len(text) > limits.id_bytes:
        return RpcError(INVALID_REQUEST, f"id of {len(text)} bytes, limit is {limits.id_bytes}")
    return RpcError(INVALID_REQUEST, f"id must be a string or an integer, not {_kind(text)}")


def _kind(text: bytes) -> str:
    """What sort of JSON value begins so."""
    first = text[:1]
    if first == b"n":
        return "null"
    if first in (b"t", b"f"):
        return "a boolean"
    if first == b"[":
        return "an array"
    return "an object" if first == b"{" else "a number with a fraction or an exponent"


def _depth_error(limits: Limits) -> RpcError:
    return RpcError(INVALID_REQUEST, f"nested deeper than {limits.nesting_depth} levels")
