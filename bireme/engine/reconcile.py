"""At every start: the database, the drivers and the disk are compared, and made to agree.

database    driver      what happened                              what is done
any         running     the engine was replaced                    it runs; addresses and ports are taken again
any         exited      it ended while nobody listened             the exit is recorded, its restart policy obeyed
restarting  nothing     killed while it waited for its restart     it is started (engine/restart.py)
running     nothing     the machine went down                      exited, code 255
nothing     anything    killed between removal and its tear-down   killed and deleted
nothing     a directory likewise, or between mkdir and commit      removed from disk; volumes too (volumes.py)
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping

from bireme.engine.directories import Directories
from bireme.engine.instances import Instances
from bireme.engine.networks import Networks
from bireme.engine.placement import Snapshots
from bireme.engine.record import Instance, RunState
from bireme.engine.table import InstanceTable
from bireme.engine.tidy import Tidier
from bireme.errors import BiremeError
from bireme.instance.driver import Adopted, Driver
from bireme.instance.spec import InstanceId
from bireme.instance.state import Status

log = logging.getLogger(__name__)
LOST_CODE = 255
GONE_DEADLINE_S = 5.0
_ID = re.compile(r"[0-9a-f]{64}")


class Reconciler:
    """Runs once, after `InstanceTable.load` and before the API answers."""

    def __init__(
        self,
        table: InstanceTable,
        drivers: Mapping[str, Driver],
        instances: Instances,
        networks: Networks,
        snapshots: Callable[[], Snapshots],
        directories: Directories,
        tidier: Tidier,
        restore_volumes: Callable[[], Awaitable[None]],
    ) -> None:
        self._table = table
        self._drivers = drivers
        self._instances = instances
        self._networks = networks
        self._snapshots = snapshots
        self._directories = directories
        self._tidier = tidier
        self._restore_volumes = restore_volumes

    async def run(self) -> None:
        held: dict[str, Adopted] = {}
        for driver in self._drivers.values():
            for row in await driver.adopt():
                held[row.id] = row
                if self._table.get(row.id) is None:
                    await self._forget(driver, row)
        for instance in self._table:
            self._agree(instance, held.get(instance.id))
        self._networks.restore(i for i in self._table if i.running)
        await self._restore_volumes()
        self._sweep()
        self._instances.open()
        for instance in self._table:
            kept = held.get(instance.id)
            if kept is not None and kept.exit is not None:
                self._instances.exited(instance.id, kept.exit)
            elif instance.spec.auto_remove and instance.status is Status.EXITED:
                await self._instances.auto_remove(instance)

    def _agree(self, instance: Instance, row: Adopted | None) -> None:
        state = instance.state
        if row is not None and (row.running or _is_news(row, state)):
            state.status = Status.PAUSED if row.paused else Status.RUNNING
            state.pid, state.started_at_ns = row.pid, row.started_at_ns
            state.settled = False
        elif row is not None and row.exit is not None and state.status is Status.CREATED:
            state.status = Status.RUNNING
            state.started_at_ns = row.started_at_ns
        elif row is None and instance.running:
            log.warning("instance %s was lost with the machine", instance.name)
            state.status, state.exit_code, state.pid = Status.EXITED, LOST_CODE, 0
            state.finished_at_ns = time.time_ns()
            state.endpoints, state.ports, state.settled = (), (), True
        else:
            return
        self._table.mark(instance)

    async def _forget(self, driver: Driver, row: Adopted) -> None:
        """A driver holds what the database does not know: it was removed, or its create was never acknowledged."""
        log.info("ending %s, which was removed", row.id)
        try:
            if row.running:
                await driver.signal(row.id, 9)
                await _gone(driver, row.id)
            await driver.delete(row.id)
        except BiremeError as error:
            log.warning("cannot end %s: %s", row.id, error)

    def _sweep(self) -> None:
        """Directories and snapshots nobody owns."""
        active = {s.name for s in self._snapshots().list() if not s.committed and _ID.fullmatch(s.name)}
        for name in {*self._directories.names(), *active}:
            if self._table.get(name) is None:
                self._tidier.add_files(name)


def _is_news(row: Adopted, state: RunState) -> bool:
    """Whether an exit is one that was never stored: of the run that was, or of one that was begun since."""
    return row.exit is not None and (not state.settled or row.started_at_ns > state.started_at_ns)


async def _gone(driver: Driver, identity: InstanceId) -> None:
    """Wait until the driver no longer shows it as running."""
    deadline = time.monotonic() + GONE_DEADLINE_S
    while time.monotonic() < deadline:
        if not any(row.id == identity and row.running for row in await driver.adopt()):
            return
        await asyncio.sleep(0.01)
