"""Finding or starting the keeper of a run root, and ending everything of one."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from bireme.errors import Unavailable
from bireme.linux import procfs
from bireme.supervisor import program

START_DEADLINE_S = 15.0
_LOG_LIMIT_BYTES = 4 << 20


def read_pid(path: str) -> int:
    """The live process a pid file names, or 0."""
    try:
        with open(path, encoding="ascii") as file:
            pid = int(file.read().strip() or 0)
        os.kill(pid, 0)
    except (OSError, ValueError):
        return 0
    return pid if pid > 0 and not _zombie(pid) else 0


def ensure_keeper(run_root: str) -> bool:
    """Start the keeper unless one lives; returns whether it was started. It outlives us: own session, own log."""
    program.make_run_root(run_root)
    if read_pid(f"{run_root}/keeper.pid"):
        return False
    log = os.open(f"{run_root}/keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(log).st_size > _LOG_LIMIT_BYTES:
            os.ftruncate(log, 0)
        subprocess.Popen(
            program.command("keeper", "--run-root", run_root),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=program.environment(),
            cwd="/",
        ).returncode = 0
    except OSError as error:
        raise Unavailable(f"cannot start the keeper: {error}", place=run_root) from error
    finally:
        os.close(log)
    return True


def wait_gone(pid: int, deadline_s: float) -> bool:
    """Whether process `pid` ended within the deadline."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if _zombie(pid):
            return True
        time.sleep(0.02)
    return False


def terminate(pid: int, deadline_s: float) -> bool:
    """SIGTERM and wait; whether it is gone."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return True
    return wait_gone(pid, deadline_s)


def _zombie(pid: int) -> bool:
    found = procfs.read_stat(pid)
    return found is None or found.state == "Z"
