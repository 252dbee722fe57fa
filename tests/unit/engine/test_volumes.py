"""Volumes of an engine in memory: directories are real, nothing is mounted or copied."""

from __future__ import annotations

import asyncio
import os
import pathlib
from typing import Any

import pytest

from bireme.errors import Conflict, Internal, Invalid, NotFound, Unsupported
from bireme.instance.spec import InstanceSpec, Mount
from bireme.instance.volume import ANONYMOUS_LABEL
from tests.support.engine import FakeEngine, drive, engine, spec
from tests.support.fakedriver import FakeDriver


def with_volume(name: str = "data", target: str = "/data", **more: Any) -> InstanceSpec:
    mount = Mount(kind="volume", volume=name, anonymous=not name, target=target, **more)
    return spec("sleep", mounts=(mount,))


def names(e: FakeEngine) -> list[str]:
    return [volume.name for volume in e.volumes().all()]


def on_disk(e: FakeEngine) -> list[str]:
    return sorted(os.listdir(e.volume_root)) if os.path.isdir(e.volume_root) else []


def test_an_instance_makes_its_volume_and_keeps_it_from_removal(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        identity, _ = await e.instances.create(with_volume(labels={"a": "b"}), "one")
        volume = e.volumes().find("data")
        assert volume.labels == {"a": "b"}
        (mount,) = e.instances.find("one").spec.mounts
        assert (mount.source, mount.labels) == (f"{e.volume_root}/data/_data", {})
        assert os.path.isdir(mount.source)
        with pytest.raises(Conflict) as caught:
            await e.volumes().remove("data")
        assert caught.value.message == f"remove data: volume is in use - [{identity}]"
        await e.instances.remove("one", volumes=True)
        assert names(e) == ["data"]
        await e.volumes().remove("data")
        assert (names(e), on_disk(e)) == ([], [])
        with pytest.raises(NotFound, match="get data: no such volume"):
            await e.volumes().remove("data")
        await e.volumes().remove("data", force=True)

    drive(tmp_path, scenario)


def test_anonymous_ones_go_with_the_last_instance_that_has_them(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        e.images.images["busybox"].volumes = ("/image",)
        await e.instances.create(with_volume("", "/own"), "one")
        await e.instances.create(spec("sleep", volumes_from=("one:ro",)), "two")
        assert len(names(e)) == 2
        assert all(ANONYMOUS_LABEL in volume.labels for volume in e.volumes().all())
        assert [m.read_only for m in e.instances.find("two").spec.mounts] == [True, True]
        await e.instances.remove("one", volumes=True)
        assert len(names(e)) == 2
        await e.instances.remove("two", volumes=True)
        assert (names(e), on_disk(e)) == ([], [])
        await e.instances.create(with_volume("", "/own"), "three")
        await e.instances.remove("three")
        assert len(names(e)) == 2

    drive(tmp_path, scenario)


def test_events(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        stream = e.events.subscribe()
        identity, _ = await e.instances.create(with_volume(read_only=True), "one")
        await e.instances.start("one")
        await e.instances.remove("one", force=True)
        await e.volumes().remove("data")
        await e.volumes().prune(lambda _: True)
        seen = []
        while not seen or seen[-1].action != "prune":
            seen.append(await anext(stream))
        shown = [(event.action, event.id, event.attributes) for event in seen if event.type == "volume"]
        words = {"container": identity, "destination": "/data", "propagation": "", "read/write": "false"}
        assert shown == [
            ("create", "data", {"driver": "local"}),
            ("mount", "data", {"driver": "local", **words}),
            ("unmount", "data", {"driver": "local", "container": identity}),
            ("destroy", "data", {"driver": "local"}),
            ("prune", "", {"reclaimed": "0"}),
        ]

    drive(tmp_path, scenario)


def test_a_create_that_fails_leaves_nothing(tmp_path: pathlib.Path) -> None:
    class Refusing(FakeDriver):
        async def create(self, placement: object) -> None:
            raise Internal("no")

    async def scenario(e: FakeEngine) -> None:
        await e.volumes().create("kept", "", {}, {})
        both = spec("sleep", mounts=tuple(Mount(kind="volume", volume=n, target=f"/{n}") for n in ("kept", "new")))
        with pytest.raises(Internal):
            await e.instances.create(both, "one")
        assert (names(e), on_disk(e)) == (["kept"], ["kept"])

    drive(tmp_path, scenario, Refusing())


def test_two_at_once_get_the_same_volume(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        await asyncio.gather(*(e.instances.create(with_volume(), f"c{n}") for n in range(8)))
        assert names(e) == ["data"]
        assert len(e.volumes().users("data")) == 8

    drive(tmp_path, scenario)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (with_volume("x"), "volume name is too short"),
        (with_volume("a/b"), '"a/b" includes invalid characters for a local volume name'),
        (with_volume("..x"), "includes invalid characters"),
        (with_volume("a" * 256), "longer than 255"),
        (with_volume(driver="nfs"), 'plugin "nfs" not found'),
        (with_volume(driver_options={"what": "x"}), 'create data: invalid option: "what"'),
        (with_volume(driver_options={"type": "tmpfs"}), 'create data: missing required option: "device"'),
        (with_volume(driver_options={"size": "1m"}), "quota size requested but no quota support"),
    ],
)
def test_what_cannot_be(tmp_path: pathlib.Path, asked: InstanceSpec, message: str) -> None:
    async def scenario(e: FakeEngine) -> None:
        with pytest.raises(Invalid) as caught:
            await e.instances.create(asked, "one")
        assert message in caught.value.message
        assert (names(e), on_disk(e)) == ([], [])

    drive(tmp_path, scenario)


def test_volumes_from_nobody(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        with pytest.raises(NotFound, match="No such container: absent"):
            await e.instances.create(spec("sleep", volumes_from=("absent",)), "one")

    drive(tmp_path, scenario)


def test_a_driver_that_shares_nothing_refuses_what_is_asked_and_ignores_what_the_image_has(
    tmp_path: pathlib.Path,
) -> None:
    class Machine(FakeDriver):
        def __getattribute__(self, name: str) -> Any:
            if name == "mounts_volumes":
                raise AttributeError(name)
            return super().__getattribute__(name)

    async def scenario(e: FakeEngine) -> None:
        e.images.images["busybox"].volumes = ("/image",)
        with pytest.raises(Unsupported, match="the volume at /own is not supported"):
            await e.instances.create(spec("sleep", volumes=("/own",)), "one")
        await e.instances.create(spec("sleep"), "one")
        assert e.instances.find("one").spec.mounts == ()

    drive(tmp_path, scenario, Machine())


def test_created_by_hand(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        volumes = e.volumes()
        made = await volumes.create("data", "local", {"type": "tmpfs", "device": "tmpfs"}, {"a": "b"})
        assert await volumes.create("data", "", {}, {}) is made
        unnamed = await volumes.create("", "", {}, {"c": "d"})
        assert (len(unnamed.name), unnamed.labels) == (64, {"c": "d", ANONYMOUS_LABEL: ""})
        with pytest.raises(NotFound, match='plugin "x" not found'):
            await volumes.create("other", "x", {}, {})
        (tmp_path / "empty").mkdir()
        size = 512 * (tmp_path / "empty").stat().st_blocks  # 4096 on a disk, 0 in memory
        assert await volumes.prune(lambda v: ANONYMOUS_LABEL in v.labels) == ([unnamed.name], size)
        assert names(e) == ["data"]

    drive(tmp_path, scenario)


def test_the_next_engine_knows_them_and_sweeps_what_nobody_recorded(tmp_path: pathlib.Path) -> None:
    async def scenario(e: FakeEngine) -> None:
        await e.instances.create(with_volume(labels={"a": "b"}), "one")
        os.makedirs(f"{e.volume_root}/orphan/_data/deep")
        os.makedirs(f"{e.volume_root}/.gone-1/x")
        await e.kill()
        async with engine(str(tmp_path)) as after:
            assert after.volumes().find("data").labels == {"a": "b"}
            assert [i.name for i in after.volumes().users("data")] == ["one"]
            assert on_disk(after) == ["data"]

    async def main() -> None:
        async with engine(str(tmp_path)) as e:
            await scenario(e)

    asyncio.run(main())
