"""Results that are one number or one flag, and what a dry run counts in their place."""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, TypeAlias, cast

from msgspec import Meta, Struct

from kvmcp.backends.ops import Reply
from kvmcp.core.plan import Context
from kvmcp.tools.answers import Rendered, of_type
from kvmcp.tools.definition import Reader

MAX_POSITION: Final = 2**32
"""Positions, ranks and offsets: no list of Redis has more elements."""

Position: TypeAlias = Annotated[int, Meta(ge=-MAX_POSITION, le=MAX_POSITION)]
"""Negative ones count from the end."""
Offset: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_POSITION)]


class Told(Reader, frozen=True):
    """Reads a number that the store replied; `more` is what a dry run has not added."""

    result: Callable[[int], Struct]
    more: int = 0

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return self.result(of_type(replies[0], int) + self.more)


class Flagged(Reader, frozen=True):
    """Reads a flag that the store replied."""

    result: Callable[[bool], Struct]

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return self.result(of_type(replies[0], bool))


class Counted(Reader, frozen=True):
    """Counts which of the things that were asked for there are, or are not."""

    result: Callable[[int], Struct]
    there: bool = True

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return self.result(sum(flag is self.there for flag in flags_of(replies[0])))


def flags_of(reply: Reply) -> tuple[bool, ...]:
    """Which of several things there are: they are told as True or False, or as what they are and None."""
    found = cast(tuple[object, ...], of_type(reply, tuple))
    return tuple(each is not None and each is not False for each in found)
