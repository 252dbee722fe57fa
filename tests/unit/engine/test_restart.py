"""Restart policies over a driver in memory: the rules, who is started again, and what a user's stop means."""

from __future__ import annotations

import asyncio
import pathlib

import pytest

from bireme.engine.restart import next_delay, wants_restart
from bireme.errors import Conflict, NotModified, Unavailable
from bireme.instance.driver import Placement, Started
from bireme.instance.spec import Limits, RestartPolicy
from bireme.instance.state import Status
from tests.support.engine import FakeEngine, FakeSnapshots, drive, engine, spec
from tests.support.fakedriver import FakeDriver
from tests.support.pace import until

ALWAYS = RestartPolicy(name="always")
UNLESS_STOPPED = RestartPolicy(name="unless-stopped")
ON_FAILURE = RestartPolicy(name="on-failure")


def test_the_wait_doubles_up_to_a_minute_and_begins_anew_after_a_calm_run() -> None:
    waits, wait = [], 0.0
    for _ in range(12):
        wait = next_delay(wait, 0.5)
        waits.append(wait)
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waits[-2:] == [60.0, 60.0]
    assert next_delay(60.0, 9.9) == 60.0
    assert next_delay(60.0, 10.0) == 0.1


@pytest.mark.parametrize(
    ("policy", "code", "restarts", "by_hand", "wanted"),
    [
        (ALWAYS, 0, 100, True, True),
        (UNLESS_STOPPED, 0, 100, False, True),
        (UNLESS_STOPPED, 1, 0, True, False),
        (ON_FAILURE, 0, 0, False, False),
        (ON_FAILURE, 1, 1000, False, True),
        (RestartPolicy(name="on-failure", retries=3), 1, 2, False, True),
        (RestartPolicy(name="on-failure", retries=3), 1, 3, False, False),
    ],
)
def test_rules(policy: RestartPolicy, code: int, restarts: int, by_hand: bool, wanted: bool) -> None:
    assert wants_restart(policy, code, restarts, by_hand) is wanted


def test_on_failure_is_tried_so_often(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        events = e.events.subscribe()
        await e.instances.create(spec("false", restart=RestartPolicy(name="on-failure", retries=2)), "one")
        await e.instances.start("one")
        one = e.instances.find("one")
        assert (await e.instances.wait("one", "next-exit")).code == 1
        assert (one.status, one.active, one.running) == (Status.RESTARTING, True, False)
        await until(lambda: one.status is Status.EXITED)
        assert (one.restart_count, one.exit_code) == (2, 1)
        seen = [(await anext(events)).action for _ in range(7)]
        assert seen == ["create", *["start", "die"] * 3]
        await e.instances.start("one")
        assert one.restart_count == 0

    drive(tmp_path, scenario)


def test_a_restarting_one_is_active(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        await e.instances.create(spec("false", restart=ALWAYS), "one")
        await e.instances.start("one")
        await e.instances.wait("one", "next-exit")
        with pytest.raises(NotModified):
            await e.instances.start("one")
        with pytest.raises(Conflict, match="container is restarting: stop the container before removing or force"):
            await e.instances.remove("one")
        with pytest.raises(Conflict, match="is restarting, wait until the container is running"):
            await e.instances.pause("one")
        with pytest.raises(Conflict, match="is restarting, wait until the container is running"):
            e.execs.create("one", spec().process)
        assert not e.instances.wait("one").done()
        await e.instances.remove("one", force=True)
        assert e.instances.all() == []

    drive(tmp_path, scenario)


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_a_stop_by_hand_ends_the_waiting(tmp_path: pathlib.Path, verb: str) -> None:
    async def scenario(e: FakeEngine) -> None:
        await e.instances.create(spec("false", restart=ALWAYS), "one")
        await e.instances.start("one")
        await e.instances.wait("one", "next-exit")
        ended = e.instances.wait("one", "not-running")
        await getattr(e.instances, verb)("one")
        one = e.instances.find("one")
        assert (await ended).code == 1
        await asyncio.sleep(0.15)
        assert (one.status, one.restart_count) == (Status.EXITED, 1)
        await e.instances.remove("one")

    drive(tmp_path, scenario)


@pytest.mark.parametrize("policy", [ALWAYS, UNLESS_STOPPED, ON_FAILURE])
def test_a_stop_by_hand_is_no_reason_to_start_again(tmp_path: pathlib.Path, policy: RestartPolicy) -> None:
    async def scenario(e: FakeEngine) -> None:
        for name in ("stopped", "killed"):
            await e.instances.create(spec("sleep", "9", restart=policy), name)
            await e.instances.start(name)
        await e.instances.stop("stopped")
        gone = e.instances.wait("killed")
        await e.instances.kill("killed", "TERM")
        await gone
        for name in ("stopped", "killed"):
            assert e.instances.find(name).status is Status.EXITED
        await e.instances.restart("stopped")
        assert e.instances.find("stopped").running
        assert not e.instances.find("stopped").state.stopped_by_hand

    drive(tmp_path, scenario)


def test_another_signal_than_the_one_that_stops_it(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        await e.instances.create(spec("sleep", "9", restart=ALWAYS, stop_signal="SIGQUIT"), "one")
        await e.instances.start("one")
        gone = e.instances.wait("one")
        await e.instances.kill("one", "HUP")
        await gone
        one = e.instances.find("one")
        assert one.status is Status.RESTARTING
        await e.instances.kill("one", "HUP")
        await until(lambda: one.running)
        await e.instances.stop("one")
        assert one.status is Status.EXITED

    drive(tmp_path, scenario)


class Broken(FakeDriver):
    """Fails from the second start on, `failures` times."""

    def __init__(self, error: Exception, failures: int) -> None:
        super().__init__()
        self.error = error
        self.failures = failures
        self.starts = 0

    async def start(self, placement: Placement) -> Started:
        self.starts += 1
        if 1 < self.starts <= 1 + self.failures:
            raise self.error
        return await super().start(placement)


def test_one_that_cannot_be_started_again_stays_down(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path), Broken(Conflict("the port is taken"), 99)) as e:
            await e.instances.create(spec("exit", "4", restart=ALWAYS), "one")
            await e.instances.start("one")
            one = e.instances.find("one")
            await until(lambda: one.status is Status.EXITED)
            assert (one.exit_code, one.error) == (4, "the port is taken")

    asyncio.run(main())


def test_a_part_that_is_away_is_waited_for(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path), Broken(Unavailable("no supervisor"), 1)) as e:
            await e.instances.create(spec("exit", "4", restart=ON_FAILURE), "one")
            await e.instances.start("one")
            one = e.instances.find("one")
            await until(lambda: one.restart_count >= 2)
            await e.instances.remove("one", force=True)

    asyncio.run(main())


def test_update(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        await e.instances.create(spec("sleep", "9"), "one")
        await e.instances.start("one")
        one = e.instances.find("one")
        await e.instances.update("one", Limits(), UNLESS_STOPPED)
        e.driver.end(one.id, 1)
        await until(lambda: one.restart_count == 1 and one.running)
        await e.instances.update("one", Limits(), None)
        e.driver.end(one.id, 1)
        await until(lambda: one.status is Status.EXITED)

    drive(tmp_path, scenario)


def test_what_comes_back_with_the_engine(tmp_path: pathlib.Path) -> None:
    """The machine goes down: the driver knows nothing any more."""

    async def main() -> None:
        async with engine(str(tmp_path)) as first:
            for name, policy in (("always", ALWAYS), ("unless", UNLESS_STOPPED), ("failure", ON_FAILURE)):
                for stopped in ("", "-stopped"):
                    await first.instances.create(spec("sleep", "9", restart=policy), name + stopped)
                    await first.instances.start(name + stopped)
                    if stopped:
                        await first.instances.stop(name + stopped)
                await first.instances.create(spec("sleep", "9", restart=policy), name + "-created")
            await first.instances.create(spec("sleep", "9"), "none")
            await first.instances.start("none")
        async with engine(str(tmp_path), FakeDriver()) as second:
            await until(lambda: sum(i.running for i in second.instances.all()) == 4)
            await asyncio.sleep(0.05)
            running = {i.name for i in second.instances.all() if i.running}
            assert running == {"always", "always-stopped", "unless", "failure"}

    asyncio.run(main())


def test_an_engine_killed_while_one_waits(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        driver, snapshots = FakeDriver(), FakeSnapshots()
        first = FakeEngine(str(tmp_path), driver, snapshots)
        await first.open()
        await first.instances.create(spec("exit", "3", restart=ON_FAILURE), "one")
        await first.instances.start("one")
        await first.instances.wait("one", "next-exit")
        await first.table.flush()
        count = first.instances.find("one").restart_count
        first.instances.policies.close()
        await first.kill()
        async with engine(str(tmp_path), driver, snapshots) as second:
            one = second.instances.find("one")
            await until(lambda: one.restart_count > count)
            await second.instances.remove("one", force=True)

    asyncio.run(main())


def test_a_stop_by_hand_is_known_to_the_next_engine(tmp_path: pathlib.Path) -> None:
    """Killed after the answer to a stop, before anything else was written."""

    async def main() -> None:
        driver, snapshots = FakeDriver(), FakeSnapshots()
        first = FakeEngine(str(tmp_path), driver, snapshots)
        await first.open()
        await first.instances.create(spec("sleep", "9", restart=UNLESS_STOPPED), "one")
        await first.instances.start("one")
        await first.instances.stop("one")
        await first.kill()
        async with engine(str(tmp_path), driver, snapshots) as second:
            one = second.instances.find("one")
            await until(lambda: one.status is Status.EXITED)
            await asyncio.sleep(0.15)
            assert one.status is Status.EXITED

    asyncio.run(main())


def test_an_exit_of_a_run_that_nobody_stored(tmp_path: pathlib.Path) -> None:
    """It ended, was stored, was started again and ended again, all but the first unheard of by the next engine."""

    async def main() -> None:
        driver, snapshots = FakeDriver(), FakeSnapshots()
        first = FakeEngine(str(tmp_path), driver, snapshots)
        await first.open()
        identity, _ = await first.instances.create(spec("sleep", "9"), "one")
        await first.instances.start("one")
        driver.end(identity, 1)
        await until(lambda: first.instances.find("one").status is Status.EXITED)
        await first.table.flush()
        await first.instances.start("one")
        await first.kill()
        driver.end(identity, 5)
        async with engine(str(tmp_path), driver, snapshots) as second:
            one = second.instances.find("one")
            await until(lambda: (one.status, one.exit_code) == (Status.EXITED, 5))

    asyncio.run(main())


def test_an_engine_that_ends_everything_is_no_hand(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path)) as first:
            for name, command in (("steady", ("sleep", "9")), ("failing", ("false",))):
                await first.instances.create(spec(*command, restart=UNLESS_STOPPED), name)
                await first.instances.start(name)
            await until(lambda: first.instances.find("failing").status is Status.RESTARTING)
            for name in ("steady", "failing"):
                await first.instances.stop(name, by_hand=False)
                assert first.instances.find(name).status is Status.EXITED
        async with engine(str(tmp_path), FakeDriver()) as second:
            await until(lambda: second.instances.find("steady").running)
            await until(lambda: second.instances.find("failing").restart_count > 0)
            await second.instances.remove("failing", force=True)

    asyncio.run(main())
