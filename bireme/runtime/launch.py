"""The starter's side of the dialogue with the child.

A supervisor without blocking uses the parts: `apply_outside`, `assemble`, `send_start`, `read_reply`. A program that
may wait uses `launch` and `launch_exec`.
"""

from __future__ import annotations

import os
import resource
import stat
from typing import TYPE_CHECKING, NamedTuple

from bireme.errors import Denied, Internal
from bireme.linux import fd, namespaces, process, seccomp
from bireme.runtime import exec as exec_stage
from bireme.runtime import spare, sync
from bireme.runtime.outside import assemble
from bireme.runtime.plan import exec_namespaces
from bireme.runtime.sync import StartFailed

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from bireme.runtime.plan import ExecPlan, LaunchPlan
    from bireme.runtime.sync import Joiner, Reply

__all__ = [
    "Started",
    "apply_outside",
    "assemble",
    "launch",
    "launch_exec",
    "raise_if_error",
    "read_reply",
    "send_start",
]


def apply_outside(plan: ExecPlan, pid: int) -> None:
    """What the child may not do itself, before `start` is sent: raise hard limits, lower or set oom_score_adj.

    Denied when this process lacks CAP_SYS_RESOURCE for it.
    """
    for number, _, hard in plan["rlimits"]:
        soft_now, hard_now = resource.prlimit(pid, number)
        if hard_now == resource.RLIM_INFINITY or (hard != -1 and hard <= hard_now):
            continue
        try:
            resource.prlimit(pid, number, (soft_now, hard))
        except (PermissionError, ValueError) as error:
            raise Denied(
                f"error setting rlimit type {number}: operation not permitted",
                subject=str(number),
                place="rlimits",
                hint=f"the hard limit of the engine is {hard_now}, and raising it needs CAP_SYS_RESOURCE",
            ) from error
    if plan["oom_score_adj"] is not None:
        _set_oom_score_adj(pid, plan["oom_score_adj"])


def _set_oom_score_adj(pid: int, value: int) -> None:
    path = f"/proc/{pid}/oom_score_adj"
    with open(path, "r+b", buffering=0) as file:
        if int(file.read(16)) == value:
            return
        try:
            file.write(b"%d" % value)
        except PermissionError as error:
            raise Denied(
                f"setting oom_score_adj to {value}: permission denied",
                subject=path,
                place="oom_score_adj",
                hint="lowering it needs CAP_SYS_RESOURCE",
            ) from error


def send_start(
    ctl: socket.socket,
    plan: LaunchPlan | ExecPlan,
    fds: Sequence[int],
    *,
    owner: tuple[int, int] | None = None,
) -> None:
    """Hand over the plan and its descriptors in the order sync.py gives; the caller still owns them.

    `owner`: (uid, gid) outside of the container's root; pipes and sockets among the first three are given to it, or
    the program could not reopen /dev/stderr. Raises BrokenPipeError when the child is gone.
    """
    if owner is not None:
        own_streams(fds, owner)
    sync.send_message(ctl, {"m": "start", "plan": plan}, fds)


def own_streams(fds: Sequence[int], owner: tuple[int, int]) -> None:
    """Give the pipes and sockets among the first three to (uid, gid)."""
    for number in fds[:3]:
        status = os.fstat(number)
        if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
            os.fchown(number, *owner)


def read_reply(ctl: socket.socket) -> tuple[Reply, list[int]] | None:
    """The next message of the stage or child with its descriptors; None at the end: exec happened, or it died."""
    return sync.receive_message(ctl)  # type: ignore[return-value]


def raise_if_error(reply: Reply) -> None:
    """StartFailed for an `error` reply."""
    if reply["m"] == "error":
        raise StartFailed(
            reply.get("stage", ""), reply.get("errno", 0), reply.get("subject", ""), reply.get("message", "")
        )


class Started(NamedTuple):
    """A process that runs (or, with `hold`, waits to): its pid here, a pidfd, the pty master or -1."""

    pid: int
    pidfd: int
    console: int


def launch(
    plan: LaunchPlan,
    stdio: Sequence[int],
    *,
    cgroups: Joiner | None = None,
    cgroup: str = "",
    uid_base: int = 0,
    hold: int = -1,
    pass_files: Sequence[int] = (),
    on_namespaces: Callable[[int], dict[str, object]] | None = None,
    on_child: Callable[[int], None] | None = None,
) -> Started:
    """Start a container as a child of this process, without zygote or spare; blocks until exec (or `created`).

    `on_child(pid)` is called once the process exists, before it may go on (limits, pid files); `on_namespaces(pid)`
    makes it stop in its namespaces before its root changes and gives the `go` message (hooks). `hold` is the listening
    socket of a plan with `hold`. Raises StartFailed and what `assemble` raises; the child is dead and reaped then.
    """
    _prepare_filter(plan["process"])
    ours, theirs = fd.seqpacket_pair(256 << 10)
    with ours:
        request = spare.request_of(plan, cgroup, uid_base)
        request["hooks"] = on_namespaces is not None
        with theirs:
            stage = spare.spawn(request, theirs, cgroups, parent=False)
        pid, pidfd = _await_child(ours, stage)
        try:
            if on_child is not None:
                on_child(pid)
            if on_namespaces is not None:
                _expect(ours, "namespaces")
                sync.send_message(ours, {"m": "go", **on_namespaces(pid)})
            _expect(ours, "ready")
            apply_outside(plan["process"], pid)
            owner = (request["uid"], request["gid"])
            files = _files(plan, pid, owner)
            try:
                extra = [hold] if plan["hold"] else []
                send_start(ours, plan, [*stdio, *files, *extra, *pass_files], owner=owner if stdio else None)
            finally:
                fd.close_quietly(*files)
            console = _await_exec(ours)
        except BaseException:
            _kill(pidfd)
            raise
    return Started(pid, pidfd, console)


def _prepare_filter(plan: ExecPlan) -> None:
    """The child cannot read the default profile any more: compile it before the fork."""
    if plan["seccomp"] == "default":
        seccomp.default_program()


def _files(plan: LaunchPlan, pid: int, owner: tuple[int, int]) -> list[int]:
    if "user" not in plan["namespaces"]:
        return assemble(plan, -1)
    userns = namespaces.open_namespace(pid, "user")
    try:
        return assemble(plan, userns, *owner)
    finally:
        os.close(userns)


def launch_exec(
    plan: ExecPlan,
    container: LaunchPlan,
    init_pid: int,
    stdio: Sequence[int],
    *,
    cgroups: Joiner | None = None,
    cgroup: str = "",
    owner: tuple[int, int] = (0, 0),
    pass_files: Sequence[int] = (),
) -> Started:
    """Run one more process in the container whose first process is `init_pid`, as a child of this one."""
    _prepare_filter(plan)
    ours, theirs = fd.seqpacket_pair(256 << 10)
    target = process.pidfd_open(init_pid)
    try:
        with ours:
            request: exec_stage.ExecRequest = {"cgroup": cgroup, "namespaces": exec_namespaces(container)}
            with theirs:
                stage = exec_stage.spawn_exec(request, theirs, target, cgroups, parent=False)
            pid, pidfd = _await_child(ours, stage)
            try:
                apply_outside(plan, pid)
                send_start(ours, plan, [*stdio, *pass_files], owner=owner if stdio else None)
                console = _await_exec(ours)
            except BaseException:
                _kill(pidfd)
                raise
    finally:
        os.close(target)
    return Started(pid, pidfd, console)


def _await_child(ctl: socket.socket, stage: int) -> tuple[int, int]:
    received = read_reply(ctl)
    if stage:
        process.wait_pid(stage)
    if received is None:
        raise Internal("the child of a start died", place="clone")
    reply, files = received
    raise_if_error(reply)
    return reply["pid"], files[0]


def _expect(ctl: socket.socket, word: str) -> None:
    received = read_reply(ctl)
    if received is None:
        raise Internal(f"the child died before it was {word}", place="prepare")
    raise_if_error(received[0])
    if received[0]["m"] != word:
        raise Internal(f"the child said {received[0]['m']}, not {word}", place="prepare")


def _await_exec(ctl: socket.socket) -> int:
    """Until exec or `created`; the pty master when one came."""
    console = -1
    try:
        while (received := read_reply(ctl)) is not None:
            reply, files = received
            raise_if_error(reply)
            if reply["m"] == "console":
                console = files[0]
            elif reply["m"] == "created":
                break
    except BaseException:
        fd.close_quietly(console)
        raise
    return console


def _kill(pidfd: int) -> None:
    process.pidfd_send_signal(pidfd, 9)
    process.wait_pidfd(pidfd)
    os.close(pidfd)
