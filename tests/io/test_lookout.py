"""The lookout over a store: whoever changes what is watched, it is published; and no more is watched than is wanted."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from kvmcp.backends.memory import MemoryBackend
from kvmcp.backends.ops import Delete, Event as StoreEvent, Gap, Namespace, NsKey, Publish, Set
from kvmcp.core.items import Watch
from kvmcp.core.plan import Caller, Context
from kvmcp.core.subscriptions import Event, ResourceUpdated, Watched
from kvmcp.core.wire.common import ClientCapabilities, Done
from kvmcp.io.lookout import GROUP_THINGS, StoreLookout, beside
from kvmcp.io.work import Work
from tests.patience import PATIENCE

pytestmark = pytest.mark.anyio

SPACE = Namespace("acme")


def watch_of(uri: str) -> Watch | None:
    """`key/NAME`, `channel/NAME`, `both/NAME`; nothing else is made of anything."""
    kind, _, name = uri.partition("/")
    key = SPACE.key(name.removeprefix("~"))  # Two spellings of one name.
    match kind:
        case "key":
            return Watch(keys=(key,))
        case "channel":
            return Watch(channels=(key,))
        case "both":
            return Watch((key,), (key,))
        case _:
            return None


class Told:
    """What was published."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self._more = anyio.Event()

    def __call__(self, event: Event) -> None:
        assert isinstance(event, ResourceUpdated)
        self.uris.append(event.uri)
        self._more.set()

    async def until(self, wanted: Callable[[list[str]], bool]) -> list[str]:
        """Wait for what was published to be so, and take it."""
        with anyio.fail_after(PATIENCE):
            while not wanted(self.uris):
                self._more = anyio.Event()
                await self._more.wait()
        uris, self.uris = self.uris, []
        return uris


class CountingBackend:
    """A store in memory that counts its watches; they may fail, be slow, or tell of gaps."""

    def __init__(self) -> None:
        self.store = MemoryBackend(clock=time.monotonic)
        self.watches: list[int] = []
        """Things of each open watch."""
        self.opened = 0
        self.failures = 0
        self.may_open = anyio.Event()
        self.may_open.set()
        self.gap = anyio.Event()

    def watch(
        self, keys: Sequence[NsKey] = (), channels: Sequence[NsKey] = ()
    ) -> AbstractAsyncContextManager[AsyncIterator[StoreEvent]]:
        return self._watch(keys, channels)

    @asynccontextmanager
    async def _watch(
        self, keys: Sequence[NsKey], channels: Sequence[NsKey]
    ) -> AsyncIterator[AsyncIterator[StoreEvent]]:
        await self.may_open.wait()
        if self.failures:
            self.failures -= 1
            raise RuntimeError("a bug")
        size = len(keys) + len(channels)
        self.watches.append(size)
        self.opened += 1
        try:
            async with self.store.watch(keys, channels) as events:
                yield self._with_gap(events)
        finally:
            self.watches.remove(size)

    async def _with_gap(self, events: AsyncIterator[StoreEvent]) -> AsyncIterator[StoreEvent]:
        if self.gap.is_set():
            yield Gap()
        async for event in events:
            yield event

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)


class Scene:
    def __init__(self) -> None:
        self.backend = CountingBackend()
        self.told = Told()
        self.lookout = StoreLookout(watch_of, self.backend, self.told)  # type: ignore[arg-type]  # the rest by __getattr__
        self.watched = Watched(self.lookout)

    def write(self, name: str) -> None:
        self.backend.store.execute_now([Set(SPACE.key(name), b"1")])

    async def settled(self, *uris: str) -> None:
        """What a subscriber waits for."""
        job = self.lookout.job(uris)
        if job is not None:
            with anyio.fail_after(PATIENCE):
                assert await job.run(Work(job.context, _say_nothing)) == Done()

    async def watch(self, *uris: str) -> None:
        for uri in uris:
            self.watched.add(uri)
        await self.settled(*uris)

    async def quiet(self) -> None:
        """Whoever has something to do has done it."""
        for _ in range(20):
            await anyio.lowlevel.checkpoint()


async def _say_nothing(said: object) -> None:
    raise AssertionError(said)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    async with beside(made.lookout.run):
        await made.quiet()
        yield made


# --- what is told ---


async def test_a_change_is_told_under_every_name_that_somebody_watches() -> None:
    async with scene() as on:
        await on.watch("key/a", "key/~a", "channel/a", "both/a", "key/b", "nothing/a")
        on.write("a")
        assert sorted(await on.told.until(lambda uris: len(uris) >= 3)) == ["both/a", "key/a", "key/~a"]
        on.backend.store.execute_now([Publish(SPACE.key("a"), b"1")])
        assert sorted(await on.told.until(lambda uris: len(uris) >= 2)) == ["both/a", "channel/a"]
        on.backend.store.execute_now([Delete((SPACE.key("a"),))])
        assert "key/a" in await on.told.until(lambda uris: len(uris) >= 3)


async def test_after_the_answer_no_change_is_lost() -> None:
    async with scene() as on:
        for number in range(50):
            await on.watch(f"key/{number}")
            on.write(str(number))
            assert await on.told.until(bool) == [f"key/{number}"]


async def test_what_is_watched_no_more_is_not_told() -> None:
    async with scene() as on:
        await on.watch("key/a", "key/b")
        on.watched.drop("key/a")
        on.write("a")
        on.write("b")
        assert await on.told.until(bool) == ["key/b"]
        on.watched.drop("key/b")
        await on.quiet()
        assert on.backend.watches == []


async def test_another_namespace_is_not_told() -> None:
    async with scene() as on:
        await on.watch("key/a")
        on.backend.store.execute_now([Set(Namespace("other").key("a"), b"1")])
        on.write("a")
        assert await on.told.until(bool) == ["key/a"]


async def test_a_gap_tells_of_everything() -> None:
    async with scene() as on:
        on.backend.gap.set()
        await on.watch("key/a", "channel/b")
        assert sorted(await on.told.until(lambda uris: len(uris) >= 2)) == ["channel/b", "key/a"]


# --- how much is watched ---


async def test_there_are_few_watches_however_things_come_and_go() -> None:
    async with scene() as on:
        for number in range(200):
            await on.watch(f"key/{number}")
            assert len(on.backend.watches) <= 9
        assert on.backend.opened == 200, "one each time, with those that are not larger"
        await on.quiet()
        for number in range(0, 200, 3):
            on.write(str(number))
        told = await on.told.until(lambda uris: len(set(uris)) >= 67)
        assert set(told) == {f"key/{number}" for number in range(0, 200, 3)}
        for number in range(199):
            on.watched.drop(f"key/{number}")
            await on.quiet()
        assert on.backend.watches == [1]
        on.write("199")
        assert await on.told.until(bool) == ["key/199"]


async def test_many_things_at_once_are_watched_in_bounded_groups() -> None:
    async with scene() as on:
        names = [f"key/{number}" for number in range(2 * GROUP_THINGS + 5)]
        await on.watch(*names)
        assert max(on.backend.watches) <= GROUP_THINGS and sum(on.backend.watches) == len(names)


async def test_what_is_given_up_while_its_watch_begins_is_forgotten() -> None:
    async with scene() as on:
        on.backend.may_open = anyio.Event()
        on.watched.add("key/a")
        await on.quiet()
        on.watched.add("key/b")
        on.watched.drop("key/a")
        await on.quiet()
        on.backend.may_open.set()
        await on.settled("key/a", "key/b")
        await on.quiet()
        assert on.backend.watches == [1]
        assert on.lookout.job(("key/b",)) is None


async def test_a_subscriber_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmcp.io.lookout.READY_TIMEOUT", 0.01)
    async with scene() as on:
        on.backend.may_open = anyio.Event()
        await on.watch("key/a")
        assert on.backend.watches == [] and on.lookout.job(("key/a",)) is not None


async def test_a_store_that_breaks_its_contract_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmcp.io.lookout.AFTER_FAILURE", 0.01)
    async with scene() as on:
        on.backend.failures = 2
        await on.watch("key/a")
        assert await on.told.until(bool) == ["key/a"], "something may have been missed"
        on.write("a")
        assert await on.told.until(bool) == ["key/a"]


# --- when it runs ---


async def test_nobody_waits_where_nothing_runs() -> None:
    on = Scene()
    on.watched.add("key/a")
    assert on.lookout.job(("key/a",)) is None
    async with beside(on.lookout.run):
        await on.quiet()
        on.write("a")
        assert await on.told.until(bool) == ["key/a"]
    assert on.backend.watches == []


async def test_another_run_takes_over_and_tells_of_what_may_have_been_missed() -> None:
    on = Scene()
    async with beside(on.lookout.run):
        await on.quiet()
        await on.watch("key/a", "key/b")
        async with beside(on.lookout.run):
            await on.quiet()
            assert on.backend.watches == [2], "one works"
        on.write("a")
        assert await on.told.until(bool) == ["key/a"]
    on.watched.drop("key/b")
    async with beside(on.lookout.run):
        assert await on.told.until(bool) == ["key/a"]
        on.write("a")
        assert await on.told.until(bool) == ["key/a"]


async def test_what_is_beside_changes_no_exception() -> None:
    async def forever() -> None:
        await anyio.sleep_forever()

    with pytest.raises(ValueError, match="mine"):
        async with beside(forever):
            raise ValueError("mine")
    with anyio.move_on_after(0.01) as scope:
        async with beside(forever):
            await anyio.sleep_forever()
    assert scope.cancelled_caught


def test_the_job_is_about_nobody() -> None:
    on = Scene()
    on.lookout._runs = 1
    on.watched.add("key/a")
    job = on.lookout.job(("key/a",))
    assert job is not None and job.context == Context(Caller(), "", ClientCapabilities())
