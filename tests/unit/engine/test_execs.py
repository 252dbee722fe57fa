"""Execs: defined once, run once, remembered with their exit code."""

from __future__ import annotations

import asyncio
import os
import pathlib

import pytest

from bireme.errors import Conflict, NotFound
from bireme.instance.driver import StartError
from bireme.instance.spec import ProcessSpec
from tests.support.engine import engine, spec


def test_an_exec(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path)) as e:
            await e.instances.create(spec("sleep", "9"), "one")
            with pytest.raises(Conflict, match="is not running"):
                e.execs.create("one", ProcessSpec(args=("echo", "x")))
            await e.instances.start("one")
            identity = e.execs.create("one", ProcessSpec(args=("echo", "x"), env=("A=exec",)))
            record = e.execs.find(identity)
            assert record.exit_code is None
            assert "A=exec" in record.process.env
            assert "PATH=/bin" in record.process.env
            streams = await e.execs.start(identity)
            assert streams is not None
            assert os.read(streams.stdout, 100) == b"x\n"
            os.close(streams.stdout)
            os.close(streams.stderr)
            while record.exit_code is None:
                await asyncio.sleep(0.001)
            assert record.exit_code == 0
            assert e.execs.of(record.instance_id) == []
            with pytest.raises(Conflict, match="has already run"):
                await e.execs.start(identity)

    asyncio.run(main())


def test_an_exec_that_cannot_run(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path)) as e:
            await e.instances.create(spec("sleep", "9"), "one")
            await e.instances.start("one")
            identity = e.execs.create("one", ProcessSpec(args=("missing",)))
            with pytest.raises(StartError):
                await e.execs.start(identity)
            assert e.execs.find(identity).exit_code == 127
            with pytest.raises(NotFound, match="No such exec instance: absent"):
                e.execs.find("absent")

    asyncio.run(main())
