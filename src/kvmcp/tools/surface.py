"""Which tools there are. A new tool is one more row in its module; a new module is one more row here."""

from collections.abc import Mapping
from typing import Final

from kvmcp.core.catalog import Tool
from kvmcp.tools.strings import STRINGS

TOOL_SETS: Final[Mapping[str, tuple[Tool, ...]]] = {
    "redis": (*STRINGS,),
}
"""Tools by the name under which a server is told to offer them."""
