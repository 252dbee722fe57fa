"""The container driver passes the contract every driver passes, with a real keeper and supervisor of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pathlib
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from bireme.daemon.config import Config
from bireme.daemon.ending import end_without_engine
from bireme.daemon.keeper import ensure_keeper, read_pid, wait_gone
from bireme.drivers.container.config import Host
from bireme.drivers.container.driver import ContainerDriver
from bireme.drivers.supervised.supervisor import SupervisorConnection
from bireme.engine.tasks import TaskGroup
from bireme.instance.driver import Placement, RootFilesystem
from bireme.instance.spec import InstanceId, InstanceSpec, NetworkRequest, ProcessSpec
from tests.suites.driver import DriverContract, Harness
from tests.support.rootfs import make_busybox_root

pytestmark = pytest.mark.needs_root

_numbers = itertools.count(1)
_COMMANDS = {"missing": "/bin/absent", "forbidden": "/etc/passwd"}


class Place:
    """Placements over one busybox root, each with an upper directory of its own."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.lower = root / "lower"
        make_busybox_root(str(self.lower))

    def __call__(self, *command: str, **more: Any) -> Placement:
        identity = f"{next(_numbers):08x}" + secrets.token_hex(28)
        directory = self.root / identity
        for part in ("fs", "work"):
            (directory / part).mkdir(parents=True)
        files = []
        for name in ("hosts", "hostname", "resolv.conf"):
            (directory / name).write_text("x\n")
            files.append((str(directory / name), f"/etc/{name}"))
        args = (_COMMANDS.get(command[0], command[0]), *command[1:])
        settings: dict[str, Any] = {"network": NetworkRequest(name="none"), **more}
        process = ProcessSpec(args=args, env=("PATH=/bin",), working_dir="/")
        return Placement(
            id=InstanceId(identity),
            name=identity[:12],
            spec=InstanceSpec(image="busybox", process=process, **settings),
            root=RootFilesystem(lower=(str(self.lower),), upper=str(directory / "fs"), work=str(directory / "work")),
            directory=str(directory),
            hostname="x",
            log_path=str(directory / "log"),
            files=tuple(files),
        )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    root = tmp_path_factory.mktemp("driver")
    made = Config(data_root=str(root / "data"), run_root=str(root / "run"))
    ensure_keeper(made.run_root)
    keeper = 0
    yield made
    keeper = read_pid(f"{made.run_root}/keeper.pid")
    asyncio.run(end_without_engine(made.supervisor_socket))
    assert wait_gone(keeper, 30)
    assert not os.path.exists(f"/sys/fs/cgroup/pids/bireme-{made.tag}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("roots"))


class TestContainerDriver(DriverContract):
    @pytest.fixture(autouse=True)
    def _setup(self, config: Config, place: Place) -> None:
        self.config = config
        self.place = place

    @contextlib.asynccontextmanager
    async def harness(self) -> AsyncIterator[Harness]:
        settings = {
            "bridge": None,
            "spares": {"none": 2, "bridge": 0},
            "cgroup_subtree": f"bireme-{self.config.tag}",
            "userns_base": self.config.userns_base,
            "favordynmods": False,
        }
        supervisor = SupervisorConnection(self.config.supervisor_socket, lambda: settings)
        driver = ContainerDriver(supervisor, Host())
        tasks = TaskGroup()
        connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tasks.spawn(supervisor.run(connected), "link")
        await asyncio.wait_for(connected, 30)
        try:
            yield Harness(driver, self.place)
        finally:
            supervisor.close()
            await tasks.close()
