"""What becomes a jailed program of the host: `python -I -m bireme.storage.tool_worker REQUEST`, started by tool.py.

The one capability that is wider than its use is CAP_SYS_ADMIN: nothing less reads trusted.* attributes, where overlayfs
keeps its marks. What else it would allow is taken away by the seccomp list (no mount, setns, unshare, bpf...) and by
the root, which has no /proc, /sys or /dev.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

from bireme.linux import capabilities, mount, namespaces, process, seccomp
from bireme.linux.fd import close_range
from bireme.linux.mount import AT_FDCWD, MountAttr
from bireme.linux.process import CloneFlags
from bireme.storage.tool import NOBODY, SOURCE, TARGET

_STAGE = "/tmp"
"""Covered, in the child's own mount namespace, by the root to be."""

_HOST = ("usr", "lib", "lib32", "lib64", "bin", "sbin")
_HOST_FILES = ("etc/ld.so.cache", "etc/mke2fs.conf")
_MEMORY_MAX_BYTES = 4 << 30
_CPU_MAX_S = 3600
_PLAIN = MountAttr.MOUNT_ATTR_NOSUID | MountAttr.MOUNT_ATTR_NODEV
_READ_ONLY = MountAttr.MOUNT_ATTR_RDONLY | _PLAIN
_NO_PROGRAMS = MountAttr.MOUNT_ATTR_NOEXEC


def main() -> None:
    request = json.loads(sys.argv[1])
    program = seccomp.default_program(frozenset())
    _make_root(int(request["source"]), int(request["target"]))
    close_range(3)  # the directories' own descriptors lead out of the jail by ".."
    _limit(int(request["file_max_bytes"]))
    _drop(capabilities.mask_of(request["keep"]))
    process.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != int(request["parent"]):
        sys.exit(1)
    seccomp.load(program)
    argv: list[str] = request["argv"]
    os.execve(argv[0], argv, {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": "/"})


def _make_root(source: int, target: int) -> None:
    """The trees are cloned first: descriptors belong to the mount namespace that is left."""
    directories = [name for name in _HOST if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]
    links = [(name, os.readlink(f"/{name}")) for name in _HOST if os.path.islink(f"/{name}")]
    files = [name for name in _HOST_FILES if os.path.isfile(f"/{name}")]
    trees = [
        (mount.open_tree(source, ""), SOURCE, _READ_ONLY | _NO_PROGRAMS),
        (mount.open_tree(target, ""), TARGET, _PLAIN | _NO_PROGRAMS),
        *((mount.open_tree(AT_FDCWD, f"/{name}"), f"/{name}", _READ_ONLY) for name in directories),
        *((mount.open_tree(AT_FDCWD, f"/{name}"), f"/{name}", _READ_ONLY | _NO_PROGRAMS) for name in files),
    ]
    root = mount.new_filesystem("tmpfs", [("mode", "0755"), ("size", "1m")])
    namespaces.unshare(CloneFlags.CLONE_NEWNS | CloneFlags.CLONE_NEWNET | CloneFlags.CLONE_NEWIPC)
    mount.make_private()
    mount.move_mount(root, AT_FDCWD, _STAGE)
    os.mkdir(f"{_STAGE}/etc")
    for name, where in links:
        os.symlink(where, f"{_STAGE}/{name}")
    for fd, path, attributes in trees:
        _attach(fd, f"{_STAGE}{path}", attributes)
    mount.set_attributes(AT_FDCWD, _STAGE, add=_READ_ONLY)
    mount.pivot_to(_STAGE)


def _attach(fd: int, path: str, attributes: int) -> None:
    if path.startswith(f"{_STAGE}/etc/"):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    else:
        os.mkdir(path)
    mount.set_attributes(fd, add=attributes)
    mount.move_mount(fd, AT_FDCWD, path)
    os.close(fd)


def _limit(file_max_bytes: int) -> None:
    limits: dict[Any, int] = {
        resource.RLIMIT_AS: _MEMORY_MAX_BYTES,
        resource.RLIMIT_CPU: _CPU_MAX_S,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: file_max_bytes,
    }
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


def _drop(keep: int) -> None:
    """Nobody, who keeps `keep` over execve (ambient) and can have nothing more."""
    os.umask(0o077)
    capabilities.keep_over_setuid(True)
    capabilities.drop_bounding(keep)
    process.set_ids(NOBODY, NOBODY)
    capabilities.set_sets(keep, keep, keep)
    capabilities.set_ambient(keep)
    process.set_no_new_privs()


if __name__ == "__main__":
    main()
