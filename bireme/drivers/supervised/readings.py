"""Counters and processes of an instance, from the supervisor's answer and /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bireme.instance.driver import ProcessRow, Stat
from bireme.linux import procfs

_TICKS = os.sysconf("SC_CLK_TCK")


def to_stat(answer: Mapping[str, Any], now_ns: int) -> Stat:
    """The supervisor's CgroupStats (and interface counters) as the engine's Stat."""
    return Stat(
        read_at_ns=answer.get("read_at_ns") or now_ns,
        cpu_total_ns=answer.get("cpu_total_ns", 0),
        cpu_user_ns=answer.get("cpu_user_ns", 0),
        cpu_system_ns=answer.get("cpu_system_ns", 0),
        cpu_throttled_periods=answer.get("cpu_throttled_periods", 0),
        cpu_periods=answer.get("cpu_periods", 0),
        cpu_throttled_ns=answer.get("cpu_throttled_ns", 0),
        memory_bytes=answer.get("memory_bytes", 0),
        memory_limit_bytes=answer.get("memory_limit_bytes", 0),
        memory_max_bytes=answer.get("memory_max_bytes", 0),
        memory_stat=answer.get("memory_stat", {}),
        pids=answer.get("pids", 0),
        pids_limit=answer.get("pids_limit", 0),
        block=answer.get("block", {}),
        networks=answer.get("networks", {}),
    )


def process_rows(pids: Sequence[int]) -> list[ProcessRow]:
    """One row per process that still lives, in pid order (proc_pid_stat(5))."""
    boot_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return [row for pid in sorted(pids) if (row := _row(pid, boot_ns)) is not None]


def _row(pid: int, boot_ns: int) -> ProcessRow | None:
    found = procfs.read_stat(pid)
    command = " ".join(procfs.read_command(pid)).strip()
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):
        return None
    if found is None:
        return None
    return ProcessRow(
        pid=pid,
        ppid=found.ppid,
        uid=uid,
        command=command or f"[{found.name}]",
        started_at_ns=boot_ns + found.start_ticks * 10**9 // _TICKS,
        cpu_ns=(found.user_ticks + found.system_ticks) * 10**9 // _TICKS,
        terminal=_terminal(found.tty),
    )


def _terminal(number: int) -> str:
    if number == 0:
        return "?"
    major, minor = os.major(number), os.minor(number)
    return f"pts/{minor + (major - 136) * 256}" if 136 <= major <= 143 else f"tty{minor}"
