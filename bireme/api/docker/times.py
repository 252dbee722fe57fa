"""Times as the Engine API reads and writes them."""

from __future__ import annotations

import re
import time
from datetime import datetime

from bireme.errors import Invalid

ZERO_TIME = "0001-01-01T00:00:00Z"

_UNIX = re.compile(r"(-?\d+)(?:\.(\d{1,9}))?\Z")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)\Z")


def format_time(time_ns: int) -> str:
    """RFC 3339 with nanoseconds, trailing zeros cut, in UTC; Go's zero time for 0."""
    if not time_ns:
        return ZERO_TIME
    seconds, rest = divmod(time_ns, 10**9)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{rest:09d}".rstrip("0") + "Z" if rest else f"{text}Z"


def format_log_time(time_ns: int) -> bytes:
    """RFC 3339 with all nine digits, as in front of log lines."""
    seconds, rest = divmod(time_ns, 10**9)
    return (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z").encode()


def parse_timestamp(text: str) -> int:
    """Nanoseconds since the epoch of `SECONDS[.FRACTION]` or RFC 3339; 0 for an empty text. Invalid otherwise."""
    if not text:
        return 0
    unix = _UNIX.match(text)
    if unix is not None:
        return int(unix[1]) * 10**9 + int((unix[2] or "").ljust(9, "0"))
    stamp = _RFC3339.match(text)
    if stamp is None:
        raise Invalid(f'failed to parse value as a unix timestamp: strconv.ParseInt: parsing "{text}": invalid syntax')
    try:
        seconds = int(datetime.fromisoformat(f"{stamp[1]}+00:00").timestamp())
    except ValueError:
        raise Invalid(f"failed to parse timestamp {text!r}") from None
    if stamp[3] != "Z":
        sign = -1 if stamp[3][0] == "-" else 1
        seconds -= sign * (int(stamp[3][1:3]) * 3600 + int(stamp[3][4:6]) * 60)
    return seconds * 10**9 + int((stamp[2] or "").ljust(9, "0"))
