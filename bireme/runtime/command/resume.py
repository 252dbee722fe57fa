"""`resume`: let a paused container run again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bireme.errors import Conflict
from bireme.runtime import state as store
from bireme.runtime.command import cgroup

if TYPE_CHECKING:
    from bireme.runtime.main import Options


def run(options: Options) -> int:
    container = store.load(options.root, options.id, lock=True)
    if container.status() != store.PAUSED:
        raise Conflict("container not paused", subject=container.id)
    manager, name = cgroup.open_of(container.data)
    try:
        manager.thaw(name)
    finally:
        manager.close()
    return 0
