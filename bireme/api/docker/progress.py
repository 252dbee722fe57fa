"""Long work told as it goes: JSON messages, one a line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from bireme.api.docker.services import Emit
from bireme.api.http.message import HttpProblem, Stream
from bireme.engine.tasks import TaskGroup
from bireme.errors import BiremeError
from bireme.wire.jsonlines import encode_line, failure

Work = Callable[[Emit], Awaitable[None]]


def progress_stream(tasks: TaskGroup, work: Work) -> Stream:
    """`work` and what it emits. A failure is the last message; the work is cancelled when the client goes."""
    return Stream(_lines(tasks, work))


async def _lines(tasks: TaskGroup, work: Work) -> AsyncIterator[bytes]:
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def emit(message: Mapping[str, Any]) -> None:
        queue.put_nowait(encode_line(message))

    async def run() -> None:
        try:
            await work(emit)
        except BiremeError as error:
            emit(failure(str(error)))
        except HttpProblem as problem:
            emit(failure(problem.message))
        except OSError as error:
            emit(failure(f"{error.strerror or error}"))
        finally:
            queue.put_nowait(None)

    task = tasks.spawn(run(), "progress")
    try:
        while (line := await queue.get()) is not None:
            yield line
    finally:
        task.cancel()
