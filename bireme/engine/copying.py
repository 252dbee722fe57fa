"""The files of instances: look at one, copy out, copy in, export, what changed. A worker process touches them.

While an instance does not run its verbs and those that mount its root to change it exclude each other, as in dockerd:
whoever copies in holds its lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypedDict, cast

from bireme.engine.abilities import need
from bireme.engine.flow import Reading, Run, feed
from bireme.engine.instances import Instances
from bireme.engine.placement import outline
from bireme.engine.record import Instance
from bireme.instance.driver import Files, RootView
from bireme.storage import files

_WORKERS_MAX = 32
"""At a time; whoever comes then waits."""


class PathStat(TypedDict):
    """`mode` is Go's os.FileMode; `linkTarget` where a link leads in the end."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    linkTarget: str


class Copying:
    """stat, get, put, export, changes; `root` for those who make images of an instance."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances
        self._places = asyncio.Semaphore(_WORKERS_MAX)

    async def stat(self, reference: str, path: str) -> PathStat:
        """What `path` is; NotFound when it is not there."""
        instance = self._instances.find(reference)
        write = bool(instance.spec.mounts)
        claim = await self._claim(instance, write)
        try:
            view = await self._view(instance)
            return cast(PathStat, await Run(files.at_path(view, "stat", reference, path, write=write)).done)
        finally:
            await claim.release()

    async def get(self, reference: str, path: str) -> tuple[PathStat, Reading]:
        """The same and a tar archive of it; the archive must be closed."""
        instance = self._instances.find(reference)
        write = bool(instance.spec.mounts)
        claim = await self._claim(instance, write)
        try:
            view = await self._view(instance)
            reading = Reading(files.at_path(view, "get", reference, path, write=write), claim.release)
        except BaseException:
            await claim.release()
            raise
        try:
            found = cast(PathStat, await reading.run.started)
        except BaseException:
            await reading.aclose()
            raise
        self._instances.publish(instance, "archive-path")
        return found, reading

    async def put(
        self, reference: str, path: str, chunks: AsyncIterator[bytes], *, keep_kinds: bool = False, owned: bool = False
    ) -> None:
        """Unpack an archive into the directory `path`. `keep_kinds`: a directory is replaced by directories alone and
        the other way round; `owned`: everything belongs to the user of the instance."""
        instance = self._instances.find(reference)
        claim = await self._claim(instance, True)
        try:
            view = await self._view(instance)
            owner = instance.spec.process.user if owned else ""
            task = files.at_path(view, "put", reference, path, write=True, owner=owner, keep_kinds=keep_kinds)
            await feed(task, chunks)
            self._instances.publish(instance, "extract-to-dir")
        finally:
            await claim.release()

    async def export(self, reference: str) -> Reading:
        """The whole root as a tar archive, without what is mounted on it."""
        instance = self._instances.find(reference)
        reading = await self._of_layers(instance, "export")
        self._instances.publish(instance, "export")
        return reading

    async def changes(self, reference: str) -> Reading:
        """What differs from the image, as the JSON of Docker's API."""
        return await self._of_layers(self._instances.find(reference), "changes")

    async def root(self, instance: Instance) -> RootView:
        """Where the files of an instance are on disk."""
        return await self._files(instance).view(outline(instance), running=False)

    async def _of_layers(self, instance: Instance, verb: str) -> Reading:
        task = files.of_layers(await self.root(instance), verb, instance.name)
        claim = await self._claim(instance, False)
        return Reading(task, claim.release)

    async def _view(self, instance: Instance) -> RootView:
        return await self._files(instance).view(outline(instance), running=instance.running)

    def _files(self, instance: Instance) -> Files:
        return need(self._instances.driver(instance), Files, "access to files")

    async def _claim(self, instance: Instance, change: bool) -> _Claim:
        """A worker's place and, where `change` and it does not run, the lock of its verbs."""
        self._files(instance)
        await self._places.acquire()
        lock: asyncio.Lock | None = None
        try:
            if change and not instance.running:
                lock = instance.locked()
                await lock.acquire()
        except BaseException:
            self._places.release()
            raise
        claim = _Claim(self._places, lock)
        try:
            self._instances.find(instance.id)
        except BaseException:
            await claim.release()
            raise
        return claim


class _Claim:
    def __init__(self, places: asyncio.Semaphore, lock: asyncio.Lock | None) -> None:
        self._places = places
        self._lock = lock

    async def release(self) -> None:
        self._places.release()
        if self._lock is not None:
            self._lock.release()
