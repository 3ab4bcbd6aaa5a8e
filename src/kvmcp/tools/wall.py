"""Moments of the wall clock as people write them. The clock itself is the caller's."""

_DAY = 86_400


def iso(seconds: float) -> str:
    """Unix time as ISO 8601 in UTC, in whole seconds: `2026-11-21T08:30:00Z`. Years 1970 to 9999."""
    days, rest = divmod(int(seconds), _DAY)
    hour, rest = divmod(rest, 3600)
    year, month, day = _date(days)
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{rest // 60:02}:{rest % 60:02}Z"


def _date(days: int) -> tuple[int, int, int]:
    """The civil date so many days after 1 January 1970.

    Counted in years that begin with March, so that the leap day comes last, and in cycles of 400 years.
    """
    cycle, day_of_cycle = divmod(days + 719_468, 146_097)
    leaps = day_of_cycle // 1460 - day_of_cycle // 36_524 + day_of_cycle // 146_096
    year_of_cycle = (day_of_cycle - leaps) // 365
    day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle // 4 - year_of_cycle // 100)
    from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * from_march + 2) // 5 + 1
    month = from_march + 3 if from_march < 10 else from_march - 9
    return cycle * 400 + year_of_cycle + (month <= 2), month, day
