"""OCI `linux.resources` -> CgroupLimits: every value checked, nothing written yet.

Follows config-linux.md of the runtime spec. Zero means "not set" where the spec's Go types cannot say it otherwise.
Messages match what Docker's clients know from runc where there is such a text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bireme.errors import Invalid, Unsupported
from bireme.linux.cgroup.contract import CgroupLimits, DeviceWeight, Throttle
from bireme.linux.cgroup.devices import rules_from_resources

if TYPE_CHECKING:
    from collections.abc import Mapping

_INT64_MAX = (1 << 63) - 1
_UINT64_MAX = (1 << 64) - 1
_MAX_CPU = 8192

_THROTTLES = (
    ("throttleReadBpsDevice", "read_bps"),
    ("throttleWriteBpsDevice", "write_bps"),
    ("throttleReadIOPSDevice", "read_iops"),
    ("throttleWriteIOPSDevice", "write_iops"),
)
_OWN_FILES = frozenset(
    {f"cgroup.{name}" for name in ("procs", "threads", "subtree_control", "freeze", "kill", "type")},
)
_GROUPS = frozenset(
    {"memory", "cpu", "pids", "blockIO", "devices", "hugepageLimits", "network", "rdma", "unified"},
)


def limits_from_resources(resources: Mapping[str, object]) -> CgroupLimits:
    """The limits in an OCI `linux.resources` object; raises Invalid (with the field as place) or Unsupported."""
    unknown = set(resources) - _GROUPS
    if unknown:
        name = min(unknown)
        raise Unsupported(f"resource {name!r} is not known", place=f"linux.resources.{name}")
    values: dict[str, object] = {}
    if memory := _Group(resources, "memory"):
        _memory(memory, values)
    if cpu := _Group(resources, "cpu"):
        _cpu(cpu, values)
    if pids := _Group(resources, "pids"):
        limit = pids.number("limit", low=-1, zero_unset=False)
        if limit is not None:
            values["pids_max"] = limit or -1
    if block := _Group(resources, "blockIO"):
        _block(block, values)
    if network := _Group(resources, "network"):
        values["net_class_id"] = network.number("classID", high=0xFFFFFFFF)
        values["net_priorities"] = tuple(
            (entry.text("name") or "", entry.number("priority", zero_unset=False) or 0)
            for entry in network.entries("priorities")
        )
    values["hugepages"] = tuple(
        (_page_size(entry), entry.number("limit", high=_UINT64_MAX, zero_unset=False) or 0)
        for entry in _Group.list_of(resources, "hugepageLimits")
    )
    values["rdma"] = _rdma(resources)
    values["unified"] = _unified(resources)
    devices = resources.get("devices")
    if devices is not None:
        if not isinstance(devices, list):
            raise Invalid("devices is not a list", place="linux.resources.devices")
        values["devices"] = rules_from_resources(devices)
    return CgroupLimits(**values)  # type: ignore[arg-type]


class _Group:
    """One object of the resources, with typed access and its path for messages."""

    def __init__(self, parent: Mapping[str, object], key: str, place: str = "linux.resources") -> None:
        self.place = f"{place}.{key}"
        value = parent.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise Invalid(f"{key} is not an object", place=self.place)
        self.values: dict[str, object] = value

    def __bool__(self) -> bool:
        return bool(self.values)

    @classmethod
    def list_of(cls, parent: Mapping[str, object], key: str, place: str = "linux.resources") -> list[_Group]:
        value = parent.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise Invalid(f"{key} is not a list", place=f"{place}.{key}")
        return [cls({f"{key}[{i}]": entry}, f"{key}[{i}]", place) for i, entry in enumerate(value)]

    def entries(self, key: str) -> list[_Group]:
        return self.list_of(self.values, key, self.place)

    def number(self, key: str, *, low: int = 0, high: int = _INT64_MAX, zero_unset: bool = True) -> int | None:
        value = self.values.get(key)
        if value is None or (value == 0 and zero_unset and not isinstance(value, bool)):
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise Invalid(f"{key} is not a whole number: {value!r}", place=f"{self.place}.{key}")
        if not low <= value <= high:
            raise Invalid(f"{key} {value} is out of range ({low} to {high})", place=f"{self.place}.{key}")
        return value

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise Invalid(f"{key} is not a string: {value!r}", place=f"{self.place}.{key}")
        return value or None

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise Invalid(f"{key} is not true or false: {value!r}", place=f"{self.place}.{key}")
        return value

    def refuse(self, *keys: str) -> None:
        for key in keys:
            if self.values.get(key):
                raise Unsupported(f"{key} is not supported: current kernels ignore it", place=f"{self.place}.{key}")


def _memory(group: _Group, values: dict[str, object]) -> None:
    group.refuse("kernel", "kernelTCP")
    limit = group.number("limit", low=-1)
    swap = group.number("swap", low=-1)
    if limit == -1 and swap is None:
        swap = -1
    if limit is not None and swap is not None and swap != -1 and (limit == -1 or swap < limit):
        raise Invalid(
            "Minimum memoryswap limit should be larger than memory limit, see usage",
            place=f"{group.place}.swap",
        )
    swappiness = group.number("swappiness", low=-1, high=_INT64_MAX, zero_unset=False)
    if swappiness is not None and not -1 <= swappiness <= 100:
        raise Invalid(f"invalid value: {swappiness}, valid memory swappiness range is 0-100", place=group.place)
    group.flag("useHierarchy")
    values.update(
        memory_bytes=limit,
        memory_swap_bytes=swap,
        memory_reservation_bytes=group.number("reservation", low=-1),
        memory_swappiness=None if swappiness == -1 else swappiness,
        oom_kill_disable=group.flag("disableOOMKiller"),
        check_before_update=group.flag("checkBeforeUpdate") or False,
    )


def _cpu(group: _Group, values: dict[str, object]) -> None:
    shares = group.number("shares", high=_UINT64_MAX)
    if shares is not None and shares < 2:
        raise Invalid("the minimum allowed cpu-shares is 2", place=f"{group.place}.shares")
    if shares is not None and shares > 262144:
        raise Invalid("the maximum allowed cpu-shares is 262144", place=f"{group.place}.shares")
    period = group.number("period", high=_UINT64_MAX)
    if period is not None and not 1000 <= period <= 1_000_000:
        raise Invalid(
            "CPU cfs period cannot be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)", place=group.place
        )
    quota = group.number("quota", low=-1)
    if quota is not None and 0 < quota < 1000:
        raise Invalid("CPU cfs quota cannot be less than 1ms (i.e. 1000)", place=group.place)
    values.update(
        cpu_shares=shares,
        cpu_quota_us=quota,
        cpu_period_us=period,
        cpu_burst_us=group.number("burst", zero_unset=False),
        cpu_idle=group.number("idle", high=1, zero_unset=False),
        cpu_rt_runtime_us=group.number("realtimeRuntime", low=-1),
        cpu_rt_period_us=group.number("realtimePeriod"),
        cpuset_cpus=_cpu_list(group, "cpus"),
        cpuset_mems=_cpu_list(group, "mems"),
    )


def _cpu_list(group: _Group, key: str) -> str | None:
    text = group.text(key)
    if text is not None:
        parse_cpu_list(text, place=f"{group.place}.{key}")
    return text


def parse_cpu_list(text: str, place: str = "") -> set[int]:
    """The numbers in "0-2,5" (cpuset(7), list format); Invalid when it is not one."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise Invalid(f"{text!r} is not a list of numbers and ranges", place=place)
        start, end = int(first), int(last or first)
        if start > end or end >= _MAX_CPU:
            raise Invalid(f"{text!r} has a range that cannot be", place=place)
        numbers.update(range(start, end + 1))
    return numbers


def _block(group: _Group, values: dict[str, object]) -> None:
    group.refuse("leafWeight")
    weights = []
    for entry in group.entries("weightDevice"):
        entry.refuse("leafWeight")
        weight = _weight(entry)
        if weight is not None:
            weights.append(DeviceWeight(*_device(entry), weight))
    throttles = [
        Throttle(what, *_device(entry), entry.number("rate", high=_UINT64_MAX, zero_unset=False) or 0)
        for key, what in _THROTTLES
        for entry in group.entries(key)
    ]
    values.update(
        blkio_weight=_weight(group),
        blkio_weight_devices=tuple(weights),
        blkio_throttle=tuple(throttles),
    )


def _weight(group: _Group) -> int | None:
    weight = group.number("weight", high=_INT64_MAX)
    if weight is not None and not 10 <= weight <= 1000:
        raise Invalid("range of blkio weight is from 10 to 1000", place=f"{group.place}.weight")
    return weight


def _device(entry: _Group) -> tuple[int, int]:
    major = entry.number("major", high=(1 << 32) - 1, zero_unset=False)
    minor = entry.number("minor", high=(1 << 32) - 1, zero_unset=False)
    if major is None or minor is None:
        raise Invalid("a block device needs major and minor", place=entry.place)
    return major, minor


def _page_size(entry: _Group) -> str:
    size = entry.text("pageSize") or ""
    number = size.rstrip("KMGB")
    if not number.isdecimal() or size[len(number) :] not in ("KB", "MB", "GB"):
        raise Invalid(f"{size!r} is not a page size such as 2MB", place=entry.place)
    return size


def _rdma(resources: Mapping[str, object]) -> tuple[tuple[str, int | None, int | None], ...]:
    group = _Group(resources, "rdma")
    devices = [(name, _Group(group.values, name, group.place)) for name in group.values]
    return tuple(
        (name, d.number("hcaHandles", zero_unset=False), d.number("hcaObjects", zero_unset=False))
        for name, d in devices
    )


def _unified(resources: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    group = _Group(resources, "unified")
    for name, value in group.values.items():
        if "/" in name or "." not in name or name.startswith(".") or not isinstance(value, str):
            raise Invalid(f"{name!r} is not a cgroup file with a text", place=group.place)
        if name in _OWN_FILES:
            raise Invalid(f"{name} is the engine's own", place=group.place)
    return tuple((name, str(value)) for name, value in group.values.items())
