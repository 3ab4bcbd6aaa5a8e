"""URI templates (RFC 6570), read in both directions: `match` takes a URI apart, `expand` builds one.

Matching is not defined by the RFC. Here it has one answer and takes linear time: `{var}` is the shortest
text without `/`, `?` and `#` that lets the rest match; `{+var}` and `{#var}` may hold those too, and one
template has at most one of them; `{/var}` is `/` and a `{var}`; the members of `{?a,b}` and `{&c}`, which
must be last, may come in any order and may be missing. Other forms are refused.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from kvmcp.core.errors import LocalProtocolError

MAX_TEMPLATE: Final = 2048
"""Characters of a template: four times what specifications and servers show."""
MAX_VARIABLES: Final = 16
"""Variables of one template. Each costs one search in the URI."""
MAX_URI: Final = 8192
"""Characters of a URI that is matched; the length that common HTTP servers take. A longer one fits nothing."""

_PIECE: Final = re.compile(r"\{([^{}]*)\}|([^{}]+)")
_NAME: Final = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*\Z")
_LITERAL: Final = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+\Z")
_TRIPLET: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_STRAY_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNRESERVED: Final = re.compile(rb"[^A-Za-z0-9._~-]")
_RESERVED: Final = re.compile(rb"[^A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]|%(?![0-9A-Fa-f]{2})")
_ENDS_SEGMENT: Final = re.compile(r"[/?#]")

_LEADS: Final = {"": "", "+": "", "#": "#", "/": "/"}
"""What an expression writes before its first variable."""
_JOINS: Final = {"": ",", "+": ",", "#": ",", "/": "/"}
"""What an expression writes between its variables."""


class _Slot(Struct, frozen=True):
    """A variable of the path, and the literal text behind it (never empty but for the last)."""

    name: str
    reserved: bool
    literal: str


class UriTemplate:
    """An RFC 6570 template as a value; equal where the text is equal.

    Raises LocalProtocolError where the text is not a template, or is one that this module does not match.
    """

    __slots__ = ("_lead", "_query", "_slots", "text", "variables")

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self._lead, self._slots, self._query = _parse(text)
        self.variables: Final[tuple[str, ...]] = (*(slot.name for slot in self._slots), *self._query)
        """Names, in the order in which they are written."""
        _check_variables(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UriTemplate) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"UriTemplate({self.text!r})"

    def match(self, uri: str) -> Mapping[str, str] | None:
        """The variables' values, percent-decoded, or None where `uri` does not fit.

        Values of the path are never empty; a query variable that the URI does not have is missing.
        """
        if len(uri) > MAX_URI:
            return None
        query = ""
        if self._query:
            uri, _, query = uri.partition("?")
        found = self._match_path(uri)
        if found is None or not self._match_query(query, found):
            return None
        return _decode_all(found)

    def expand(self, values: Mapping[str, str]) -> str:
        """The URI with these values; members of a query that have none are left out.

        `{+var}` keeps `%41` as it is, as the RFC wants, so `match` reads it back as `A`. Raises
        LocalProtocolError where a variable of the path is missing or empty, or holds a lone surrogate.
        """
        parts = [self._lead]
        for slot in self._slots:
            if not (value := values.get(slot.name)):
                raise LocalProtocolError(f"{self.text}: `{slot.name}` has no value")
            parts += (_encode(value, _RESERVED if slot.reserved else _UNRESERVED), slot.literal)
        members = [f"{name}={_encode(values[name], _UNRESERVED)}" for name in self._query if name in values]
        return "".join(parts) + ("?" + "&".join(members) if members else "")

    def _match_path(self, uri: str) -> dict[str, str] | None:
        """Slots before the widest one are read forwards, those behind it backwards; it takes what is left."""
        slots = self._slots
        if not slots:
            return {} if uri == self._lead else None
        if not (uri.startswith(self._lead) and uri.endswith(slots[-1].literal)):
            return None
        widest = next((at for at, slot in enumerate(slots) if slot.reserved), len(slots) - 1)
        start, stop = len(self._lead), len(uri) - len(slots[-1].literal)
        found: dict[str, str] = {}
        for at in range(len(slots) - 1, widest, -1):
            before = slots[at - 1].literal
            cut = uri.rfind(before, start, max(stop - 1, 0))
            if cut < 0:
                return None
            found[slots[at].name] = uri[cut + len(before) : stop]
            stop = cut
        for slot in slots[:widest]:
            cut = uri.find(slot.literal, start + 1, max(stop, 0))
            if cut < 0:
                return None
            found[slot.name] = uri[start:cut]
            start = cut + len(slot.literal)
        found[slots[widest].name] = uri[start : max(stop, 0)]
        return found if all(_fits(slot, found[slot.name]) for slot in slots) else None

    def _match_query(self, query: str, found: dict[str, str]) -> bool:
        """Add the members of `query` to `found`; False where one is unknown, doubled or not `name=value`."""
        for member in query.split("&") if query else ():
            name, equals, value = member.partition("=")
            if not equals or name not in self._query or name in found or "#" in value:
                return False
            found[name] = value
        return True


def _parse(text: str) -> tuple[str, tuple[_Slot, ...], tuple[str, ...]]:
    """The text before the first variable, the variables of the path, those of the query."""
    if len(text) > MAX_TEMPLATE:
        raise LocalProtocolError(f"template of {len(text)} characters, limit is {MAX_TEMPLATE}")
    lead, slots, query = "", list[_Slot](), list[str]()
    for expression, literal in _pieces(text):
        operator, names = _expression(text, expression) if expression is not None else ("", ())
        if query and operator != "&":
            raise LocalProtocolError(f"{text}: nothing but {{&…}} can follow {{?…}}")
        if operator == "&" and not query:
            raise LocalProtocolError(f"{text}: {{&…}} is understood only behind {{?…}}")
        if operator in ("?", "&"):
            query += names
            continue
        lead, slots = _append_text(lead, slots, literal or _LEADS[operator])
        for at, name in enumerate(names):
            if at:
                lead, slots = _append_text(lead, slots, _JOINS[operator])
            if slots and not slots[-1].literal:
                raise LocalProtocolError(f"{text}: nothing separates `{slots[-1].name}` from `{name}`")
            slots.append(_Slot(name, operator in ("+", "#"), ""))
    return lead, tuple(slots), tuple(query)


def _pieces(text: str) -> Iterable[tuple[str | None, str]]:
    """The expressions (without braces) and the literal texts, in order."""
    end = 0
    for piece in _PIECE.finditer(text):
        if piece.start() != end:
            break
        end = piece.end()
        if piece[2] is not None and not _LITERAL.match(piece[2]):
            raise LocalProtocolError(f"{text}: a character that cannot stand in a URI")
        yield piece[1], piece[2] or ""
    if end != len(text):
        raise LocalProtocolError(f"{text}: a brace without its partner")


def _expression(text: str, expression: str) -> tuple[str, tuple[str, ...]]:
    """The operator of an expression (perhaps empty) and its variables."""
    operator = expression[:1] if expression[:1] in ("+", "#", "/", "?", "&") else ""
    names = tuple(expression[len(operator) :].split(","))
    for name in names:
        if not _NAME.match(name):
            raise LocalProtocolError(f"{text}: {{{expression}}} is not understood; names with + # / ? & are")
    return operator, names


def _append_text(lead: str, slots: list[_Slot], literal: str) -> tuple[str, list[_Slot]]:
    if not slots:
        return lead + literal, slots
    last = slots[-1]
    return lead, [*slots[:-1], _Slot(last.name, last.reserved, last.literal + literal)]


def _check_variables(template: UriTemplate) -> None:
    names, text = template.variables, template.text
    if len(names) > MAX_VARIABLES:
        raise LocalProtocolError(f"{text}: {len(names)} variables, limit is {MAX_VARIABLES}")
    if len(set(names)) != len(names):
        raise LocalProtocolError(f"{text}: a variable is named twice")
    if sum(slot.reserved for slot in template._slots) > 1:  # pyright: ignore[reportPrivateUsage] - same module
        raise LocalProtocolError(f"{text}: only one {{+…}} or {{#…}} can be matched")


def _fits(slot: _Slot, value: str) -> bool:
    return bool(value) and (slot.reserved or not _ENDS_SEGMENT.search(value))


def _decode_all(found: dict[str, str]) -> dict[str, str] | None:
    """Percent-decode every value; None where one is not percent-encoded UTF-8."""
    try:
        return {name: _decode(value) for name, value in found.items()}
    except UnicodeError:
        return None


def _decode(value: str) -> str:
    """Raises UnicodeError for a stray `%`, and for octets that are not UTF-8."""
    if "%" not in value:
        return value
    if _STRAY_PERCENT.search(value):
        raise UnicodeError("a % without two hexadecimal digits")
    return _TRIPLET.sub(lambda triplet: bytes.fromhex(triplet[1].decode()), value.encode()).decode()


def _encode(value: str, forbidden: re.Pattern[bytes]) -> str:
    try:
        octets = value.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError("a lone surrogate cannot stand in a URI") from None
    return forbidden.sub(lambda octet: b"%%%02X" % octet[0][0], octets).decode()
