"""Detach keys: how they are spelled and found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.api.docker.detach import DEFAULT_KEYS, KeyWatcher, parse_keys
from bireme.errors import Invalid


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", DEFAULT_KEYS),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("a,b", b"ab"),
        ("ctrl-a,x,ctrl-z", b"\x01x\x1a"),
        ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\x00\x1b\x1c\x1d\x1e\x1f"),
    ],
)
def test_spelling(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-ab", "ctrl-A", "ab", "a,,b", "ctrl-é", "é"])
def test_misspelling(text: str) -> None:
    with pytest.raises(Invalid, match="Invalid detach keys"):
        parse_keys(text)


def typed(keys: bytes, *pieces: bytes) -> tuple[bytes, bool]:
    watcher = KeyWatcher(keys)
    passed = b"".join(watcher.feed(piece) for piece in pieces)
    return passed, watcher.detached


def test_found_however_it_is_cut() -> None:
    assert typed(b"ab", b"xab") == (b"x", True)
    assert typed(b"ab", b"xa", b"b") == (b"x", True)
    assert typed(b"ab", b"xab", b"y") == (b"xy", True)
    assert typed(b"q", b"a", b"q") == (b"a", True)


def test_a_beginning_that_leads_nowhere_is_passed_on() -> None:
    assert typed(b"ab", b"xa", b"c") == (b"xac", False)
    assert typed(b"ab", b"a", b"a", b"c") == (b"aac", False)
    assert typed(b"ab", b"aab") == (b"a", True)
    assert typed(b"abc", b"ababc") == (b"ab", True)


@given(st.lists(st.binary(max_size=6)))
def test_other_input_is_untouched(pieces: list[bytes]) -> None:
    clean = [piece.replace(b"\x10", b"") for piece in pieces]
    assert typed(DEFAULT_KEYS, *clean) == (b"".join(clean), False)
