"""A microVM driver over a keeper and supervisor of its own, with the monitor that runs host processes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pathlib
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from bireme.daemon.config import Config
from bireme.drivers.microvm.driver import MicrovmDriver, Stores
from bireme.drivers.microvm.initrd import agent_archive
from bireme.drivers.supervised.supervisor import SupervisorConnection
from bireme.engine.tasks import TaskGroup
from bireme.image.kernels import KernelStore
from bireme.instance.driver import Placement, RootFilesystem
from bireme.instance.spec import InstanceId, InstanceSpec, NetworkRequest, ProcessSpec
from bireme.runtime.guest import agent_path
from bireme.storage.disks import WritableDisks
from tests.suites.driver import Harness
from tests.support.microvms import kernel_store

COMMANDS = {"missing": "/bin/absent", "forbidden": "/etc/passwd"}
_numbers = itertools.count(1)


class FakeKernel:
    """Paths that nobody opens."""

    image_path = "/nowhere/vmlinux"
    format: Literal["vmlinux"] = "vmlinux"
    modules_path = "/nowhere/modules"
    layer_formats: tuple[Literal["ext4"], ...] = ("ext4",)


class FakeKernels:
    @contextmanager
    def hold(self, text: str = "") -> Iterator[FakeKernel]:
        yield FakeKernel()


class Place:
    """Placements without layers."""

    def __init__(self, root: pathlib.Path, *, env: tuple[str, ...] = ()) -> None:
        self.root = root
        self.env = env
        self.layers: tuple[str, ...] = ()
        self.lent: list[Placement] = []

    def __call__(self, *command: str, **more: Any) -> Placement:
        identity = f"{next(_numbers):08x}" + secrets.token_hex(28)
        directory = self.root / identity
        directory.mkdir(parents=True)
        files = []
        for name in ("hosts", "hostname", "resolv.conf"):
            (directory / name).write_text("x\n")
            files.append((str(directory / name), f"/etc/{name}"))
        args = (COMMANDS.get(command[0], command[0]), *command[1:])
        env = ("PATH=/bin:/usr/bin", *self.env, *more.pop("env", ()))
        terminal = more.pop("terminal", False)
        settings: dict[str, Any] = {"network": NetworkRequest(name="none"), "isolation": "microvm", **more}
        process = ProcessSpec(args=args, env=env, working_dir="/", terminal=terminal)
        return Placement(
            id=InstanceId(identity),
            name=identity[:12],
            spec=InstanceSpec(image="busybox", process=process, **settings),
            root=RootFilesystem(lower=self.layers, layers=self.layers),
            directory=str(directory),
            hostname="x",
            log_path=str(directory / "log"),
            files=tuple(files),
        )


def real_stores(root: pathlib.Path) -> Stores:
    """The image's cloud kernel, and the agent as it was built."""
    shutil.copytree(kernel_store(), root / "kernels", symlinks=True)
    return Stores(
        kernels=KernelStore(str(root / "kernels")),
        disks=WritableDisks(str(root / "disks")),
        agent_archive=lambda: agent_archive(agent_path(), str(root)),
    )


def make_stores(root: pathlib.Path) -> Stores:
    return Stores(
        kernels=FakeKernels(), disks=WritableDisks(str(root / "disks")), agent_archive=lambda: "/nowhere/agent.cpio"
    )


class Lender(Harness):
    """Lends one machine to all that give theirs back, over all connections to one supervisor; it ends with that."""

    def __init__(self, driver: MicrovmDriver, place: Place) -> None:
        super().__init__(driver, place)
        self._lent = place.lent

    async def borrow(self) -> Placement:
        if self._lent:
            await self.driver.adopt()
            return self._lent[0]
        placement = self.place("sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait")
        await self.driver.create(placement)
        await self.driver.start(placement)
        self._lent.append(placement)
        return placement

    async def give_back(self, placement: Placement) -> None:
        assert {row.id: row.running and not row.paused for row in await self.driver.adopt()}[placement.id]


@contextlib.asynccontextmanager
async def microvm_harness(
    config: Config, place: Place, stores: Stores, patience_s: float = 60.0
) -> AsyncIterator[Harness]:
    """A connected driver."""
    settings = {
        "bridge": None,
        "spares": {},
        "cgroup_subtree": f"bireme-{config.tag}",
        "userns_base": config.userns_base,
        "favordynmods": False,
    }
    supervisor = SupervisorConnection(config.supervisor_socket, lambda: settings)
    driver = MicrovmDriver(supervisor, stores, patience_s=patience_s)
    tasks = TaskGroup()
    connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    tasks.spawn(supervisor.run(connected), "link")
    await asyncio.wait_for(connected, 30)
    try:
        yield Lender(driver, place)
    finally:
        driver.close()
        supervisor.close()
        await tasks.close()
