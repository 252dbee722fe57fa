"""Which ids of the host a container without mappings of its own gets, and whose ids a joined user namespace has.

Ranges are handed out below the lock of the root directory: the lowest that no other container of the same --root has.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bireme.errors import Invalid
from bireme.linux import namespaces, process
from bireme.linux.fd import lock_file
from bireme.runtime import state as store

if TYPE_CHECKING:
    from bireme.runtime.plan import LaunchPlan
    from bireme.runtime.state import Container

FIRST = 0x20000000
LENGTH = 65536


def bases(plan: LaunchPlan, root: str, container: Container) -> tuple[int, int | None]:
    """(uid base, gid base or None for the same): what id 0 inside is outside, where the plan does not say."""
    path = plan["namespaces"].get("user")
    if path is None or plan["uid_maps"]:
        return 0, None
    if path:
        return root_of(path)
    return allot(root, container), None


def allot(root: str, container: Container) -> int:
    """The lowest free range, written into the container's state at once."""
    lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lock_file(lock, block=True)
        taken = set()
        for name in store.names(root):
            if name != container.id:
                try:
                    taken.add(store.load(root, name).data.get("uid_base"))
                except (Invalid, OSError, ValueError):
                    continue
        base = next(FIRST + LENGTH * n for n in range(0x8000) if FIRST + LENGTH * n not in taken)
        container.data["uid_base"] = base
        container.save()
        return base
    finally:
        os.close(lock)


def root_of(path: str) -> tuple[int, int]:
    """What uid 0 and gid 0 of the user namespace at `path` are here; found out by a child that enters it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    gate, opener = os.pipe2(os.O_CLOEXEC)
    pid, _ = process.clone3()
    if pid == 0:
        try:
            os.close(opener)
            namespaces.setns(fd, namespaces.KINDS["user"], subject=path)
            os.write(writer, b"+")
            os.read(gate, 1)
        finally:
            os._exit(0)
    try:
        os.close(writer)
        if os.read(reader, 1) != b"+":
            raise Invalid(f"{path} cannot be joined as a user namespace", subject=path)
        return _mapped_root(f"/proc/{pid}/uid_map"), _mapped_root(f"/proc/{pid}/gid_map")
    finally:
        for number in (fd, reader, gate, opener):
            os.close(number)
        process.wait_pid(pid)


def _mapped_root(path: str) -> int:
    with open(path) as file:
        for line in file:
            inside, outside, length = map(int, line.split())
            if inside <= 0 < inside + length:
                return outside - inside
    raise Invalid("root is not mapped in the user namespace", subject=path)
