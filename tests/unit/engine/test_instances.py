"""The verbs over a driver in memory: states, messages, events, and what survives a killed engine."""

from __future__ import annotations

import asyncio
import collections
import pathlib

import pytest

from bireme.errors import Conflict, Invalid, NotFound, NotModified
from bireme.instance.driver import StartError
from bireme.instance.spec import Limits, NetworkRequest
from bireme.instance.state import Status
from tests.support.engine import FakeEngine, FakeSnapshots, drive, engine, spec
from tests.support.fakedriver import FakeDriver


def test_a_life(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        identity, warnings = await e.instances.create(spec("false"), "one")
        assert warnings == []
        instance = e.instances.find("one")
        assert instance.status is Status.CREATED
        assert e.directories.names() == [identity]
        gone = e.instances.wait("one", "next-exit")
        await e.instances.start(identity)
        assert (await gone).code == 1
        assert e.instances.find(identity[:8]).status is Status.EXITED
        assert instance.exit_code == 1
        await e.instances.remove("one")
        with pytest.raises(NotFound, match="No such container: one"):
            e.instances.find("one")
        await e.tidier.finish()
        assert e.snapshots.keys == set()
        assert e.directories.names() == []

    drive(tmp_path, scenario)


def test_events_in_order(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        stream = e.events.subscribe()
        await e.instances.create(spec("true", labels={"k": "v"}), "one")
        await e.instances.start("one")
        await e.instances.wait("one")
        await e.instances.remove("one")
        seen = [await anext(stream) for _ in range(4)]
        assert [x.action for x in seen] == ["create", "start", "die", "destroy"]
        assert seen[0].attributes == {"from": "image", "k": "v", "image": "busybox", "name": "one"}
        assert seen[2].attributes["exitCode"] == "0"

    drive(tmp_path, scenario)


def test_what_the_image_says_is_merged(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        e.images.images["busybox"].entrypoint = ("/entry",)
        await e.instances.create(spec(), "aa")
        assert e.instances.find("aa").spec.process.args == ("/entry", "sleep", "1")
        await e.instances.create(spec("x"), "bb")
        assert e.instances.find("bb").spec.process.args == ("/entry", "x")
        await e.instances.create(spec(entrypoint=("/mine",)), "cc")
        assert e.instances.find("cc").spec.process.args == ("/mine",)
        await e.instances.create(spec("x", entrypoint=("",)), "dd")
        assert e.instances.find("dd").spec.process.args == ("x",)
        with pytest.raises(Invalid, match="no command specified"):
            await e.instances.create(spec(entrypoint=("",)), "ee")
        env = e.instances.find("aa").spec.process.env
        assert env == ("PATH=/bin", f"HOSTNAME={e.instances.find('aa').id[:12]}", "A=image")

    drive(tmp_path, scenario)


@pytest.mark.parametrize("name", ["a", "-a", "a b", "a/b", ".a", "ä1"])
def test_bad_names(tmp_path: pathlib.Path, name: str) -> None:
    async def scenario(e: FakeEngine) -> None:
        with pytest.raises(Invalid, match="Invalid container name"):
            await e.instances.create(spec(), name)

    drive(tmp_path, scenario)


def test_a_name_is_taken_once_even_at_the_same_time(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        results = await asyncio.gather(*(e.instances.create(spec(), "same") for _ in range(8)), return_exceptions=True)
        assert sum(isinstance(r, tuple) for r in results) == 1
        assert all(isinstance(r, (tuple, Conflict)) for r in results)
        with pytest.raises(Conflict, match='The container name "/same" is already in use by container'):
            await e.instances.create(spec(), "same")

    drive(tmp_path, scenario)


def test_refused_creates_leave_nothing(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        with pytest.raises(NotFound, match="No such image: absent"):
            await e.instances.create(spec().__class__(image="absent", process=spec().process), "x1")
        with pytest.raises(Invalid, match="isolation qemu is not available"):
            await e.instances.create(spec(isolation="qemu"), "x2")
        await e.instances.create(spec(network=NetworkRequest(name="absent")), "x3")
        with pytest.raises(NotFound, match="network absent not found"):
            await e.instances.start("x3")
        await e.instances.remove("x3")
        await e.instances.create(spec(network=NetworkRequest(name="container:x")), "x4")
        with pytest.raises(NotFound, match="joining network namespace of container: No such container: x"):
            await e.instances.start("x4")
        await e.instances.remove("x4")
        await e.tidier.finish()
        assert e.instances.all() == []
        assert e.snapshots.keys == set()
        assert e.directories.names() == []
        for name in ("x1", "x2", "x3", "x4"):
            await e.instances.create(spec(), name)

    drive(tmp_path, scenario)


@pytest.mark.parametrize(("word", "code"), [("missing", 127), ("forbidden", 126)])
def test_a_start_that_fails(tmp_path: pathlib.Path, word: str, code: int) -> None:
    async def scenario(e: FakeEngine) -> None:
        await e.instances.create(spec(word), "one")
        with pytest.raises(StartError):
            await e.instances.start("one")
        instance = e.instances.find("one")
        assert instance.status is Status.CREATED
        assert instance.exit_code == code
        assert "exec" in instance.error

    drive(tmp_path, scenario)


def test_wrong_states(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        i = e.instances
        await i.create(spec("sleep", "9"), "one")
        with pytest.raises(NotModified):
            await i.stop("one")
        with pytest.raises(Conflict, match="is not running"):
            await i.kill("one")
        with pytest.raises(Conflict, match="is not running"):
            await i.pause("one")
        await i.start("one")
        with pytest.raises(NotModified):
            await i.start("one")
        with pytest.raises(Conflict, match="container is running: stop the container before removing"):
            await i.remove("one")
        with pytest.raises(Conflict, match="is not paused"):
            await i.resume("one")
        await i.pause("one")
        with pytest.raises(Conflict, match="try unpause instead"):
            await i.start("one")
        with pytest.raises(Conflict, match="unpause the container before exec"):
            e.execs.create("one", spec().process)
        with pytest.raises(Invalid, match="invalid signal: SIGNONSENSE"):
            await i.kill("one", "SIGNONSENSE")
        await i.remove("one", force=True)
        assert i.all() == []

    drive(tmp_path, scenario)


def test_auto_remove_resolves_waiters(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        await e.instances.create(spec("exit", "7", auto_remove=True), "one")
        removed = e.instances.wait("one", "removed")
        await e.instances.start("one")
        assert (await asyncio.wait_for(removed, 10)).code == 7
        assert e.instances.all() == []

    drive(tmp_path, scenario)


def test_auto_remove_when_it_never_started(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        await e.instances.create(spec("true", auto_remove=True, network=NetworkRequest(name="absent")), "one")
        removed = e.instances.wait("one", "removed")
        with pytest.raises(NotFound, match="network absent not found"):
            await e.instances.start("one")
        await asyncio.wait_for(removed, 10)
        assert e.instances.all() == []

    drive(tmp_path, scenario)


def test_stop_ends_with_the_stop_signal(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        await e.instances.create(spec("sleep", "9"), "one")
        await e.instances.start("one")
        await e.instances.stop("one", timeout_s=5)
        assert e.instances.find("one").exit_code == 143
        await e.instances.restart("one")
        assert e.instances.find("one").running

    drive(tmp_path, scenario)


def test_rename_and_update(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        await e.instances.create(spec(limits=Limits(pids=7)), "one")
        await e.instances.create(spec(), "two")
        with pytest.raises(Conflict):
            await e.instances.rename("one", "two")
        await e.instances.rename("one", "three")
        assert e.instances.find("three").name == "three"
        with pytest.raises(NotFound):
            e.instances.find("one")
        await e.instances.update("three", Limits(memory_bytes=1 << 24), None)
        assert e.instances.find("three").spec.limits == Limits(memory_bytes=1 << 24)

    drive(tmp_path, scenario)


def test_prefixes(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        first, _ = await e.instances.create(spec(), "one")
        assert e.instances.find(first[:12]).id == first
        assert e.instances.find("/one").id == first
        with pytest.raises(NotFound):
            e.instances.find("")
        for n in range(20):
            await e.instances.create(spec(), f"n{n}")
        crowded = collections.Counter(i.id[0] for i in e.instances.all()).most_common(1)[0][0]
        with pytest.raises(Invalid, match="multiple IDs found with provided prefix"):
            e.instances.find(crowded)

    drive(tmp_path, scenario)


def test_a_killed_engine_loses_nothing_acknowledged(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        driver, snapshots = FakeDriver(), FakeSnapshots()
        first = FakeEngine(str(tmp_path), driver, snapshots)
        await first.open()
        for name, command in (("created", "sleep"), ("running", "sleep"), ("ended", "sleep"), ("removed", "sleep")):
            await first.instances.create(spec(command, "9"), name)
        for name in ("running", "ended", "removed"):
            await first.instances.start(name)
        ids = {i.name: i.id for i in first.instances.all()}
        await first.instances.remove("removed", force=True)
        await first.kill()
        driver.end(ids["ended"], 3)

        async with engine(str(tmp_path), driver, snapshots) as second:
            await asyncio.sleep(0.05)
            states = {i.name: (i.status, i.exit_code) for i in second.instances.all()}
            assert states == {
                "created": (Status.CREATED, 0),
                "running": (Status.RUNNING, 0),
                "ended": (Status.EXITED, 3),
            }
            await second.tidier.finish()
            assert snapshots.keys == {ids["created"], ids["running"], ids["ended"]}

    asyncio.run(main())


def test_a_machine_that_went_down(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path)) as first:
            await first.instances.create(spec("sleep", "9"), "one")
            await first.instances.start("one")
        async with engine(str(tmp_path), FakeDriver()) as second:
            instance = second.instances.find("one")
            assert (instance.status, instance.exit_code) == (Status.EXITED, 255)

    asyncio.run(main())


def test_what_a_driver_holds_and_nobody_knows_is_ended(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        driver = FakeDriver()
        async with engine(str(tmp_path / "a"), driver) as first:
            identity, _ = await first.instances.create(spec("sleep", "9"), "one")
            await first.instances.start("one")
        async with engine(str(tmp_path / "b"), driver):
            assert identity in driver.deleted

    asyncio.run(main())
