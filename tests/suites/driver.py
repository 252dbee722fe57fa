"""The contract of bireme.instance.driver.Driver and its abilities, as tests every driver runs.

A test class per driver inherits `DriverContract` and offers `harness()`: an async context manager that yields a
`Harness` (the driver, and a way to make placements with a command it understands).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bireme.errors import BiremeError, Conflict, NotFound
from bireme.instance.driver import Console, Driver, Exec, ExitStatus, Pause, Placement, Processes, StartError, Stats
from bireme.instance.spec import ExecId, InstanceId, ProcessSpec
from tests.support.pace import patience

DEADLINE_S = patience(60.0)


class Harness:
    """A driver under test and what its exits were."""

    def __init__(self, driver: Driver, place: Callable[..., Placement]) -> None:
        self.driver = driver
        self.place = place
        self._exits: dict[str, asyncio.Queue[ExitStatus]] = {}
        driver.watch(self._exited)

    def _exited(self, identity: InstanceId, status: ExitStatus) -> None:
        self._exits.setdefault(identity, asyncio.Queue()).put_nowait(status)

    async def ended(self, placement: Placement) -> ExitStatus:
        queue = self._exits.setdefault(placement.id, asyncio.Queue())
        return await asyncio.wait_for(queue.get(), DEADLINE_S)

    async def run(self, *command: str, **more: Any) -> tuple[Placement, ExitStatus]:
        placement = self.place(*command, **more)
        await self.driver.create(placement)
        await self.driver.start(placement)
        return placement, await self.ended(placement)

    async def running(self, **more: Any) -> Placement:
        placement = self.place("sleep", "1000", **more)
        await self.driver.create(placement)
        await self.driver.start(placement)
        return placement

    async def borrow(self) -> Placement:
        """One that runs and is as it was when `give_back` gets it: dear drivers lend the same one to several tests."""
        return await self.running()

    async def give_back(self, placement: Placement) -> None:
        await self.finish(placement)

    async def finish(self, placement: Placement) -> None:
        with contextlib.suppress(BiremeError):
            await self.driver.signal(placement.id, 9)
            await self.ended(placement)
        await self.driver.delete(placement.id)


class DriverContract:
    """Inherit, and define `harness`."""

    def harness(self) -> contextlib.AbstractAsyncContextManager[Harness]:
        raise NotImplementedError

    def drive(self, scenario: Callable[[Harness], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with self.harness() as harness:
                await asyncio.wait_for(scenario(harness), DEADLINE_S)

        asyncio.run(main())

    def test_it_is_a_driver(self) -> None:
        async def scenario(h: Harness) -> None:
            assert isinstance(h.driver, Driver)
            assert h.driver.name in ("container", "microvm", "qemu", "xen")

        self.drive(scenario)

    def test_a_signal_ends_it_with_128_plus_its_number(self) -> None:
        async def scenario(h: Harness) -> None:
            placement = await h.running()
            await h.driver.signal(placement.id, 9)
            status = await h.ended(placement)
            assert (status.code, status.signal) == (137, 9)
            await h.driver.delete(placement.id)

        self.drive(scenario)

    @pytest.mark.parametrize(("word", "code"), [("missing", 127), ("forbidden", 126)])
    def test_a_command_that_cannot_run(self, word: str, code: int) -> None:
        async def scenario(h: Harness) -> None:
            placement = h.place(word)
            await h.driver.create(placement)
            with pytest.raises(StartError) as caught:
                await h.driver.start(placement)
            assert caught.value.exit_code == code
            await h.driver.delete(placement.id)

        self.drive(scenario)

    def test_after_its_end_it_takes_no_signal_starts_again_and_can_be_deleted_twice(self) -> None:
        async def scenario(h: Harness) -> None:
            placement, status = await h.run("true")
            assert (status.code, status.signal) == (0, 0)
            assert status.finished_at_ns > 0
            with pytest.raises((Conflict, NotFound)):
                await h.driver.signal(placement.id, 15)
            await h.driver.settle(placement.id)
            await h.driver.start(placement)
            assert (await h.ended(placement)).code == 0
            await h.driver.delete(placement.id)
            await h.driver.delete(placement.id)
            await h.driver.delete(InstanceId("0" * 64))

        self.drive(scenario)

    def test_adopt_lists_what_runs_and_exits_not_settled(self) -> None:
        async def scenario(h: Harness) -> None:
            sleeping = await h.borrow()
            ended, status = await h.run("false")
            assert (status.code, status.signal) == (1, 0)
            rows = {a.id: a for a in await h.driver.adopt()}
            assert rows[sleeping.id].running
            assert rows[sleeping.id].pid > 0
            exit_status = rows[ended.id].exit
            assert exit_status is not None
            assert exit_status.code == 1
            await h.driver.settle(ended.id)
            await _eventually(h, ended.id, absent=True)
            await h.give_back(sleeping)
            await h.driver.delete(ended.id)

        self.drive(scenario)

    def test_pause(self) -> None:
        async def scenario(h: Harness) -> None:
            driver = h.driver
            if not isinstance(driver, Pause):
                return
            placement = await h.borrow()
            await driver.pause(placement.id)
            assert {a.id: a.paused for a in await h.driver.adopt()}[placement.id]
            await driver.resume(placement.id)
            assert not {a.id: a.paused for a in await h.driver.adopt()}[placement.id]
            await h.give_back(placement)

        self.drive(scenario)

    def test_exec(self) -> None:
        async def scenario(h: Harness) -> None:
            driver = h.driver
            if not isinstance(driver, Exec):
                return
            placement = await h.borrow()
            number = ExecId("e" * 64)
            started = await driver.exec(
                placement.id, placement.spec, number, ProcessSpec(args=("echo", "hello")), False
            )
            assert started.pid > 0
            assert await _read(started.streams.stdout) == b"hello\n"
            assert await _read(started.streams.stderr) == b""
            assert (await driver.exec_wait(number)).code == 0
            with pytest.raises(StartError):
                await driver.exec(placement.id, placement.spec, ExecId("f" * 64), ProcessSpec(args=("missing",)), False)
            await h.give_back(placement)

        self.drive(scenario)

    def test_a_signal_to_an_exec(self) -> None:
        async def scenario(h: Harness) -> None:
            driver = h.driver
            if not isinstance(driver, Exec):
                return
            placement = await h.running()
            number = ExecId("d" * 64)
            process = ProcessSpec(args=("sleep", "1000"))
            started = await driver.exec(placement.id, placement.spec, number, process, False)
            await driver.exec_signal(number, 9)
            assert (await driver.exec_wait(number)).code == 137
            await driver.exec_detach(number, started.streams)
            await h.finish(placement)

        self.drive(scenario)

    def test_attach_before_start_sees_everything(self) -> None:
        async def scenario(h: Harness) -> None:
            driver = h.driver
            if not isinstance(driver, Console):
                return
            placement = h.place("echo", "hello")
            await driver.create(placement)
            fd = await driver.attach(placement.id, stdout=True, stderr=True)
            await driver.start(placement)
            await h.ended(placement)
            assert await _read(fd) == b"\x01\0\0\0\0\0\0\x06hello\n"
            await driver.delete(placement.id)

        self.drive(scenario)

    def test_stats_and_processes(self) -> None:
        async def scenario(h: Harness) -> None:
            driver = h.driver
            placement = await h.borrow()
            if isinstance(driver, Stats):
                stat = await driver.stats(placement.id)
                assert stat.read_at_ns > 0
                assert stat.memory_bytes > 0
            if isinstance(driver, Processes):
                rows = await driver.processes(placement.id)
                assert rows
                assert all(row.pid > 0 for row in rows)
            await h.give_back(placement)

        self.drive(scenario)


async def _eventually(h: Harness, identity: InstanceId, absent: bool) -> None:
    for _ in range(200):
        if (identity not in {a.id for a in await h.driver.adopt()}) == absent:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{identity} still listed by adopt")


async def _read(fd: int) -> bytes:
    """Everything up to EOF, then closed."""

    def read_all() -> bytes:
        with open(fd, "rb", buffering=0) as file:
            return file.read()

    return await asyncio.to_thread(read_all)
