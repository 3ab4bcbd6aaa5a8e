"""`kvmcp config show`: each setting, and where its value came from."""

from __future__ import annotations

import msgspec

from kvmcp.cli.console import OK, Console, columns
from kvmcp.cli.parser import load_settings
from kvmcp.config import SETTINGS

TYPE_CHECKING = False  # what `typing` calls so, without importing it
if TYPE_CHECKING:
    import argparse

    from kvmcp.config import Loaded


def config_show(args: argparse.Namespace, console: Console) -> int:
    loaded = load_settings(args, console)
    if args.json:
        console.print(_config_json(loaded))
        return OK
    rows = [
        (s.name, s.shown(getattr(loaded.settings, s.name)), str(loaded.origins[s.name])) for s in SETTINGS
    ]
    console.print(columns([("SETTING", "VALUE", "FROM"), *rows]))
    return OK


def _config_json(loaded: Loaded) -> bytes:
    """One line per setting."""
    lines: list[bytes] = []
    for setting in SETTINGS:
        origin = loaded.origins[setting.name]
        value = setting.public(getattr(loaded.settings, setting.name))
        member = {"value": value, "source": origin.source, "where": origin.where or None}
        lines.append(b'  "%b": %b' % (setting.name.encode(), msgspec.json.encode(member)))
    return b"{\n" + b",\n".join(lines) + b"\n}"
