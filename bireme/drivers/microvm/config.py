"""An InstanceSpec as a machine plan: pure, from what the driver has found (kernel, disks, texts)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from bireme.drivers.microvm.limits import memory_of, vcpus_of
from bireme.drivers.supervised.capability import resolve
from bireme.instance.driver import Placement
from bireme.instance.spec import InstanceSpec, ProcessSpec
from bireme.instance.spec import Mount as TmpfsRequest
from bireme.linux import capabilities
from bireme.runtime.processplan import RLIMITS
from bireme.vmm.boot.cmdline import compose_cmdline
from bireme.vmm.plan import DEFAULT_BOOT_TIMEOUT_S, DiskPlan, InterfacePlan, KernelPlan, MachinePlan
from bireme.wire.agent import Capabilities, Disk, File, GuestConfig, Interface, Mount, Process, Root

CONSOLE = "console=hvc0"
"""What the kernel prints goes to the virtio console: the last of it is kept for `explain`."""
_FILE_MODE = 0o644
_SHM = "/dev/shm"
_TMPFS_MODE = 0o1777


class LayerDisk(NamedTuple):
    """A read-only image of a layer and its file system."""

    path: str
    format: str
    serial: str


class Parts(NamedTuple):
    """What a machine is put together from. `layers` topmost first; `writable` "" for a root in memory."""

    kernel: KernelPlan
    initrd: Sequence[str]
    layers: Sequence[LayerDisk]
    writable: str
    texts: Sequence[tuple[str, str]]
    """(path inside, text): hosts, hostname, resolv.conf."""


def plan_machine(placement: Placement, parts: Parts) -> MachinePlan:
    """The plan; the supervisor fills in what must be unique on the host."""
    spec = placement.spec
    disks = [DiskPlan(path=layer.path, read_only=True, serial=layer.serial) for layer in parts.layers]
    if parts.writable:
        disks.append(DiskPlan(path=parts.writable, read_only=False, serial="writable"))
    return {
        "id": placement.id,
        "name": placement.name,
        "memory_bytes": memory_of(spec.limits),
        "vcpus": vcpus_of(spec.limits),
        "kernel": parts.kernel,
        "initrd": list(parts.initrd),
        "cmdline": compose_cmdline(CONSOLE),
        "disks": disks,
        "interfaces": [InterfacePlan(bridge=e.bridge, tap="", mac=e.mac, mtu=e.mtu) for e in placement.endpoints],
        "rng": True,
        "console": True,
        "control_path": "",
        "report_path": "",
        "uid": 0,
        "boot_timeout_s": DEFAULT_BOOT_TIMEOUT_S,
        "guest": dict(guest_config(placement, parts)),
    }


def guest_config(placement: Placement, parts: Parts) -> GuestConfig:
    """What the agent makes of the machine."""
    spec = placement.spec
    return {
        "hostname": placement.hostname,
        "domainname": spec.domainname,
        "root": _root(spec, parts),
        "interfaces": [
            Interface(
                name=e.interface,
                mac=e.mac,
                address=e.address,
                prefix_len=e.prefix_len,
                gateway=e.gateway,
                mtu=e.mtu,
            )
            for e in placement.endpoints
        ],
        "files": [File(path=path, text=text, mode=_FILE_MODE) for path, text in parts.texts],
        "mounts": [_tmpfs(m) for m in spec.mounts if m.target != _SHM],
        "sysctls": dict(spec.sysctls),
        "shm_size_bytes": next((m.size_bytes for m in spec.mounts if m.target == _SHM), spec.shm_size_bytes),
        "process": plan_process(spec.process, spec),
        "stdin": spec.open_stdin,
    }


def _tmpfs(mount: TmpfsRequest) -> Mount:
    mode = _TMPFS_MODE if mount.mode is None else mount.mode
    return {"kind": "tmpfs", "target": mount.target, "size_bytes": mount.size_bytes, "mode": mode}


def _root(spec: InstanceSpec, parts: Parts) -> Root:
    lower = [Disk(device=device_name(n), type=layer.format) for n, layer in enumerate(parts.layers)]
    upper = Disk(device=device_name(len(lower)), type="ext4") if parts.writable else None
    return {"lower": lower, "upper": upper, "read_only": spec.read_only_root}


def device_name(index: int) -> str:
    """What the guest's kernel calls the disk at this place of the plan."""
    return f"/dev/vd{chr(ord('a') + index)}"


def plan_process(process: ProcessSpec, spec: InstanceSpec) -> Process:
    """A process with the rights of the instance; `privileged` gives all that there are inside."""
    return {
        "args": list(process.args),
        "env": list(process.env),
        "cwd": process.working_dir or "/",
        "user": process.user,
        "groups": list(process.groups),
        "umask": 0o22,
        "terminal": process.terminal,
        "rows": process.rows,
        "columns": process.columns,
        "rlimits": [[RLIMITS[f"RLIMIT_{u.name.upper()}"], u.soft, u.hard] for u in spec.ulimits],
        "capabilities": _capabilities(process, spec),
        "no_new_privileges": spec.security.no_new_privileges,
        "oom_score_adj": spec.oom_score_adj or None,
    }


def _capabilities(process: ProcessSpec, spec: InstanceSpec) -> Capabilities:
    mask = capabilities.ALL if process.privileged else capabilities.mask_of(resolve(spec.security))
    return {"bounding": mask, "effective": mask, "permitted": mask, "inheritable": 0, "ambient": 0}


def texts_of(placement: Placement) -> list[tuple[str, str]]:
    """The instance's files, read."""
    found: list[tuple[str, str]] = []
    for source, target in placement.files:
        with open(source, encoding="utf-8", errors="surrogateescape") as file:
            found.append((target, file.read()))
    return found


def launch_plan(machine: MachinePlan) -> dict[str, Any]:
    """What the supervisor's launch takes."""
    return {"machine": machine}
