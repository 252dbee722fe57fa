"""The mounts of a configuration, divided: what belongs to the skeleton, what is made outside, what is mounted last.

The skeleton holds /proc, /sys and /dev with everything the configuration mounts below them by type (proc, sysfs, tmpfs,
devpts, mqueue, cgroup). It depends on no image, so it can stand ready before a start. Binds, and file systems anywhere
else, come after the root is in place, in the configuration's order. Pure.
"""

from __future__ import annotations

import posixpath
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NotRequired, TypedDict

from bireme.errors import Invalid
from bireme.runtime import defaults
from bireme.runtime.options import Options, parse_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bireme.oci.runtime_spec import Device, Mount

TOPS = ("/proc", "/sys", "/dev")
_PSEUDO = frozenset({"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"})
_FILESYSTEMS = _PSEUDO - {"cgroup", "cgroup2"}


class PseudoMount(TypedDict):
    """One mount(2) of the skeleton: `flags` are MS_*, `data` the file system's text."""

    target: str
    type: str
    source: str
    flags: int
    data: str


class DevicePlan(TypedDict):
    """A device node: `kind` is "c", "b" or "p"; owner and mode as inside."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


class SkeletonPlan(TypedDict):
    """The pseudo file systems and what is hidden or read-only in them; `devices` are nodes besides the default six."""

    mounts: list[PseudoMount]
    masked: list[str]
    readonly: list[str]
    devices: list[DevicePlan]


class MountPlan(TypedDict):
    """A mount that comes after the root. "bind": made outside from `source` with these attributes, then moved in;
    "filesystem": made by the child. Attributes are MOUNT_ATTR_*; `tree_*` go to every mount of a recursive bind."""

    target: str
    kind: str
    type: str
    source: str
    add: int
    clear: int
    tree_add: int
    tree_clear: int
    propagation: int
    propagation_tree: bool
    recursive: bool
    idmap: str
    options: list[list[str | None]]
    given: NotRequired[bool]
    """`source` is /proc/PID/fd/N of whoever sent the plan and keeps it open: a mount that is nowhere yet."""


def plan_mounts(mounts: Sequence[Mount], *, root_readonly: bool) -> tuple[SkeletonPlan, list[MountPlan]]:
    """Divide the mounts; Invalid for a destination that is not absolute, a bind without source, an unknown type."""
    skeleton: SkeletonPlan = {"mounts": [], "masked": [], "readonly": [], "devices": []}
    later: list[MountPlan] = []
    for mount in mounts:
        target = _target(mount)
        kind = mount.get("type", "")
        options = parse_options(mount.get("options", []))
        if options.bind or kind in ("bind", "rbind"):
            later.append(_bind(mount, target, options))
        elif kind not in _PSEUDO:
            raise Invalid(f"mount {target}: unknown file system type {kind!r}", subject=target)
        elif _in_skeleton(target, skeleton, later):
            source = mount.get("source", "") or kind
            skeleton["mounts"].append(_pseudo(target, kind, source, options).copy())
        elif kind in _FILESYSTEMS:
            later.append(_filesystem(mount, target, kind, options))
        else:
            raise Invalid(f"mount {target}: a cgroup mount belongs below /sys", subject=target)
    return skeleton, later


def _target(mount: Mount) -> str:
    return _plain(mount.get("destination", ""))


@lru_cache(maxsize=256)
def _plain(destination: str) -> str:
    if not destination.startswith("/") or "\0" in destination:
        raise Invalid(f"mount destination {destination!r} is not an absolute path", subject=destination)
    target = posixpath.normpath(destination)
    target = "/" + target.lstrip("/")
    if target == "/":
        raise Invalid("invalid mount destination '/': it is the root", subject=destination)
    return target


def _in_skeleton(target: str, skeleton: SkeletonPlan, later: list[MountPlan]) -> bool:
    top = "/" + target.split("/", 2)[1]
    if top not in TOPS or any(_covers(mount["target"], target) for mount in later):
        return False
    return target == top or any(mount["target"] == top for mount in skeleton["mounts"])


def _covers(above: str, below: str) -> bool:
    return above == below or below.startswith(above + "/")


@lru_cache(maxsize=64)
def _pseudo(target: str, kind: str, source: str, options: Options) -> PseudoMount:
    return {
        "target": target,
        "type": kind,
        "source": source,
        "flags": options.mount_flags,
        "data": options.data_text,
    }


def _bind(mount: Mount, target: str, options: Options) -> MountPlan:
    source = mount.get("source", "")
    if not source.startswith("/") or "\0" in source:
        raise Invalid(f"bind mount {target}: source {source!r} is not an absolute path", subject=source)
    if options.data:
        raise Invalid(f"bind mount {target}: unknown option {options.data[0][0]!r}", subject=target)
    if mount.get("uidMappings") or mount.get("gidMappings"):
        raise Invalid(f"bind mount {target}: mappings of its own are not supported", subject=target)
    plan = _plan(mount, target, "bind", "none", options)
    plan["recursive"] = options.recursive or mount.get("type") == "rbind"
    return plan


def _filesystem(mount: Mount, target: str, kind: str, options: Options) -> MountPlan:
    return _plan(mount, target, "filesystem", kind, options)


def _plan(mount: Mount, target: str, kind: str, filesystem: str, options: Options) -> MountPlan:
    return {
        "target": target,
        "kind": kind,
        "type": filesystem,
        "source": mount.get("source", "") or filesystem,
        "add": options.add,
        "clear": options.clear,
        "tree_add": options.tree_add,
        "tree_clear": options.tree_clear,
        "propagation": options.propagation,
        "propagation_tree": options.propagation_tree,
        "recursive": options.recursive,
        "idmap": options.idmap,
        "options": [[key, value] for key, value in options.data],
    }


def plan_paths(skeleton: SkeletonPlan, masked: Sequence[str], readonly: Sequence[str]) -> tuple[list[str], list[str]]:
    """Give the skeleton its own masked and read-only paths; returns those that lie elsewhere."""
    tops = tuple(mount["target"] + "/" for mount in skeleton["mounts"] if mount["target"] in TOPS)
    skeleton["masked"], other_masked = _split_paths(tuple(masked), tops)
    skeleton["readonly"], other_readonly = _split_paths(tuple(readonly), tops)
    return other_masked, other_readonly


def _split_paths(paths: tuple[str, ...], tops: tuple[str, ...]) -> tuple[list[str], list[str]]:
    inside, elsewhere = _split_paths_once(paths, tops)
    return list(inside), list(elsewhere)


@lru_cache(maxsize=64)
def _split_paths_once(paths: tuple[str, ...], tops: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    for path in paths:
        if not path.startswith("/") or "/../" in path + "/":
            raise Invalid(f"masked or read-only path {path!r} is not a plain absolute path", subject=path)
    return (
        tuple(sorted(path for path in paths if path.startswith(tops))),
        tuple(path for path in paths if not path.startswith(tops)),
    )


def split_devices(skeleton: SkeletonPlan, devices: Sequence[Device], *, stock: bool) -> list[DevicePlan]:
    """Devices besides the default ones: below /dev of a skeleton of its own they belong to it, else they are returned
    and bound in from outside."""
    rest: list[DevicePlan] = []
    own_dev = not stock and any(m["target"] == "/dev" and m["type"] == "tmpfs" for m in skeleton["mounts"])
    for device in devices:
        plan = _device(device)
        if _is_default(plan):
            continue
        if own_dev and plan["path"].startswith("/dev/"):
            skeleton["devices"].append(plan)
        else:
            rest.append(plan)
    return rest


_KINDS = {"c": "c", "u": "c", "b": "b", "p": "p"}


def _device(device: Device) -> DevicePlan:
    path = device.get("path", "")
    kind = _KINDS.get(device.get("type", ""))
    if kind is None or not path.startswith("/") or ".." in path.split("/"):
        raise Invalid(f"invalid device {path!r} of type {device.get('type')!r}", subject=path)
    if kind != "p" and ("major" not in device or "minor" not in device):
        raise Invalid(f"device {path} has no numbers", subject=path)
    return {
        "path": posixpath.normpath(path),
        "kind": kind,
        "major": device.get("major", 0),
        "minor": device.get("minor", 0),
        "mode": device.get("fileMode", 0o666) & 0o777,
        "uid": device.get("uid", 0),
        "gid": device.get("gid", 0),
    }


def _is_default(plan: DevicePlan) -> bool:
    """Made anyway: the six nodes, and /dev/ptmx, which is a link to the container's own devpts."""
    return plan["path"] == "/dev/ptmx" or any(
        plan["path"] == f"/dev/{name}" and (plan["kind"], plan["major"], plan["minor"]) == ("c", major, minor)
        for name, major, minor in defaults.DEVICES
    )


def stock_skeleton() -> SkeletonPlan:
    """The one spares build."""
    skeleton, _ = plan_mounts(defaults.default_mounts(), root_readonly=False)
    plan_paths(skeleton, defaults.MASKED_PATHS, defaults.READONLY_PATHS)
    return skeleton


STOCK = stock_skeleton()


def is_stock(skeleton: SkeletonPlan) -> bool:
    """Whether a spare's skeleton will do: only the size of /dev/shm may differ."""
    if skeleton["masked"] != STOCK["masked"] or skeleton["readonly"] != STOCK["readonly"]:
        return False
    if len(skeleton["mounts"]) != len(STOCK["mounts"]):
        return False
    return {_without_size(mount) for mount in skeleton["mounts"]} == _stock_rows()


@cache
def _stock_rows() -> frozenset[tuple[str, str, int, frozenset[str]]]:
    return frozenset(_without_size(mount) for mount in STOCK["mounts"])


def _without_size(mount: PseudoMount) -> tuple[str, str, int, frozenset[str]]:
    return mount["target"], mount["type"], mount["flags"], _words(mount["data"], mount["target"] == "/dev/shm")


@lru_cache(maxsize=64)
def _words(data: str, without_size: bool) -> frozenset[str]:
    words = data.split(",")
    return frozenset(word for word in words if not (without_size and word.startswith("size=")))


_UNITS = {"k": 10, "m": 20, "g": 30}


def shm_size_of(skeleton: SkeletonPlan) -> int:
    """The size of /dev/shm in bytes when it is not the default, else 0."""
    for mount in skeleton["mounts"]:
        if mount["target"] == "/dev/shm":
            for word in mount["data"].split(","):
                if word.startswith("size="):
                    size_bytes = _size(word[5:])
                    return 0 if size_bytes == defaults.SHM_SIZE_BYTES else size_bytes
    return 0


def _size(text: str) -> int:
    unit = _UNITS.get(text[-1:].lower())
    digits = text[:-1] if unit else text
    if not digits.isdigit():
        raise Invalid(f"invalid size {text!r} of /dev/shm", subject="/dev/shm")
    return int(digits) << (unit or 0)
