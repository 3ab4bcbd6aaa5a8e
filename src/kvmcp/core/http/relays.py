"""What processes that serve the same clients tell each other, as values and as text that a channel can carry.

A session's id is enough to serve its requests anywhere. But the answer to a question goes to whichever process
the client's next POST reaches, and only the one that asked can use it; a stream that was broken off is resumed
elsewhere while its call goes on here; and a task runs in one process whoever asks for it.

A relay is written as a JSON string: version, sender and content in MessagePack, sealed with the key that all
processes share, so that whoever can write to the channel, but has not the key, is not believed.
"""

from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from kvmcp.core import jsonrpc
from kvmcp.core.jsonrpc import ErrorResponse, Message, Notification, Request, Response
from kvmcp.core.request_state import Sealer


class Told(Struct, frozen=True, array_like=True, tag="told"):
    """A message that a client sent in a session; empty where the session has ended."""

    session: str
    message: bytes


class Follow(Struct, frozen=True, array_like=True, tag="follow"):
    """A client resumes a POST's stream here: whoever writes it tells the events behind `seen`, and those to come.

    `anew`: it has just come, so whoever else has a connection with this stream gives it up.
    """

    session: str
    stream: str
    seen: int
    anew: bool = False


class Written(Struct, frozen=True, array_like=True, tag="written"):
    """Events of a stream that another process follows. `last` is the number of the last one that there is."""

    session: str
    stream: str
    events: list[tuple[int, bytes]]
    last: int
    ended: bool = False


class TaskAsked(Struct, frozen=True, array_like=True, tag="task-asked"):
    """For whoever runs a task: the client's input to it, as JSON texts; None where it is to be cancelled."""

    id: str
    answers: dict[str, bytes] | None


class TaskTold(Struct, frozen=True, array_like=True, tag="task-told"):
    """A task has changed; `state` is all that a client may know of it, a JSON object."""

    id: str
    state: bytes


Relay: TypeAlias = Told | Follow | Written | TaskAsked | TaskTold


class _Sent(Struct, frozen=True, array_like=True):
    sender: str
    relay: Relay


_PREFIX: Final = "r1."
"""With the version of the form: a process of another version, which has the same key, reads none of ours."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Sent).decode


def encode(sealer: Sealer, sender: str, relay: Relay) -> bytes:
    """A relay as JSON text."""
    return b'"%b"' % sealer.sign(_PREFIX, _encode(_Sent(sender, relay))).encode()


def decode(sealer: Sealer, data: bytes) -> tuple[str, Relay] | None:
    """Sender and relay; None for whatever we did not write. Never raises."""
    if len(data) < 2 or not (data.isascii() and data.startswith(b'"') and data.endswith(b'"')):
        return None
    payload = sealer.verify(_PREFIX, data[1:-1].decode())
    if payload is None:
        return None
    try:
        sent = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # Of another version of this server.
    return sent.sender, sent.relay


ENDED: Final = b""

WISHES: Final = ("logging/setLevel", "resources/subscribe", "resources/unsubscribe")
"""Requests of a session that decide what all its later ones, and its stream, are told."""


def cancels(message: Message) -> bool:
    return isinstance(message, Notification) and message.method == "notifications/cancelled"


def rendered(message: Request | Notification | Response | ErrorResponse) -> bytes:
    """The message as it goes over to the others."""
    match message:
        case Request(id=id, method=method, params=params):
            return jsonrpc.request(id, method, bytes(params))
        case Notification(method=method, params=params):
            return jsonrpc.notification(method, bytes(params))
        case Response(id=id, result=result):
            return jsonrpc.response(id, bytes(result))
        case _:
            return jsonrpc.error_response(message.id, message.error)
