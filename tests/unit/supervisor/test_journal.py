"""The journal: what is written comes back, a torn end is cut off, compaction keeps what lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bireme.supervisor import journal
from bireme.supervisor.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def reopened(path: Path) -> list[journal.Record]:
    again = Journal(str(path))
    try:
        return again.replay()
    finally:
        again.close()


def test_records_come_back_in_order_with_deferred_ones_before_the_write(path: Path) -> None:
    book = Journal(str(path))
    assert book.replay() == []
    book.defer({"n": 1})
    assert path.read_bytes() == b""
    book.write({"n": 2, "text": "a\nb"})
    book.defer({"n": 3})
    book.flush()
    book.flush()
    book.close()
    assert [r["n"] for r in reopened(path)] == [1, 2, 3]


@pytest.mark.parametrize("tail", [b'{"n":', b'{"n":4}', b"\n{", b"[1]\n", b'\x00\xff\n{"n":9}\n'])
def test_torn_end_is_cut_off_and_appending_goes_on(path: Path, tail: bytes) -> None:
    path.write_bytes(b'{"n":1}\n{"n":2}\n' + tail)
    book = Journal(str(path))
    assert [r["n"] for r in book.replay()] == [1, 2]
    book.write({"n": 3})
    book.close()
    assert [r["n"] for r in reopened(path)] == [1, 2, 3]


def test_every_cut_leaves_a_prefix(path: Path) -> None:
    whole = b'{"n":1}\n{"n":2}\n{"n":3}\n'
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        assert [r["n"] for r in reopened(path)] == list(range(1, whole[:cut].count(b"\n") + 1))


def test_compaction_replaces_history(path: Path) -> None:
    book = Journal(str(path))
    book.replay()
    for number in range(20_000):
        book.defer({"n": number, "padding": "x" * 60})
    book.flush()
    assert book.wants_compaction
    book.compact([{"n": 7}])
    assert not book.wants_compaction
    book.write({"n": 8})
    book.close()
    assert reopened(path) == [{"n": 7}, {"n": 8}]
    assert [entry.name for entry in path.parent.iterdir()] == ["journal"]
