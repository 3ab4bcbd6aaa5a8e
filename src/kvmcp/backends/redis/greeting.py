"""The first commands on a connection, and what their answers mean. Pure."""

import re
from collections.abc import Sequence
from typing import Final

import hiredis
from msgspec import Struct

from kvmcp.backends.ops import Failure
from kvmcp.backends.redis.errors import (
    BY_CLASS,
    GARBAGE,
    NO_DATABASE,
    NOT_PRIMARY,
    TOO_OLD,
    UNKNOWN_CLASS,
    class_of,
    failure_of,
)
from kvmcp.backends.redis.resp import Lost, Slot, pack
from kvmcp.backends.redis.script import LOAD_SCRIPT

OLDEST: Final = (7, 0)

_VERSION: Final = re.compile(rb"([0-9]{1,4})\.([0-9]{1,4})")
_RUN_ID: Final = re.compile(rb"\nrun_id:([0-9a-f]{8})")
_STARTING: Final = frozenset(("LOADING", "MASTERDOWN"))


class Refused(Exception):
    """The server cannot be used (now, or with these settings)."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Greeting(Struct, frozen=True, kw_only=True):
    """What to say first."""

    username: str = ""
    password: str = ""
    db: int = 0
    name: str = "kvmcp"
    primary_only: bool = False
    """Whether a replica must be refused: where Sentinel says who the primary is, it may be wrong."""
    script: bool = True

    def __repr__(self) -> str:
        """Without secrets."""
        return f"Greeting(username={self.username!r}, db={self.db}, name={self.name!r})"

    def commands(self) -> tuple[bytes, ...]:
        """HELLO with the credentials, SELECT, CLIENT SETNAME, ROLE, PING, and the script for later."""
        login = ("AUTH", _bytes(self.username) or "default", _bytes(self.password)) if self.password else ()
        return (
            pack("HELLO", 3, *login),
            pack("SELECT", self.db),
            pack("CLIENT", "SETNAME", _bytes(self.name)),
            pack("ROLE"),
            pack("PING"),
            pack("INFO", "server"),
            *((LOAD_SCRIPT,) if self.script else ()),
        )

    def check(self, replies: Sequence[Slot]) -> str:
        """The server process's run id. Raises `Refused`. ROLE, INFO, SETNAME, PING and the script may be forbidden to the user; that is no fault."""
        hello, select, _, role, ping, info = replies[:6]
        if isinstance(hello, hiredis.ReplyError):
            raise Refused(_hello_failure(hello))
        if not isinstance(hello, dict):
            raise Refused(GARBAGE)
        if _version(hello.get(b"version")) < OLDEST:
            raise Refused(TOO_OLD)
        if isinstance(select, hiredis.ReplyError):
            raise Refused(_select_failure(select))
        if isinstance(ping, hiredis.ReplyError) and class_of(ping) in _STARTING:
            raise Refused(failure_of(ping))
        if self.primary_only and isinstance(role, list) and role[:1] != [b"master"]:
            raise Refused(NOT_PRIMARY)
        if any(isinstance(reply, Lost) for reply in replies):
            raise Refused(GARBAGE)
        run_id = _RUN_ID.search(info) if isinstance(info, bytes) else None
        return run_id[1].decode() if run_id else ""


def _bytes(text: str) -> bytes:
    """Undoes what reading a password's file does with bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _hello_failure(error: hiredis.ReplyError) -> Failure:
    kind = class_of(error)
    if kind == "ERR":
        return _busy_or_old(str(error))
    return failure_of(error)


def _busy_or_old(text: str) -> Failure:
    if "max number of clients" in text:
        return Failure(UNKNOWN_CLASS.code, "Redis has no room for another connection", retryable=True)
    return TOO_OLD if "unknown command" in text else UNKNOWN_CLASS


def _select_failure(error: hiredis.ReplyError) -> Failure:
    return BY_CLASS.get(class_of(error), NO_DATABASE)


def _version(value: object) -> tuple[int, ...]:
    """`7.0.15` as numbers; what cannot be read counts as new enough."""
    if not isinstance(value, bytes):
        return OLDEST
    numbers = _VERSION.match(value)
    return (int(numbers[1]), int(numbers[2])) if numbers else OLDEST
