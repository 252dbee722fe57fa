"""Ends of children, of adopted processes, and of those nobody watches."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import pytest

from bireme.linux import process
from bireme.linux.process import Exit
from bireme.supervisor.children import UNKNOWN, Children, zombie_exit
from tests.support.faketools import FakeKeeper, ManualLoop

if TYPE_CHECKING:
    from collections.abc import Iterator


class Family:
    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.keeper = FakeKeeper()
        self.children = Children(cast("Any", self.loop), cast("Any", self.keeper))
        self.told: list[Exit] = []


@pytest.fixture
def family() -> Iterator[Family]:
    made = Family()
    yield made
    made.children.reap()


def fork(code: int) -> int:
    pid = process.fork()
    if pid == 0:
        os._exit(code)
    return pid


def wait(pid: int) -> None:
    """Until it has ended, without reaping."""
    process.wait_pid(pid, keep=True)


def test_a_child_is_told_before_it_is_reaped(family: Family) -> None:
    pid = fork(7)

    def told(ended: Exit) -> None:
        family.told.append(ended)
        assert process.wait_pid(pid, block=False, keep=True) is not None

    family.children.watch(pid, told)
    wait(pid)
    family.children.reap()
    assert family.told == [Exit(pid, 7, 0)]
    with pytest.raises(ChildProcessError):
        process.wait_pid(pid, block=False)


def test_children_nobody_watches_are_reaped(family: Family) -> None:
    pids = [fork(0) for _ in range(3)]
    for pid in pids:
        wait(pid)
    family.children.reap()
    for pid in pids:
        with pytest.raises(ChildProcessError):
            process.wait_pid(pid, block=False)


def adopt(family: Family, pid: int) -> int:
    pidfd = process.pidfd_open(pid)
    family.children.adopt(pid, pidfd, family.told.append)
    assert pidfd in family.loop
    return pidfd


def test_the_keeper_tells_of_adopted_ones_and_may_forget(family: Family) -> None:
    pid = fork(0)
    pidfd = adopt(family, pid)
    family.keeper.on_exit(Exit(pid, 3, 0))
    assert family.told == [Exit(pid, 3, 0)]
    assert family.keeper.forgotten == [pid]
    assert pidfd not in family.loop
    os.close(pidfd)
    wait(pid)


def test_exits_of_strangers_are_forgotten(family: Family) -> None:
    family.keeper.on_exit(Exit(4711, 0, 0))
    assert family.keeper.forgotten == [4711]
    assert family.told == []


def test_without_a_keeper_the_kernel_is_asked(family: Family) -> None:
    pid = fork(9)
    pidfd = adopt(family, pid)
    process.wait_pid(pid)
    family.loop.callbacks[pidfd](1)
    assert family.told == []
    family.loop.fire()
    (ended,) = family.told
    assert ended.code in (9, UNKNOWN)
    assert ended.pid == pid
    os.close(pidfd)


@pytest.mark.parametrize("code", [0, 9, 200])
def test_a_zombie_shows_its_status(family: Family, code: int) -> None:
    pid = fork(code)
    pidfd = adopt(family, pid)
    assert zombie_exit(os.getpid()) is None
    assert zombie_exit(1 << 22) is None
    wait(pid)
    family.loop.callbacks[pidfd](1)
    process.wait_pid(pid)
    family.loop.fire()
    assert family.told == [Exit(pid, code, 0)]
    os.close(pidfd)


def test_the_keeper_may_be_late(family: Family) -> None:
    pid = fork(9)
    pidfd = adopt(family, pid)
    process.wait_pid(pid)
    family.loop.callbacks[pidfd](1)
    family.keeper.on_exit(Exit(pid, 9, 0))
    family.loop.fire()
    assert family.told == [Exit(pid, 9, 0)]
    os.close(pidfd)
