"""The microVM driver with machines: the contract every driver passes."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import Iterator

import pytest

from bireme.daemon.config import Config
from bireme.daemon.ending import end_without_engine
from bireme.daemon.keeper import ensure_keeper, read_pid, wait_gone
from bireme.drivers.microvm.driver import Stores
from tests.suites.driver import DriverContract, Harness
from tests.support.microvm import Place, microvm_harness, real_stores
from tests.support.rootfs import make_busybox_root

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_kvm_linux]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    root = tmp_path_factory.mktemp("microvm")
    made = Config(data_root=str(root / "data"), run_root=str(root / "run"))
    ensure_keeper(made.run_root)
    yield made
    keeper = read_pid(f"{made.run_root}/keeper.pid")
    asyncio.run(end_without_engine(made.supervisor_socket))
    assert wait_gone(keeper, 30)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("places")
    layer: pathlib.Path = root / "layers/busybox/fs"
    layer.mkdir(parents=True)
    make_busybox_root(str(layer))
    made = Place(root, env=("PATH=/bin",))
    made.layers = (str(layer),)
    return made


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return real_stores(tmp_path_factory.mktemp("stores"))


class TestMicrovmDriver(DriverContract):
    @pytest.fixture(autouse=True)
    def _setup(self, config: Config, place: Place, stores: Stores) -> None:
        self.config, self.place, self.stores = config, place, stores

    def harness(self) -> contextlib.AbstractAsyncContextManager[Harness]:
        return microvm_harness(self.config, self.place, self.stores)
