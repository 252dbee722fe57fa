"""GET /containers/{id}/stats: counters in Docker's shape, once or every second."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from bireme.api.docker.services import Instance, Services
from bireme.api.docker.times import ZERO_TIME, format_time
from bireme.errors import BiremeError
from bireme.instance.driver import Stat

INTERVAL_S = 1.0

Shown = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_NO_CPU: Shown = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


async def stats(services: Services, instance: Instance, *, stream: bool, one_shot: bool) -> AsyncIterator[bytes]:
    """JSON lines; the first of a stream has no earlier reading, a single one waits for it unless `one_shot`."""
    before: tuple[Stat, int] | None = None
    if not stream and not one_shot and instance.running:
        before = await _reading(services, instance)
        await asyncio.sleep(INTERVAL_S)
    while True:
        try:
            reading = await _reading(services, instance)
        except BiremeError:
            reading = (Stat(read_at_ns=0), 0)
        yield _encode(document(instance, reading, before)) + b"\n"
        if not stream:
            return
        before = reading
        await asyncio.sleep(INTERVAL_S)


async def _reading(services: Services, instance: Instance) -> tuple[Stat, int]:
    return await services.consoles.stats(instance.id), _host_cpu_ns()


def document(instance: Instance, now: tuple[Stat, int], before: tuple[Stat, int] | None) -> Shown:
    stat, host_ns = now
    shown: Shown = {
        "id": instance.id,
        "name": "/" + instance.name,
        "read": format_time(stat.read_at_ns),
        "preread": format_time(before[0].read_at_ns) if before is not None else ZERO_TIME,
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(stat, host_ns),
        "precpu_stats": _cpu(*before) if before is not None else _NO_CPU,
        "memory_stats": _memory(stat),
        "pids_stats": _pids(stat),
        "blkio_stats": _block(stat),
    }
    if stat.networks:
        shown["networks"] = stat.networks
    return shown


def _cpu(stat: Stat, host_ns: int) -> Shown:
    if not stat.read_at_ns:
        return _NO_CPU
    return {
        "cpu_usage": {
            "total_usage": stat.cpu_total_ns,
            "usage_in_kernelmode": stat.cpu_system_ns,
            "usage_in_usermode": stat.cpu_user_ns,
        },
        "system_cpu_usage": host_ns,
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": {
            "periods": stat.cpu_periods,
            "throttled_periods": stat.cpu_throttled_periods,
            "throttled_time": stat.cpu_throttled_ns,
        },
    }


def _memory(stat: Stat) -> Shown:
    if not stat.read_at_ns:
        return {}
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = stat.memory_limit_bytes
    shown: Shown = {
        "usage": stat.memory_bytes,
        "stats": stat.memory_stat,
        "limit": limit if 0 < limit < host else host,
    }
    if stat.memory_max_bytes:
        shown["max_usage"] = stat.memory_max_bytes
    return shown


def _pids(stat: Stat) -> Shown:
    shown: Shown = {}
    if stat.pids:
        shown["current"] = stat.pids
    if stat.pids_limit:
        shown["limit"] = stat.pids_limit
    return shown


def _block(stat: Stat) -> Shown:
    """`stat.block` is device "8:0" to counters named read_bytes, write_bytes, reads, writes."""
    sizes: list[Shown] = []
    counts: list[Shown] = []
    for device, counters in stat.block.items():
        major, _, minor = device.partition(":")
        place = {"major": int(major or 0), "minor": int(minor or 0)}
        for name, rows, operation in (
            ("read_bytes", sizes, "read"),
            ("write_bytes", sizes, "write"),
            ("reads", counts, "read"),
            ("writes", counts, "write"),
        ):
            if name in counters:
                rows.append({**place, "op": operation, "value": counters[name]})
    return {
        "io_service_bytes_recursive": sizes or None,
        "io_serviced_recursive": counts or None,
        "io_queue_recursive": None,
        "io_service_time_recursive": None,
        "io_wait_time_recursive": None,
        "io_merged_recursive": None,
        "io_time_recursive": None,
        "sectors_recursive": None,
    }


def _host_cpu_ns() -> int:
    """CPU time of the whole host, idle included, as dockerd sums it from /proc/stat."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = file.readline().split()
    return sum(int(field) for field in fields[1:8]) * (10**9 // os.sysconf("SC_CLK_TCK"))
