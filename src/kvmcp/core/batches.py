"""The operations of one session on their way: what is due for the next batch, and what the backend has.

Knows whose operations are whose, not what becomes of the replies (`exchanges`).
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

from msgspec import Struct

from kvmcp.core.commands import RunBatch, Ticket
from kvmcp.core.exchange import Exchange

Replied: TypeAlias = tuple[Exchange, tuple[object, ...]]
"""An exchange and the replies to its operations, in order."""


class Batch(Struct):
    """Exchanges whose operations go to the backend together; each has `counts` of them, in order."""

    exchanges: list[Exchange]
    counts: list[int]
    ops: list[object]
    """Empty again once they were taken."""
    size: int = 0
    """How many were taken."""

    def shares(self, replies: Sequence[object]) -> Iterator[Replied]:
        """Each exchange with its own of `replies`, which are as many as operations were taken."""
        rest: Iterator[object] = iter(replies)
        if self.size == len(self.exchanges) and 0 not in self.counts:
            shares: Iterable[tuple[object, ...]] = zip(rest)  # One each, as nearly always.
        else:
            shares = (tuple(islice(rest, count)) for count in self.counts)
        return zip(self.exchanges, shares, strict=True)


class Batches:
    """The batches of one session; each takes the operations of at most `limit` calls."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.due = Batch([], [], [])
        """What the next `RunBatch` is made of."""
        self.out: dict[Ticket, Batch] = {}
        """What the backend has."""
        self.calls_out = 0
        """Of how many calls."""

    def take(self, ticket: Ticket) -> RunBatch:
        """What is due, for the backend; what is above the limit stays due."""
        batch, limit = self.due, self._limit
        if len(batch.exchanges) > limit:
            size = sum(batch.counts[:limit])
            self.due = Batch(batch.exchanges[limit:], batch.counts[limit:], batch.ops[size:])
            batch = Batch(batch.exchanges[:limit], batch.counts[:limit], batch.ops[:size])
        else:
            self.due = Batch([], [], [])
        ops, batch.ops = batch.ops, []
        batch.size = len(ops)
        self.out[ticket] = batch
        self.calls_out += len(batch.exchanges)
        return RunBatch(ticket, ops)

    def close(self, ticket: Ticket) -> None:
        """The backend is done with a batch."""
        self.calls_out -= len(self.out.pop(ticket).exchanges)
