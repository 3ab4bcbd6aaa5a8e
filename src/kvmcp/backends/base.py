"""The contract of a store. `tests/backends/contract.py` is its meaning in tests; every backend passes it."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

from kvmcp.backends.ops import Event, NsKey, Op, Reply

Ops: TypeAlias = Sequence[Op]
"""A batch."""

Replies: TypeAlias = list[Reply]
"""As many as operations, in order."""

Done: TypeAlias = Callable[[Replies], None]
"""Takes the replies to a batch, in whichever task has them. It neither waits nor raises."""


class Backend(Protocol):
    """A key-value store.

    As many replies as operations, in order. Operations of one batch run in order; other batches may run
    between them, except inside `Atomic`. A fault of the store is a `Failure` in the place of the reply; an
    exception is a bug. Everything works on asyncio and on trio.
    """

    async def start(self) -> None:
        """Begin; returns at once. A store that cannot be reached yet answers with failures until it can.

        After `aclose` it begins anew, on whichever event loop runs then.
        """
        ...

    async def aclose(self) -> None:
        """End connections and background work. Later calls answer `REDIS_NOT_CONNECTED`."""
        ...

    @property
    def time_limit(self) -> float:
        """Seconds at which `execute` has answered at the latest, whatever the store does."""
        ...

    async def check(self) -> str | None:
        """Why the store cannot be used now, in words for an operator; None where it can."""
        ...

    def execute_soon(self, batch: Ops, done: Done) -> bool:
        """Run the operations without a task that waits: `done` gets the replies once, perhaps before this returns.

        False where the store cannot, and nothing was done: await `execute` then. What has begun so cannot be
        cancelled; like every call it has ended at `time_limit`.
        """
        ...

    async def execute(self, batch: Ops) -> Replies:
        """Run the operations. A cancelled call leaves the store usable; what was sent may still happen."""
        ...

    def watch(
        self, keys: Sequence[NsKey] = (), channels: Sequence[NsKey] = ()
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Changes of `keys` and messages on `channels`, from the moment the context is entered.

        A watcher that does not read loses the oldest events beyond a bounded queue and is told so by a
        `Gap` in their place; it never slows writers or other watchers.
        """
        ...
