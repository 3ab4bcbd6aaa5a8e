"""Who is the primary (Sentinel) and who serves which slot (Cluster): asked by the redis package's sync client.

It runs in a worker thread, at connection and when something has moved, never in the path of an operation; its own
retries are off. Imported only where a URL names Sentinels or a cluster.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import parse_cluster_slots
from redis.crc import key_slot
from redis.exceptions import (
    AuthenticationError,
    ConnectionError as RedisConnectionError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from kvmcp.backends.ops import Failure
from kvmcp.backends.redis.address import Endpoint
from kvmcp.backends.redis.errors import NO_CLUSTER, NO_PRIMARY, failure_of_text
from kvmcp.backends.redis.greeting import Refused
from kvmcp.backends.redis.routes import OneServer, Reach, Routes

DISCOVERY_TIMEOUT: Final = 0.5
"""Seconds for one question to one Sentinel or node; another one is asked then."""

T = TypeVar("T")
SlotMap = list[tuple[int, int, Endpoint]]
"""First slot, last slot, primary."""


def make_discovered_routes(reach: Reach) -> Routes:
    if reach.address.topology == "sentinel":
        return OneServer(reach, partial(find_primary, reach))
    from kvmcp.backends.redis.cluster import ClusterRoutes

    return ClusterRoutes(reach)


async def find_primary(reach: Reach) -> Endpoint:
    """The primary that the first reachable Sentinel names. Raises `Refused`, OSError."""
    return await _in_thread(partial(_ask_sentinels, reach), NO_PRIMARY)


async def find_slots(reach: Reach, known: Sequence[Endpoint]) -> SlotMap:
    """Who serves what, by the first reachable node. Raises `Refused`, OSError."""
    return await _in_thread(partial(_ask_nodes, reach, (*known, *reach.address.endpoints)), NO_CLUSTER)


@lru_cache(maxsize=4096)
def slot_of(key: str) -> int:
    """The slot of a key. Asked with `{prefix}:{space}`, which has the hash tag."""
    return key_slot(key.encode())


async def _in_thread(ask: Callable[[], T], unanswered: Failure) -> T:
    try:
        return await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)
    except (AuthenticationError, ResponseError) as error:
        raise Refused(failure_of_text(str(error))) from None
    except Refused:
        raise
    except Exception as error:  # whatever redis-py makes of odd answers: all mean "ask again"
        raise Refused(unanswered) from error


def _ask_sentinels(reach: Reach) -> Endpoint:
    options = reach.options
    settings = _client_settings(reach)
    settings |= {"username": options.sentinel_username or None, "password": options.sentinel_password or None}
    hosts = [(endpoint.host, endpoint.port) for endpoint in reach.address.endpoints]
    make: Any = Sentinel  # untyped upstream
    sentinel = make(hosts, sentinel_kwargs=settings)
    try:
        host, port = sentinel.discover_master(reach.address.service)
    except MasterNotFoundError:
        raise Refused(NO_PRIMARY) from None
    finally:
        for client in sentinel.sentinels:
            client.close()
    return Endpoint(host, port)


def _ask_nodes(reach: Reach, endpoints: Sequence[Endpoint]) -> SlotMap:
    fault: RedisError | None = None
    for endpoint in dict.fromkeys(endpoints):
        try:
            return _ask_node(reach, endpoint)
        except RedisError as error:
            fault = error
    raise fault or RedisConnectionError


def _ask_node(reach: Reach, endpoint: Endpoint) -> SlotMap:
    username, password = reach.credentials()
    settings = _client_settings(reach)
    settings |= {"username": username or None, "password": password or None}
    client: Any = Redis(endpoint.host, endpoint.port, **settings)
    try:
        ranges = parse_cluster_slots(client.execute_command("CLUSTER SLOTS"))
    finally:
        client.close()
    slots = _slot_map(ranges, endpoint.host)
    if not slots:
        raise RedisConnectionError("a node without slots")
    return slots


def _slot_map(ranges: Any, asked: str) -> SlotMap:
    """Out of redis-py's `{(first, last): {"primary": (host, port), …}}`; no host means the one that was asked."""
    slots: SlotMap = []
    for (first, last), servers in ranges.items():
        host, port = servers["primary"][:2]
        host = host.decode() if isinstance(host, bytes) else host
        slots.append((first, last, Endpoint(host or asked, port)))
    return slots


def _client_settings(reach: Reach) -> dict[str, Any]:
    """Any: keyword arguments of many types."""
    options = reach.options
    timeout = min(DISCOVERY_TIMEOUT, options.connect_timeout)
    settings: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "client_name": options.client_name,
    }
    if reach.address.tls:
        settings |= {
            "ssl": True,
            "ssl_ca_certs": options.tls_ca or None,
            "ssl_certfile": options.tls_cert or None,
            "ssl_keyfile": options.tls_key or None,
            "ssl_cert_reqs": "required" if options.tls_verify else "none",
            "ssl_check_hostname": options.tls_verify,
        }
    return settings
