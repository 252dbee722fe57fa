"""Layers as block devices: a read-only image for each, made once and shared by all machines.

A guest cannot share the host's directories, so a committed layer gets an image beside its directory, made when the
first machine wants it and shared by all (the page cache of the host holds it once):

    committed/NAME/fs/                     the layer, as containers use it
    committed/NAME/image.erofs/            a finished image: one rename made it so
        disk, record.json                  the image; format, size and digest
    committed/NAME/image.erofs.X.new/      being made, locked by its maker

It is removed together with the layer, by the same rename. What stands in the layer for overlayfs (character devices
0:0, trusted.overlay.* attributes) is copied as it is, so the guest's overlay merges the images as the host's would
merge the directories; ids are not shifted.

erofs is the first choice: no journal, no slack, read-only by construction. ext4 serves kernels or hosts without it, and
layers with an entry called lost+found, which mkfs.erofs leaves out without a word.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from bireme.errors import NotFound, Unavailable
from bireme.linux.fd import lock_file
from bireme.oci.digest import SHA256, new_hash
from bireme.storage import tool
from bireme.storage.tree import measure, open_directory, remove_entry

Format = Literal["erofs", "ext4"]
FORMATS: tuple[Format, ...] = ("erofs", "ext4")
"""In the order they are tried."""

_PACKAGES = {"erofs": ("mkfs.erofs", "erofs-utils"), "ext4": ("mkfs.ext4", "e2fsprogs")}
_READS_EVERYTHING = ("CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN")
_DISK, _RECORD, _SCRIPT, _NEW = "disk", "record.json", "script", ".new"
_IMAGE_MAX_BYTES = 256 << 30
_UUID = "6269726d-0000-4000-8000-000000000001"
_HASH_CHUNK = 4 << 20
_EXT4_BLOCK, _EXT4_INODE = 4096, 256


class LayerImage(NamedTuple):
    """A layer as a read-only disk. `digest` is of the whole image; sizes are multiples of 4096."""

    path: Path
    format: Format
    size_bytes: int
    digest: str


def layer_image(layer_directory: str, formats: Sequence[Format] = FORMATS) -> LayerImage:
    """The image of a committed layer (an entry of RootFilesystem.layers), made now if nobody has; blocks.

    `formats` are those the guest's kernel reads, best first. Whoever comes while another makes it waits for that one; a
    maker that dies leaves nothing that counts. NotFound for a layer that does not exist; Unavailable with the remedy
    when no tool is installed, or with the tool's words when it fails (a full disk).
    """
    home, name = os.path.split(layer_directory.rstrip("/"))
    try:
        directory = open_directory(home)
    except FileNotFoundError:
        raise NotFound("the layer does not exist", subject=layer_directory) from None
    try:
        source = open_directory(name, directory)
        try:
            return _find(directory, home, formats) or _make(directory, home, source, _choose(formats, layer_directory))
        finally:
            os.close(source)
    except FileNotFoundError:
        raise NotFound("the layer does not exist", subject=layer_directory) from None
    finally:
        os.close(directory)


def find_image(layer_directory: str, formats: Sequence[Format] = FORMATS) -> LayerImage | None:
    """The image of a layer if it is there; makes nothing."""
    home = os.path.dirname(layer_directory.rstrip("/"))
    try:
        directory = open_directory(home)
    except FileNotFoundError:
        return None
    try:
        return _find(directory, home, formats)
    finally:
        os.close(directory)


def _choose(formats: Sequence[Format], layer: str) -> Format:
    for kind in formats:
        if tool.find_tool(_PACKAGES[kind][0]) and not (kind == "erofs" and _has_left_out(layer)):
            return kind
    names = " or ".join(_PACKAGES[kind][0] for kind in formats)
    packages = " or ".join(_PACKAGES[kind][1] for kind in formats)
    raise Unavailable(f"{names} is not installed: layers cannot become disks", hint=f"apt-get install {packages}")


def _has_left_out(layer: str) -> bool:
    """Whether a name in the layer begins with what mkfs.erofs skips (erofs-utils 1.5, lib/inode.c)."""
    pending = [layer]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("lost+found"):
                    return True
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    return False


def _find(directory: int, home: str, formats: Sequence[Format]) -> LayerImage | None:
    for kind in formats:
        try:
            record = _read(directory, f"image.{kind}/{_RECORD}")
            size = os.stat(f"image.{kind}/{_DISK}", dir_fd=directory).st_size
        except FileNotFoundError:
            continue
        found = json.loads(record)
        if size == found["size_bytes"]:
            return LayerImage(Path(home, f"image.{kind}", _DISK), kind, size, found["digest"])
    return None


def _read(directory: int, path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    with open(fd, "rb") as file:
        return file.read()


def _make(directory: int, home: str, source: int, kind: Format) -> LayerImage:
    """Under the lock of the layer's directory: flock belongs to the descriptor, so the kernel gives it back."""
    lock_file(directory, block=True)
    if (found := _find(directory, home, (kind,))) is not None:
        return found
    _sweep(directory)
    fresh = f"image.{kind}.{os.urandom(8).hex()}{_NEW}"
    os.mkdir(fresh, 0o700, dir_fd=directory)
    try:
        target = open_directory(fresh, directory)
        try:
            os.chown(target, tool.NOBODY, tool.NOBODY)
            _MAKERS[kind](source, target, f"{home}/fs")
            _seal(target, kind)
        finally:
            os.close(target)
        remove_entry(directory, f"image.{kind}", directory)
        os.rename(fresh, f"image.{kind}", src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    except BaseException:
        remove_entry(directory, fresh, directory)
        raise
    made = _find(directory, home, (kind,))
    if made is None:
        raise NotFound("the layer was removed", subject=home)
    return made


def _sweep(directory: int) -> None:
    """What makers left that died: nobody alive has one while the lock is ours."""
    for name in os.listdir(directory):
        if name.startswith("image.") and name.endswith(_NEW):
            remove_entry(directory, name, directory)


def _seal(target: int, kind: Format) -> None:
    """The finished image belongs to root, is on the disk and has its record."""
    os.chown(target, 0, 0)
    fd = os.open(_DISK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
    with open(fd, "r+b", buffering=0) as image:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            raise Unavailable(f"the tool for {kind} made no image")
        size = -(-found.st_size // _EXT4_BLOCK) * _EXT4_BLOCK
        os.ftruncate(fd, size)
        os.fchown(fd, 0, 0)
        os.fchmod(fd, 0o600)
        digest = new_hash()
        while data := image.read(_HASH_CHUNK):
            digest.update(data)
        os.fsync(fd)
    record = {"format": kind, "size_bytes": size, "digest": f"{SHA256}:{digest.hexdigest()}"}
    fd = os.open(_RECORD, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
    with open(fd, "w", encoding="ascii") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(fd)


def _make_erofs(source: int, target: int, path: str) -> None:
    argv = [tool.find_tool("mkfs.erofs"), "--quiet", "-x", "1", "-U", _UUID, f"{tool.TARGET}/{_DISK}", tool.SOURCE]
    tool.run_tool(argv, source, target, keep=_READS_EVERYTHING, file_max_bytes=_IMAGE_MAX_BYTES)


def _make_ext4(source: int, target: int, path: str) -> None:
    """mkfs.ext4 copies the tree but not its root's own attributes, and adds a directory that the layer has not."""
    usage = measure(path)
    inodes = usage.inodes + 64
    size = usage.size_bytes + inodes * (_EXT4_INODE + 64) + usage.size_bytes // 16 + (8 << 20)
    fd = os.open(_DISK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
    try:
        os.fchown(fd, tool.NOBODY, tool.NOBODY)
        os.ftruncate(fd, -(-size // _EXT4_BLOCK) * _EXT4_BLOCK)
    finally:
        os.close(fd)
    disk, root = f"{tool.TARGET}/{_DISK}", os.fstat(source)
    argv = [tool.find_tool("mkfs.ext4"), "-q", "-F", "-b", str(_EXT4_BLOCK), "-I", str(_EXT4_INODE), "-N", str(inodes)]
    argv += ["-m", "0", "-U", _UUID, "-O", "^has_journal,^resize_inode", "-d", tool.SOURCE, disk]
    tool.run_tool(argv, source, target, keep=_READS_EVERYTHING, file_max_bytes=_IMAGE_MAX_BYTES)
    lost = [] if _has(source, "lost+found") else ["rmdir lost+found"]
    fields = (f"mode 0{root.st_mode:o}", f"uid {root.st_uid}", f"gid {root.st_gid}", f"mtime @{int(root.st_mtime)}")
    commands = "".join(f"{line}\n" for line in (*lost, *(f"set_inode_field <2> {field}" for field in fields)))
    fd = os.open(_SCRIPT, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=target)
    with open(fd, "w", encoding="ascii") as file:
        file.write(commands)
    argv = [tool.find_tool("debugfs"), "-w", "-f", f"{tool.TARGET}/{_SCRIPT}", disk]
    tool.run_tool(argv, source, target, file_max_bytes=_IMAGE_MAX_BYTES)
    os.unlink(_SCRIPT, dir_fd=target)


def _has(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


_MAKERS = {"erofs": _make_erofs, "ext4": _make_ext4}
