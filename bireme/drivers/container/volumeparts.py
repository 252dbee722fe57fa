"""Volumes that the supervisor cannot clone by their path: opened here as detached mounts and named by descriptor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from bireme.instance.spec import Mount
from bireme.linux.fd import close_quietly
from bireme.runtime.plan import LaunchPlan


def open_parts(mounts: Sequence[Mount]) -> dict[str, int]:
    """A detached mount by target for each volume that has a subpath or is a mount itself. Blocks; NotFound for a
    subpath that is not there or leads out of its volume."""
    from bireme.storage.volumemount import open_volume

    opened: dict[str, int] = {}
    try:
        for mount in mounts:
            if mount.subpath or mount.mounted:
                opened[mount.target] = open_volume(mount.source, mount.subpath)
    except BaseException:
        close_quietly(*opened.values())
        raise
    return opened


def give_parts(plan: LaunchPlan, opened: Mapping[str, int]) -> None:
    """Have the plan name the descriptors; they stay open until the start is answered."""
    for entry in plan["mounts"]:
        fd = opened.get(entry["target"])
        if fd is not None:
            entry["source"], entry["given"] = f"/proc/{os.getpid()}/fd/{fd}", True
