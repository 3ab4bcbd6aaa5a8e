"""The headers of one request, looked up by name, and what `Accept` and `Content-Type` say (RFC 9110)."""

from collections.abc import Iterable
from functools import lru_cache

from kvmcp.core.http.messages import EVENTS, JSON, Field


class Headers:
    """Every header by its lower-case name, with all its values."""

    def __init__(self, fields: Iterable[Field]) -> None:
        self._values: dict[bytes, list[bytes]] = {}
        for name, value in fields:
            self._values.setdefault(name.lower(), []).append(value)

    def get(self, name: bytes) -> str | None:
        """The value, the first where there are several; None where there is none. Empty is a value."""
        values = self._values.get(name)
        # Latin-1 maps each byte to one character: nothing is lost, and ASCII is ASCII.
        return None if values is None else values[0].strip(b" \t").decode("latin-1")

    def is_repeated(self, name: bytes) -> bool:
        """Whether a header stands there more than once: who reads the first and who reads the last disagree."""
        return len(self._values.get(name, ())) > 1

    def content_length(self) -> int | None:
        """How long the body will be; None where the head does not say, or says nonsense that the server passed on."""
        text = self.get(b"content-length")
        return (
            int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None
        )

    def has_json_body(self) -> bool:
        """Whether `Content-Type` is JSON, whatever its parameters."""
        text = self.get(b"content-type")
        return text is not None and _media_type(text) == JSON.decode()

    def accepts(self, *types: bytes) -> bool:
        """Whether `Accept` admits all of `types`. Without the header all is admitted (RFC 9110, section 12.5.1)."""
        lines = self._values.get(b"accept")
        return lines is None or _accepts(b",".join(lines), types)

    def accepts_both(self) -> bool:
        """ "The client MUST include an Accept header, listing both application/json and text/event-stream"."""
        return self.accepts(JSON, EVENTS)


@lru_cache(maxsize=64)  # Clients send the same few lines with every request.
def _accepts(line: bytes, types: tuple[bytes, ...]) -> bool:
    items = line.decode("latin-1").lower().split(",")
    ranges = {_media_type(item) for item in items if not _is_refused(item)}
    return all(_admits(ranges, media_type.decode()) for media_type in types)


def _media_type(item: str) -> str:
    return item.partition(";")[0].strip().lower()


def _is_refused(item: str) -> bool:
    """Whether a media range has weight 0."""
    weights = [part.strip() for part in item.split(";")[1:]]
    return any(weight.startswith("q=") and not weight[2:].strip("0.") for weight in weights)


def _admits(ranges: set[str], media_type: str) -> bool:
    return not ranges.isdisjoint({"*/*", media_type, media_type.partition("/")[0] + "/*"})
