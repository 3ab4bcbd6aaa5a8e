"""How a client finds out which era and revision a server speaks (reference: MCP, versioning).

        auto ───▸ probe ─┬─ DiscoverResult ─────────────────────▸ modern
                    ▴    ├─ -32022 with a version we know ──▸ probe or initialize with that version
                    │    └─ any other error, or silence ────▸ initialize
                    └─────────────────────────────────────────┐    │
        legacy ─▸ initialize ─┬─ a version we know ─▸ legacy  │ ◂──┘
                              └─ a refusal that names versions ┘

The fallback is not keyed to one error code ("MUST NOT"): legacy servers answer an unknown method in many ways.
Only -32022 proves a modern server; it ends the fallback. An answer that comes after its request was given up
finds its id gone.
"""

from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from kvmcp.core import jsonrpc
from kvmcp.core.client.answers import Complete, newest_shared, read_modern
from kvmcp.core.client.calls import Calls
from kvmcp.core.client.events import Connected, ConnectionFailed
from kvmcp.core.client.profile import ClientProfile
from kvmcp.core.commands import Ticket
from kvmcp.core.errors import INVALID_PARAMS, UNSUPPORTED_VERSION, RpcError
from kvmcp.core.jsonrpc import Id
from kvmcp.core.versions import LATEST_MODERN, LEGACY, MODERN
from kvmcp.core.wire.common import ClientCapabilities
from kvmcp.core.wire.params import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    PROTOCOL_VERSION,
    Era,
)
from kvmcp.core.wire.results import (
    DiscoverResult,
    InitializeResult,
    SupportedVersions,
    read,
    read_implementation,
)

Mode: TypeAlias = Literal["auto"] | Era
Outcome: TypeAlias = Connected | ConnectionFailed

OPENING: Final[Ticket] = 0
"""The deadline of the request that is out; no other ticket is 0."""

_encode = msgspec.json.Encoder().encode


def envelope(profile: ClientProfile, version: str) -> dict[str, Raw]:
    """What `_meta` of every modern request says."""
    return {
        PROTOCOL_VERSION: Raw(_encode(version)),
        CLIENT_INFO: Raw(_encode(profile.info)),
        CLIENT_CAPABILITIES: Raw(_encode(profile.declared(version))),
    }


class Opening:
    """From `connect` to `Connected` or `ConnectionFailed`; methods give that outcome once it is known."""

    def __init__(self, profile: ClientProfile, calls: Calls, out: list[bytes]) -> None:
        self._profile = profile
        self._limits = profile.limits
        self._calls = calls
        self._out = out
        self._mode: Mode = "auto"
        self._probing = False
        self._attempts = 0
        self.id: Id | None = None
        """Of the request that is out."""

    @property
    def may_be_legacy(self) -> bool:
        return self._mode != "modern"

    def begin(self, mode: Mode | Connected, now: float) -> Outcome | None:
        """`mode` may be what an earlier connection to the same server found out."""
        if isinstance(mode, Connected):
            if mode.version in MODERN:
                return mode
            if mode.version in LEGACY:
                return self._initialize(mode.version, now)
            mode = "auto"
        self._mode = mode
        if mode == "legacy":
            return self._initialize(self._profile.legacy_version, now)
        return self._probe(LATEST_MODERN, now)

    # --- asking ---

    def _probe(self, version: str, now: float) -> Outcome | None:
        self._probing = True
        params = _encode({"_meta": envelope(self._profile, version)})
        return self._attempt("server/discover", params, self._limits.probe_timeout, now)

    def _initialize(self, version: str, now: float) -> Outcome | None:
        self._probing = False
        params = {
            "protocolVersion": version,
            "capabilities": self._profile.declared(version),
            "clientInfo": self._profile.info_for(version),
        }
        return self._attempt("initialize", _encode(params), self._limits.initialize_timeout, now)

    def _attempt(self, method: str, params: bytes, timeout: float, now: float) -> Outcome | None:
        if self._attempts >= self._limits.opening_attempts:
            return ConnectionFailed(f"no agreement on a version after {self._attempts} requests")
        self._attempts += 1
        self.id = self._calls.mint_id()
        self._calls.deadlines.set(OPENING, now + timeout)
        self._out.append(jsonrpc.request(self.id, method, params))
        return None

    def end(self) -> None:
        """Nothing is waited for."""
        self.id = None
        self._calls.deadlines.clear(OPENING)

    # --- answers ---

    def receive(self, result: Raw, now: float) -> Outcome | None:
        """The request that was out has a result."""
        self.end()
        return self._discovered(result, now) if self._probing else self._initialized(result)

    def receive_error(self, error: RpcError, now: float) -> Outcome | None:
        """The request that was out was refused."""
        self.end()
        refused = None if isinstance(error.data, UnsetType) else read(error.data, SupportedVersions)
        supported = () if refused is None else refused.supported
        if error.code == UNSUPPORTED_VERSION:
            return self._retry(supported, error, now)
        if self._probing:
            return self._fall_back("the server refused server/discover", error, now)
        # A legacy server that negotiates nothing at all uses this code.
        if error.code == INVALID_PARAMS and supported:
            return self._retry(supported, error, now)
        return ConnectionFailed("the server refused initialize", error)

    def give_up(self, now: float) -> Outcome | None:
        """No answer came in time."""
        self.end()
        if self._probing:
            return self._fall_back("the server did not answer server/discover in time", None, now)
        return ConnectionFailed("the server did not answer initialize in time")

    def _discovered(self, result: Raw, now: float) -> Outcome | None:
        found = read(result, DiscoverResult)
        meaning = read_modern("server/discover", result, ClientCapabilities(), state_bytes=0)
        if found is None or not isinstance(meaning, Complete):
            return self._fall_back("the answer to server/discover is none", None, now)
        version = newest_shared(found.supported_versions, MODERN)
        if version is None:
            return self._retry(found.supported_versions, None, now)
        server = read_implementation(found.meta.server_info)
        return Connected("modern", version, server, found.capabilities, _given(found.instructions))

    def _initialized(self, result: Raw) -> Outcome:
        found = read(result, InitializeResult)
        if found is None:
            return ConnectionFailed("the answer to initialize is none")
        version = found.protocol_version
        if version not in LEGACY:
            # "Client that cannot live with the answer SHOULD disconnect."
            return ConnectionFailed(
                f"the server chose version {version[:40]!r}, which this client does not speak"
            )
        self._out.append(jsonrpc.notification("notifications/initialized"))
        server = read_implementation(found.server_info)
        return Connected("legacy", version, server, found.capabilities, _given(found.instructions))

    def _retry(self, supported: tuple[str, ...], error: RpcError | None, now: float) -> Outcome | None:
        """Once more, with a version that the server names."""
        modern = newest_shared(supported, MODERN)
        if modern is not None and self._mode != "legacy":
            self._mode = "modern"
            return self._probe(modern, now)
        legacy = newest_shared(supported, LEGACY)
        if legacy is not None and self._mode != "modern":
            return self._initialize(legacy, now)
        return ConnectionFailed("no version in common", error)

    def _fall_back(self, reason: str, error: RpcError | None, now: float) -> Outcome | None:
        if self._mode == "modern":
            return ConnectionFailed(reason, error)
        return self._initialize(self._profile.legacy_version, now)


def _given(text: str | UnsetType) -> str | None:
    return None if text is UNSET else text
