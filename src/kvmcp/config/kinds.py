"""How values are written: each kind reads a text, or says what came and what is allowed."""

import re
from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeAlias, cast

from msgspec import Struct

from kvmcp.backends.ops import is_namespace

REDIS_SCHEMES: Final = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
MASK: Final = "***"
"""What stands in the place of a secret wherever settings are shown."""
MIN_STATE_KEY_BYTES: Final = 32
"""What `kvmcp.core.request_state.MIN_KEY_BYTES` asks for; not imported, to keep the start fast."""

Takes: TypeAlias = Literal["text", "number", "list", "switch"]


class Unfit(ValueError):
    """A text that a setting cannot take; the message says what came, as far as it may be shown."""


class Kind(Struct, frozen=True, kw_only=True):
    """How a value is written.

    `parse` reads a text or raises `Unfit`; `show` writes a value so that `parse` reads it again, except for
    what must not be shown. `takes` is what a file may hold besides text.
    """

    parse: Callable[[str], object]
    allowed: str
    metavar: str
    show: Callable[[object], str] = str
    takes: Takes = "text"


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """` (did you mean {prefix}x?)` where something known is spelt like `word`, otherwise nothing."""
    from difflib import get_close_matches  # only on the way to an error

    close = get_close_matches(word, list(known), n=1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""


def redacted(text: str) -> str:
    """`text` without what a URL may hide: user, password, query."""
    without_user = re.sub(r"://.*@", f"://{MASK}@", text, flags=re.DOTALL)
    return re.sub(r"(://.*?\?).*", rf"\1{MASK}", without_user, flags=re.DOTALL)


def quoted(text: str) -> str:
    """`text` for a message: in quotes, on one line, of bounded length, without passwords."""
    shown = redacted(text) if "://" in text else text
    return repr(shown if len(shown) <= 60 else shown[:60] + "…")


def listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def one_of(*words: str) -> Kind:
    def parse(text: str) -> str:
        word = text.strip().lower()
        if word not in words:
            raise Unfit(quoted(text))
        return word

    return Kind(parse=parse, allowed=listed(words), metavar="|".join(words))


def several(one: Kind, metavar: str) -> Kind:
    """One or more of `one`, separated by commas, each counted once."""

    def parse(text: str) -> tuple[object, ...]:
        parts = [part for part in text.split(",") if part.strip()]
        if not parts:
            raise Unfit("an empty list")
        return tuple(dict.fromkeys(one.parse(part) for part in parts))

    def show(value: object) -> str:
        return ",".join(map(one.show, cast("tuple[object, ...]", value)))  # what `parse` above gave

    allowed = one.allowed if " or " not in one.allowed else f"one or more of {one.allowed}"
    return Kind(parse=parse, allowed=allowed, metavar=metavar, show=show, takes="list")


def whole_number(low: int, high: int) -> Kind:
    def parse(text: str) -> int:
        digits = text.strip()
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and low <= int(digits) <= high):
            raise Unfit(quoted(text))
        return int(digits)

    return Kind(parse=parse, allowed=f"a whole number from {low} to {high}", metavar="N", takes="number")


def seconds(high: int, low: float = 0) -> Kind:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text.strip()) or not low <= float(text) <= high:
            raise Unfit(quoted(text))
        return float(text)

    return Kind(
        parse=parse,
        allowed=f"seconds from {low:g} to {high}, such as 5 or 0.5",
        metavar="SECONDS",
        show=lambda value: f"{value:g}",
        takes="number",
    )


_UNITS: Final = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip


def size_text(value: object) -> str:
    assert isinstance(value, int)  # only sizes are shown with it
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


def size(low: int, high: int) -> Kind:
    """Bytes, with a decimal (kB) or a binary (KiB) unit; a bare K is not taken, since it means either."""

    def parse(text: str) -> int:
        found = re.fullmatch(r"([0-9]{1,15}) ?([a-z]*)", text.strip().lower())
        factor = _UNITS.get(found[2]) if found else None
        if found is None or factor is None or not low <= int(found[1]) * factor <= high:
            raise Unfit(quoted(text))
        return int(found[1]) * factor

    allowed = f"bytes from {size_text(low)} to {size_text(high)}, such as 1000000, 64MiB or 1GB"
    return Kind(parse=parse, allowed=allowed, metavar="SIZE", show=size_text, takes="number")


def namespace(text: str) -> str:
    if not is_namespace(text):
        raise Unfit(quoted(text))
    return text


def namespace_source(text: str) -> str:
    """`header:NAME` or `meta:KEY`, by the rules of whoever reads them."""
    from kvmcp.tools.namespaces import parse_source  # only where there is one to check

    try:
        return str(parse_source(text))
    except ValueError as error:
        raise Unfit(f"{quoted(text)} ({error})") from None


def backend(text: str) -> str:
    """A backend's URL. What came is told by its scheme only: the rest may hold a password."""
    scheme, found, rest = text.strip().partition("://")
    if not found or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        raise Unfit("a text that is not a URL" if "@" in text or ":" in text else quoted(text))
    if scheme.lower() != "memory":
        return redis_url(text)
    if rest:
        raise Unfit("memory:// with something behind it")
    return "memory://"


def redis_url(text: str) -> str:
    """A Redis URL, checked by the rules of the backend itself."""
    url = text.strip()
    scheme = url.partition("://")[0][:40].lower()
    if scheme not in REDIS_SCHEMES:
        raise Unfit(f"a {scheme}:// URL" if "://" in url else "a text that is not a URL")
    from kvmcp.backends.redis.address import parse_url  # only where there is one to check

    try:
        parse_url(url)
    except ValueError as error:
        raise Unfit(
            f"a {scheme}:// URL that cannot be used ({str(error).removeprefix('Redis URL: ')})"
        ) from None
    return url


def state_key(text: str) -> bytes:
    """Hex digits where they give enough bytes, otherwise the text itself."""
    try:
        key = text.encode("utf-8", "surrogateescape")  # what the environment held, byte for byte
    except UnicodeEncodeError:
        raise Unfit("text with a lone surrogate") from None
    if len(key) >= 2 * MIN_STATE_KEY_BYTES and re.fullmatch(r"([0-9A-Fa-f]{2})+", text):
        return bytes.fromhex(text)
    if len(key) < MIN_STATE_KEY_BYTES:
        raise Unfit(f"{len(key)} bytes")
    return key


DEFAULT_PORTS: Final = {"http": 8765, "websocket": 8920, "tcp": 8921}
"""The network transports, and where they listen if nothing else is said."""


def transport(text: str) -> str:
    """`NAME` or `NAME:PORT`."""
    name, colon, port = text.strip().lower().partition(":")
    if name in ("stdio", "unix") and not colon:
        return name
    if name not in DEFAULT_PORTS or (colon and not _is_port(port)):
        raise Unfit(quoted(text))
    return f"{name}:{int(port)}" if colon else name


def address(text: str) -> str:
    """`HOST:PORT`, an IPv6 address in brackets."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not _is_port(port) or (":" in host and not host.startswith("[")):
        raise Unfit(quoted(text))
    return f"{host}:{int(port)}"


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 65535


def allowed_name(text: str) -> str:
    """A host or an origin; `kvmcp.core.http.guard` says which forms there are, and is asked at the start."""
    name = text.strip()
    if not name or any(character.isspace() for character in name):
        raise Unfit(quoted(text))
    return name


def tool_name(text: str) -> str:
    """Whether there is such a tool is asked where tools are known."""
    name = text.strip()
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", name):
        raise Unfit(quoted(text))
    return name


_YES: Final = ("yes", "true", "on", "1")
_NO: Final = ("no", "false", "off", "0")


def switch() -> Kind:
    """On or off; a flag without a value means on."""

    def parse(text: str) -> bool:
        word = text.strip().lower()
        if word not in _YES + _NO:
            raise Unfit(quoted(text))
        return word in _YES

    return Kind(
        parse=parse,
        allowed="yes or no",
        metavar="yes|no",
        show=lambda value: "yes" if value else "no",
        takes="switch",
    )
