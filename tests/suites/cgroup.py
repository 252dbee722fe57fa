"""The contract of bireme.linux.cgroup.contract.CgroupManager, as tests every version runs on a real kernel.

A test class inherits `CgroupContract` and offers the fixture `manager`: a manager of a fresh subtree with a random
name, closed with `close_subtree` afterwards. What needs a controller the machine lacks is skipped by that controller.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from bireme.errors import Conflict, Denied, Invalid, NotFound, Unsupported
from bireme.linux.cgroup import (
    ALLOW_ALL,
    CgroupLimits,
    CgroupManager,
    DeviceRule,
    join_fds,
    limits_from_resources,
)
from bireme.linux.process import clone3
from tests.support.pace import eventually, patience


@contextlib.contextmanager
def child(run: object = None) -> Iterator[int]:
    """A child of ours that runs `run()` and sleeps; killed and reaped at the end."""
    pid, _ = clone3()
    if pid == 0:
        _child_main(run)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _child_main(run: object) -> None:
    code = 99
    try:
        if callable(run):
            run()
        while True:
            time.sleep(1000)
    finally:
        os._exit(code)


def status_of(pid: int) -> int:
    """Wait for a child: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_inside(manager: CgroupManager, name: str, action: object) -> int:
    """Exit code of a child that joined `name` and ran `action()`; an OSError's errno becomes the code."""
    pid, _ = clone3()
    if pid == 0:
        code = 99
        try:
            manager.join(name)
            assert callable(action)
            action()
            code = 0
        except OSError as error:
            code = error.errno or 98
        finally:
            os._exit(code)
    return status_of(pid)


def limit_file(manager: CgroupManager, name: str, v1: tuple[str, str], v2: str) -> str:
    """What the kernel has in force now: ("memory", "memory.limit_in_bytes") or "memory.max"."""
    paths = manager.paths(name)
    path = f"{paths['']}/{v2}" if manager.version == 2 else f"{paths[v1[0]]}/{v1[1]}"
    with open(path) as file:
        return file.read().strip()


def need(manager: CgroupManager, *controllers: str) -> None:
    missing = [c for c in controllers if c not in manager.controllers]
    if missing:
        pytest.skip(f"no cgroup controller {missing[0]} here")


class CgroupContract:
    """Inherit, and define the fixture `manager`."""

    def test_create_list_remove(self, manager: CgroupManager) -> None:
        assert manager.list() == []
        manager.create("one")
        manager.create("two")
        assert manager.list() == ["one", "two"]
        assert manager.exists("one")
        assert all(os.path.isdir(path) for path in manager.paths("one").values())
        assert manager.remove("one")
        assert manager.remove("one")
        assert manager.list() == ["two"]

    def test_a_name_is_taken_once(self, manager: CgroupManager) -> None:
        manager.create("one")
        with pytest.raises(Conflict):
            manager.create("one")
        assert manager.list() == ["one"]

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0b", "x" * 300])
    def test_a_name_is_one_component(self, manager: CgroupManager, name: str) -> None:
        with pytest.raises(Invalid):
            manager.create(name)

    def test_what_does_not_exist(self, manager: CgroupManager) -> None:
        for verb in (manager.pids, manager.stats, manager.procs_fds, manager.frozen, manager.thaw):
            with pytest.raises(NotFound):
                verb("nothing")
        with pytest.raises(NotFound):
            manager.kill("nothing", 9)
        with pytest.raises(NotFound):
            manager.apply("nothing", CgroupLimits(pids_max=3))
        with pytest.raises(NotFound):
            manager.attach("nothing", os.getpid())

    def test_join_and_pids(self, manager: CgroupManager) -> None:
        manager.create("one")
        with child(lambda: manager.join("one")) as pid:
            eventually(lambda: manager.pids("one") == [pid])
            assert not manager.remove("one")
        eventually(lambda: manager.remove("one"))

    def test_join_after_losing_the_root(self, manager: CgroupManager, tmp_path: object) -> None:
        manager.create("one")

        def leave_and_join() -> None:
            os.chroot(str(tmp_path))
            os.chdir("/")
            manager.join("one")

        with child(leave_and_join) as pid:
            eventually(lambda: manager.pids("one") == [pid])

    def test_join_by_descriptors(self, manager: CgroupManager) -> None:
        manager.create("one")
        fds = manager.procs_fds("one")
        try:
            with child(lambda: join_fds(fds)) as pid:
                eventually(lambda: manager.pids("one") == [pid])
        finally:
            for fd in fds:
                os.close(fd)

    def test_clone_into(self, manager: CgroupManager) -> None:
        manager.create("one")
        fd = manager.clone_fd("one")
        if fd < 0:
            assert manager.version == 1
            return
        pid, _ = clone3(cgroup_fd=fd)
        if pid == 0:
            time.sleep(1000)
            os._exit(0)
        os.close(fd)
        assert manager.pids("one") == [pid]
        assert manager.kill("one", signal.SIGKILL, patience(5))
        assert status_of(pid) == -signal.SIGKILL

    def test_attach(self, manager: CgroupManager) -> None:
        manager.create("one")
        with child() as pid:
            manager.attach("one", pid)
            assert manager.pids("one") == [pid]
        with pytest.raises(NotFound):
            manager.attach("one", pid)

    def test_kill_all_of_a_family(self, manager: CgroupManager) -> None:
        manager.create("one")

        def family() -> None:
            manager.join("one")
            for _ in range(3):
                if clone3()[0] == 0:
                    break

        with child(family) as pid:
            eventually(lambda: len(manager.pids("one")) >= 4)
            assert manager.kill("one", signal.SIGKILL, patience(5))
            assert status_of(pid) == -signal.SIGKILL
        assert manager.pids("one") == []
        eventually(lambda: manager.remove("one"))

    def test_kill_a_fork_bomb(self, manager: CgroupManager) -> None:
        need(manager, "pids")
        manager.create("one")
        manager.apply("one", CgroupLimits(pids_max=40))

        def bomb() -> None:
            manager.join("one")
            while True:
                try:
                    clone3()
                except OSError:
                    continue

        with child(bomb) as pid:
            eventually(lambda: len(manager.pids("one")) > 20)
            assert manager.kill("one", signal.SIGKILL, patience(20))
            assert status_of(pid) == -signal.SIGKILL
        eventually(lambda: manager.remove("one"))

    def test_another_signal_reaches_all(self, manager: CgroupManager) -> None:
        manager.create("one")
        with child(lambda: manager.join("one")) as first, child(lambda: manager.join("one")) as second:
            eventually(lambda: len(manager.pids("one")) == 2)
            assert manager.kill("one", signal.SIGTERM)
            assert {status_of(first), status_of(second)} == {-signal.SIGTERM}

    def test_freeze_and_thaw(self, manager: CgroupManager) -> None:
        manager.create("one")
        reader, writer = os.pipe2(os.O_NONBLOCK)

        def ticker() -> None:
            manager.join("one")
            while True:
                with contextlib.suppress(BlockingIOError):
                    os.write(writer, b".")
                time.sleep(0.001)

        def ticks() -> bool:
            with contextlib.suppress(BlockingIOError):
                return bool(os.read(reader, 65536))
            return False

        try:
            with child(ticker):
                eventually(ticks)
                assert not manager.frozen("one")
                manager.freeze("one", patience(10))
                assert manager.frozen("one")
                ticks()
                time.sleep(0.05)
                assert not ticks()
                manager.thaw("one")
                assert not manager.frozen("one")
                eventually(ticks)
        finally:
            os.close(reader)
            os.close(writer)

    def test_kill_what_is_frozen(self, manager: CgroupManager) -> None:
        manager.create("one")
        with child(lambda: manager.join("one")) as pid:
            eventually(lambda: manager.pids("one"))
            manager.freeze("one", patience(10))
            assert manager.kill("one", signal.SIGKILL, patience(10))
            assert status_of(pid) == -signal.SIGKILL

    def test_cgroups_made_inside_count_and_go(self, manager: CgroupManager) -> None:
        manager.create("one")
        for path in manager.paths("one").values():
            os.makedirs(f"{path}/a/b")
        below = f"{next(iter(manager.paths('one').values()))}/a/b"
        if manager.version == 1:
            below = f"{manager.paths('one')['pids']}/a/b"
        with child() as pid:
            with open(f"{below}/cgroup.procs", "w") as file:
                file.write(str(pid))
            assert manager.pids("one") == [pid]
            assert not manager.remove("one")
            assert manager.kill("one", signal.SIGKILL, patience(5))
        eventually(lambda: manager.remove("one"))
        assert manager.list() == []

    def test_default_devices(self, manager: CgroupManager) -> None:
        manager.create("one")
        assert run_inside(manager, "one", lambda: os.open("/dev/null", os.O_RDWR)) == 0
        assert run_inside(manager, "one", lambda: os.open("/dev/kmsg", os.O_RDONLY)) == 1

    def test_devices_change(self, manager: CgroupManager) -> None:
        manager.create("one", ALLOW_ALL)
        assert run_inside(manager, "one", lambda: os.open("/dev/kmsg", os.O_RDONLY)) == 0
        manager.apply("one", limits_from_resources({"devices": [{"allow": False, "access": "rwm"}]}))
        assert run_inside(manager, "one", lambda: os.open("/dev/kmsg", os.O_RDONLY)) == 1
        assert run_inside(manager, "one", lambda: os.open("/dev/zero", os.O_RDONLY)) == 0
        allowed = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
        rules = limits_from_resources({"devices": [{"allow": False}, allowed]})
        manager.apply("one", rules)
        assert run_inside(manager, "one", lambda: os.open("/dev/kmsg", os.O_RDONLY)) == 0
        assert run_inside(manager, "one", lambda: os.open("/dev/kmsg", os.O_WRONLY)) == 1
        manager.apply("one", CgroupLimits(devices=(DeviceRule(True), DeviceRule(False, "c", 1, 11))))
        assert run_inside(manager, "one", lambda: os.open("/dev/kmsg", os.O_RDONLY)) == 1
        assert run_inside(manager, "one", lambda: os.open("/dev/zero", os.O_RDONLY)) == 0

    def test_memory_limit_up_and_down(self, manager: CgroupManager) -> None:
        need(manager, "memory")
        manager.create("one")
        for memory, swap in ((64, 128), (256, 512), (32, 64), (64, -1), (16, 16)):
            limits = {"limit": memory << 20, "swap": swap << 20 if swap > 0 else -1}
            manager.apply("one", limits_from_resources({"memory": limits}))
            shown = limit_file(manager, "one", ("memory", "memory.limit_in_bytes"), "memory.max")
            assert int(shown) == memory << 20
            assert manager.stats("one").memory_limit_bytes == memory << 20

    def test_swap_below_memory_is_refused(self, manager: CgroupManager) -> None:
        need(manager, "memory")
        manager.create("one")
        manager.apply("one", CgroupLimits(memory_bytes=64 << 20, memory_swap_bytes=64 << 20))
        with pytest.raises(Invalid, match="memoryswap"):
            manager.apply("one", CgroupLimits(memory_bytes=128 << 20))

    def test_a_limit_below_the_use_when_asked_to_check(self, manager: CgroupManager) -> None:
        need(manager, "memory")
        manager.create("one")
        hold = bytearray

        def grow() -> None:
            manager.join("one")
            self.held = hold(b"x" * (24 << 20))

        with child(grow):
            eventually(lambda: manager.stats("one").memory_bytes > 24 << 20)
            with pytest.raises(Conflict):
                manager.apply("one", CgroupLimits(memory_bytes=8 << 20, check_before_update=True))

    def test_the_oom_killer_is_counted(self, manager: CgroupManager) -> None:
        need(manager, "memory")
        manager.create("one")
        manager.apply("one", CgroupLimits(memory_bytes=32 << 20, memory_swap_bytes=32 << 20))
        assert manager.oom_kills("one") == 0
        assert run_inside(manager, "one", lambda: len(b"x" * (256 << 20))) == -signal.SIGKILL
        assert manager.oom_kills("one") == 1

    def test_pids_limit(self, manager: CgroupManager) -> None:
        need(manager, "pids")
        manager.create("one")
        manager.apply("one", limits_from_resources({"pids": {"limit": 1}}))

        def fork() -> None:
            if clone3()[0] == 0:
                os._exit(0)

        assert run_inside(manager, "one", fork) == 11
        assert manager.stats("one").pids_limit == 1
        manager.apply("one", limits_from_resources({"pids": {"limit": -1}}))
        assert run_inside(manager, "one", fork) == 0
        assert manager.stats("one").pids_limit == 0

    def test_cpu_bandwidth_in_every_order(self, manager: CgroupManager) -> None:
        need(manager, "cpu")
        manager.create("one")
        for quota, period in ((50_000, 100_000), (5_000, 10_000), (200_000, 1_000_000), (-1, 100_000), (20_000, None)):
            cpu = {"quota": quota, "period": period}
            manager.apply("one", limits_from_resources({"cpu": {k: v for k, v in cpu.items() if v is not None}}))
            shown = limit_file(manager, "one", ("cpu", "cpu.cfs_quota_us"), "cpu.max").split()[0]
            assert shown in (str(quota), "max" if quota == -1 else "")
        busy = "import time; end = time.monotonic() + 0.5\nwhile time.monotonic() < end: pass"
        assert run_inside(manager, "one", lambda: exec(busy)) == 0
        stats = manager.stats("one")
        assert stats.cpu_periods > 0
        assert stats.cpu_throttled_periods > 0

    def test_cpu_shares(self, manager: CgroupManager) -> None:
        need(manager, "cpu")
        manager.create("one")
        for shares, weight in ((1024, "100"), (2, "1"), (262144, "10000")):
            manager.apply("one", limits_from_resources({"cpu": {"shares": shares}}))
            shown = limit_file(manager, "one", ("cpu", "cpu.shares"), "cpu.weight")
            assert shown == (weight if manager.version == 2 else str(shares))

    def test_cpuset(self, manager: CgroupManager) -> None:
        need(manager, "cpuset")
        manager.create("one")
        manager.apply("one", limits_from_resources({"cpu": {"cpus": "0", "mems": "0"}}))
        code = run_inside(manager, "one", lambda: os.sched_getaffinity(0) == {0} or os._exit(77))
        assert code == 0
        with pytest.raises(Invalid, match="not available"):
            manager.apply("one", limits_from_resources({"cpu": {"cpus": "4000"}}))
        with pytest.raises(Invalid, match="not available"):
            manager.apply("one", limits_from_resources({"cpu": {"mems": "63"}}))

    def test_block_io_of_a_device_that_is_not(self, manager: CgroupManager) -> None:
        need(manager, "io" if manager.version == 2 else "blkio")
        manager.create("one")
        throttle = {"throttleReadBpsDevice": [{"major": 4095, "minor": 77, "rate": 1 << 20}]}
        with pytest.raises(Invalid):
            manager.apply("one", limits_from_resources({"blockIO": throttle}))

    def test_stats_of_an_idle_cgroup(self, manager: CgroupManager) -> None:
        manager.create("one")
        before = time.time_ns()
        stats = manager.stats("one")
        assert stats.read_at_ns >= before
        assert (stats.memory_limit_bytes, stats.pids_limit, stats.oom_kills, stats.pids) == (0, 0, 0, 0)

    def test_cpu_time_is_counted(self, manager: CgroupManager) -> None:
        need(manager, "cpu")
        manager.create("one")
        assert run_inside(manager, "one", lambda: sum(range(1_000_000))) == 0
        assert manager.stats("one").cpu_total_ns > 0

    def test_another_manager_finds_them(self, manager: CgroupManager, reopen: object) -> None:
        manager.create("one")
        manager.apply("one", CgroupLimits(pids_max=7) if "pids" in manager.controllers else CgroupLimits())
        assert callable(reopen)
        other: CgroupManager = reopen()
        try:
            assert other.list() == ["one"]
            if "pids" in other.controllers:
                other.apply("one", CgroupLimits(pids_max=9))
                assert other.stats("one").pids_limit == 9
            other.apply("one", CgroupLimits(devices=ALLOW_ALL))
            assert run_inside(other, "one", lambda: os.open("/dev/kmsg", os.O_RDONLY)) == 0
        finally:
            other.close()

    def test_what_is_not_here_is_refused(self, manager: CgroupManager) -> None:
        manager.create("one")
        with pytest.raises((Unsupported, Denied)):
            manager.apply("one", CgroupLimits(net_class_id=5))
        with pytest.raises((Unsupported, Denied)):
            manager.apply("one", CgroupLimits(unified=(("nothing.at.all", "1"),)))

    def test_warm_leaves_nothing(self, manager: CgroupManager) -> None:
        manager.warm()
        assert manager.list() == []

    def test_close_subtree_leaves_what_runs(self, manager: CgroupManager, reopen: object) -> None:
        assert callable(reopen)
        other: CgroupManager = reopen()
        manager.create("idle")
        manager.create("busy")
        with child(lambda: manager.join("busy")):
            eventually(lambda: manager.pids("busy"))
            assert not other.close_subtree()
            assert manager.list() == ["busy"]
