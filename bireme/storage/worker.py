"""Workers: processes that read what may be hostile, started, watched and judged from the engine.

engine                                     worker: python -I -m MODULE REQUEST
  | request (JSON), descriptors               |
  |------------------------------------------>| imports what it needs, jails itself, works
  |           {"progress": anything}          |
  |<------------------------------------------|
  |        {"ok": {...}} or {"error": {...}}  |
  |<------------------------------------------| ends
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bireme.errors import Internal, from_wire

_LINE_MAX_BYTES = 256 << 20
_NOISE_MAX_BYTES = 4000

OnMessage = Callable[[Any], object]


def run_worker(
    module: str, request: Mapping[str, Any], fds: Sequence[int], progress: OnMessage | None = None
) -> dict[str, Any]:
    """Run a worker to its end; what it answered. Blocks.

    `request` gets "control" (the descriptor to answer on) and "parent" (the pid that must stay its parent). The error
    the worker tells is raised; Internal when it ends without a word.
    """
    read_end, write_end = os.pipe()
    full = {**request, "control": write_end, "parent": os.getpid()}
    try:
        worker = subprocess.Popen(
            [sys.executable, "-I", "-m", module, json.dumps(full)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=write_end,
            pass_fds=(*fds, write_end),
            cwd="/",
        )
    except OSError:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    try:
        with open(read_end, "rb") as control:
            reply, noise = _listen(control.readline, progress)
        code = worker.wait()
    finally:
        if worker.returncode is None:
            worker.kill()
            worker.wait()
    if "error" in reply:
        raise from_wire(reply["error"])
    if code or "ok" not in reply:
        how = f"signal {-code}" if code < 0 else f"code {code}"
        name = module.rpartition(".")[2].replace("_", " ")
        raise Internal(f"{name} ended with {how}", place=name, hint=noise.strip()[-500:])
    answer: dict[str, Any] = reply["ok"]
    return answer


def _listen(readline: Callable[[int], bytes], progress: OnMessage | None) -> tuple[dict[str, Any], str]:
    """The last word of the worker, and whatever else it (or its interpreter) printed."""
    reply: dict[str, Any] = {}
    noise = b""
    while line := readline(_LINE_MAX_BYTES):
        try:
            message = json.loads(line)
        except ValueError:
            noise = (noise + line)[-_NOISE_MAX_BYTES:]
            continue
        if "progress" not in message:
            reply = message
        elif progress is not None:
            progress(message["progress"])
    return reply, noise.decode("utf-8", "replace")
