"""Namespaces of one instance that another one joins.

A plan names them: `/instance/ID` as the path of a namespace, `/instance/ID/dev/shm` as the source of a bind. Only here
the first process of ID can be meant and no other: nobody else reaps it. Both become descriptors of this process, named
as /proc/PID/fd/N, so that what is joined cannot become another's between now and the start.

Who may join: setns(2) wants CAP_SYS_ADMIN in the user namespace that owns what is joined, and so do the mounts of
/proc, /sys and mqueue and every later use (addresses, raw sockets, ports below 1024). So whoever joins lives in the
user namespace of its target, with its range of ids; the range stays taken until the last one is gone.

What outlives the target: its network goes on without the interfaces (their addresses are given to others next), its
IPC with all objects; its pid namespace dies with it, and everybody in there.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from bireme.errors import Conflict, Deadline, Internal
from bireme.linux import fd as fdlib
from bireme.linux import mount, namespaces, netlink, process
from bireme.linux.libc import SyscallError
from bireme.linux.process import CloneFlags
from bireme.runtime import sync

if TYPE_CHECKING:
    import socket

    from bireme.runtime.plan import LaunchPlan
    from bireme.supervisor.table import Instance, Table

PREFIX = "/instance/"
_SHM = "/dev/shm"
_ANSWER_MS = 2000


class Joined(NamedTuple):
    """`fds` to be closed once the program runs; `uid_base` of the user namespace and the `place` whose range
    that is (0 and -1: the host's); `ids` of who is joined."""

    fds: list[int]
    uid_base: int
    place: int
    ids: list[str]


def wants_others(plan: LaunchPlan) -> bool:
    return any(path.startswith(PREFIX) for path in plan["namespaces"].values())


def join(plan: LaunchPlan, table: Table) -> Joined:
    """Open what the plan names and put the descriptors into it. Conflict when a target does not run, or when two
    targets live in different user namespaces."""
    wanted = {kind: path.removeprefix(PREFIX) for kind, path in plan["namespaces"].items() if path.startswith(PREFIX)}
    targets = {identity: table.find_running(identity)[0] for identity in wanted.values()}
    fds: list[int] = []
    try:
        host = _user_of(targets, wanted.get("user", ""))
        for kind, identity in wanted.items():
            if kind != "user" or host is not None:
                pid = host.pid if kind == "user" and host is not None else targets[identity].pid
                fds.append(namespaces.open_namespace(pid, kind))
                plan["namespaces"][kind] = _name(fds[-1])
        if "user" in wanted and host is None:
            del plan["namespaces"]["user"]
        _give_shm(plan, targets, fds)
    except BaseException as error:
        fdlib.close_quietly(*fds)
        if isinstance(error, SyscallError):
            raise Conflict(f"cannot join the namespaces of another container: {error}") from error
        raise
    for target in targets.values():
        target.joined = True
    if host is None:
        return Joined(fds, 0, -1, list(targets))
    return Joined(fds, host.uid_base, host.joins.get("place", host.place), list(targets))


def _name(fd: int) -> str:
    return f"/proc/{os.getpid()}/fd/{fd}"


def _user_of(targets: dict[str, Instance], wanted: str) -> Instance | None:
    """Whose user namespace is to be joined; None for the host's, which has every right over the others."""
    if not wanted:
        return None
    found = {os.stat(f"/proc/{target.pid}/ns/user").st_ino: target for target in targets.values()}
    if os.stat("/proc/self/ns/user").st_ino in found:
        return None
    if len(found) > 1:
        raise Conflict(
            "cannot join namespaces of containers that are in different user namespaces: " + ", ".join(sorted(targets)),
            hint="start the second one with a namespace of the first, or all of them with --userns host",
        )
    return next(iter(found.values()))


def _give_shm(plan: LaunchPlan, targets: dict[str, Instance], fds: list[int]) -> None:
    for entry in plan["mounts"]:
        if entry["source"].startswith(PREFIX):
            identity = entry["source"].removeprefix(PREFIX).removesuffix(_SHM)
            fds.append(_shm_of(targets[identity].pid))
            entry["source"] = _name(fds[-1])
            entry["given"] = True


def _shm_of(pid: int) -> int:
    """The /dev/shm that a process sees, as a mount that is nowhere yet. A mount can be cloned only from within its
    namespace: a child goes there. It may wait for a file system that never answers, so we do not wait for it."""
    space = namespaces.open_namespace(pid, "mnt")
    try:
        ours, theirs = fdlib.seqpacket_pair()
        with ours:
            child, pidfd = process.clone3(0, pidfd=True)
            if child == 0:
                _clone_shm(theirs, space)
            theirs.close()
            poller = select.poll()
            poller.register(ours.fileno(), select.POLLIN)
            received = sync.receive_message(ours) if poller.poll(_ANSWER_MS) else None
    finally:
        os.close(space)
    process.kill_and_wait(pidfd)
    process.wait_pid(child)
    os.close(pidfd)
    if received is None:
        raise Deadline("the other container's /dev/shm does not answer", place="mounts")
    message, made = received
    if not made:
        raise Internal(f"cannot share /dev/shm: {message.get('message', '')}", place="mounts")
    return made[0]


def _clone_shm(sock: socket.socket, space: int) -> NoReturn:
    try:
        namespaces.setns(space, int(CloneFlags.CLONE_NEWNS))
        tree = mount.open_tree(mount.AT_FDCWD, _SHM)
        sync.send_message(sock, {}, [tree])
    except OSError as error:
        sync.send_message(sock, {"message": str(error)})
    finally:
        os._exit(0)


def left(instance: Instance) -> None:
    """An instance that others have joined has ended: its interface goes, or it would stay with an address that is
    another's soon."""
    if not instance.joined or not instance.veth:
        return
    try:
        with netlink.RtNetlink() as link:
            link.batch([netlink.delete_link(instance.veth)])
    except SyscallError:
        return
