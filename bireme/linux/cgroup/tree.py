"""Directories and files of a cgroup hierarchy by descriptor: what v1 and v2 share.

Every path is relative to a directory descriptor opened once, which is both faster (no walk from the root) and usable
after chroot. Errors of the kernel become the project's kinds in one place.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from bireme.errors import BiremeError, Conflict, Denied, Internal, Invalid, NotFound, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CLOEXEC
_CHUNK = 1 << 16


class MountedHierarchy(NamedTuple):
    """A cgroup mount of this machine: v1 controllers ("systemd" for the named one), or () for v2."""

    path: str
    controllers: tuple[str, ...]
    options: tuple[str, ...]
    unified: bool


def find_hierarchies(mountinfo: str, known: Iterable[str]) -> list[MountedHierarchy]:
    """Cgroup mounts in the text of /proc/self/mountinfo (proc(5)); the first mount of each hierarchy, v2 included.
    `known` are the controllers of /proc/cgroups: a v1 mount's other options are not controllers."""
    found: dict[tuple[str, ...], MountedHierarchy] = {}
    names = frozenset(known)
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, tail = rest.partition(" ")
        if kind not in ("cgroup", "cgroup2"):
            continue
        options = tuple(tail.rpartition(" ")[2].split(","))
        path = fields.split(" ")[4].encode().decode("unicode_escape")
        if kind == "cgroup2":
            found.setdefault(("",), MountedHierarchy(path, (), options, True))
            continue
        named = tuple(o[5:] for o in options if o.startswith("name="))
        controllers = tuple(o for o in options if o in names) + named
        if controllers:
            found.setdefault(controllers, MountedHierarchy(path, controllers, options, False))
    return list(found.values())


def known_controllers() -> list[str]:
    """Enabled controllers of this kernel, by the names in /proc/cgroups (their v1 names)."""
    try:
        with open("/proc/cgroups") as file:
            rows = [line.split() for line in file if not line.startswith("#")]
    except OSError:
        return []
    return [row[0] for row in rows if len(row) == 4 and row[3] == "1"]


def check_name(name: str) -> str:
    """`name` when it is one path component; Invalid otherwise."""
    if not name or name in (".", "..") or "/" in name or "\0" in name or "\n" in name or len(name) > 255:
        raise Invalid(f"{name!r} cannot name a cgroup", subject=name)
    return name


def check_subtree(subtree: str) -> list[str]:
    """The components of a subtree path, checked; "/" is the top of the hierarchy itself."""
    return [check_name(part) for part in subtree.strip("/").split("/") if part]


def open_directory(path: str, dir_fd: int | None = None) -> int:
    return os.open(path, _DIRECTORY, dir_fd=dir_fd)


def make_directory(dir_fd: int, name: str) -> bool:
    """mkdir; False when it was there already."""
    try:
        os.mkdir(name, 0o755, dir_fd=dir_fd)
    except FileExistsError:
        return False
    return True


def read_file(dir_fd: int, path: str) -> str:
    """The whole text of a cgroup file; raises OSError."""
    fd = os.open(path, _READ, dir_fd=dir_fd)
    try:
        data = os.read(fd, _CHUNK)
        if len(data) < _CHUNK // 16:
            return data.decode()
        parts = [data]
        while data := os.read(fd, _CHUNK):
            parts.append(data)
        return b"".join(parts).decode()
    finally:
        os.close(fd)


def read_optional(dir_fd: int, path: str) -> str:
    """Like `read_file`, "" for a file that this kernel does not have or cannot read now."""
    try:
        return read_file(dir_fd, path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV):
            return ""
        raise


def write_file(dir_fd: int, path: str, data: bytes) -> None:
    """One write to a cgroup file; raises OSError."""
    fd = os.open(path, _WRITE, dir_fd=dir_fd)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


_KINDS: dict[int, type[BiremeError]] = {
    errno.EINVAL: Invalid,
    errno.ERANGE: Invalid,
    errno.EOVERFLOW: Invalid,
    errno.ENOSPC: Invalid,
    errno.ENODEV: Invalid,
    errno.ENXIO: Invalid,
    errno.EBUSY: Conflict,
    errno.EACCES: Denied,
    errno.EPERM: Denied,
    errno.EROFS: Denied,
    errno.ENOENT: Unsupported,
    errno.EOPNOTSUPP: Unsupported,
}


def write_error(name: str, file: str, value: str, error: OSError) -> BiremeError:
    """What a refused limit means to the user."""
    kind = _KINDS.get(error.errno or 0, Internal)
    if kind is Unsupported:
        return kind(f"this kernel has no {file}", subject=name, place=file)
    return kind(f"cannot set {file} to {value}: {error.strerror}", subject=name, place=file)


def missing(name: str) -> NotFound:
    return NotFound(f"no cgroup {name}", subject=name)


def walk_down(dir_fd: int, path: str) -> list[str]:
    """`path` and every cgroup below it, parents first. A directory with no children costs one stat (nlink is 2)."""
    found = [path]
    for current in found:
        try:
            if os.stat(current, dir_fd=dir_fd).st_nlink == 2:
                continue
            fd = os.open(current, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
        except FileNotFoundError:
            continue
        try:
            with os.scandir(fd) as entries:
                found.extend(f"{current}/{e.name}" for e in entries if e.is_dir(follow_symlinks=False))
        finally:
            os.close(fd)
    return found


def remove_directory(dir_fd: int, path: str) -> bool:
    """rmdir, children first when it has any. True when it is gone, False while it is busy."""
    if _rmdir(dir_fd, path):
        return True
    below = walk_down(dir_fd, path)
    return len(below) > 1 and all(_rmdir(dir_fd, current) for current in reversed(below))


def _rmdir(dir_fd: int | None, path: str) -> bool:
    try:
        os.rmdir(path, dir_fd=dir_fd)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


def read_pids(dir_fd: int, path: str) -> list[int]:
    """Processes of `path` and below; a cgroup that vanishes meanwhile has none."""
    pids: list[int] = []
    for current in walk_down(dir_fd, path):
        try:
            text = read_file(dir_fd, f"{current}/cgroup.procs")
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                continue
            if error.errno == errno.EOPNOTSUPP:
                pids.extend(_threaded_pids(dir_fd, current))
                continue
            raise
        pids.extend(int(line) for line in text.split())
    return pids


def _threaded_pids(dir_fd: int, path: str) -> list[int]:
    return [int(line) for line in read_optional(dir_fd, f"{path}/cgroup.threads").split()]


def list_children(dir_fd: int) -> list[str]:
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        with os.scandir(fd) as entries:
            return [e.name for e in entries if e.is_dir(follow_symlinks=False)]
    finally:
        os.close(fd)


def poll_until(condition: Callable[[], bool], timeout_s: float, first_pause_s: float = 0.0002) -> bool:
    """Ask again with growing pauses (to 20 ms) until true or late; the last answer."""
    deadline = time.monotonic() + timeout_s
    pause = first_pause_s
    while not condition():
        if time.monotonic() >= deadline:
            return condition()
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
    return True


def signal_all(pids: Callable[[], list[int]], signum: int, passes: int = 50) -> bool:
    """Signal every process, again until a pass finds none that was not signalled. False when new ones keep coming."""
    done: set[int] = set()
    for _ in range(passes):
        fresh = [pid for pid in pids() if pid not in done and pid > 0]
        if not fresh:
            return True
        for pid in fresh:
            try:
                os.kill(pid, signum)
            except ProcessLookupError:
                pass
        done.update(fresh)
    return False


def first_disk() -> str:
    """ "major:minor" of some whole block device, "" when there is none."""
    try:
        for name in sorted(os.listdir("/sys/block"), key=lambda n: n.startswith(("loop", "ram", "zram"))):
            with open(f"/sys/block/{name}/dev") as file:
                return file.read().strip()
    except OSError:
        pass
    return ""


def remove_quietly(path: str) -> bool:
    """rmdir by path: False when it is busy."""
    return _rmdir(None, path)
