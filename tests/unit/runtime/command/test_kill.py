from __future__ import annotations

import signal

import pytest

from bireme.errors import Invalid
from bireme.runtime.command.kill import parse_signal


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9),
        ("-9", 9),
        ("KILL", 9),
        ("SIGKILL", 9),
        ("sigterm", 15),
        ("RTMIN+3", signal.SIGRTMIN + 3),
        ("SIGRTMIN", signal.SIGRTMIN),
        ("64", 64),
    ],
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "1000", "NOPE", "SIGRTMIN+99", "RTMIN+", "9x"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(Invalid):
        parse_signal(text)
