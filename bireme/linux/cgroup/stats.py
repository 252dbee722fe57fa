"""Counters of a cgroup, the same shape for v1 and v2, and the parsers of the kernel's text files."""

from __future__ import annotations

from typing import NamedTuple

UNLIMITED_V1 = 0x7FFF_FFFF_FFFF_F000
"""What v1 shows for "no limit" with 4 KiB pages; anything from here on is unlimited."""


class CgroupStats(NamedTuple):
    """One reading. Times are nanoseconds, sizes bytes; a limit of 0 means unlimited, a counter the kernel does not
    keep is 0 (or absent from its mapping)."""

    read_at_ns: int = 0
    cpu_total_ns: int = 0
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    cpu_percpu_ns: tuple[int, ...] = ()
    cpu_periods: int = 0
    cpu_throttled_periods: int = 0
    cpu_throttled_ns: int = 0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    memory_max_bytes: int = 0
    """The highest use so far."""
    memory_swap_bytes: int = 0
    """Swap alone, without memory."""
    memory_failures: int = 0
    memory_stat: dict[str, int] = {}
    pids: int = 0
    pids_limit: int = 0
    block: dict[str, dict[str, int]] = {}
    """By "major:minor": read_bytes, write_bytes, read_ios, write_ios."""
    oom_kills: int = 0


def parse_flat(text: str) -> dict[str, int]:
    """Lines of "key value" (memory.stat, cpu.stat, memory.events); lines of another form are left out."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.lstrip("-").isdigit():
            values[key] = int(value)
    return values


def parse_number(text: str) -> int:
    """One number; "max" and an empty file are 0."""
    text = text.strip()
    return int(text) if text.lstrip("-").isdigit() else 0


def parse_limit_v1(text: str) -> int:
    """A v1 limit with "unlimited" as 0."""
    value = parse_number(text)
    return 0 if value < 0 or value >= UNLIMITED_V1 else value


_BLKIO_KEYS = {"Read": "read", "Write": "write"}


def parse_blkio(text: str, unit: str, into: dict[str, dict[str, int]]) -> None:
    """Add blkio.*.io_service_bytes (`unit` "bytes") or io_serviced ("ios") lines: "8:0 Read 4096"."""
    for line in text.splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[1] in _BLKIO_KEYS:
            into.setdefault(parts[0], {})[f"{_BLKIO_KEYS[parts[1]]}_{unit}"] = int(parts[2])


_IO_STAT_KEYS = {"rbytes": "read_bytes", "wbytes": "write_bytes", "rios": "read_ios", "wios": "write_ios"}


def parse_io_stat(text: str) -> dict[str, dict[str, int]]:
    """v2 io.stat lines: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0"."""
    block: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        device, *pairs = line.split()
        row = block.setdefault(device, {})
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in _IO_STAT_KEYS:
                row[_IO_STAT_KEYS[key]] = int(value)
    return block
