"""Runs `WatchUntil`: look at the store after every change of what is watched, until there is an answer."""

from collections.abc import AsyncIterator, Sequence
from typing import cast

import anyio
from msgspec import Struct

from kvmcp.backends.base import Backend, Ops
from kvmcp.backends.ops import Event, NsKey
from kvmcp.core.plan import Answer, Context, WatchUntil
from kvmcp.core.wire.common import Result
from kvmcp.io.work import Work


class WatchJob(Struct, frozen=True):
    """`WatchUntil`, on a store."""

    watch: WatchUntil
    backend: Backend

    @property
    def context(self) -> Context:
        return self.watch.context

    async def run(self, work: Work) -> Result:
        watch, began = self.watch, anyio.current_time()
        end = began + watch.timeout
        # Opaque to the engine; who planned the watch and who runs it know the same vocabulary.
        keys, channels = cast(Sequence[NsKey], watch.keys), cast(Sequence[NsKey], watch.channels)
        async with self.backend.watch(keys, channels) as events:
            late, look_at = False, began + watch.pause
            while (answer := await self._look(late)) is None:
                ended = await _next_event(events, min(end, look_at))
                now = anyio.current_time()
                late = ended or now >= end
                if now >= look_at and not late:
                    look_at = now + watch.pause
                    await work.report_progress(round(now - began, 3), watch.timeout, "waiting")
            return answer.result

    async def _look(self, late: bool) -> Answer | None:
        """Run the operations and ask whether their replies are an answer."""
        watch = self.watch
        replies = await self.backend.execute(cast(Ops, watch.ops))
        if len(replies) != len(watch.ops):
            raise TypeError(f"the backend gave {len(replies)} replies to {len(watch.ops)} operations")
        answer = watch.then.resume(replies, watch.context, late)
        if late and answer is None:
            raise TypeError(f"{type(watch.then).__name__} has no answer when the time is up")
        return answer


async def _next_event(events: AsyncIterator[Event], until: float) -> bool:
    """Wait until something is told, at most until the moment `until`. Whether nothing will ever be told again."""
    with anyio.CancelScope(deadline=until):
        try:
            await anext(events)
        except StopAsyncIteration:
            return True
    return False
