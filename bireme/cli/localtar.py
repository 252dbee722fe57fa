"""Files of this machine into a tar archive, and an archive into files, for `cp`.

What comes out of a container is written without following any link below the destination: the container may have chosen
names and kinds. Owners are not taken over, as with docker cp.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from typing import cast

from bireme.cli.copypaths import renamed
from bireme.cli.errors import CommandFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


class Packing:
    """The archive of one path, piece by piece; `size` counts its bytes."""

    def __init__(self, path: str, name: str) -> None:
        self._path = path
        self._name = name
        self._links: dict[tuple[int, int], str] = {}
        self.size = 0

    def pieces(self) -> Iterator[bytes]:
        for piece in self._tree(self._path, self._name):
            self.size += len(piece)
            yield piece
        self.size += 1024
        yield bytes(1024)

    def _tree(self, path: str, name: str) -> Iterator[bytes]:
        found = os.lstat(path)
        yield from self._member(path, name, found)
        if stat.S_ISDIR(found.st_mode):
            for entry in sorted(os.listdir(path)):
                try:
                    yield from self._tree(f"{path}/{entry}", f"{name}/{entry}")
                except FileNotFoundError:
                    continue

    def _member(self, path: str, name: str, found: os.stat_result) -> Iterator[bytes]:
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return
        info = tarfile.TarInfo(name)
        info.type, info.mode = kind, stat.S_IMODE(found.st_mode)
        info.uid, info.gid, info.mtime = found.st_uid, found.st_gid, found.st_mtime_ns // 10**9
        info.devmajor, info.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
        identity = (found.st_dev, found.st_ino)
        if not stat.S_ISDIR(found.st_mode) and found.st_nlink > 1:
            if identity in self._links:
                info.type, info.linkname = tarfile.LNKTYPE, self._links[identity]
                yield _header(info)
                return
            self._links[identity] = name
        if kind == tarfile.SYMTYPE:
            info.linkname = os.readlink(path)
        if kind == tarfile.REGTYPE:
            yield from _file(path, info)
        else:
            yield _header(info)


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _file(path: str, info: tarfile.TarInfo) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        size = info.size = os.fstat(file.fileno()).st_size
        yield _header(info)
        while size:
            chunk = file.read(min(size, _CHUNK)) or bytes(min(size, _CHUNK))
            size -= len(chunk)
            yield chunk
    yield bytes(-info.size % 512)


class Source(io.RawIOBase):
    """Chunks as a file that tarfile reads; `size` counts what came."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._rest = b""
        self.size = 0

    def read(self, count: int = -1, /) -> bytes:
        while len(self._rest) < count:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            self.size += len(chunk)
            self._rest += chunk
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    def drain(self) -> None:
        for chunk in self._chunks:
            self.size += len(chunk)


def unpack(source: Source, directory: str, old: str, new: str) -> None:
    """Write an archive below `directory`, first steps `old` renamed to `new`; CommandFailed for what must not be."""
    root = os.open(directory, _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", source), mode="r|", errors="surrogateescape") as archive:
            writer = _Unpacking(root, archive, old, new)
            for member in archive:
                writer.add(member)
                vars(archive)["members"] = []  # tarfile would remember them all
            writer.finish()
        source.drain()
    except tarfile.TarError as error:
        raise CommandFailed(f"archive/tar: {error}") from None
    finally:
        os.close(root)


class _Unpacking:
    def __init__(self, root: int, archive: tarfile.TarFile, old: str, new: str) -> None:
        self._root = root
        self._archive = archive
        self._old, self._new = old, new
        self._times: list[tuple[list[str], float]] = []

    def add(self, member: tarfile.TarInfo) -> None:
        steps = self._steps(member.name)
        if not steps:
            return
        parent = self._parent(steps[:-1])
        try:
            self._make(member, steps, parent)
        except OSError as error:
            raise CommandFailed(f"{member.name}: {(error.strerror or str(error)).lower()}") from None
        finally:
            os.close(parent)

    def _steps(self, name: str) -> list[str]:
        steps = [step for step in renamed(name, self._old, self._new).split("/") if step not in ("", ".")]
        if ".." in steps:
            raise CommandFailed(f'"{name}" is outside of the destination')
        return steps

    def _parent(self, steps: list[str]) -> int:
        """An open directory, made where absent; a link on the way is refused."""
        at = os.dup(self._root)
        try:
            for step in steps:
                try:
                    inner = os.open(step, _DIRECTORY, dir_fd=at)
                except FileNotFoundError:
                    os.mkdir(step, 0o755, dir_fd=at)
                    inner = os.open(step, _DIRECTORY, dir_fd=at)
                os.close(at)
                at = inner
        except OSError as error:
            os.close(at)
            path = "/".join(steps)
            why = "a link or no directory" if error.errno in (errno.ELOOP, errno.ENOTDIR) else error.strerror
            raise CommandFailed(f"cannot write below {path}: {why}") from None
        return at

    def _make(self, member: tarfile.TarInfo, steps: list[str], parent: int) -> None:
        name = steps[-1]
        if not self._clear(member, name, parent):
            os.mkdir(name, 0o700, dir_fd=parent) if member.isdir() else None
        if member.isdir():
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            os.fchmod(fd, member.mode & 0o7777)
            os.close(fd)
            self._times.append((steps, member.mtime))
        elif member.isreg():
            self._file(member, name, parent)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
            os.utime(name, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)
        elif member.islnk():
            self._link(member, name, parent)
        else:
            kind = {tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK}.get(member.type, stat.S_IFIFO)
            os.mknod(name, kind | member.mode & 0o777, os.makedev(member.devmajor, member.devminor), dir_fd=parent)

    def _clear(self, member: tarfile.TarInfo, name: str, parent: int) -> bool:
        """Make room for a member; whether a directory is there already, and may stay."""
        try:
            there = stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False
        if there and not member.isdir():
            raise CommandFailed(f'cannot overwrite directory "{member.name}" with non-directory')
        if not there and member.isdir():
            raise CommandFailed(f'cannot overwrite non-directory "{member.name}" with directory')
        if not there:
            os.unlink(name, dir_fd=parent)
        return there

    def _file(self, member: tarfile.TarInfo, name: str, parent: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=parent), "wb", buffering=0) as file:
            data = self._archive.extractfile(member)
            while data is not None and (chunk := data.read(_CHUNK)):
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]
            os.fchmod(file.fileno(), member.mode & 0o7777)
            os.utime(file.fileno(), (member.mtime, member.mtime))

    def _link(self, member: tarfile.TarInfo, name: str, parent: int) -> None:
        steps = self._steps(member.linkname)
        if not steps:
            raise CommandFailed(f'invalid hard link "{member.name}"')
        source = self._parent(steps[:-1])
        try:
            os.link(steps[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def finish(self) -> None:
        """Times of directories, the deepest first."""
        for steps, mtime in reversed(self._times):
            parent = self._parent(steps[:-1])
            os.utime(steps[-1], (mtime, mtime), dir_fd=parent, follow_symlinks=False)
            os.close(parent)
