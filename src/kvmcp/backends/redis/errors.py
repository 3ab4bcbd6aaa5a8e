"""What Redis's errors mean to a caller: one documented code each, and whether trying again can help.

Redis's own words never reach a caller: they may hold keys, values and names of users.
"""

import ssl
from typing import Final

import hiredis

from kvmcp.backends.faults import (
    NOT_A_STRING,
    NOT_AN_INTEGER,
    OVERFLOW,
    TOO_LONG,
    TOO_MANY,
    TOO_MANY_CLAIMS,
    TOO_MUCH,
    WRONG_TYPE,
)
from kvmcp.backends.ops import Code, Failure

REDIRECTIONS: Final = frozenset(("MOVED", "ASK", "TRYAGAIN"))
"""Cluster: the command did not run here; it is sent where it belongs."""
ELSEWHERE: Final = frozenset(("READONLY", "MASTERDOWN", "CLUSTERDOWN"))
"""Who the primary is has to be asked again."""


def _error(message: str, retryable: bool) -> Failure:
    return Failure(Code.REDIS_ERROR, message, retryable)


def _away(message: str) -> Failure:
    return Failure(Code.REDIS_NOT_CONNECTED, message, retryable=True)


BY_CLASS: Final[dict[str, Failure]] = {
    "OOM": Failure(
        Code.TOO_LARGE, "Redis has no memory left for this; delete some keys or let them expire", False
    ),
    "READONLY": _error(
        "this Redis became a replica and takes no writes; the new primary is being looked for", True
    ),
    "LOADING": _away("Redis is loading its data"),
    "MASTERDOWN": _away("this Redis is a replica that lost its primary"),
    "NOREPLICAS": _error("Redis takes no writes because too few replicas are in sync", True),
    "MISCONF": _error("Redis takes no writes because it cannot save to disk", True),
    "BUSY": _error("Redis is busy with a script", True),
    "NOAUTH": _error("Redis wants a password; none is configured", False),
    "WRONGPASS": _error("Redis refuses the user name or password", False),
    "NOPERM": _error("the Redis user may not run this command or use this key", False),
    "WRONGTYPE": WRONG_TYPE,
    "CLUSTERDOWN": _away("the Redis Cluster does not serve all slots"),
    "MOVED": _error("the key's slot moved again and again; the cluster is being changed", True),
    "ASK": _error("the key's slot is on the move; the cluster is being changed", True),
    "TRYAGAIN": _error("the keys' slot is on the move; the cluster is being changed", True),
    "CROSSSLOT": _error("the keys of one operation belong to more than one namespace", False),
    "NOSCRIPT": _error("Redis forgot the script in the middle of a batch", True),
    "NOTINT": NOT_AN_INTEGER,
    "NOTTEXT": NOT_A_STRING,
    "OVERFLOW": OVERFLOW,
    "TOOLONG": TOO_LONG,
    "TOOMANY": TOO_MANY,
    "TOOMUCH": TOO_MUCH,
    "TOOMANYCLAIMS": TOO_MANY_CLAIMS,
    "NOPROTO": _error("this server does not speak RESP3; Redis 7.0 or newer is needed", False),
}
"""Each error class that a caller may see, those of the script included. All of them mean that the command did not run."""

UNKNOWN_CLASS: Final = _error("Redis refused the command", False)
GARBAGE: Final = _error("what came from Redis was not its protocol", True)
REPLY_TOO_LARGE: Final = Failure(
    Code.TOO_LARGE, "what is stored there is larger than a reply may be; another program wrote it", False
)
REPLIES_TOO_LARGE: Final = Failure(
    Code.TOO_LARGE, "the answers to one batch are too large together; ask for fewer or smaller values", True
)
STRANGE_REPLY: Final = _error("Redis gave a reply of an unexpected kind", False)
CLOSED: Final = Failure(Code.REDIS_NOT_CONNECTED, "the store is closed", False)
CONNECTION_LOST: Final = _away("the connection to Redis was lost")
TIMED_OUT: Final = Failure(Code.TIMEOUT, "Redis did not answer in time", True)
CONNECT_TIMED_OUT: Final = _away("Redis cannot be reached: no answer to the connection in time")
TLS_TIMED_OUT: Final = _away("Redis cannot be reached: no answer in time; perhaps it does not speak TLS")
NOT_PRIMARY: Final = _away("this Redis is a replica; the primary is being looked for")
TOO_OLD: Final = _error("this server is too old; Redis 7.0 or newer is needed", False)
NO_PRIMARY: Final = _away("no Sentinel knows a primary of that name")
NO_CLUSTER: Final = _away("no node of the Redis Cluster tells who serves the slots")
NO_DATABASE: Final = _error("this Redis does not have the configured database number", False)


def class_of(error: hiredis.ReplyError) -> str:
    """The first word: Redis's error class."""
    return str(error).partition(" ")[0]


def failure_of_text(text: str) -> Failure:
    """The same for an error that the redis package raised; it drops the class of some."""
    lowered = text.lower()
    if "authentication required" in lowered:
        return BY_CLASS["NOAUTH"]
    if "invalid username-password" in lowered or "wrongpass" in lowered or "invalid password" in lowered:
        return BY_CLASS["WRONGPASS"]
    return BY_CLASS.get(text.partition(" ")[0], UNKNOWN_CLASS)


def failure_of(error: hiredis.ReplyError) -> Failure:
    return BY_CLASS.get(class_of(error), UNKNOWN_CLASS)


def lost_write(cause: Failure) -> Failure:
    """For a write that was sent and whose reply will not come."""
    return Failure(
        Code.UNKNOWN_OUTCOME,
        f"{cause.message}; whether the write was applied is unknown: read the key before trying again",
        retryable=False,
        outcome="unknown",
    )


def connect_failure(error: OSError) -> Failure:
    """Why no connection could be made, in one line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _error(f"TLS: the server's certificate is not trusted ({error.verify_message})", False)
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "protocol error").replace("_", " ").lower()
        return _error(f"TLS: the handshake with Redis failed ({reason})", False)
    return _away(f"Redis cannot be reached: {(error.strerror or type(error).__name__).lower()}")
