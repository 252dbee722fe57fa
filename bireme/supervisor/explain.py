"""What an instance really is on this host, read from the kernel: namespaces, cgroups, mounts, processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from bireme.errors import BiremeError
from bireme.linux import capabilities, namespaces

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bireme.linux.cgroup import CgroupManager
    from bireme.supervisor.slots import Slot
    from bireme.supervisor.table import Instance

_STATUS_KEYS = (
    "Name",
    "Uid",
    "Gid",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "CapEff",
    "CapBnd",
    "CapPrm",
    "VmSize",
)
_SECCOMP = {"0": "off", "1": "strict", "2": "filter"}


def explain(instance: Instance, slot: Slot, cgroups: CgroupManager) -> dict[str, Any]:
    """A tree of JSON-able values; a process that goes away meanwhile leaves gaps, not an error."""
    own = namespaces.namespace_inodes()
    found = _or_empty(lambda: namespaces.namespace_inodes(instance.pid))
    return {
        "id": instance.id,
        "kind": instance.kind,
        "pid": instance.pid,
        "slot": slot.number,
        "spare": slot.kind not in ("cold", ""),
        "uid_range": {"base": instance.uid_base, "maps": _lines(f"/proc/{instance.pid}/uid_map")},
        "namespaces": {kind: {"inode": inode, "shared": inode == own.get(kind)} for kind, inode in found.items()},
        "cgroups": instance.cgroups,
        "mounts": [parse_mount(line) for line in _lines(f"/proc/{instance.pid}/mountinfo")],
        "network": _network(instance, slot),
        "security": security_of(instance.pid),
        "processes": _processes(instance, _pids(cgroups, slot)),
        "log": instance.log,
    }


def _processes(instance: Instance, pids: Iterable[int]) -> list[dict[str, Any]]:
    """Of a machine without the kernel's own threads, which KVM puts into the cgroup."""
    if not instance.machine:
        return [_process(pid) for pid in pids]
    return [_monitor_process(pid, status) for pid in pids if "VmSize" in (status := _status(pid))]


def _network(instance: Instance, slot: Slot) -> dict[str, Any]:
    if instance.machine:
        return {"host_interfaces": dict(instance.machine["taps"])}
    return {"host_interface": slot.veth} if slot.veth else {}


def _pids(cgroups: CgroupManager, slot: Slot) -> list[int]:
    try:
        return cgroups.pids(slot.cgroup)
    except BiremeError:
        return []


def _or_empty(read: Any) -> dict[str, int]:
    try:
        found: dict[str, int] = read()
    except OSError:
        return {}
    return found


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [" ".join(line.split()) for line in file]
    except OSError:
        return []


def parse_mount(line: str) -> dict[str, str]:
    """proc_pid_mountinfo(5)."""
    before, _, after = line.partition(" - ")
    fields = before.split(" ")
    kind, source, options = [*after.split(" "), "", "", ""][:3]
    return {
        "target": fields[4],
        "type": kind,
        "source": source,
        "root": fields[3],
        "flags": fields[5],
        "propagation": " ".join(fields[6:]) or "private",
        "options": options,
    }


def _status(pid: int) -> Mapping[str, str]:
    pairs = (line.partition(":") for line in _lines(f"/proc/{pid}/status"))
    return {key: value.strip() for key, _, value in pairs if key in _STATUS_KEYS}


def security_of(pid: int) -> dict[str, Any]:
    status = _status(pid)
    if not status:
        return {}
    return {
        "capabilities": capabilities.names_of(int(status.get("CapEff", "0"), 16)),
        "bounding": capabilities.names_of(int(status.get("CapBnd", "0"), 16)),
        "seccomp": _SECCOMP.get(status.get("Seccomp", ""), ""),
        "seccomp_filters": int(status.get("Seccomp_filters", "0")),
        "no_new_privs": status.get("NoNewPrivs") == "1",
    }


def _process(pid: int) -> dict[str, Any]:
    status = _status(pid)
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read(4096).replace(b"\0", b" ").decode("utf-8", "replace").strip()
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return {"pid": pid}
    return {"pid": pid, "uid": uid, "command": command or f"[{status.get('Name', '')}]"}


def _monitor_process(pid: int, status: Mapping[str, str]) -> dict[str, Any]:
    """One process of a machine's monitor and its jail: what it may still do, and what it does not share with us."""
    own = namespaces.namespace_inodes()
    found = _or_empty(lambda: namespaces.namespace_inodes(pid))
    return {
        "pid": pid,
        "name": status.get("Name", ""),
        "uid": int(status.get("Uid", "0").split()[0]),
        "capabilities": len(capabilities.names_of(int(status.get("CapEff", "0"), 16))),
        "seccomp": _SECCOMP.get(status.get("Seccomp", ""), ""),
        "no_new_privs": status.get("NoNewPrivs") == "1",
        "namespaces": " ".join(sorted(kind for kind, inode in found.items() if inode != own.get(kind))),
    }
