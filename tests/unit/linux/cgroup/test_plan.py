"""What is written for a change of limits, in which order, on v1 and on v2."""

from __future__ import annotations

import pytest

from bireme.errors import Invalid, Unsupported
from bireme.linux.cgroup import NO_LIMITS, CgroupLimits, plan_v1, plan_v2
from bireme.linux.cgroup.contract import DeviceWeight, Throttle
from bireme.linux.cgroup.plan import Step, format_rdma, merge

MIB = 1 << 20


def flat(steps: list[Step]) -> list[tuple[str, str]]:
    return [(write.file, write.value) for step in steps for write in step.writes]


def v1(new: CgroupLimits, old: CgroupLimits | None = NO_LIMITS, memsw: int = -1) -> list[tuple[str, str]]:
    return flat(plan_v1.plan_limits(new, old, lambda: memsw))


def v2(new: CgroupLimits, old: CgroupLimits | None = NO_LIMITS, **files: str) -> list[tuple[str, str]]:
    return flat(plan_v2.plan_limits(new, old, lambda name: files.get(name.replace(".", "_"), "")))


LIMIT, MEMSW = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"


@pytest.mark.parametrize(
    ("old", "new", "order"),
    [
        ((None, None), (64, 128), [LIMIT, MEMSW]),
        ((64, 128), (256, 512), [MEMSW, LIMIT]),
        ((256, 512), (64, 128), [LIMIT, MEMSW]),
        ((64, 128), (64, 512), [MEMSW]),
        ((64, 128), (128, 128), [LIMIT]),
        ((64, 128), (256, -1), [MEMSW, LIMIT]),
        ((64, -1), (32, 64), [LIMIT, MEMSW]),
        ((64, 128), (64, 128), []),
    ],
)
def test_memory_never_exceeds_memory_and_swap(
    old: tuple[int | None, int | None], new: tuple[int, int], order: list[str]
) -> None:
    limits = [CgroupLimits(memory_bytes=memory, memory_swap_bytes=swap) for memory, swap in (old, new)]
    assert [file for file, _ in v1(limits[1], limits[0])] == order


def test_an_adopted_cgroup_is_asked_for_its_limit() -> None:
    new = CgroupLimits(memory_bytes=256, memory_swap_bytes=512)
    assert [f for f, _ in v1(new, None, memsw=128)] == [MEMSW, LIMIT]
    assert [f for f, _ in v1(new, None, memsw=1024)] == [LIMIT, MEMSW]
    assert [f for f, _ in v1(new, None, memsw=-1)] == [LIMIT, MEMSW]


def test_v1_files() -> None:
    limits = CgroupLimits(
        memory_reservation_bytes=MIB,
        memory_swappiness=10,
        oom_kill_disable=True,
        cpu_shares=512,
        cpu_period_us=100_000,
        cpu_quota_us=50_000,
        cpu_idle=1,
        cpuset_cpus="0-1",
        cpuset_mems="0",
        pids_max=-1,
        blkio_weight=300,
        blkio_weight_devices=(DeviceWeight(8, 0, 20),),
        blkio_throttle=(Throttle("read_bps", 8, 0, 5), Throttle("write_iops", 8, 0, 6)),
        hugepages=(("2MB", MIB),),
        net_class_id=3,
        net_priorities=(("lo", 1),),
        rdma=(("mlx", None, 5),),
    )
    assert dict(v1(limits)) == {
        "memory.soft_limit_in_bytes": str(MIB),
        "memory.swappiness": "10",
        "memory.oom_control": "1",
        "cpu.shares": "512",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "50000",
        "cpu.idle": "1",
        "cpuset.cpus": "0-1",
        "cpuset.mems": "0",
        "pids.max": "max",
        "blkio.weight": "300",
        "blkio.weight_device": "8:0 20",
        "blkio.throttle.read_bps_device": "8:0 5",
        "blkio.throttle.write_iops_device": "8:0 6",
        "hugetlb.2MB.limit_in_bytes": str(MIB),
        "net_cls.classid": "3",
        "net_prio.ifpriomap": "lo 1",
        "rdma.max": "mlx hca_object=5",
    }
    assert v1(limits, merge(NO_LIMITS, limits)) == []
    weight = next(w for s in plan_v1.plan_limits(limits, None) for w in s.writes if w.file == "blkio.weight")
    assert weight.alternative == ("blkio.bfq.weight", "300")


def test_defaults_nobody_changed_are_not_written() -> None:
    assert v1(CgroupLimits(oom_kill_disable=False, cpu_idle=0, cpu_burst_us=0)) == []
    assert v1(CgroupLimits(oom_kill_disable=False), CgroupLimits(oom_kill_disable=True)) == [
        ("memory.oom_control", "0")
    ]
    assert v1(CgroupLimits(memory_swap_bytes=-1))[0] == (MEMSW, "-1")
    write = plan_v1.plan_limits(CgroupLimits(memory_swap_bytes=-1), NO_LIMITS)[0].writes[0]
    assert write.optional


def test_v2_files() -> None:
    limits = CgroupLimits(
        memory_bytes=64 * MIB,
        memory_swap_bytes=96 * MIB,
        memory_reservation_bytes=MIB,
        cpu_shares=1024,
        cpu_period_us=100_000,
        cpu_quota_us=50_000,
        cpu_burst_us=1000,
        cpuset_cpus="0-1",
        cpuset_mems="0",
        pids_max=40,
        blkio_weight=500,
        blkio_weight_devices=(DeviceWeight(8, 0, 1000),),
        blkio_throttle=(Throttle("read_bps", 8, 0, 5), Throttle("write_iops", 8, 0, 0)),
        hugepages=(("2MB", MIB),),
        rdma=(("mlx", 1, 5),),
        unified=(("memory.high", "1000"),),
    )
    assert v2(limits) == [
        ("memory.max", str(64 * MIB)),
        ("memory.swap.max", str(32 * MIB)),
        ("memory.low", str(MIB)),
        ("cpu.weight", "100"),
        ("cpu.max", "50000 100000"),
        ("cpu.max.burst", "1000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "40"),
        ("io.bfq.weight", "500"),
        ("io.bfq.weight", "8:0 1000"),
        ("io.max", "8:0 rbps=5"),
        ("io.max", "8:0 wiops=max"),
        ("hugetlb.2MB.max", str(MIB)),
        ("rdma.max", "mlx hca_handle=1 hca_object=5"),
        ("memory.high", "1000"),
    ]
    assert v2(limits, merge(NO_LIMITS, limits)) == []


def test_swap_on_v2_is_what_is_left_above_memory() -> None:
    old = CgroupLimits(memory_bytes=64, memory_swap_bytes=128)
    assert v2(CgroupLimits(memory_bytes=100), old) == [("memory.max", "100"), ("memory.swap.max", "28")]
    assert v2(CgroupLimits(memory_bytes=32), old) == [("memory.swap.max", "96"), ("memory.max", "32")]
    assert v2(CgroupLimits(memory_swap_bytes=-1), old) == [("memory.swap.max", "max")]
    assert v2(CgroupLimits(memory_bytes=-1, memory_swap_bytes=-1), old) == [
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
    ]
    assert v2(CgroupLimits(memory_swap_bytes=96), None, memory_max="64\n") == [("memory.swap.max", "32")]
    with pytest.raises(Invalid, match="memoryswap"):
        v2(CgroupLimits(memory_bytes=200), old)
    for now in ("max\n", ""):
        with pytest.raises(Invalid, match="without memory limit"):
            v2(CgroupLimits(memory_swap_bytes=96), None, memory_max=now)


def test_half_of_cpu_max_keeps_the_other_half() -> None:
    assert v2(CgroupLimits(cpu_quota_us=5000)) == [("cpu.max", "5000 100000")]
    assert v2(CgroupLimits(cpu_quota_us=-1), None, cpu_max="700 50000\n") == [("cpu.max", "max 50000")]
    assert v2(CgroupLimits(cpu_period_us=20000), None, cpu_max="700 50000\n") == [("cpu.max", "700 20000")]
    assert v2(CgroupLimits(cpu_period_us=20000), CgroupLimits(cpu_quota_us=900)) == [("cpu.max", "900 20000")]


@pytest.mark.parametrize(
    ("shares", "weight"), [(2, 1), (4, 2), (512, 59), (1024, 100), (2048, 174), (100_000, 4340), (262_144, 10_000)]
)
def test_weights_from_shares(shares: int, weight: int) -> None:
    assert plan_v2.weight_from_shares(shares) == weight


def test_weights_rise_with_shares() -> None:
    weights = [plan_v2.weight_from_shares(n) for n in range(2, 4000)]
    assert weights == sorted(weights)
    assert (plan_v2.weight_from_blkio(10), plan_v2.weight_from_blkio(1000)) == (1, 10000)


@pytest.mark.parametrize(
    "limits",
    [
        CgroupLimits(memory_swappiness=0),
        CgroupLimits(oom_kill_disable=True),
        CgroupLimits(cpu_rt_runtime_us=1),
        CgroupLimits(net_class_id=1),
        CgroupLimits(net_priorities=(("lo", 1),)),
    ],
)
def test_what_v2_has_no_word_for(limits: CgroupLimits) -> None:
    with pytest.raises(Unsupported):
        v2(limits)


def test_merging_keeps_one_entry_per_device() -> None:
    old = CgroupLimits(blkio_throttle=(Throttle("read_bps", 8, 0, 5), Throttle("read_bps", 8, 16, 6)), pids_max=4)
    new = CgroupLimits(blkio_throttle=(Throttle("read_bps", 8, 0, 9),), memory_bytes=1, check_before_update=True)
    after = merge(old, new)
    assert set(after.blkio_throttle) == {Throttle("read_bps", 8, 0, 9), Throttle("read_bps", 8, 16, 6)}
    assert (after.pids_max, after.memory_bytes, after.check_before_update) == (4, 1, False)


def test_rdma_lines() -> None:
    assert format_rdma(("mlx4_0", 2, 2000)) == "mlx4_0 hca_handle=2 hca_object=2000"
    assert format_rdma(("mlx4_0", 2, None)) == "mlx4_0 hca_handle=2"
