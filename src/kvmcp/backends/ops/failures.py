"""Why an operation did not succeed."""

from enum import StrEnum
from typing import Literal, TypeAlias

from msgspec import Struct


class Code(StrEnum):
    """Why an operation failed, in words that a model and a program can act on."""

    REDIS_NOT_CONNECTED = "REDIS_NOT_CONNECTED"
    REDIS_ERROR = "REDIS_ERROR"
    INVALID_PARAMS = "INVALID_PARAMS"
    WRONG_TYPE = "WRONG_TYPE"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    TOO_LARGE = "TOO_LARGE"
    TIMEOUT = "TIMEOUT"
    UNKNOWN_OUTCOME = "UNKNOWN_OUTCOME"


Outcome: TypeAlias = Literal["not_applied", "unknown"]


class Failure(Struct, frozen=True, gc=False):
    """An operation's reply when it did not succeed.

    `message` is for people and models and never holds a value. `outcome` says whether the store may have
    changed: `unknown` is only for writes whose reply was lost.
    """

    code: Code
    message: str
    retryable: bool
    outcome: Outcome = "not_applied"
