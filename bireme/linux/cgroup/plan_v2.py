"""Which v2 files a change of limits writes (admin-guide/cgroup-v2.rst). Pure, but for `read` of the cgroup's own files.

OCI speaks v1: shares become weights, memory+swap becomes swap alone, quota and period share a line. What v2 has no
word for (swappiness, disabling the OOM killer, real-time budgets, net classes) is Unsupported, not dropped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bireme.errors import Invalid, Unsupported
from bireme.linux.cgroup.contract import NO_LIMITS, UNLIMITED, CgroupLimits
from bireme.linux.cgroup.plan import Step, Write, changed, format_rdma, merge

if TYPE_CHECKING:
    from collections.abc import Callable

_DEFAULT_PERIOD_US = 100_000

_IO_MAX_KEYS = {"read_bps": "rbps", "write_bps": "wbps", "read_iops": "riops", "write_iops": "wiops"}


def plan_limits(new: CgroupLimits, old: CgroupLimits | None, read: Callable[[str], str]) -> list[Step]:
    """Steps from `old` (None: nothing is known of the cgroup) to `new`; `read` gives the text of a file now."""
    _refuse(new)
    before = old or NO_LIMITS
    after = merge(before, new)
    writes = _plan_memory(new, before, after, read)
    writes.extend(_plan_cpu(new, before, after, read))
    for field, file in (("cpuset_cpus", "cpuset.cpus"), ("cpuset_mems", "cpuset.mems")):
        if changed(new, before, field):
            writes.append(Write("cpuset", file, str(getattr(new, field))))
    if changed(new, before, "pids_max"):
        writes.append(Write("pids", "pids.max", format_limit(new.pids_max)))
    writes.extend(_plan_io(new, before))
    writes.extend(_plan_rest(new, before))
    return [Step((write,)) for write in writes]


def _refuse(new: CgroupLimits) -> None:
    asked = (
        (new.memory_swappiness is not None, "memory swappiness"),
        (bool(new.oom_kill_disable), "disabling the OOM killer"),
        (new.cpu_rt_runtime_us is not None or new.cpu_rt_period_us is not None, "a real-time CPU budget"),
        (new.net_class_id is not None or bool(new.net_priorities), "a network class or priority"),
    )
    for present, what in asked:
        if present:
            raise Unsupported(f"{what} is not available with cgroup v2", place="linux.resources")


def format_limit(value: int | None) -> str:
    return "max" if value is None or value == UNLIMITED else str(value)


def weight_from_shares(shares: int) -> int:
    """cpu.weight (1 to 10000) for cpu.shares (2 to 262144): a curve through (2, 1), (1024, 100) and (262144, 10000),
    so that the default of one is the default of the other."""
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def weight_from_blkio(weight: int) -> int:
    """io.weight (1 to 10000) for a blkio weight (10 to 1000), linear."""
    return 1 + (weight - 10) * 9999 // 990


def _plan_memory(
    new: CgroupLimits, before: CgroupLimits, after: CgroupLimits, read: Callable[[str], str]
) -> list[Write]:
    writes = []
    if changed(new, before, "memory_bytes"):
        writes.append(Write("memory", "memory.max", format_limit(new.memory_bytes)))
    total = after.memory_swap_bytes
    if total is not None and (changed(new, before, "memory_swap_bytes") or writes):
        swap = _swap_limit(total, after.memory_bytes, read)
        writes.append(Write("memory", "memory.swap.max", format_limit(swap), optional=swap == UNLIMITED))
        if before.memory_bytes is not None and len(writes) == 2 and _shrinks(before.memory_bytes, new.memory_bytes):
            writes.reverse()
    if changed(new, before, "memory_reservation_bytes"):
        reservation = new.memory_reservation_bytes
        writes.append(Write("memory", "memory.low", "0" if reservation == UNLIMITED else str(reservation)))
    return writes


def _shrinks(old: int, new: int | None) -> bool:
    """Room in swap is made before memory is taken away."""
    return new is not None and new != UNLIMITED and (old == UNLIMITED or new < old)


def _swap_limit(total: int, memory: int | None, read: Callable[[str], str]) -> int:
    if total == UNLIMITED:
        return UNLIMITED
    if memory is None:
        text = read("memory.max").strip()
        memory = int(text) if text.isdigit() else UNLIMITED
    if memory == UNLIMITED:
        raise Invalid("unable to set swap limit without memory limit", place="linux.resources.memory.swap")
    if total < memory:
        raise Invalid(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
            place="linux.resources.memory",
        )
    return total - memory


def _plan_cpu(new: CgroupLimits, before: CgroupLimits, after: CgroupLimits, read: Callable[[str], str]) -> list[Write]:
    writes = []
    if new.cpu_idle is not None and new.cpu_idle != (before.cpu_idle or 0):
        writes.append(Write("cpu", "cpu.idle", str(new.cpu_idle)))
    if changed(new, before, "cpu_shares") and not after.cpu_idle:
        writes.append(Write("cpu", "cpu.weight", str(weight_from_shares(new.cpu_shares or 0))))
    if changed(new, before, "cpu_quota_us") or changed(new, before, "cpu_period_us"):
        quota, period = _bandwidth(after, read)
        writes.append(Write("cpu", "cpu.max", f"{quota} {period}"))
    if new.cpu_burst_us is not None and new.cpu_burst_us != (before.cpu_burst_us or 0):
        burst = Write("cpu", "cpu.max.burst", str(new.cpu_burst_us))
        writes.insert(0 if new.cpu_burst_us == 0 else len(writes), burst)
    return writes


def _bandwidth(after: CgroupLimits, read: Callable[[str], str]) -> tuple[str, str]:
    if after.cpu_quota_us is not None and after.cpu_period_us is not None:
        return format_limit(after.cpu_quota_us), str(after.cpu_period_us)
    now = [*read("cpu.max").split(), "max", str(_DEFAULT_PERIOD_US)][:2]
    quota = now[0] if after.cpu_quota_us is None else format_limit(after.cpu_quota_us)
    period = now[1] if after.cpu_period_us is None else str(after.cpu_period_us)
    return quota, period


def _plan_io(new: CgroupLimits, before: CgroupLimits) -> list[Write]:
    writes = []
    if changed(new, before, "blkio_weight"):
        weight = new.blkio_weight or 0
        writes.append(Write("io", "io.bfq.weight", str(weight), ("io.weight", str(weight_from_blkio(weight)))))
    for device in new.blkio_weight_devices:
        if device not in before.blkio_weight_devices:
            number = f"{device.major}:{device.minor}"
            other = ("io.weight", f"{number} {weight_from_blkio(device.weight)}")
            writes.append(Write("io", "io.bfq.weight", f"{number} {device.weight}", other))
    for limit in new.blkio_throttle:
        if limit not in before.blkio_throttle:
            value = f"{limit.major}:{limit.minor} {_IO_MAX_KEYS[limit.what]}={limit.rate or 'max'}"
            writes.append(Write("io", "io.max", value))
    return writes


def _plan_rest(new: CgroupLimits, before: CgroupLimits) -> list[Write]:
    writes = [
        Write("hugetlb", f"hugetlb.{size}.max", str(limit))
        for size, limit in new.hugepages
        if (size, limit) not in before.hugepages
    ]
    writes.extend(Write("rdma", "rdma.max", format_rdma(entry)) for entry in new.rdma if entry not in before.rdma)
    writes.extend(
        Write(file.partition(".")[0], file, value) for file, value in new.unified if (file, value) not in before.unified
    )
    return writes
