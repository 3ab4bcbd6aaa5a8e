"""Legacy session ids that say themselves what a session is, so that any process can serve it.

Sealed like `requestState`: a client can read an id, but not make one. It says what `initialize` settled, whose
session it is and until when; it never proves who the client is ("session ids are never authentication").
"""

import hashlib
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct

from kvmcp.core.admission import Admitted
from kvmcp.core.legacy import LegacyDialect
from kvmcp.core.plan import Caller, Context
from kvmcp.core.service import Service
from kvmcp.core.versions import LegacyVersion
from kvmcp.core.wire.common import (
    ClientCapabilities,
    ElicitationCapability,
    Implementation,
    SamplingCapability,
)

_PREFIX: Final = "s2."

_MAX_BYTES: Final = 1024
"""An id as we make it has at most half of that; more is not worth the work of checking it."""

_NAME_CHARACTERS: Final = 32
"""What is kept of a client's name and version, which are for logs only."""

_PRESENT: Final = Raw(b"{}")


class _Sealed(Struct, frozen=True, array_like=True):
    nonce: str
    version: LegacyVersion
    offered: tuple[str, ...]
    owner: str
    expires: float
    name: str
    client_version: str
    namespace: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Sealed).decode


class Opened(Struct, frozen=True):
    """What a session id says."""

    version: LegacyVersion
    capabilities: ClientCapabilities
    info: Implementation
    owner: str
    expires: float
    """On the driver's clock."""
    namespace: str

    def admitted(self, service: Service, caller: Caller) -> Admitted:
        """Era and context of a request of this session."""
        context = Context(caller, self.version, self.capabilities, self.info)
        return Admitted(service.legacy(self.version), context)


def seal(service: Service, dialect: LegacyDialect, context: Context, now: float) -> str:
    """An id for the session that `initialize` settled as `dialect` and `context`."""
    info = context.client_info
    body = _Sealed(
        nonce=service.token(),
        version=dialect.version,
        offered=_offered(context.client_capabilities),
        owner=_owner(context.caller),
        expires=service.sealer.wall(now) + service.limits.session_lifetime,
        name="" if info is None else info.name[:_NAME_CHARACTERS],
        client_version="" if info is None else info.version[:_NAME_CHARACTERS],
        namespace=context.caller.namespace,
    )
    return service.sealer.sign(_PREFIX, _encode(body))


def open_sealed(service: Service, id: str, caller: Caller, now: float) -> Opened | None:
    """What `id` says; None where it is none of ours, too old, or somebody else's."""
    opened = read_sealed(service, id, now)
    return opened if opened is not None and opened.owner == _owner(caller) else None


def read_sealed(service: Service, id: str, now: float) -> Opened | None:
    """What `id` says, whoever's it is; None where it is none of ours, or too old."""
    payload = service.sealer.verify(_PREFIX, id) if len(id) <= _MAX_BYTES else None
    if payload is None:
        return None
    try:
        body = _decode(payload)
    except msgspec.DecodeError:
        return None  # Of another version of this server, which has the same key.
    left = body.expires - service.sealer.wall(now)
    if left <= 0:
        return None
    info = Implementation(body.name, body.client_version)
    return Opened(body.version, _capabilities(body.offered), info, body.owner, now + left, body.namespace)


def _owner(caller: Caller) -> str:
    """Identifies a caller without naming the principal: ids end up in logs."""
    return hashlib.sha256(caller.identity.encode()).hexdigest()[:16]


def _offered(declared: ClientCapabilities) -> tuple[str, ...]:
    """The capabilities that decide what may be asked, by name; what else a client declared is not kept."""
    names: list[str] = []
    if declared.roots is not UNSET:
        names.append("roots")
    if declared.sampling is not UNSET:
        names += ["sampling", *_members(declared.sampling, "context", "tools")]
    if declared.elicitation is not UNSET:
        names += ["elicitation", *_members(declared.elicitation, "form", "url")]
    return tuple(names)


def _members(declared: Struct, *names: str) -> list[str]:
    return [name for name in names if getattr(declared, name) is not UNSET]


def _capabilities(offered: tuple[str, ...]) -> ClientCapabilities:
    given = dict.fromkeys(offered, _PRESENT)
    sampling = SamplingCapability(given.get("context", UNSET), given.get("tools", UNSET))
    elicitation = ElicitationCapability(given.get("form", UNSET), given.get("url", UNSET))
    return ClientCapabilities(
        roots=given.get("roots", UNSET),
        sampling=sampling if "sampling" in given else UNSET,
        elicitation=elicitation if "elicitation" in given else UNSET,
    )
