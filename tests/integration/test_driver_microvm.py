"""The microVM driver passes the contract every driver passes, with a monitor that runs host processes.

tests/integration/test_microvm_driver.py is the same with machines.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from bireme.daemon.config import Config
from bireme.daemon.ending import end_without_engine
from bireme.daemon.keeper import ensure_keeper, read_pid, wait_gone
from bireme.drivers.microvm.driver import MicrovmDriver, Stores
from bireme.errors import Conflict, Deadline, Unsupported
from bireme.instance.driver import StartError
from bireme.instance.spec import ExecId, Limits, ProcessSpec
from tests.suites.driver import DriverContract, Harness
from tests.support.machines import FAKE
from tests.support.microvm import Place, make_stores, microvm_harness

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    root = tmp_path_factory.mktemp("microvm")
    made = Config(data_root=str(root / "data"), run_root=str(root / "run"))
    os.environ["BIREME_MONITOR"] = FAKE
    try:
        ensure_keeper(made.run_root)
    finally:
        del os.environ["BIREME_MONITOR"]
    yield made
    keeper = read_pid(f"{made.run_root}/keeper.pid")
    asyncio.run(end_without_engine(made.supervisor_socket))
    assert wait_gone(keeper, 30)
    assert not os.path.exists(f"{made.run_root}/machines")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("places"))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return make_stores(tmp_path_factory.mktemp("stores"))


class TestMicrovmDriver(DriverContract):
    @pytest.fixture(autouse=True)
    def _setup(self, config: Config, place: Place, stores: Stores) -> None:
        self.config, self.place, self.stores = config, place, stores

    def harness(self) -> contextlib.AbstractAsyncContextManager[Harness]:
        return microvm_harness(self.config, self.place, self.stores, patience_s=2.0)

    def test_a_signal_goes_through_the_agent(self) -> None:
        async def scenario(h: Harness) -> None:
            placement = await h.running()
            await h.driver.signal(placement.id, 15)
            status = await h.ended(placement)
            assert (status.code, status.signal, status.error) == (143, 15, "")
            await h.driver.delete(placement.id)

        self.drive(scenario)

    def test_a_signal_to_a_paused_machine_waits_for_nobody(self) -> None:
        async def scenario(h: Harness) -> None:
            driver: Any = h.driver
            placement = await h.running()
            await driver.pause(placement.id)
            await driver.signal(placement.id, 15)
            await driver.resume(placement.id)
            assert (await h.ended(placement)).code == 143
            await driver.delete(placement.id)

        self.drive(scenario)

    def test_a_crash_tells_why(self) -> None:
        async def scenario(h: Harness) -> None:
            _, status = await h.run("sleep", "1000", env=("FAKE=crash",))
            assert (status.code, status.error) == (255, "the guest died of a triple fault")

        self.drive(scenario)

    def test_a_boot_that_fails_tells_why(self) -> None:
        async def scenario(h: Harness) -> None:
            placement = h.place("true", env=("FAKE=refuse",))
            with pytest.raises(StartError, match="the kernel does not boot"):
                await h.driver.start(placement)
            await h.driver.delete(placement.id)

        self.drive(scenario)

    def test_execs_with_a_terminal_and_input(self) -> None:
        async def scenario(h: Harness) -> None:
            driver: Any = h.driver
            placement = await h.running()
            cat = ProcessSpec(args=("cat",), env=("PATH=/bin",))
            started = await driver.exec(placement.id, placement.spec, ExecId("a" * 64), cat, True)
            os.write(started.streams.stdin, b"hello\n")
            os.close(started.streams.stdin)
            assert await asyncio.to_thread(os.read, started.streams.stdout, 100) == b"hello\n"
            assert (await driver.exec_wait(ExecId("a" * 64))).code == 0
            tty = ProcessSpec(args=("tty",), env=("PATH=/bin",), terminal=True, rows=24, columns=80)
            started = await driver.exec(placement.id, placement.spec, ExecId("b" * 64), tty, False)
            assert b"/dev/pts" in await asyncio.to_thread(os.read, started.streams.console, 100)
            assert (await driver.exec_wait(ExecId("b" * 64))).code == 0
            await h.finish(placement)

        self.drive(scenario)

    def test_execs_end_with_their_machine(self) -> None:
        async def scenario(h: Harness) -> None:
            driver: Any = h.driver
            placement = await h.running()
            sleep = ProcessSpec(args=("sleep", "1000"), env=("PATH=/bin",))
            started = await driver.exec(placement.id, placement.spec, ExecId("c" * 64), sleep, False)
            await driver.exec_detach(ExecId("c" * 64), started.streams)
            status, _ = await asyncio.gather(driver.exec_wait(ExecId("c" * 64)), h.finish(placement))
            assert status.code == 137

        self.drive(scenario)

    def test_a_machine_that_does_not_answer_is_killed_all_the_same(self) -> None:
        async def scenario(h: Harness) -> None:
            placement = await h.running(env=("FAKE=silent",))
            with pytest.raises(Deadline):
                await h.driver.signal(placement.id, 15)
            assert [row.running for row in await h.driver.adopt() if row.id == placement.id] == [True]
            await h.driver.signal(placement.id, 9)
            assert (await h.ended(placement)).code == 137
            with pytest.raises(Conflict):
                await h.driver.signal(placement.id, 15)

        self.drive(scenario)

    def test_explain_and_another_engine(self) -> None:
        async def scenario(h: Harness) -> None:
            placement = await h.running()
            async with microvm_harness(self.config, self.place, self.stores) as other:
                assert {row.id: row.running for row in await other.driver.adopt()}[placement.id]
                driver = other.driver
                assert isinstance(driver, MicrovmDriver)
                explained = await driver.explain(placement.id)
                assert explained["machine"]["memory_bytes"] == 512 << 20
                assert {row["name"] for row in explained["jail"]} >= {"bireme-vmm"}
                stat = await driver.stats(placement.id)
                assert stat.memory_limit_bytes == (512 + 128) << 20
                await driver.pause(placement.id)
            async with microvm_harness(self.config, self.place, self.stores) as third:
                assert {row.id: row.paused for row in await third.driver.adopt()}[placement.id]
            await h.finish(placement)

        self.drive(scenario)

    def test_limits_of_the_cgroup_can_change_and_memory_cannot(self) -> None:
        async def scenario(h: Harness) -> None:
            driver: Any = h.driver
            placement = await h.running(limits=Limits(memory_bytes=256 << 20))
            before = await driver.stats(placement.id)
            assert before.memory_limit_bytes == (256 + 128) << 20
            more = Limits(memory_bytes=256 << 20, cpu_quota_us=50_000, cpu_period_us=100_000)
            await driver.update(placement.id, msgspec.structs.replace(placement.spec, limits=more))
            assert (await driver.stats(placement.id)).cpu_periods >= 0
            grown = msgspec.structs.replace(placement.spec, limits=Limits(memory_bytes=512 << 20))
            with pytest.raises(Unsupported, match="memory of a running microvm"):
                await driver.update(placement.id, grown)
            with pytest.raises(Unsupported, match="pids-limit"):
                await driver.update(placement.id, msgspec.structs.replace(placement.spec, limits=Limits(pids=5)))
            await h.finish(placement)

        self.drive(scenario)

    def test_a_machine_that_ended_at_once_can_be_asked_when_it_runs_again(self) -> None:
        async def scenario(h: Harness) -> None:
            driver: Any = h.driver
            flag = f"/tmp/{os.getpid()}-{os.urandom(4).hex()}"
            placement = h.place("sh", "-c", f"test -e {flag} && exec sleep 1000")
            try:
                await driver.start(placement)
                assert (await h.ended(placement)).code == 1
                await driver.settle(placement.id)
                pathlib.Path(flag).touch()
                await driver.start(placement)
                assert [row.command for row in await driver.processes(placement.id)] != []
                await h.finish(placement)
            finally:
                pathlib.Path(flag).unlink(missing_ok=True)

        self.drive(scenario)
