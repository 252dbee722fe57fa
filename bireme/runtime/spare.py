"""From a clone to a child that waits for its plan.

`spawn` is called by the zygote for spares and by whoever starts on the cold path; sync.py draws the dialogue. Three
things need rights outside the child's user namespace and are done by the caller around the clone, in well under a
millisecond: the device nodes of /dev, the id maps, and naming the child to the starter. The rest is the child's own
affair, so that nobody waits for it: joining the cgroups (on v1 a write may wait 10 ms for an RCU grace period), the
loopback device, the skeleton. Only a container that joins namespaces of others by path needs a stage in between, a
process that enters them first. With CLONE_PARENT the supervisor is the parent of all of them and reaps.

The child never returns from `spawn`. Everything it will run is imported before (`warm`): after the change of root no
import works. It is not dumpable until exec and was forked before any plan was known here.
"""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, NoReturn, NotRequired, TypedDict

from bireme.errors import BiremeError, Internal
from bireme.linux import fd as fds
from bireme.linux import namespaces, netlink, process, procfs, seccomp
from bireme.linux.libc import SyscallError, syscall
from bireme.linux.namespaces import KINDS
from bireme.linux.numbers import optional_number
from bireme.linux.process import CloneFlags
from bireme.runtime import exec as exec_stage
from bireme.runtime import init, sync
from bireme.runtime.mountplan import STOCK, SkeletonPlan
from bireme.runtime.plan import STOCK_KINDS, LaunchPlan
from bireme.runtime.skeleton import Skeleton, build, make_dev
from bireme.runtime.skeletonplan import SkeletonSteps, plan_skeleton

if TYPE_CHECKING:
    import socket

    from bireme.runtime.sync import Joiner

_PARENT = int(CloneFlags.CLONE_PARENT)
_CGROUP = int(CloneFlags.CLONE_NEWCGROUP)
RANGE = 65536
"""Ids in the range of one container."""


class SpawnRequest(TypedDict):
    """What a child needs to know before its plan. `cgroup` is a name of the manager given to `spawn`, "" for none;
    `namespaces` as in LaunchPlan; maps rows are [inside, outside, length], empty without a new user namespace.
    `skeleton` None is the stock one. `uid`, `gid`: what the container's root is outside."""

    cgroup: str
    namespaces: dict[str, str]
    uid_maps: list[list[int]]
    gid_maps: list[list[int]]
    skeleton: SkeletonPlan | None
    uid: int
    gid: int
    hooks: NotRequired[bool]
    """Wait for `go` in the new namespaces before the root changes (OCI createContainer hooks)."""


def stock_request(cgroup: str, uid_base: int) -> SpawnRequest:
    """A spare's request: all namespaces new, ids from `uid_base` on."""
    return {
        "cgroup": cgroup,
        "namespaces": dict.fromkeys(sorted(STOCK_KINDS), ""),
        "uid_maps": [[0, uid_base, RANGE]],
        "gid_maps": [[0, uid_base, RANGE]],
        "skeleton": None,
        "uid": uid_base,
        "gid": uid_base,
    }


def request_of(plan: LaunchPlan, cgroup: str, uid_base: int) -> SpawnRequest:
    """The request for a plan on the cold path. `uid_base` is used when the plan has a user namespace without maps;
    for one joined by path it is what root of that namespace is outside."""
    uid_maps, gid_maps = plan["uid_maps"], plan["gid_maps"]
    user = plan["namespaces"].get("user")
    if user == "" and not uid_maps:
        uid_maps = gid_maps = [[0, uid_base, RANGE]]
    if user is None:
        uid = gid = 0
    elif user:
        uid = gid = uid_base
        uid_maps = gid_maps = []
    else:
        uid, gid = host_id(uid_maps, 0), host_id(gid_maps, 0)
    return {
        "cgroup": cgroup,
        "namespaces": plan["namespaces"],
        "uid_maps": uid_maps,
        "gid_maps": gid_maps,
        "skeleton": plan["skeleton"],
        "uid": uid,
        "gid": gid,
    }


def host_id(maps: list[list[int]], inside: int) -> int:
    """What id `inside` is outside; Internal when the maps do not have it."""
    for start, outside, length in maps:
        if start <= inside < start + length:
            return outside + inside - start
    raise Internal(f"id {inside} is not mapped", place="id maps")


_KEYCTL = optional_number("keyctl")
_KEYCTL_JOIN_SESSION_KEYRING = 1

_cgroup_mounts: list[procfs.CgroupMount] = []
_stock_steps: list[SkeletonSteps] = []


def warm() -> None:
    """Settle what children would otherwise each do again: the default filter, mounts to show, garbage. Call it last,
    before the first `spawn` of a zygote; collecting is off afterwards (a collection writes to every page)."""
    process.set_dumpable(False)
    seccomp.prepare_default()
    exec_stage.own_pid_namespace()
    _stock_steps.append(plan_skeleton(STOCK, _known_cgroup_mounts(), cgroup_private=True))
    init.warm()
    gc.collect()
    gc.freeze()
    gc.disable()


def _known_cgroup_mounts() -> list[procfs.CgroupMount]:
    if not _cgroup_mounts:
        _cgroup_mounts.extend(procfs.cgroup_mounts())
    return _cgroup_mounts


def spawn(request: SpawnRequest, ctl: socket.socket, cgroups: Joiner | None = None, *, parent: bool = True) -> int:
    """Clone the child; what goes wrong is reported on `ctl`, the child's end, which the caller closes afterwards.

    `parent`: the child belongs to the caller's parent (a zygote), else to the caller. Returns the pid of a stage that
    the same parent has to reap, 0 when none was needed.
    """
    _known_cgroup_mounts()
    if not any(request["namespaces"].values()):
        spawn_several([request], [ctl], cgroups, parent=parent)
        return 0
    try:
        pid, _ = process.clone3(_PARENT if parent else 0)
        if pid == 0:
            _stage(request, ctl, cgroups)
    except OSError as error:
        sync.report(ctl, "clone", error)
        return 0
    return pid


def spawn_several(
    requests: list[SpawnRequest], ctls: list[socket.socket], cgroups: Joiner | None = None, *, parent: bool = True
) -> None:
    """`spawn` for children that join no namespaces by path.

    They are cloned one right after the other: each clone makes the caller's memory read-only once more, so what is
    done in between is paid for in copied pages. Until they are let go, together, they wait on one pipe; the caller's
    death lets them leave, since each closes its copy of the writing end first.
    """
    births = []
    for request, ctl in zip(requests, ctls, strict=True):
        birth = _Birth(request, ctl, _PARENT if parent else 0)
        try:
            birth.prepare(cgroups)
        except (OSError, BiremeError) as error:
            birth.fail(error)
            birth.close()
        else:
            births.append(birth)
    _release(births, cgroups)


def _release(births: list[_Birth], cgroups: Joiner | None) -> None:
    """Clone them all, name them all, let them all go. Closes what is theirs."""
    go = os.pipe()
    try:
        for birth in births:
            birth.clone(go, cgroups)
        os.write(go[1], b"+" * sum([birth.introduce() for birth in births]))
    finally:
        fds.close_quietly(*go)
        for birth in births:
            birth.close()


class _Birth:
    """One child of a caller that clones; -1 where a descriptor is not (any more)."""

    __slots__ = ("cgroup_fd", "ctl", "dev", "error", "flags", "pid", "pidfd", "request", "stage")

    def __init__(self, request: SpawnRequest, ctl: socket.socket, flags: int) -> None:
        self.request = request
        self.ctl = ctl
        self.dev = self.cgroup_fd = self.pidfd = -1
        self.pid = 0
        kinds = request["namespaces"].items()
        self.flags = flags | namespaces.flags_of(kind for kind, path in kinds if not path and kind != "cgroup")
        self.error: OSError | None = None
        self.stage = "dev"

    def prepare(self, cgroups: Joiner | None) -> None:
        """What can be done before the clone."""
        self.dev = _make_dev(self.request)
        self.stage = "clone"
        if cgroups is not None and self.request["cgroup"]:
            self.cgroup_fd = cgroups.clone_fd(self.request["cgroup"])

    def clone(self, go: tuple[int, int], cgroups: Joiner | None) -> None:
        """Returns in the caller only."""
        try:
            self.pid, self.pidfd = process.clone3(self.flags, pidfd=True, cgroup_fd=self.cgroup_fd)
        except OSError as error:
            self.error = error
        else:
            if self.pid == 0:
                _child(self.request, self.ctl, go, self.dev, None if self.cgroup_fd >= 0 else cgroups)

    def introduce(self) -> bool:
        """Write the id maps and name the child to the starter; False when that failed, and the child is dead."""
        try:
            if self.error is not None:
                raise self.error
            self.stage = "id maps"
            if self.request["uid_maps"]:
                namespaces.write_id_maps(self.pid, self.request["uid_maps"], self.request["gid_maps"])
            sync.send_child(self.ctl, self.pid, self.pidfd)
        except (OSError, BiremeError) as error:
            if self.pidfd >= 0:
                process.kill_and_wait(self.pidfd)
            self.fail(error)
            return False
        return True

    def fail(self, error: BaseException) -> None:
        sync.report(self.ctl, self.stage, error)

    def close(self) -> None:
        fds.close_quietly(self.dev, self.cgroup_fd, self.pidfd)


_REPORTED = 1


def _stage(request: SpawnRequest, ctl: socket.socket, cgroups: Joiner | None) -> NoReturn:
    """Enters the namespaces that exist, so that the caller need not, and clones from there; never returns."""
    progress = init.Progress("stage")
    try:
        process.set_dumpable(False)
        progress.stage = "cgroup"
        if cgroups is not None and request["cgroup"]:
            cgroups.join(request["cgroup"])
        progress.stage = "dev"
        birth = _Birth(request, ctl, _PARENT)
        birth.prepare(None)
        progress.stage = "namespaces"
        _join_by_path(request["namespaces"])
        _release([birth], None)
    except BaseException as error:
        sync.report(ctl, progress.stage, error)
        os._exit(_REPORTED)
    os._exit(0)


def _make_dev(request: SpawnRequest) -> int:
    return make_dev(request["skeleton"] or STOCK, request["uid"], request["gid"])


_JOIN_ORDER = ("net", "ipc", "uts", "cgroup", "pid", "time", "user")


def _join_by_path(wanted: dict[str, str]) -> None:
    """The user namespace last: with it the rights over the others may go."""
    paths = [(kind, wanted[kind]) for kind in _JOIN_ORDER if wanted.get(kind)]
    opened = [(kind, path, _open_namespace(path)) for kind, path in paths]
    for kind, path, fd in opened:
        namespaces.setns(fd, KINDS[kind], subject=path)
        os.close(fd)


def _open_namespace(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SyscallError(error.errno or 0, "open", path) from None


def _child(
    request: SpawnRequest, ctl: socket.socket, go: tuple[int, int], dev: int, cgroups: Joiner | None
) -> NoReturn:
    """Prepares, parks, and becomes the container's first process."""
    progress = init.Progress("prepare")
    try:
        process.set_dumpable(False)
        os.close(go[1])
        if os.read(go[0], 1) != b"+":
            os._exit(_REPORTED)
        skeleton = _prepare(request, ctl, dev, cgroups, progress)
        ctl.send(sync.READY)
        progress.stage = "start"
        started = sync.receive_message(ctl)
        if started is None:
            os._exit(0)
        message, files = started
        init.finish(message["plan"], files, ctl, skeleton, progress)
    except BaseException as error:
        init.fail(ctl, progress, error)


def _prepare(
    request: SpawnRequest, ctl: socket.socket, dev: int, cgroups: Joiner | None, progress: init.Progress
) -> Skeleton:
    wanted = request["namespaces"]
    hierarchies = _join_cgroup(request, cgroups, progress)
    fds.close_all_but([ctl.fileno(), dev])
    init.reset_signals()
    progress.stage = "ids"
    if "user" in wanted:
        process.set_ids(0, 0)
    process.set_dumpable(False)
    os.setsid()
    _join_keyring()
    if wanted.get("net") == "":
        progress.stage = "loopback"
        netlink.raise_loopback()
    progress.stage = "hooks"
    if request.get("hooks"):
        _wait_for_hooks(ctl)
    progress.stage = "skeleton"
    plan = request["skeleton"]
    if plan is None and _stock_steps and "cgroup" in wanted:
        return build(dev, _stock_steps[0])
    return build(dev, plan_skeleton(plan or STOCK, hierarchies, cgroup_private="cgroup" in wanted))


def _join_cgroup(request: SpawnRequest, cgroups: Joiner | None, progress: init.Progress) -> list[procfs.CgroupMount]:
    """Join, then make the cgroup namespace: its root is where the process is. Before the ids change, since the files
    belong to root outside. Returns the hierarchies to show."""
    progress.stage = "cgroup"
    if cgroups is not None and request["cgroup"]:
        cgroups.join(request["cgroup"])
    if "cgroup" not in request["namespaces"]:
        return procfs.cgroup_mounts()
    if not request["namespaces"]["cgroup"]:
        namespaces.unshare(_CGROUP)
    return _cgroup_mounts


def _wait_for_hooks(ctl: socket.socket) -> None:
    """Say that the namespaces exist, wait, run what has to run in them."""
    sync.send_message(ctl, {"m": "namespaces"})
    answer = sync.receive_message(ctl)
    if answer is None:
        os._exit(0)
    init.run_hooks("createContainer", answer[0])


def _join_keyring() -> None:
    """A session keyring of its own, or root's keys would be shared; without keys in the kernel there is none."""
    try:
        syscall("keyctl", _KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, None, 0, 0, 0)
    except SyscallError as error:
        if error.errno not in (38, 122, 1):
            raise
