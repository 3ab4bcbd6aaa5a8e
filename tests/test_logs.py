"""Logs: one line per record, whatever is in it."""

import json
import logging
import sys

import pytest

from kvmcp.logs import JsonFormatter, TextFormatter, configure


def record(message: str, *, failed: bool = False) -> logging.LogRecord:
    error = None
    if failed:
        try:
            raise ValueError("first\nsecond")
        except ValueError:
            error = sys.exc_info()
    made = logging.LogRecord("kvmcp.io", logging.WARNING, "x.py", 1, message, (), error)
    made.created = 0.0
    return made


def test_text_is_for_people() -> None:
    line = TextFormatter().format(record("the peer is gone"))
    assert line == "1970-01-01T00:00:00Z WARNING kvmcp.io: the peer is gone"


def test_json_is_for_programs() -> None:
    entry = json.loads(JsonFormatter().format(record("the peer is gone")))
    assert entry == {
        "time": "1970-01-01T00:00:00Z",
        "level": "warning",
        "logger": "kvmcp.io",
        "message": "the peer is gone",
    }


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_line_breaks_and_tracebacks_stay_on_one_line(formatter: logging.Formatter) -> None:
    line = formatter.format(record("forged\r\n2026 INFO nothing happened", failed=True))
    assert "\n" not in line
    assert "\r" not in line
    assert "ValueError: first" in line


def test_configure_writes_to_standard_error_only(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.handlers, root.level)
    try:
        configure("warning", "json")
        logging.getLogger("kvmcp.test").info("too quiet")
        logging.getLogger("kvmcp.test").warning("loud enough")
    finally:
        root.handlers, root.level = before
    captured = capfd.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["message"] == "loud enough"
