"""Resources of a store: listed page by page, for those whom they serve; watched exactly while somebody watches them."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import pytest
from msgspec import UNSET, Raw, Struct

from kvmcp.core.catalog import Catalog
from kvmcp.core.commands import StartWork, WorkDone, WorkFailed
from kvmcp.core.errors import INVALID_PARAMS, LocalProtocolError, RpcError
from kvmcp.core.exchange import INTERNAL
from kvmcp.core.items import ResourceListing, ResourceTemplate, Watch
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Answer, AskBackend, Caller, Context, Fail, Plan
from kvmcp.core.service import Service
from kvmcp.core.subscriptions import ListChanged, ResourceUpdated, Subscription, Watched
from kvmcp.core.uritemplate import UriTemplate
from kvmcp.core.wire.common import (
    ClientCapabilities,
    Done,
    Icon,
    ReadResult,
    ResourceContents,
    ResourceLink,
    ResourcePage,
)
from kvmcp.core.wire.params import ListenFilter
from tests.core.fixture_catalog import ADD, CONFIG, Get
from tests.core.harness import (
    INVALID_REQUEST,
    LEGACY,
    META,
    MODERN,
    RESOURCE_NOT_FOUND,
    Json,
    Server,
    a_service,
    methods,
)
from tests.core.http.harness import Reply, Session, Web
from tests.core.http.replicas import Replicas

each_revision = pytest.mark.parametrize("revision", [*LEGACY, MODERN])

ACME, OTHER = Caller("alice", "acme"), Caller("alice", "other")


# --- a catalog with tenants: kv://{namespace}/{key}, and a list of what is there ---


class Found(Struct, frozen=True):
    uri: str

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        return Answer(ReadResult((ResourceContents(self.uri, text=str(replies[0])),), ttl_ms=5))


def read(uri: str, variables: Mapping[str, str], context: Context) -> Plan:
    return AskBackend((Get(variables["key"]),), Found(uri))


def serves(variables: Mapping[str, str], context: Context) -> bool:
    return variables["namespace"] == context.caller.namespace


def watch(variables: Mapping[str, str]) -> Watch | None:
    return None if variables["key"] == "still" else Watch(keys=(variables["key"],))


THINGS = ResourceTemplate(
    uri_template=UriTemplate("kv://{namespace}/{key}"), name="things", read=read, serves=serves, watch=watch
)
PUBLISHED = ResourceTemplate(uri_template=UriTemplate("kv://published/by/{key}"), name="published", read=read)


def page(cursor: str, size: int, context: Context) -> Plan:
    """As many as the cursor says, down to none."""
    if cursor not in ("", "1", "2"):
        return Fail(RpcError(INVALID_PARAMS, "no such cursor"))
    left = int(cursor or "2")
    uri = f"kv://{context.caller.namespace}/{left}"
    link = ResourceLink(
        uri, f"thing {left}", title="A thing", size=size, icons=(Icon("https://kv.example/i"),)
    )
    return Answer(ResourcePage((link,), str(left - 1) if left > 1 else UNSET, ttl_ms=7))


LISTING = ResourceListing(page)


def catalog() -> Catalog:
    return Catalog(THINGS, PUBLISHED, LISTING)


class Lookout:
    """Says what it was told; `slow` lets every subscriber wait."""

    def __init__(self, *, slow: bool = False) -> None:
        self.seen: set[str] = set()
        self.slow = slow

    def begin(self, uri: str) -> None:
        assert uri not in self.seen
        self.seen.add(uri)

    def end(self, uri: str) -> None:
        self.seen.remove(uri)

    def job(self, uris: Iterable[str]) -> object | None:
        wanted = frozenset(uris)
        assert wanted <= self.seen
        return wanted if self.slow and wanted else None


def watched_service(lookout: Lookout, limits: Limits | None = None) -> Service:
    service = a_service(catalog(), limits=limits)
    service.watched = Watched(lookout)
    return service


def finish(server: Server, *, failed: bool = False) -> None:
    [ticket] = server.jobs
    server.complete(ticket, WorkFailed(INTERNAL) if failed else WorkDone(Done()))


def listen(server: Server, *uris: str, id: Json = "l") -> list[Json]:
    wanted = {"resourceSubscriptions": list(uris), "resourcesListChanged": True}
    server.say(server.request("subscriptions/listen", {"notifications": wanted}, id=id))
    return server.replies()


# --- lists ---


@each_revision
def test_what_is_in_the_store_is_listed_behind_the_catalog(revision: str) -> None:
    offered = Catalog(CONFIG, LISTING)
    server = Server(revision, catalog=offered, caller=ACME, limits=Limits(list_page=9))
    first = server.result("resources/list")
    second = server.result("resources/list", {"cursor": first["nextCursor"]})
    third = server.result("resources/list", {"cursor": second["nextCursor"]})
    pages = [first, second, third]
    assert [[item["uri"] for item in one["resources"]] for one in pages] == [
        [CONFIG.uri], ["kv://acme/2"], ["kv://acme/1"],
    ]  # fmt: skip
    assert "nextCursor" not in third
    assert second["resources"][0]["size"] == 9
    assert ("title" in second["resources"][0]) == (revision >= "2025-06-18")
    assert ("icons" in second["resources"][0]) == (revision >= "2025-11-25")
    if revision == MODERN:
        assert {one["cacheScope"] for one in pages} == {"private"}, "the same on all pages"
        assert [one["ttlMs"] for one in pages] == [60_000, 7, 7]


@each_revision
def test_where_the_catalog_has_none_the_first_page_is_the_stores(revision: str) -> None:
    server = Server(revision, catalog=Catalog(LISTING), caller=OTHER)
    assert server.result("resources/list")["resources"][0]["uri"] == "kv://other/2"
    assert server.error("resources/list", {"cursor": ".nonsense"})["code"] == INVALID_PARAMS
    assert server.error("resources/list", {"cursor": "nonsense"})["code"] == INVALID_PARAMS


def test_a_cursor_of_a_listing_is_unknown_where_there_is_none() -> None:
    server = Server(MODERN, catalog=Catalog(CONFIG))
    assert server.error("resources/list", {"cursor": ".1"})["code"] == INVALID_PARAMS
    assert server.result("resources/list")["cacheScope"] == "public"


def test_there_is_one_listing_at_most_and_it_can_be_taken_away() -> None:
    offered = Catalog(features=frozenset())
    assert not offered.offers("resources")
    assert offered.add(LISTING) == "resources" and offered.offers("resources")
    with pytest.raises(LocalProtocolError, match="already"):
        offered.add(ResourceListing(page))
    with pytest.raises(LocalProtocolError, match="not there"):
        offered.remove(ResourceListing(lambda cursor, size, context: page("", size, context)))
    assert offered.remove(LISTING) == "resources" and offered.listing is None
    assert offered.revision["resources"] == 2


# --- whom a resource serves ---


@each_revision
def test_a_resource_of_somebody_else_does_not_exist(revision: str) -> None:
    for caller, uri in ((ACME, "kv://other/a"), (OTHER, "kv://acme/a")):
        server = Server(revision, catalog=catalog(), caller=caller)
        own = f"kv://{caller.namespace}/a"
        assert server.result("resources/read", {"uri": own})["contents"][0]["text"] == "1"
        nothing = server.error("resources/read", {"uri": "kv://none/of/these"})
        foreign = server.error("resources/read", {"uri": uri})
        assert foreign == nothing | {"data": {"uri": uri}}


@pytest.mark.parametrize("revision", LEGACY)
def test_nobody_subscribes_to_what_is_somebody_elses_or_never_told(revision: str) -> None:
    lookout = Lookout()
    server = Server(revision, service=watched_service(lookout), caller=ACME)
    foreign = server.error("resources/subscribe", {"uri": "kv://other/a"})
    assert foreign["code"] == RESOURCE_NOT_FOUND
    assert server.error("resources/subscribe", {"uri": "kv://acme/still"})["code"] == INVALID_PARAMS
    assert lookout.seen == set()
    assert server.result("resources/subscribe", {"uri": "kv://published/by/me"}) == {}


def test_a_listen_leaves_out_what_it_cannot_serve() -> None:
    server = Server(MODERN, catalog=catalog(), caller=ACME)
    [granted] = listen(server, "kv://other/a", "kv://acme/still", "kv://acme/a", "kv://published/by/me")
    assert granted["params"]["notifications"]["resourceSubscriptions"] == [
        "kv://acme/a", "kv://published/by/me",
    ]  # fmt: skip
    server.publish(ResourceUpdated("kv://other/a"))
    assert server.replies() == []


def test_a_catalog_says_where_changes_show() -> None:
    offered = Catalog(CONFIG, THINGS, PUBLISHED)
    assert offered.watch_of("kv://acme/a") == Watch(keys=("a",))
    assert offered.watch_of("kv://acme/still") is None
    assert offered.watch_of("kv://published/by/me") is None
    assert offered.watch_of(CONFIG.uri) is None
    assert offered.watch_of("kv://nothing/like/this") is None
    assert offered.can_watch(CONFIG.uri, Context(ACME, MODERN, ClientCapabilities()))


# --- what is watched ---


def test_each_resource_is_told_once_however_many_watch_it() -> None:
    lookout = Lookout()
    watched = Watched(lookout)
    one, other = Subscription(watched), Subscription(watched)
    for subscription in (one, other, one):
        subscription.watch("kv://a")
    other.watch("kv://b")
    assert lookout.seen == {"kv://a", "kv://b"} == set(watched) and len(watched) == 2
    one.forget("kv://a")
    one.forget("kv://a")
    assert "kv://a" in watched
    other.close()
    assert lookout.seen == set() and "kv://a" not in watched
    other.watch("kv://a")
    assert lookout.seen == set() and other.uris == set(), "it is closed"


def test_without_a_lookout_it_is_counted_all_the_same() -> None:
    watched = Watched()
    subscription = Subscription(watched)
    subscription.watch("kv://a")
    assert list(watched) == ["kv://a"] and watched.job(("kv://a",)) is None
    subscription.close()
    assert len(watched) == 0


def test_what_is_held_is_told_later() -> None:
    subscription = Subscription.of(
        ListenFilter(resources_list_changed=True, resource_subscriptions=("kv://a",), task_ids=("t",))
    )
    subscription.is_held = True
    subscription.note(ListChanged("resources"))
    subscription.note(ResourceUpdated("kv://a"))
    subscription.note_task("t")
    assert (subscription.is_dirty, subscription.take(), subscription.take_tasks()) == (False, [], [])
    subscription.is_held = False
    assert subscription.is_dirty
    assert subscription.take() == [ListChanged("resources"), ResourceUpdated("kv://a")]
    assert subscription.take_tasks() == ["t"]


@pytest.mark.parametrize("ending", ["unsubscribe", "end", "shut down"])
def test_a_legacy_subscription_ends_with_its_client(ending: str) -> None:
    lookout = Lookout()
    server = Server("2025-11-25", service=watched_service(lookout), caller=ACME)
    assert server.result("resources/subscribe", {"uri": "kv://acme/a"}) == {}
    assert lookout.seen == {"kv://acme/a"}
    match ending:
        case "unsubscribe":
            server.result("resources/unsubscribe", {"uri": "kv://acme/a"})
        case "end":
            server.end()
        case _:
            server.shut_down()
    assert lookout.seen == set()


@pytest.mark.parametrize("ending", ["cancel", "end", "shut down"])
def test_a_listen_ends_with_its_request(ending: str) -> None:
    lookout = Lookout()
    server = Server(MODERN, service=watched_service(lookout), caller=ACME)
    listen(server, "kv://acme/a", "kv://acme/b")
    assert lookout.seen == {"kv://acme/a", "kv://acme/b"}
    match ending:
        case "cancel":
            server.cancel("l")
        case "end":
            server.end()
        case _:
            server.shut_down()
    assert lookout.seen == set()


# --- no change is lost between the answer and the watch ---


def test_a_legacy_subscriber_is_answered_once_changes_are_noticed() -> None:
    lookout = Lookout(slow=True)
    server = Server("2025-11-25", service=watched_service(lookout), caller=ACME)
    server.say(server.request("resources/subscribe", {"uri": "kv://acme/a"}, id=1))
    assert server.replies() == []
    server.publish(ResourceUpdated("kv://acme/a"))
    assert methods(server.replies()) == ["notifications/resources/updated"], "as soon as anything is known"
    finish(server)
    assert server.replies() == [{"jsonrpc": "2.0", "id": 1, "result": {}}]


def test_a_listen_is_acknowledged_once_changes_are_noticed_and_nothing_is_told_before() -> None:
    lookout = Lookout(slow=True)
    server = Server(MODERN, service=watched_service(lookout), caller=ACME)
    assert listen(server, "kv://acme/a") == []
    server.publish(ResourceUpdated("kv://acme/a"))
    server.publish(ListChanged("resources"))
    assert server.replies() == [] and not server.connection.wants_turn
    finish(server)
    assert methods(server.replies()) == [
        "notifications/subscriptions/acknowledged",
        "notifications/resources/updated",
        "notifications/resources/list_changed",
    ]
    assert listen(server, id="lists") != [], "what has no resources waits for nothing"


def test_a_listen_whose_job_fails_is_acknowledged_all_the_same() -> None:
    server = Server(MODERN, service=watched_service(Lookout(slow=True)), caller=ACME)
    listen(server, "kv://acme/a")
    finish(server, failed=True)
    assert methods(server.replies()) == ["notifications/subscriptions/acknowledged"]


@pytest.mark.parametrize("ending", ["cancel", "end"])
def test_a_listen_may_end_before_it_is_acknowledged(ending: str) -> None:
    lookout = Lookout(slow=True)
    server = Server(MODERN, service=watched_service(lookout), caller=ACME)
    listen(server, "kv://acme/a")
    [ticket] = server.jobs
    server.cancel("l") if ending == "cancel" else server.end()
    assert server.stopped == [ticket] and lookout.seen == set()
    assert methods(server.replies()) == ([] if ending == "cancel" else [None])
    server.complete(ticket, WorkDone(Done()))
    assert server.replies() == []


def test_who_finds_no_room_watches_nothing() -> None:
    lookout = Lookout(slow=True)
    service = watched_service(lookout, Limits(open_exchanges=1))
    legacy = Server("2025-11-25", service=service, caller=ACME)
    legacy.say(legacy.request("resources/subscribe", {"uri": "kv://acme/a"}))
    assert "1 requests wait" in legacy.error("resources/subscribe", {"uri": "kv://acme/b"})["message"]
    assert "1 requests wait" in legacy.error("resources/subscribe", {"uri": "kv://acme/a"})["message"]
    assert lookout.seen == {"kv://acme/a"}, "what was asked for before is still watched"
    modern = Server(MODERN, service=service, caller=ACME)
    assert listen(modern, "kv://acme/c") == []
    [refused] = listen(modern, "kv://acme/d", id="second")
    assert "error" in refused and lookout.seen == {"kv://acme/a", "kv://acme/c"}


def test_all_connections_together_watch_so_many_resources() -> None:
    service = watched_service(Lookout(), Limits(watched_uris=2))
    one = Server("2025-11-25", service=service, caller=ACME)
    other = Server("2025-11-25", service=service, caller=ACME)
    for server, key in ((one, "a"), (other, "b")):
        assert server.result("resources/subscribe", {"uri": f"kv://acme/{key}"}) == {}
    refused = other.error("resources/subscribe", {"uri": "kv://acme/c"})
    assert refused["code"] == INVALID_REQUEST and "2 on all together" in refused["message"]
    one.end()
    assert other.result("resources/subscribe", {"uri": "kv://acme/c"}) == {}


def test_done_says_nothing_in_either_era() -> None:
    service = a_service()
    assert service.legacy("2025-11-25").render(b"1", Done()) == b'{"jsonrpc":"2.0","id":1,"result":{}}'
    assert b'"result":{"resultType":"complete","_meta"' in service.modern.render(b"1", Done())


# --- over HTTP ---


def test_a_modern_listen_over_http_waits_and_ends_with_its_connection() -> None:
    lookout = Lookout(slow=True)
    web = Web(service=watched_service(lookout), caller=ACME)
    reply = web.ask("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["kv://acme/a"]}})
    assert reply.waits
    web.publish(ResourceUpdated("kv://acme/a"))
    assert reply.waits
    [ticket] = reply.jobs
    reply.complete(ticket, WorkDone(Done()))
    assert methods(reply.messages()) == [
        "notifications/subscriptions/acknowledged", "notifications/resources/updated",
    ]  # fmt: skip
    reply.disconnect()
    assert lookout.seen == set()


def test_a_legacy_session_over_http_watches_until_it_ends() -> None:
    lookout = Lookout()
    web = Web(service=watched_service(lookout), caller=ACME)
    session = Session(web, "2025-11-25")
    session.ask("resources/subscribe", {"uri": "kv://acme/a"})
    assert lookout.seen == {"kv://acme/a"}
    session.delete()
    assert lookout.seen == set()


def test_a_session_belongs_to_a_namespace() -> None:
    web = Web(catalog=catalog(), caller=ACME)
    session = Session(web, "2025-11-25")
    assert session.ask("ping").status == 200
    web.caller = OTHER
    assert session.ask("ping").status == 404
    web.caller = ACME
    assert session.ask("ping").status == 200


def test_a_subscription_is_known_to_all_processes_in_its_namespace() -> None:
    both = Replicas(catalog=catalog)
    for web in both.webs:
        web.caller = ACME
    session = Session(both.webs[0], "2025-11-25")

    def subscribe(web: Web) -> Reply:
        return session.ask("resources/subscribe", {"uri": "kv://acme/a"}, web=web)

    assert both.at(0, subscribe).message()["result"] == {}
    assert [list(web.service.watched) for web in both.webs] == [["kv://acme/a"]] * 2
    stream = both.at(1, lambda web: session.get(web=web))
    both.webs[1].publish(ResourceUpdated("kv://acme/a"))
    assert stream.message()["method"] == "notifications/resources/updated"
    both.at(0, lambda web: session.delete(web))
    assert [len(web.service.watched) for web in both.webs] == [0, 0]


# --- on whose behalf ---


def named(caller: Caller, meta: Raw) -> Caller | RpcError:
    tenant = msgspec.json.decode(meta or b"{}").get("tenant")
    return RpcError(INVALID_PARAMS, "no tenant") if tenant is None else Caller(caller.principal, tenant)


@each_revision
def test_a_request_may_say_itself_on_whose_behalf_it_comes(revision: str) -> None:
    service = a_service(Catalog(THINGS, LISTING, ADD))
    service.caller_of = named
    server = Server(revision, service=service, caller=Caller("alice", ""))
    for namespace in ("acme", "other"):
        read = server.result("resources/read", {"uri": f"kv://{namespace}/a"}, meta={"tenant": namespace})
        assert read["contents"][0]["text"] == "1"
        listed = server.result("resources/list", meta={"tenant": namespace})
        assert listed["resources"][0]["uri"] == f"kv://{namespace}/2"
    foreign = server.error("resources/read", {"uri": "kv://acme/a"}, meta={"tenant": "other"})
    assert foreign["message"] == "resource not found"
    assert server.error("resources/read", {"uri": "kv://acme/a"}) == {
        "code": INVALID_PARAMS, "message": "no tenant",
    }  # fmt: skip
    assert server.result("tools/list")["tools"], "what is the same for everybody needs nobody's name"


def test_over_http_too() -> None:
    service = a_service(Catalog(THINGS))
    service.caller_of = named
    web = Web(service=service)
    meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
    read = {"uri": "kv://acme/a"}
    assert web.ask("resources/read", read, meta=meta).code() == (400, INVALID_PARAMS)
    assert web.ask("resources/read", read, meta=meta | {"tenant": "acme"}).code() == (200, None)


def test_two_callers_are_one_only_in_the_same_namespace() -> None:
    callers = [
        Caller(),
        Caller("a"),
        Caller("a", "b"),
        Caller("b", "a"),
        Caller("/a", "b"),
        Caller("a/b", "b"),
    ]
    assert len({caller.identity for caller in callers}) == len(callers)
    assert Caller("a", "b", frozenset({"read"})).identity == Caller("a", "b").identity


def test_nothing_runs_for_a_subscriber_that_need_not_wait() -> None:
    server = Server("2025-11-25", service=watched_service(Lookout()), caller=ACME)
    server.result("resources/subscribe", {"uri": "kv://acme/a"})
    assert [command for command in server.ran if isinstance(command, StartWork)] == []
