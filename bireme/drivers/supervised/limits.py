"""Limits as OCI linux.resources, with Docker's arithmetic. Looks at block devices by path, nothing else."""

from __future__ import annotations

import os
import stat
from typing import Any

from bireme.errors import Invalid
from bireme.instance.spec import Limits
from bireme.oci.runtime_spec import Resources

_THROTTLES = (
    ("blkio_read_bps", "throttleReadBpsDevice"),
    ("blkio_write_bps", "throttleWriteBpsDevice"),
    ("blkio_read_iops", "throttleReadIOPSDevice"),
    ("blkio_write_iops", "throttleWriteIOPSDevice"),
)


def from_limits(limits: Limits) -> Resources:
    """What cgroups are told; an empty mapping when nothing is limited."""
    made: dict[str, Any] = {"memory": _memory(limits), "cpu": _cpu(limits), "blockIO": _block(limits)}
    if limits.pids:
        made["pids"] = {"limit": limits.pids}
    return {k: v for k, v in made.items() if v}  # type: ignore[return-value]


def for_update(limits: Limits) -> Resources:
    """Limits for an instance that may have had others: what is not limited any more is said so."""
    made: dict[str, Any] = dict(from_limits(limits))
    made["pids"] = {"limit": limits.pids or -1}
    made["memory"] = {"limit": -1, "swap": -1, **made.get("memory", {})}
    made["cpu"] = {"shares": 1024, "quota": -1, **made.get("cpu", {})}
    return made  # type: ignore[return-value]


def _memory(limits: Limits) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if limits.memory_bytes:
        found["limit"] = limits.memory_bytes
        found["swap"] = limits.memory_swap_bytes or 2 * limits.memory_bytes
    if limits.memory_reservation_bytes:
        found["reservation"] = limits.memory_reservation_bytes
    if limits.memory_swappiness is not None and limits.memory_swappiness >= 0:
        found["swappiness"] = limits.memory_swappiness
    if limits.oom_kill_disable:
        found["disableOOMKiller"] = True
    return found


def _cpu(limits: Limits) -> dict[str, Any]:
    found = {
        "shares": limits.cpu_shares,
        "period": limits.cpu_period_us,
        "quota": limits.cpu_quota_us,
        "cpus": limits.cpuset_cpus,
        "mems": limits.cpuset_mems,
    }
    return {k: v for k, v in found.items() if v}


def _block(limits: Limits) -> dict[str, Any]:
    found: dict[str, Any] = {"weight": limits.blkio_weight} if limits.blkio_weight else {}
    if limits.blkio_weight_devices:
        found["weightDevice"] = [{**_numbers(path), "weight": weight} for path, weight in limits.blkio_weight_devices]
    for ours, theirs in _THROTTLES:
        rows = [{**_numbers(path), "rate": rate} for path, rate in getattr(limits, ours)]
        if rows:
            found[theirs] = rows
    return found


def _numbers(path: str) -> dict[str, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise Invalid(f"cannot limit {path}: {error.strerror}", subject=path) from error
    if not stat.S_ISBLK(status.st_mode):
        raise Invalid(f"cannot limit {path}: not a block device", subject=path)
    return {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
