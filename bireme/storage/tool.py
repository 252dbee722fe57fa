"""Programs of the host that read what images hold: run jailed, one after another, on two directories and nothing else.

    engine                              child (tool_worker.py, then the program itself)
      | /source read-only, /target        |
      |---------------------------------->| new mount, network and IPC namespaces; a root of these two directories and
      |                                   | the host's programs; nobody, with the capabilities named and no others to
      |                                   | be had; Docker's seccomp list for somebody without them; bounded memory,
      |             exit code, its words  | time and file size
      |<----------------------------------| execve

The child dies with the thread that started it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from bireme.errors import Internal, Unavailable

SOURCE, TARGET = "/source", "/target"
"""Where the program finds the two directories."""

NOBODY = 65534
_NOISE_MAX_BYTES = 4000
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def find_tool(name: str) -> str:
    """The host's program of this name, "" when it is not installed."""
    return shutil.which(name, path=_PATH) or ""


def run_tool(argv: Sequence[str], source: int, target: int, *, keep: Sequence[str] = (), file_max_bytes: int) -> None:
    """Run a program to its end; blocks. `source` and `target` are open directories, `target` writable by nobody.

    `keep` names capabilities it needs. Unavailable with its last words when it fails, Internal when it was killed.
    """
    request = {
        "argv": list(argv),
        "source": source,
        "target": target,
        "parent": os.getpid(),
        "keep": list(keep),
        "file_max_bytes": file_max_bytes,
    }
    worker = subprocess.Popen(
        [sys.executable, "-I", "-m", "bireme.storage.tool_worker", json.dumps(request)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(source, target),
        cwd="/",
        env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
    )
    try:
        words = _last_words(worker)
        code = worker.wait()
    finally:
        if worker.returncode is None:
            worker.kill()
            worker.wait()
    name = os.path.basename(argv[0])
    if code < 0:
        raise Internal(f"{name} ended with signal {-code}", place=name, hint=words[-500:])
    if code:
        raise Unavailable(f"{name} failed with code {code}: {words[-500:]}", place=name)


def _last_words(worker: subprocess.Popen[bytes]) -> str:
    noise = b""
    assert worker.stdout is not None
    with worker.stdout as output:
        while data := os.read(output.fileno(), 65536):
            noise = (noise + data)[-_NOISE_MAX_BYTES:]
    return " ".join(noise.decode("utf-8", "replace").split())
