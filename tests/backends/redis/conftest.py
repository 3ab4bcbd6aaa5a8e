"""What all tests of this folder share; the servers that nobody hurts are in `shared`."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import anyio
import pytest

from kvmcp.backends.ops import Namespace
from tests.backends.redis.servers import RedisServer

_numbers = count()


@pytest.fixture
def namespace() -> Namespace:
    """One that no other test uses."""
    return Namespace(f"t{next(_numbers)}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A standalone server for one test."""
    server = RedisServer(tmp_path / "own").start()
    yield server
    server.kill()


async def let_time_pass(seconds: float) -> None:
    """Real servers have real clocks."""
    await anyio.sleep(seconds)
