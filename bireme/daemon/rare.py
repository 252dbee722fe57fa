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
