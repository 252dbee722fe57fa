"""Readings from /proc: mounts, cgroups and processes. proc(5)."""

from __future__ import annotations

import os
from typing import NamedTuple


class MountInfo(NamedTuple):
    """One line of /proc/PID/mountinfo."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    path: str
    options: str
    optional: tuple[str, ...]
    kind: str
    source: str
    super_options: str


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def parse_mountinfo(text: str) -> list[MountInfo]:
    """The mounts of a mountinfo text, oldest first; lines that do not parse are skipped."""
    found = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, last = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(last) < 3:
            continue
        found.append(
            MountInfo(
                int(fields[0]),
                int(fields[1]),
                fields[2],
                _unescape(fields[3]),
                _unescape(fields[4]),
                fields[5],
                tuple(fields[6:]),
                last[0],
                _unescape(last[1]),
                last[2],
            )
        )
    return found


def read_mountinfo(pid: int | str = "self") -> list[MountInfo]:
    """The mounts a process sees."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


class CgroupMount(NamedTuple):
    """A cgroup hierarchy: where it is mounted, the options that mount it again, and this process's own cgroup in it."""

    version: int
    path: str
    options: str
    own: str


_CONTROLLERS = frozenset(
    "cpuset cpu cpuacct blkio memory devices freezer net_cls perf_event net_prio hugetlb pids rdma misc".split()
)


def plan_cgroup_mounts(mounts: list[MountInfo], membership: str) -> list[CgroupMount]:
    """The hierarchies a container should see: the controllers and systemd's on v1, or the unified one alone on v2."""
    own = dict(_membership(membership))
    found: list[CgroupMount] = []
    unified: CgroupMount | None = None
    for mount in mounts:
        if mount.kind == "cgroup2":
            unified = CgroupMount(2, mount.path, "", own.get("", "/"))
        elif mount.kind == "cgroup":
            key = _v1_options(mount.super_options)
            if key and not any(other.options == key for other in found):
                found.append(CgroupMount(1, mount.path, key, own.get(key.removeprefix("none,"), "/")))
    if not found and unified is not None:
        return [unified]
    return found


def _v1_options(text: str) -> str:
    words = text.split(",")
    if "name=systemd" in words:
        return "none,name=systemd"
    return ",".join(word for word in words if word in _CONTROLLERS)


def _membership(text: str) -> list[tuple[str, str]]:
    rows = []
    for line in text.splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3:
            rows.append((fields[1], fields[2]))
    return rows


def cgroup_mounts() -> list[CgroupMount]:
    """`plan_cgroup_mounts` for this process."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        return plan_cgroup_mounts(read_mountinfo(), file.read())


class ProcessStat(NamedTuple):
    """Fields of /proc/PID/stat; times in clock ticks, start since boot."""

    pid: int
    name: str
    state: str
    ppid: int
    tty: int
    user_ticks: int
    system_ticks: int
    start_ticks: int


def parse_stat(text: str) -> ProcessStat:
    """A stat line; the name may hold anything, also blanks and parentheses."""
    head, _, rest = text.rpartition(")")
    pid, _, name = head.partition(" (")
    fields = rest.split()
    return ProcessStat(
        int(pid), name, fields[0], int(fields[1]), int(fields[4]), int(fields[11]), int(fields[12]), int(fields[19])
    )


def read_stat(pid: int) -> ProcessStat | None:
    """None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return parse_stat(file.read())
    except (FileNotFoundError, ProcessLookupError):
        return None


def read_command(pid: int) -> list[str]:
    """The arguments of a process; empty for a kernel thread, a zombie or nobody."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            data = file.read(1 << 20)
    except OSError:
        return []
    return [part.decode("utf-8", "replace") for part in data.rstrip(b"\0").split(b"\0")] if data else []


def read_status(pid: int | str) -> dict[str, str]:
    """/proc/PID/status as it is, key to text; empty when there is no such process."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}
    except (FileNotFoundError, ProcessLookupError):
        return {}


def open_descriptors(pid: int | str = "self") -> dict[int, str]:
    """The descriptors of a process and what they point to."""
    base = f"/proc/{pid}/fd"
    found = {}
    for name in os.listdir(base):
        try:
            found[int(name)] = os.readlink(f"{base}/{name}")
        except FileNotFoundError:
            continue
    return found


def boot_time_ns() -> int:
    """When this machine started, nanoseconds since the epoch (whole seconds)."""
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            if line.startswith("btime "):
                return int(line.split()[1]) * 1_000_000_000
    return 0
