"""Guest kernels as the engine's users see them: looked up from memory, added in threads, an event for every change."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack

import msgspec

from bireme.engine.events import Events
from bireme.engine.relay import CHUNK, Emit, Relay, Source
from bireme.engine.table import InstanceTable
from bireme.errors import BiremeError, Invalid
from bireme.image.kernels import Kernel, KernelStore
from bireme.image.model import Progress
from bireme.instance.spec import InstanceSpec

_UPLOAD_MAX_BYTES = 4 << 30
_WITH_KERNEL = ("microvm",)


class Kernels:
    """find, list, add, upload, remove, default; and which kernel a machine gets."""

    def __init__(self, store: KernelStore, events: Events, table: InstanceTable) -> None:
        self._store = store
        self._events = events
        self._table = table
        self._writing = asyncio.Lock()

    def find(self, reference: str = "") -> Kernel:
        """By name, release, id or prefix, "" for the default; NotFound with the remedy."""
        return self._store.resolve(reference)

    def all(self) -> Sequence[Kernel]:
        """Every kernel, the last added first."""
        return self._store.list()

    def pin(self, spec: InstanceSpec) -> InstanceSpec:
        """The definition with the id of its kernel in place of a name: a machine keeps the kernel it was created with,
        whatever becomes the default later. Others are returned as they are."""
        if spec.isolation not in _WITH_KERNEL:
            return spec
        return msgspec.structs.replace(spec, kernel=self.find(spec.kernel).id)

    def users(self, kernel: Kernel) -> list[str]:
        """Names of the machines that boot it."""
        return [i.name for i in self._table if i.spec.isolation in _WITH_KERNEL and self._boots(i.spec, kernel)]

    def _boots(self, spec: InstanceSpec, kernel: Kernel) -> bool:
        try:
            return self.find(spec.kernel).id == kernel.id
        except BiremeError:
            return False

    async def add(self, flavour: str, name: str, emit: Emit) -> Kernel:
        """Take a kernel of the distribution, "cloud" or "generic" (image/kernelpackage.py)."""
        relay = Relay(emit)
        async with self._writing:
            kernel = await asyncio.to_thread(self._download, flavour, name, relay)
        return self._added(kernel, emit)

    def _download(self, flavour: str, name: str, relay: Relay) -> Kernel:
        from bireme.image.kernelpackage import download

        with tempfile.TemporaryDirectory(prefix="bireme-kernel-") as directory, ExitStack() as stack:
            paths = download(flavour, directory, lambda words: relay.report(Progress("", words)))
            fds = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]
            for fd in fds:
                stack.callback(os.close, fd)
            return self._store.add(fds, "deb", name or flavour, relay.report)

    async def upload(self, chunks: AsyncIterator[bytes], name: str, emit: Emit) -> Kernel:
        """Take a tar archive of packages, or of vmlinuz, config and modules/, as it arrives."""
        relay, source = Relay(emit), Source(chunks)
        async with self._writing:
            kernel = await asyncio.to_thread(self._receive, source, name, relay)
        return self._added(kernel, emit)

    def _receive(self, source: Source, name: str, relay: Relay) -> Kernel:
        with tempfile.TemporaryFile(prefix="bireme-kernel-") as file:
            size = 0
            while data := source.read(CHUNK):
                size += len(data)
                if size > _UPLOAD_MAX_BYTES:
                    raise Invalid("the upload is larger than any kernel")
                file.write(data)
            file.flush()
            file.seek(0)
            return self._store.add([file.fileno()], "tar", name, relay.report)

    def _added(self, kernel: Kernel, emit: Emit) -> Kernel:
        for entry in kernel.record.missing:
            emit({"status": f"kernel {kernel.release} has no {entry['name']}: {entry['without']}"})
        emit({"stream": f"Added kernel: {kernel.release}{' (the default)' if kernel.default else ''}\n"})
        emit({"aux": {"id": kernel.id, "release": kernel.release, "names": list(kernel.names)}})
        self._events.publish("kernel", "add", kernel.id, {"name": kernel.release})
        return kernel

    async def remove(self, reference: str, force: bool = False) -> Kernel:
        """Remove a kernel; Conflict while machines use it, unless forced."""
        async with self._writing:
            kernel = await asyncio.to_thread(self._store.remove, reference, self.users, force)
        self._events.publish("kernel", "remove", kernel.id, {"name": kernel.release})
        return kernel

    async def set_default(self, reference: str) -> Kernel:
        """What machines boot from now on when they are created without a kernel."""
        async with self._writing:
            kernel = await asyncio.to_thread(self._store.set_default, reference)
        self._events.publish("kernel", "default", kernel.id, {"name": kernel.release})
        return kernel
