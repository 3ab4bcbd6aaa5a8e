"""What an `Atomic` has changed so far, so that it can be taken back."""

from msgspec import Struct

from kvmcp.backends.memory.keyspace import Entry, Held
from kvmcp.backends.ops import Message


class Before(Struct, frozen=True, gc=False):
    """An entry as it was."""

    value: bytes | None
    held: Held | None
    weight: int
    deadline: float


class Journal:
    """Kept while an `Atomic` runs. Events wait here as well, for what is taken back is not told."""

    __slots__ = ("before", "changed", "messages")

    def __init__(self) -> None:
        self.before: dict[int, tuple[Entry, Before | None]] = {}
        """By identity; None for an entry that was made since."""
        self.changed: dict[tuple[str, str], None] = {}
        self.messages: list[Message] = []

    def keep(self, entry: Entry, copy: bool) -> None:
        """Remember the entry before its first change; `copy` where what it holds is about to change in place."""
        if id(entry) in self.before:
            return
        held = entry.held.copy() if copy and entry.held is not None else entry.held
        self.before[id(entry)] = (entry, Before(entry.value, held, entry.weight, entry.deadline))

    def made(self, entry: Entry) -> None:
        self.before.setdefault(id(entry), (entry, None))
