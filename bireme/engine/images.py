"""Images as the engine's users see them: lookups from memory, heavy work in threads, an event for every change."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property
from typing import Any

import msgspec

from bireme.engine.events import Events
from bireme.engine.relay import CHUNK, Emit, Relay, Source
from bireme.engine.table import InstanceTable
from bireme.engine.tidy import Tidier
from bireme.image.model import HistoryEntry, Image, ImageUser
from bireme.image.store import ImageStore
from bireme.instance.logs import parse_time
from bireme.instance.spec import HealthCheck
from bireme.oci.image_spec import Healthcheck


class ImageView:
    """An image for readers: what instances inherit, and what an API shows."""

    def __init__(self, image: Image) -> None:
        self.image = image
        config = image.config
        self.id = image.id
        self.chain_id = image.chain_id
        self.references = image.references
        self.repo_digests = image.repo_digests
        self.size_bytes = image.size
        self.architecture = image.architecture
        self.os = image.os
        self.env = tuple(config.env or ())
        self.entrypoint = tuple(config.entrypoint or ())
        self.command = tuple(config.cmd or ())
        self.user = config.user
        self.working_dir = config.working_dir
        self.stop_signal = config.stop_signal
        self.exposed_ports = tuple(config.exposed_ports or ())
        self.labels = dict(config.labels or {})
        self.volumes = tuple(config.volumes or ())
        self.health = _health(config.healthcheck)

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return tuple(layer.diff_id for layer in self.image.layers)

    @cached_property
    def created_at_ns(self) -> int:
        try:
            return parse_time(self.image.created)
        except ValueError:
            return 0

    @cached_property
    def document(self) -> dict[str, Any]:
        """The config document, spelled as in the OCI image specification."""
        found: dict[str, Any] = msgspec.to_builtins(self.image.document)
        return found


def _health(check: Healthcheck | None) -> HealthCheck | None:
    if check is None:
        return None
    return HealthCheck(
        test=tuple(check.test or ()),
        interval_ns=check.interval,
        timeout_ns=check.timeout,
        start_period_ns=check.start_period,
        start_interval_ns=check.start_interval,
        retries=check.retries,
    )


class Images:
    """find, list, tag, remove, load, save, history, bootstrap."""

    def __init__(self, store: ImageStore, events: Events, table: InstanceTable, tidier: Tidier) -> None:
        self._store = store
        self._tidier = tidier
        self._events = events
        self._table = table
        self._views: dict[str, ImageView] = {}
        self._count: int | None = None
        self._writing = asyncio.Lock()

    def defaults(self, reference: str) -> ImageView:
        return self.find(reference)

    def find(self, reference: str) -> ImageView:
        """By reference, id or unique id prefix; NotFound "No such image: x"."""
        view = self._views.get(reference)
        if view is None:
            view = self._views[reference] = ImageView(self._store.resolve(reference))
        return view

    def all(self) -> list[ImageView]:
        return [ImageView(image) for image in self._store.list()]

    def count(self) -> int:
        if self._count is None:
            self._count = len(self._store.list())
        return self._count

    def users(self, image_id: str) -> list[ImageUser]:
        """The instances made from an image, for those who would remove it."""
        return [ImageUser(i.id, i.active) for i in self._table if i.spec.image_id == image_id]

    def history(self, reference: str) -> Sequence[HistoryEntry]:
        return self._store.history(self.find(reference).image)

    async def tag(self, reference: str, target: str) -> None:
        image = self.find(reference)
        async with self._writing:
            await asyncio.to_thread(self._store.tag, reference, target)
        self._changed()
        self._events.publish("image", "tag", image.id, {"name": target})

    async def remove(self, reference: str, force: bool = False) -> list[tuple[str, str]]:
        """What happened: ("untagged", reference) and ("deleted", digest), in order. What removed instances leave goes
        first, since their snapshots hold layers."""
        await self._tidier.finish()
        async with self._writing:
            users = self.users
            removed = await asyncio.to_thread(self._store.remove, reference, force, users)
        self._changed()
        for step in removed:
            self._events.publish("image", "untag" if step.action == "untagged" else "delete", step.subject, {})
        return [(step.action, step.subject) for step in removed]

    async def load(self, chunks: AsyncIterator[bytes], emit: Emit) -> None:
        """Take a docker-archive or OCI layout as it arrives; `emit` gets progress."""
        source = Source(chunks)
        progress = Relay(emit)
        async with self._writing:
            loaded = await asyncio.to_thread(self._store.load, source.read, progress.report)
        self._changed()
        for one in loaded:
            shown = f"Loaded image: {one.reference}" if one.reference else f"Loaded image ID: {one.id}"
            emit({"stream": shown + "\n"})
            self._events.publish("image", "load", one.id, {"name": one.reference or one.id})

    async def save(self, references: Sequence[str]) -> AsyncIterator[bytes]:
        """A docker-archive with these images, as it is written."""
        for reference in references:
            self.find(reference)
        reader, writer = os.pipe()
        task = asyncio.get_running_loop().run_in_executor(None, self._save_to, list(references), writer)
        try:
            while chunk := await asyncio.to_thread(os.read, reader, CHUNK):
                yield chunk
            await task
        finally:
            os.close(reader)

    def _save_to(self, references: list[str], writer: int) -> None:
        with open(writer, "wb", buffering=CHUNK) as sink:
            self._store.save(references, sink.write)

    async def bootstrap(self, name: str, emit: Emit) -> None:
        """Make an image from the distribution's packages (image/bootstrap.py)."""
        from bireme.image.bootstrap import bootstrap

        progress = Relay(emit)
        async with self._writing:
            image = await asyncio.to_thread(bootstrap, self._store, name, progress.report)
        self._changed()
        self._events.publish("image", "bootstrap", image.id, {"name": name})

    async def derive(self, make: Callable[[ImageStore], Image]) -> Image:
        """An image that `make` adds to the store, from a thread."""
        async with self._writing:
            image = await asyncio.to_thread(make, self._store)
        self._changed()
        return image

    def _changed(self) -> None:
        self._views.clear()
        self._count = None
