"""Failures that depend on what a store holds, in the same words for every store."""

from typing import Final

from kvmcp.backends.ops import (
    MAX_CLAIMS,
    MAX_COLLECTION,
    MAX_READ_BYTES,
    MAX_VALUE_BYTES,
    Code,
    Failure,
)


def too_large(message: str) -> Failure:
    return Failure(Code.TOO_LARGE, message, retryable=False)


def wrong(message: str) -> Failure:
    """The operation makes no sense, whatever the store holds."""
    return Failure(Code.REDIS_ERROR, message, retryable=False)


WRONG_TYPE: Final = Failure(
    Code.WRONG_TYPE,
    "the key holds another type than this operation works on; look at its type first, or use another key",
    retryable=False,
)
NOT_AN_INTEGER: Final = Failure(
    Code.WRONG_TYPE, "the value is not a whole number of 64 bits; nothing can be added to it", retryable=False
)
NOT_A_STRING: Final = Failure(
    Code.WRONG_TYPE, "the value is not a JSON string; nothing can be appended to it", retryable=False
)
OVERFLOW: Final = Failure(
    Code.OUT_OF_RANGE, "the result would be beyond the largest or smallest number", retryable=False
)
TOO_LONG: Final = too_large(f"the value would be larger than {MAX_VALUE_BYTES} bytes")
TOO_MANY: Final = too_large(
    f"the key would have more than {MAX_COLLECTION} fields or members; use several keys"
)
TOO_MUCH: Final = too_large(
    f"the reply would be larger than {MAX_READ_BYTES} bytes, or have more than {MAX_COLLECTION} items; ask for less"
)
TOO_MANY_CLAIMS: Final = too_large(f"{MAX_CLAIMS} elements of the queue are claimed; acknowledge some first")
