"""An engine without a kernel: the fake driver, snapshots that are directories, one image, a database in a directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from bireme.engine.console import Consoles
from bireme.engine.directories import Directories
from bireme.engine.events import Events
from bireme.engine.execs import Execs
from bireme.engine.instances import Instances
from bireme.engine.logs import Logs
from bireme.engine.networks import Networks
from bireme.engine.reconcile import Reconciler
from bireme.engine.table import InstanceTable
from bireme.engine.tasks import TaskGroup
from bireme.engine.tidy import Tidier
from bireme.engine.volumes import Volumes
from bireme.engine.watch import FileWatcher
from bireme.errors import NotFound
from bireme.instance.driver import RootFilesystem
from bireme.instance.spec import HealthCheck, InstanceSpec, NetworkRequest, ProcessSpec
from bireme.network.portmap import ReservedSocket
from bireme.storage.db import Database
from bireme.storage.snapshot import SnapshotInfo
from tests.support.fakedriver import FakeDriver


@dataclass
class FakeImage:
    id: str = "sha256:" + "1" * 64
    chain_id: str = "sha256:" + "2" * 64
    env: Sequence[str] = ("PATH=/bin", "A=image")
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ("sleep", "1")
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    exposed_ports: Sequence[str] = ()
    labels: dict[str, str] = field(default_factory=lambda: {"from": "image"})
    volumes: Sequence[str] = ()
    health: HealthCheck | None = None


class FakeImages:
    def __init__(self) -> None:
        self.images = {"busybox": FakeImage()}

    def defaults(self, reference: str) -> FakeImage:
        if reference not in self.images:
            raise NotFound(f"No such image: {reference}", subject=reference)
        return self.images[reference]


class FakeSnapshots:
    def __init__(self) -> None:
        self.keys: set[str] = set()

    def prepare(self, key: str, parent: str | None) -> RootFilesystem:
        self.keys.add(key)
        return RootFilesystem(lower=("/lower",), upper=f"/up/{key}", work=f"/work/{key}")

    def remove(self, key: str) -> None:
        self.keys.discard(key)

    def list(self) -> list[SnapshotInfo]:
        return [SnapshotInfo(key, False, "") for key in self.keys]


async def _hold(identity: str, sockets: Sequence[ReservedSocket]) -> None:
    return None


async def _drop(identity: str) -> None:
    return None


class FakeEngine:
    """Everything wired as daemon/ wires it."""

    def __init__(self, root: str, driver: FakeDriver, snapshots: FakeSnapshots) -> None:
        os.makedirs(f"{root}/instances", exist_ok=True)
        self.driver = driver
        self.volume_root = f"{root}/volumes"
        self._volumes: Volumes | None = None
        self.snapshots = snapshots
        self.images = FakeImages()
        self.tasks = TaskGroup()
        self.events = Events()
        self.database = Database.open(f"{root}/db.sqlite")
        self.directories = Directories(f"{root}/instances")
        self.tidier = Tidier(self.directories, lambda: snapshots, self.tasks)
        self.table = InstanceTable(self.database, self.directories, lambda batch: self.instances.stored(batch))
        drivers = self.drivers = {"container": driver}
        self.networks = Networks(None, _hold, _drop)
        self.instances = Instances(
            self.table,
            drivers,
            self.images,
            lambda: snapshots,
            self.directories,
            self.networks,
            self.events,
            self.tasks,
            self.tidier,
            self.volumes,
        )
        self.execs = Execs(self.instances, self.tasks)
        self.consoles = Consoles(self.instances)
        self.watcher = FileWatcher()
        self.logs = Logs(self.instances, self.watcher)
        self.reconciler = Reconciler(
            self.table,
            drivers,
            self.instances,
            self.networks,
            lambda: snapshots,
            self.directories,
            self.tidier,
            self._restore_volumes,
        )

    def volumes(self) -> Volumes:
        if self._volumes is None:
            self._volumes = Volumes(self.volume_root, self.database, self.table, self.events)
        return self._volumes

    async def _restore_volumes(self) -> None:
        if os.path.isdir(self.volume_root):
            await self.volumes().restore()
            self.volumes().empty()

    async def open(self) -> None:
        self.table.load()
        await self.reconciler.run()
        self.instances.policies.open()

    async def close(self) -> None:
        self.instances.policies.close()
        await self.tidier.finish()
        await self.table.flush()
        await self.tasks.close()
        self.watcher.close()
        self.database.close()

    async def kill(self) -> None:
        """End as kill -9 would: nothing that was not handed to the database is written."""
        await self.tasks.close()
        self.watcher.close()
        self.database.close()


@contextlib.asynccontextmanager
async def engine(
    root: str, driver: FakeDriver | None = None, snapshots: FakeSnapshots | None = None
) -> AsyncIterator[FakeEngine]:
    made = FakeEngine(root, driver or FakeDriver(), snapshots or FakeSnapshots())
    await made.open()
    try:
        yield made
    finally:
        await made.close()


Scenario = Callable[[FakeEngine], Awaitable[None]]


def drive(root: pathlib.Path, scenario: Scenario, driver: FakeDriver | None = None) -> None:
    """Run the scenario against an engine below `root`, which is closed afterwards."""

    async def main() -> None:
        async with engine(str(root), driver) as made:
            await scenario(made)

    asyncio.run(main())


def spec(*command: str, **more: object) -> InstanceSpec:

    settings: dict[str, object] = {"network": NetworkRequest(name="none"), **more}
    return InstanceSpec(image="busybox", process=ProcessSpec(args=()), command=command, **settings)  # type: ignore[arg-type]
