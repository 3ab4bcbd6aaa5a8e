"""What each tool answers, as a table: calls before, the call, its structured result or the code of its failure."""

from typing import Any

from msgspec import Struct

from kvmcp.backends.ops import etag_of

ANY = ...
"""In an expected result: some value, of whatever kind."""


class Case(Struct, frozen=True):
    tool: str
    arguments: dict[str, Any]
    expected: Any
    """The structured result; a string is the code of a failure."""
    before: tuple[tuple[str, dict[str, Any]], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.tool} {self.arguments} after {len(self.before)}"


def put(key: str, value: Any, **more: Any) -> tuple[str, dict[str, Any]]:
    return "redis_set", {"key": key, "value": value, **more}


LIST = ("redis_rpush", {"key": "l", "values": [1, "two", None]})
HASH = ("redis_hset", {"key": "h", "field": "f", "value": [1]})
SESSION = ("redis_session_create", {"session_id": "s", "data": {"a": 1, "b": 2}, "ttl": 100})
MESSAGES = (
    ("redis_publish", {"channel": "c", "message": {"n": 1}}),
    ("redis_publish", {"channel": "c", "message": "two"}),
)
ONE, TWO = etag_of(b"1"), etag_of(b"2")
KV = "community.database.simple_kv."

READS = (
    Case("redis_get", {"key": "a"}, {"found": True, "value": 1, "etag": ONE}, (put("a", 1),)),
    Case("redis_get", {"key": "a"}, {"found": True, "value": None, "etag": ANY}, (put("a", None),)),
    Case("redis_get", {"key": "none"}, {"found": False}),
    Case("redis_get", {"key": "l"}, "WRONG_TYPE", (LIST,)),
    Case(
        "redis_get", {"key": "a", "detail": "detailed"},
        {"found": True, "value": 1, "etag": ONE, "ttl": 100, "size": 1}, (put("a", 1, ttl=100),),
    ),
    Case("redis_get", {"key": "none", "detail": "detailed"}, {"found": False}),
    Case("redis_exists", {"keys": ["a", "l", "a", "x"]}, {"exists": {"a": True, "l": True, "x": False}, "count": 2}, (put("a", 1), LIST)),
    Case("redis_keys", {}, {"keys": ["a"]}, (put("a", 1), SESSION)),
    Case("redis_keys", {"pattern": "z*"}, {"keys": []}, (put("a", 1),)),
    Case("redis_keys", {"cursor": "0"}, {"keys": ["a"]}, (put("a", 1),)),
    Case("redis_keys", {"cursor": "bogus"}, "INVALID_PARAMS", (put("a", 1),)),
    Case(
        "redis_keys", {"detail": "detailed"},
        {"keys": ["l"], "details": {"l": {"type": "list", "ttl": None, "size": 3}}}, (LIST,),
    ),
    Case("redis_ttl", {"key": "a"}, {"found": True, "ttl": 100}, (put("a", 1, ttl=100),)),
    Case("redis_ttl", {"key": "a"}, {"found": True, "ttl": None}, (put("a", 1),)),
    Case("redis_ttl", {"key": "a"}, {"found": False, "ttl": None}),
    Case("redis_hget", {"key": "h", "field": "f"}, {"found": True, "value": [1]}, (HASH,)),
    Case("redis_hget", {"key": "h", "field": "x"}, {"found": False}, (HASH,)),
    Case("redis_hget", {"key": "a", "field": "x"}, "WRONG_TYPE", (put("a", 1),)),
    Case("redis_hgetall", {"key": "h"}, {"fields": {"f": [1]}}, (HASH,)),
    Case("redis_hgetall", {"key": "none"}, {"fields": {}}),
    Case("redis_hgetall", {"key": "h", "detail": "detailed"}, {"fields": {"f": [1]}, "ttl": None, "size": 1}, (HASH,)),
    Case("redis_session_get", {"session_id": "s"}, {"session_id": "s", "data": {"a": 1, "b": 2}, "ttl": 100}, (SESSION,)),
    Case(
        "redis_session_get", {"session_id": "s", "detail": "detailed"},
        {"session_id": "s", "data": {"a": 1, "b": 2}, "ttl": 100, "created_at": "2023-11-14T22:13:20Z", "size": 2},
        (SESSION,),
    ),
    Case("redis_session_get", {"session_id": "t"}, "SESSION_NOT_FOUND", (SESSION,)),
    Case("redis_session_get", {"session_id": "e"}, {"session_id": "e", "data": {}, "ttl": 3600}, (("redis_session_create", {"session_id": "e"}),)),
    Case(
        "redis_subscribe", {"channels": ["c"], "cursor": "0"},
        {"messages": [{"channel": "c", "id": ANY, "message": {"n": 1}}, {"channel": "c", "id": ANY, "message": "two"}], "cursor": ANY},
        MESSAGES,
    ),
    Case("redis_subscribe", {"channels": ["c"]}, {"messages": [], "cursor": ANY}, MESSAGES),
    Case("redis_subscribe", {"channels": ["c"], "cursor": "x"}, "INVALID_PARAMS"),
    Case("redis_subscribe", {"channels": ["c"], "cursor": "1-2.000000"}, "INVALID_PARAMS"),
    Case(KV + "get", {"key": "a"}, {"value": 1}, (put("a", 1),)),
    Case(KV + "get", {"key": "a"}, {}),
)  # fmt: skip

WRITES = (
    Case("redis_set", {"key": "a", "value": 1}, {"ok": True, "etag": ONE}),
    Case("redis_set", {"key": "l", "value": 1}, {"ok": True, "etag": ONE}, (LIST,)),
    Case("redis_set", {"key": "a", "value": 2, "if_match": ONE, "ttl": 9}, {"ok": True, "etag": TWO}, (put("a", 1),)),
    Case("redis_set", {"key": "a", "value": 2, "if_match": TWO}, "CONFLICT", (put("a", 1),)),
    Case("redis_set", {"key": "a", "value": 2, "if_match": TWO}, "CONFLICT"),
    Case("redis_set", {"key": "l", "value": 2, "if_match": TWO}, "CONFLICT", (LIST,)),
    Case("redis_set", {"key": "a", "value": 2, "if_absent": True}, {"ok": True, "etag": TWO}),
    Case("redis_set", {"key": "a", "value": 2, "if_absent": True}, {"ok": False, "etag": ONE}, (put("a", 1),)),
    Case("redis_set", {"key": "l", "value": 2, "if_absent": True}, {"ok": False}, (LIST,)),
    Case("redis_set", {"key": "a", "value": 2, "if_absent": True, "if_match": ONE}, "INVALID_PARAMS"),
    Case("redis_set", {"key": "a", "value": 1, "ttl": -5}, "INVALID_PARAMS"),
    Case("redis_del", {"keys": ["a", "l", "a", "x"]}, {"deleted": 2}, (put("a", 1), LIST)),
    Case("redis_del", {"keys": ["s"]}, {"deleted": 0}, (SESSION,)),
    Case("redis_expire", {"key": "a", "ttl": 5}, {"applied": True}, (put("a", 1),)),
    Case("redis_expire", {"key": "a", "ttl": 5}, {"applied": False}),
    Case("redis_lpush", {"key": "l", "values": [0, -1]}, {"length": 5}, (LIST,)),
    Case("redis_rpush", {"key": "l", "values": [4]}, {"length": 1}),
    Case("redis_rpush", {"key": "a", "values": [4]}, "WRONG_TYPE", (put("a", 1),)),
    Case("redis_lpop", {"key": "l"}, {"values": [1]}, (LIST,)),
    Case("redis_lpop", {"key": "l", "count": 9}, {"values": [1, "two", None]}, (LIST,)),
    Case("redis_lpop", {"key": "l"}, {"values": []}),
    Case("redis_lpop", {"key": "a"}, "WRONG_TYPE", (put("a", 1),)),
    Case("redis_hset", {"key": "h", "field": "g", "value": 1}, {"created": True}, (HASH,)),
    Case("redis_hset", {"key": "h", "field": "f", "value": 1}, {"created": False}, (HASH,)),
    Case("redis_hset", {"key": "h", "field": "", "value": 1}, {"created": True}),
    Case(
        "redis_session_create", {"session_id": "n", "ttl": 60},
        {"session_id": "n", "ttl": 60, "expires_at": "2023-11-14T22:14:20Z"},
    ),
    Case("redis_session_create", {}, {"session_id": ANY, "ttl": 3600, "expires_at": "2023-11-14T23:13:20Z"}),
    Case("redis_session_create", {"session_id": "s"}, "CONFLICT", (SESSION,)),
    Case("redis_session_create", {"session_id": "a"}, {"session_id": "a", "ttl": 3600, "expires_at": ANY}, (put("a", 1),)),
    Case(
        "redis_session_update", {"session_id": "s", "data": {"b": None, "": [3]}},
        {"session_id": "s", "data": {"": [3], "a": 1, "b": None}, "ttl": 100}, (SESSION,),
    ),
    Case(
        "redis_session_update", {"session_id": "s", "data": {}, "extend_ttl": False},
        {"session_id": "s", "data": {"a": 1, "b": 2}, "ttl": 100}, (SESSION,),
    ),
    Case("redis_session_update", {"session_id": "t", "data": {"b": 1}}, "SESSION_NOT_FOUND", (SESSION,)),
    Case("redis_session_update", {"session_id": "t", "data": {"b": 1}, "extend_ttl": False}, "SESSION_NOT_FOUND"),
    Case("redis_session_delete", {"session_id": "s"}, {"deleted": True}, (SESSION,)),
    Case("redis_session_delete", {"session_id": "t"}, {"deleted": False}, (SESSION,)),
    Case("redis_publish", {"channel": "c", "message": 1}, {"receivers": 0, "id": ANY}, MESSAGES),
    Case(
        "redis_multi",
        {"operations": [
            {"tool": "redis_set", "arguments": {"key": "a", "value": 2, "if_match": ONE}},
            {"tool": "redis_del", "arguments": {"keys": ["l"]}},
            {"tool": "redis_hset", "arguments": {"key": "h", "field": "f", "value": 1}},
        ]},
        {"results": [{"ok": True, "etag": TWO}, {"deleted": 1}, {"created": True}]},
        (put("a", 1), LIST),
    ),
    Case(
        "redis_multi",
        {"operations": [
            {"tool": "redis_del", "arguments": {"keys": ["l"]}},
            {"tool": "redis_set", "arguments": {"key": "a", "value": 2, "if_match": TWO}},
        ]},
        "CONFLICT", (put("a", 1), LIST),
    ),
    Case(
        "redis_multi",
        {"operations": [
            {"tool": "redis_del", "arguments": {"keys": ["l"]}},
            {"tool": "redis_set", "arguments": {"key": "a", "value": 2, "if_absent": True}},
        ]},
        "CONFLICT", (put("a", 1), LIST),
    ),
    Case(
        "redis_multi",
        {"operations": [
            {"tool": "redis_session_create", "arguments": {"session_id": "s"}},
            {"tool": "redis_publish", "arguments": {"channel": "c", "message": 3}},
        ]},
        "CONFLICT", (SESSION,),
    ),
    Case("redis_multi", {"operations": [{"tool": "redis_keys", "arguments": {}}]}, "INVALID_PARAMS"),
    Case("redis_multi", {"operations": [{"tool": "redis_nope", "arguments": {}}]}, "INVALID_PARAMS"),
    Case("redis_multi", {"operations": [{"tool": "redis_get", "arguments": {}}]}, "INVALID_PARAMS"),
    Case(
        "redis_multi",
        {"operations": [{"tool": "redis_session_update", "arguments": {"session_id": "s", "data": {"c": 3}, "extend_ttl": False}}]},
        {"results": [{"session_id": "s", "data": {"a": 1, "b": 2, "c": 3}, "ttl": 100}]}, (SESSION,),
    ),
    Case(
        "redis_multi",
        {"operations": [
            {"tool": "redis_session_update", "arguments": {"session_id": "s", "data": {"c": 3}}},
            {"tool": "redis_set", "arguments": {"key": "a", "value": 1}},
        ]},
        {"results": [{"session_id": "s", "data": {"a": 1, "b": 2, "c": 3}, "ttl": 100}, {"ok": True, "etag": ONE}]}, (SESSION,),
    ),
    Case("redis_multi", {"operations": [{"tool": "redis_session_update", "arguments": {"session_id": "t", "data": {"c": 3}}}]}, "SESSION_NOT_FOUND", (SESSION,)),
    Case(KV + "set", {"key": "a", "value": {"x": 1}}, {}),
    Case(KV + "delete", {"key": "a"}, {"deleted": True}, (put("a", 1),)),
    Case(KV + "delete", {"key": "a"}, {"deleted": False}),
)  # fmt: skip


def agrees(found: Any, expected: Any) -> bool:
    """Whether a result is what was expected, `ANY` being whatever."""
    if expected is ANY:
        return found is not None
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(agrees(found[name], expected[name]) for name in expected)
        )
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(agrees, found, expected))
    return bool(found == expected)
