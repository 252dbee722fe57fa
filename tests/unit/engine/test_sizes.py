"""Measuring instances: shared while it runs, told as unknown when it fails, layers once."""

from __future__ import annotations

import asyncio
import os
import pathlib
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from bireme.engine.images import Images
from bireme.engine.sizes import InstanceSize, Sizes
from bireme.errors import NotFound
from tests.support.engine import FakeEngine, engine, spec


class FakeImages:
    """Two images that share their lowest layer."""

    def __init__(self) -> None:
        layers = {name: SimpleNamespace(files_bytes=size) for name, size in (("a", 100), ("b", 20), ("c", 3))}
        self.views = [self._view("one", layers, "a", "b"), self._view("two", layers, "a", "c")]

    def _view(self, name: str, layers: dict[str, Any], *chain: str) -> Any:
        image = SimpleNamespace(chain_ids=chain, layers=[layers[key] for key in chain])
        return SimpleNamespace(id=name, image=image, size_bytes=sum(layers[key].files_bytes for key in chain))

    def all(self) -> list[Any]:
        return self.views

    def find(self, reference: str) -> Any:
        if reference.startswith("sha256:1"):
            return self.views[0]
        raise NotFound(f"No such image: {reference}")


def sizes_of(e: FakeEngine, images: FakeImages | None = None) -> Sizes:
    return Sizes(e.instances, cast(Images, images or FakeImages()), e.tasks)


async def create(e: FakeEngine, root: pathlib.Path, name: str) -> str:
    identity, _ = await e.instances.create(spec("true"), name)
    instance = e.instances.find(identity)
    upper = str(root / name)
    os.makedirs(upper)
    filesystem = msgspec.structs.replace(instance.definition.root, upper=upper)
    instance.definition = msgspec.structs.replace(instance.definition, root=filesystem)
    return identity


def test_an_instance_and_its_image(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path)) as e:
            identity = await create(e, tmp_path, "one")
            (tmp_path / "one" / "file").write_bytes(b"x" * 7)
            sizes = sizes_of(e)
            assert await sizes.of(["one"]) == {identity: InstanceSize(7, 127)}
            assert await sizes.of([]) == {}
            with pytest.raises(NotFound):
                await sizes.of(["nobody"])

    asyncio.run(main())


def test_who_asks_meanwhile_shares_the_answer(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path)) as e:
            identity = await create(e, tmp_path, "one")
            sizes = sizes_of(e)
            first = sizes._measurement(e.instances.find("one"))
            assert sizes._measurement(e.instances.find("one")) is first
            waiting = [asyncio.ensure_future(sizes.of(["one"])) for _ in range(3)]  # noqa: TID251
            waiting[0].cancel()
            assert await waiting[1] == await waiting[2] == {identity: InstanceSize(0, 120)}
            await asyncio.gather(waiting[0], return_exceptions=True)
            (tmp_path / "one" / "file").write_bytes(b"x")
            assert await sizes.of(["one"]) == {identity: InstanceSize(1, 121)}

    asyncio.run(main())


def test_what_cannot_be_measured(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path)) as e:
            identity = await create(e, tmp_path, "one")
            os.rmdir(tmp_path / "one")
            assert await sizes_of(e).of(["one"]) == {identity: InstanceSize(-1, 120)}

    asyncio.run(main())


def test_one_that_is_removed_meanwhile_is_left_out(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path)) as e:
            identity = await create(e, tmp_path, "one")
            sizes = sizes_of(e)
            async with sizes._turns():
                measurement = asyncio.ensure_future(sizes.of([identity]))  # noqa: TID251
                await asyncio.sleep(0)
                await e.instances.remove(identity)
            assert await measurement == {}

    asyncio.run(main())


def test_layers_count_once(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path)) as e:
            use = sizes_of(e).layers()
            assert use.total == 123
            assert use.shared == {"one": 100, "two": 100}

    asyncio.run(main())


def test_directories(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path)) as e:
            (tmp_path / "v").mkdir()
            (tmp_path / "v" / "file").write_bytes(b"12345")
            sizes = sizes_of(e)
            assert await sizes.directories([str(tmp_path / "v"), str(tmp_path / "none")]) == [5, -1]

    asyncio.run(main())
