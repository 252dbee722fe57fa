"""The cgroup contract on a v2 hierarchy. On a machine whose controllers are all v1 the empty v2 tree still runs what
needs no controller: joining, freezing, killing, device programs."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bireme.errors import NotFound
from bireme.linux.cgroup import ALLOW_ALL, CgroupManager
from bireme.linux.cgroup.tree import MountedHierarchy, find_hierarchies
from bireme.linux.cgroup.v2 import CgroupsV2
from tests.suites.cgroup import CgroupContract, run_inside
from tests.support.pace import eventually

pytestmark = [pytest.mark.needs_root]


@pytest.fixture(scope="module")
def hierarchy() -> MountedHierarchy:
    found = [h for h in find_hierarchies(Path("/proc/self/mountinfo").read_text(), ()) if h.unified]
    if not found:
        pytest.skip("cgroup2 is not mounted")
    return found[0]


@pytest.fixture
def subtree() -> str:
    return f"/bireme-test-{secrets.token_hex(4)}"


@pytest.fixture
def reopen(hierarchy: MountedHierarchy, subtree: str) -> Callable[[], CgroupManager]:
    return lambda: CgroupsV2(hierarchy, subtree)


@pytest.fixture
def manager(reopen: Callable[[], CgroupManager]) -> Iterator[CgroupManager]:
    opened = reopen()
    try:
        yield opened
    finally:
        last = reopen()
        for name in last.list():
            with contextlib.suppress(NotFound):
                last.kill(name, 9, 10.0)
        last.close()
        opened.close()
        eventually(lambda: reopen().close_subtree())


class TestCgroupsV2(CgroupContract):
    def test_it_is_v2(self, manager: CgroupManager) -> None:
        assert manager.version == 2
        assert list(manager.paths("one")) == [""]

    def test_rules_are_never_absent_while_they_change(self, manager: CgroupManager) -> None:
        manager.create("one")
        for _ in range(5):
            manager.apply("one", manager_rules(True))
            assert run_inside(manager, "one", lambda: os.open("/dev/kmsg", os.O_RDONLY)) == 0
            manager.apply("one", manager_rules(False))
            assert run_inside(manager, "one", lambda: os.open("/dev/kmsg", os.O_RDONLY)) == 1


def manager_rules(allow: bool) -> object:
    from bireme.linux.cgroup import DEFAULT_RULES, CgroupLimits

    return CgroupLimits(devices=ALLOW_ALL if allow else DEFAULT_RULES)


@pytest.mark.needs_cgroup_v2
def test_the_machine_is_driven_by_v2() -> None:
    from bireme.linux.cgroup import open_cgroups

    manager = open_cgroups(f"/bireme-test-{secrets.token_hex(4)}")
    try:
        assert manager.version == 2
        assert manager.controllers >= {"cpu", "memory", "pids", "devices"}
    finally:
        manager.close_subtree()
