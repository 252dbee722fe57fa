"""The root of an instance as a worker sees it: entered first, jailed in it after, and every path looked up inside.

    running     the mount namespace of its first process, so volumes, binds and what was written a moment ago are there;
                rights count in its user namespace alone, and ids are those that it sees itself
    otherwise   its layers, merged in a mount namespace of the worker's own, with the binds it was created with; ids are
                those on disk, which are the ones inside

What an instance may have prepared is taken for hostile: a path is looked up with openat2(RESOLVE_IN_ROOT and no magic
links) below the root, the descriptor is what is used from then on, and the process is chrooted there besides. The file
systems of the kernel (/proc, /sys, ...) are no files of an instance, as with dockerd: they are not found.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bireme.errors import Conflict, Invalid, NotFound
from bireme.linux import capabilities, mount, namespaces, procfs
from bireme.linux.libc import SyscallError
from bireme.linux.path import Resolve, make_mount_point, open_in_root, openat2
from bireme.linux.process import CloneFlags
from bireme.runtime.outside import make_plain_root
from bireme.storage import jail
from bireme.storage.volumemount import is_mounted, open_volume

READER = capabilities.mask_of(("CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE"))
"""CAP_DAC_OVERRIDE too: the kernel asks for it where an overlay looks up as its mounter's user."""

FILES_MAX = 1024
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KERNEL = frozenset(
    "proc sysfs cgroup cgroup2 devpts mqueue securityfs debugfs tracefs bpf binfmt_misc configfs efivarfs".split()
)
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG, errno.EINVAL})


class Found(NamedTuple):
    """What a path names: the directory that has it (-1 for one that was opened as a directory), and its attributes."""

    parent: int
    name: bytes
    place: bytes
    stat: os.stat_result


class View:
    """An entered root. `container` is what messages call the instance."""

    def __init__(self, root: int, proc: int, container: str, targets: Sequence[str]) -> None:
        self.root = root
        self._proc = proc
        self._container = container
        mounts = procfs.parse_mountinfo(_read(proc, "mountinfo"))
        self._kernel = {info.device for info in mounts if info.kind in _KERNEL}
        places = (self._canonical_target(target) for target in targets)
        self._targets = tuple(place for place in places if place)

    def _canonical_target(self, target: str) -> bytes:
        try:
            fd = open_in_root(self.root, target)
        except SyscallError:
            return b""
        try:
            return self.place_of(fd)
        finally:
            os.close(fd)

    def place_of(self, fd: int) -> bytes:
        """Where an open file is, as a path inside."""
        return os.fsencode(os.readlink(f"fd/{fd}", dir_fd=self._proc))

    def in_mount(self, place: bytes) -> bool:
        """Whether `place` lies in a mount the instance was created with: no other may a walk go into."""
        return any(place == target or place.startswith(target + b"/") for target in self._targets)

    def missing(self, path: str) -> NotFound:
        return NotFound(f"Could not find the file {path} in container {self._container}", subject=path)

    def find(self, path: str) -> Found:
        """What `path` names, a link as its last step not followed unless it ends in "/" or "/."."""
        clean = clean_path(path)
        try:
            if clean == "/" or names_directory(path):
                return self._find_directory(clean)
            above, _, name = clean.rpartition("/")
            parent = open_in_root(self.root, above or "/", _DIRECTORY)
            found = os.stat(os.fsencode(name), dir_fd=parent, follow_symlinks=False)
            self._check(found)
            place = self.place_of(parent).rstrip(b"/") + b"/" + os.fsencode(name)
            return Found(parent, os.fsencode(name), place, found)
        except OSError as error:
            raise self._refusal(path, error) from error

    def _find_directory(self, clean: str) -> Found:
        fd = open_in_root(self.root, clean, _DIRECTORY)
        try:
            found = os.fstat(fd)
            self._check(found)
            return Found(-1, b"", self.place_of(fd), found)
        finally:
            os.close(fd)

    def _check(self, found: os.stat_result) -> None:
        if f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}" in self._kernel:
            raise FileNotFoundError(errno.ENOENT, "a file system of the kernel")

    def _refusal(self, path: str, error: OSError) -> Exception:
        if error.errno == errno.ENOTDIR and names_directory(path):
            return Invalid(f"lstat {path}: not a directory", subject=path)
        return self.missing(path) if error.errno in _NOT_THERE else error

    def open_directory(self, path: str) -> int:
        """A readable descriptor of the directory that `path` leads to, links followed; Invalid when it is none."""
        try:
            fd = open_in_root(self.root, clean_path(path), _READ & ~os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.ENOTDIR:
                raise Invalid("extraction point is not a directory", subject=path) from error
            raise self._refusal(path, error) from error
        try:
            self._check(os.fstat(fd))
        except OSError as error:
            os.close(fd)
            raise self.missing(path) from error
        return fd

    def enter(self, directory: int, name: bytes, place: bytes) -> int:
        """The directory `name` of an open one; -1 for a mount point that walks stay out of. Never through a link."""
        try:
            return openat2(directory, name, _READ, resolve=Resolve.RESOLVE_NO_XDEV)
        except SyscallError as error:
            if error.errno != errno.EXDEV:
                raise
        return os.open(name, _READ, dir_fd=directory) if self.in_mount(place) else -1

    def follow(self, found: Found) -> str:
        """Where the link `found` leads in the end, inside; also when nothing is there."""
        target = os.readlink(found.name, dir_fd=found.parent)
        here = posixpath.dirname(os.fsdecode(found.place))
        path = posixpath.normpath(posixpath.join(here, os.fsdecode(target)))
        try:
            fd = open_in_root(self.root, os.fsdecode(found.place))
        except SyscallError:
            return clean_path(path)
        try:
            return os.fsdecode(self.place_of(fd))
        finally:
            os.close(fd)


def clean_path(path: str) -> str:
    """The path from the root, without ".", ".." and doubled slashes, as Go's filepath.Clean. Invalid with a NUL."""
    if "\0" in path:
        raise Invalid("path holds a NUL byte")
    return posixpath.normpath("/" + path.lstrip("/"))


def names_directory(path: str) -> bool:
    """Whether the spelling asks for a directory."""
    return path.endswith(("/", "/.")) or path == "."


def base_name(path: str) -> str:
    """The last step, "." kept, "/" for the root."""
    clean = clean_path(path)
    if clean != "/" and (path == "." or path.endswith("/.")):
        return "."
    return posixpath.basename(clean) or "/"


def enter(request: Mapping[str, Any], *, write: bool) -> View:
    """Enter the root that a request names (storage/files.py makes it) and jail this process there."""
    proc = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    userns = -1
    if request["namespaces"]:
        root, userns = _enter_namespaces(*request["namespaces"])
    else:
        root = _assemble(request)
    keep = jail.WRITER if write else READER
    jail.enter(root, int(request["parent"]), keep, userns=userns, files=FILES_MAX)
    targets = [entry["target"] for entry in request["mounts"]]
    return View(root, proc, request["container"], targets)


def _enter_namespaces(mounts: int, users: int) -> tuple[int, int]:
    own = os.stat("/proc/self/ns/user").st_ino
    foreign = users if os.fstat(users).st_ino != own else -1
    namespaces.setns(mounts, CloneFlags.CLONE_NEWNS, subject="mount namespace")
    return os.open("/", _DIRECTORY), foreign


def _assemble(request: Mapping[str, Any]) -> int:
    """Layers and binds attached over "/" of a mount namespace of our own; the descriptor of the new root."""
    namespaces.unshare(CloneFlags.CLONE_NEWNS)
    mount.make_private("/")
    tree = make_plain_root(request["root"])
    binds = [(entry, _clone(entry)) for entry in _by_depth(request["mounts"])]
    mount.move_mount(tree, mount.AT_FDCWD, "/")
    for entry, fd in binds:
        if fd >= 0:
            _attach(tree, entry, fd, make=bool(request["root"].get("upper") or request["root"].get("path")))
    if request["readonly"]:
        mount.set_attributes(tree, add=mount.MountAttr.MOUNT_ATTR_RDONLY)
    return os.open(".", _DIRECTORY, dir_fd=tree)


def _by_depth(mounts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(mounts, key=lambda entry: clean_path(entry["target"]).count("/"))


def _clone(entry: Mapping[str, Any]) -> int:
    """A detached copy of a bind's source, -1 for a tmpfs, or when the source is not there (any more)."""
    if not entry["source"]:
        return -1
    if entry["mounted"] and not is_mounted(entry["source"]):
        raise Conflict(
            f"the volume at {entry['target']} is mounted only while the container runs",
            subject=entry["target"],
            hint="start the container first",
        )
    try:
        if entry["subpath"] or entry["mounted"]:
            fd = open_volume(entry["source"], entry["subpath"])
        else:
            fd = mount.open_tree(mount.AT_FDCWD, entry["source"], recursive=entry["recursive"])
    except NotFound:
        return -1
    except SyscallError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return -1
        raise
    if entry["read_only"]:
        mount.set_attributes(fd, add=mount.MountAttr.MOUNT_ATTR_RDONLY, recursive=entry["recursive"])
    return fd


def _attach(root: int, entry: Mapping[str, Any], fd: int, *, make: bool) -> None:
    directory = stat.S_ISDIR(os.fstat(fd).st_mode)
    try:
        if make:
            target = make_mount_point(root, entry["target"], directory=directory)
        else:
            target = open_in_root(root, entry["target"])
        mount.move_mount(fd, target, "", subject=entry["target"])
        os.close(target)
    except SyscallError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
            raise
    os.close(fd)


def _read(directory: int, name: str) -> str:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    with open(fd, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
