"""The starter's side: what is made outside the container, and the dialogue with the child.

The root is an overlay whose layers are idmapped one by one (the kernel refuses to idmap a merged overlay): each lower
and the directory that holds upper and work are cloned with open_tree, given the container's user namespace with
mount_setattr, and handed to overlay as descriptors. They are mounted nowhere, and neither is the overlay: the child
attaches it. The kernel lets an overlay with an idmapped upper become read-only without a word unless the mounter's
fsuid is mapped in it, so it is mounted with the fsuid of the container's root; setfsuid takes the file capabilities
out of the effective set, and overlay keeps its mounter's credentials for all later work, so they are put back before.

Descriptors as overlay layers (FSCONFIG_SET_FD) came with Linux 6.13. Before that the layers are named by their numbers
relative to /proc/self/fd, which keeps `lowerdir` short: fsconfig takes 255 bytes of text.

A supervisor without blocking uses the parts: `apply_outside`, `assemble`, `send_start`, `read_reply`. A program that
may wait uses `launch` and `launch_exec`.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from typing import TYPE_CHECKING, NamedTuple

from bireme.errors import Denied, Internal, Invalid, NotFound
from bireme.linux import capabilities, fd, mount, namespaces, process, seccomp
from bireme.linux.libc import SyscallError
from bireme.runtime import exec as exec_stage
from bireme.runtime import spare, sync
from bireme.runtime.plan import exec_namespaces
from bireme.runtime.skeleton import make_node
from bireme.runtime.sync import StartFailed

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from bireme.runtime.mountplan import DevicePlan, MountPlan
    from bireme.runtime.plan import ExecPlan, LaunchPlan, RootPlan
    from bireme.runtime.sync import Joiner, Reply

_OVERLAY_OPTIONS = (("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow"))


def assemble(plan: LaunchPlan, userns_fd: int, uid_base: int = 0, gid_base: int | None = None) -> list[int]:
    """Make the root, the binds and the devices as detached mounts: their descriptors in the order of `start`.

    `userns_fd` is the container's user namespace (-1: the host's), the bases what its root is outside. The caller
    sends them and closes them. Raises SyscallError, NotFound for a bind source that does not exist.
    """
    gid_base = uid_base if gid_base is None else gid_base
    made: list[int] = []
    try:
        made.append(_make_root(plan["root"], userns_fd, uid_base, gid_base))
        made.extend(_make_bind(entry, userns_fd) for entry in plan["mounts"] if entry["kind"] == "bind")
        if plan["devices"]:
            made.extend(_make_devices(plan["devices"], uid_base, gid_base))
    except BaseException:
        fd.close_quietly(*made)
        raise
    return made


def _make_root(root: RootPlan, userns: int, uid: int, gid: int) -> int:
    shift = userns if root.get("idmap", True) else -1
    if root.get("path"):
        tree = _clone(root["path"], recursive=True)
        if shift >= 0:
            _shift(tree, shift, root["path"])
        mount.set_attributes(tree, propagation=1 << 18, recursive=True)
        return tree
    layers: list[int] = []
    try:
        layers.extend(_shifted_clone(lower, shift) for lower in root["lower"])
        writable = -1
        if root.get("upper"):
            parent = os.path.dirname(root["upper"])
            if os.path.dirname(root["work"]) != parent:
                raise Invalid("upper and work are not in one directory", subject=root["work"])
            writable = _shifted_clone(parent, shift)
            layers.append(writable)
        if writable < 0 and len(root["lower"]) == 1:
            return layers.pop()
        names = (os.path.basename(root.get("upper", "")), os.path.basename(root.get("work", "")))
        return _as_container_root(shift >= 0, uid, gid, lambda: _mount_overlay(layers, writable, names))
    finally:
        fd.close_quietly(*layers)


def _clone(path: str, *, recursive: bool = False) -> int:
    try:
        return mount.open_tree(mount.AT_FDCWD, path, recursive=recursive)
    except SyscallError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFound(f"mount source path does not exist: {path}", subject=path) from error
        raise


def _shifted_clone(path: str, userns: int) -> int:
    tree = _clone(path)
    if userns >= 0:
        try:
            _shift(tree, userns, path)
        except BaseException:
            os.close(tree)
            raise
    return tree


def _shift(tree: int, userns: int, subject: str) -> None:
    try:
        mount.set_attributes(tree, userns=userns)
    except SyscallError as error:
        raise SyscallError(error.errno or 0, "mount_setattr", f"{subject} (idmapped mount)") from None


def _as_container_root(shifted: bool, uid: int, gid: int, work: Callable[[], int]) -> int:
    """Run `work` with the file system ids of the container's root and all capabilities effective."""
    if not shifted:
        return work()
    effective, permitted, inheritable = capabilities.get_sets()
    try:
        namespaces.set_filesystem_ids(uid, gid)
        capabilities.set_sets(permitted, permitted, inheritable)
        return work()
    finally:
        namespaces.set_filesystem_ids(0, 0)
        capabilities.set_sets(effective, permitted, inheritable)


_set_fd_works: bool | None = None


def _mount_overlay(layers: list[int], writable: int, names: tuple[str, str]) -> int:
    global _set_fd_works
    lowers = layers[:-1] if writable >= 0 else layers
    if _set_fd_works is not False:
        try:
            made = _mount_overlay_by_fd(lowers, writable, names)
        except SyscallError as error:
            if _set_fd_works or error.errno != errno.EINVAL:
                raise
            _set_fd_works = False
        else:
            _set_fd_works = True
            return made
    return _mount_overlay_by_name(lowers, writable, names)


def _mount_overlay_by_fd(lowers: list[int], writable: int, names: tuple[str, str]) -> int:
    context = mount.open_filesystem("overlay")
    opened: list[int] = []
    try:
        mount.set_string(context, "source", "overlay")
        for lower in lowers:
            mount.set_fd(context, "lowerdir+", lower)
        if writable >= 0:
            for key, name in zip(("upperdir", "workdir"), names, strict=True):
                flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                opened.append(os.open(name, flags, dir_fd=writable))
                mount.set_fd(context, key, opened[-1])
        for key, value in _OVERLAY_OPTIONS:
            mount.set_string(context, key, value)
        return mount.create_mount(context)
    finally:
        fd.close_quietly(context, *opened)


def _mount_overlay_by_name(lowers: list[int], writable: int, names: tuple[str, str]) -> int:
    options: list[tuple[str, str | None]] = [("source", "overlay"), ("lowerdir", ":".join(map(str, lowers)))]
    if writable >= 0:
        options += [("upperdir", f"{writable}/{names[0]}"), ("workdir", f"{writable}/{names[1]}")]
    if len(options[1][1] or "") > 255:
        raise Invalid(f"{len(lowers)} layers are more than this kernel takes", subject="lowerdir")
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir("/proc/self/fd")
        return mount.new_filesystem("overlay", (*options, *_OVERLAY_OPTIONS))
    finally:
        os.fchdir(before)
        os.close(before)


def _make_bind(entry: MountPlan, userns: int) -> int:
    tree = _clone(entry["source"], recursive=entry["recursive"])
    try:
        if userns >= 0 and entry["idmap"] != "noidmap":
            _shift_if_possible(tree, userns, recursive=entry["recursive"])
        propagation = entry["propagation"] or 1 << 18
        whole = entry["recursive"] and (entry["propagation_tree"] or not entry["propagation"])
        if entry["add"] or entry["clear"] or not whole:
            mount.set_attributes(tree, add=entry["add"], clear=entry["clear"], propagation=propagation)
        if entry["tree_add"] or entry["tree_clear"] or whole:
            mount.set_attributes(
                tree,
                add=entry["tree_add"],
                clear=entry["tree_clear"],
                propagation=propagation if whole else 0,
                recursive=True,
            )
    except BaseException:
        os.close(tree)
        raise
    return tree


def _shift_if_possible(tree: int, userns: int, *, recursive: bool) -> None:
    """Ids on disk are those inside where the file system can do it; else (proc, sysfs, network file systems) the bind
    shows the owners it has, nobody mostly."""
    for whole in (True, False) if recursive else (False,):
        try:
            mount.set_attributes(tree, userns=userns, recursive=whole)
        except SyscallError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
        else:
            return


def _make_devices(devices: Sequence[DevicePlan], uid: int, gid: int) -> list[int]:
    """Nodes in a tmpfs of their own, each as a mount of its own."""
    made: list[int] = []
    home = mount.new_filesystem("tmpfs", (("source", "devices"), ("size", "64k"), ("mode", "700")))
    old = os.umask(0)
    try:
        for number, device in enumerate(devices):
            make_node(home, str(number), device, uid, gid)
            made.append(_clone_below(home, str(number)))
    except BaseException:
        fd.close_quietly(*made)
        raise
    finally:
        os.umask(old)
        os.close(home)
    return made


def _clone_below(tree: int, name: str) -> int:
    return mount.open_tree(tree, name)


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
        for number in fds[:3]:
            status = os.fstat(number)
            if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
                os.fchown(number, *owner)
    sync.send_message(ctl, {"m": "start", "plan": plan}, fds)


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
    process.wait_pid(stage)
    if received is None:
        raise Internal("the stage of a start died", place="stage")
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
