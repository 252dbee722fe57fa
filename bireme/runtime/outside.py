"""What is made outside a container: its root, binds and device nodes, as mounts that are nowhere yet.

The root is an overlay whose layers are idmapped one by one (the kernel refuses to idmap a merged overlay): each lower
and the directory that holds upper and work are cloned with open_tree, given the container's user namespace with
mount_setattr, and handed to overlay as descriptors. They are mounted nowhere, and neither is the overlay: the child
attaches it. The kernel lets an overlay with an idmapped upper become read-only without a word unless the mounter's
fsuid is mapped in it, so it is mounted with the fsuid of the container's root; setfsuid takes the file capabilities
out of the effective set, and overlay keeps its mounter's credentials for all later work, so they are put back before.

Older kernels take nothing for a layer, and clone no part of anything, that is not attached somewhere in the caller's
mount namespace (until Linux 6.15; layers as descriptors came with 6.13). There a helper in a mount namespace of its own
attaches, mounts and sends the result; with it the namespace goes, not the mount.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NoReturn

from bireme.errors import Internal, Invalid, NotFound, Unsupported
from bireme.linux import capabilities, fd, mount, namespaces, process
from bireme.linux.libc import SyscallError
from bireme.linux.process import CloneFlags
from bireme.runtime import sync
from bireme.runtime.plan import VERSION
from bireme.runtime.skeleton import make_node

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from bireme.runtime.mountplan import DevicePlan, MountPlan
    from bireme.runtime.plan import LaunchPlan, RootPlan

_OLD_OVERLAY_OPTIONS = (("index", "off"), ("metacopy", "off"), ("redirect_dir", "off"))
_OVERLAY_OPTIONS = (("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow"))


def assemble(
    plan: LaunchPlan,
    userns_fd: int,
    uid_base: int = 0,
    gid_base: int | None = None,
    *,
    spent: list[int] | None = None,
) -> list[int]:
    """Make the root, the binds and the devices as detached mounts: their descriptors in the order of `start`.

    `userns_fd` is the container's user namespace (-1: the host's), the bases what its root is outside. The caller
    sends them and closes them. Raises SyscallError, NotFound for a bind source that does not exist.

    `spent` gets what is of no more use: closing a detached mount waits for an RCU grace period (60 us to 2 ms), so a
    starter in a hurry closes them later.
    """
    if plan["version"] != VERSION:
        raise Unsupported(f"launch plan of version {plan['version']}, this is {VERSION}", subject="plan")
    gid_base = uid_base if gid_base is None else gid_base
    made: list[int] = []
    try:
        made.append(_make_root(plan["root"], userns_fd, uid_base, gid_base, spent))
        made.extend(_make_bind(entry, userns_fd) for entry in plan["mounts"] if entry["kind"] == "bind")
        if plan["devices"]:
            made.extend(_make_devices(plan["devices"], uid_base, gid_base))
    except BaseException:
        fd.close_quietly(*made)
        raise
    return made


def make_plain_root(root: RootPlan) -> int:
    """The root as a detached mount with the ids that are on disk, for those who read and write it from outside."""
    return _make_root(root, -1, 0, 0, None)


def _make_root(root: RootPlan, userns: int, uid: int, gid: int, spent: list[int] | None) -> int:
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
        if spent is None:
            fd.close_quietly(*layers)
        else:
            spent.extend(layers)


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


_by_fd_works: bool | None = None


def _mount_overlay(layers: list[int], writable: int, names: tuple[str, str]) -> int:
    """By descriptor; the first failure that may mean an older kernel is tried the other way, and what works stays."""
    global _by_fd_works
    lowers = layers[:-1] if writable >= 0 else layers
    if _by_fd_works is not False:
        try:
            made = _mount_overlay_by_fd(lowers, writable, names)
        except SyscallError as error:
            if _by_fd_works or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        else:
            _by_fd_works = True
            return made
    made = mount_overlay_aside(lowers, writable, names)
    _by_fd_works = False
    return made


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


def mount_overlay_aside(lowers: list[int], writable: int, names: tuple[str, str]) -> int:
    """`_mount_overlay_by_fd` for older kernels: the layers are attached in a helper's mount namespace."""

    def work() -> list[int]:
        for number, layer in enumerate((*lowers, writable) if writable >= 0 else lowers):
            os.mkdir(str(number), 0o755)
            mount.move_mount(layer, mount.AT_FDCWD, str(number))
        top = len(lowers)
        options = [f"lowerdir={':'.join(map(str, range(top)))}", *map("=".join, _OLD_OVERLAY_OPTIONS)]
        if writable >= 0:
            options += [f"upperdir={top}/{names[0]}", f"workdir={top}/{names[1]}"]
        os.mkdir("merged", 0o755)
        mount.mount("overlay", "merged", "overlay", 0, ",".join(options))
        return [mount.open_tree(mount.AT_FDCWD, "merged")]

    return _in_mount_namespace(work)[0]


def _in_mount_namespace(work: Callable[[], list[int]]) -> list[int]:
    """Run `work` in a child with a mount namespace of its own, in an empty tmpfs; returns the descriptors it made."""
    ours, theirs = fd.seqpacket_pair()
    with ours:
        pid, _ = process.clone3(int(CloneFlags.CLONE_NEWNS))
        if pid == 0:
            _work_aside(theirs, work)
        theirs.close()
        received = sync.receive_message(ours)
    process.wait_pid(pid)
    if received is None:
        raise Internal("the helper that mounts died", place="mounts")
    message, made = received
    if "errno" in message:
        raise SyscallError(message["errno"], message["call"], message["subject"])
    return made


def _work_aside(sock: socket.socket, work: Callable[[], list[int]]) -> NoReturn:
    try:
        mount.make_private("/")
        floor = mount.new_filesystem("tmpfs", (("source", "aside"), ("size", "1m"), ("mode", "700")))
        mount.move_mount(floor, mount.AT_FDCWD, "/", subject="aside")
        os.fchdir(floor)
        sync.send_message(sock, {}, work())
    except SyscallError as error:
        sync.send_message(sock, {"errno": error.errno, "call": error.call, "subject": error.subject})
    except OSError as error:
        sync.send_message(sock, {"errno": error.errno, "call": "helper", "subject": str(error)})
    finally:
        os._exit(0)


def _make_bind(entry: MountPlan, userns: int) -> int:
    if entry.get("given"):
        tree = os.open(entry["source"], os.O_PATH | os.O_CLOEXEC)
    else:
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
    home = mount.new_filesystem("tmpfs", (("source", "devices"), ("size", "64k"), ("mode", "700")))
    try:
        return _clone_nodes(home, devices, uid, gid)
    except SyscallError as error:
        if error.errno != errno.EINVAL or error.call != "open_tree":
            raise
    finally:
        os.close(home)
    return make_devices_aside(devices, uid, gid)


def _clone_nodes(home: int, devices: Sequence[DevicePlan], uid: int, gid: int) -> list[int]:
    made: list[int] = []
    old = os.umask(0)
    try:
        for number, device in enumerate(devices):
            make_node(home, str(number), device, uid, gid)
            made.append(mount.open_tree(home, str(number)))
    except BaseException:
        fd.close_quietly(*made)
        raise
    finally:
        os.umask(old)
    return made


def make_devices_aside(devices: Sequence[DevicePlan], uid: int, gid: int) -> list[int]:
    """`_make_devices` where the kernel clones only what is attached."""

    def work() -> list[int]:
        home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return _clone_nodes(home, devices, uid, gid)

    return _in_mount_namespace(work)
