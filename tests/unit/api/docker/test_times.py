"""Times of the Engine API."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.api.docker.times import ZERO_TIME, format_log_time, format_time, parse_timestamp
from bireme.errors import Invalid

MOMENT = 1_767_323_045 * 10**9


def test_written() -> None:
    assert format_time(0) == ZERO_TIME
    assert format_time(MOMENT) == "2026-01-02T03:04:05Z"
    assert format_time(MOMENT + 120_000_000) == "2026-01-02T03:04:05.12Z"
    assert format_time(MOMENT + 1) == "2026-01-02T03:04:05.000000001Z"
    assert format_log_time(MOMENT) == b"2026-01-02T03:04:05.000000000Z"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("1767323045", MOMENT),
        ("1767323045.5", MOMENT + 500_000_000),
        ("1767323045.000000007", MOMENT + 7),
        ("2026-01-02T03:04:05Z", MOMENT),
        ("2026-01-02T03:04:05.000000007Z", MOMENT + 7),
        ("2026-01-02T05:04:05+02:00", MOMENT),
        ("2026-01-01T22:34:05-04:30", MOMENT),
    ],
)
def test_read(text: str, expected: int) -> None:
    assert parse_timestamp(text) == expected


@pytest.mark.parametrize("text", ["x", "1.2.3", "1,5", "2026-01-02", "2026-13-02T03:04:05Z", "2026-01-02T03:04:05"])
def test_refused(text: str) -> None:
    with pytest.raises(Invalid, match="failed to parse"):
        parse_timestamp(text)


@given(st.integers(1, 4_000_000_000 * 10**9))
def test_there_and_back(moment: int) -> None:
    assert parse_timestamp(format_time(moment)) == moment
