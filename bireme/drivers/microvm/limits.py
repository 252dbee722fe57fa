"""Limits of a machine: what the guest gets, and what its processes on the host may use.

--memory     the guest's RAM; the cgroup may use OVERHEAD_BYTES more, and no swap beyond that
--cpus       as many vCPUs as are needed for it, and the cgroup's quota as for a container
shares, cpusets, block I/O weight and throttles     the cgroup's, as for a container
--pids-limit and the finer words about memory       refused: they would speak of the host's processes, not the guest's
"""

from __future__ import annotations

from typing import Any

from bireme.drivers.supervised.limits import for_update, from_limits
from bireme.errors import Invalid, Unsupported
from bireme.instance.spec import Limits
from bireme.oci.runtime_spec import Resources
from bireme.vmm.plan import DEFAULT_MEMORY_BYTES, HOST_PIDS, MAX_VCPUS, MIN_MEMORY_BYTES, OVERHEAD_BYTES

DEFAULT_PERIOD_US = 100_000
_PAGE = 4096
_INSIDE = "limit it inside the machine, or with --memory"
_REFUSED = (
    ("memory_reservation_bytes", "--memory-reservation", _INSIDE),
    ("memory_swap_bytes", "--memory-swap", "a machine swaps to a disk of its own, if at all"),
    ("oom_kill_disable", "--oom-kill-disable", _INSIDE),
    ("pids", "--pids-limit", "use --ulimit nproc"),
)


def check_limits(limits: Limits) -> None:
    """Unsupported for what means nothing here, Invalid for what is too little or too much."""
    for field, option, hint in _REFUSED:
        if getattr(limits, field):
            raise Unsupported(f"{option} is not supported with isolation microvm", subject=option, hint=hint)
    if limits.memory_swappiness not in (None, -1):
        raise Unsupported("--memory-swappiness is not supported with isolation microvm", hint=_INSIDE)
    if 0 < limits.memory_bytes < MIN_MEMORY_BYTES:
        raise Invalid(f"Minimum memory limit allowed for a microvm is {MIN_MEMORY_BYTES >> 20}MB", subject="memory")
    if vcpus_of(limits) > MAX_VCPUS:
        raise Invalid(f"a microvm has at most {MAX_VCPUS} vCPUs, {vcpus_of(limits)} are needed", subject="cpus")


def memory_of(limits: Limits) -> int:
    """Bytes of RAM, whole pages."""
    return -(-(limits.memory_bytes or DEFAULT_MEMORY_BYTES) // _PAGE) * _PAGE


def vcpus_of(limits: Limits) -> int:
    """As many as the quota can keep busy; one without a quota."""
    if limits.cpu_quota_us <= 0:
        return 1
    return -(-limits.cpu_quota_us // (limits.cpu_period_us or DEFAULT_PERIOD_US))


def resources(limits: Limits) -> Resources:
    """OCI linux.resources for the slot's cgroup."""
    return _bounded(dict(from_limits(limits)), limits)


def resources_for_update(limits: Limits) -> Resources:
    """The same for a machine that runs."""
    return _bounded(dict(for_update(limits)), limits)


def _bounded(made: dict[str, Any], limits: Limits) -> Resources:
    total = memory_of(limits) + OVERHEAD_BYTES
    made["memory"] = {"limit": total, "swap": total}
    made["pids"] = {"limit": HOST_PIDS + vcpus_of(limits)}
    return made  # type: ignore[return-value]
