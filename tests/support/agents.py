"""The agent of a microVM in namespaces of this machine, connected to a link in the test's process.

BIREME_TEST_AGENT names another build of it, one with sanitizers:
    gcc -g -fsanitize=address,undefined -o agent guest/agent*.c
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bireme.runtime.guest import agent_path
from bireme.wire.agent import GuestConfig
from tests.support.guestconfig import process
from tests.support.linked import Linked

NAMESPACES = ("--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--mount-proc", "--kill-child")


@contextlib.contextmanager
def agent(socket_path: str, root: Path | None, before: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """The program, as process 1 of new namespaces; `before` is a shell script that runs in them first."""
    program = os.environ.get("BIREME_TEST_AGENT") or agent_path()
    if not program:
        pytest.fail("the agent is not built: make -C guest")
    command: Sequence[str] = [program, "--socket", socket_path] + (["--root", str(root)] if root else [])
    if before:
        command = ["sh", "-ec", f'{before}\nexec "$@"', "sh", *command]
    with subprocess.Popen(["unshare", *NAMESPACES, *command], stdin=subprocess.DEVNULL) as running:
        try:
            yield running
        finally:
            running.kill()


@contextlib.contextmanager
def machine(tmp_path: Path, root: Path | None, config: GuestConfig, before: str = "") -> Iterator[Linked]:
    """Link and agent, connected."""
    with Linked(tmp_path, config) as bench, agent(bench.socket_path, root, before):
        yield bench


def sh(script: str, **changes: Any) -> Any:
    return process(["sh", "-c", script], **changes)


def pipes(count: int) -> tuple[list[int], list[int]]:
    """Reading (non-blocking) and writing ends."""
    pairs = [os.pipe() for _ in range(count)]
    for reading, _ in pairs:
        os.set_blocking(reading, False)
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
