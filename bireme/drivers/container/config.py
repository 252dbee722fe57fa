"""An InstanceSpec as an OCI runtime configuration with Docker's defaults, and that as a launch plan.

The only looks at the host are at devices and bind sources, when an instance is created.
"""

from __future__ import annotations

import os
import stat
from typing import Any

import msgspec

from bireme.drivers.container.resources import resources
from bireme.drivers.container.seccomp import seccomp_of
from bireme.drivers.supervised.capability import resolve
from bireme.errors import Invalid, Unsupported
from bireme.instance.driver import Placement, RootFilesystem
from bireme.instance.spec import InstanceSpec, Mount, ProcessSpec
from bireme.oci.runtime_spec import VERSION, CapabilitySets, Config, Device, Namespace, Process
from bireme.oci.runtime_spec import Mount as OciMount
from bireme.runtime import defaults
from bireme.runtime.plan import ExecPlan, Interface, LaunchPlan, NetworkPlan, RootPlan, plan_exec, plan_launch

__all__ = [
    "Host",
    "check",
    "plan_exec_process",
    "plan_instance",
    "plan_network",
    "resources",
    "root_layers",
    "visible_mounts",
]


NAME_MAX = 255


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What this engine may use: user namespaces by default, the init program ("" = not built), and the layer of mount
    points below every image ("" = none)."""

    userns: bool = True
    init_path: str = ""
    base_layer: str = ""


def uses_userns(spec: InstanceSpec, host: Host) -> bool:
    """A user namespace of its own unless it was asked otherwise, or what it shares with the host would not work in
    one: the host's processes, network or IPC belong to the host's user namespace."""
    names = spec.namespaces
    shared = "host" in (names.user, names.pid, names.ipc) or spec.network.name == "host"
    return host.userns and not shared and not spec.security.privileged


def check(placement: Placement, host: Host) -> LaunchPlan:
    """The plan of an instance that is created; raises for a spec that could not start."""
    spec = placement.spec
    for kind in ("user", "pid", "ipc", "uts", "cgroup"):
        value = getattr(spec.namespaces, kind)
        allowed = _MODES[kind]
        if value not in allowed and not (":" in allowed and value.startswith("container:")):
            raise Unsupported(f"--{kind} {value} is not supported", subject=kind)
    if spec.init and not host.init_path:
        raise Unsupported("--init: the init program is not built", hint="run `make -C guest`")
    if spec.cgroup_parent:
        _check_parent(spec.cgroup_parent)
    for mount in spec.mounts:
        if mount.kind == "bind" and not os.path.exists(mount.source):
            raise Invalid(
                f'invalid mount config for type "bind": bind source path does not exist: {mount.source}',
                subject=mount.source,
            )
    return plan_instance(placement, host)


def _check_parent(parent: str) -> None:
    if parent.endswith(".slice"):
        raise Invalid(
            f"cgroup-parent {parent} is a slice of systemd, and the cgroup driver is cgroupfs",
            subject=parent,
            hint="use a path such as /name",
        )
    if "\0" in parent or "\n" in parent or any(len(part.encode()) > NAME_MAX for part in parent.split("/")):
        raise Invalid(f"invalid cgroup-parent: {parent!r}", subject=parent)


def plan_instance(placement: Placement, host: Host) -> LaunchPlan:
    """The launch plan: OCI configuration, root, and what Docker adds to both."""
    spec = placement.spec
    userns = uses_userns(spec, host)
    plan = plan_launch(
        configure(placement, host),
        _root(placement, host, userns),
        user=spec.process.user or "0",
        groups=spec.process.groups,
        seccomp="default" if _default_seccomp(spec) else "",
        init=host.init_path if spec.init else "",
    )
    plan["network"] = plan_network(placement)
    return plan


def plan_network(placement: Placement) -> NetworkPlan:
    """The part of the plan that is known only when an instance starts."""
    return {
        "interfaces": [
            Interface(
                name=e.interface,
                bridge=e.bridge,
                address=e.address,
                prefix_len=e.prefix_len,
                gateway=e.gateway,
                mac=e.mac,
                mtu=e.mtu,
            )
            for e in placement.endpoints
        ]
    }


def _root(placement: Placement, host: Host, userns: bool) -> RootPlan:
    """Layers for an overlay, or the one directory a copying snapshotter made."""
    made, readonly = root_layers(placement, host), placement.spec.read_only_root
    if not made.lower:
        return RootPlan(path=made.upper, readonly=readonly, idmap=userns)
    return RootPlan(lower=list(made.lower), upper=made.upper, work=made.work, readonly=readonly, idmap=userns)


def root_layers(placement: Placement, host: Host) -> RootFilesystem:
    """The layers with the one that every container has below its image."""
    made = placement.root
    if not made.lower or not made.upper or not host.base_layer:
        return made
    return msgspec.structs.replace(made, lower=(*made.lower, host.base_layer))


def visible_mounts(placement: Placement) -> tuple[Mount, ...]:
    """What is mounted over the root and is the user's: the files of /etc, and what was asked for."""
    files = (Mount(kind="bind", source=source, target=target) for source, target in placement.files)
    return (*files, *placement.spec.mounts)


def configure(placement: Placement, host: Host) -> Config:
    """The OCI configuration of an instance."""
    spec = placement.spec
    userns = uses_userns(spec, host)
    privileged = spec.security.privileged
    config: Config = {
        "ociVersion": VERSION,
        "process": _process(spec.process, spec, privileged),
        "root": {"path": "", "readonly": spec.read_only_root},
        "mounts": _mounts(placement, userns),
        "linux": {
            "namespaces": _namespaces(spec, userns),
            "devices": _devices(spec),
            "maskedPaths": _paths(spec.security.masked_paths, defaults.MASKED_PATHS, privileged),
            "readonlyPaths": _paths(spec.security.readonly_paths, defaults.READONLY_PATHS, privileged),
            "sysctl": dict(spec.sysctls),
        },
    }
    if spec.namespaces.uts != "host":
        config["hostname"] = placement.hostname
        if spec.domainname:
            config["domainname"] = spec.domainname
    if spec.cgroup_parent:
        config["linux"]["cgroupsPath"] = os.path.normpath("/" + spec.cgroup_parent.lstrip("/"))
    if not _default_seccomp(spec) and (profile := seccomp_of(spec.security)) is not None:
        config["linux"]["seccomp"] = profile
    return config


def plan_exec_process(process: ProcessSpec, spec: InstanceSpec) -> ExecPlan:
    """The plan of one more process inside: the rights of the first one, all of them with `privileged`."""
    privileged = process.privileged or spec.security.privileged
    word = "default" if not privileged and _default_seccomp(spec) else ""
    linux: Any = {}
    if not word and not privileged and (profile := seccomp_of(spec.security)) is not None:
        linux["seccomp"] = profile
    return plan_exec(
        _process(process, spec, privileged), user=process.user or "0", groups=process.groups, seccomp=word, linux=linux
    )


def _default_seccomp(spec: InstanceSpec) -> bool:
    """The stock profile, compiled once, fits when nothing in it depends on added capabilities."""
    security = spec.security
    return not (security.seccomp or security.privileged or security.cap_add)


def _process(process: ProcessSpec, spec: InstanceSpec, privileged: bool) -> Process:
    names = resolve(msgspec.structs.replace(spec.security, privileged=privileged))
    sets: CapabilitySets = {"bounding": names, "effective": names, "permitted": names}
    made: Process = {
        "terminal": process.terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(process.args),
        "env": list(process.env),
        "cwd": process.working_dir or "/",
        "capabilities": sets,
        "noNewPrivileges": spec.security.no_new_privileges,
        "rlimits": [{"type": f"RLIMIT_{u.name.upper()}", "soft": u.soft, "hard": u.hard} for u in spec.ulimits],
    }
    if spec.oom_score_adj:
        made["oomScoreAdj"] = spec.oom_score_adj
    if process.rows and process.columns:
        made["consoleSize"] = {"height": process.rows, "width": process.columns}
    return made


def _namespaces(spec: InstanceSpec, userns: bool) -> list[Namespace]:
    names = spec.namespaces
    private: list[Namespace] = [{"type": "mount"}]
    kinds = (("pid", names.pid), ("ipc", names.ipc), ("uts", names.uts), ("network", spec.network.name))
    for kind, value in kinds:
        if value.startswith(_JOINED):
            private.append({"type": kind, "path": _path_of(value)})
        elif value != "host":
            private.append({"type": kind})
    if names.cgroup != "host":
        private.append({"type": "cgroup"})
    if userns:
        joined = next((value for _, value in kinds if value.startswith(_JOINED)), "")
        private.append({"type": "user", "path": _path_of(joined)} if joined else {"type": "user"})
    return private


_JOINED = "container:"


def _path_of(mode: str) -> str:
    """What the supervisor puts the target's namespace in the place of (supervisor/joining.py)."""
    return "/instance/" + mode.removeprefix(_JOINED)


_MODES = {
    "user": ("", "host"),
    "pid": ("", "host", ":"),
    "ipc": ("", "host", "shareable", "none", ":"),
    "uts": ("", "host"),
    "cgroup": ("", "host"),
}
"""What --KIND may be; ":" stands for another container."""


def _mounts(placement: Placement, userns: bool) -> list[OciMount]:
    """Docker's stock mounts unless one is replaced, then the etc files, then what was asked."""
    spec = placement.spec
    replaced = {os.path.normpath(m.target) for m in spec.mounts}
    mounts = [m for m in defaults.default_mounts(spec.shm_size_bytes) if m["destination"] not in replaced]
    if spec.namespaces.ipc not in ("", "shareable") and "/dev/shm" not in replaced:
        mounts = [m for m in mounts if m["destination"] != "/dev/shm"] + _shared_memory(spec.namespaces.ipc)
    if spec.security.privileged:
        mounts = [_writable(m) for m in mounts]
    for source, target in placement.files:
        if target not in replaced:
            mounts.append(_bind(Mount(kind="bind", source=source, target=target), userns))
    mounts.extend(_tmpfs(m) if m.kind == "tmpfs" else _bind(m, userns) for m in spec.mounts)
    return mounts


def _shared_memory(ipc: str) -> list[OciMount]:
    """The /dev/shm of the host or of another container goes with its IPC namespace."""
    if ipc == "none":
        return []
    source = "/dev/shm" if ipc == "host" else f"{_path_of(ipc)}/dev/shm"
    return [{"destination": "/dev/shm", "type": "bind", "source": source, "options": ["bind", "rw", "rprivate"]}]


def _writable(mount: OciMount) -> OciMount:
    if mount["destination"] not in ("/sys", "/sys/fs/cgroup"):
        return mount
    return {**mount, "options": [o for o in mount["options"] if o != "ro"] + ["rw"]}


def _bind(mount: Mount, userns: bool) -> OciMount:
    kind = "rbind" if mount.recursive else "bind"
    options = [kind, "ro" if mount.read_only else "rw", mount.propagation, *mount.options]
    if userns:
        options.append("ridmap" if mount.recursive else "idmap")
    return {"destination": mount.target, "type": "bind", "source": mount.source, "options": options}


def _tmpfs(mount: Mount) -> OciMount:
    options = ["nosuid", "nodev", "noexec"]
    for option in mount.options:
        options = [o for o in options if o != option.removeprefix("no") and f"no{option}" != o]
        options.append(option)
    if mount.read_only:
        options.append("ro")
    if mount.size_bytes:
        options.append(f"size={mount.size_bytes}")
    if mount.mode is not None:
        options.append(f"mode={mount.mode:o}")
    return {"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options}


def _paths(asked: tuple[str, ...] | None, stock: tuple[str, ...], privileged: bool) -> list[str]:
    if asked is not None:
        return list(asked)
    return [] if privileged else list(stock)


def _devices(spec: InstanceSpec) -> list[Device]:
    found = [_device(d.host_path, d.path) for d in spec.devices]
    if spec.security.privileged:
        have = {d["path"] for d in found}
        found.extend(d for d in host_devices() if d["path"] not in have)
    return found


def _device(host_path: str, path: str) -> Device:
    try:
        status = os.stat(host_path)
    except OSError as error:
        raise Invalid(
            f'error gathering device information while adding custom device "{host_path}": {error.strerror}',
            subject=host_path,
        ) from error
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        raise Invalid(
            f'error gathering device information while adding custom device "{host_path}": not a device node',
            subject=host_path,
        )
    return {
        "path": path or host_path,
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


_NOT_SHARED = frozenset({"pts", "shm", "mqueue", "fd", "console", "ptmx", *(name for name, _, _ in defaults.DEVICES)})


def host_devices() -> list[Device]:
    """Every device node of the host's /dev, for --privileged."""
    found: list[Device] = []
    for directory, names, files in os.walk("/dev"):
        names[:] = [n for n in names if n not in _NOT_SHARED]
        for name in files:
            path = f"{directory}/{name}"
            if name in _NOT_SHARED or os.path.islink(path):
                continue
            try:
                found.append(_device(path, path))
            except Invalid:
                continue
    return found
