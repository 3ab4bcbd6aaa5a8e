"""What processes that serve the same sessions tell each other: answers, cancellations, wishes, ends.

A session's id is enough to serve its requests anywhere. But the answer to a question goes to whichever process
the client's next POST reaches, and only the one that asked can use it.
"""

from typing import Final

from msgspec import Struct

from kvmcp.core import jsonrpc
from kvmcp.core.jsonrpc import ErrorResponse, Message, Notification, Request, Response


class Relay(Struct, frozen=True):
    """For the other processes: a message that a client sent in a session; empty where the session has ended.

    To be believed only from processes that share the sealing key.
    """

    session: str
    message: bytes


ENDED: Final = b""

_WISHES: Final = ("logging/setLevel", "resources/subscribe", "resources/unsubscribe")


def concerns_all(message: Message) -> bool:
    """Whether other processes must know of a request or a notification, too."""
    if isinstance(message, Request):
        return message.method in _WISHES
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
