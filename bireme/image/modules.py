"""The modules a machine needs before it has a root file system, as an archive that is half of its initramfs.

The kernel unpacks the archive; the agent, which is the init, loads the files named in /modules/order one after another.
What a module needs is written in the module itself (the section .modinfo: `depends=`, and `softdep=pre:` for what it
asks the kernel to find at run time, which nobody could answer in a guest without modprobe), so no depmod is needed and
no modules.dep, which packages do not bring.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from bireme.errors import Invalid

SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


class Wanted(NamedTuple):
    """A module by name; `without` says what does not work when the kernel does not have it at all."""

    name: str
    needed: bool
    without: str


WANTED: tuple[Wanted, ...] = (
    Wanted("virtio_mmio", True, "none of the machine's devices is found"),
    Wanted("virtio_blk", True, "there is no disk, so no root file system"),
    Wanted("vmw_vsock_virtio_transport", True, "the agent cannot be reached, so nothing is started"),
    Wanted("overlay", True, "the layers of an image cannot be put together"),
    Wanted("ext4", True, "there is no writable disk"),
    Wanted("erofs", False, "layers are ext4 images, which are larger and slower to make"),
    Wanted("virtio_net", False, "there is no network but lo"),
    Wanted("virtio_console", False, "there is no console but the serial port"),
    Wanted("virtio_rng", False, "the guest has no entropy but its CPU's"),
)
"""In the order they are loaded."""


class Selection(NamedTuple):
    """Modules to load, dependencies first; what is built in; what does not exist."""

    order: tuple[str, ...]
    builtin: tuple[str, ...]
    missing: tuple[Wanted, ...]


def module_name(path: str) -> str:
    """How the kernel calls the module in a file: "kernel/fs/ext4/ext4.ko.xz" is ext4, "virtio-rng.ko" virtio_rng."""
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


def select(available: Iterable[str], builtin: Iterable[str], read: Callable[[str], bytes], release: str) -> Selection:
    """What to load of the modules named `available`; `read` gives a module's uncompressed bytes by name.

    Invalid when one is missing that no machine can do without, or that another one needs.
    """
    search = _Search(frozenset(available), frozenset(builtin), read)
    missing = [wanted for wanted in WANTED if not search.visit(wanted.name)]
    for wanted in missing:
        if wanted.needed:
            raise Invalid(
                f"kernel {release} has no {wanted.name}, neither as a module nor built in: {wanted.without}",
                subject=wanted.name,
                hint="a kernel for virtual machines has it, see bireme kernel add cloud",
            )
    there = [wanted.name for wanted in WANTED if wanted.name in search.builtin]
    return Selection(tuple(search.order), tuple(there), tuple(missing))


class _Search:
    """Depth first, each module after what it needs."""

    def __init__(self, available: frozenset[str], builtin: frozenset[str], read: Callable[[str], bytes]) -> None:
        self._available = available
        self._read = read
        self._seen: set[str] = set()
        self.builtin = builtin
        self.order: dict[str, None] = {}

    def visit(self, name: str) -> bool:
        """Whether the module is there, built in or in a file."""
        if name in self.builtin or name in self._seen:
            return True
        if name not in self._available:
            return False
        self._seen.add(name)
        information = parse_modinfo(self._read(name))
        for entry in information.get("softdep", ()):
            for before in _names_before(entry):
                self._visit_provider(before)
        for entry in information.get("depends", ()):
            for needed in filter(None, entry.split(",")):
                if not self.visit(needed.replace("-", "_")):
                    raise Invalid(f"module {name} needs {needed}, which the kernel does not have", subject=needed)
        self.order[name] = None
        return True

    def _visit_provider(self, name: str) -> None:
        """A soft dependency names a module or an algorithm of the crypto API, whose plain provider is X_generic."""
        plain = name.replace("-", "_").removeprefix("crypto_")
        for candidate in (f"{plain}_generic", plain):
            if self.visit(candidate):
                return


def _names_before(softdep: str) -> list[str]:
    """The modules of "pre: a b post: c" that come before."""
    words, names, taking = softdep.split(), [], False
    for word in words:
        if word.endswith(":"):
            taking = word == "pre:"
        elif taking:
            names.append(word)
    return names


def parse_modinfo(module: bytes) -> Mapping[str, Sequence[str]]:
    """The entries of a module's .modinfo section by key, modinfo(8). Invalid when it is no module."""
    found: dict[str, list[str]] = {}
    for entry in _section(module, b".modinfo").split(b"\0"):
        key, equals, value = entry.decode("utf-8", "replace").partition("=")
        if equals:
            found.setdefault(key, []).append(value)
    return found


def _section(data: bytes, wanted: bytes) -> bytes:
    """A section of an ELF file by name, elf(5)."""
    bad = Invalid("a module is not an ELF file or damaged")
    if len(data) < 64 or not data.startswith(b"\x7fELF\x02\x01"):
        raise bad
    table, entry_size, count, names_at = struct.unpack_from("<Q", data, 40)[0], *struct.unpack_from("<3H", data, 58)
    if entry_size != 64 or names_at >= count or table + count * 64 > len(data):
        raise bad
    headers = [struct.unpack_from("<IIQQQQ", data, table + n * 64) for n in range(count)]
    names = _bytes_of(data, headers[names_at], bad)
    for header in headers:
        if names[header[0] :].partition(b"\0")[0] == wanted:
            return _bytes_of(data, header, bad)
    raise bad


def _bytes_of(data: bytes, header: tuple[int, ...], bad: Invalid) -> bytes:
    offset, size = header[4], header[5]
    if offset + size > len(data):
        raise bad
    return data[offset : offset + size]


def write_archive(sink: Callable[[bytes], object], order: Sequence[str], read: Callable[[str], bytes]) -> None:
    """Write the newc archive: /modules, the files, and /modules/order with one file name a line."""
    sink(cpio_entry("modules", 0o040755))
    for name in order:
        sink(cpio_entry(f"modules/{name}.ko", 0o100644, read(name)))
    sink(cpio_entry("modules/order", 0o100644, "".join(f"{name}.ko\n" for name in order).encode()))
    sink(cpio_entry("TRAILER!!!", 0))


def cpio_entry(name: str, mode: int, data: bytes = b"") -> bytes:
    """One member of a newc archive, Documentation/driver-api/early-userspace/buffer-format.rst. Without time and owner:
    the same modules give the same archive."""
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
