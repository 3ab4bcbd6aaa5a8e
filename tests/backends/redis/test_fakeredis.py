"""The shared contract on fakeredis, all of it but for what fakeredis cannot do.

fakeredis is what many programs test with, so kvmcp should work on it as far as it goes. What it cannot show is taken
out at collection and named here with the reason; real servers run these cases in test_contract.py.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from kvmcp.backends.ops import Gap, Get, Namespace, Set
from kvmcp.backends.redis import RedisOptions
from tests.backends.contract import BackendContract
from tests.backends.harness import Store, next_event
from tests.backends.redis.conftest import let_time_pass
from tests.backends.redis.fake_server import PRETENDED, FakeRedisServer, encode
from tests.backends.redis.stores import backend_at

NO_TRACKING: Final = (
    "fakeredis has no CLIENT TRACKING: nobody hears of changes, and a watch of keys begins with a gap"
)
NO_SHA1: Final = "fakeredis's Lua has no redis.sha1hex: an etag can neither be compared nor told"
NO_ABSTTL: Final = "fakeredis's RESTORE takes no ABSTTL: what an Atomic did cannot be put back"
NOT_HERE: Final = {
    "test_conditions_on_the_etag": NO_SHA1,
    "test_conditions_on_the_value": NO_SHA1,
    "test_a_value_is_compared_byte_for_byte": NO_SHA1,
    "test_a_lease_in_one_operation": NO_SHA1,
    "test_a_write_that_cannot_be_done_takes_the_whole_back": NO_ABSTTL,
    "test_types_change_inside": NO_ABSTTL,
    "test_what_is_taken_back_is_not_published": NO_ABSTTL,
    "test_the_oldest_messages_make_way": "a batch of 1,029 scripts takes fakeredis longer than op_timeout",
    "test_changing_a_collection_is_a_change": NO_TRACKING,
    "test_a_closed_store_begins_anew": NO_TRACKING,
    "test_writing_and_removing_are_changes": NO_TRACKING,
    "test_expiry_is_a_change": NO_TRACKING,
    "test_other_keys_and_channels_are_silent": NO_TRACKING,
    "test_a_change_is_told_after_it_can_be_seen": NO_TRACKING,
    "test_a_watch_that_waits_is_woken": NO_TRACKING,
    "test_a_watch_ends_with_its_context": NO_TRACKING,
    "test_a_cancelled_wait_loses_nothing": NO_TRACKING,
    "test_closing_ends_watches": NO_TRACKING,
}
"""Cases of the contract that fakeredis cannot run, and why."""
NOT_HERE_COUNT: Final = 18
"""Raise it only for what fakeredis itself does otherwise than the real servers do."""


@pytest.fixture(scope="module")
def fake_server() -> Iterator[FakeRedisServer]:
    with FakeRedisServer() as server:
        yield server


class TestFakeredis(BackendContract):
    @pytest.fixture
    async def store(self, fake_server: FakeRedisServer, namespace: Namespace) -> AsyncIterator[Store]:
        async with backend_at(fake_server.url, RedisOptions()) as backend:
            yield Store(backend, let_time_pass, namespace)


for _case in NOT_HERE:
    setattr(TestFakeredis, _case, None)  # not collected, which is not the same as skipped


def test_what_is_left_out_is_known() -> None:
    assert len(NOT_HERE) == NOT_HERE_COUNT
    for case in NOT_HERE:
        assert callable(getattr(BackendContract, case)), f"{case} is no case of the contract any more"


@pytest.mark.anyio
async def test_without_tracking_a_watcher_is_told_of_a_gap(
    fake_server: FakeRedisServer, namespace: Namespace
) -> None:
    """The reason above still holds, and kvmcp says it to the watcher: some servers and proxies are like this."""
    a = namespace.key("a")
    async with backend_at(fake_server.url) as backend, backend.watch([a]) as events:
        assert await next_event(events) == Gap(0)
        assert await backend.execute([Set(a, b"1"), Get(a)]) == [True, b"1"]


def test_the_front_keeps_the_class_of_an_error(fake_server: FakeRedisServer) -> None:
    with Redis.from_url(fake_server.url, protocol=3) as client:
        client.rpush("a", "1")
        with pytest.raises(ResponseError, match="^WRONGTYPE "):
            client.get("a")
        assert client.execute_command("HELLO", 3)[b"version"] == PRETENDED.encode()


def test_replies_are_framed_as_resp3() -> None:
    assert encode([None, True, 1, 1.5, "\u00e9", {b"a": [b""]}]) == (
        b"*6\r\n_\r\n#t\r\n:1\r\n,1.5\r\n$2\r\n\xc3\xa9\r\n%1\r\n$1\r\na\r\n*1\r\n$0\r\n\r\n"
    )
