"""A process that waits to become one more process of some container, whichever will ask.

Cloning an interpreter and its first steps are most of an exec (see exec.py): page tables, then a copy of each page that
is touched. A parked one has all that behind it. It enters the container, gives up what is to be given up, and starts
the program with posix_spawn(3), which borrows its memory instead of copying it. A pid namespace counts for children
only, so the program is its child; it ends at once, and the program passes to the starter, who is a subreaper.

    starter                                   parked
                       <-- ready{} ---------  its memory is its own, it waits
      enter{namespaces, plan} + fds ------->  joins, enters, becomes the user
                       <-- spawning{} ------  from here on the program may run
                       <-- child{pid} ------  it runs; the parked one ends

Descriptors of `enter`: the pidfd of the container's init, `joins` cgroup.procs files, then those of an exec's `start`.
Anywhere: error{...} as in sync.py. Not for terminals (posix_spawn makes no tty the controlling one) nor for a seccomp
filter of the user's, which need not allow a spawn: `suits` tells.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from bireme.linux import fd as fds
from bireme.linux import namespaces, process, residency
from bireme.linux.cgroup import join_fds
from bireme.linux.process import CloneFlags
from bireme.runtime import exec as exec_stage
from bireme.runtime import init, sync

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Any

    from bireme.runtime.processplan import ExecPlan

NAME = "bireme-parked"
SPAWNING = b'{"m":"spawning"}'
_PARENT = int(CloneFlags.CLONE_PARENT)


def suits(plan: ExecPlan) -> bool:
    """Whether a parked process can do it."""
    return not plan["terminal"] and plan["seccomp"] in ("", "default")


def spawn_parked(ctl: socket.socket) -> None:
    """Clone one; the caller's parent is its parent and learns its pid on `ctl`, which the caller closes afterwards."""
    pid, pidfd = process.clone3(_PARENT, pidfd=True)
    if pid == 0:
        _park(ctl)
    try:
        sync.send_child(ctl, pid, pidfd)
    finally:
        os.close(pidfd)


def send_enter(
    ctl: socket.socket, what: Sequence[str], plan: ExecPlan, init_pidfd: int, joins: Sequence[int], stdio: Sequence[int]
) -> None:
    """`enter`: the namespaces to enter (plan.exec_namespaces), what to run, and where its streams go."""
    message = {"m": "enter", "namespaces": list(what), "joins": len(joins), "plan": plan}
    sync.send_message(ctl, message, [init_pidfd, *joins, *stdio])


def _park(ctl: socket.socket) -> NoReturn:
    progress = init.Progress("park")
    try:
        process.set_dumpable(False)
        process.set_name(NAME)
        fds.close_all_but([ctl.fileno()])
        init.reset_signals()
        residency.populate()
        ctl.send(sync.READY)
        received = sync.receive_message(ctl)
        if received is None:
            os._exit(0)
        _enter(received[0], received[1], ctl, progress)
    except BaseException as error:
        init.fail(ctl, progress, error)


def _enter(message: dict[str, Any], files: list[int], ctl: socket.socket, progress: init.Progress) -> NoReturn:
    wanted, joins = message["namespaces"], message["joins"]
    progress.stage = "cgroup"
    join_fds(files[1 : 1 + joins])
    progress.stage = "namespaces"
    namespaces.setns(files[0], namespaces.flags_of(wanted), subject="the container's namespaces")
    for fd in files[: 1 + joins]:
        os.close(fd)
    if "user" in wanted:
        process.set_ids(0, 0)
    process.set_dumpable(False)
    exec_stage.finish(message["plan"], files[1 + joins :], ctl, progress, become=_spawn)


def _spawn(program: str, args: list[str], env: dict[str, str], ctl: socket.socket) -> NoReturn:
    ctl.send(SPAWNING)
    pid = os.posix_spawn(program, args, env, setsid=True)
    fds.close_range(0, 2)  # whoever reads them waits for the end of the program, not for ours
    ctl.send(b'{"m":"child","pid":%d}' % pid)
    os._exit(0)
