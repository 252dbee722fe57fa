"""How much disk instances and images take.

Measuring an instance walks its writable layer, in a thread, one instance after the other. As with dockerd nothing is
remembered afterwards, but who asks while a measurement runs gets its result. Layers of images never change: their sizes
are those found when they were unpacked.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from bireme.engine.images import Images
from bireme.engine.instances import Instances
from bireme.engine.record import Instance
from bireme.engine.tasks import TaskGroup
from bireme.errors import BiremeError, NotFound
from bireme.instance.driver import Disk
from bireme.storage.sizing import occupied_bytes, written_bytes

log = logging.getLogger(__name__)

UNKNOWN = -1


class InstanceSize(NamedTuple):
    """Bytes: `written` by the instance (-1 when that cannot be told), `whole` with its image."""

    written: int
    whole: int


class LayerUse(NamedTuple):
    """Bytes: `total` of all layers, each once; `shared` with other images, by image id."""

    total: int
    shared: dict[str, int]


class Sizes:
    """Measures instances; adds up the layers of images."""

    def __init__(self, instances: Instances, images: Images, tasks: TaskGroup) -> None:
        self._instances = instances
        self._images = images
        self._tasks = tasks
        self._running: dict[str, asyncio.Task[InstanceSize | None]] = {}
        self._committed: dict[str, int] = {}
        self._turn: asyncio.Lock | None = None

    async def of(self, references: Iterable[str]) -> dict[str, InstanceSize]:
        """The sizes of instances by id; one that is removed meanwhile is left out. NotFound for none of that name."""
        tasks = {}
        for reference in references:
            instance = self._instances.find(reference)
            tasks[instance.id] = self._measurement(instance)
        if tasks:
            await asyncio.wait(tasks.values())
        return {identity: size for identity, task in tasks.items() if (size := task.result()) is not None}

    def _measurement(self, instance: Instance) -> asyncio.Task[InstanceSize | None]:
        """The one that runs, else a new one. Not cancelled when who asked goes: others may wait for it."""
        task = self._running.get(instance.id)
        if task is None:
            task = self._running[instance.id] = self._tasks.spawn(self._measure(instance), "size")
            task.add_done_callback(lambda _: self._running.pop(instance.id, None))
        return task

    async def _measure(self, instance: Instance) -> InstanceSize | None:
        """None for one that is removed before its turn, or while it is walked."""
        async with self._turns():
            below = await self._below(instance)
            try:
                written = await asyncio.to_thread(self._written, instance)
            except (OSError, BiremeError) as error:
                if not self._there(instance):
                    return None
                log.warning("the size of %s cannot be told: %s", instance.name, error)
                return InstanceSize(UNKNOWN, below)
        return InstanceSize(written, below + written) if self._there(instance) else None

    def _turns(self) -> asyncio.Lock:
        """One tree is walked at a time."""
        if self._turn is None:
            self._turn = asyncio.Lock()
        return self._turn

    def _there(self, instance: Instance) -> bool:
        try:
            return self._instances.find(instance.id) is instance
        except NotFound:
            return False

    def _written(self, instance: Instance) -> int:
        driver = self._instances.driver(instance)
        if isinstance(driver, Disk):
            return occupied_bytes(driver.disk_path(instance.directory))
        root = instance.definition.root
        written = written_bytes(root.upper)
        if not root.lower and root.layers:  # a copy of its parent
            written = max(0, written - self._layer(root.layers[0]))
        return written

    async def _below(self, instance: Instance) -> int:
        """The image's size; that of the layers on disk when the image is gone."""
        try:
            return self._images.find(instance.spec.image_id).size_bytes
        except NotFound:
            pass
        try:
            return sum([await asyncio.to_thread(self._layer, path) for path in instance.definition.root.layers])
        except (OSError, BiremeError):
            return 0

    def _layer(self, path: str) -> int:
        size = self._committed.get(path)
        if size is None:
            size = self._committed[path] = written_bytes(path)
        return size

    async def directories(self, paths: Iterable[str]) -> list[int]:
        """The bytes of the files below each; -1 when that cannot be told."""
        async with self._turns():
            return [await asyncio.to_thread(_size_of, path) for path in paths]

    def layers(self) -> LayerUse:
        """What the layers of all images take. In memory."""
        views = self._images.all()
        sizes: dict[str, int] = {}
        users: Counter[str] = Counter()
        for view in views:
            for chain_id, layer in zip(view.image.chain_ids, view.image.layers, strict=True):
                sizes[chain_id] = layer.files_bytes
                users[chain_id] += 1
        shared = {v.id: sum(sizes[c] for c in v.image.chain_ids if users[c] > 1) for v in views}
        return LayerUse(sum(sizes.values()), shared)


def _size_of(path: str) -> int:
    try:
        return written_bytes(path)
    except (OSError, BiremeError) as error:
        log.warning("the size of %s cannot be told: %s", path, error)
        return UNKNOWN
