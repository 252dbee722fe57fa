"""Whether a process whose ctl has ended became its program, or died before.

The end of ctl means exec (it is CLOEXEC) or death. The name tells: exec changes it, right after it has closed ctl; a
zombie keeps it. In the moment between, the answer is UNSURE: look again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bireme.linux import process
from bireme.supervisor.zygote import NAME

if TYPE_CHECKING:
    from bireme.linux.process import Exit

RAN, DIED, UNSURE = "ran", "died", "unsure"
LOOK_AGAIN_S = 0.0005
MAX_LOOKS = 2000


def fate(pid: int, pidfd: int, ended: Exit | None, looks: int) -> str:
    """RAN, DIED or UNSURE; `ended` is its exit when that is known already and it was not reaped yet.

    After MAX_LOOKS it counts as running: a program may call itself what it likes.
    """
    if read_comm(pid) != NAME or looks > MAX_LOOKS:
        return RAN
    return DIED if ended is not None or is_dead(pidfd) else UNSURE


def is_dead(pidfd: int) -> bool:
    """Whether our child behind a pidfd has ended; also when it was reaped."""
    try:
        return process.wait_pidfd(pidfd, block=False, keep=True) is not None
    except ChildProcessError:
        return True


def read_comm(pid: int) -> str:
    """The name of a process, also of one that ended and was not reaped; "" when it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/comm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 64).decode("utf-8", "replace").strip()
    except OSError:
        return ""
    finally:
        os.close(fd)
