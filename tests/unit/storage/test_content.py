from __future__ import annotations

from pathlib import Path

import pytest

from bireme.storage.content import ContentStore
from tests.suites.content import ContentContract, ignore


class TestContentStore(ContentContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ContentStore:
        return ContentStore(str(tmp_path / "content"))


def test_the_next_process_finds_blobs_and_sweeps_what_died(tmp_path: Path) -> None:
    store = ContentStore(str(tmp_path))
    blob = store.put(ignore, b"data")
    (tmp_path / "ingest" / "0123").write_bytes(b"half")
    again = ContentStore(str(tmp_path))
    assert again.sweep() == 1
    assert list(again.list()) == [blob]
    assert (tmp_path / "blobs").stat().st_mode & 0o77 == 0
