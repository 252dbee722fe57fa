"""The contract of every Snapshotter: subclass, and provide the fixture `snapshotter`."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from bireme.errors import BiremeError, Conflict, Invalid, NotFound
from bireme.storage.snapshot import SnapshotInfo, Snapshotter


def fill(snapshotter: Snapshotter, key: str, parent: str | None, name: str, *files: str) -> None:
    root = snapshotter.prepare(key, parent)
    for file in files:
        Path(root.upper, file).write_text(f"{file} of {name}")
    snapshotter.commit(key, name)


def visible(snapshotter: Snapshotter, key: str) -> dict[str, str]:
    """Files in the merged view, as overlayfs would show files that are not deleted."""
    root = snapshotter.mounts(key)
    found: dict[str, str] = {}
    for layer in (*reversed(root.lower), root.upper):
        found |= {path.name: path.read_text() for path in Path(layer).iterdir()}
    return found


class SnapshotterContract:
    def test_a_fresh_snapshot_is_empty_and_writable(self, snapshotter: Snapshotter) -> None:
        root = snapshotter.prepare("a", None)
        assert os.listdir(root.upper) == []
        Path(root.upper, "x").write_text("x")
        assert snapshotter.mounts("a") == root
        assert visible(snapshotter, "a") == {"x": "x"}
        assert os.stat(root.upper).st_mode & 0o7777 == 0o755

    def test_children_see_their_parents_and_parents_stay_as_they_were(self, snapshotter: Snapshotter) -> None:
        fill(snapshotter, "a", None, "base", "one", "two")
        fill(snapshotter, "b", "base", "top", "two", "three")
        snapshotter.prepare("c", "top")
        snapshotter.prepare("d", "base")
        assert visible(snapshotter, "c") == {"one": "one of base", "two": "two of top", "three": "three of top"}
        assert visible(snapshotter, "d") == {"one": "one of base", "two": "two of base"}

    def test_siblings_do_not_see_each_other(self, snapshotter: Snapshotter) -> None:
        fill(snapshotter, "a", None, "base", "one")
        roots = [snapshotter.prepare(key, "base") for key in ("b", "c")]
        Path(roots[0].upper, "mine").write_text("")
        assert "mine" not in visible(snapshotter, "c")

    def test_the_root_inherits_its_attributes(self, snapshotter: Snapshotter) -> None:
        root = snapshotter.prepare("a", None)
        os.chmod(root.upper, 0o1711)
        snapshotter.commit("a", "base")
        assert os.stat(snapshotter.prepare("b", "base").upper).st_mode & 0o7777 == 0o1711

    def test_names_and_keys_are_told_apart(self, snapshotter: Snapshotter) -> None:
        fill(snapshotter, "a", None, "sha256:ab", "x")
        snapshotter.prepare("b", "sha256:ab")
        assert snapshotter.exists("sha256:ab")
        assert not snapshotter.exists("b")
        assert not snapshotter.exists("a")
        assert sorted(snapshotter.list()) == [
            SnapshotInfo("b", False, "sha256:ab"),
            SnapshotInfo("sha256:ab", True, ""),
        ]

    def test_keys_and_names_are_taken_once(self, snapshotter: Snapshotter) -> None:
        fill(snapshotter, "a", None, "base", "x")
        snapshotter.prepare("b", "base")
        with pytest.raises(Conflict):
            snapshotter.prepare("b", "base")
        with pytest.raises(Conflict):
            snapshotter.commit("b", "base")
        assert visible(snapshotter, "b") == {"x": "x of base"}

    def test_what_is_not_there(self, snapshotter: Snapshotter) -> None:
        for call in (
            lambda: snapshotter.prepare("a", "nothing"),
            lambda: snapshotter.mounts("nothing"),
            lambda: snapshotter.parents("nothing"),
            lambda: snapshotter.commit("nothing", "x"),
            lambda: snapshotter.remove("nothing"),
            lambda: snapshotter.usage("nothing"),
        ):
            with pytest.raises(NotFound):
                call()
        assert list(snapshotter.list()) == []

    def test_words_that_are_no_names(self, snapshotter: Snapshotter) -> None:
        for word in ("", ".", "..", "a/b", "../a", "a b", "x" * 121, "a\n", "-a"):
            for call in (
                lambda word=word: snapshotter.prepare(word, None),
                lambda word=word: snapshotter.exists(word),
                lambda word=word: snapshotter.remove(word),
            ):
                with pytest.raises(Invalid):
                    call()

    def test_removal_children_first(self, snapshotter: Snapshotter) -> None:
        fill(snapshotter, "a", None, "base", "x")
        fill(snapshotter, "b", "base", "top", "y")
        snapshotter.prepare("c", "top")
        for name in ("base", "top"):
            with pytest.raises(Conflict):
                snapshotter.remove(name)
        for name in ("c", "top", "base"):
            snapshotter.remove(name)
        assert list(snapshotter.list()) == []
        assert snapshotter.sweep() == 0
        with pytest.raises(NotFound):
            snapshotter.prepare("d", "base")

    def test_a_removed_name_is_free_again(self, snapshotter: Snapshotter) -> None:
        fill(snapshotter, "a", None, "base", "old")
        snapshotter.prepare("b", "base")
        snapshotter.remove("b")
        snapshotter.remove("base")
        fill(snapshotter, "a", None, "base", "new")
        snapshotter.prepare("b", "base")
        assert visible(snapshotter, "b") == {"new": "new of base"}

    def test_removal_of_a_hostile_tree(self, snapshotter: Snapshotter, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").write_text("")
        root = snapshotter.prepare("a", None)
        os.symlink(outside, f"{root.upper}/link")
        os.symlink("/", f"{root.upper}/slash")
        os.mkfifo(f"{root.upper}/fifo")
        os.mkdir(os.fsencode(root.upper) + b"/\xff\xfe\n")
        directory = os.open(root.upper, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("d", dir_fd=directory)
            inner = os.open("d", os.O_RDONLY, dir_fd=directory)
            os.close(directory)
            directory = inner
        os.symlink(outside, "link", dir_fd=directory)
        os.close(directory)
        snapshotter.remove("a")
        assert list(snapshotter.list()) == []
        assert snapshotter.sweep() == 0
        assert (outside / "kept").exists()

    def test_usage_counts_what_is_there(self, snapshotter: Snapshotter) -> None:
        root = snapshotter.prepare("a", None)
        empty = snapshotter.usage("a")
        Path(root.upper, "f").write_bytes(b"x" * 100_000)
        os.link(f"{root.upper}/f", f"{root.upper}/g")
        with open(f"{root.upper}/hole", "wb") as file:
            file.truncate(1 << 30)
        used = snapshotter.usage("a")
        assert 100_000 <= used.size_bytes - empty.size_bytes < 1_000_000
        assert used.inodes - empty.inodes == 2
        snapshotter.commit("a", "base")
        assert snapshotter.usage("base") == used

    def test_many_at_once(self, snapshotter: Snapshotter) -> None:
        fill(snapshotter, "a", None, "base", "x")
        won: list[str] = []

        def work(worker: int) -> None:
            for number in range(10):
                snapshotter.prepare(f"w{worker}n{number}", "base")
                try:
                    snapshotter.prepare(f"shared{number}", "base")
                    won.append(f"shared{number}")
                except Conflict:
                    pass
                snapshotter.remove(f"w{worker}n{number}")

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(won) == sorted(f"shared{n}" for n in range(10))
        assert len(snapshotter.list()) == 11

    def test_sync_makes_no_fuss(self, snapshotter: Snapshotter) -> None:
        fill(snapshotter, "a", None, "base", "x")
        snapshotter.sync()

    def test_a_parent_is_never_taken_from_under_a_child(self, snapshotter: Snapshotter) -> None:
        """Removing a committed snapshot while children are prepared: one side is refused, nobody is orphaned."""
        for number in range(10):
            fill(snapshotter, f"a{number}", None, f"base{number}", "x")

        def prepare() -> None:
            for number in range(10):
                try:
                    snapshotter.prepare(f"c{number}", f"base{number}")
                except BiremeError:
                    continue

        thread = threading.Thread(target=prepare)
        thread.start()
        for number in range(10):
            try:
                snapshotter.remove(f"base{number}")
            except BiremeError:
                continue
        thread.join()
        for info in snapshotter.list():
            if not info.committed:
                assert visible(snapshotter, info.name) == {"x": f"x of {info.parent}"}
