"""Eras, dispatch, subscriptions and what is told to the peer."""

import json

import pytest

from kvmcp.core.catalog import Catalog
from kvmcp.core.commands import Log, Progress
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Caller
from kvmcp.core.service import Service
from kvmcp.core.session import ServerSession
from kvmcp.core.subscriptions import ListChanged, ResourceUpdated
from tests.core.fixture_catalog import ADD, GREET, KEYS
from tests.core.harness import (
    CLIENT_INFO,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LEGACY,
    META,
    METHOD_NOT_FOUND,
    MODERN,
    REVISIONS,
    UNSUPPORTED_VERSION,
    Json,
    Server,
    a_service,
    call,
    codes,
    envelope,
    ids,
    methods,
    text_of,
)

req = pytest.mark.req
each_legacy = pytest.mark.parametrize("revision", LEGACY)
INITIALIZE: Json = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": CLIENT_INFO},
}


def enveloped(method: str, id: Json = 1, version: Json = MODERN, **params: Json) -> Json:
    params["_meta"] = envelope(version)
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def seen_by(server: Server, meta: Json = None) -> Json:
    """What a handler is told of its request."""
    return json.loads(text_of(server.call("who", meta=meta)["result"]))


# --- legacy lifecycle ---


@each_legacy
@req("legacy-version-echo", "legacy-initialized", "era-by-message")
def test_a_handshake(revision: str) -> None:
    server = Server()
    result = server.handshake(revision)
    assert result["protocolVersion"] == revision
    assert server.replies() == []
    server.still_serves()


@req("legacy-version-other")
@pytest.mark.parametrize("version", ["2026-07-28", "2031-01-01", "garbage"])
def test_an_unknown_version_is_answered_with_our_latest_legacy_one(version: str) -> None:
    server = Server()
    server.say(INITIALIZE | {"params": INITIALIZE["params"] | {"protocolVersion": version}})
    [reply] = server.replies()
    assert reply["result"]["protocolVersion"] == "2025-11-25"


def test_instructions_are_told_once_at_the_start() -> None:
    assert Server(instructions="Keys are text.").handshake("2025-11-25")["instructions"] == "Keys are text."
    assert "instructions" not in Server().handshake("2025-11-25")


@each_legacy
def test_a_second_initialize_is_refused_and_the_first_stays(revision: str) -> None:
    server = Server(revision)
    server.say(INITIALIZE)
    assert codes(server.replies()) == [(0, INVALID_REQUEST)]
    server.still_serves()


@pytest.mark.parametrize(
    "params",
    [
        None,
        {},
        {"protocolVersion": "2025-11-25"},
        {"protocolVersion": 7, "capabilities": {}, "clientInfo": {}},
    ],
)
def test_an_initialize_that_says_too_little(params: Json) -> None:
    server = Server()
    message = INITIALIZE | {"params": params} if params is not None else {**INITIALIZE}
    if params is None:
        del message["params"]
    server.say(message)
    assert codes(server.replies()) == [(0, INVALID_PARAMS)]
    server.handshake("2025-11-25")
    server.still_serves()


@req("ping-answered")
def test_ping_is_answered_before_the_handshake_and_nothing_else_is() -> None:
    server = Server()
    assert server.result("ping") == {}
    for method in ("tools/list", "tools/call", "nonsense", "server/discover", "subscriptions/listen"):
        assert server.error(method, {"name": "get", "notifications": {}})["code"] == INVALID_REQUEST
    server.handshake("2025-11-25")


@req("envelope-notification-silent")
def test_notifications_are_never_answered(revision: str) -> None:
    server = Server(revision)
    for method in (
        "notifications/initialized",
        "notifications/roots/list_changed",
        "notifications/progress",
        "notifications/cancelled",
        "notifications/unknown",
        "tools/call",
        "initialize",
        "nonsense",
    ):
        server.notify(method)
        server.notify(method, {"requestId": [1], "progressToken": {}})
    server.say(
        {"jsonrpc": "2.0", "method": "x", "params": None}, {"jsonrpc": "2.0", "method": "x", "params": []}
    )
    assert server.replies() == []
    server.still_serves()


@each_legacy
@req("legacy-initialized")
def test_changes_are_not_told_before_the_client_is_initialized(revision: str) -> None:
    server = Server()
    server.say(INITIALIZE | {"params": INITIALIZE["params"] | {"protocolVersion": revision}})
    server.publish(ListChanged("tools"))
    assert ids(server.replies()) == [0]
    server.notify("notifications/initialized")
    assert methods(server.replies()) == ["notifications/tools/list_changed"]


def test_a_stray_initialized_opens_nothing() -> None:
    server = Server()
    server.notify("notifications/initialized")
    server.publish(ListChanged("tools"))
    assert server.replies() == []
    assert server.error("tools/list")["code"] == INVALID_REQUEST


# --- era ---


@req("era-by-message", "modern-stateless")
def test_an_enveloped_request_is_served_at_once() -> None:
    server = Server(MODERN)
    server.still_serves()


@req("era-discover-decides-nothing")
def test_discovery_alone_decides_nothing() -> None:
    server = Server()
    server.say(enveloped("server/discover"))
    assert server.replies()[0]["result"]["supportedVersions"] == [MODERN]
    server.handshake("2025-06-18")
    server.still_serves()


def test_initialize_on_a_modern_connection_names_the_versions_that_are_served() -> None:
    server = Server(MODERN)
    server.still_serves()
    server.say(INITIALIZE)
    server.say(INITIALIZE | {"params": {}})
    first, second = server.replies()
    assert first["error"]["code"] == second["error"]["code"] == UNSUPPORTED_VERSION
    assert first["error"]["data"] == {"supported": [MODERN], "requested": "2025-11-25"}
    server.still_serves()


@req("modern-meta-required")
@pytest.mark.parametrize("method", ["tools/list", "ping", "nonsense"])
def test_a_request_without_an_envelope_on_a_modern_connection(method: str) -> None:
    server = Server(MODERN)
    server.still_serves()
    for meta in ({}, {"_meta": {"progressToken": 1}}):
        server.say({"jsonrpc": "2.0", "id": 1, "method": method, "params": meta})
        assert codes(server.replies()) == [(1, INVALID_PARAMS)]
    server.still_serves()


@each_legacy
def test_an_enveloped_request_on_a_legacy_connection(revision: str) -> None:
    server = Server(revision)
    for method in ("tools/list", "server/discover", "nonsense"):
        server.say(enveloped(method))
        assert codes(server.replies()) == [(1, INVALID_REQUEST)]
    server.still_serves()


@req("error-unsupported-version")
@pytest.mark.parametrize("version", ["2025-11-25", "2031-01-01", ""])
@pytest.mark.parametrize("method", ["tools/list", "server/discover", "nonsense", "initialize"])
def test_an_envelope_of_a_version_that_is_not_served(version: str, method: str) -> None:
    server = Server()
    server.say(enveloped(method, version=version))
    [reply] = server.replies()
    assert reply["error"]["code"] == UNSUPPORTED_VERSION
    assert reply["error"]["data"] == {"supported": [MODERN], "requested": version}
    server.handshake("2025-11-25")


@req("modern-meta-required")
@pytest.mark.parametrize("member", ["protocolVersion", "clientCapabilities"])
@pytest.mark.parametrize("method", ["tools/list", "nonsense"])
def test_an_envelope_that_lacks_a_required_member(member: str, method: str) -> None:
    server = Server(MODERN)
    server.still_serves()
    message = enveloped(method)
    del message["params"]["_meta"][META + member]
    server.say(message)
    assert codes(server.replies()) == [(1, INVALID_PARAMS)]
    server.still_serves()


@req("modern-client-info-optional")
def test_a_client_need_not_say_who_it_is() -> None:
    server = Server(MODERN)
    message = enveloped("tools/list")
    del message["params"]["_meta"][META + "clientInfo"]
    server.say(message)
    assert "result" in server.replies()[0]


@req("removed-methods", "error-method-not-found")
@pytest.mark.parametrize(
    "method",
    ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "nonsense"],
)
def test_methods_that_the_modern_era_does_not_have(method: str) -> None:
    params = {
        "level": "info",
        "uri": "kv://config",
        "protocolVersion": MODERN,
        "capabilities": {},
        "clientInfo": CLIENT_INFO,
    }
    server = Server(MODERN)
    assert server.error(method, params)["code"] == METHOD_NOT_FOUND
    server.still_serves()


@each_legacy
@req("error-method-not-found")
@pytest.mark.parametrize("method", ["server/discover", "subscriptions/listen", "nonsense", "tools/List"])
def test_methods_that_the_legacy_era_does_not_have(revision: str, method: str) -> None:
    server = Server(revision)
    assert server.error(method, {"notifications": {}})["code"] == METHOD_NOT_FOUND
    server.still_serves()


@pytest.mark.parametrize("params", [[], [1], "x", 7, None, True])
@pytest.mark.parametrize("method", ["tools/list", "nonsense"])
def test_params_that_are_no_object(revision: str, params: Json, method: str) -> None:
    server = Server(revision)
    server.say({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    assert codes(server.replies()) == [(1, INVALID_PARAMS)]
    server.still_serves()


@pytest.mark.parametrize("meta", [[], 7, None, "x"])
def test_a_meta_that_is_no_object(revision: str, meta: Json) -> None:
    server = Server(revision)
    server.say({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}})
    assert codes(server.replies()) == [(1, INVALID_PARAMS)]
    server.still_serves()


@each_legacy
@pytest.mark.parametrize("token", [1.5, None, [], {}, True])
def test_a_legacy_progress_token_that_is_none(revision: str, token: Json) -> None:
    server = Server(revision)
    assert server.error("tools/list", meta={"progressToken": token})["code"] == INVALID_PARAMS


def test_era_faults_are_named_before_faults_of_params() -> None:
    server = Server(MODERN)
    server.still_serves()
    server.say({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 7}})
    assert "protocolVersion" in server.replies()[0]["error"]["message"]


# --- context ---


@req("modern-stateless")
def test_nothing_is_derived_from_earlier_modern_requests() -> None:
    server = Server(MODERN, caller=Caller("alice"))
    first = seen_by(server, envelope(progressToken="p", log_level="info", traceparent="00-a-b-01"))
    assert first == {
        "principal": "alice",
        "version": MODERN,
        "info": CLIENT_INFO["name"],
        "token": "p",
        "level": "info",
        "trace": {"traceparent": "00-a-b-01"},
        "roots": True,
    }
    server.capabilities = {}
    second = seen_by(server)
    assert (second["token"], second["level"], second["trace"], second["roots"]) == (None, None, {}, False)
    assert seen_by(server) == second


@each_legacy
def test_a_legacy_context_is_what_initialize_said(revision: str) -> None:
    server = Server(revision, capabilities={"roots": {}}, caller=Caller("alice"))
    wanted = {
        "principal": "alice",
        "version": revision,
        "info": CLIENT_INFO["name"],
        "token": None,
        "level": None,
        "trace": {},
        "roots": True,
    }
    assert seen_by(server) == wanted
    assert seen_by(server, {"progressToken": 7, "other": {}}) == wanted | {"token": 7}
    assert seen_by(server, {"other": {}}) == wanted


# --- batches ---


def batch(*messages: Json) -> bytes:
    return json.dumps(messages).encode() + b"\n"


@req("batch-receive")
def test_a_batch_at_2025_03_26() -> None:
    server = Server("2025-03-26")
    first = server.request("tools/call", call("get", {"key": "a"}))
    second = server.request("ping")
    stray = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    server.say(batch(first, stray, 7, second, [second], {"jsonrpc": "2.0", "id": 9, "result": {}}))
    replies = server.replies()
    assert sorted(map(str, ids(replies))) == ["None", "None", "r1", "r2"]
    assert codes([reply for reply in replies if "error" in reply]) == [(None, INVALID_REQUEST)] * 2
    server.still_serves()


@req("batch-receive")
def test_a_batch_that_is_empty_or_too_long() -> None:
    server = Server("2025-03-26", limits=Limits(batch_messages=2))
    server.say(batch(), batch(1, 2, 3))
    assert codes(server.replies()) == [(None, INVALID_REQUEST)] * 2
    server.still_serves()


@req("batch-initialize-alone")
def test_initialize_inside_a_batch_opens_nothing() -> None:
    server = Server()
    server.say(batch(INITIALIZE))
    assert codes(server.replies()) == [(None, INVALID_REQUEST)]
    assert server.error("tools/list")["code"] == INVALID_REQUEST
    server = Server("2025-03-26")
    server.say(batch(INITIALIZE))
    assert codes(server.replies()) == [(0, INVALID_REQUEST)]


@req("batch-refused-elsewhere")
@pytest.mark.parametrize("revision", [revision for revision in REVISIONS if revision != "2025-03-26"])
def test_a_batch_at_any_other_revision(revision: str) -> None:
    server = Server(revision)
    server.say(batch(server.request("tools/list")), batch())
    assert codes(server.replies()) == [(None, INVALID_REQUEST)] * 2
    server.still_serves()


# --- cancelling ---


@req("cancellation-unknown-ignored")
@pytest.mark.parametrize("id", [99, "r1", None, 1.5, {}, "init"])
def test_cancelling_what_is_not_in_flight_does_nothing(revision: str, id: Json) -> None:
    server = Server(revision)
    server.cancel(id)
    server.notify("notifications/cancelled", {})
    server.say(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":[]}\n')
    assert server.replies() == []
    server.still_serves()


@req("cancellation-silent")
def test_a_cancelled_call_is_not_answered(revision: str) -> None:
    server = Server(revision, held=True)
    server.say(server.request("tools/call", call("get", {"key": "a"}), id="a\u00fc"))
    server.say(
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"\\u0061\\u00fc"}}\n'
    )
    server.answer_batch()
    assert server.replies() == []


# --- progress ---


@req("progress-increases", "progress-active-only", "progress-opt-in")
@pytest.mark.parametrize("token", ["p", 7, 0, ""])
def test_progress_only_grows_and_ends_with_the_request(revision: str, token: Json) -> None:
    server = Server(revision)
    server.start("job", meta={"progressToken": token})
    [ticket] = server.jobs
    for step in (0, 1, 1, 0.5, 2.5, float("nan"), float("inf"), 2.5, 3):
        server.tell(ticket, Progress(step))
    told = server.replies()
    assert [message["params"]["progress"] for message in told] == [0, 1, 2.5, 3]
    assert {json.dumps(message["params"]["progressToken"]) for message in told} == {json.dumps(token)}
    server.cancel("r1")
    server.tell(ticket, Progress(4))
    assert server.replies() == []


@pytest.mark.parametrize("total", [float("nan"), float("inf")])
def test_a_total_that_json_cannot_say_is_left_out(total: float) -> None:
    server = Server("2025-11-25")
    server.start("job", meta={"progressToken": 1})
    [ticket] = server.jobs
    server.tell(ticket, Progress(1, total))
    [told] = server.replies()
    assert told["params"] == {"progressToken": 1, "progress": 1}


@req("progress-opt-in")
def test_without_a_token_no_progress_is_told(revision: str) -> None:
    server = Server(revision)
    server.start("job")
    [ticket] = server.jobs
    server.tell(ticket, Progress(1, 2, "half"))
    assert server.replies() == []


def test_a_peer_that_does_not_read_costs_bounded_memory() -> None:
    server = Server("2025-11-25", limits=Limits(log_messages=5))
    server.start("job", meta={"progressToken": 1})
    [ticket] = server.jobs
    for step in range(100):
        server.tell(ticket, Progress(step))
        server.tell(ticket, Log("error", b"1"))
    assert len(server.replies()) == 5
    server.tell(ticket, Progress(1000))
    assert len(server.replies()) == 1


# --- logging ---


def logged(server: Server, ticket: int) -> list[str]:
    """The levels that get through."""
    for level in ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"):
        server.tell(ticket, Log(level, b'"x"'))
    return [message["params"]["level"] for message in server.replies()]


@each_legacy
@req("logging-level")
def test_the_level_of_a_legacy_client(revision: str) -> None:
    server = Server(revision)
    server.start("job")
    [ticket] = server.jobs
    assert logged(server, ticket) == ["warning", "error", "critical", "alert", "emergency"]
    assert server.result("logging/setLevel", {"level": "alert"}) == {}
    assert logged(server, ticket) == ["alert", "emergency"]
    assert server.error("logging/setLevel", {"level": "loud"})["code"] == INVALID_PARAMS
    assert server.result("logging/setLevel", {"level": "debug"}) == {}
    assert len(logged(server, ticket)) == 8


@req("logging-opt-in")
def test_a_modern_client_is_logged_to_only_where_it_asked_to_be() -> None:
    server = Server(MODERN)
    server.start("job", meta=envelope(log_level="critical"))
    server.start("job")
    asked, silent = server.jobs
    assert logged(server, asked) == ["critical", "alert", "emergency"]
    assert logged(server, silent) == []


# --- changes, legacy ---


@each_legacy
def test_a_legacy_client_is_told_of_lists_and_of_what_it_subscribed_to(revision: str) -> None:
    server = Server(revision)
    assert server.result("resources/subscribe", {"uri": "kv://keys/a"}) == {}
    for _ in range(3):
        server.publish(ListChanged("tools"))
        server.publish(ResourceUpdated("kv://keys/a"))
        server.publish(ResourceUpdated("kv://keys/b"))
    tools, updated = server.replies()
    assert tools == {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    assert updated["params"] == {"uri": "kv://keys/a"}
    server.publish(ResourceUpdated("kv://keys/a"))
    assert server.result("resources/unsubscribe", {"uri": "kv://keys/a"}) == {}
    server.publish(ResourceUpdated("kv://keys/a"))
    assert server.replies() == []


@req("legacy-negotiated-features")
def test_a_list_that_was_not_declared_is_not_told_of() -> None:
    catalog = Catalog(ADD)
    server = Server("2025-11-25", catalog=catalog)
    catalog.add(GREET)
    server.publish(ListChanged("prompts"))
    server.publish(ListChanged("tools"))
    assert methods(server.replies()) == ["notifications/tools/list_changed"]


# --- changes, modern ---


def listen(server: Server, id: Json, **wanted: Json) -> Json:
    server.say(server.request("subscriptions/listen", {"notifications": wanted}, id=id))
    return server.replies()


def subscription(message: Json) -> Json:
    return message["params"]["_meta"][META + "subscriptionId"]


@req("listen-ack-first", "listen-only-asked", "listen-subscription-id")
def test_a_listen_is_acknowledged_first_and_told_what_it_asked_for() -> None:
    server = Server(MODERN)
    [granted] = listen(
        server, 7, toolsListChanged=True, resourceSubscriptions=["kv://keys/a", "kv://nothing"]
    )
    assert granted["method"] == "notifications/subscriptions/acknowledged"
    assert granted["params"]["notifications"] == {
        "toolsListChanged": True,
        "resourceSubscriptions": ["kv://keys/a"],
    }
    for _ in range(2):
        server.publish(ResourceUpdated("kv://keys/a"))
        server.publish(ResourceUpdated("kv://keys/b"))
        server.publish(ListChanged("tools"))
        server.publish(ListChanged("prompts"))
    updated, tools = server.replies()
    assert updated["params"]["uri"] == "kv://keys/a" and subscription(updated) == 7
    assert tools["method"] == "notifications/tools/list_changed" and subscription(tools) == 7


@req("listen-ack-first")
def test_what_changes_between_request_and_acknowledgement_comes_after_it() -> None:
    server = Server(MODERN)
    server.say(server.request("subscriptions/listen", {"notifications": {"toolsListChanged": True}}))
    server.publish(ListChanged("tools"))
    assert methods(server.replies()) == [
        "notifications/subscriptions/acknowledged",
        "notifications/tools/list_changed",
    ]


@req("listen-only-asked")
def test_a_modern_client_that_does_not_listen_hears_nothing() -> None:
    server = Server(MODERN)
    server.still_serves()
    server.publish(ListChanged("tools"))
    assert server.replies() == []


@req("listen-no-progress")
def test_progress_and_logs_do_not_travel_on_a_listen() -> None:
    server = Server(MODERN)
    listen(server, 7, toolsListChanged=True)
    server.start("job", meta=envelope(progressToken="p", log_level="debug"))
    [ticket] = server.jobs
    server.tell(ticket, Progress(1))
    server.tell(ticket, Log("error", b"1"))
    assert all("_meta" not in message["params"] for message in server.replies())


def test_listens_are_independent_and_end_one_by_one() -> None:
    server = Server(MODERN)
    listen(server, 1, toolsListChanged=True)
    listen(server, "1", toolsListChanged=True, promptsListChanged=True)
    server.publish(ListChanged("tools"))
    assert [subscription(message) for message in server.replies()] == [1, "1"]
    server.cancel(1)
    server.publish(ListChanged("tools"))
    server.publish(ListChanged("prompts"))
    assert [subscription(message) for message in server.replies()] == ["1", "1"]


def test_a_listen_with_an_id_in_flight_is_refused_and_the_first_goes_on() -> None:
    server = Server(MODERN)
    listen(server, 1, toolsListChanged=True)
    assert codes(listen(server, 1, promptsListChanged=True)) == [(1, INVALID_REQUEST)]
    server.publish(ListChanged("prompts"))
    server.publish(ListChanged("tools"))
    assert methods(server.replies()) == ["notifications/tools/list_changed"]


@pytest.mark.parametrize("end", ["eof", "shutdown"])
def test_the_end_tells_what_changed_and_ends_every_listen(end: str) -> None:
    server = Server(MODERN)
    listen(server, 1, toolsListChanged=True)
    server.publish(ListChanged("tools"))
    if end == "eof":
        server.end()
    else:
        server.shut_down()
    changed, ended = server.replies()
    assert changed["method"] == "notifications/tools/list_changed"
    assert ended["id"] == 1 and ended["result"]["_meta"][META + "subscriptionId"] == 1
    assert server.closed()
    server.publish(ListChanged("tools"))
    assert server.replies() == []


@req("bounds-subscriptions")
def test_there_is_room_for_so_many_listens() -> None:
    server = Server(MODERN, limits=Limits(open_exchanges=1))
    listen(server, 1, toolsListChanged=True)
    [refused] = listen(server, 2, toolsListChanged=True)
    assert refused["error"]["data"]["code"] == "TOO_MANY_REQUESTS"
    server.still_serves()


@req("bounds-subscriptions")
def test_there_is_room_for_so_many_resources() -> None:
    server = Server(MODERN, limits=Limits(subscribed_resources=2))
    uris = ["kv://keys/a", "kv://keys/a", "kv://keys/b"]
    [granted] = listen(server, 1, resourceSubscriptions=uris)
    assert granted["params"]["notifications"] == {"resourceSubscriptions": ["kv://keys/a", "kv://keys/b"]}
    assert codes(listen(server, 2, resourceSubscriptions=["kv://keys/c"])) == [(2, INVALID_REQUEST)]
    server.cancel(1)
    assert codes(listen(server, 3, resourceSubscriptions=["kv://keys/c"])) == [(None, None)]

    legacy = Server("2025-11-25", limits=Limits(subscribed_resources=1))
    for _ in range(2):
        assert legacy.result("resources/subscribe", {"uri": "kv://keys/a"}) == {}
    assert legacy.error("resources/subscribe", {"uri": "kv://keys/b"})["code"] == INVALID_REQUEST


def test_a_listen_without_anything_to_listen_to() -> None:
    server = Server(MODERN, catalog=Catalog())
    assert server.error("subscriptions/listen", {"notifications": {}})["code"] == METHOD_NOT_FOUND
    only_templates = Server(MODERN, catalog=Catalog(KEYS))
    wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}
    [granted] = listen(only_templates, 1, **wanted)
    assert granted["params"]["notifications"] == {"resourcesListChanged": True}


# --- message by message ---


def test_a_session_can_be_fed_whole_messages() -> None:
    service: Service = a_service()
    session = ServerSession(service)
    session.receive_message(b'{"jsonrpc":"2.0","id":1,"method":"ping"}', 0.0)
    assert session.take_messages() == [b'{"jsonrpc":"2.0","id":1,"result":{}}']
    assert session.take_messages() == [] and session.take_commands() == []
    assert session.wants_input and not session.closed and session.next_deadline() is None


# --- ids and names ---


@pytest.mark.parametrize("method", ["tools/list", "unknown/method", "tools/call"])
def test_an_id_that_is_in_flight_is_refused_whatever_the_method(revision: str, method: str) -> None:
    server = Server(revision, held=True)
    id = server.start("get", {"key": "a"})
    # Fed as bytes: the harness takes an id for one request only, as it should be.
    server.feed(json.dumps(server.request(method, id=id)).encode() + b"\n")
    [refused] = server.replies()
    assert refused["id"] == id
    assert refused["error"]["message"] == "a request with this id is still in flight"
    server.answer_batch()
    [answered] = server.replies()
    assert answered["id"] == id and "result" in answered


@pytest.mark.parametrize(
    ("method", "params"),
    [("x" * 100_000, {}), ("tools/call", {"name": "x" * 100_000}), ("prompts/get", {"name": "x" * 100_000})],
)
def test_a_long_name_is_not_repeated_at_length(revision: str, method: str, params: Json) -> None:
    error = Server(revision).error(method, params)
    assert "x…" in error["message"] and len(error["message"]) < 200
