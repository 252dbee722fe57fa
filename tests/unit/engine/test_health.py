"""Health checks over a driver in memory: the rules, the monitor's life, what the image says."""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib

import pytest

from bireme.engine.define import merge
from bireme.engine.health import go_duration, judge, next_interval_ns
from bireme.engine.record import Health, Instance, Probe
from bireme.errors import Unsupported
from bireme.instance.driver import ExecStarted, Placement
from bireme.instance.spec import ExecId, HealthCheck, InstanceId, InstanceSpec, ProcessSpec
from tests.support.engine import FakeEngine, FakeImage, FakeSnapshots, drive, engine, spec
from tests.support.fakedriver import FakeDriver
from tests.support.pace import until

SECOND = 10**9
MS = 10**6


def check(*test: str, **more: int) -> HealthCheck:
    return HealthCheck(test=test, **{"interval_ns": 5 * MS, **more})


async def healthy(e: FakeEngine, *command: str, **more: int) -> Instance:
    await e.instances.create(spec("sleep", "9", health=check("CMD", *command, **more)), "one")
    await e.instances.start("one")
    return e.instances.find("one")


def status_of(instance: Instance) -> str:
    return instance.health.status if instance.health is not None else "none"


def probe(code: int, at_ns: int = 0) -> Probe:
    return Probe(start_ns=at_ns, end_ns=at_ns, exit_code=code, output="")


def test_intervals() -> None:
    plain = HealthCheck()
    assert next_interval_ns(plain, "starting", 0) == 30 * SECOND
    with_start = HealthCheck(start_period_ns=60 * SECOND, interval_ns=SECOND)
    assert next_interval_ns(with_start, "starting", 0) == 5 * SECOND
    assert next_interval_ns(with_start, "healthy", 0) == SECOND
    assert next_interval_ns(with_start, "starting", 60 * SECOND) == SECOND
    quick = HealthCheck(start_period_ns=60 * SECOND, start_interval_ns=MS)
    assert next_interval_ns(quick, "starting", 0) == MS


def test_judgement() -> None:
    found = Health()
    seen = []
    for code in (1, 1, 0, 2, 2, 2, -1, 0):
        found = judge(HealthCheck(), found, probe(code), 0)
        seen.append((found.status, found.failing))
    assert seen == [
        ("starting", 1),
        ("starting", 2),
        ("healthy", 0),
        ("healthy", 1),
        ("healthy", 2),
        ("unhealthy", 3),
        ("unhealthy", 4),
        ("healthy", 0),
    ]
    assert [p.exit_code for p in found.log] == [2, 2, 2, -1, 0]


def test_failures_of_the_start_period_do_not_count() -> None:
    starting = HealthCheck(start_period_ns=10 * SECOND, retries=1)
    found = judge(starting, Health(), probe(1, 9 * SECOND), 0)
    assert (found.status, found.failing, len(found.log)) == ("starting", 0, 1)
    assert judge(starting, found, probe(1, 10 * SECOND), 0).status == "unhealthy"
    assert judge(starting, Health(status="healthy"), probe(1, SECOND), 0).status == "unhealthy"


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (1, "1ns"),
        (1500, "1.5µs"),
        (300 * MS, "300ms"),
        (1500 * MS, "1.5s"),
        (30 * SECOND, "30s"),
        (90 * SECOND, "1m30s"),
        (3600 * SECOND, "1h0m0s"),
    ],
)
def test_durations(duration_ns: int, text: str) -> None:
    assert go_duration(duration_ns) == text


def test_command() -> None:
    assert HealthCheck(test=("CMD", "a", "b c")).command == ("a", "b c")
    assert HealthCheck(test=("CMD-SHELL", "a | b")).command == ("/bin/sh", "-c", "a | b")
    assert HealthCheck(test=("CMD-SHELL", "a"), shell=("/bin/ash", "-ec")).command == ("/bin/ash", "-ec", "a")
    assert HealthCheck(test=("NONE",)).command == ()
    assert HealthCheck(interval_ns=1).command == ()


def test_the_image_completes_what_is_asked() -> None:
    image = FakeImage(health=HealthCheck(test=("CMD", "image"), interval_ns=1, retries=2))
    assert merge(spec(), image, "h").health == image.health
    asked = spec(health=HealthCheck(retries=9, timeout_ns=3))
    assert merge(asked, image, "h").health == HealthCheck(test=("CMD", "image"), interval_ns=1, timeout_ns=3, retries=9)
    none = merge(spec(health=HealthCheck(test=("NONE",))), image, "h").health
    assert none is not None
    assert none.command == ()
    assert merge(spec(), FakeImage(), "h").health is None


def test_healthy_with_its_events_and_log(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        events = e.events.subscribe()
        one = await healthy(e, "echo", "fine")
        assert status_of(one) == "starting"
        await until(lambda: status_of(one) == "healthy")
        seen = [(await anext(events)).action for _ in range(6)]
        assert seen[:4] == ["create", "start", "exec_create: echo fine", "exec_start: echo fine"]
        assert set(seen[4:]) == {"exec_die", "health_status: healthy"}
        await until(lambda: one.health is not None and len(one.health.log) == 5)
        assert one.health is not None
        assert {(p.exit_code, p.output) for p in one.health.log} == {(0, "fine\n")}
        assert e.execs.of(one.id) == []
        await e.instances.stop("one")
        assert status_of(one) == "unhealthy"
        again = one.health
        await asyncio.sleep(0.05)
        assert one.health is again

    drive(tmp_path, scenario)


def test_unhealthy_after_its_retries(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        events = e.events.subscribe()
        one = await healthy(e, "false", retries=2)
        await until(lambda: status_of(one) == "unhealthy")
        async for event in events:
            if event.action.startswith("health_status"):
                assert event.action == "health_status: unhealthy"
                break

    drive(tmp_path, scenario)


@pytest.mark.parametrize("command", ["missing", "forbidden"])
def test_a_command_that_cannot_be_run(tmp_path: pathlib.Path, command: str) -> None:
    async def scenario(e: FakeEngine) -> None:
        one = await healthy(e, command)
        await until(lambda: status_of(one) == "unhealthy")
        assert one.health is not None
        assert one.health.log[0].exit_code == -1
        assert f'exec: "{command}"' in one.health.log[0].output

    drive(tmp_path, scenario)


def test_one_that_takes_too_long_is_killed(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        one = await healthy(e, "sleep", "1000", timeout_ns=20 * MS, retries=1)
        await until(lambda: status_of(one) == "unhealthy")
        assert one.health is not None
        assert one.health.log[0].exit_code == -1
        assert one.health.log[0].output == "Health check exceeded timeout (20ms)"

    drive(tmp_path, scenario)


def test_a_stop_during_a_probe_ends_the_probe(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        one = await healthy(e, "sleep", "1000")
        await until(lambda: bool(e.execs.of(one.id)))
        await e.instances.stop("one")
        await until(lambda: not e.execs.of(one.id))
        assert one.health is not None
        assert one.health.log == ()

    drive(tmp_path, scenario)


def test_nobody_checks_while_it_is_paused(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        one = await healthy(e, "true")
        await until(lambda: status_of(one) == "healthy")
        await e.instances.pause("one")
        paused = one.health
        assert status_of(one) == "unhealthy"
        await asyncio.sleep(0.05)
        assert one.health is paused
        await e.instances.resume("one")
        await until(lambda: status_of(one) == "healthy")

    drive(tmp_path, scenario)


def test_a_start_begins_anew_and_keeps_the_log(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        one = await healthy(e, "true")
        await until(lambda: status_of(one) == "healthy")
        await e.instances.restart("one")
        assert status_of(one) == "starting"
        assert one.health is not None
        assert one.health.log
        await until(lambda: status_of(one) == "healthy")

    drive(tmp_path, scenario)


@pytest.mark.parametrize("test", [("NONE",), ()])
def test_without_a_check_there_is_no_health(tmp_path: pathlib.Path, test: tuple[str, ...]) -> None:
    async def scenario(e: FakeEngine) -> None:
        await e.instances.create(spec("sleep", "9", health=check(*test)), "one")
        await e.instances.start("one")
        assert e.instances.find("one").health is None

    drive(tmp_path, scenario)


def test_the_next_engine_goes_on_checking(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        driver, snapshots = FakeDriver(), FakeSnapshots()
        first = FakeEngine(str(tmp_path), driver, snapshots)
        await first.open()
        one = await healthy(first, "true")
        await until(lambda: status_of(one) == "healthy")
        await first.table.flush()
        first.instances.policies.close()
        await first.kill()
        async with engine(str(tmp_path), driver, snapshots) as second:
            again = second.instances.find("one")
            assert status_of(again) == "healthy"
            assert again.health is not None
            before = again.health.log
            await until(lambda: again.health is not None and again.health.log != before)

    asyncio.run(main())


class Exhausted(FakeDriver):
    """Has no descriptors left for the first exec."""

    failures = 1

    async def exec(
        self, instance: InstanceId, spec: InstanceSpec, exec_id: ExecId, process: ProcessSpec, stdin: bool
    ) -> ExecStarted:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await super().exec(instance, spec, exec_id, process, stdin)


def test_a_probe_that_the_engine_cannot_start_is_a_failed_one(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path), Exhausted()) as e:
            one = await healthy(e, "true")
            await until(lambda: status_of(one) == "healthy")
            assert one.health is not None
            assert one.health.log[0].exit_code == -1
            assert "Too many open files" in one.health.log[0].output

    asyncio.run(main())


class Bare:
    """A driver that has no ability at all."""

    name = "bare"

    def watch(self, on_exit: object) -> None:
        return None

    async def adopt(self) -> list[object]:
        return []

    async def create(self, placement: Placement) -> None:
        return None


def test_a_driver_that_cannot_run_a_command_inside(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        e.drivers["qemu"] = Bare()  # type: ignore[assignment]
        with pytest.raises(Unsupported, match="a health check is not supported with isolation bare"):
            await e.instances.create(spec(isolation="qemu", health=check("CMD", "true")), "one")
        assert e.instances.all() == []

    drive(tmp_path, scenario)
