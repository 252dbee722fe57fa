"""Resource limits of create and update: checked as dockerd checks them, then told in the engine's words."""

from __future__ import annotations

import functools
import os
import re

import msgspec

from bireme.api.docker.bodies import Resources, ThrottleDevice
from bireme.errors import Invalid, Unsupported
from bireme.instance.spec import DeviceRequest, Limits, Ulimit

MINIMUM_MEMORY_BYTES = 6 << 20
CPU_PERIOD_US = 100_000

_ULIMITS = frozenset(
    "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()
)


def limits_of(asked: Resources) -> Limits:
    """The limits that create asks for; Invalid with dockerd's words, Unsupported for what is not there."""
    _refuse_unknown(asked)
    _check_memory(asked, update=False)
    _check_cpu(asked)
    return Limits(
        memory_bytes=asked.Memory,
        memory_reservation_bytes=asked.MemoryReservation,
        memory_swap_bytes=asked.MemorySwap,
        memory_swappiness=_swappiness(asked),
        oom_kill_disable=bool(asked.OomKillDisable),
        cpu_shares=asked.CpuShares,
        cpu_period_us=CPU_PERIOD_US if asked.NanoCpus else asked.CpuPeriod,
        cpu_quota_us=_quota(asked),
        cpuset_cpus=asked.CpusetCpus,
        cpuset_mems=asked.CpusetMems,
        pids=max(asked.PidsLimit or 0, 0),
        blkio_weight=_weight(asked),
        blkio_weight_devices=_weight_devices(asked),
        blkio_read_bps=_throttle(asked.BlkioDeviceReadBps),
        blkio_write_bps=_throttle(asked.BlkioDeviceWriteBps),
        blkio_read_iops=_throttle(asked.BlkioDeviceReadIOps),
        blkio_write_iops=_throttle(asked.BlkioDeviceWriteIOps),
    )


def updated_limits(present: Limits, asked: Resources) -> Limits:
    """`present` with what an update names; zero values leave alone."""
    _refuse_unknown(asked)
    if asked.CgroupParent or asked.Devices or asked.DeviceCgroupRules or asked.DeviceRequests or asked.Ulimits:
        raise Unsupported("only limits of memory, cpu, pids and block io can be updated")
    _check_cpu(asked)
    if asked.NanoCpus and present.cpu_quota_us and present.cpu_period_us != CPU_PERIOD_US:
        raise Invalid("Conflicting options: CPU Period/Quota cannot be updated as NanoCPUs has already been set")
    changes: dict[str, object] = {}
    if asked.Memory:
        changes["memory_bytes"] = asked.Memory
    if asked.MemorySwap:
        changes["memory_swap_bytes"] = asked.MemorySwap
    if asked.MemoryReservation:
        changes["memory_reservation_bytes"] = asked.MemoryReservation
    if asked.CpuShares:
        changes["cpu_shares"] = asked.CpuShares
    if asked.NanoCpus:
        changes.update(cpu_quota_us=_quota(asked), cpu_period_us=CPU_PERIOD_US)
    if asked.CpuPeriod:
        changes["cpu_period_us"] = asked.CpuPeriod
    if asked.CpuQuota:
        changes["cpu_quota_us"] = asked.CpuQuota
    if asked.CpusetCpus:
        changes["cpuset_cpus"] = asked.CpusetCpus
    if asked.CpusetMems:
        changes["cpuset_mems"] = asked.CpusetMems
    if asked.PidsLimit is not None:
        changes["pids"] = max(asked.PidsLimit, 0)
    if asked.BlkioWeight:
        changes["blkio_weight"] = _weight(asked)
    if asked.BlkioWeightDevice:
        changes["blkio_weight_devices"] = _weight_devices(asked)
    for name in ("Bps", "IOps"):
        for way in ("Read", "Write"):
            devices = getattr(asked, f"BlkioDevice{way}{name}")
            if devices:
                changes[f"blkio_{way.lower()}_{name.lower()}"] = _throttle(devices)
    merged = msgspec.structs.replace(present, **changes)
    _check_memory_values(merged.memory_bytes, merged.memory_swap_bytes, merged.memory_reservation_bytes, update=True)
    if asked.Memory and not asked.MemorySwap and 0 < merged.memory_swap_bytes < asked.Memory:
        raise Invalid(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    return merged


def devices_of(asked: Resources) -> tuple[DeviceRequest, ...]:
    found = []
    for device in asked.Devices:
        permissions = device.CgroupPermissions or "rwm"
        if not set(permissions) <= set("rwm"):
            raise Invalid(f"invalid device mode: {permissions}", subject=device.PathOnHost)
        if not device.PathOnHost:
            raise Invalid("invalid device: the path on the host is empty")
        inside = device.PathInContainer or device.PathOnHost
        found.append(DeviceRequest(host_path=device.PathOnHost, path=inside, permissions=permissions))
    return tuple(found)


def cdi_devices_of(asked: Resources) -> tuple[str, ...]:
    """Names of devices that specifications on the host describe."""
    names = [name for request in asked.DeviceRequests if request.Driver == "cdi" for name in request.DeviceIDs]
    for name in names:
        kind, equals, device = name.partition("=")
        if not equals or not device or kind.count("/") != 1 or kind.startswith("/") or kind.endswith("/"):
            raise Invalid(f"CDI device injection failed: unresolvable CDI devices {name}", subject=name)
    return tuple(names)


def device_rules_of(asked: Resources) -> tuple[str, ...]:
    for rule in asked.DeviceCgroupRules:
        if not _DEVICE_RULE.fullmatch(rule):
            raise Invalid(f"invalid device cgroup rule format: '{rule}'", subject=rule)
    return tuple(asked.DeviceCgroupRules)


_DEVICE_RULE = re.compile(r"[acb] ([0-9]{1,9}|\*):([0-9]{1,9}|\*) [rwm]{1,3}")


def _weight_devices(asked: Resources) -> tuple[tuple[str, int], ...]:
    for device in asked.BlkioWeightDevice:
        if not device.Path.startswith("/dev/"):
            raise Invalid(f"bad format for device path: {device.Path}", subject=device.Path)
        if not 10 <= device.Weight <= 1000:
            raise Invalid(f"invalid weight for device: {device.Path}:{device.Weight}", subject=device.Path)
    return tuple((device.Path, device.Weight) for device in asked.BlkioWeightDevice)


def ulimits_of(asked: Resources) -> tuple[Ulimit, ...]:
    found: dict[str, Ulimit] = {}
    for limit in asked.Ulimits:
        if limit.Name not in _ULIMITS:
            raise Invalid(f"invalid ulimit type: {limit.Name}", subject=limit.Name)
        if limit.Hard != -1 and (limit.Soft > limit.Hard or limit.Soft == -1):
            raise Invalid(f"ulimit soft limit must be less than or equal to hard limit: {limit.Soft} > {limit.Hard}")
        found[limit.Name] = Ulimit(name=limit.Name, soft=limit.Soft, hard=limit.Hard)
    return tuple(found.values())


def _refuse_unknown(asked: Resources) -> None:
    if asked.CpuRealtimePeriod or asked.CpuRealtimeRuntime:
        raise Invalid("kernel does not support CPU real-time scheduler")
    if asked.KernelMemory or asked.KernelMemoryTCP:
        raise Unsupported("limits of kernel memory are not supported", hint="the memory limit covers it")
    first = next((request for request in asked.DeviceRequests if request.Driver != "cdi"), None)
    if first is not None:
        shown = " ".join(f"[{' '.join(group)}]" for group in first.Capabilities)
        raise Unsupported(f'could not select device driver "{first.Driver}" with capabilities: [{shown}]')
    if asked.CpuCount or asked.CpuPercent:
        raise Invalid("invalid option: CpuCount and CpuPercent are not supported on linux")
    if asked.IOMaximumBandwidth:
        raise Invalid("invalid option: QoS maximum bandwidth configuration is not supported on linux")
    if asked.IOMaximumIOps:
        raise Invalid("invalid option: QoS maximum IOPs configuration is not supported on linux")


def _check_memory(asked: Resources, *, update: bool) -> None:
    _swappiness(asked)
    _check_memory_values(asked.Memory, asked.MemorySwap, asked.MemoryReservation, update=update)


def _check_memory_values(memory: int, swap: int, reservation: int, *, update: bool) -> None:
    if memory and memory < MINIMUM_MEMORY_BYTES:
        raise Invalid("Minimum memory limit allowed is 6MB")
    if memory > 0 and 0 < swap < memory:
        raise Invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
    if not memory and swap > 0 and not update:
        raise Invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
    if swap < -1:
        raise Invalid(f"invalid memory swap limit: {swap}")
    if reservation and reservation < MINIMUM_MEMORY_BYTES:
        raise Invalid("Minimum memory reservation allowed is 6MB")
    if memory > 0 and reservation > memory:
        raise Invalid("Minimum memory limit can not be less than memory reservation limit, see usage")


def _swappiness(asked: Resources) -> int | None:
    value = asked.MemorySwappiness
    if value is None or value == -1:
        return None
    if not 0 <= value <= 100:
        raise Invalid(f"Invalid value: {value}, valid memory swappiness range is 0-100")
    return value


def _check_cpu(asked: Resources) -> None:
    if asked.CpuShares < 0:
        raise Invalid(f"invalid CPU shares ({asked.CpuShares}): value must be a positive integer")
    if asked.NanoCpus > 0 and asked.CpuPeriod > 0:
        raise Invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if asked.NanoCpus > 0 and asked.CpuQuota > 0:
        raise Invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if asked.NanoCpus:
        count = os.cpu_count() or 1
        if not 0 < asked.NanoCpus <= count * 10**9:
            raise Invalid(f"range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available")
    if asked.CpuPeriod and not 1000 <= asked.CpuPeriod <= 1_000_000:
        raise Invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < asked.CpuQuota < 1000:
        raise Invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if asked.CpusetCpus:
        _check_set(asked.CpusetCpus, _online("cpu"), "cpuset cpus", "CPUs")
    if asked.CpusetMems:
        _check_set(asked.CpusetMems, _online("node"), "cpuset mems", "memory nodes")


def _quota(asked: Resources) -> int:
    if asked.NanoCpus:
        return asked.NanoCpus * CPU_PERIOD_US // 10**9
    return asked.CpuQuota


def _weight(asked: Resources) -> int:
    if asked.BlkioWeight and not 10 <= asked.BlkioWeight <= 1000:
        raise Invalid("Range of blkio weight is from 10 to 1000")
    return asked.BlkioWeight


def _throttle(devices: list[ThrottleDevice]) -> tuple[tuple[str, int], ...]:
    found = []
    for device in devices:
        if not device.Path.startswith("/dev/"):
            raise Invalid(f"bad format for device path: {device.Path}", subject=device.Path)
        if device.Rate < 0:
            raise Invalid(f"invalid rate for device: {device.Path}:{device.Rate}", subject=device.Path)
        found.append((device.Path, device.Rate))
    return tuple(found)


def _check_set(text: str, online: str, what: str, noun: str) -> None:
    try:
        asked = _members(text)
    except ValueError:
        raise Invalid(f"Invalid value {text} for {what}", subject=text) from None
    if not asked <= _members(online):
        raise Invalid(f"Requested {noun} are not available - requested {text}, available: {online}", subject=text)


def _members(text: str) -> frozenset[int]:
    members: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        low, high = int(first), int(last) if dash else int(first)
        if low < 0 or high < low or high > 8192:
            raise ValueError(part)
        members.update(range(low, high + 1))
    return frozenset(members)


@functools.cache
def _online(kind: str) -> str:
    try:
        with open(f"/sys/devices/system/{kind}/online", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return f"0-{(os.cpu_count() or 1) - 1}" if kind == "cpu" else "0"
