"""Notifications about a running request: progress and log messages."""

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from kvmcp.core import jsonrpc
from kvmcp.core.commands import Log, Progress
from kvmcp.core.wire.common import LOG_LEVELS, LogLevel, ProgressToken

_encode = msgspec.json.Encoder().encode


class _ProgressParams(Struct, omit_defaults=True, rename="camel"):
    progress_token: ProgressToken
    progress: float
    total: float | UnsetType = UNSET
    message: str | UnsetType = UNSET


class _LogParams(Struct, omit_defaults=True):
    level: LogLevel
    data: Raw
    logger: str | UnsetType = UNSET


def progress_notice(token: ProgressToken, said: Progress, version: str) -> bytes:
    """`message` exists since 2025-03-26."""
    message = said.message if version >= "2025-03-26" else UNSET
    params = _ProgressParams(token, said.progress, said.total, message)
    return jsonrpc.notification("notifications/progress", _encode(params))


def log_notice(said: Log, least: LogLevel | None) -> bytes | None:
    """None below `least`, and where no level was asked for at all (2026-07-28: "MUST NOT emit")."""
    if least is None or LOG_LEVELS.index(said.level) < LOG_LEVELS.index(least):
        return None
    params = _LogParams(said.level, Raw(said.data), said.logger)
    return jsonrpc.notification("notifications/message", _encode(params))
