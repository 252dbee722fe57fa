"""Reading and following logs: tail over rotated files, following through a rotation, the end."""

from __future__ import annotations

import asyncio
import os
import pathlib

import pytest

from bireme.engine.logs import LogFiles
from bireme.errors import Unsupported
from bireme.instance.logs import LogQuery
from bireme.instance.spec import LogConfig
from tests.support.engine import FakeEngine, engine, spec


def line(number: int, stream: str = "stdout") -> str:
    return f'{{"log":"{number}\\n","stream":"{stream}","time":"2026-01-01T00:00:{number % 60:02d}Z"}}\n'


def write(path: str, numbers: range, mode: str = "a") -> None:
    with open(path, mode, encoding="utf-8") as file:
        file.write("".join(line(n) for n in numbers))


@pytest.mark.parametrize("tail", [-1, 0, 1, 5, 10, 15, 25, 30, 99])
def test_tail_over_rotated_files(tmp_path: pathlib.Path, tail: int) -> None:
    path = str(tmp_path / "log")
    write(f"{path}.2", range(10))
    write(f"{path}.1", range(10, 20))
    write(path, range(20, 30))
    files = LogFiles(path, tail, False)
    seen = []
    while records := files.read():
        seen += [int(r.data) for r in records]
    files.close()
    assert seen == list(range(30))[-tail if tail > 0 else (30 if tail == 0 else 0) :]


def test_a_reader_survives_rotation(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "log")
    write(path, range(3))
    files = LogFiles(path, -1, True)
    assert len(files.read()) == 3
    write(path, range(3, 5))
    os.rename(path, f"{path}.1")
    write(path, range(5, 7))
    seen = []
    while records := files.read():
        seen += [int(r.data) for r in records]
    assert seen == [3, 4, 5, 6]
    files.close()


def test_what_is_written_later_is_not_read_without_follow(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "log")
    write(path, range(3))
    files = LogFiles(path, 2, False)
    write(path, range(3, 5))
    os.rename(path, f"{path}.1")
    write(path, range(5, 7))
    assert [int(r.data) for r in files.read()] == [1, 2]
    assert files.read() == []
    files.close()


def test_follow_until_the_end(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path)) as e:
            identity, _ = await e.instances.create(spec("sleep", "9"), "one")
            await e.instances.start(identity)
            path = e.instances.find("one").log_path
            await asyncio.to_thread(write, path, range(5))
            reader = asyncio.ensure_future(_collect(e, LogQuery(follow=True, tail=2)))  # noqa: TID251
            for start in (5, 6, 7):
                await asyncio.sleep(0.02)
                await asyncio.to_thread(write, path, range(start, start + 1))
            e.driver.end(identity, 0)
            assert await asyncio.wait_for(reader, 20) == [3, 4, 5, 6, 7]
            assert await _collect(e, LogQuery(follow=True)) == list(range(8))

    asyncio.run(main())


def test_no_log_kept(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with engine(str(tmp_path)) as e:
            await e.instances.create(spec("sleep", "9", log=LogConfig(driver="none")), "one")
            with pytest.raises(Unsupported, match="does not support reading"):
                e.logs.read("one", LogQuery())

    asyncio.run(main())


async def _collect(e: FakeEngine, query: LogQuery) -> list[int]:
    return [int(record.data) async for record in e.logs.read("one", query)]
