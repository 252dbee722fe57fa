"""Kernels that machines boot: content-addressed like images, named, one of them the default.

    kernels/HEX/                kernel.json, vmlinuz, vmlinux (where it could be unpacked), modules (a cpio archive)
    kernels/names/NAME          -> HEX (a symbolic link): cloud, generic, or what it was called when it was added
    kernels/default             -> HEX
    kernels/RANDOM.new/         being added

HEX is the sha256 of kernel.json, which has the digests of the files. A kernel gets its directory by one rename after
everything is on the disk; whatever dies before leaves a `.new` that the next start removes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import msgspec

from bireme.errors import Conflict, Invalid, NotFound
from bireme.image.model import OnProgress, Progress, ignore_progress
from bireme.oci.digest import SHA256, digest_of
from bireme.storage.durable import sync_directory, sync_filesystem
from bireme.storage.worker import run_worker

_NEW, _NAMES, _DEFAULT, _RECORD = ".new", "names", "default", "kernel.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+~-]{0,63}\Z")
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_PREFIX = re.compile(r"[0-9a-f]{4,64}\Z")
_NONE = "no kernel is installed, and a machine needs one of its own"
_REMEDY = "bireme kernel add cloud"


class KernelPart(msgspec.Struct, frozen=True):
    """One file of a kernel."""

    size_bytes: int
    digest: str


class KernelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What kernel.json keeps. `modules` are in load order, `builtin` those of the wanted ones that need no file,
    `missing` what this kernel cannot do: {name, without}. `config` is {} when no configuration came with it."""

    release: str
    packages: tuple[dict[str, str], ...]
    config: dict[str, str]
    modules: tuple[str, ...]
    builtin: tuple[str, ...]
    missing: tuple[dict[str, str], ...]
    files: dict[str, KernelPart]


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel as it is now. `id` is a digest; paths are absolute and stay as long as the kernel does."""

    id: str
    names: tuple[str, ...]
    default: bool
    directory: str
    added_at_ns: int
    record: KernelRecord

    @property
    def release(self) -> str:
        return self.record.release

    @property
    def image_path(self) -> str:
        """What to boot: vmlinux when it is there."""
        return f"{self.directory}/{self.format_file}"

    @property
    def format_file(self) -> str:
        return "vmlinux" if "vmlinux" in self.record.files else "vmlinuz"

    @property
    def format(self) -> Literal["vmlinux", "bzimage"]:
        """How `image_path` is to be loaded."""
        return "vmlinux" if "vmlinux" in self.record.files else "bzimage"

    @property
    def modules_path(self) -> str:
        """The first archive of the initramfs."""
        return f"{self.directory}/modules"

    @property
    def layer_formats(self) -> tuple[Literal["erofs", "ext4"], ...]:
        """File systems that layers may have for this kernel, best first (storage/blocks.py)."""
        has_erofs = "erofs" in (*self.record.modules, *self.record.builtin)
        return ("erofs", "ext4") if has_erofs else ("ext4",)

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.record.files.values())


class KernelStore:
    """Kernels of one data root. Methods may be called from any thread; `add` blocks for seconds."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock = threading.RLock()
        self._records: dict[str, KernelRecord] = {}
        self._held: dict[str, int] = {}
        os.makedirs(f"{root}/{_NAMES}", 0o700, exist_ok=True)
        for entry in os.listdir(root):
            if entry.endswith(_NEW):
                _remove(f"{root}/{entry}")

    def list(self) -> list[Kernel]:
        """Every kernel, the last added first."""
        with self._lock:
            default, names = self._link(_DEFAULT), self._names()
            entries = [entry for entry in os.listdir(self._root) if _HEX.match(entry)]
            kernels = [self._kernel(entry, names, default) for entry in entries]
        return sorted(kernels, key=lambda kernel: kernel.added_at_ns, reverse=True)

    def resolve(self, text: str = "") -> Kernel:
        """By name, release, id or unique prefix of one; "" is the default. NotFound, Invalid when ambiguous."""
        kernels = self.list()
        if not text:
            if not kernels:
                raise NotFound(_NONE, subject="kernel", hint=_REMEDY)
            for kernel in kernels:
                if kernel.default:
                    return kernel
            raise NotFound("no kernel is the default", subject="kernel", hint="bireme kernel default NAME")
        for kernel in kernels:
            if text in kernel.names or text == kernel.id:
                return kernel
        found = [kernel for kernel in kernels if text == kernel.release] or _by_prefix(kernels, text)
        if not found:
            raise NotFound(f"no such kernel: {text}", subject=text, hint=_hint(kernels))
        if len({kernel.id for kernel in found}) > 1 and text != found[0].release:
            raise Invalid(f"more than one kernel is meant by {text}", subject=text, hint="give more of its id")
        return found[0]

    def add(
        self,
        sources: Sequence[int],
        kind: Literal["deb", "tar"],
        name: str = "",
        on_progress: OnProgress = ignore_progress,
    ) -> Kernel:
        """Read open descriptors of packages, or of a tar archive (image/kernel_worker.py), and keep what is in them.

        The first kernel becomes the default. Invalid for what is no kernel, is cut off or has not the modules needed:
        then nothing stays.
        """
        if (name and not _NAME.match(name)) or _PREFIX.match(name):
            raise Invalid(
                f"invalid kernel name: {name}", subject=name[:80], hint="letters, digits and _.+~-, no digest"
            )
        fresh = f"{self._root}/{os.urandom(8).hex()}{_NEW}"
        os.mkdir(fresh, 0o700)
        try:
            answer = self._read(fresh, sources, kind, on_progress)
            return self._keep(fresh, msgspec.convert(answer, KernelRecord), name)
        finally:
            _remove(fresh)

    def _read(self, fresh: str, sources: Sequence[int], kind: str, on_progress: OnProgress) -> dict[str, Any]:
        root = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            request = {"sources": list(sources), "kind": kind, "root": root}
            return run_worker(
                "bireme.image.kernel_worker",
                request,
                (*sources, root),
                lambda words: on_progress(Progress("", str(words))),
            )
        finally:
            os.close(root)

    def _keep(self, fresh: str, record: KernelRecord, name: str) -> Kernel:
        data = json.dumps(msgspec.to_builtins(record), indent=1, sort_keys=True).encode() + b"\n"
        with open(f"{fresh}/{_RECORD}", "wb") as file:
            file.write(data)
        sync_filesystem(fresh)
        entry = digest_of(data).removeprefix(f"{SHA256}:")
        with self._lock:
            if not os.path.isdir(f"{self._root}/{entry}"):
                os.rename(fresh, f"{self._root}/{entry}")
            for each in filter(None, (name, record.release if not name else "")):
                self._point(f"{_NAMES}/{each}", entry)
            if not self._link(_DEFAULT):
                self._point(_DEFAULT, entry)
            sync_directory(self._root)
            return self._kernel(entry, self._names(), self._link(_DEFAULT))

    def set_default(self, text: str) -> Kernel:
        """Make a kernel the one that machines get who ask for none."""
        with self._lock:
            kernel = self.resolve(text)
            self._point(_DEFAULT, os.path.basename(kernel.directory))
            return self.resolve(kernel.id)

    def remove(self, text: str, users: Callable[[Kernel], Sequence[str]] = lambda _: (), force: bool = False) -> Kernel:
        """Remove a kernel with all its names; Conflict while a machine is about to boot it, or, unless forced, while
        there are `users` (what they are called). Files that running machines have open live on with them."""
        with self._lock:
            kernel = self.resolve(text)
            using = list(users(kernel))
            if self._held.get(kernel.id):
                raise Conflict(f"kernel {kernel.release} is being booted", subject=text)
            if using and not force:
                shown = ", ".join(using[:3]) + (f" and {len(using) - 3} more" if len(using) > 3 else "")
                raise Conflict(f"kernel {kernel.release} is in use by {shown}", subject=text, hint="or use --force")
            entry = os.path.basename(kernel.directory)
            for name in kernel.names:
                os.unlink(f"{self._root}/{_NAMES}/{name}")
            if kernel.default:
                os.unlink(f"{self._root}/{_DEFAULT}")
            gone = f"{self._root}/{os.urandom(8).hex()}{_NEW}"
            os.rename(kernel.directory, gone)
            self._records.pop(entry, None)
        _remove(gone)
        return kernel

    @contextmanager
    def hold(self, text: str = "") -> Iterator[Kernel]:
        """A kernel that is not removed for the length of a `with` block, even by force."""
        with self._lock:
            kernel = self.resolve(text)
            self._held[kernel.id] = self._held.get(kernel.id, 0) + 1
        try:
            yield kernel
        finally:
            with self._lock:
                self._held[kernel.id] -= 1

    def _kernel(self, entry: str, names: dict[str, str], default: str) -> Kernel:
        directory = f"{self._root}/{entry}"
        if entry not in self._records:
            with open(f"{directory}/{_RECORD}", "rb") as file:
                self._records[entry] = msgspec.json.decode(file.read(), type=KernelRecord)
        return Kernel(
            id=f"{SHA256}:{entry}",
            names=tuple(sorted(name for name, target in names.items() if target == entry)),
            default=entry == default,
            directory=directory,
            added_at_ns=os.stat(f"{directory}/{_RECORD}").st_mtime_ns,
            record=self._records[entry],
        )

    def _names(self) -> dict[str, str]:
        return {name: self._link(f"{_NAMES}/{name}") for name in os.listdir(f"{self._root}/{_NAMES}")}

    def _link(self, path: str) -> str:
        try:
            return os.path.basename(os.readlink(f"{self._root}/{path}"))
        except OSError:
            return ""

    def _point(self, path: str, entry: str) -> None:
        """Make a symbolic link, replacing whatever was there, by one rename."""
        fresh = f"{self._root}/{os.urandom(8).hex()}{_NEW}"
        os.symlink(entry, fresh)
        os.rename(fresh, f"{self._root}/{path}")


def _by_prefix(kernels: Sequence[Kernel], text: str) -> Sequence[Kernel]:
    prefix = text.removeprefix(f"{SHA256}:")
    if not _PREFIX.match(prefix):
        return ()
    return [kernel for kernel in kernels if kernel.id.startswith(f"{SHA256}:{prefix}")]


def _hint(kernels: Sequence[Kernel]) -> str:
    known = [name for kernel in kernels for name in (*kernel.names, kernel.release)]
    return f"there are: {', '.join(dict.fromkeys(known))}" if known else _REMEDY


def _remove(path: str) -> None:
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    else:
        shutil.rmtree(path, ignore_errors=True)
