"""Which kernel a machine gets, who uses one, and what is told of changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bireme.engine.events import Events
from bireme.engine.kernels import Kernels
from bireme.errors import Conflict, NotFound
from bireme.image.kernels import Kernel, KernelRecord
from bireme.instance.spec import Isolation
from tests.support.engine import spec


def kernel(name: str, *, default: bool = False, missing: tuple[dict[str, str], ...] = ()) -> Kernel:
    record = KernelRecord(release=name, packages=(), config={}, modules=(), builtin=(), missing=missing, files={})
    return Kernel(id=f"sha256:{name}", names=(name,), default=default, directory="/k", added_at_ns=1, record=record)


class FakeStore:
    def __init__(self) -> None:
        self.kernels = [kernel("a", default=True), kernel("b")]

    def resolve(self, text: str = "") -> Kernel:
        for one in self.kernels:
            if text in (*one.names, one.id) or (not text and one.default):
                return one
        raise NotFound(f"no such kernel: {text}")

    def list(self) -> list[Kernel]:
        return self.kernels

    def add(self, sources: Sequence[int], kind: str, name: str, report: Callable[..., None]) -> Kernel:
        with open(sources[0], "rb", closefd=False) as file:
            self.received = file.read()
        return kernel("c", missing=({"name": "erofs", "without": "layers are larger"},))

    def remove(self, text: str, users: Callable[[Kernel], Sequence[str]], force: bool) -> Kernel:
        found = self.resolve(text)
        if users(found) and not force:
            raise Conflict("in use")
        return found

    def set_default(self, text: str) -> Kernel:
        return self.resolve(text)


def instance(name: str, isolation: Isolation, wanted: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, spec=msgspec.structs.replace(spec(), isolation=isolation, kernel=wanted))


@pytest.fixture
def table() -> list[SimpleNamespace]:
    return [
        instance("pinned", "microvm", "sha256:b"),
        instance("unpinned", "microvm", ""),
        instance("lost", "microvm", "sha256:gone"),
        instance("container", "container", ""),
    ]


@pytest.fixture
def events() -> Events:
    return Events()


def make(table: list[SimpleNamespace], events: Events) -> Kernels:
    return Kernels(FakeStore(), events, table)  # type: ignore[arg-type]


def test_users(table: list[SimpleNamespace], events: Events) -> None:
    kernels = make(table, events)
    assert kernels.users(kernels.find("a")) == ["unpinned"]
    assert kernels.users(kernels.find("b")) == ["pinned"]


def test_a_machine_keeps_its_kernel(table: list[SimpleNamespace], events: Events) -> None:
    kernels = make(table, events)
    assert kernels.pin(table[1].spec).kernel == "sha256:a"
    assert kernels.pin(msgspec.structs.replace(table[1].spec, kernel="b")).kernel == "sha256:b"
    assert kernels.pin(table[3].spec) is table[3].spec
    with pytest.raises(NotFound):
        kernels.pin(table[2].spec)


def test_an_upload(table: list[SimpleNamespace], events: Events) -> None:
    kernels = make(table, events)
    emitted: list[Any] = []

    async def chunks() -> Any:
        for part in (b"one", b"two"):
            yield part

    asyncio.run(kernels.upload(chunks(), "", emitted.append))
    assert kernels._store.received == b"onetwo"  # type: ignore[attr-defined]
    assert emitted == [
        {"status": "kernel c has no erofs: layers are larger"},
        {"stream": "Added kernel: c\n"},
        {"aux": {"id": "sha256:c", "release": "c", "names": ["c"]}},
    ]


def test_changes_are_told(table: list[SimpleNamespace], events: Events) -> None:
    kernels = make(table, events)

    async def change() -> None:
        await kernels.set_default("b")
        await kernels.remove("b", force=True)
        with pytest.raises(Conflict):
            await kernels.remove("a")

    asyncio.run(change())
    assert [(e.type, e.action, e.id) for e in events._history] == [
        ("kernel", "default", "sha256:b"),
        ("kernel", "remove", "sha256:b"),
    ]
