"""How a client finds out which era and revision a server speaks."""

import pytest
from msgspec import Raw

from kvmcp.core.client.events import Connected, ConnectionFailed, ProtocolViolated
from kvmcp.core.client.opening import Mode
from kvmcp.core.client.profile import ClientLimits
from kvmcp.core.errors import RpcError
from kvmcp.core.wire.common import ClientCapabilities, ElicitationCapability, Implementation
from kvmcp.core.wire.results import ServerCapabilities
from tests.core.client.pair import LEGACY, MODERN, REVISIONS, Json, Solo, only

META = "io.modelcontextprotocol/"
DISCOVERED: Json = {
    "resultType": "complete",
    "supportedVersions": [MODERN],
    "capabilities": {"tools": {}},
    "_meta": {META + "serverInfo": {"name": "s", "version": "1"}},
}
INITIALIZED: Json = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "serverInfo": {"name": "s", "version": "1"},
    "instructions": "Be kind.",
}


def refused(solo: Solo, code: int, **data: Json) -> Json:
    """An error for the request that is out."""
    error: Json = {"code": code, "message": "no"}
    return {"id": solo.sent_id(), "error": error | ({"data": data} if data else {})}


def sent_method(solo: Solo) -> str:
    [request] = solo.sent()
    method: str = request["method"]
    return method


def fell_back(solo: Solo) -> None:
    """Assert that `initialize` was sent, and that it leads to a connection."""
    [request] = solo.sent()
    assert request["method"] == "initialize"
    connected = only(solo.say({"id": request["id"], "result": INITIALIZED}), Connected)
    assert (connected.era, connected.version, connected.instructions) == ("legacy", "2025-11-25", "Be kind.")
    assert solo.sent() == [{"jsonrpc": "2.0", "method": "notifications/initialized"}]


# --- the probe ---


@pytest.mark.parametrize("mode", ["auto", "modern"])
def test_a_modern_server_answers_the_probe(mode: Mode) -> None:
    solo = Solo(mode=mode)
    [request] = solo.sent()
    meta = request["params"]["_meta"]
    assert request["method"] == "server/discover"
    assert meta[META + "protocolVersion"] == MODERN
    assert meta[META + "clientInfo"]["name"] == "probe"
    assert meta[META + "clientCapabilities"]["roots"] == {}
    connected = only(solo.say({"id": request["id"], "result": DISCOVERED}), Connected)
    assert (connected.era, connected.version) == ("modern", MODERN)
    assert connected.server_info == Implementation("s", "1")
    assert solo.session.next_deadline() is None
    assert solo.session.connected == connected


@pytest.mark.parametrize("code", [-32601, -32602, -32600, -32000, -32020, -32021, 0, 7])
@pytest.mark.req("client-fallback-any-error", "client-initialized")
def test_any_other_error_leads_to_initialize(code: int) -> None:
    solo = Solo(mode="auto")
    assert solo.say(refused(solo, code)) == []
    fell_back(solo)


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"supportedVersions": MODERN, "capabilities": {}},
        {"supportedVersions": [MODERN], "capabilities": {}, "resultType": "input_required"},
        {"supportedVersions": [MODERN], "capabilities": {}, "resultType": 7},
        7,
    ],
)
def test_an_answer_that_is_none_leads_to_initialize(result: Json) -> None:
    solo = Solo(mode="auto")
    assert solo.say({"id": solo.sent_id(), "result": result}) == []
    fell_back(solo)


@pytest.mark.req("client-fallback-any-error")
def test_silence_leads_to_initialize_and_a_late_answer_is_ignored() -> None:
    solo = Solo(mode="auto", limits=ClientLimits(probe_timeout=5))
    probe = solo.sent_id()
    assert solo.pass_time(4.9) == []
    assert solo.sent() == []
    assert solo.pass_time(0.2) == []
    assert solo.say({"id": probe, "result": DISCOVERED}) == []
    assert solo.say({"id": probe, "error": {"code": -32601, "message": "no"}}) == []
    fell_back(solo)
    assert solo.say({"id": probe, "result": DISCOVERED}) == []


def test_a_display_name_that_is_missing_or_malformed_is_no_fault() -> None:
    for info in ({}, {META + "serverInfo": {"name": 7}}):
        solo = Solo(mode="auto")
        found = only(solo.say({"id": solo.sent_id(), "result": DISCOVERED | {"_meta": info}}), Connected)
        assert found.server_info is None


# --- versions ---


@pytest.mark.parametrize("mode", ["auto", "modern"])
def test_an_unsupported_version_is_tried_again_with_a_supported_one(mode: Mode) -> None:
    solo = Solo(mode=mode)
    assert solo.say(refused(solo, -32022, supported=["2099-01-01", MODERN], requested="x")) == []
    [request] = solo.sent()
    assert request["method"] == "server/discover"
    assert request["params"]["_meta"][META + "protocolVersion"] == MODERN
    only(solo.say({"id": request["id"], "result": DISCOVERED}), Connected)


def test_a_server_that_proved_to_be_modern_is_not_initialized() -> None:
    solo = Solo(mode="auto")
    solo.say(refused(solo, -32022, supported=[MODERN]))
    failed = only(solo.say(refused(solo, -32601)), ConnectionFailed)
    assert failed.error == RpcError(-32601, "no")
    assert solo.session.closed


@pytest.mark.parametrize("data", [{}, {"supported": ["2099-01-01"]}, {"supported": 7}])
@pytest.mark.parametrize("mode", ["auto", "modern"])
def test_no_version_in_common(mode: Mode, data: Json) -> None:
    solo = Solo(mode=mode)
    failed = only(solo.say(refused(solo, -32022, **data)), ConnectionFailed)
    assert failed.reason == "no version in common"
    assert failed.error is not None and failed.error.code == -32022
    assert solo.say({"id": 1, "result": DISCOVERED}) == []


def test_legacy_versions_are_shared_by_initialize() -> None:
    for named in ("error", "result"):
        solo = Solo(mode="auto")
        if named == "error":
            solo.say(refused(solo, -32022, supported=["2024-11-05", "2025-03-26"]))
        else:
            versions = ["2025-03-26", "2024-11-05"]
            solo.say({"id": solo.sent_id(), "result": DISCOVERED | {"supportedVersions": versions}})
        [request] = solo.sent()
        assert (request["method"], request["params"]["protocolVersion"]) == ("initialize", "2025-03-26")
    solo = Solo(mode="modern")
    only(solo.say(refused(solo, -32022, supported=["2024-11-05"])), ConnectionFailed)


def test_a_modern_server_that_was_too_slow_for_the_probe() -> None:
    """It refuses initialize and names its versions: the client is back in the modern era."""
    solo = Solo(mode="auto")
    solo.sent()
    solo.pass_time(100)
    assert solo.say(refused(solo, -32022, supported=[MODERN], requested="2025-11-25")) == []
    [request] = solo.sent()
    assert request["method"] == "server/discover"
    assert only(solo.say({"id": request["id"], "result": DISCOVERED}), Connected).era == "modern"


def test_the_attempts_are_limited() -> None:
    solo = Solo(mode="modern", limits=ClientLimits(opening_attempts=4))
    for _ in range(3):
        assert solo.say(refused(solo, -32022, supported=[MODERN])) == []
    failed = only(solo.say(refused(solo, -32022, supported=[MODERN])), ConnectionFailed)
    assert "after 4 requests" in failed.reason


# --- initialize ---


@pytest.mark.parametrize("version", LEGACY)
@pytest.mark.req("client-initialize-first", "client-negotiated-features")
def test_initialize_in_the_words_of_its_revision(version: str) -> None:
    solo = Solo(version, mode="legacy")
    [request] = solo.sent()
    params = request["params"]
    assert params["protocolVersion"] == version
    assert ("title" in params["clientInfo"]) is (version >= "2025-06-18")
    assert ("elicitation" in params["capabilities"]) is (version >= "2025-06-18")
    assert params["capabilities"]["roots"] == {"listChanged": True}
    answer = INITIALIZED | {"protocolVersion": "2024-11-05"}
    assert only(solo.say({"id": request["id"], "result": answer}), Connected).version == "2024-11-05"


@pytest.mark.parametrize("version", [MODERN, "2099-01-01", "", "x" * 1000])
def test_a_version_that_we_do_not_speak(version: str) -> None:
    solo = Solo(mode="legacy")
    answer = INITIALIZED | {"protocolVersion": version}
    failed = only(solo.say({"id": solo.sent_id(), "result": answer}), ConnectionFailed)
    assert "does not speak" in failed.reason and len(failed.reason) < 200
    assert solo.sent() == []


@pytest.mark.parametrize("result", [{}, 7, {"protocolVersion": "2025-11-25", "capabilities": {"tools": 7}}])
def test_an_answer_to_initialize_that_is_none(result: Json) -> None:
    solo = Solo(mode="legacy")
    only(solo.say({"id": solo.sent_id(), "result": result}), ConnectionFailed)


def test_a_legacy_server_that_negotiates_nothing() -> None:
    solo = Solo(mode="legacy")
    assert solo.say(refused(solo, -32602, supported=["2024-11-05"], requested="2025-11-25")) == []
    [request] = solo.sent()
    assert request["params"]["protocolVersion"] == "2024-11-05"


def test_initialize_is_refused() -> None:
    for error in ({}, {"supported": [MODERN]}):
        solo = Solo(mode="legacy")
        only(solo.say(refused(solo, -32602, **error)), ConnectionFailed)
    solo = Solo(mode="legacy")
    failed = only(solo.say(refused(solo, -32000)), ConnectionFailed)
    assert failed == ConnectionFailed("the server refused initialize", RpcError(-32000, "no"))


@pytest.mark.req("client-initialize-not-cancelled")
def test_initialize_is_not_answered() -> None:
    """`initialize` MUST NOT be cancelled: nothing is sent."""
    solo = Solo(mode="legacy")
    solo.sent()
    only(solo.pass_time(60), ConnectionFailed)
    assert solo.sent() == []
    assert solo.session.next_deadline() is None


def test_a_modern_client_without_an_answer() -> None:
    solo = Solo(mode="modern")
    solo.sent()
    failed = only(solo.pass_time(60), ConnectionFailed)
    assert "did not answer server/discover" in failed.reason


@pytest.mark.parametrize("mode", ["auto", "legacy", "modern"])
def test_the_server_leaves(mode: Mode) -> None:
    solo = Solo(mode=mode)
    solo.session.receive_eof(0.0)
    solo.session.receive_eof(0.0)
    only(solo.session.take_events(), ConnectionFailed)
    assert solo.session.closed and solo.session.next_deadline() is None


# --- what is known already ---


def known(version: str) -> Connected:
    return Connected("modern" if version == MODERN else "legacy", version, None, ServerCapabilities(), None)


def test_a_known_modern_server_is_not_asked() -> None:
    solo = Solo(mode=known(MODERN))
    assert solo.sent() == []
    assert solo.session.take_events() == [known(MODERN)]


@pytest.mark.parametrize("version", LEGACY)
def test_a_known_legacy_server_is_initialized_with_its_version(version: str) -> None:
    solo = Solo(mode=known(version))
    [request] = solo.sent()
    assert (request["method"], request["params"]["protocolVersion"]) == ("initialize", version)


def test_a_version_that_is_not_spoken_any_more() -> None:
    solo = Solo(mode=known("2023-01-01"))
    assert sent_method(solo) == "server/discover"


# --- what else a server says meanwhile ---


def test_pings_before_the_era_is_known() -> None:
    """Only a legacy server pings."""
    solo = Solo(mode="auto")
    solo.sent()
    assert solo.say({"id": "p", "method": "ping"}) == []
    assert solo.say({"id": "r", "method": "roots/list"}) == []
    pong, refusal = solo.sent()
    assert pong == {"jsonrpc": "2.0", "id": "p", "result": {}}
    assert (refusal["id"], refusal["error"]["code"]) == ("r", -32601)


@pytest.mark.req("client-never-answers")
def test_a_modern_client_never_answers() -> None:
    solo = Solo(mode="modern")
    solo.sent()
    only(solo.say({"id": "p", "method": "ping"}), ProtocolViolated)
    assert solo.sent() == []


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.req("client-negotiated-features")
def test_url_only_elicitation_is_not_declared_where_it_means_forms(revision: str) -> None:
    urls = ClientCapabilities(elicitation=ElicitationCapability(url=Raw(b"{}")))
    solo = Solo(revision, capabilities=urls, mode="modern" if revision == MODERN else "legacy")
    [request] = solo.sent()
    params = request["params"]
    declared = params["_meta"][META + "clientCapabilities"] if revision == MODERN else params["capabilities"]
    assert declared == ({"elicitation": {"url": {}}} if revision >= "2025-11-25" else {})
