"""Sizes and durations as Docker's options spell them, and as its listings show them."""

from __future__ import annotations

import re

from bireme.errors import Invalid

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKmMgGtTpP]?)(?:i?[bB])?\Z")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_size(text: str) -> int:
    """Bytes of `64m`, `1g`, `512`, `1.5gb` (powers of 1024); Invalid otherwise."""
    found = _SIZE.match(text.strip())
    if found is None:
        raise Invalid(f"invalid size: '{text}'", subject=text)
    return int(float(found[1]) * 1024 ** _POWERS[found[2].lower()])


def human_duration(seconds: float) -> str:
    """Like go-units' HumanDuration: "Less than a second", "About a minute", "3 days"."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
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
    return f"{int(seconds / 3600 / 24 / 365)} years"
