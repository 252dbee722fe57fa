"""Which mounts an instance gets: what it inherits, what it asked for, and anonymous volumes for the rest. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence

import msgspec

from bireme.instance.spec import InstanceSpec, Mount


def plan_mounts(spec: InstanceSpec, inherited: Sequence[Mount]) -> tuple[Mount, ...]:
    """Inherited ones first, asked ones in their place; a VOLUME where nothing else is; parents before what is below."""
    by_target = {mount.target: mount for mount in (*inherited, *spec.mounts)}
    for text in spec.volumes:
        target = "/" + posixpath.normpath(text).lstrip("/")
        if target != "/" and target not in by_target:
            by_target[target] = Mount(kind="volume", target=target, anonymous=True)
    return tuple(sorted(by_target.values(), key=depth))


def depth(mount: Mount) -> int:
    return mount.target.count("/")


def inherited_mounts(mounts: Iterable[Mount], read_only: bool) -> list[Mount]:
    """What --volumes-from takes over of another instance's mounts; never filled from the new image."""
    return [
        msgspec.structs.replace(mount, read_only=mount.read_only or read_only, no_copy=True)
        for mount in mounts
        if mount.kind in ("bind", "volume")
    ]
