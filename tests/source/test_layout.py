"""Where things are: every unit test mirrors a module, and no room has a drawer for odds and ends."""

from __future__ import annotations

import re

import pytest

from tests.source.tree import ROOT, python_files, relative

DRAWERS = {"utils", "util", "common", "helpers", "base", "core", "manager", "misc"}


def mirrors_a_module(test: str) -> bool:
    """tests/unit/linux/test_mount_plan.py mirrors bireme/linux/mount.py: the module's name, then an aspect if any.

    A name that the package itself exports counts as a module.
    """
    directory, _, file = test.removeprefix("tests/unit/").rpartition("/")
    room = ROOT / "bireme" / directory
    words = file.removeprefix("test_").removesuffix(".py").split("_")
    names = ["_".join(words[: end + 1]) for end in range(len(words))]
    package = room / "__init__.py"
    exported = set(re.findall(r"\w+", package.read_text())) if package.is_file() else set()
    return any((room / f"{name}.py").is_file() or (room / name).is_dir() or name in exported for name in names)


def test_unit_tests_mirror_the_package() -> None:
    tests = [relative(path) for path in python_files("tests") if path.name.startswith("test_")]
    assert not [name for name in tests if name.startswith("tests/unit/") and not mirrors_a_module(name)]


def test_every_package_directory_is_a_package() -> None:
    directories = {path.parent for path in python_files("bireme")}
    assert not [relative(path) for path in directories if not (path / "__init__.py").is_file()]


@pytest.mark.parametrize("room", ["bireme"])
def test_no_drawers(room: str) -> None:
    names = {part for path in python_files(room) for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not names & DRAWERS
