"""Sizes and times for people, rounded as Docker rounds them."""

from __future__ import annotations

import time

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_WEEK, _MONTH, _YEAR = 7 * _DAY, 30 * _DAY, 365 * _DAY


def _scaled(size: float, base: float, units: tuple[str, ...], digits: int) -> str:
    step = 0
    while size >= base and step < len(units) - 1:
        size /= base
        step += 1
    return f"{size:.{digits}g}{units[step]}"


def human_size(size: float, digits: int = 4) -> str:
    """1.234MB: powers of 1000. Rounding up to the next thousand gives 1e+03kB, as in C and Go."""
    return _scaled(size, 1000.0, _DECIMAL, digits)


def binary_size(size: float) -> str:
    """1.177MiB: powers of 1024."""
    return _scaled(size, 1024.0, _BINARY, 4)


def human_duration(seconds: float) -> str:
    """About how long: "Less than a second", "5 minutes", "About an hour", "3 weeks"."""
    whole = int(seconds)
    minutes, hours = whole // _MINUTE, int(seconds / _HOUR + 0.5)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < _MINUTE:
        return f"{whole} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(seconds / _HOUR) // 24 // 365} years"


def ago(when_s: float, now_s: float | None = None) -> str:
    """ "2 minutes ago" of seconds since the epoch; "" for zero."""
    if when_s <= 0:
        return ""
    return human_duration((time.time() if now_s is None else now_s) - when_s) + " ago"


def days_since_epoch(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 of a date of the Gregorian calendar."""
    year -= month <= 2
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468


def parse_time(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time; 0.0 for what is none and for Go's zero time."""
    try:
        date, _, clock = text.partition("T")
        year, month, day = (int(part) for part in date.split("-"))
        offset = 0
        for sign in "+-":
            head, found, zone = clock.rpartition(sign)
            if found:
                hours, _, minutes = zone.partition(":")
                offset = (int(hours) * 60 + int(minutes or 0)) * (-60 if sign == "-" else 60)
                clock = head
        hour, minute, second = clock.removesuffix("Z").split(":")
        moment = (
            days_since_epoch(year, month, day) * _DAY
            + int(hour) * _HOUR
            + int(minute) * _MINUTE
            + float(second)
            - offset
        )
    except ValueError:
        return 0.0
    return moment if moment > 0 else 0.0


def go_time(text: str) -> str:
    """An RFC 3339 time as Go prints it: 2026-01-02 15:04:05.123 +0000 UTC."""
    date, _, clock = text.partition("T")
    zone = "+0000 UTC" if clock.endswith("Z") or clock[-6:-5] not in ("+", "-") else ""
    if not zone:
        offset = clock[-6:].replace(":", "")
        zone, clock = f"{offset} {offset}", clock[:-6]
    whole, _, fraction = clock.removesuffix("Z").partition(".")
    digits = fraction.rstrip("0")
    return f"{date} {whole}.{digits} {zone}" if digits else f"{date} {whole} {zone}"
