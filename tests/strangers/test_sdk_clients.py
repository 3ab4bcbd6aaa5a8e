"""The official SDKs' clients drive `kvmcp serve` over stdio and HTTP, in every era that they speak, on both loops.

A script in the SDK's environment (`sdk1_conversation.py`, `sdk2_conversation.py` here, those of the TypeScript SDKs in
`tests/node`) has the conversation and reports it; what it was told is judged here. On stdio the SDK starts a shell that
puts `tee` on both sides of the server, so that the wire and the exit status can be looked at too, without a hand in
either.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.suite import fixture_server
from tests.node import HERE as NODE_TOOLS, NODE, environment, require_node
from tests.schema import needs_schemas, validate_server_message
from tests.tools.support import without_etag

CHECKOUT = Path(__file__).parents[2]
HERE = Path(__file__).parent
LATEST_LEGACY = "2025-11-25"
LATEST_MODERN = "2026-07-28"

OVERHEARD = 'tee "$0/asked" | "$@" 2>"$0/logged" | tee "$0/told"; echo "${PIPESTATUS[1]}" >"$0/status"'
"""$0: the folder to write into; $@: the server's command."""

CLIENTS = {
    # script, mode, revision; the SDK's words for its modes are the scripts' business
    "sdk1": ("sdk1", "legacy", LATEST_LEGACY),
    "sdk2-legacy": ("sdk2", "legacy", LATEST_LEGACY),
    "sdk2-modern": ("sdk2", LATEST_MODERN, LATEST_MODERN),
    "sdk2-asks-first": ("sdk2", "auto", LATEST_MODERN),
    "typescript1": ("typescript1", "legacy", LATEST_LEGACY),
    "typescript2-legacy": ("typescript2", "legacy", LATEST_LEGACY),
    "typescript2-modern": ("typescript2", LATEST_MODERN, LATEST_MODERN),
    "typescript2-asks-first": ("typescript2", "auto", LATEST_MODERN),
}
LOOPS = ("asyncio", "trio")
"""Of the server, and of the Python clients, but for one."""
ASYNCIO_ONLY = {("sdk1", "http")}
"""On trio version 1 mixes requests up that are sent at the same time: the task of each takes the message from a
variable that the next one has overwritten by then (`StreamableHTTPTransport.post_writer`)."""
ON_STDIO = [(client, "stdio", loop) for client in CLIENTS if client.startswith("sdk") for loop in LOOPS]
OVER_HTTP = [(client, "http", loop) for client in CLIENTS for loop in LOOPS]
MANY = range(50)

VALUE = {"text": "naïve ☃ 𝄞", "list": [1, 2.5, None, True], "empty": {}}
STEPS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # what is shown: tool, arguments, structuredContent
    "set": ("redis_set", {"key": "a", "value": VALUE}, {"ok": True}),
    "get": ("redis_get", {"key": "a"}, {"found": True, "value": VALUE}),
    "set a null": ("redis_set", {"key": "null", "value": None}, {"ok": True}),
    "a null is a value": ("redis_get", {"key": "null"}, {"found": True, "value": None}),
    "a missing key is an answer": ("redis_get", {"key": "none"}, {"found": False}),
    "exists": (
        "redis_exists",
        {"keys": ["a", "none"]},
        {"exists": {"a": True, "none": False}, "count": 1},
    ),
    "keys": ("redis_keys", {"pattern": "[an]*"}, {"keys": ["a", "null"]}),
    "no ttl": ("redis_ttl", {"key": "a"}, {"found": True, "ttl": None}),
    "ttl of a missing key": ("redis_ttl", {"key": "none"}, {"found": False, "ttl": None}),
    "expire": ("redis_expire", {"key": "a", "ttl": 1000}, {"applied": True}),
    "expire a missing key": ("redis_expire", {"key": "none", "ttl": 1000}, {"applied": False}),
    "ttl": ("redis_ttl", {"key": "a"}, {"found": True, "ttl": 1000}),
    "set with ttl": ("redis_set", {"key": "b", "value": 1, "ttl": 5000}, {"ok": True}),
    "del": ("redis_del", {"keys": ["a", "b", "null", "none"]}, {"deleted": 3}),
    "gone": ("redis_keys", {}, {"keys": []}),
}
TOOLS = {"redis_get", "redis_set", "redis_del", "redis_exists", "redis_keys", "redis_ttl", "redis_expire"}
UNKNOWN_TOOL = ("no_such_tool", {"key": "a"})
BAD_ARGUMENTS: list[tuple[str, dict[str, Any]]] = [
    ("redis_get", {}),
    ("redis_get", {"key": "a", "nonsense": 1}),
    ("redis_set", {"key": "a", "value": 1, "ttl": 0}),
    ("redis_del", {"keys": []}),
    ("redis_keys", {"count": 1001}),
]


@dataclass(frozen=True)
class Conversation:
    """What was agreed, what the client reports, what was overheard (on stdio), how the server ended."""

    transport: str
    mode: str
    version: str
    report: dict[str, Any]
    asked: list[bytes]
    told: list[bytes]
    logged: str
    status: str


def client_command(sdk: str) -> list[str | Path]:
    if sdk.startswith("typescript"):
        require_node()
        return [NODE, NODE_TOOLS / f"{sdk}_conversation.mjs"]
    return [sdk_python(sdk), HERE / f"{sdk}_conversation.py"]


def sdk_python(sdk: str) -> Path:
    python = CHECKOUT / ".venvs" / sdk / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no {python.relative_to(CHECKOUT)}: make .venvs/{sdk}/.stamp")
    return python


def serve_command(loop: str) -> list[str]:
    return [sys.executable, "-m", "kvmcp", "serve", "--loop", loop]


def converse(client: str, loop: str, **place: Any) -> dict[str, Any]:
    """The report of one conversation with the server at `place`."""
    job = {
        "kind": "converse",
        **place,
        "calls": [*[step[:2] for step in STEPS.values()], UNKNOWN_TOOL, *BAD_ARGUMENTS],
        "together": [
            [("redis_set", {"key": f"k{number}", "value": number}) for number in MANY],
            [("redis_get", {"key": f"k{number}"}) for number in MANY],
        ],
        "cancel": ("redis_get", {"key": "k7"}),
    }
    return run_client(client, loop, job)


def run_client(client: str, loop: str, job: dict[str, Any]) -> dict[str, Any]:
    """What a client's script reports of its job."""
    sdk, mode, _ = CLIENTS[client]
    client_loop = "asyncio" if (sdk, job["transport"]) in ASYNCIO_ONLY else loop
    run = subprocess.run(
        client_command(sdk),
        input=json.dumps({**job, "mode": mode, "loop": client_loop}),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    report: dict[str, Any] = json.loads(run.stdout)
    return report


def on_stdio(client: str, loop: str, folder: Path) -> Conversation:
    """The shell leaves `asked`, `told`, `logged` and `status` in `folder`."""
    (folder / "status").write_text("killed by the SDK: it did not end by itself within two seconds")
    command = ["bash", "-c", OVERHEARD, str(folder), *serve_command(loop)]
    report = converse(client, loop, transport="stdio", command=command)
    return Conversation(
        "stdio",
        *CLIENTS[client][1:],
        report,
        asked=(folder / "asked").read_bytes().splitlines(),
        told=(folder / "told").read_bytes().splitlines(),
        logged=(folder / "logged").read_text(),
        status=(folder / "status").read_text().strip(),
    )


def over_http(client: str, loop: str, folder: Path) -> Conversation:
    log = folder / "logged"
    with http_server(loop, log) as (server, url):
        report = converse(client, loop, transport="http", url=url)
    return Conversation(
        "http", *CLIENTS[client][1:], report, [], [], log.read_text(), status=str(server.returncode)
    )


@contextmanager
def http_server(loop: str, log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its URL; it has ended on SIGTERM when this is left."""
    command = [*serve_command(loop), "--transport", "http", "--port", "0"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            first = server.stderr.readline()
            found = re.search(r"http://\S+", first)
            assert found is not None, first + server.stderr.read()
            yield server, found[0]
        finally:
            server.terminate()
            log.write_text(first + server.stderr.read())


HAVE: dict[str, Callable[[str, str, Path], Conversation]] = {"stdio": on_stdio, "http": over_http}


@pytest.fixture(scope="module")
def conversations() -> dict[tuple[str, str, str], Conversation | Exception]:
    """Those that were had; several tests look at each."""
    return {}


@pytest.fixture(params=[*ON_STDIO, *OVER_HTTP], ids="-".join)
def conversation(
    request: pytest.FixtureRequest,
    conversations: dict[tuple[str, str, str], Conversation | Exception],
    tmp_path: Path,
) -> Conversation:
    client, transport, loop = request.param
    had = conversations.get(request.param)
    if had is None:
        client_command(CLIENTS[client][0])  # skips where that is missing
        try:
            had = HAVE[transport](client, loop, tmp_path)
        except Exception as error:  # noqa: BLE001  # every test of it fails by the same, and does not wait again
            had = error
        conversations[request.param] = had
    if isinstance(had, Exception):
        raise had
    return had


overheard = pytest.mark.parametrize("conversation", ON_STDIO, ids="-".join, indirect=True)
"""For tests that look at the wire."""


@pytest.mark.parametrize("loop", LOOPS)
def test_the_server_starts_and_ends(loop: str) -> None:
    server = subprocess.run(serve_command(loop), input=b"", capture_output=True, timeout=30, check=False)
    assert (server.returncode, server.stdout) == (0, b""), server.stderr.decode()


def test_the_version_and_the_server_are_what_was_agreed(conversation: Conversation) -> None:
    assert conversation.report["version"] == conversation.version
    if conversation.mode != LATEST_MODERN:  # there nobody asks the server who it is
        assert conversation.report["server"]["name"] == "kvmcp"
        assert "tools" in conversation.report["capabilities"]
    assert conversation.report.get("ping", {}) == {}


def test_the_tools_are_listed_with_all_that_a_model_needs(conversation: Conversation) -> None:
    tools = {tool["name"]: tool for tool in conversation.report["tools"]}
    assert set(tools) >= TOOLS
    for tool in tools.values():
        assert tool["title"]
        assert tool["description"]
        assert tool["inputSchema"]["type"] == tool["outputSchema"]["type"] == "object"
        assert {"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"} <= set(
            tool["annotations"]
        )
        assert all(argument.get("description") for argument in tool["inputSchema"]["properties"].values())


@pytest.mark.parametrize("step", STEPS)
def test_a_tool_answers(conversation: Conversation, step: str) -> None:
    result = conversation.report["calls"][list(STEPS).index(step)]["result"]
    content = without_etag(result["structuredContent"])
    if step == "keys":
        content = {**content, "keys": sorted(content["keys"])}
    if step == "ttl":  # a second may have begun since
        content = {**content, "ttl": 1000 if content["ttl"] in (999, 1000) else content["ttl"]}
    assert content == STEPS[step][2]
    assert result.get("isError", False) is False
    assert json.loads(result["content"][0]["text"]) == result["structuredContent"]


def test_an_unknown_tool_is_a_protocol_error(conversation: Conversation) -> None:
    assert conversation.report["calls"][len(STEPS)]["error"]["code"] == -32602


@pytest.mark.parametrize("number", range(len(BAD_ARGUMENTS)))
def test_bad_arguments_are_a_result_that_a_model_can_act_on(conversation: Conversation, number: int) -> None:
    result = conversation.report["calls"][len(STEPS) + 1 + number]["result"]
    assert result["isError"] is True
    error = result["structuredContent"]["error"]
    assert error["code"] == "INVALID_PARAMS"
    assert error["retryable"] is False
    assert error["message"] in result["content"][0]["text"]


def test_many_calls_at_once_are_each_answered_with_their_own(conversation: Conversation) -> None:
    written, read = conversation.report["together"]
    assert [without_etag(answer["result"]["structuredContent"]) for answer in written] == [
        {"ok": True} for _ in MANY
    ]
    assert [without_etag(answer["result"]["structuredContent"]) for answer in read] == [
        {"found": True, "value": number} for number in MANY
    ]


def test_a_cancelled_request_leaves_the_connection_usable(conversation: Conversation) -> None:
    after = without_etag(conversation.report["after_cancel"]["result"]["structuredContent"])
    assert after == {"found": True, "value": 7}


@overheard
def test_a_cancelled_request_is_answered_once_at_most(conversation: Conversation) -> None:
    cancelled = [
        message["params"]["requestId"]
        for message in map(json.loads, conversation.asked)
        if message["method"] == "notifications/cancelled"
    ]
    assert cancelled, "the client sent no cancellation"
    ids = [message.get("id") for message in map(json.loads, conversation.told)]
    assert all(ids.count(id) <= 1 for id in cancelled)


def test_a_subscription_is_acknowledged(conversation: Conversation) -> None:
    wanted = None if conversation.mode == "legacy" else {"honored": {"toolsListChanged": True}}
    assert conversation.report.get("listen") == wanted


@overheard
def test_a_subscription_ends_without_a_word_when_cancelled(conversation: Conversation) -> None:
    listens = [
        message["id"]
        for message in map(json.loads, conversation.asked)
        if message["method"] == "subscriptions/listen"
    ]
    if conversation.mode == "legacy":
        assert listens == []
        return
    assert len(listens) == 1
    assert [message for message in map(json.loads, conversation.told) if message.get("id") in listens] == []


@overheard
def test_every_request_that_was_not_cancelled_is_answered_once(conversation: Conversation) -> None:
    asked = [json.loads(line) for line in conversation.asked]
    given_up = [
        message["params"]["requestId"] for message in asked if message["method"].endswith("/cancelled")
    ]
    expected = [message["id"] for message in asked if "id" in message and message["id"] not in given_up]
    answered = [
        message["id"]
        for message in map(json.loads, conversation.told)
        if "id" in message and message["id"] not in given_up
    ]
    assert sorted(answered) == sorted(expected)


@needs_schemas
@overheard
def test_every_message_of_the_server_fits_the_schema(conversation: Conversation) -> None:
    methods = {
        message["id"]: message["method"] for message in map(json.loads, conversation.asked) if "id" in message
    }
    assert len(conversation.told) > len(MANY)
    for line in conversation.told:
        validate_server_message(conversation.version, line, methods.get(json.loads(line).get("id")))


def test_the_server_ends_with_status_0(conversation: Conversation) -> None:
    assert conversation.status == "0"
    assert "Traceback" not in conversation.logged
    assert '"naïve' not in conversation.logged


# --- what the server says of its own accord -----------------------------------------------------------------------


@pytest.fixture(scope="module", params=LOOPS)
def talkative(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """The loop and the URL of the server that the conformance suite is run against: it reports, asks, and changes."""
    folder = tmp_path_factory.mktemp("talkative")
    with fixture_server(request.param, folder / "log") as url:
        yield request.param, url


@pytest.mark.parametrize("client", CLIENTS)
def test_progress_questions_and_changes_reach_the_client(talkative: tuple[str, str], client: str) -> None:
    loop, url = talkative
    filled_in = {"username": "ada", "email": "ada@example.com"}
    job = {"kind": "give_and_take", "transport": "http", "url": url, "filled_in": filled_in}
    report = run_client(client, loop, job)
    assert [told[:2] for told in report["progress"]] == [[0, 100], [50, 100], [100, 100]]
    assert report["progress"][1][2] == "Completed step 50 of 100"
    assert report["elicited"]["content"][0]["text"] == "User response: ada <ada@example.com>"
    assert report["changed"] is True
