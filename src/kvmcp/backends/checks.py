"""What every store refuses whatever it holds, in the same words: sizes, times to live, numbers of keys. Pure."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from kvmcp.backends.ops import (
    MAX_BATCH_KEYS,
    MAX_KEY_BYTES,
    MAX_TTL_SECONDS,
    MAX_VALUE_BYTES,
    Code,
    Delete,
    Exists,
    Expire,
    Failure,
    Get,
    NsKey,
    Publish,
    Set,
    Single,
    Ttl,
)

MAX_TTL_MS: Final = MAX_TTL_SECONDS * 1000


def key_bytes(name: str) -> int:
    """Length as UTF-8. Total even for lone surrogates, which are refused long before they come here."""
    return len(name) if name.isascii() else len(name.encode("utf-8", "surrogatepass"))


def set_fault(op: Set) -> Failure | None:
    fault = _data_fault(op.key, op.value, "value")
    return fault if fault is not None or op.ttl_ms is None else _ttl_fault(op.ttl_ms)


def publish_fault(op: Publish) -> Failure | None:
    return _data_fault(op.channel, op.message, "message")


def expire_fault(op: Expire) -> Failure | None:
    return _ttl_fault(op.ttl_ms)


def keys_fault(op: Delete | Exists) -> Failure | None:
    if len(op.keys) > MAX_BATCH_KEYS:
        return too_large(f"{len(op.keys)} keys in one operation, limit is {MAX_BATCH_KEYS}")
    return None


def _no_fault(op: Get | Ttl) -> None:
    """A read of one key takes any key: one that is too long does not exist."""


def _data_fault(key: NsKey, data: bytes, what: str) -> Failure | None:
    if len(data) > MAX_VALUE_BYTES:
        return too_large(f"{what} of {len(data)} bytes, limit is {MAX_VALUE_BYTES}")
    if key_bytes(key.name) > MAX_KEY_BYTES:
        return too_large(f"key of {key_bytes(key.name)} bytes, limit is {MAX_KEY_BYTES}")
    return None


def _ttl_fault(ttl_ms: int) -> Failure | None:
    if 1 <= ttl_ms <= MAX_TTL_MS:
        return None
    return wrong(f"time to live of {ttl_ms} ms, must be from 1 to {MAX_TTL_MS}")


FAULTS: Final[dict[type[Single], Callable[[Any], Failure | None]]] = {
    Get: _no_fault,
    Set: set_fault,
    Delete: keys_fault,
    Exists: keys_fault,
    Ttl: _no_fault,
    Expire: expire_fault,
    Publish: publish_fault,
}
"""Why an operation would be refused whatever the store holds. Any: a dict cannot say that its key's type is the argument's."""


def ops_fault(ops: Sequence[Single]) -> Failure | None:
    """Why operations would be refused as a whole."""
    return next((fault for op in ops if (fault := FAULTS[type(op)](op)) is not None), None)


def too_large(message: str) -> Failure:
    return Failure(Code.TOO_LARGE, message, retryable=False)


def wrong(message: str) -> Failure:
    return Failure(Code.REDIS_ERROR, message, retryable=False)
