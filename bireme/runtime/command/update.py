"""`update`: other limits for a container that exists, from a file of linux.resources or from options."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from bireme.errors import Conflict, Invalid
from bireme.linux.cgroup import limits_from_resources
from bireme.runtime import state as store
from bireme.runtime.bundle import read_json
from bireme.runtime.command import cgroup

if TYPE_CHECKING:
    from bireme.runtime.main import Options

_OPTIONS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}
_SIZES = {"memory", "memory-reservation", "memory-swap"}
_UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def run(options: Options) -> int:
    container = store.load(options.root, options.id, lock=True)
    if container.status() == store.STOPPED:
        raise Conflict("container not running", subject=container.id)
    limits = limits_from_resources(resources_of(options))
    manager, name = cgroup.open_of(container.data)
    try:
        manager.apply(name, limits)
    finally:
        manager.close()
    return 0


def resources_of(options: Options) -> dict[str, Any]:
    """linux.resources as the options say; --resources excludes the others, as for runc."""
    path = options.text("resources")
    if path == "-":
        try:
            value = json.loads(sys.stdin.buffer.read(1 << 20))
        except ValueError as error:
            raise Invalid(f"resources: {error}", place="resources") from None
        if not isinstance(value, dict):
            raise Invalid("resources are an object", place="resources")
        return _without_devices(value)
    if path:
        return _without_devices(read_json(path, "resources file")[0])
    resources: dict[str, Any] = {}
    for option, (group, key) in _OPTIONS.items():
        if options.has(option):
            value = options.values[option]
            resources.setdefault(group, {})[key] = parse_size(value) if option in _SIZES else value
    if not resources:
        raise Invalid("nothing to update", place="update")
    return resources


def _without_devices(resources: dict[str, Any]) -> dict[str, Any]:
    """An empty list of device rules changes none."""
    return {key: value for key, value in resources.items() if not (key == "devices" and not value)}


def parse_size(text: str) -> int:
    """Bytes in "268435456", "256M", "-1"."""
    number = text.rstrip("bBkKmMgGtT")
    unit = text[len(number) :].lower()
    if len(unit) == 2 and unit.endswith("b"):
        unit = unit[0]
    if unit not in _UNITS or not number.removeprefix("-").isdecimal():
        raise Invalid(f"invalid size {text!r}", place="memory")
    return int(number) << _UNITS[unit]
