"""Sizes and durations in Docker's words."""

from __future__ import annotations

import pytest

from bireme.api.docker.sizes import human_duration, parse_size
from bireme.errors import Invalid

HOUR = 3600
DAY = 24 * HOUR


@pytest.mark.parametrize(
    ("text", "expected"),
    [("512", 512), ("1k", 1024), ("64M", 64 << 20), ("1.5gb", 3 << 29), ("2 GiB", 2 << 30), ("7b", 7), (" 3kB ", 3072)],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "k", "-1", "1x", "1 2", "0x10", "1e3"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(Invalid, match="invalid size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "Less than a second"),
        (0.9, "Less than a second"),
        (1.9, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (59 * 60, "59 minutes"),
        (HOUR, "About an hour"),
        (89 * 60, "About an hour"),
        (90 * 60, "2 hours"),
        (47 * HOUR, "47 hours"),
        (2 * DAY, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY, "2 months"),
        (700 * DAY, "23 months"),
        (731 * DAY, "2 years"),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert human_duration(seconds) == expected
