"""How a Redis store behaves, apart from where it is."""

import math
import random
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

DEFAULT_DB: Final = 1


class RedisOptions(Struct, frozen=True, kw_only=True):
    """Times are seconds. A part of the URL (user, password, database) wins over the option of that name."""

    key_prefix: str = "kvmcp"
    """The first part of every key and channel: `[A-Za-z0-9._-]+`."""
    db: int = DEFAULT_DB
    """Not used by Cluster, which has database 0 only."""
    username: str = ""
    password: str = ""
    password_file: str = ""
    """Read at each connection, so that a rotated password needs no restart; one trailing newline is cut."""
    sentinel_username: str = ""
    sentinel_password: str = ""
    """For the Sentinels themselves, which usually have none."""
    max_connections: int = 32
    """Sockets at once, over all servers. One carries the work of a server; a second one its watches."""
    op_timeout: float = 5.0
    """From `execute` to its replies. Redis answers in well under a millisecond; five seconds is a stall."""
    connect_timeout: float = 2.0
    """Name, socket, TLS and greeting together."""
    patience: float = 0.5
    """How long calls wait for a lost connection before they are refused at once until it is back."""
    reconnect_pause: float = 0.25
    """The longest pause between attempts to connect. It bounds how late a server that is back is noticed, and how
    often one that is gone is asked: the first success comes well within 500 ms."""
    watch_heartbeat: float = 15.0
    """After so long without a sign of life a watch's connection is asked for one. With `op_timeout` it bounds for how
    long a watch is blind, and does not know it, behind a connection that was dropped without a word."""
    tls_ca: str = ""
    """PEM file of the authorities to trust; empty for the system's."""
    tls_cert: str = ""
    """PEM file of the client's certificate."""
    tls_key: str = ""
    tls_verify: bool = True
    client_name: str = "kvmcp"
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random
    """Uniform in [0, 1): spreads reconnections."""

    def __repr__(self) -> str:
        """Without secrets: options end up in logs."""
        return f"RedisOptions(key_prefix={self.key_prefix!r}, db={self.db}, username={self.username!r}, …)"


def check_options(options: RedisOptions) -> None:
    """Raises ValueError, one line."""
    prefix = options.key_prefix
    if not prefix.isascii() or not prefix or not all(c.isalnum() or c in "._-" for c in prefix):
        raise ValueError("key prefix: one or more of A-Z a-z 0-9 . _ - are allowed")
    for name in ("op_timeout", "connect_timeout", "patience", "reconnect_pause", "watch_heartbeat"):
        seconds = getattr(options, name)
        if not (math.isfinite(seconds) and seconds > 0):
            raise ValueError(f"{name}: {seconds} seconds, must be above 0")
    if options.max_connections < 2:
        raise ValueError(f"max_connections: {options.max_connections}, must be at least 2 (work and watches)")
    if options.db < 0:
        raise ValueError(f"db: {options.db}, must not be negative")
