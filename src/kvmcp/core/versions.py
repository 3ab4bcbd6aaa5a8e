"""The revisions of MCP that are spoken, and which era each belongs to."""

from typing import Final, Literal

LegacyVersion = Literal["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
ModernVersion = Literal["2026-07-28"]

LEGACY: Final[tuple[LegacyVersion, ...]] = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""Opened by `initialize`, oldest first. Dated strings compare in order of time."""

MODERN: Final[tuple[ModernVersion, ...]] = ("2026-07-28",)
"""Stateless; each request carries its version."""

LATEST_LEGACY: Final[LegacyVersion] = "2025-11-25"
LATEST_MODERN: Final[ModernVersion] = "2026-07-28"

BATCHING: Final = "2025-03-26"
"""The one revision in which a receiver MUST accept JSON-RPC batches."""


def negotiate(requested: str) -> LegacyVersion:
    """The revision to answer an `initialize` with: the requested one if served, else our latest legacy one."""
    for version in LEGACY:
        if version == requested:
            return version
    return LATEST_LEGACY
