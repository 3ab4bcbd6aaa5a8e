"""Task ids that say whose a task is and since when, so that any process can tell a real one from a guess.

Sealed like `requestState`: "task ids MUST be unguessable". What has become of the task only the process that runs
it knows, and what it keeps for the others.
"""

import hashlib
from typing import Final

import msgspec
from msgspec import Struct

from kvmcp.core.plan import Caller
from kvmcp.core.service import Service

_PREFIX: Final = "tk_"

_MAX_CHARACTERS: Final = 512
"""An id as we make it has less than half of that; more is not worth the work of checking it."""


class _Sealed(Struct, frozen=True, array_like=True):
    nonce: str
    owner: str
    created: float
    """Unix time."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Sealed).decode


def seal(service: Service, caller: Caller, now: float) -> str:
    """An id for a task that begins now."""
    body = _Sealed(service.token(), _owner(caller), service.sealer.wall(now))
    return service.sealer.sign(_PREFIX, _encode(body))


def age(service: Service, id: str, caller: Caller, now: float) -> float | None:
    """How long ago, in seconds, `caller`'s task began; None where it is none of theirs, or too old to be known."""
    payload = service.sealer.verify(_PREFIX, id) if len(id) <= _MAX_CHARACTERS else None
    if payload is None:
        return None
    try:
        body = _decode(payload)
    except msgspec.DecodeError:
        return None  # Of another version of this server, which has the same key.
    seconds = service.sealer.wall(now) - body.created
    is_theirs = body.owner == _owner(caller)
    return seconds if is_theirs and seconds < service.limits.task_lifetime else None


def _owner(caller: Caller) -> str:
    """Identifies a principal without naming it."""
    return hashlib.sha256(caller.principal.encode()).hexdigest()[:16]
