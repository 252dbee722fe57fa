"""From an OCI configuration to a launch plan: a JSON-able value that says everything a start does. Pure.

The plan splits the work three ways:

- `skeleton`: the pseudo file systems below /proc, /sys and /dev with their masks. None means the stock one (Docker's),
  which spares have built long before.
- what is made outside by `launch.assemble`: the root (overlay or directory), binds, device nodes;
- what the child does last (`init.finish`): names, addresses, moving it all in, the process itself.

Nothing here looks at the host, and user names are resolved in the child, inside the root file system.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from bireme.errors import Invalid, Unsupported
from bireme.linux import seccomp as filters
from bireme.linux.libc import MACHINE
from bireme.runtime.mountplan import (
    DevicePlan,
    MountPlan,
    SkeletonPlan,
    is_stock,
    plan_mounts,
    plan_paths,
    shm_size_of,
    split_devices,
)
from bireme.runtime.processplan import ExecPlan, plan_process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bireme.oci.runtime_spec import Config, IDMapping, Linux, Process

VERSION = 1

KINDS = {
    "pid": "pid",
    "network": "net",
    "mount": "mnt",
    "ipc": "ipc",
    "uts": "uts",
    "user": "user",
    "cgroup": "cgroup",
    "time": "time",
}
"""The specification's words to the names below /proc/PID/ns."""

STOCK_KINDS = frozenset({"pid", "net", "mnt", "ipc", "uts", "user", "cgroup"})

MAX_FDS = 200
"""Descriptors made outside for one start; the kernel passes 253 in a message."""


class RootPlan(TypedDict):
    """The root: `lower` layers, topmost first, with `upper` and `work` (absolute); or a directory `path`.

    `idmap`: ids on disk are those inside, shift them by the mount (the default with a user namespace).
    """

    lower: NotRequired[list[str]]
    upper: NotRequired[str]
    work: NotRequired[str]
    path: NotRequired[str]
    readonly: NotRequired[bool]
    idmap: NotRequired[bool]


class Interface(TypedDict):
    """One network interface, made by whoever owns the bridge and configured by the child."""

    name: str
    bridge: str
    address: str
    prefix_len: int
    gateway: str
    mac: str
    mtu: int


class NetworkPlan(TypedDict):
    interfaces: list[Interface]


class LaunchPlan(TypedDict):
    """All of one start. `namespaces` maps kinds ("net", "mnt", ...) to "" (new) or a path; a kind not there is shared
    with the host. `uid_maps` rows are [inside, outside, length]; empty with a user namespace: the supervisor's range.
    """

    version: int
    namespaces: dict[str, str]
    uid_maps: list[list[int]]
    gid_maps: list[list[int]]
    skeleton: SkeletonPlan | None
    root: RootPlan
    root_propagation: int
    mounts: list[MountPlan]
    devices: list[DevicePlan]
    masked: list[str]
    readonly: list[str]
    shm_size_bytes: int
    hostname: str
    domainname: str
    sysctl: dict[str, str]
    network: NetworkPlan
    process: ExecPlan
    cgroup_path: str
    hold: bool
    """Wait on a listening socket before exec (OCI create and start)."""
    pass_files: int
    """Extra descriptors for the process, numbered from 3."""


def plan_launch(
    config: Config,
    root: RootPlan,
    *,
    user: str = "",
    groups: Sequence[str] = (),
    seccomp: str = "",
    init: str = "",
    pass_files: int = 0,
    hold: bool = False,
) -> LaunchPlan:
    """The plan of a configuration; Invalid for what contradicts the specification, Unsupported for what is not done.

    `user` ("name", "uid", "name:group", ...) and `groups` override the numbers of process.user and are resolved
    inside. `seccomp="default"` takes the default profile instead of linux.seccomp. `init` is a static program of the
    host, bound at /sbin/docker-init and put before the arguments.
    """
    linux = config.get("linux", {})
    _refuse(config, linux)
    namespaces = plan_namespaces(linux)
    skeleton, mounts = plan_mounts(config.get("mounts", []), root_readonly=bool(root.get("readonly")))
    masked, readonly = plan_paths(skeleton, linux.get("maskedPaths", []), linux.get("readonlyPaths", []))
    stock = is_stock(skeleton) and _stock_namespaces(namespaces)
    shm_size_bytes = shm_size_of(skeleton) if stock else 0
    devices = split_devices(skeleton, linux.get("devices", []), stock=stock)
    args_prefix: list[str] = []
    if init:
        mounts.append(_init_mount(init))
        args_prefix = [INIT_PATH, "--"]
    process = config.get("process", {})
    plan: LaunchPlan = {
        "version": VERSION,
        "namespaces": namespaces,
        "uid_maps": _id_maps(linux.get("uidMappings", [])),
        "gid_maps": _id_maps(linux.get("gidMappings", [])),
        "skeleton": None if stock else skeleton,
        "root": root,
        "root_propagation": _root_propagation(linux.get("rootfsPropagation", "")),
        "mounts": mounts,
        "devices": devices,
        "masked": masked,
        "readonly": readonly,
        "shm_size_bytes": shm_size_bytes,
        "hostname": config.get("hostname", ""),
        "domainname": config.get("domainname", ""),
        "sysctl": dict(linux.get("sysctl", {})),
        "network": {"interfaces": []},
        "process": plan_process(
            process,
            user=user,
            groups=groups,
            seccomp=_seccomp(linux, process, seccomp),
            seccomp_flags=_seccomp_flags(linux, seccomp),
        ),
        "cgroup_path": linux.get("cgroupsPath", ""),
        "hold": hold,
        "pass_files": pass_files,
    }
    plan["process"]["args"][:0] = args_prefix
    _check(plan)
    return plan


def plan_exec(
    process: Process,
    *,
    user: str = "",
    groups: Sequence[str] = (),
    seccomp: str = "",
    linux: Linux | None = None,
    pass_files: int = 0,
) -> ExecPlan:
    """The plan of one more process in a running container; `seccomp` and the errors as for `plan_launch`."""
    plan = plan_process(
        process,
        user=user,
        groups=groups,
        seccomp=_seccomp(linux or {}, process, seccomp),
        seccomp_flags=_seccomp_flags(linux or {}, seccomp),
    )
    plan["pass_files"] = pass_files
    return plan


def spare_kind(plan: LaunchPlan) -> str:
    """Which stock spare fits: "none", "bridge" (one interface on a bridge), or "" for the cold path."""
    if plan["skeleton"] is not None or plan["uid_maps"] or plan["cgroup_path"]:
        return ""
    interfaces = plan["network"]["interfaces"]
    if not interfaces:
        return "none"
    if len(interfaces) == 1 and interfaces[0]["bridge"] and interfaces[0]["name"] == "eth0":
        return "bridge"
    return ""


def exec_namespaces(plan: LaunchPlan) -> list[str]:
    """The kinds of namespace an exec has to enter."""
    return list(plan["namespaces"])


INIT_PATH = "/sbin/docker-init"


def _init_mount(source: str) -> MountPlan:
    mounts = plan_mounts(
        [{"destination": INIT_PATH, "type": "bind", "source": source, "options": ["bind", "ro"]}], root_readonly=False
    )[1]
    return mounts[0]


def plan_namespaces(linux: Linux) -> dict[str, str]:
    """Kinds to paths ("" = new). A mount namespace is always new; joining one by path is not supported."""
    found: dict[str, str] = {}
    for entry in linux.get("namespaces", []):
        word = entry.get("type", "")
        kind = KINDS.get(word)
        if kind is None:
            raise Invalid(f"unknown namespace type {word!r}", subject=word)
        if kind in found:
            raise Invalid(f"namespace {word} is listed twice", subject=word)
        path = entry.get("path", "")
        if path and not path.startswith("/"):
            raise Invalid(f"namespace path {path} is not absolute", subject=word)
        found[kind] = path
    if found.get("mnt"):
        raise Unsupported("joining a mount namespace by path is not supported", subject="mount")
    if "mnt" not in found:
        raise Unsupported("a container without its own mount namespace is not supported", subject="mount")
    return found


def _stock_namespaces(namespaces: dict[str, str]) -> bool:
    return namespaces.keys() == STOCK_KINDS and not any(namespaces.values())


def _id_maps(rows: list[IDMapping]) -> list[list[int]]:
    return [[row["containerID"], row["hostID"], row["size"]] for row in rows]


_PROPAGATIONS = {
    "": 0,
    "private": 1 << 18,
    "rprivate": 1 << 18,
    "slave": 1 << 19,
    "rslave": 1 << 19,
    "shared": 1 << 20,
    "rshared": 1 << 20,
    "unbindable": 1 << 17,
    "runbindable": 1 << 17,
}


def _root_propagation(word: str) -> int:
    if word not in _PROPAGATIONS:
        raise Invalid(f"unknown rootfsPropagation {word!r}", subject=word)
    value = _PROPAGATIONS[word]
    return 0 if value == 1 << 18 else value


def _seccomp_flags(linux: Linux, word: str) -> int:
    """What linux.seccomp asks the filter to be loaded with; the default profile has no flags."""
    return 0 if word or "seccomp" not in linux else filters.profile_flags(dict(linux["seccomp"]))


def _seccomp(linux: Linux, process: Process, word: str) -> str:
    """ "" (none), "default", or the compiled program in base64; the default profile depends on the capabilities."""
    if word == "default":
        held = frozenset(process.get("capabilities", {}).get("bounding", []))
        if held == filters.DEFAULT_CAPS:
            return word
        return base64.b64encode(filters.default_program(held)).decode()
    if word:
        raise Invalid(f'seccomp is {word!r}, not "default" or empty', subject="seccomp")
    if "seccomp" not in linux:
        return ""
    return base64.b64encode(filters.compile_profile(dict(linux["seccomp"]), MACHINE)).decode()


def _refuse(config: Config, linux: Linux) -> None:
    process: Any = config.get("process", {})
    for key in ("apparmorProfile", "selinuxLabel", "scheduler", "execCPUAffinity"):
        if process.get(key):
            raise Unsupported(f"process.{key} is not supported", subject=key)
    for key in ("intelRdt", "personality", "timeOffsets", "netDevices", "mountLabel"):
        if linux.get(key):
            raise Unsupported(f"linux.{key} is not supported", subject=key)


def _check(plan: LaunchPlan) -> None:
    namespaces = plan["namespaces"]
    if bool(plan["uid_maps"]) != bool(plan["gid_maps"]):
        raise Invalid("uidMappings and gidMappings go together", subject="uidMappings")
    if plan["uid_maps"] and "user" not in namespaces:
        raise Invalid("id mappings without a user namespace", subject="uidMappings")
    if plan["hostname"] and "uts" not in namespaces:
        raise Invalid("a hostname needs a uts namespace of its own", subject="hostname")
    for key in plan["sysctl"]:
        _check_sysctl(key, namespaces)
    root = plan["root"]
    if not root.get("path") and not root.get("lower"):
        raise Invalid("the root has neither a path nor layers", subject="root")
    if bool(root.get("upper")) != bool(root.get("work")):
        raise Invalid("an upper directory needs a work directory", subject="root")
    outside = sum(mount["kind"] == "bind" for mount in plan["mounts"]) + len(plan["devices"])
    if outside > MAX_FDS:
        raise Invalid(f"{outside} binds and devices, at most {MAX_FDS} are possible", subject="mounts")


_IPC_SYSCTLS = frozenset({"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem"})


def _check_sysctl(key: str, namespaces: dict[str, str]) -> None:
    """Only what is namespaced, and only with that namespace private; runc's rule."""
    dotted = key.replace("/", ".")
    if not dotted or ".." in dotted or dotted.startswith("."):
        raise Invalid(f"invalid sysctl {key!r}", subject=key)
    if dotted.startswith("net."):
        kind = "net"
    elif dotted in _IPC_SYSCTLS or dotted.startswith(("kernel.shm", "fs.mqueue.")):
        kind = "ipc"
    elif dotted == "kernel.domainname":
        kind = "uts"
    else:
        raise Invalid(f'sysctl "{key}" is not in a separate kernel namespace', subject=key)
    if kind not in namespaces:
        raise Invalid(f'sysctl "{key}" not allowed in the host\'s {kind} namespace', subject=key)


__all__ = [
    "DevicePlan",
    "ExecPlan",
    "Interface",
    "LaunchPlan",
    "MountPlan",
    "RootPlan",
    "SkeletonPlan",
    "exec_namespaces",
    "plan_exec",
    "plan_launch",
    "spare_kind",
]
