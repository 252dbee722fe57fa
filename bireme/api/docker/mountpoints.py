"""Mounts as inspect and listings show them."""

from __future__ import annotations

from typing import Any

from bireme.instance.spec import InstanceSpec, Mount


def mount_points(spec: InstanceSpec) -> list[dict[str, Any]]:
    """One entry per bind, volume and tmpfs of Mounts; what came in HostConfig.Tmpfs is only shown there."""
    quiet = spec.edge.get("HostConfig", {}).get("Tmpfs", {})
    shown = []
    for mount in spec.mounts:
        if mount.kind == "tmpfs" and mount.target in quiet:
            continue
        shown.append(_volume(mount) if mount.kind == "volume" else _other(mount))
    return shown


def _volume(mount: Mount) -> dict[str, Any]:
    return {
        "Type": "volume",
        "Name": mount.volume,
        "Source": mount.source,
        "Destination": mount.target,
        "Driver": "local",
        "Mode": mount.shown_mode,
        "RW": not mount.read_only,
        "Propagation": "",
    }


def _other(mount: Mount) -> dict[str, Any]:
    return {
        "Type": mount.kind,
        "Source": mount.source,
        "Destination": mount.target,
        "Mode": "ro" if mount.read_only and mount.kind == "bind" else "",
        "RW": not mount.read_only,
        "Propagation": mount.propagation if mount.kind == "bind" else "",
    }
