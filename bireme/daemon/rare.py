"""Use cases whose code is loaded when somebody asks for the first time: an idle engine does without."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from bireme.engine.copying import Copying
    from bireme.engine.derive import Derivation
    from bireme.engine.events import Events
    from bireme.engine.images import Images
    from bireme.engine.instances import Instances
    from bireme.engine.sizes import Sizes
    from bireme.engine.table import InstanceTable
    from bireme.engine.tasks import TaskGroup
    from bireme.engine.volumes import Volumes
    from bireme.storage.db import Database


class FileUses(NamedTuple):
    """What is done with the files of instances."""

    copying: Callable[[], Copying]
    derivation: Callable[[], Derivation]


def file_uses(instances: Instances, images: Images, events: Events) -> FileUses:
    """Each of them is made once."""

    @cache
    def copying() -> Copying:
        from bireme.engine.copying import Copying

        return Copying(instances)

    @cache
    def derivation() -> Derivation:
        from bireme.engine.derive import Derivation

        return Derivation(instances, images, copying(), events)

    return FileUses(copying, derivation)


def volume_use(root: str, database: Database, table: InstanceTable, events: Events) -> Callable[[], Volumes]:
    """The volumes below `root`, made once."""

    @cache
    def volumes() -> Volumes:
        from bireme.engine.volumes import Volumes

        return Volumes(root, database, table, events)

    return volumes


def size_use(instances: Instances, images: Images, tasks: TaskGroup) -> Callable[[], Sizes]:
    """What measures instances and images, made once."""

    @cache
    def sizes() -> Sizes:
        from bireme.engine.sizes import Sizes

        return Sizes(instances, images, tasks)

    return sizes
