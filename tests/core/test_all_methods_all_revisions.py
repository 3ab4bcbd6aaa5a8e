"""Each method at each revision, with the same asserts: where it exists it is answered in the shape of the
revision's schema, elsewhere it is not found; and what every answer has in common.
"""

from typing import Final

import pytest
from msgspec import Struct

from tests.core.harness import (
    CLIENT_INFO,
    LEGACY,
    META,
    METHOD_NOT_FOUND,
    MODERN,
    REVISIONS,
    Json,
    Server,
    to_line,
)

req = pytest.mark.req
BOTH: Final = REVISIONS
ONLY_MODERN: Final = (MODERN,)


class Case(Struct, frozen=True):
    """A request that is in order, and the members that its result must have."""

    method: str
    params: Json
    members: frozenset[str]
    revisions: tuple[str, ...]
    cached: bool = False


def case(
    method: str, params: Json, members: str, revisions: tuple[str, ...] = BOTH, cached: bool = False
) -> Case:
    return Case(method, params, frozenset(members.split()), revisions, cached)


REFERENCE: Json = {"type": "ref/prompt", "name": "greet"}
HELLO: Json = {"protocolVersion": LEGACY[-1], "capabilities": {}, "clientInfo": CLIENT_INFO}
CASES: Final = (
    case("ping", {}, "", LEGACY),
    case("tools/list", {}, "tools", cached=True),
    case("tools/call", {"name": "get", "arguments": {"key": "a"}}, "content"),
    case("resources/list", {}, "resources", cached=True),
    case("resources/templates/list", {}, "resourceTemplates", cached=True),
    case("resources/read", {"uri": "kv://keys/a"}, "contents", cached=True),
    case("resources/subscribe", {"uri": "kv://config"}, "", LEGACY),
    case("resources/unsubscribe", {"uri": "kv://config"}, "", LEGACY),
    case("prompts/list", {}, "prompts", cached=True),
    case("prompts/get", {"name": "greet", "arguments": {"name": "Ada"}}, "messages"),
    case("completion/complete", {"ref": REFERENCE, "argument": {"name": "name", "value": ""}}, "completion"),
    case("logging/setLevel", {"level": "info"}, "", LEGACY),
    case("server/discover", {}, "supportedVersions capabilities", ONLY_MODERN, cached=True),
)
each = pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.method))


@each
@req("methods-served", "empty-results")
def test_a_method_is_served_where_it_exists(revision: str, case: Case) -> None:
    server = Server(revision)
    reply = server.ask(case.method, case.params)
    if revision not in case.revisions:
        assert reply["error"]["code"] == METHOD_NOT_FOUND
        return
    result = reply["result"]
    assert case.members <= set(result)
    if not case.members:
        assert result == {}
    server.still_serves()


@each
@req("projection-modern-members", "modern-result-type", "caching-members")
def test_what_an_era_adds_to_every_result(revision: str, case: Case) -> None:
    if revision not in case.revisions:
        return
    result = Server(revision).result(case.method, case.params)
    assert ("resultType" in result) == (revision == MODERN)
    assert (META + "serverInfo" in result.get("_meta", {})) == (revision == MODERN)
    for member in ("ttlMs", "cacheScope"):
        assert (member in result) == (revision == MODERN and case.cached)


@each
@req("envelope-id-echo")
@pytest.mark.parametrize("id", [0, "zero"])
def test_the_id_comes_back(revision: str, case: Case, id: Json) -> None:
    assert Server(revision).ask(case.method, case.params, id=id)["id"] == id


@each
def test_unknown_members_of_params_and_of_the_envelope_are_ignored(revision: str, case: Case) -> None:
    if revision not in case.revisions:
        return
    server = Server(revision)
    message = server.request(case.method, case.params | {"unknown": [{}]}) | {"extra": {"id": 7}}
    server.say(message)
    [reply] = server.replies()
    assert "result" in reply


@each
@req("envelope-notification-silent")
def test_as_a_notification_it_is_not_answered(revision: str, case: Case) -> None:
    server = Server(revision)
    server.notify(case.method, case.params)
    assert server.replies() == []


@each
def test_byte_by_byte_it_is_the_same(revision: str, case: Case) -> None:
    whole, cut = Server(revision), Server(revision)
    line = to_line(whole.request(case.method, case.params))
    whole.feed(line)
    for at in range(len(line)):
        cut.feed(line[at : at + 1])
    assert cut.replies() == whole.replies()


def test_initialize_is_served_once_per_connection(revision: str) -> None:
    server = Server(revision)
    reply = server.ask("initialize", HELLO)
    assert reply["error"]["code"] == (METHOD_NOT_FOUND if revision == MODERN else -32600)


def test_listening_is_modern(revision: str) -> None:
    server = Server(revision)
    server.say(server.request("subscriptions/listen", {"notifications": {"toolsListChanged": True}}))
    [message] = server.replies()
    if revision == MODERN:
        assert message["method"] == "notifications/subscriptions/acknowledged"
    else:
        assert message["error"]["code"] == METHOD_NOT_FOUND
