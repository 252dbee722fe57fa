"""`pause`: stop every process of a running container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bireme.errors import Conflict
from bireme.runtime import state as store
from bireme.runtime.command import cgroup

if TYPE_CHECKING:
    from bireme.runtime.main import Options


def run(options: Options) -> int:
    container = store.load(options.root, options.id, lock=True)
    status = container.status()
    if status not in (store.RUNNING, store.CREATED):
        raise Conflict(f"container not running: it is {status}", subject=container.id)
    manager, name = cgroup.open_of(container.data)
    try:
        manager.freeze(name)
    finally:
        manager.close()
    return 0
