"""Tear-down after the answer: drivers forget, snapshots and directories go, in batches, off the event loop.

Nothing here is needed for correctness: what an interrupted engine leaves, `reconcile` finds by comparing directories
with the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from bireme.engine.directories import Directories
from bireme.engine.placement import Snapshots
from bireme.engine.record import Instance
from bireme.engine.tasks import TaskGroup
from bireme.errors import BiremeError, NotFound
from bireme.instance.driver import Driver
from bireme.instance.spec import InstanceId

log = logging.getLogger(__name__)
QUIET_S = 0.05
MAX_BATCH = 8
"""Fewer than the directories kept ready (engine/directories.py, storage/overlay.py): these come back before they run
out."""


_Remains = tuple[str, Driver | None]


class Tidier:
    """Collects removed instances and deletes what they leave once the engine is quiet, or the batch is large."""

    def __init__(self, directories: Directories, snapshots: Callable[[], Snapshots], tasks: TaskGroup) -> None:
        self._directories = directories
        self._snapshots = snapshots
        self._tasks = tasks
        self._pending: list[_Remains] = []
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._working = False

    def add(self, instance: Instance, driver: Driver) -> None:
        """An instance that is removed: its driver forgets it, then its files go."""
        self._add((instance.id, driver))

    def add_files(self, identity: str) -> None:
        """Files of an instance no driver knows."""
        self._add((identity, None))

    def _add(self, remains: _Remains) -> None:
        self._pending.append(remains)
        self._idle.clear()
        if self._working:
            return
        if self._timer is not None:
            if len(self._pending) >= MAX_BATCH:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(QUIET_S, self._start)

    def _start(self) -> None:
        self._timer = None
        self._working = True
        self._tasks.spawn(self._run(), "tidy")

    async def _run(self) -> None:
        try:
            while self._pending:
                batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
                await asyncio.gather(*(_forget(identity, driver) for identity, driver in batch))
                await asyncio.to_thread(self._remove, batch)
        finally:
            self._working = False
            self._idle.set()

    def _remove(self, batch: list[_Remains]) -> None:
        snapshots = self._snapshots()
        for identity, _ in batch:
            try:
                _remove_snapshot(snapshots, identity)
                self._directories.remove(identity)
            except (OSError, BiremeError) as error:
                log.warning("files of %s are left until the next start: %s", identity, error)

    async def finish(self) -> None:
        """Delete now what waits for a quiet moment."""
        if self._timer is not None:
            self._timer.cancel()
            self._start()
        await self._idle.wait()


async def _forget(identity: str, driver: Driver | None) -> None:
    if driver is None:
        return
    try:
        await driver.delete(InstanceId(identity))
    except BiremeError as error:
        log.warning("%s is left to the next start: %s", identity[:12], error)


def _remove_snapshot(snapshots: Snapshots, identity: str) -> None:
    try:
        snapshots.remove(identity)
    except NotFound:
        pass
