"""Settings: what they are called, how they are written, where a value came from.

Everything that concerns one setting is one field of `Settings`: its type, its default and a `Row` with its
grammar and its help. Flag, environment variable, file key, `kvmcp config show` and the table of
`docs/configuration.md` derive from it. The first source that sets a value wins:

    flag  >  environment KVMCP_…  >  file (--config, KVMCP_CONFIG)  >  default

Knows no socket, no store and no logger; reads files only through the function that it is given. Only the value
that wins is read, so a flag also overrules a broken variable; an unknown key in the file is always an error.
"""

from kvmcp.config.kinds import (
    DEFAULT_PORTS,
    MASK,
    MIN_STATE_KEY_BYTES,
    REDIS_SCHEMES,
    Kind,
    did_you_mean,
    quoted,
    redacted,
)
from kvmcp.config.settings import PREFIX, SETTINGS, Row, Setting, Settings
from kvmcp.config.sources import CONFIG_FLAG, CONFIG_VARIABLE, ConfigError, Loaded, Origin, load

__all__ = [
    "CONFIG_FLAG", "CONFIG_VARIABLE", "DEFAULT_PORTS", "MASK", "MIN_STATE_KEY_BYTES", "PREFIX", "REDIS_SCHEMES",
    "SETTINGS", "ConfigError", "Kind", "Loaded", "Origin", "Row", "Setting", "Settings",
    "did_you_mean", "load", "quoted", "redacted",
]  # fmt: skip
