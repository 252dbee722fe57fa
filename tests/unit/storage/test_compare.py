"""Two trees compared, with and without a directory that holds the differences."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bireme.storage.compare import compare


def _changes(new: Path, old: Path | None, upper: Path | None = None) -> list[str]:
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) if path else -1 for path in (new, old, upper)]
    try:
        return [f"{'CAD'[change.kind]} {os.fsdecode(change.path)}" for change in compare(*fds)]
    finally:
        for fd in fds:
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    new, old = tmp_path / "new", tmp_path / "old"
    for root in (new, old):
        (root / "etc").mkdir(parents=True)
        (root / "bin").mkdir()
        for name in ("etc/same", "etc/changed", "bin/tool"):
            (root / name).write_text(name)
            os.utime(root / name, (1, 1))
    return new, old


def test_nothing(trees: tuple[Path, Path]) -> None:
    assert _changes(*trees) == []


def test_kinds(trees: tuple[Path, Path]) -> None:
    new, old = trees
    (new / "etc/changed").write_text("other words")
    (new / "bin/tool").unlink()
    (new / "made").mkdir()
    (new / "made/file").write_text("x")
    wanted = ["C /bin", "D /bin/tool", "C /etc", "C /etc/changed", "A /made", "A /made/file"]
    assert _changes(new, old) == wanted


def test_a_directory_counts_by_its_mode_alone(trees: tuple[Path, Path]) -> None:
    new, old = trees
    os.utime(new / "etc", (5, 5))
    assert _changes(new, old) == []
    (new / "etc").chmod(0o700)
    assert _changes(new, old) == ["C /etc"]


def test_kind_of_file_changes(trees: tuple[Path, Path]) -> None:
    new, old = trees
    (new / "bin/tool").unlink()
    (new / "bin/tool").mkdir()
    (new / "bin/tool/in").write_text("")
    assert _changes(new, old) == ["C /bin", "C /bin/tool", "A /bin/tool/in"]


def test_whole_seconds_stand_for_any_fraction(trees: tuple[Path, Path]) -> None:
    new, old = trees
    os.utime(new / "etc/same", ns=(10**9 + 5, 10**9 + 5))
    assert _changes(new, old) == []
    os.utime(old / "etc/same", ns=(10**9 + 7, 10**9 + 7))
    assert _changes(new, old) == ["C /etc", "C /etc/same"]


def test_what_is_not_in_the_upper_directory_is_not_looked_at(trees: tuple[Path, Path], tmp_path: Path) -> None:
    new, old = trees
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    (upper / "etc/changed").write_text("")
    for name in ("etc/same", "etc/changed", "bin/tool"):
        (new / name).write_text("all of them differ")
    assert _changes(new, old, upper) == ["C /etc", "C /etc/changed"]


def test_without_an_image(trees: tuple[Path, Path]) -> None:
    assert _changes(trees[0], None)[:2] == ["A /bin", "A /bin/tool"]
