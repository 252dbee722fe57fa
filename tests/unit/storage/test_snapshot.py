from __future__ import annotations

from pathlib import Path

import pytest

from bireme.errors import Invalid
from bireme.storage.native import NativeSnapshotter
from bireme.storage.overlay import OverlaySnapshotter
from bireme.storage.snapshot import Snapshotter, check_word
from tests.suites.snapshotter import SnapshotterContract, fill


class TestOverlaySnapshotter(SnapshotterContract):
    @pytest.fixture
    def snapshotter(self, tmp_path: Path) -> Snapshotter:
        return OverlaySnapshotter(str(tmp_path / "snapshots"))

    def test_layers_are_listed_topmost_first(self, snapshotter: Snapshotter) -> None:
        for number, parent in enumerate((None, "n0", "n1")):
            fill(snapshotter, f"k{number}", parent, f"n{number}")
        root = snapshotter.prepare("a", "n2")
        assert [Path(path).parent.name for path in root.lower] == ["n2", "n1", "n0"]
        assert snapshotter.parents("a") == root.lower
        assert Path(root.work).is_dir()
        assert not any(":" in path or "," in path for path in (*root.lower, root.upper, root.work))


class TestNativeSnapshotter(SnapshotterContract):
    @pytest.fixture
    def snapshotter(self, tmp_path: Path) -> Snapshotter:
        return NativeSnapshotter(str(tmp_path / "snapshots"))


def test_words() -> None:
    assert check_word("sha256:ab", "name") == "sha256:ab"
    with pytest.raises(Invalid, match="invalid snapshot key"):
        check_word("a=b", "key")
