"""Progress and log notifications, as they are written."""

import json

import pytest
from msgspec import UNSET

from kvmcp.core.commands import Log, Progress
from kvmcp.core.notices import log_notice, progress_notice
from kvmcp.core.wire.common import LOG_LEVELS, LogLevel
from tests.core.harness import Json
from tests.schema import validate_server_message

req = pytest.mark.req


def progressed(said: Progress, version: str, token: str | int = "t") -> Json:
    notice = progress_notice(token, said, version)
    validate_server_message(version, notice)
    return json.loads(notice)["params"]


@req("projection-progress-message")
def test_the_message_of_progress_is_since_2025_03_26(revision: str) -> None:
    params = progressed(Progress(0.5, 2, "half"), revision)
    message = {} if revision < "2025-03-26" else {"message": "half"}
    assert params == {"progressToken": "t", "progress": 0.5, "total": 2.0, **message}


def test_progress_without_extras(revision: str) -> None:
    assert progressed(Progress(1), revision, 7) == {"progressToken": 7, "progress": 1.0}


@pytest.mark.parametrize("level", LOG_LEVELS)
@pytest.mark.parametrize("least", LOG_LEVELS)
def test_a_message_is_sent_at_or_above_the_level(level: LogLevel, least: LogLevel) -> None:
    notice = log_notice(Log(level, b"1"), least)
    assert (notice is not None) == (LOG_LEVELS.index(level) >= LOG_LEVELS.index(least))


@req("logging-opt-in")
def test_without_a_level_nothing_is_sent() -> None:
    assert log_notice(Log("emergency", b"1"), None) is None


def test_what_a_log_message_says(revision: str) -> None:
    notice = log_notice(Log("error", b'{"a":[1]}', "store"), "debug")
    assert notice is not None
    validate_server_message(revision, notice)
    assert json.loads(notice)["params"] == {"level": "error", "data": {"a": [1]}, "logger": "store"}
    short = log_notice(Log("error", b'"x"', UNSET), "debug")
    assert short is not None and json.loads(short)["params"] == {"level": "error", "data": "x"}
