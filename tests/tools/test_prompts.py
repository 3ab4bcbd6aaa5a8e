"""Prompts: the state as it is, embedded; what to do with it; and an honest answer where there is none."""

import json
from typing import Any

import pytest

from kvmcp.backends.ops import (
    KIND_CHANNEL,
    KIND_LEASE,
    KIND_SESSION,
    Code,
    Expire,
    Failure,
    HashSet,
    Publish,
    Push,
    Set,
    TtlReply,
)
from kvmcp.core.errors import INVALID_PARAMS
from kvmcp.core.plan import Answer, AskBackend, Fail
from kvmcp.core.wire.common import (
    CompletionResult,
    EmbeddedResource,
    PromptResult,
    ResourceLink,
    TextContent,
)
from kvmcp.tools.prompts import EMBEDDED_CHARS, PROMPTS
from tests.tools.store import CONTEXT, SPACE, Store

BY_NAME = {prompt.name: prompt for prompt in PROMPTS}
DOWN = Failure(Code.REDIS_NOT_CONNECTED, "no connection", retryable=True)


def filled() -> Store:
    store = Store()
    session = SPACE.key("s/1", KIND_SESSION)
    store.do(
        HashSet(session, ((".goal", b'"ship"'), (".step", b"3"), ("ttl", b"60"))),
        Expire(session, 60_000),
        Push(SPACE.key("jobs"), tuple(str(number).encode() for number in range(30))),
        Set(SPACE.key("deploy", KIND_LEASE), b'"me"', 5000),
        Publish(SPACE.key("news", KIND_CHANNEL), b'{"begun":1}'),
    )
    return store


def prompt(store: Store, name: str, **arguments: str) -> PromptResult:
    answer = store.run(BY_NAME[name].get(arguments, CONTEXT))
    assert isinstance(answer, Answer) and isinstance(answer.result, PromptResult), answer
    assert {message.role for message in answer.result.messages} == {"user"}
    return answer.result


def texts(result: PromptResult) -> str:
    return "\n".join(
        message.content.text for message in result.messages if isinstance(message.content, TextContent)
    )


def embedded(result: PromptResult) -> dict[str, Any]:
    """Documents by URI."""
    return {
        message.content.resource.uri: json.loads(str(message.content.resource.text))
        for message in result.messages
        if isinstance(message.content, EmbeddedResource)
    }


def refusal(store: Store, name: str, **arguments: str) -> str:
    answer = store.run(BY_NAME[name].get(arguments, CONTEXT))
    assert isinstance(answer, Fail) and answer.error.code == INVALID_PARAMS
    return answer.error.message


STATE = {"kv://acme/sessions/s%2F1": {"session_id": "s/1", "data": {"goal": "ship", "step": 3}, "ttl": 60}}


def test_a_session_is_resumed_with_its_state() -> None:
    result = prompt(filled(), "resume_session", session_id="s/1")
    assert embedded(result) == STATE
    said = texts(result)
    assert "session `s/1`" in said and "ends in 60 seconds" in said and "redis_session_update" in said


def test_a_session_without_an_end_is_said_to_have_none() -> None:
    store = Store()
    store.do(HashSet(SPACE.key("s", KIND_SESSION), (("ttl", b"1"),)))
    assert "does not expire" in texts(prompt(store, "resume_session", session_id="s"))


def test_a_session_is_handed_over() -> None:
    result = prompt(filled(), "hand_over", session_id="s/1", to="reviewer", channel="news")
    assert embedded(result) == STATE
    said = texts(result)
    assert "`reviewer`" in said and 'channel "news"' in said and "next_steps" in said
    alone = texts(prompt(filled(), "hand_over", session_id="s/1"))
    assert "whoever comes next" in alone and "redis_publish" not in alone


@pytest.mark.parametrize("name", ["resume_session", "hand_over"])
def test_a_session_that_is_not_there_is_said_before_a_model_builds_on_it(name: str) -> None:
    assert refusal(Store(), name, session_id="none").startswith("SESSION_NOT_FOUND")
    assert "1 to 512 bytes" in refusal(Store(), name, session_id="")
    assert "1 to 512 bytes" in refusal(Store(), name, session_id="x" * 513)
    plan = BY_NAME[name].get({"session_id": "a"}, CONTEXT)
    assert isinstance(plan, AskBackend)
    failed = plan.then.resume((DOWN, TtlReply(True)), CONTEXT)
    assert isinstance(failed, Fail) and failed.error.code == -32603


def test_what_is_too_long_is_linked() -> None:
    store = Store()
    store.do(HashSet(SPACE.key("s", KIND_SESSION), ((".x", b'"%b"' % (b"x" * EMBEDDED_CHARS)),)))
    result = prompt(store, "resume_session", session_id="s")
    [link] = [message.content for message in result.messages if isinstance(message.content, ResourceLink)]
    assert link.uri == "kv://acme/sessions/s" and embedded(result) == {}


def test_agents_see_how_their_places_stand() -> None:
    result = prompt(filled(), "coordinate", task="ship {it}", queue="jobs", channel="news", lease="deploy")
    shown = embedded(result)
    assert shown["kv://acme/keys/jobs"] == {"type": "list", "length": 30, "values": list(range(20))}
    assert [message["message"] for message in shown["kv://acme/channels/news"]["messages"]] == [{"begun": 1}]
    said = texts(result)
    assert "task: ship {it}" in said and 'Lease "deploy" is held by somebody for 5 more seconds' in said
    assert '"me"' not in said, "who holds it is not shown: owners are secrets of a lease"


def test_places_may_be_empty_or_not_agreed_on() -> None:
    said = texts(prompt(Store(), "coordinate", task="t", queue="q", channel="c", lease="l"))
    assert '"q" is empty' in said and 'Lease "l" is free' in said and "nobody has said anything" in said
    assert "Agree on them first" in texts(prompt(Store(), "coordinate", task="t"))
    assert "Agree on them first" not in said
    assert refusal(Store(), "coordinate", task="t", queue="x" * 513).startswith("queue must be")


def test_a_lease_for_good_and_places_that_cannot_be_read() -> None:
    store = Store()
    store.do(Set(SPACE.key("l", KIND_LEASE), b"1"), Set(SPACE.key("q"), b"1"))
    said = texts(prompt(store, "coordinate", task="t", queue="q", lease="l"))
    assert 'Lease "l" is held by somebody.' in said and 'Queue "q": ' in said
    plan = BY_NAME["coordinate"].get({"task": "t", "channel": "c", "lease": "l"}, CONTEXT)
    assert isinstance(plan, AskBackend)
    answer = plan.then.resume((DOWN, DOWN, DOWN), CONTEXT)
    assert isinstance(answer, Answer) and isinstance(answer.result, PromptResult)
    assert 'Channel "c": no connection.' in texts(answer.result)
    assert 'Lease "l": no connection.' in texts(answer.result)


@pytest.mark.parametrize(
    ("name", "argument", "value", "expected"),
    [
        ("resume_session", "session_id", "s", ("s/1",)),
        ("hand_over", "channel", "", ("news",)),
        ("hand_over", "to", "a", ()),
        ("coordinate", "queue", "j", ("jobs",)),
        ("coordinate", "lease", "", ("deploy",)),
        ("coordinate", "task", "", ()),
    ],
)
def test_arguments_are_completed(name: str, argument: str, value: str, expected: tuple[str, ...]) -> None:
    complete = BY_NAME[name].complete
    assert complete is not None
    answer = filled().run(complete(argument, value, {}, CONTEXT))
    assert isinstance(answer, Answer) and isinstance(answer.result, CompletionResult)
    assert answer.result.values == expected


def test_every_prompt_and_argument_is_described() -> None:
    assert set(BY_NAME) >= {"resume_session", "hand_over", "coordinate"}
    for one in PROMPTS:
        assert one.title and one.description
        assert all(argument.title and argument.description for argument in one.arguments)
