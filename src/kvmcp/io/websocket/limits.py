"""Every limit of a WebSocket connection, each with a unit and the reason for its number."""

from typing import Final

from msgspec import Struct

SUBPROTOCOL: Final = "mcp"

HEAD_BYTES: Final = 16 * 1024
"""The head of an upgrade, on both sides. What nginx and h11 take; a bearer token is one to four KiB of it."""


class WebSocketLimits(Struct, frozen=True):
    """What a peer may ask of one connection at most. All times are seconds.

    The size of a message is `kvmcp.core.limits.Limits.message_bytes`, that of what waits for the peer is bounded
    by the core and by reading no more while it does not read.
    """

    handshake_timeout: float = 5.0
    """From the connection to the end of the upgrade's head. One packet; more is a peer that trickles."""
    message_timeout: float = 30.0
    """From the first byte of a message to its last: 4 MiB at 1.1 Mbit/s (`Limits.body_timeout` is the same)."""
    ping_interval: float = 20.0
    """Silence after which a peer is pinged. Proxies cut a silent connection after 30 to 60 s."""
    pong_timeout: float = 20.0
    """From a ping to any sign of life. Twice the longest pause of a busy laptop or a mobile network."""
    idle_timeout: float = 86_400.0
    """Without a message in either direction, however alive the peer: a day, then it has been forgotten."""
    compression: bool = False
    """permessage-deflate. Off: it costs more time than it saves on most networks, and shows the lengths of secrets."""
    compress_from: int = 1024
    """Bytes; shorter messages are sent as they are: they fit into one packet anyway."""
