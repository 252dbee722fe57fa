"""A function that runs as one of a machine's processes does: forked, jailed, its answer as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from bireme.linux.process import Exit, fork, status_to_exit
from bireme.vmm import jail

UID = 2_000_012_345


def jailed(
    kind: str, body: Callable[[], Any], keep: Sequence[int] = (), before: Callable[[int], object] | None = None
) -> tuple[Any, Exit]:
    """What `body` returned inside the jail (None when it was killed) and how the process ended.

    `before(pid)` runs in this process while the jailed one waits, jail shut.
    """
    reader, writer = os.pipe()
    hold, go = os.pipe()
    ready, shut = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            _live(kind, body, writer, hold, shut, keep)
        finally:
            os._exit(1)
    for fd in (writer, hold, shut):
        os.close(fd)
    os.read(ready, 1)
    if before is not None:
        before(pid)
    os.close(go)
    with open(reader, "rb") as file:
        data = file.read()
    os.close(ready)
    ended = status_to_exit(pid, os.waitpid(pid, 0)[1])
    return (json.loads(data) if data else None), ended


def _live(kind: str, body: Callable[[], Any], writer: int, hold: int, shut: int, keep: Sequence[int]) -> None:
    try:
        jail.enter(kind, UID, [writer, hold, shut, *keep])
        os.write(shut, b"!")
        os.read(hold, 1)
        answer = body()
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    os.write(writer, json.dumps(answer).encode())
    os._exit(0)
