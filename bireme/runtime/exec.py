"""One more process in a running container.

A pid namespace is entered by cloning, so the caller enters it for the moment of the clone (setns changes it for
children only, and going back is legal). The child joins the cgroup and all other namespaces at once through the init's
pidfd, waits for its plan on ctl (see sync.py) and becomes the program. The zygote sees the request, never the
environment.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn, TypedDict

from bireme.errors import BiremeError
from bireme.linux import fd as fds
from bireme.linux import namespaces, process
from bireme.linux.process import CloneFlags
from bireme.runtime import identity, init, sync
from bireme.runtime.cloning import clone_into

if TYPE_CHECKING:
    import socket

    from bireme.runtime.plan import ExecPlan
    from bireme.runtime.sync import Joiner


class ExecRequest(TypedDict):
    """`cgroup`: a name of the manager given to `spawn_exec`, "" for none; `namespaces`: plan.exec_namespaces."""

    cgroup: str
    namespaces: list[str]


_PARENT = int(CloneFlags.CLONE_PARENT)
_PID = int(CloneFlags.CLONE_NEWPID)
_own: list[int] = []


def own_pid_namespace() -> int:
    """A descriptor of the caller's pid namespace, opened once."""
    if not _own:
        _own.append(namespaces.open_namespace("self", "pid"))
    return _own[0]


def spawn_exec(
    request: ExecRequest, ctl: socket.socket, pidfd: int, cgroups: Joiner | None = None, *, parent: bool = True
) -> int:
    """Clone a child into the container whose init is `pidfd`; what goes wrong is reported on `ctl`, its end.

    The caller closes ctl and pidfd afterwards; `parent` as for spare.spawn. Always 0: there is no stage to reap.
    """
    progress = init.Progress("namespaces")
    child_pidfd = -1
    try:
        home = own_pid_namespace()
        flags = _PARENT if parent else 0
        entered = "pid" in request["namespaces"]
        if entered:
            namespaces.setns(pidfd, _PID, subject="the container's pid namespace")
        try:
            progress.stage = "clone"
            pid, child_pidfd, joined = clone_into(cgroups, request["cgroup"], flags)
            if pid == 0:
                _child(request, ctl, pidfd, None if joined else cgroups)
        finally:
            if entered:
                namespaces.setns(home, _PID, subject="our own pid namespace")
        sync.send_child(ctl, pid, child_pidfd)
    except (OSError, BiremeError) as error:
        sync.report(ctl, progress.stage, error)
    finally:
        fds.close_quietly(child_pidfd)
    return 0


def _child(request: ExecRequest, ctl: socket.socket, pidfd: int, cgroups: Joiner | None) -> NoReturn:
    progress = init.Progress("cgroup")
    try:
        process.set_dumpable(False)
        if cgroups is not None and request["cgroup"]:
            cgroups.join(request["cgroup"])
        progress.stage = "namespaces"
        flags = namespaces.flags_of(kind for kind in request["namespaces"] if kind != "pid")
        namespaces.setns(pidfd, flags, subject="the container's namespaces")
        fds.close_all_but([ctl.fileno()])
        init.reset_signals()
        if "user" in request["namespaces"]:
            process.set_ids(0, 0)
        process.set_dumpable(False)
        os.setsid()
        progress.stage = "exec start"
        started = sync.receive_message(ctl)
        if started is None:
            os._exit(0)
        finish(started[0]["plan"], started[1], ctl, progress)
    except BaseException as error:
        init.fail(ctl, progress, error)


def finish(
    what: ExecPlan, files: list[int], ctl: socket.socket, progress: init.Progress, become: init.Become | None = None
) -> NoReturn:
    """The second half, in all namespaces already; `become` as for init.execute."""
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
    init.execute(what, who, stdio, passed, ctl, progress, become=become)
