"""How long a test waits for a fact before it gives up."""

from typing import Final

PATIENCE: Final = 60.0
"""Seconds: a bound against hanging, never an expectation. What is waited for takes well under one on a quiet machine,
and ten or twenty on a loaded one."""
