"""Volumes: found or made when an instance is created, mounted while instances use them, removed when nobody does.

A volume is a directory (storage/volumes.py) and a record. The directory comes first and goes last, the record of one
that is made for an instance is committed together with the instance: what a killed engine leaves is a directory without
a record, which the next one removes. Who creates, fills or removes a volume holds its lock.

Nothing of this is loaded before the first volume is there or asked for (daemon/assemble.py).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from bireme.engine.events import Events
from bireme.engine.locks import NamedLocks
from bireme.engine.record import Instance
from bireme.engine.table import InstanceTable, Statement, Store
from bireme.engine.volumemounts import inherited_mounts, plan_mounts
from bireme.errors import BiremeError, Conflict, Invalid, NotFound
from bireme.instance.driver import RootFilesystem
from bireme.instance.spec import InstanceSpec, Mount
from bireme.instance.volume import ANONYMOUS_LABEL, LOCAL, check_name, check_options
from bireme.linux.procfs import read_mountinfo
from bireme.storage import volumemount
from bireme.storage.populate import has_content, populate
from bireme.storage.tree import measure
from bireme.storage.volumes import VolumeDirectories


class VolumeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the database keeps besides name and time: the local driver's options, and labels."""

    options: dict[str, str] = {}
    labels: dict[str, str] = {}


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as it is shown; `path` is the directory with its contents."""

    name: str
    path: str
    created_at_ns: int
    options: dict[str, str]
    labels: dict[str, str]

    @property
    def mounted(self) -> bool:
        """Whether it is a file system of its own, mounted while it is used."""
        return bool(self.options.get("device"))


class Claim:
    """The volumes of an instance that is being created, until it is committed or not: `spec` names them, `statements`
    go with its own. Their locks are held meanwhile."""

    def __init__(self, spec: InstanceSpec) -> None:
        self.spec = spec
        self.made: dict[str, Volume] = {}
        self.locks = AsyncExitStack()

    @property
    def statements(self) -> list[Statement]:
        return [_insertion(volume) for volume in self.made.values()]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(VolumeRecord)


def _insertion(volume: Volume) -> Statement:
    record = _encoder.encode(VolumeRecord(options=volume.options, labels=volume.labels))
    return (
        "insert into volumes (name, record, created_ns) values (?, ?, ?)",
        (volume.name, record, volume.created_at_ns),
    )


class Volumes:
    """find, list, create, remove, prune; claim, use and leave for instances."""

    def __init__(self, root: str, store: Store, table: InstanceTable, events: Events) -> None:
        self._directories = VolumeDirectories(root)
        self._store = store
        self._table = table
        self._events = events
        self._locks = NamedLocks()
        self._holders: dict[str, set[str]] = {}
        self._volumes: dict[str, Volume] = {}
        for name, record, created in store.query("select name, record, created_ns from volumes"):
            known = _decoder.decode(record if isinstance(record, bytes) else str(record).encode())
            self._volumes[str(name)] = self._volume(str(name), int(str(created)), known.options, known.labels)

    def _volume(self, name: str, created_at_ns: int, options: dict[str, str], labels: dict[str, str]) -> Volume:
        path = self._directories.path(name)
        return Volume(name=name, path=path, created_at_ns=created_at_ns, options=options, labels=labels)

    # questions

    def find(self, name: str) -> Volume:
        volume = self._volumes.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume", subject=name)
        return volume

    def all(self) -> list[Volume]:
        """Every volume by name."""
        return sorted(self._volumes.values(), key=lambda volume: volume.name)

    def users(self, name: str) -> list[Instance]:
        """The instances that have it mounted, or will."""
        return [i for i in self._table if any(m.volume == name for m in i.spec.mounts)]

    # create and remove

    async def create(self, name: str, driver: str, options: Mapping[str, str], labels: Mapping[str, str]) -> Volume:
        """A new volume, or the one that has this name already. "" gets a random name."""
        labels = labels if name else {**labels, ANONYMOUS_LABEL: ""}
        name = name or os.urandom(32).hex()
        check_driver(driver)
        check_name(name)
        check_options(name, options)
        async with self._locks.held([name]):
            known = self._volumes.get(name)
            if known is not None:
                return known
            volume = await self._make(name, options, labels)
            try:
                await asyncio.wrap_future(self._store.submit([_insertion(volume)]))
            except BaseException:
                await asyncio.to_thread(self._directories.remove, name)
                raise
            self._made(volume)
        return volume

    async def _make(self, name: str, options: Mapping[str, str], labels: Mapping[str, str]) -> Volume:
        try:
            await asyncio.to_thread(self._directories.make, name)
        except OSError as error:
            raise Invalid(f"create {name}: {error.strerror}", subject=name) from error
        return self._volume(name, time.time_ns(), dict(options), dict(labels))

    def _made(self, volume: Volume) -> None:
        self._volumes[volume.name] = volume
        self._publish("create", volume.name)

    async def remove(self, name: str, force: bool = False) -> None:
        """Conflict while instances have it; `force` forgives that there is none."""
        async with self._locks.held([name]):
            if name not in self._volumes and force:
                return
            volume = self.find(name)
            if users := self.users(name):
                shown = ", ".join(i.id for i in users)
                raise Conflict(f"remove {name}: volume is in use - [{shown}]", subject=name)
            await asyncio.wrap_future(self._store.submit([_deletion(name)]))
            await self._forget([volume])

    async def _forget(self, volumes: Sequence[Volume]) -> None:
        """Their records are gone: so are they."""
        for volume in volumes:
            del self._volumes[volume.name]
            self._publish("destroy", volume.name)
        await asyncio.to_thread(self._delete, volumes)

    def _delete(self, volumes: Sequence[Volume]) -> None:
        for volume in volumes:
            if volume.mounted:
                volumemount.unmount_volume(volume.path)
            self._directories.remove(volume.name)

    async def prune(self, chosen: Callable[[Volume], bool]) -> tuple[list[str], int]:
        """Remove what no instance has and `chosen` is true of; names and bytes."""
        removed, freed = [], 0
        for volume in self.all():
            if not chosen(volume) or self.users(volume.name):
                continue
            size = 0 if volume.mounted else await asyncio.to_thread(self.measure, volume)
            try:
                await self.remove(volume.name)
            except BiremeError:
                continue
            removed.append(volume.name)
            freed += size
        self._events.publish("volume", "prune", "", {"reclaimed": str(freed)})
        return removed, freed

    def measure(self, volume: Volume) -> int:
        """Bytes on disk of one that is a directory. Blocks."""
        try:
            return measure(volume.path).size_bytes
        except OSError:
            return 0

    # for instances: create

    async def claim(self, identity: str, spec: InstanceSpec, root: RootFilesystem) -> Claim:
        """Find or make every volume that `spec` wants and fill new ones from the image; end it with `commit` or
        `undo`."""
        inherited = [mount for text in spec.volumes_from for mount in self._inherited(text)]
        mounts = plan_mounts(spec, inherited)
        for mount in mounts:
            _check(mount)
        claim = Claim(spec)
        try:
            await claim.locks.enter_async_context(self._locks.held(m.volume for m in mounts if m.volume))
            bound = [await self._bind(mount, claim) if mount.kind == "volume" else mount for mount in mounts]
            for mount in bound:
                if mount.kind == "volume" and not mount.no_copy:
                    await self._fill(identity, mount, claim, root)
        except BaseException:
            await self.undo(claim)
            raise
        claim.spec = msgspec.structs.replace(spec, mounts=tuple(bound))
        return claim

    def _inherited(self, text: str) -> list[Mount]:
        reference, _, mode = text.partition(":")
        return inherited_mounts(self._table.find(reference).spec.mounts, "ro" in mode.split(","))

    async def _bind(self, mount: Mount, claim: Claim) -> Mount:
        labels = {**mount.labels, ANONYMOUS_LABEL: ""} if not mount.volume else mount.labels
        name = mount.volume or os.urandom(32).hex()
        volume = self._volumes.get(name) or claim.made.get(name)
        if volume is None:
            volume = claim.made[name] = await self._make(name, mount.driver_options, labels)
        return msgspec.structs.replace(
            mount,
            volume=name,
            source=volume.path,
            mounted=volume.mounted,
            driver="",
            driver_options={},
            labels={},
        )

    async def _fill(self, identity: str, mount: Mount, claim: Claim, root: RootFilesystem) -> None:
        volume = claim.made.get(mount.volume) or self._volumes[mount.volume]
        layers = root.lower or (root.upper,)
        if volume.options.get("type") == "tmpfs" or not has_content(layers, mount.target):
            return
        if volume.mounted:
            await self._hold(volume, identity)
        try:
            await asyncio.to_thread(_populate, mount, layers)
        finally:
            if volume.mounted:
                await self._let_go(volume, identity)

    async def commit(self, claim: Claim) -> None:
        """The instance is committed, and with it what was made."""
        for volume in claim.made.values():
            self._made(volume)
        await claim.locks.aclose()

    async def undo(self, claim: Claim) -> None:
        """The instance is not: neither is what was made for it."""
        try:
            await asyncio.to_thread(self._delete, list(claim.made.values()))
        finally:
            await claim.locks.aclose()

    # for instances: remove

    @asynccontextmanager
    async def orphaned(self, instance: Instance) -> AsyncIterator[list[Statement]]:
        """The statements that forget the anonymous volumes nobody but this instance has; commit them inside."""
        names = {m.volume for m in instance.spec.mounts if m.kind == "volume" and m.anonymous}
        async with self._locks.held(names):
            alone = [n for n in sorted(names) if n in self._volumes and self.users(n) == [instance]]
            yield [_deletion(name) for name in alone]
            await self._forget([self._volumes[name] for name in alone])

    # for instances: start and exit

    async def use(self, instance: Instance) -> None:
        """Before a start: mount what is a file system of its own."""
        for mount in _volume_mounts(instance):
            volume = self.find(mount.volume)
            if volume.mounted:
                async with self._locks.held([volume.name]):
                    await self._hold(volume, instance.id)

    def started(self, instance: Instance) -> None:
        for mount in _volume_mounts(instance):
            words = {
                "container": instance.id,
                "destination": mount.target,
                "propagation": "",
                "read/write": "false" if mount.read_only else "true",
            }
            self._publish("mount", mount.volume, words)

    async def leave(self, instance: Instance, ran: bool = True) -> None:
        """After the end, or a start that failed."""
        for mount in _volume_mounts(instance):
            if ran:
                self._publish("unmount", mount.volume, {"container": instance.id})
            volume = self._volumes.get(mount.volume)
            if volume is not None and volume.mounted:
                async with self._locks.held([volume.name]):
                    await self._let_go(volume, instance.id)

    async def _hold(self, volume: Volume, holder: str) -> None:
        holders = self._holders.setdefault(volume.name, set())
        if not holders and not await asyncio.to_thread(volumemount.is_mounted, volume.path):
            await asyncio.to_thread(volumemount.mount_volume, volume.options, volume.path)
        holders.add(holder)

    async def _let_go(self, volume: Volume, holder: str) -> None:
        holders = self._holders.get(volume.name, set())
        holders.discard(holder)
        if not holders:
            self._holders.pop(volume.name, None)
            await asyncio.to_thread(volumemount.unmount_volume, volume.path)

    async def restore(self) -> None:
        """At the start of an engine: who holds what is mounted; directories without a record go."""
        for instance in self._table:
            if instance.running:
                for mount in _volume_mounts(instance):
                    if mount.mounted:
                        self._holders.setdefault(mount.volume, set()).add(instance.id)
        await asyncio.to_thread(self._restore)

    def _restore(self) -> None:
        paths = {v.path for v in self._volumes.values() if v.mounted and v.name not in self._holders}
        for entry in read_mountinfo() if paths else ():
            if entry.path in paths:
                volumemount.unmount_volume(entry.path)
        self._directories.sweep(self._volumes)

    def empty(self) -> None:
        """Delete what `restore` put away. Blocks, for as long as that takes."""
        self._directories.empty()

    def _publish(self, action: str, name: str, more: Mapping[str, str] | None = None) -> None:
        self._events.publish("volume", action, name, {"driver": LOCAL, **(more or {})})


def check_driver(driver: str) -> None:
    if driver not in ("", LOCAL):
        raise NotFound(f'error looking up volume plugin {driver}: plugin "{driver}" not found', subject=driver)


def _check(mount: Mount) -> None:
    """What create asks for; an unknown driver is Invalid: docker's client takes "not found" for the image."""
    if mount.kind != "volume":
        return
    try:
        check_driver(mount.driver)
    except NotFound as error:
        raise Invalid(error.message, subject=error.subject) from None
    if mount.volume:
        check_name(mount.volume)
    check_options(mount.volume, mount.driver_options)


def _deletion(name: str) -> Statement:
    return ("delete from volumes where name = ?", (name,))


def _volume_mounts(instance: Instance) -> list[Mount]:
    return [mount for mount in instance.spec.mounts if mount.kind == "volume"]


def _populate(mount: Mount, layers: Sequence[str]) -> None:
    """A subpath that is not there is the start's affair."""
    try:
        volume = volumemount.open_beneath(mount.source, mount.subpath, os.O_RDONLY | os.O_DIRECTORY)
    except NotFound:
        return
    try:
        populate(layers, mount.target, volume)
    except BiremeError as error:
        error.message = f"failed to populate volume: {error.message}"
        raise
    finally:
        os.close(volume)
