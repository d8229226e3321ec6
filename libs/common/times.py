"""Times: timezone-aware datetimes in UTC in the code, RFC 3339 in JSON."""

import re
from datetime import UTC, datetime, timedelta

import orjson

_rfc_3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:)(\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)


def now() -> datetime:
    return datetime.now(UTC)


def write_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds and `Z`; `moment` must be aware and in UTC."""
    # Three times as fast as `isoformat`. It leaves out the fraction of a whole second.
    text = orjson.dumps(moment, option=orjson.OPT_UTC_Z)[1:-1].decode()
    return text if moment.microsecond else f"{text[:-1]}.000000Z"


def read_time(text: str) -> datetime:
    """The inverse of `write_time`; raises ValueError."""
    return datetime.fromisoformat(text)


def read_foreign_time(text: str) -> datetime:
    """Any RFC 3339 time, converted to UTC; raises ValueError or OverflowError. Digits beyond microseconds are cut off.
    A leap second, allowed only at the end of a month, becomes the first second of the next day, as in POSIX.
    """
    found = _rfc_3339.fullmatch(text)
    if not found:
        raise ValueError(text)
    minute, second, fraction, offset = found.groups(default="")
    if second != "60":
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    moment = datetime.fromisoformat(f"{minute}59{fraction}{offset}".upper()).astimezone(UTC) + timedelta(seconds=1)
    if (moment.day, moment.hour, moment.minute) != (1, 0, 0):
        raise ValueError(text)
    return moment
