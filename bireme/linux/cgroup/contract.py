"""What a cgroup manager is: the words, the limits and the Protocol that v1 and v2 implement.

A manager owns one subtree (`bireme-<tag>`) and keeps a flat set of named cgroups in it. On v1 one name is a directory
in every mounted hierarchy, on v2 a single directory. Everything after `open_cgroups` works through directory
descriptors opened then, so a forked child can still join after it has changed its root, and without an import.

Limits say what to change: `None` (or an empty tuple) leaves the kernel's value alone, and a value that was applied
before is not written again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bireme.linux.cgroup.stats import CgroupStats

UNLIMITED = -1


class DeviceRule(NamedTuple):
    """One device rule as in OCI `linux.resources.devices`, applied in order; -1 stands for any number.

    `kind` is "a" (every device), "b" or "c"; `access` a subset of "rwm".
    """

    allow: bool
    kind: str = "a"
    major: int = -1
    minor: int = -1
    access: str = "rwm"


class Throttle(NamedTuple):
    """A rate limit of one block device: `what` is "read_bps", "write_bps", "read_iops" or "write_iops"."""

    what: str
    major: int
    minor: int
    rate: int


class DeviceWeight(NamedTuple):
    """The blkio weight (10 to 1000) of one block device."""

    major: int
    minor: int
    weight: int


class CgroupLimits(NamedTuple):
    """OCI `linux.resources`, checked and flat. Sizes are bytes, times microseconds, -1 means unlimited."""

    memory_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    memory_swap_bytes: int | None = None
    """Memory plus swap, on v2 too (the spec's meaning)."""
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    check_before_update: bool = False
    cpu_shares: int | None = None
    cpu_quota_us: int | None = None
    cpu_period_us: int | None = None
    cpu_burst_us: int | None = None
    cpu_idle: int | None = None
    cpu_rt_runtime_us: int | None = None
    cpu_rt_period_us: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids_max: int | None = None
    blkio_weight: int | None = None
    blkio_weight_devices: tuple[DeviceWeight, ...] = ()
    blkio_throttle: tuple[Throttle, ...] = ()
    hugepages: tuple[tuple[str, int], ...] = ()
    """("2MB", bytes) pairs."""
    net_class_id: int | None = None
    net_priorities: tuple[tuple[str, int], ...] = ()
    rdma: tuple[tuple[str, int | None, int | None], ...] = ()
    """(device, handles, objects)."""
    unified: tuple[tuple[str, str], ...] = ()
    """Raw v2 files and what to write to them."""
    devices: tuple[DeviceRule, ...] | None = None


NO_LIMITS = CgroupLimits()

DEFAULT_ALLOWED: tuple[DeviceRule, ...] = (
    DeviceRule(True, "c", -1, -1, "m"),
    DeviceRule(True, "b", -1, -1, "m"),
    DeviceRule(True, "c", 1, 3),
    DeviceRule(True, "c", 1, 5),
    DeviceRule(True, "c", 1, 7),
    DeviceRule(True, "c", 1, 8),
    DeviceRule(True, "c", 1, 9),
    DeviceRule(True, "c", 5, 0),
    DeviceRule(True, "c", 5, 1),
    DeviceRule(True, "c", 5, 2),
    DeviceRule(True, "c", 136, -1),
    DeviceRule(True, "c", 10, 200),
)
"""null, zero, full, random, urandom, tty, console, ptmx, ptys and tun; mknod of anything (nothing can be opened)."""

DEFAULT_RULES: tuple[DeviceRule, ...] = (DeviceRule(False), *DEFAULT_ALLOWED)
ALLOW_ALL: tuple[DeviceRule, ...] = (DeviceRule(True),)


class CgroupManager(Protocol):
    """One subtree of cgroups. Not thread-safe; a forked child may use `join` alone.

    Errors: NotFound for a name that does not exist, Conflict for one that does already, Invalid for values the kernel
    refuses, Unsupported when a controller or file is missing and was asked for, Denied without the rights.
    """

    @property
    def version(self) -> int:
        """1 or 2 (cgroups(7))."""
        ...

    @property
    def controllers(self) -> frozenset[str]:
        """The controllers limits can use, by their v1 names ("cpu", "memory", "blkio" or "io", ...)."""
        ...

    def create(self, name: str, devices: Sequence[DeviceRule] = DEFAULT_RULES) -> None:
        """Make the cgroup with its device rules; all or nothing."""
        ...

    def apply(self, name: str, limits: CgroupLimits) -> None:
        """Write what differs from what this manager applied before. Stops at the first refusal."""
        ...

    def join(self, name: str) -> None:
        """Move the calling process in. Safe in a forked child: no imports, no paths from the root."""
        ...

    def attach(self, name: str, pid: int) -> None:
        """Move another process in; NotFound when it is gone."""
        ...

    def procs_fds(self, name: str) -> list[int]:
        """Open cgroup.procs files for `join_fds` in a process that is not our child; the caller closes them."""
        ...

    def clone_fd(self, name: str) -> int:
        """A new descriptor of the directory for clone3(CLONE_INTO_CGROUP), or -1 on v1."""
        ...

    def freeze(self, name: str, timeout_s: float = 10.0) -> None:
        """Stop every process; returns once all are stopped. Deadline (and thawed again) when they do not stop."""
        ...

    def thaw(self, name: str) -> None:
        """Let them run again; nothing happens to a cgroup that is not frozen."""
        ...

    def frozen(self, name: str) -> bool: ...

    def pids(self, name: str) -> list[int]:
        """Processes of the cgroup and of those made below it, as seen from the caller's pid namespace."""
        ...

    def kill(self, name: str, signum: int, wait_s: float = 1.0) -> bool:
        """Signal every process, again until no new one turns up. SIGKILL then waits up to `wait_s` for the cgroup to
        become empty. True when it is empty (or, for other signals, when all were signalled)."""
        ...

    def stats(self, name: str) -> CgroupStats: ...

    def oom_kills(self, name: str) -> int:
        """How many processes the kernel's OOM killer has taken here so far."""
        ...

    def remove(self, name: str) -> bool:
        """Remove the cgroup and what was made below it. False while something still runs there: retry later.
        True also when it is gone already."""
        ...

    def exists(self, name: str) -> bool: ...

    def paths(self, name: str) -> dict[str, str]:
        """Absolute directories by controller; on v2 the one key is ""."""
        ...

    def list(self) -> list[str]:
        """Names found in the kernel, whoever made them, sorted."""
        ...

    def warm(self) -> None:
        """Pay the kernel's one-time costs (the first throttle write takes 25 ms) in idle time."""
        ...

    def close(self) -> None:
        """Close descriptors; the cgroups stay."""
        ...

    def close_subtree(self) -> bool:
        """Remove every empty cgroup and the subtree itself, undo what `open_cgroups` switched on, close. False when
        something still ran and was left."""
        ...


def join_fds(fds: Sequence[int]) -> None:
    """Move the calling process into the cgroups whose cgroup.procs are `fds`; does not close them."""
    import os

    for fd in fds:
        os.write(fd, b"0")
