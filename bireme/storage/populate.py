"""The first contents of a volume: what the image has at the place where it is mounted.

A worker process (populate_worker.py) merges the layers, read-only and in a mount namespace of its own, resolves the
place inside them as the start will, and copies with owners, modes and links, jailed in the volume. Ids are copied as
they are: they are the container's own, and the mount of a volume is mapped as the root is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from bireme.storage.worker import run_worker


def has_content(layers: Sequence[str], target: str) -> bool:
    """Whether the image may have something at `target`: False only when no layer has it and no link is on the way.

    Costs a few lstat calls, a worker costs a process. Layers do not change, so a path whose steps are directories
    stays one.
    """
    path = ""
    for part in filter(None, target.split("/")):
        path = f"{path}/{part}"
        kinds = [found.st_mode for layer in layers if (found := _lstat(layer + path)) is not None]
        if any(stat.S_ISLNK(mode) for mode in kinds):
            return True
        if not any(stat.S_ISDIR(mode) for mode in kinds):
            return any(not stat.S_ISCHR(mode) for mode in kinds)
        layers = [layer for layer in layers if (found := _lstat(layer + path)) and stat.S_ISDIR(found.st_mode)]
    return True


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=False)
    except OSError:
        return None


def populate(layers: Sequence[str], target: str, volume: int) -> bool:
    """Copy what the image made of `layers` (topmost first) has at `target` into the open directory `volume` when that
    is empty; whether it did. Invalid when a file is there. Blocks."""
    if os.listdir(volume):
        return False
    request = {"layers": list(layers), "target": target, "into": volume}
    return bool(run_worker("bireme.storage.populate_worker", request, (volume,))["copied"])
