"""Redis and Valkey as the store: `open_backend(url, options)`.

Nothing imports this package unless a Redis URL is configured.

    address, options    where the servers are, and how to behave
    commands, replies   operations ▸ RESP commands, and their replies back
    steps, script       what each operation is to Redis; the one Lua script for what no command does
    values, scan        stored values as JSON; pages of names
    errors              Redis's errors ▸ the documented codes
    resp, greeting      RESP3 without I/O: bytes in, replies and pushes out; the first commands
    wire, link, lane    what was really written; one connection; its upkeep and the queue before it
    job, spread, order  one operation until its reply; what a cluster takes in parts; a batch's order there
    routes, topology, cluster   which server; asked of Sentinels and nodes; slots and redirections
    watch               changes of keys and messages on channels
    host, loops         background work on whichever loop runs
    backend             all of it behind the `Backend` contract
"""

from kvmcp.backends.redis.backend import RedisBackend, open_backend
from kvmcp.backends.redis.options import RedisOptions

__all__ = ["RedisBackend", "RedisOptions", "open_backend"]
