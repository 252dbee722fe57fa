"""`events`: counters of a container as JSON lines, in runc's shape (what containerd reads with --stats)."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from bireme.errors import Conflict, Invalid
from bireme.runtime import state as store
from bireme.runtime.command import cgroup

if TYPE_CHECKING:
    from bireme.linux.cgroup.stats import CgroupStats
    from bireme.runtime.main import Options

_UNLIMITED = (1 << 64) - 1


def run(options: Options) -> int:
    container = store.load(options.root, options.id)
    if container.status() == store.STOPPED:
        raise Conflict(f"container with id {container.id} is not running", subject=container.id)
    interval = parse_duration(options.text("interval", "5s"))
    manager, name = cgroup.open_of(container.data)
    try:
        while True:
            _print({"type": "stats", "id": container.id, "data": shape(manager.stats(name))})
            if options.flag("stats"):
                return 0
            ooms = manager.oom_kills(name)
            time.sleep(interval)
            if container.status() == store.STOPPED:
                return 0
            if manager.oom_kills(name) > ooms:
                _print({"type": "oom", "id": container.id})
    finally:
        manager.close()


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds in "500ms", "5s", "1m"; Invalid for anything else and for none at all."""
    number = text.rstrip("msh")
    unit = text[len(number) :]
    try:
        seconds = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        raise Invalid(f"duration {text!r} is not a number with ms, s, m or h", place="interval") from None
    if not seconds > 0:
        raise Invalid("duration interval must be greater than 0", place="interval")
    return seconds


def shape(stats: CgroupStats) -> dict[str, Any]:
    """The counters by runc's names."""
    memory_limit = stats.memory_limit_bytes or _UNLIMITED
    return {
        "cpu": {
            "usage": {
                "total": stats.cpu_total_ns,
                "percpu": list(stats.cpu_percpu_ns),
                "kernel": stats.cpu_system_ns,
                "user": stats.cpu_user_ns,
            },
            "throttling": {
                "periods": stats.cpu_periods,
                "throttledPeriods": stats.cpu_throttled_periods,
                "throttledTime": stats.cpu_throttled_ns,
            },
        },
        "memory": {
            "usage": {
                "limit": memory_limit,
                "usage": stats.memory_bytes,
                "max": stats.memory_max_bytes,
                "failcnt": stats.memory_failures,
            },
            "swap": {"usage": stats.memory_bytes + stats.memory_swap_bytes},
            "raw": stats.memory_stat,
        },
        "pids": {"current": stats.pids, "limit": stats.pids_limit},
        "blkio": {
            "ioServiceBytesRecursive": _blkio(stats, "bytes"),
            "ioServicedRecursive": _blkio(stats, "ios"),
        },
    }


def _blkio(stats: CgroupStats, unit: str) -> list[dict[str, Any]]:
    rows = []
    for device, counters in stats.block.items():
        major, _, minor = device.partition(":")
        for op in ("read", "write"):
            value = counters.get(f"{op}_{unit}", 0)
            rows.append({"major": int(major), "minor": int(minor), "op": op.capitalize(), "value": value})
    return rows
