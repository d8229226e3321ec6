"""Times: aware and in UTC inside, RFC 3339 outside."""

from datetime import UTC, datetime


def now() -> datetime:
    return datetime.now(UTC)


def write_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds and `Z`; `moment` must be aware and in UTC."""
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"


def read_time(text: str) -> datetime:
    """The inverse of `write_time`; raises ValueError."""
    return datetime.fromisoformat(text)
