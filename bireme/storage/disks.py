"""The writable disk of a machine: a sparse ext4 of a fixed size, in no more than a few milliseconds.

It is copied, extent by extent, from a template of its size that mkfs.ext4 made once. The template has a small journal
(a guest that is killed must mount again), and its inode tables are marked as zeroed, so that no guest begins its life
by writing them: a 10 GiB disk occupies 200 KB. The file's size is also the limit: what a guest writes past it is an I/O
error inside, and nothing on the host.
"""

from __future__ import annotations

import os
import subprocess

from bireme.errors import Conflict, Invalid, Unavailable
from bireme.linux.fd import lock_file
from bireme.storage import tool
from bireme.storage.tree import copy_data

DEFAULT_BYTES = 10 << 30
MIN_BYTES, MAX_BYTES = 32 << 20, 16 << 40
_UNIT = 1 << 20
_TEMPLATES_MAX = 16
_FEATURES = (
    "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,"
    "extra_isize,metadata_csum"
)
"""By name and not by the host's mke2fs.conf: a newer host must not make disks that an older guest cannot mount."""


_ZEROED = ("assume_storage_prezeroed=1", "lazy_itable_init=0,lazy_journal_init=0")
"""What mkfs.ext4 is told about a new file: e2fsprogs 1.47 can be told, older ones zero what is zero."""


def check_size(size_bytes: int) -> int:
    """`size_bytes` rounded up to whole MiB; Invalid below 32 MiB and above 16 TiB."""
    if not MIN_BYTES <= size_bytes <= MAX_BYTES:
        raise Invalid(f"a disk of {size_bytes} bytes is not possible", hint="from 32 MiB to 16 TiB")
    return -(-size_bytes // _UNIT) * _UNIT


class WritableDisks:
    """Makes disks; templates are kept in `directory`, those of the sixteen sizes used last."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        os.makedirs(directory, 0o700, exist_ok=True)

    def make(self, path: str, size_bytes: int = DEFAULT_BYTES) -> None:
        """A new disk at `path` (0600); blocks. Conflict when the path exists (kept as it is: it may hold data).

        Invalid for a size that is not possible, Unavailable without mkfs.ext4 or space.
        """
        size = check_size(size_bytes)
        template = self._open_template(size)
        try:
            _copy_as(template, path, size)
        finally:
            os.close(template)

    def _open_template(self, size: int) -> int:
        path = f"{self._directory}/{size}.ext4"
        try:
            found = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            found = self._make_template(path, size)
        os.utime(found)
        return found

    def _make_template(self, path: str, size: int) -> int:
        lock = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            lock_file(lock, block=True)
            if not os.path.exists(path):
                self._forget()
                self._fill(path, size)
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(lock)

    def _fill(self, path: str, size: int) -> None:
        """Older ones reserve what they zero (180 MB of 10 GiB); the copy of what they wrote does not."""
        raw = f"{path}.raw"
        try:
            _format(raw, size)
            formatted = os.open(raw, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _copy_as(formatted, path, size)
            finally:
                os.close(formatted)
        finally:
            _unlink(raw)

    def _forget(self) -> None:
        """What dead makers left, and the sizes that nobody used for longest."""
        names = os.listdir(self._directory)
        for name in names:
            if not name.endswith(".ext4"):
                _unlink(f"{self._directory}/{name}")
        paths = [f"{self._directory}/{name}" for name in names if name.endswith(".ext4")]
        for path in sorted(paths, key=os.path.getmtime)[: max(0, len(paths) - _TEMPLATES_MAX + 1)]:
            _unlink(path)


def _format(path: str, size: int) -> None:
    program = tool.find_tool("mkfs.ext4")
    if not program:
        raise Unavailable("mkfs.ext4 is not installed: no disk can be made", hint="apt-get install e2fsprogs")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)
    journal_mib = 4 if size < 256 << 20 else 16
    argv = [program, "-q", "-F", "-O", _FEATURES, "-b", "4096", "-I", "256", "-m", "0", "-J", f"size={journal_mib}"]
    for zeroed in _ZEROED:
        done = subprocess.run(
            [*argv, "-L", "writable", "-E", f"nodiscard,{zeroed}", path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env={"LC_ALL": "C.UTF-8"},
        )
        if not done.returncode:
            return
    words = (done.stdout + done.stderr).decode("utf-8", "replace").strip()[-300:]
    raise Unavailable(f"mkfs.ext4 failed with code {done.returncode}: {words}", place="mkfs.ext4")


def _copy_as(template: int, path: str, size: int) -> None:
    """The name comes last: whoever finds the disk finds all of it, whatever died meanwhile."""
    fresh = f"{path}.part"
    try:
        target = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            copy_data(template, target, size)
        finally:
            os.close(target)
        os.link(fresh, path)
    except FileExistsError:
        raise Conflict("the disk exists", subject=path) from None
    except OSError as error:
        raise Unavailable(f"the disk cannot be made: {error.strerror}", subject=path) from error
    finally:
        _unlink(fresh)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
