"""One more process in a running container.

The stage (E1) joins the cgroup and all namespaces at once through the init's pidfd; since a pid namespace counts for
children only, it clones E2 with CLONE_PARENT, so that the starter is the parent, and exits. E2 waits for its plan on
ctl (see sync.py) and becomes the program. The zygote sees the request, never the environment.
"""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, NoReturn, TypedDict

from bireme.linux import fd as fds
from bireme.linux import namespaces, process
from bireme.linux.namespaces import KINDS
from bireme.linux.process import CloneFlags
from bireme.runtime import identity, init, sync

if TYPE_CHECKING:
    import socket

    from bireme.runtime.plan import ExecPlan
    from bireme.runtime.sync import Joiner


class ExecRequest(TypedDict):
    """`cgroup`: a name of the manager given to `spawn_exec`, "" for none; `namespaces`: plan.exec_namespaces."""

    cgroup: str
    namespaces: list[str]


def spawn_exec(
    request: ExecRequest, ctl: socket.socket, pidfd: int, cgroups: Joiner | None = None, *, parent: bool = True
) -> int:
    """Clone the stage of an exec into the container whose init is `pidfd`; returns the stage's pid (parent reaps).

    `ctl` is the child's end, `parent` as for spare.spawn. The caller closes ctl and pidfd afterwards.
    """
    pid, joined = clone_stage(cgroups, request["cgroup"], parent=parent)
    if pid == 0:
        _stage(request, ctl, pidfd, None if joined else cgroups)
    return pid


def clone_stage(cgroups: Joiner | None, cgroup: str, *, parent: bool) -> tuple[int, bool]:
    """Clone, where the kernel can straight into the cgroup: the pid (0 in the child), and whether it is in it."""
    flags = CloneFlags.CLONE_PARENT if parent else 0
    directory = cgroups.clone_fd(cgroup) if cgroups is not None and cgroup else -1
    try:
        pid, _ = process.clone3(flags, cgroup_fd=directory)
    finally:
        fds.close_quietly(directory)
    return pid, directory >= 0


def _stage(request: ExecRequest, ctl: socket.socket, pidfd: int, cgroups: Joiner | None) -> NoReturn:
    progress = init.Progress("cgroup")
    try:
        process.set_dumpable(False)
        gc.disable()
        if cgroups is not None and request["cgroup"]:
            cgroups.join(request["cgroup"])
        progress.stage = "namespaces"
        flags = 0
        for kind in request["namespaces"]:
            flags |= KINDS[kind]
        namespaces.setns(pidfd, flags, subject="the container's namespaces")
        pid, child_pidfd = process.clone3(CloneFlags.CLONE_PARENT, pidfd=True)
        if pid == 0:
            _child(request, ctl)
        sync.send_message(ctl, {"m": "child", "pid": pid}, [child_pidfd])
    except BaseException as error:
        init.report(ctl, progress.stage, error)
        os._exit(1)
    os._exit(0)


def _child(request: ExecRequest, ctl: socket.socket) -> NoReturn:
    progress = init.Progress("exec start")
    try:
        fds.close_all_but([ctl.fileno()])
        init.reset_signals()
        process.set_dumpable(False)
        if "user" in request["namespaces"]:
            process.set_ids(0, 0)
        os.setsid()
        started = sync.receive_message(ctl)
        if started is None:
            os._exit(0)
        _finish(started[0]["plan"], started[1], ctl, progress)
    except BaseException as error:
        init.report(ctl, progress.stage, error)
        os._exit(sync.exit_code(progress.stage, getattr(error, "errno", 0) or 0))


def _finish(what: ExecPlan, files: list[int], ctl: socket.socket, progress: init.Progress) -> NoReturn:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stdio = [] if what["terminal"] else files[:3]
    passed = files[len(stdio) :]
    progress.stage = "console"
    if what["terminal"]:
        stdio = [init.open_terminal(what, ctl).slave] * 3
    progress.stage = "user"
    who = identity.resolve(what, root)
    progress.stage = "cwd"
    init.enter_directory(root, what["cwd"], make=False)
    init.execute(what, who, stdio, passed, ctl, progress)
