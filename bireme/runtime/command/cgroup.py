"""The cgroup of a container on the command line: linux.cgroupsPath and linux.resources.

A path from the root names a cgroup of the whole machine's tree, a relative one lies below our own delegated cgroup (or
the root, when there is none). Without a path it is /bireme-runtime/ID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from bireme.errors import Conflict, Invalid, NotFound, Unsupported
from bireme.linux.cgroup import DEFAULT_RULES, CgroupLimits, CgroupManager, limits_from_resources, open_cgroups, tree

if TYPE_CHECKING:
    from collections.abc import Mapping

PARENT = "/bireme-runtime"


class CgroupPlace(NamedTuple):
    """`subtree` as for open_cgroups, `name` in it."""

    subtree: str
    name: str


def place_of(path: str, identity: str) -> CgroupPlace:
    """Where linux.cgroupsPath says; Unsupported for systemd's form, Invalid for one that climbs."""
    if not path:
        return CgroupPlace(PARENT, identity)
    if path.count(":") == 2 and "/" not in path:
        raise Unsupported(f"cgroupsPath {path} is systemd's form: a path is needed", place="linux.cgroupsPath")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise Invalid(f"cgroupsPath {path!r} cannot name a cgroup", place="linux.cgroupsPath")
    return CgroupPlace(("/" if path.startswith("/") else "") + "/".join(parts[:-1]) or "/", parts[-1])


def make(place: CgroupPlace, resources: Mapping[str, Any]) -> CgroupManager:
    """Create the cgroup with its limits; the manager is the caller's. Nothing is left when it fails."""
    limits = limits_from_resources(resources)
    manager = _create(place, limits)
    try:
        manager.apply(place.name, limits)
    except BaseException:
        manager.remove(place.name)
        manager.close()
        raise
    return manager


def _create(place: CgroupPlace, limits: CgroupLimits) -> CgroupManager:
    """Once more when somebody's `delete` took the empty parent away in between."""
    for attempt in range(5):
        manager = open_cgroups(place.subtree)
        try:
            if manager.exists(place.name):
                if manager.pids(place.name):
                    raise Conflict(f"cgroup {place.name} is in use", subject=place.name)
                manager.remove(place.name)
            manager.create(place.name, limits.devices or DEFAULT_RULES)
        except BaseException as error:
            manager.close()
            if place.subtree != PARENT or attempt == 4 or not isinstance(error.__cause__, FileNotFoundError):
                raise
        else:
            return manager
    raise AssertionError("unreachable")


def open_of(data: Mapping[str, Any]) -> tuple[CgroupManager, str]:
    """The manager and name of the cgroup in a container's state; NotFound without one."""
    cgroup = data.get("cgroup")
    if not cgroup:
        raise NotFound("the container has no cgroup", place="cgroup")
    return open_cgroups(cgroup["subtree"]), str(cgroup["name"])


def remove(data: Mapping[str, Any], *, kill: bool) -> bool:
    """Take the cgroup away (with `kill`, and whatever runs in it); False when something still runs there. The default
    parent goes with its last container."""
    if not data.get("cgroup"):
        return True
    manager, name = open_of(data)
    try:
        if kill and manager.exists(name):
            manager.kill(name, 9, 10.0)
        gone = tree.poll_until(lambda: manager.remove(name), 5.0 if kill else 0.5)
        if gone and data["cgroup"]["subtree"] == PARENT:
            for path in set(manager.paths(name).values()):
                tree.remove_quietly(path.rpartition("/")[0])
        return gone
    finally:
        manager.close()
