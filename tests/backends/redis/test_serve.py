"""`kvmcp serve` on a real Redis, as a client meets it: the same answers as on memory, and life without Redis."""

from collections.abc import Iterator

import pytest

from tests.backends.redis.servers import RedisServer, free_port
from tests.io.support import MODERN_META, call, ping
from tests.io.test_serve_process import Process
from tests.patience import PATIENCE
from tests.tools.support import without_etag


@pytest.fixture(params=["asyncio", "trio"])
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def kvmcp(loop: str, port: int) -> Iterator[Process]:
    process = Process(loop, "--redis-url", f"redis://127.0.0.1:{port}", "--redis-timeout", "2")
    yield process
    if process.child.poll() is None:
        process.child.kill()
    process.child.communicate()


@pytest.fixture
def redis(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("serve"), port=port).start()
    yield server
    server.kill()


def answer(process: Process, tool: str, **arguments: object) -> object:
    process.say(call("x", tool, MODERN_META, **arguments))
    return process.hear()["result"]["structuredContent"]


def test_every_tool_answers_as_on_memory(redis: RedisServer, kvmcp: Process) -> None:
    assert without_etag(answer(kvmcp, "redis_set", key="user:1", value={"a": [1, None, "x"]}, ttl=100)) == {
        "ok": True
    }
    assert without_etag(answer(kvmcp, "redis_get", key="user:1")) == {
        "found": True,
        "value": {"a": [1, None, "x"]},
    }
    assert without_etag(answer(kvmcp, "redis_get", key="none")) == {"found": False}
    assert answer(kvmcp, "redis_ttl", key="user:1") == {"found": True, "ttl": 100}
    assert answer(kvmcp, "redis_expire", key="user:1", ttl=50) == {"applied": True}
    assert answer(kvmcp, "redis_expire", key="none", ttl=50) == {"applied": False}
    assert answer(kvmcp, "redis_exists", keys=["user:1", "none"]) == {
        "exists": {"user:1": True, "none": False},
        "count": 1,
    }
    assert answer(kvmcp, "redis_keys", pattern="user:*") == {"keys": ["user:1"]}
    assert answer(kvmcp, "redis_del", keys=["user:1", "none"]) == {"deleted": 1}
    assert answer(kvmcp, "redis_keys") == {"keys": []}
    assert kvmcp.end() == (0, b"")


def test_without_redis_it_serves_and_says_so_and_works_once_redis_is_there(
    kvmcp: Process, port: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for _ in range(2):
        error = answer(kvmcp, "redis_get", key="a")
        assert isinstance(error, dict)
        assert error["error"]["code"] == "REDIS_NOT_CONNECTED"
        kvmcp.say(ping(1))
        assert kvmcp.hear()["id"] == 1
    server = RedisServer(tmp_path_factory.mktemp("late"), port=port).start()
    try:
        while "error" in (found := answer(kvmcp, "redis_set", key="a", value=1)):  # type: ignore[operator]  # a dict
            pass
        assert without_etag(found) == {"ok": True}
    finally:
        server.kill()


def test_a_stalled_redis_leaves_the_rest_answering(redis: RedisServer, kvmcp: Process) -> None:
    assert without_etag(answer(kvmcp, "redis_set", key="a", value=1)) == {"ok": True}
    redis.freeze()
    try:
        kvmcp.say(
            call("get", "redis_get", MODERN_META, key="a"),
            call("set", "redis_set", MODERN_META, key="a", value=2),
        )
        kvmcp.say({"jsonrpc": "2.0", "id": "list", "method": "tools/list", "params": {"_meta": MODERN_META}})
        assert kvmcp.hear()["id"] == "list"
        late = {
            message["id"]: message["result"]["structuredContent"]["error"]
            for message in (kvmcp.hear(), kvmcp.hear())
        }
        assert late["get"]["code"] == "TIMEOUT"
        assert late["set"]["code"] == "UNKNOWN_OUTCOME"
    finally:
        redis.thaw()
    assert without_etag(answer(kvmcp, "redis_set", key="b", value=3)) == {"ok": True}


def test_the_end_of_input_with_redis_stalled_is_bounded(redis: RedisServer, kvmcp: Process) -> None:
    assert without_etag(answer(kvmcp, "redis_set", key="a", value=1)) == {"ok": True}
    redis.freeze()
    try:
        kvmcp.say(call("set", "redis_set", MODERN_META, key="a", value=2))
        assert kvmcp.child.stdin is not None
        kvmcp.child.stdin.close()
        kvmcp.child.stdin = None
        assert kvmcp.hear()["result"]["structuredContent"]["error"]["code"] == "UNKNOWN_OUTCOME"
        assert kvmcp.child.wait(timeout=PATIENCE) == 0
    finally:
        redis.thaw()


def test_two_processes_share_what_is_stored(redis: RedisServer, kvmcp: Process, loop: str, port: int) -> None:
    other = Process(loop, "--backend", f"redis://127.0.0.1:{port}/1")
    assert without_etag(answer(kvmcp, "redis_set", key="shared", value="yes")) == {"ok": True}
    assert without_etag(answer(other, "redis_get", key="shared")) == {"found": True, "value": "yes"}
    stranger = Process(loop, "--backend", f"redis://127.0.0.1:{port}/1", "--namespace", "else")
    assert without_etag(answer(stranger, "redis_get", key="shared")) == {"found": False}
    assert answer(stranger, "redis_keys") == {"keys": []}
    for process in (other, stranger):
        assert process.end()[0] == 0
