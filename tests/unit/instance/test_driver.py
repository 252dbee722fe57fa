"""The in-memory driver passes the contract every driver passes."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

from bireme.instance.driver import Placement, RootFilesystem
from bireme.instance.spec import InstanceId, InstanceSpec, ProcessSpec
from tests.suites.driver import DriverContract, Harness
from tests.support.fakedriver import FakeDriver

_numbers = itertools.count(1)


def place(*command: str, **more: Any) -> Placement:
    spec = InstanceSpec(image="busybox", process=ProcessSpec(args=command), **more)
    return Placement(
        id=InstanceId(f"{next(_numbers):064x}"),
        name="x",
        spec=spec,
        root=RootFilesystem(lower=("/x",)),
        directory="/x",
        hostname="x",
    )


class TestFakeDriver(DriverContract):
    @contextlib.asynccontextmanager
    async def harness(self) -> AsyncIterator[Harness]:
        yield Harness(FakeDriver(), place)
