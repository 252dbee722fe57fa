"""The cgroup contract on this machine's v1 hierarchies, and what is particular to v1."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bireme.errors import BiremeError, NotFound
from bireme.linux.cgroup import CgroupLimits, CgroupManager, limits_from_resources, open_cgroups
from bireme.linux.cgroup.dynmods import open_dynmods
from bireme.linux.cgroup.v1 import CgroupsV1
from tests.suites.cgroup import CgroupContract, child
from tests.support.pace import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroup_v1]


@pytest.fixture
def subtree() -> str:
    return f"bireme-test-{secrets.token_hex(4)}"


@pytest.fixture
def reopen(subtree: str) -> Callable[[], CgroupManager]:
    return lambda: open_cgroups(subtree)


@pytest.fixture
def manager(subtree: str) -> Iterator[CgroupManager]:
    opened = open_cgroups(subtree)
    try:
        yield opened
    finally:
        last = open_cgroups(subtree)
        for name in last.list():
            with contextlib.suppress(NotFound):
                last.kill(name, 9, 10.0)
        opened.close()
        eventually(last_chance(subtree))
        last.close()


def last_chance(subtree: str) -> Callable[[], bool]:
    return lambda: open_cgroups(subtree).close_subtree()


class TestCgroupsV1(CgroupContract):
    def test_it_is_v1(self, manager: CgroupManager) -> None:
        assert isinstance(manager, CgroupsV1)
        assert manager.version == 1

    def test_nothing_is_left_after_a_failed_create(self, manager: CgroupManager) -> None:
        os.mkdir(manager.paths("one")["devices"])
        with pytest.raises(BiremeError):
            manager.create("one")
        left = [c for c, path in manager.paths("one").items() if os.path.exists(path)]
        assert left == ["devices"]

    def test_only_differences_are_written(self, manager: CgroupManager) -> None:
        limits = limits_from_resources({"memory": {"limit": 64 << 20}, "cpu": {"shares": 512}, "pids": {"limit": 20}})
        manager.create("one")
        manager.apply("one", limits)
        shares = Path(manager.paths("one")["cpu"], "cpu.shares")
        shares.write_text("700")
        manager.apply("one", limits._replace(pids_max=30))
        assert shares.read_text().strip() == "700"
        assert Path(manager.paths("one")["pids"], "pids.max").read_text().strip() == "30"

    def test_a_nested_subtree(self, subtree: str) -> None:
        nested = open_cgroups(f"{subtree}/deeper/still")
        try:
            nested.create("one")
            with child(lambda: nested.join("one")) as pid:
                eventually(lambda: nested.pids("one") == [pid])
            eventually(lambda: nested.remove("one"))
        finally:
            nested.close_subtree()
            for path in (f"{subtree}/deeper", subtree):
                parent, _, name = path.rpartition("/")
                opened = open_cgroups(f"/{parent}")
                opened.remove(name)
                opened.close()

    def test_freezer_state_of_a_thawed_cgroup_after_kill(self, manager: CgroupManager) -> None:
        manager.create("one")
        manager.freeze("one")
        assert manager.kill("one", 9)
        assert not manager.frozen("one")

    def test_the_oom_killer_can_be_switched_off(self, manager: CgroupManager) -> None:
        manager.create("one")
        manager.apply("one", CgroupLimits(memory_bytes=64 << 20, oom_kill_disable=True))
        text = Path(manager.paths("one")["memory"], "memory.oom_control").read_text()
        assert "oom_kill_disable 1" in text


def test_dynmods_is_held_while_open(subtree: str) -> None:
    def is_mounted() -> bool:
        return f":name={subtree}:" in Path("/proc/self/cgroup").read_text()

    held = open_dynmods(subtree)
    try:
        assert is_mounted()
        os.close(open_dynmods(subtree))
        assert is_mounted()
    finally:
        os.close(held)
    eventually(lambda: not is_mounted())


def test_a_manager_with_dynmods(manager: CgroupManager, subtree: str) -> None:
    other = open_cgroups(subtree, favordynmods=True)
    try:
        assert ":name=bireme:" in Path("/proc/self/cgroup").read_text()
        other.create("one")
    finally:
        other.close()
