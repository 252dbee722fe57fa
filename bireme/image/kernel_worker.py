"""The process that reads kernels: `python -I -m bireme.image.kernel_worker REQUEST`, started by kernels.py.

In come Debian packages, or a tar archive of what the client has (packages, or `vmlinuz`, `config`, `modules/...`). Out
go, into the directory it is jailed in, `vmlinuz`, `vmlinux` and `modules`. Modules lie unpacked in numbered scratch
files meanwhile: which are needed is known only when all are there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterable
from typing import Any

from bireme.errors import BiremeError, Invalid
from bireme.image import deb
from bireme.image.kernelfile import KERNEL_MAX_BYTES, KernelFile, extract_vmlinux, parse_kernel
from bireme.image.modules import SUFFIXES, module_name, parse_modinfo, select, write_archive
from bireme.linux import capabilities
from bireme.storage import jail
from bireme.storage.answering import Say, serve
from bireme.storage.codec import decode, open_maker
from bireme.storage.tar import Kind, TarReader

_SCRATCH = "scratch"
_SMALL_MAX_BYTES = 16 << 20
_MODULE_MAX_BYTES = 64 << 20
_SCRATCH_MAX_BYTES = 4 << 30
_FILES_MAX = 50_000
_IN_PACKAGE = re.compile(
    r"(?:\./)?(?:boot/(?P<boot>vmlinuz|config)-(?P<version>[^/]+)|(?:usr/)?lib/modules/(?P<release>[^/]+)/(?P<path>.+))\Z"
)
_HOLE = bytes(1 << 16)
"""Written as a hole: a third of a vmlinux is its .bss."""
_NEVER_NEEDED = ("kernel/sound/", "kernel/drivers/gpu/", "kernel/drivers/media/", "kernel/drivers/infiniband/")
_CONFIG_KEPT = (
    *("KVM_GUEST", "PVH", "ACPI", "SMP", "NR_CPUS", "RANDOMIZE_BASE", "RANDOM_TRUST_CPU", "SERIAL_8250_CONSOLE"),
    *("VIRTIO_MMIO", "VIRTIO_BLK", "VIRTIO_NET", "VIRTIO_CONSOLE", "HW_RANDOM_VIRTIO", "VIRTIO_VSOCKETS"),
    *("OVERLAY_FS", "EXT4_FS", "EROFS_FS", "BLK_DEV_INITRD", "DEVTMPFS", "PREEMPT_DYNAMIC", "MODULE_SIG_FORCE"),
)
"""Flags that decide what a machine with this kernel can do, for people who look at it."""


def main() -> int:
    return serve(_work, "the kernel needs too much memory to read")


def _work(request: dict[str, Any], say: Say) -> dict[str, Any]:
    for compression in ("gzip", "zstd", "bzip2", "xz"):
        open_maker(compression)
    keep = capabilities.mask_of(("CAP_DAC_OVERRIDE",))
    jail.enter(int(request["root"]), int(request["parent"]), keep)
    os.mkdir(_SCRATCH, 0o700)
    found = _Found()
    say("reading")
    for source in request["sources"]:
        read = _reader(int(source))
        if request["kind"] == "deb":
            found.take_package(read)
        else:
            found.take_archive(read)
    answer = _write(found, say)
    shutil.rmtree(_SCRATCH)
    return answer


def _reader(fd: int) -> Callable[[int], bytes]:
    return lambda count: os.read(fd, count)


class _Found:
    """What was in the input, modules in scratch files by name."""

    def __init__(self) -> None:
        self.image = b""
        self.image_name = ""
        self.config = ""
        self.builtin: set[str] = set()
        self.packages: list[dict[str, str]] = []
        self._modules: dict[str, int] = {}
        self._scratch_bytes = self._scratch_files = 0

    @property
    def available(self) -> Collection[str]:
        return self._modules

    def take_package(self, read: Callable[[int], bytes]) -> None:
        """A .deb: the kernel, its configuration and its modules."""
        for member in deb.iter_members(read):
            if member.name.startswith("control.tar"):
                fields = deb.read_control(member.read)
                self.packages.append({"name": fields.get("Package", ""), "version": fields.get("Version", "")})
            elif member.name.startswith("data.tar"):
                archive = TarReader(decode(member.read))
                for entry in archive:
                    match = _IN_PACKAGE.match(os.fsdecode(entry.name))
                    if match is not None and entry.kind is Kind.FILE:
                        self._take_file(match, archive, entry.size)

    def _take_file(self, match: re.Match[str], archive: TarReader, size: int) -> None:
        if match["boot"] == "vmlinuz":
            self._take_image(match["version"], archive, size)
        elif match["boot"] == "config":
            self.config = _text(archive, size)
        else:
            self._take_tree(match["path"], archive, size)

    def take_archive(self, read: Callable[[int], bytes]) -> None:
        """What a client sends: its own names, never used as paths here."""
        archive = TarReader(decode(read))
        for entry in archive:
            name = os.fsdecode(entry.name)
            if entry.kind is not Kind.FILE:
                continue
            if name.endswith(".deb"):
                self.take_package(_stream(archive))
            elif name == "vmlinuz":
                self._take_image(name, archive, entry.size)
            elif name == "config":
                self.config = _text(archive, entry.size)
            elif name.startswith("modules/"):
                self._take_tree(name.removeprefix("modules/"), archive, entry.size)

    def _take_image(self, name: str, archive: TarReader, size: int) -> None:
        if self.image:
            raise Invalid("there is more than one kernel", subject=name, hint="add one at a time")
        self.image, self.image_name = _data(archive, size, KERNEL_MAX_BYTES, "the kernel"), name

    def _take_tree(self, path: str, archive: TarReader, size: int) -> None:
        if path == "modules.builtin":
            self.builtin.update(module_name(line) for line in _text(archive, size).splitlines())
        elif path.endswith(SUFFIXES) and not path.startswith(_NEVER_NEEDED):
            number = self._scratch_files
            self._scratch_files += 1
            self._scratch_bytes += size
            if number >= _FILES_MAX or self._scratch_bytes > _SCRATCH_MAX_BYTES:
                raise Invalid("there are more modules than any kernel has")
            self._modules[module_name(path)] = number
            fd = os.open(f"{_SCRATCH}/{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                for view in archive.data():
                    file.write(view)

    def module(self, name: str) -> bytes:
        """A module's bytes as the kernel loads them."""
        with open(f"{_SCRATCH}/{self._modules[name]}", "rb") as file:
            chunks = decode(file.read)
            out = bytearray()
            while chunk := chunks():
                out += chunk
                if len(out) > _MODULE_MAX_BYTES:
                    raise Invalid(f"module {name} is larger than allowed", subject=name)
        return bytes(out)


def _stream(archive: TarReader) -> Callable[[int], bytes]:
    """`read(n)` over the data of the archive's current entry."""
    views = archive.data()
    rest = memoryview(b"")

    def read(count: int) -> bytes:
        nonlocal rest
        if not rest:
            rest = memoryview(bytes(next(views, memoryview(b""))))
        part, rest = rest[:count], rest[count:]
        return bytes(part)

    return read


def _data(archive: TarReader, size: int, limit: int, what: str) -> bytes:
    if size > limit:
        raise Invalid(f"{what} is larger than allowed: {size} bytes")
    return b"".join(archive.data())


def _text(archive: TarReader, size: int) -> str:
    return _data(archive, size, _SMALL_MAX_BYTES, "a list").decode("utf-8", "replace")


def _write(found: _Found, say: Say) -> dict[str, Any]:
    if not found.image:
        raise Invalid("there is no kernel in it", hint="a package with /boot/vmlinuz-RELEASE, or a vmlinuz")
    kernel = parse_kernel(found.image, found.image_name)
    if not found.builtin and not found.available:
        raise Invalid(
            f"there are no modules of kernel {kernel.release} with it",
            subject=kernel.release,
            hint="add them: --modules /lib/modules/RELEASE, or the package that has them",
        )
    say(f"kernel {kernel.release}: choosing modules")
    cache: dict[str, bytes] = {}

    def read(name: str) -> bytes:
        if name not in cache:
            cache[name] = found.module(name)
        return cache[name]

    chosen = select(found.available, found.builtin, read, kernel.release)
    _check_release(map(read, chosen.order), kernel.release)
    files = {"modules": _store("modules", lambda sink: write_archive(sink, chosen.order, read))}
    say("unpacking vmlinux")
    files |= _store_images(found.image, kernel, say)
    return {
        "release": kernel.release,
        "packages": found.packages,
        "config": _config(found.config),
        "modules": list(chosen.order),
        "builtin": list(chosen.builtin),
        "missing": [{"name": wanted.name, "without": wanted.without} for wanted in chosen.missing],
        "files": files,
    }


def _check_release(modules: Iterable[bytes], release: str) -> None:
    """The kernel refuses modules of another one; better now than in every guest."""
    for module in modules:
        built_for = (parse_modinfo(module).get("vermagic") or [""])[0].partition(" ")[0]
        if built_for != release:
            raise Invalid(f"the modules are of another kernel: {built_for}, not {release}", subject=release)


def _store_images(image: bytes, kernel: KernelFile, say: Say) -> dict[str, Any]:
    """vmlinuz as it came, and vmlinux where it can be had: a machine can also boot the packed one."""
    if kernel.kind == "vmlinux":
        return {"vmlinux": _store("vmlinux", lambda sink: with_holes(image, sink))}
    stored = {"vmlinuz": _store("vmlinuz", lambda sink: sink(image))}
    try:
        vmlinux = extract_vmlinux(image, kernel)
    except BiremeError as error:
        say(f"no vmlinux, the guest will unpack itself: {error}")
        return stored
    return stored | {"vmlinux": _store("vmlinux", lambda sink: with_holes(vmlinux, sink))}


def _store(name: str, write: Callable[[Callable[[bytes], object]], object]) -> dict[str, Any]:
    """A file of the kernel: its size and digest."""
    digest, size = hashlib.sha256(), 0
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:

        def sink(data: bytes) -> None:
            nonlocal size
            size += len(data)
            digest.update(data)
            if data is _HOLE:
                file.seek(len(data), os.SEEK_CUR)
            else:
                file.write(data)

        write(sink)
        file.truncate(size)
    return {"size_bytes": size, "digest": f"sha256:{digest.hexdigest()}"}


def with_holes(data: bytes, sink: Callable[[bytes], object]) -> None:
    """Pieces of the data; those that are zero are `_HOLE`, for which a file needs no blocks and a boot no copying."""
    for at in range(0, len(data), len(_HOLE)):
        piece = data[at : at + len(_HOLE)]
        sink(_HOLE if piece == _HOLE else piece)


def _config(text: str) -> dict[str, str]:
    """The flags kept, "n" for those that are not set; {} without a configuration."""
    if not text:
        return {}
    values = dict(re.findall(r"^CONFIG_([A-Z0-9_]+)=(.*)$", text, re.M))
    return {name: values.get(name, "n").strip('"') for name in _CONFIG_KEPT}


if __name__ == "__main__":
    sys.exit(main())
