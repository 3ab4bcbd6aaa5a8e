"""Notifications of a server, and what becomes of listens; the server is the test."""

import pytest
from msgspec import UNSET, Raw

from kvmcp.core.client.events import (
    ErrorReceived,
    ListChanged,
    ListenAcknowledged,
    ListenEnded,
    LogReceived,
    NotificationReceived,
    ProgressReceived,
    ProtocolViolated,
    ResourceUpdated,
    TimedOut,
)
from kvmcp.core.client.profile import ClientLimits
from kvmcp.core.commands import Ticket
from kvmcp.core.wire.params import ListenFilter
from tests.core.client.pair import LEGACY, MODERN, REVISIONS, Json, Solo, only

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
ALL = ListenFilter(True, True, True, ("kv://a",))
GRANTED: Json = {
    "toolsListChanged": True,
    "promptsListChanged": True,
    "resourcesListChanged": True,
    "resourceSubscriptions": ["kv://a"],
}
each_revision = pytest.mark.parametrize("revision", REVISIONS)
each_legacy = pytest.mark.parametrize("revision", LEGACY)


def notice(method: str, subscription: Json = None, **params: Json) -> Json:
    meta = {} if subscription is None else {"_meta": {SUBSCRIPTION: subscription}}
    return {"method": f"notifications/{method}", "params": meta | params}


def listen(solo: Solo, wanted: ListenFilter = ALL) -> tuple[Ticket, int]:
    """A listen that was acknowledged: its ticket and its id."""
    ticket = solo.session.listen(wanted, solo.now)
    id = solo.sent_id()
    only(solo.say(notice("subscriptions/acknowledged", id, notifications=GRANTED)), ListenAcknowledged)
    return ticket, id


# --- progress and logs ---


@each_revision
def test_progress(revision: str) -> None:
    solo = Solo(revision)
    ticket, id = solo.call(progress=True)
    _, silent = solo.call()
    assert solo.say(
        notice("progress", progressToken=id, progress=1, total=4, message="one"),
        notice("progress", progressToken=id, progress=1),
        notice("progress", progressToken=id, progress=0.5),
        notice("progress", progressToken=id, progress=1.5),
        notice("progress", progressToken=silent, progress=1),
        notice("progress", progressToken=str(id), progress=1),
        notice("progress", progressToken="other", progress=1),
        notice("progress", progressToken=None, progress=1),
    ) == [ProgressReceived(ticket, 1.0, 4.0, "one"), ProgressReceived(ticket, 1.5, UNSET, UNSET)]


@each_revision
def test_logs(revision: str) -> None:
    solo = Solo(revision)
    assert solo.say(
        notice("message", level="alert", data={"a": [1]}, logger="kv"),
        notice("message", level="debug", data=None),
    ) == [LogReceived("alert", Raw(b'{"a":[1]}'), "kv"), LogReceived("debug", Raw(b"null"))]


@pytest.mark.parametrize(
    "message",
    [
        notice("progress", progress=1),
        notice("progress", progressToken=1, progress="1"),
        notice("message", level="loud", data=1),
        notice("message", level="info"),
        notice("cancelled"),
        notice("cancelled", requestId=None),
        notice("cancelled", requestId=1.5),
        notice("resources/updated"),
        notice("resources/updated", uri=7),
        notice("tools/list_changed", _meta=7),
        notice("subscriptions/acknowledged", 1),
        notice("subscriptions/acknowledged", 1, notifications={"toolsListChanged": 7}),
    ],
)
@each_revision
def test_params_that_do_not_fit(revision: str, message: Json) -> None:
    solo = Solo(revision)
    solo.call(progress=True)
    said = only(solo.say(message), ProtocolViolated)
    assert said.reason == f"params of {message['method']} do not fit" and said.ticket is None


@each_revision
def test_unknown_notifications_are_handed_on(revision: str) -> None:
    solo = Solo(revision)
    assert solo.say({"method": "notifications/elicitation/complete", "params": {"elicitationId": "e"}}) == [
        NotificationReceived("notifications/elicitation/complete", Raw(b'{"elicitationId":"e"}'))
    ]
    assert solo.say({"method": "x"}) == [NotificationReceived("x", Raw(b"{}"))]


# --- changes in the legacy era ---


@each_legacy
def test_changes_come_unasked(revision: str) -> None:
    solo = Solo(revision)
    assert solo.say(
        {"method": "notifications/tools/list_changed"},
        notice("resources/list_changed"),
        notice("prompts/list_changed"),
        notice("resources/updated", uri="kv://a/b"),
    ) == [ListChanged("tools"), ListChanged("resources"), ListChanged("prompts"), ResourceUpdated("kv://a/b")]


# --- listens ---


def test_a_listen_begins_and_tells() -> None:
    solo = Solo()
    ticket = solo.session.listen(ALL, 0.0)
    [request] = solo.sent()
    assert request["method"] == "subscriptions/listen"
    assert request["params"]["notifications"] == GRANTED
    id = request["id"]
    lesser = {"toolsListChanged": True, "ofALaterRevision": ["t"]}
    assert solo.say(notice("subscriptions/acknowledged", id, notifications=lesser)) == [
        ListenAcknowledged(ticket, ListenFilter(tools_list_changed=True))
    ]
    assert solo.session.next_deadline() is None
    assert solo.say(
        notice("tools/list_changed", id),
        notice("prompts/list_changed", id),
        notice("resources/updated", id, uri="u"),
    ) == [ListChanged("tools", ticket), ListChanged("prompts", ticket), ResourceUpdated("u", ticket)]


@pytest.mark.req("client-listen-by-id")
def test_each_listen_is_its_own() -> None:
    solo = Solo()
    one, id1 = listen(solo)
    two, id2 = listen(solo)
    assert solo.say(notice("tools/list_changed", id2), notice("tools/list_changed", id1)) == [
        ListChanged("tools", two),
        ListChanged("tools", one),
    ]


@pytest.mark.parametrize("end", ["result", "cancelled", "both"])
def test_the_server_ends_a_listen(end: str) -> None:
    """By its result, by `notifications/cancelled`, or by both."""
    solo = Solo()
    ticket, id = listen(solo)
    result = {"id": id, "result": {"resultType": "complete", "_meta": {SUBSCRIPTION: id}}}
    cancelled = notice("cancelled", requestId=id)
    messages = {"result": [result], "cancelled": [cancelled], "both": [result, cancelled]}[end]
    assert solo.say(*messages) == [ListenEnded(ticket)]
    assert solo.say(notice("tools/list_changed", id)) == []
    assert solo.sent() == []


def test_a_listen_is_refused() -> None:
    solo = Solo()
    ticket = solo.session.listen(ALL, 0.0)
    refused = {"id": solo.sent_id(), "error": {"code": -32601, "message": "no"}}
    assert only(solo.say(refused), ErrorReceived).ticket == ticket


@pytest.mark.parametrize("first", ["tools/list_changed", "resources/updated", "cancelled", "result"])
def test_the_acknowledgement_comes_first(first: str) -> None:
    solo = Solo()
    ticket = solo.session.listen(ALL, 0.0)
    id = solo.sent_id()
    message = notice(first, id, uri="kv://a", requestId=id)
    if first == "result":
        message = {"id": id, "result": {}}
    assert only(solo.say(message), ProtocolViolated).ticket == ticket
    [told] = solo.sent()
    assert told["params"]["requestId"] == id
    assert solo.say(message) == []


def test_no_acknowledgement_in_time() -> None:
    solo = Solo(limits=ClientLimits(request_timeout=10))
    ticket = solo.session.listen(ALL, 0.0)
    quick = solo.session.listen(ALL, 0.0, timeout=1)
    assert solo.pass_time(1) == [TimedOut(quick)]
    assert solo.pass_time(9) == [TimedOut(ticket)]


def test_two_acknowledgements() -> None:
    solo = Solo()
    _, id = listen(solo)
    said = only(solo.say(notice("subscriptions/acknowledged", id, notifications={})), ProtocolViolated)
    assert said.ticket is None


def test_what_was_not_asked_for_is_not_told() -> None:
    solo = Solo()
    _, lists = listen(solo, ListenFilter(tools_list_changed=True))
    ticket, uris = listen(solo, ListenFilter(resource_subscriptions=("kv://a",)))
    only(solo.say(notice("prompts/list_changed", lists)), ProtocolViolated)
    only(solo.say(notice("resources/updated", lists, uri="kv://a")), ProtocolViolated)
    only(solo.say(notice("tools/list_changed", uris)), ProtocolViolated)
    # "Might be a sub-resource of the one that the client subscribed to."
    assert solo.say(notice("resources/updated", uris, uri="kv://a/1")) == [
        ResourceUpdated("kv://a/1", ticket)
    ]


def test_notifications_of_no_listen() -> None:
    solo = Solo()
    _, call = solo.call()
    for subscription in (None, 99, "x", call, 1.5):
        for message in (
            notice("tools/list_changed", subscription),
            notice("resources/updated", subscription, uri="kv://a"),
            notice("subscriptions/acknowledged", subscription, notifications={}),
        ):
            assert only(solo.say(message), ProtocolViolated).ticket is None


def test_notifications_of_a_listen_that_is_over() -> None:
    solo = Solo()
    ticket, id = listen(solo)
    solo.session.cancel(ticket)
    assert [message["params"]["requestId"] for message in solo.sent()] == [id]
    assert (
        solo.say(
            notice("tools/list_changed", id),
            notice("subscriptions/acknowledged", id, notifications={}),
            notice("cancelled", requestId=id),
            {"id": id, "result": {}},
        )
        == []
    )


def test_a_modern_server_cancels_nothing_but_listens() -> None:
    solo = Solo(MODERN)
    _, id = solo.call()
    assert only(solo.say(notice("cancelled", requestId=id)), ProtocolViolated).ticket is None
    assert len(solo.say({"id": id, "result": {}})) == 1


def test_progress_of_a_listen_means_nothing() -> None:
    solo = Solo()
    _, id = listen(solo)
    assert solo.say(notice("progress", id, progressToken=id, progress=1)) == []
