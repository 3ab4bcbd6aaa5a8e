"""What a server says of itself to a model: when to use which of its tools. Hosts often show nothing else at first."""

from collections.abc import Collection
from typing import Final

MAX_INSTRUCTIONS: Final = 2048
"""Bytes. Some hosts cut what is longer."""

SHARED: Final = "A key-value store that is shared with other agents and outlives this conversation."
PRIVATE: Final = (
    "A key-value store of this server process: nobody else sees it, and it ends with the process."
)

_FIRST: Final = (
    "Keys are UTF-8 strings, values any JSON: send objects as objects. A missing key is an answer (found: false), not "
    "an error."
)
_HINTS: Final = {
    "redis_get": "redis_get reads a value with its etag; redis_keys finds keys.",
    "redis_set": "Give a ttl to what need not stay. Where others may write too, send the etag of redis_get as if_match of redis_set; on CONFLICT read "
    "again, decide again, write again. if_absent claims a key that nobody has.",
    "redis_hset": "Records of which several agents write different parts: hashes (redis_hset, redis_hgetall).",
    "redis_rpush": "Queues: redis_rpush and redis_lpop; each element goes to one caller.",
    "redis_session_create": "State of a task or conversation, to come back to or to hand over: redis_session_create, "
    "then keep the session_id; SESSION_NOT_FOUND means to begin a new one.",
    "redis_publish": "News for other agents: redis_publish; they read it by redis_subscribe.",
    "redis_subscribe": "With the cursor of the result before redis_subscribe misses nothing; its timeout waits.",
    "redis_multi": "Changes that belong together: redis_multi, all or nothing.",
    "redis_json_merge": "Long JSON values: redis_json_get reads a part by its path, redis_json_merge changes members.",
    "lease_acquire": "Only one agent at a time: lease_acquire, and its fencing token with what you write.",
    "queue_claim": "Work that must not get lost when an agent dies: queue_claim, queue_ack.",
    "barrier_wait": "To begin together: barrier_wait.",
    "kv_wait": "To await a change: kv_wait, instead of reading again and again.",
}
"""By the tool that has to be offered."""
_LAST: Final = (
    "Errors carry a code, what was wrong and what to do; retryable says whether the same call can help. After "
    "UNKNOWN_OUTCOME read first. Long results are cut between values and say how to go on."
)
_DRY_RUN: Final = "Every write takes dry_run: true, which only says what would happen."


def instructions(offered: Collection[str], *, shared: bool) -> str:
    """The text for the tools of these names; `shared`: whether the store outlives the process."""
    said = [SHARED if shared else PRIVATE, _FIRST]
    said += [hint for name, hint in _HINTS.items() if name in offered]
    if any(name in offered for name in ("redis_set", "redis_hset", "redis_multi")):
        said.append(_DRY_RUN)
    return " ".join((*said, _LAST))
