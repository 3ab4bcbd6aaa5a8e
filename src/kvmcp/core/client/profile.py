"""What all sessions of one client share: who it is, what it offers to servers, and its limits."""

from typing import Final

from msgspec import UNSET, Raw, Struct
from msgspec.structs import replace

from kvmcp.core import projection
from kvmcp.core.limits import Limits
from kvmcp.core.versions import LATEST_LEGACY, MODERN, LegacyVersion
from kvmcp.core.wire.common import ClientCapabilities, ElicitForm, Implementation


class ClientLimits(Struct, frozen=True):
    """What a server may ask of a client at most, and how long it is waited for. Sizes are bytes, times seconds."""

    wire: Limits = Limits()
    """Size, depth and batch length of messages: what our own servers take is what our clients take."""
    open_requests: int = 1024
    """Requests without an answer, listens among them. As many as our servers keep open on one connection."""
    server_requests: int = 64
    """Requests of the server that wait for the application. Each may be a dialog for a person: 64 is plenty."""
    rounds: int = 16
    """How often one request is repeated because the server wants more input. People give up long before."""
    state_bytes: int = 256 * 1024
    """A `requestState` that is carried back: four times what our own servers seal."""
    pages: int = 1000
    """Pages of one list: with 250 items each, more than any host can show."""
    opening_attempts: int = 4
    """To find out how to talk: probe, probe with the server's version, initialize, and one to spare."""
    probe_timeout: float = 5.0
    """Until a silent server counts as legacy. It answers at once, but its process may have to start first."""
    initialize_timeout: float = 60.0
    """For the answer to `initialize`: some servers are installed by the command that starts them."""
    request_timeout: float = 60.0
    """For the answer to a request, or for a sign of progress, where the caller names no other time."""
    request_cap: float = 900.0
    """The longest wait for one answer, whatever progress is reported: a ten-minute form and some work."""


class ClientProfile:
    """One client, without any connection.

    `capabilities` are what servers may ask of it; an extension is in force where its name is among them.
    `legacy_version` is what `initialize` asks for.
    """

    def __init__(
        self,
        info: Implementation,
        capabilities: ClientCapabilities | None = None,
        *,
        legacy_version: LegacyVersion = LATEST_LEGACY,
        limits: ClientLimits | None = None,
    ) -> None:
        self.info = info
        self.capabilities = capabilities if capabilities is not None else ClientCapabilities()
        self.legacy_version: LegacyVersion = legacy_version
        self.limits = limits if limits is not None else ClientLimits()

    def info_for(self, version: str) -> Implementation:
        """Who we are, in the words of a revision."""
        return projection.trim(self.info, version)

    def declared(self, version: str) -> ClientCapabilities:
        """What servers of a revision are told that they may ask, and are held to."""
        if version in MODERN:
            # `roots.listChanged` went with the legacy era.
            roots = self.capabilities.roots
            return replace(self.capabilities, roots=roots if roots is UNSET else _EMPTY)
        known = projection.known_capabilities(self.capabilities, version)
        # Before 2025-11-25 elicitation means forms: who can only open URLs has none.
        if known.offers(_FORM) and not self.capabilities.offers(_FORM):
            return replace(known, elicitation=UNSET)
        return known


_EMPTY: Final = Raw(b"{}")
_FORM: Final = ElicitForm("", b"")
