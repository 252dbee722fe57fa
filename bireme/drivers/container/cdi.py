"""Devices by name: the Container Device Interface (github.com/cncf-tags/container-device-interface, SPEC.md).

`vendor.com/class=name` is looked up in the specifications of /etc/cdi and /var/run/cdi when a container starts; a file
of the latter wins over one of the former. A specification is JSON; a file named .yaml counts when it is written as
JSON, which YAML includes. What it asks for and we do not do (hooks, network devices, Intel RDT) is refused.
"""

from __future__ import annotations

import json
import os
from typing import Any

import msgspec

from bireme.errors import Invalid, Unsupported
from bireme.instance.driver import Placement
from bireme.instance.spec import DeviceRequest, Mount

DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
_ENDINGS = (".json", ".yaml", ".yml")
_MOST_BYTES = 16 << 20
_PROPAGATIONS = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})
_NOT_DONE = ("hooks", "netDevices", "intelRdt")


def inject(placement: Placement, directories: tuple[str, ...] = DIRECTORIES) -> Placement:
    """The placement with what its named devices bring: nodes, mounts, environment, groups. Invalid for a name nobody
    has; Unsupported for a device that needs more than that."""
    spec = placement.spec
    edits = _edits_of(spec.cdi_devices, _read_all(directories))
    devices, mounts = list(spec.devices), list(spec.mounts)
    env, groups = list(spec.process.env), list(spec.process.groups)
    for edit in edits:
        env.extend(edit.get("env") or ())
        groups.extend(str(number) for number in edit.get("additionalGids") or ())
        devices.extend(_node(node) for node in edit.get("deviceNodes") or ())
        mounts.extend(_mount(entry) for entry in edit.get("mounts") or ())
    process = msgspec.structs.replace(spec.process, env=tuple(env), groups=tuple(groups))
    spec = msgspec.structs.replace(spec, devices=tuple(devices), mounts=tuple(mounts), process=process)
    return msgspec.structs.replace(placement, spec=spec)


def _edits_of(names: tuple[str, ...], specifications: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each specification asks for once, then its devices, in the order of the names."""
    edits: list[dict[str, Any]] = []
    used: list[int] = []
    unknown = []
    for name in names:
        found = _find(name, specifications)
        if found is None:
            unknown.append(name)
            continue
        specification, device = found
        if id(specification) not in used:
            used.append(id(specification))
            edits.append(_checked(specification.get("containerEdits") or {}, name))
        edits.append(_checked(device.get("containerEdits") or {}, name))
    if unknown:
        raise Invalid(
            f"CDI device injection failed: unresolvable CDI devices {', '.join(unknown)}",
            subject=unknown[0],
            hint=f"specifications are read from {' and '.join(DIRECTORIES)}",
        )
    return edits


def _find(name: str, specifications: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    kind, _, device = name.partition("=")
    for specification in specifications:
        if specification.get("kind") == kind:
            for entry in specification.get("devices") or ():
                if entry.get("name") == device:
                    return specification, entry
    return None


def _checked(edits: dict[str, Any], name: str) -> dict[str, Any]:
    for key in _NOT_DONE:
        if edits.get(key):
            raise Unsupported(f"CDI device {name} needs {key}, which are not supported", subject=name)
    return edits


def _node(node: dict[str, Any]) -> DeviceRequest:
    for key in ("fileMode", "uid", "gid"):
        if node.get(key):
            raise Unsupported(f"CDI device node {node.get('path')} sets {key}, which is not supported", subject=key)
    path = str(node["path"])
    return DeviceRequest(
        host_path=str(node.get("hostPath") or path), path=path, permissions=str(node.get("permissions") or "rwm")
    )


def _mount(entry: dict[str, Any]) -> Mount:
    if entry.get("type") not in (None, "", "bind", "none"):
        raise Unsupported(f"CDI mount of type {entry['type']} is not supported", subject=str(entry["type"]))
    words = [str(word) for word in entry.get("options") or ()]
    return Mount(
        kind="bind",
        source=str(entry["hostPath"]),
        target=str(entry["containerPath"]),
        read_only="ro" in words,
        recursive="rbind" in words,
        propagation=next((word for word in words if word in _PROPAGATIONS), "rprivate"),
        options=tuple(w for w in words if w not in ("ro", "rw", "bind", "rbind") and w not in _PROPAGATIONS),
    )


def _read_all(directories: tuple[str, ...]) -> list[dict[str, Any]]:
    """Every specification, those of the last directory first."""
    found = []
    for directory in reversed(directories):
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        found += [_read(f"{directory}/{name}") for name in names if name.endswith(_ENDINGS)]
    return found


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            made = json.loads(file.read(_MOST_BYTES))
        if not isinstance(made, dict) or not isinstance(made.get("devices", []), list):
            raise ValueError("not an object with devices")
    except (OSError, ValueError, RecursionError) as error:
        hint = "" if path.endswith(".json") else "YAML is read only where it is written as JSON"
        raise Invalid(
            f"CDI device injection failed: cannot read {path}: {error}", subject=path, place="cdi", hint=hint
        ) from error
    return made
