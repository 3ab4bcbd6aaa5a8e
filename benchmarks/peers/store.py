"""Where the peers of `benchmarks/stdio.py` keep their values: in a dict, or in the Redis whose URL is their argument.

Redis as its users reach it: one client of `redis.asyncio` with its pool for all calls, values as JSON text.
"""

import json
import sys
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from redis.asyncio import Redis

Found: TypeAlias = dict[str, object]
"""What `redis_get` answers."""


class Store(Protocol):
    async def get(self, key: str) -> Found: ...

    async def set(self, key: str, value: object, ttl: int | None) -> None: ...


class DictStore:
    def __init__(self) -> None:
        self._values: dict[str, object] = {}

    async def get(self, key: str) -> Found:
        return {"found": True, "value": self._values[key]} if key in self._values else {"found": False}

    async def set(self, key: str, value: object, ttl: int | None) -> None:
        self._values[key] = value


class RedisStore:
    def __init__(self, client: "Redis") -> None:
        self._client = client

    async def get(self, key: str) -> Found:
        text = await self._client.get(key)
        return {"found": False} if text is None else {"found": True, "value": json.loads(text)}

    async def set(self, key: str, value: object, ttl: int | None) -> None:
        await self._client.set(key, json.dumps(value), ex=ttl)


def open_store() -> Store:
    if len(sys.argv) < 2:
        return DictStore()
    from redis.asyncio import Redis  # Only where it is used: its import is part of the first answer.

    return RedisStore(Redis.from_url(sys.argv[1]))
