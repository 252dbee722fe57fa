"""Which v1 files a change of limits writes, in an order the kernel accepts. Pure.

Order matters where one value bounds another: memory may never exceed memory+swap, so raising writes memory.memsw first
and lowering writes it last; a CFS quota is checked against the period in force, a burst against the quota. For cpu the
usual order is tried and, when the kernel refuses, the reverse (`Step.retry`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bireme.linux.cgroup.contract import NO_LIMITS, CgroupLimits
from bireme.linux.cgroup.plan import Step, Write, changed, format_rdma

if TYPE_CHECKING:
    from collections.abc import Callable


_SIMPLE: tuple[tuple[str, str, str, str], ...] = (
    ("memory_reservation_bytes", "memory", "memory.soft_limit_in_bytes", ""),
    ("memory_swappiness", "memory", "memory.swappiness", ""),
    ("cpu_shares", "cpu", "cpu.shares", ""),
    ("cpuset_cpus", "cpuset", "cpuset.cpus", ""),
    ("cpuset_mems", "cpuset", "cpuset.mems", ""),
    ("blkio_weight", "blkio", "blkio.weight", "blkio.bfq.weight"),
    ("net_class_id", "net_cls", "net_cls.classid", ""),
)

_THROTTLE_FILES = {
    "read_bps": "blkio.throttle.read_bps_device",
    "write_bps": "blkio.throttle.write_bps_device",
    "read_iops": "blkio.throttle.read_iops_device",
    "write_iops": "blkio.throttle.write_iops_device",
}


def plan_limits(
    new: CgroupLimits, old: CgroupLimits | None, current_memsw: Callable[[], int] | None = None
) -> list[Step]:
    """Steps from `old` (None: nothing is known of the cgroup) to `new`. `current_memsw` reads the memory+swap limit in
    force (-1 unlimited); it is asked only when the order depends on it and `old` does not know."""
    before = old or NO_LIMITS
    steps: list[Step] = []
    memory = _plan_memory(new, old, current_memsw)
    if memory:
        steps.append(Step(tuple(memory)))
    cpu = _plan_cpu(new, before)
    if cpu:
        steps.append(Step(tuple(cpu), retry=True))
    singles = [
        Write(controller, file, str(getattr(new, field)), (other, str(getattr(new, field))) if other else None)
        for field, controller, file, other in _SIMPLE
        if changed(new, before, field)
    ]
    if changed(new, before, "oom_kill_disable") and (new.oom_kill_disable or before.oom_kill_disable or old is None):
        singles.append(Write("memory", "memory.oom_control", "1" if new.oom_kill_disable else "0"))
    if new.cpu_idle is not None and new.cpu_idle != (before.cpu_idle or 0):
        singles.append(Write("cpu", "cpu.idle", str(new.cpu_idle)))
    if changed(new, before, "pids_max"):
        singles.append(Write("pids", "pids.max", "max" if new.pids_max == -1 else str(new.pids_max)))
    singles.extend(_plan_block(new, before))
    singles.extend(_plan_rest(new, before))
    steps.extend(Step((write,)) for write in singles)
    return steps


def _plan_memory(new: CgroupLimits, old: CgroupLimits | None, current_memsw: Callable[[], int] | None) -> list[Write]:
    before = old or NO_LIMITS
    memory = memsw = None
    if changed(new, before, "memory_bytes"):
        memory = Write("memory", "memory.limit_in_bytes", str(new.memory_bytes))
    if changed(new, before, "memory_swap_bytes"):
        swap = new.memory_swap_bytes
        memsw = Write("memory", "memory.memsw.limit_in_bytes", str(swap), optional=swap == -1)
    if memory is None or memsw is None:
        return [write for write in (memory, memsw) if write is not None]
    current = -1
    if before.memory_swap_bytes is not None:
        current = before.memory_swap_bytes
    elif old is None and current_memsw is not None:
        current = current_memsw()
    swap = new.memory_swap_bytes
    raising = swap == -1 or (current != -1 and swap is not None and swap > current)
    return [memsw, memory] if raising else [memory, memsw]


def _plan_cpu(new: CgroupLimits, before: CgroupLimits) -> list[Write]:
    fields = (
        ("cpu_period_us", "cpu.cfs_period_us"),
        ("cpu_quota_us", "cpu.cfs_quota_us"),
        ("cpu_burst_us", "cpu.cfs_burst_us"),
        ("cpu_rt_period_us", "cpu.rt_period_us"),
        ("cpu_rt_runtime_us", "cpu.rt_runtime_us"),
    )
    writes = [Write("cpu", file, str(getattr(new, field))) for field, file in fields if changed(new, before, field)]
    return [
        write
        for write in writes
        if not (write.file == "cpu.cfs_burst_us" and write.value == "0" and not before.cpu_burst_us)
    ]


def _plan_block(new: CgroupLimits, before: CgroupLimits) -> list[Write]:
    writes = [
        Write("blkio", "blkio.weight_device", line, ("blkio.bfq.weight_device", line))
        for line in (
            f"{d.major}:{d.minor} {d.weight}" for d in new.blkio_weight_devices if d not in before.blkio_weight_devices
        )
    ]
    writes.extend(
        Write("blkio", _THROTTLE_FILES[t.what], f"{t.major}:{t.minor} {t.rate}")
        for t in new.blkio_throttle
        if t not in before.blkio_throttle
    )
    return writes


def _plan_rest(new: CgroupLimits, before: CgroupLimits) -> list[Write]:
    writes = [
        Write("hugetlb", f"hugetlb.{size}.limit_in_bytes", str(limit))
        for size, limit in new.hugepages
        if (size, limit) not in before.hugepages
    ]
    writes.extend(
        Write("net_prio", "net_prio.ifpriomap", f"{name} {priority}")
        for name, priority in new.net_priorities
        if (name, priority) not in before.net_priorities
    )
    writes.extend(Write("rdma", "rdma.max", format_rdma(entry)) for entry in new.rdma if entry not in before.rdma)
    return writes
