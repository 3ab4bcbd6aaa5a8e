"""What there is to know of one task, and how it is told."""

from typing import Literal, TypeAlias

from msgspec import UNSET, Raw, Struct, UnsetType

from kvmcp.core.exchange import Exchange

TaskId: TypeAlias = str
Status: TypeAlias = Literal["working", "input_required", "completed", "failed", "cancelled"]


class Settled(Struct, frozen=True):
    """How an exchange ended, out of the message that it wrote."""

    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class Body(Struct, omit_defaults=True, rename="camel"):
    """What is told of a task. Before its creation is answered there is nothing but the first seven members."""

    task_id: TaskId
    status: Status
    created_at: str
    last_updated_at: str
    ttl_ms: int
    poll_interval_ms: int
    status_message: str | UnsetType = UNSET
    input_requests: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class Task(Struct):
    """One task. `Exchanges` keeps its work; this is what a client may know of it."""

    id: TaskId
    owner: str
    exchange: Exchange
    created: float
    updated: float
    status: Status = "working"
    message: str | UnsetType = UNSET
    """What its job last said of how far it is."""
    outcome: Settled = Settled()
    size: int = 0
    """Bytes of the outcome."""
    names: dict[str, str] = {}
    """For each open question: the key that the job gave it, by the key that the client sees."""
    used: set[str] = set()
    """Every key that the client has seen."""

    @property
    def is_over(self) -> bool:
        return self.status not in ("working", "input_required")


def iso_time(unix: float) -> str:
    """A moment in ISO 8601, UTC. By hand, as the core has no calendar (days from civil, H. Hinnant)."""
    days, seconds = divmod(int(unix), 86_400)
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (month <= 2)
    hour, minute, second = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
