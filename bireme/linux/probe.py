"""What this machine can do: the only place that decides "available here".

Each probe tries the thing itself, cheaply and without leaving anything, and answers "" or the reason why not.
`require` raises Unsupported with that reason and what would make it available. Kernel versions are not compared:
distributions backport, and configurations lack what a version has.
"""

from __future__ import annotations

import errno
import os
import socket
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from bireme.errors import Unsupported
from bireme.linux import capabilities, fd, kvm, mount, namespaces, process, procfs
from bireme.linux.ioctl import ioctl
from bireme.linux.libc import SyscallError, syscall
from bireme.linux.nftables import NfTables
from bireme.linux.numbers import optional_number
from bireme.linux.process import CloneFlags

if TYPE_CHECKING:
    from collections.abc import Callable

_ID_BASE = 0x10000000
_PRIVATE = int(
    CloneFlags.CLONE_NEWPID
    | CloneFlags.CLONE_NEWNS
    | CloneFlags.CLONE_NEWNET
    | CloneFlags.CLONE_NEWIPC
    | CloneFlags.CLONE_NEWUTS
    | CloneFlags.CLONE_NEWCGROUP
)


class Feature(NamedTuple):
    """A probe with what would make it succeed."""

    probe: Callable[[], str]
    hint: str


def _said(error: OSError) -> str:
    return str(error) if isinstance(error, SyscallError) else (error.strerror or str(error)).lower()


def _unshare_in_child(flags: int) -> str:
    """A forked child tries; its exit status is the errno. (fork, not clone3: the engine that asks has threads.)"""
    pid = process.fork()
    if pid == 0:
        try:
            namespaces.unshare(flags)
        except SyscallError as error:
            os._exit((error.errno or 255) & 255)
        os._exit(0)
    ended = process.wait_pid(pid)
    return os.strerror(ended.code).lower() if ended is not None and ended.code else ""


@cache
def user_namespaces() -> str:
    """New user namespaces can be made."""
    return _unshare_in_child(int(CloneFlags.CLONE_NEWUSER))


@cache
def container_namespaces() -> str:
    """All the namespaces of a container at once."""
    return _unshare_in_child(_PRIVATE)


class _Userns:
    """A user namespace with 65536 ids, alive for the length of a with block."""

    def __enter__(self) -> int:
        reader, self._writer = os.pipe()
        made_reader, made_writer = os.pipe()
        self._pid = process.fork()
        if self._pid == 0:
            self._hold(reader, made_writer)
        fd.close_quietly(reader, made_writer)
        maps = [namespaces.IdMap(0, _ID_BASE, 65536)]
        try:
            if os.read(made_reader, 1) != b"+":
                raise SyscallError(errno.EPERM, "unshare", "user namespace")
            namespaces.write_id_maps(self._pid, maps, maps)
            self._fd = namespaces.open_namespace(self._pid, "user")
        except BaseException:
            self._end()
            raise
        finally:
            os.close(made_reader)
        return self._fd

    def _hold(self, until: int, made: int) -> NoReturn:
        try:
            os.close(self._writer)
            namespaces.unshare(int(CloneFlags.CLONE_NEWUSER))
            os.write(made, b"+")
            os.read(until, 1)
        finally:
            os._exit(0)

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)
        self._end()

    def _end(self) -> None:
        os.close(self._writer)
        process.wait_pid(self._pid)


@cache
def idmapped_mounts(directory: str) -> str:
    """The file system of a directory takes idmapped mounts."""
    try:
        with _Userns() as userns:
            tree = mount.open_tree(mount.AT_FDCWD, directory)
            try:
                mount.set_attributes(tree, userns=userns)
            finally:
                os.close(tree)
    except OSError as error:
        return _said(error)
    return ""


@cache
def overlay() -> str:
    """overlayfs is there (or can be loaded)."""
    try:
        os.close(mount.open_filesystem("overlay"))
    except SyscallError as error:
        return "no overlay in this kernel" if error.errno == errno.ENODEV else _said(error)
    return ""


@cache
def cgroup_version() -> int:
    """1 when any controller is mounted as v1, 2 when the unified hierarchy is the only one, 0 when none is mounted."""
    found = procfs.cgroup_mounts()
    return found[0].version if found else 0


@cache
def cgroups() -> str:
    """Some cgroup hierarchy is mounted."""
    return "" if cgroup_version() else "no cgroup hierarchy is mounted"


@cache
def clone_into_cgroup() -> str:
    """clone3 can put a child into a cgroup, which spares the wait of an attach."""
    return "" if cgroup_version() == 2 else "cgroup v2 is not the only hierarchy"


@cache
def nftables() -> str:
    """The kernel speaks nf_tables."""
    try:
        with NfTables() as tables:
            tables.generation()
    except OSError as error:
        return _said(error)
    return ""


@cache
def bridge() -> str:
    """Network bridges; asked of an ioctl that lists them."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            return "" if os.path.isdir("/sys/module/bridge") or _has_bridges(sock) else "no bridge in this kernel"
    except OSError as error:
        return _said(error)


def _has_bridges(sock: socket.socket) -> bool:
    try:
        ioctl(sock.fileno(), 0x8940, bytearray(24), subject="SIOCGIFBR")
    except SyscallError as error:
        return error.errno not in (errno.ENOPKG, errno.ENOTTY)
    return True


@cache
def hardware_virtualisation() -> str:
    """/dev/kvm opens and makes a VM; that long mode works needs the processor's VMX or SVM as well. x86_64 alone."""
    if os.uname().machine != "x86_64":
        return f"machines are for x86_64 processors, this is {os.uname().machine}"
    try:
        with kvm.Kvm() as device, device.create_vm():
            pass
    except Unsupported as error:
        return error.message
    except OSError as error:
        return str(error)
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        flags = next((line for line in file if line.startswith("flags")), "")
    if not {"vmx", "svm"} & set(flags.split()):
        return "the processor shows neither VMX nor SVM"
    return ""


@cache
def kvm_runs_linux() -> str:
    """/dev/kvm can run an operating system, not just code that stays out of long mode; the reason and the remedy."""
    reason = hardware_virtualisation()
    return f"{reason}: {FEATURES['kvm'].hint}" if reason else ""


@cache
def pidfd_exit_info() -> str:
    """A pidfd tells the exit code of a process that is not our child (Linux 6.15)."""
    pid = process.fork()
    if pid == 0:
        os._exit(7)
    pidfd = process.pidfd_open(pid)
    try:
        process.wait_pid(pid)
        info = process.pidfd_info(pidfd)
    finally:
        os.close(pidfd)
    return "" if info is not None and info.exit is not None else "no exit status in PIDFD_GET_INFO"


@cache
def seccomp() -> str:
    """seccomp filters (SECCOMP_GET_ACTION_AVAIL of the actions our profiles use)."""
    for action in (0x7FFF0000, 0x00050000, 0x80000000):
        block = action.to_bytes(4, "little")
        try:
            syscall("seccomp", optional_number("seccomp"), 2, 0, block)
        except SyscallError as error:
            return _said(error)
    return ""


@cache
def raise_limits() -> str:
    """CAP_SYS_RESOURCE: hard limits can be raised and oom_score_adj lowered."""
    effective, _, _ = capabilities.get_sets()
    return "" if effective & capabilities.mask_of(["CAP_SYS_RESOURCE"]) else "CAP_SYS_RESOURCE is missing"


FEATURES: dict[str, Feature] = {
    "user_namespaces": Feature(user_namespaces, "sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone"),
    "container_namespaces": Feature(container_namespaces, "root, and a kernel with all namespaces"),
    "overlay": Feature(overlay, "CONFIG_OVERLAY_FS, or `modprobe overlay`"),
    "cgroups": Feature(cgroups, "mount -t cgroup2 none /sys/fs/cgroup"),
    "clone_into_cgroup": Feature(clone_into_cgroup, "boot with cgroup v2 alone"),
    "nftables": Feature(nftables, "CONFIG_NF_TABLES, or `modprobe nf_tables`"),
    "bridge": Feature(bridge, "CONFIG_BRIDGE, or `modprobe bridge`"),
    "kvm": Feature(hardware_virtualisation, "virtualisation enabled in the firmware or, for a guest, nested"),
    "pidfd_exit_info": Feature(pidfd_exit_info, "Linux 6.15"),
    "seccomp": Feature(seccomp, "CONFIG_SECCOMP_FILTER"),
    "raise_limits": Feature(raise_limits, "run the engine with CAP_SYS_RESOURCE"),
}


def missing(name: str) -> str:
    """Why a feature is not there, "" when it is."""
    return FEATURES[name].probe()


def require(name: str) -> None:
    """Unsupported when a feature is not there."""
    feature = FEATURES[name]
    reason = feature.probe()
    if reason:
        raise Unsupported(f"{name.replace('_', ' ')} not available: {reason}", subject=name, hint=feature.hint)


def require_idmapped_mounts(directory: str) -> None:
    """Unsupported when layers below `directory` cannot be shown with other ids."""
    reason = idmapped_mounts(directory)
    if reason:
        raise Unsupported(
            f"no idmapped mounts at {directory}: {reason}",
            subject=directory,
            hint="use ext4, xfs, btrfs, or tmpfs from Linux 6.3 on; or run without user namespaces",
        )


def report() -> dict[str, str]:
    """Every feature and why it is missing, "" where it is there."""
    return {name: feature.probe() for name, feature in FEATURES.items()}
