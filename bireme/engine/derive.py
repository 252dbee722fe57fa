"""New images out of what is here: an instance's changes on top of its image, or a root file system that is uploaded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence

import msgspec

from bireme.engine.copying import Copying
from bireme.engine.events import Events
from bireme.engine.images import Images
from bireme.engine.instances import Instances
from bireme.engine.record import Instance
from bireme.engine.relay import Emit, Relay, Source
from bireme.errors import Conflict, Invalid
from bireme.image.derive import About, commit, import_root
from bireme.image.instructions import apply_changes
from bireme.image.model import Image
from bireme.instance.state import Status
from bireme.oci.image_spec import ImageConfig
from bireme.oci.platform import from_machine, parse_platform
from bireme.oci.reference import Reference, parse_reference
from bireme.storage import files


class Derivation:
    """commit and import."""

    def __init__(self, instances: Instances, images: Images, copying: Copying, events: Events) -> None:
        self._instances = instances
        self._images = images
        self._copying = copying
        self._events = events

    async def commit(
        self,
        reference: str,
        name: str = "",
        *,
        author: str = "",
        comment: str = "",
        changes: Sequence[str] = (),
        config: ImageConfig | None = None,
        pause: bool = True,
    ) -> str:
        """The id of a new image. `config` replaces the instance's own, which still fills what it leaves empty; `pause`
        holds a running instance still meanwhile."""
        instance = self._instances.find(reference)
        named = target(name)
        view = await self._copying.root(instance)
        parent = self._images.find(instance.spec.image_id).image
        own = own_config(instance, parent.config)
        merged = fill(apply_changes(own if config is None else config, changes), own)
        about = About(merged, named, author, comment, " ".join(own.cmd or ()))
        task = files.of_layers(view, "diff", instance.name)
        paused = await self._hold(instance) if pause else False
        try:
            image = await self._images.derive(
                lambda store: commit(store, parent, lambda out: task.with_stream("output", out).run(), about)
            )
        finally:
            if paused:
                await self._instances.resume(instance.id)
        shown = named.familiar if named is not None else ""
        self._instances.publish(instance, "commit", comment=comment, imageID=image.id, imageRef=shown)
        self._tagged(image, named)
        return image.id

    async def _hold(self, instance: Instance) -> bool:
        """Pause it if it runs; whether it must be resumed."""
        if instance.status is not Status.RUNNING:
            return False
        try:
            await self._instances.pause(instance.id)
        except Conflict:
            return False
        return True

    async def import_root(
        self,
        chunks: AsyncIterator[bytes],
        name: str,
        emit: Emit,
        *,
        message: str = "",
        changes: Sequence[str] = (),
        platform: str = "",
    ) -> None:
        """Make an image of the root in an archive; the last thing `emit` gets is its id."""
        named = target(name)
        host = from_machine(os.uname().machine)
        wanted = parse_platform(platform) if platform else host
        if wanted.os != "linux":
            raise Invalid(f"operating system {wanted.os} is not supported", subject=platform)
        about = About(apply_changes(ImageConfig(), changes), named, comment=message or "Imported from -")
        source, relay = Source(chunks), Relay(emit)
        image = await self._images.derive(
            lambda store: import_root(store, source.read, wanted, about, relay.report),
        )
        await asyncio.sleep(0)
        emit({"status": image.id})
        shown = named.familiar if named is not None else image.id
        self._events.publish("image", "import", image.id, {"name": shown})
        self._tagged(image, named)

    def _tagged(self, image: Image, named: Reference | None) -> None:
        if named is not None:
            self._events.publish("image", "tag", image.id, {"name": named.familiar})


def target(name: str) -> Reference | None:
    """The name for a new image, None for ""; Invalid with a digest."""
    if not name:
        return None
    reference = parse_reference(name)
    if reference.digest:
        raise Invalid("cannot import digest reference", subject=name)
    return reference


def own_config(instance: Instance, image: ImageConfig) -> ImageConfig:
    """The configuration of an instance as an image has it; what every instance gets by itself is left out."""
    spec = instance.spec
    automatic = {f"HOSTNAME={instance.hostname}"}
    if spec.process.terminal:
        automatic.add("TERM=xterm")
    return ImageConfig(
        user=spec.process.user,
        exposed_ports={port: {} for port in spec.exposed_ports} or None,
        env=[entry for entry in spec.process.env if entry not in automatic or entry in (image.env or ())] or None,
        entrypoint=list(spec.entrypoint) or None,
        cmd=list(spec.command) or None,
        volumes={path: {} for path in spec.volumes} or None,
        working_dir="" if spec.process.working_dir == "/" and not image.working_dir else spec.process.working_dir,
        labels=dict(spec.labels) or None,
        stop_signal="" if spec.stop_signal == "SIGTERM" else spec.stop_signal,
        shell=image.shell,
        healthcheck=image.healthcheck,
    )


def fill(config: ImageConfig, own: ImageConfig) -> ImageConfig:
    """What `config` leaves empty is the instance's; Docker's rules for commit."""
    names = {entry.partition("=")[0] for entry in config.env or ()}
    env = [*(config.env or ()), *(entry for entry in own.env or () if entry.partition("=")[0] not in names)]
    entrypoint, cmd = config.entrypoint, config.cmd
    if not entrypoint:
        cmd = cmd or own.cmd
        entrypoint = own.entrypoint if entrypoint is None else entrypoint
    return msgspec.structs.replace(
        config,
        user=config.user or own.user,
        exposed_ports={**(own.exposed_ports or {}), **(config.exposed_ports or {})} or None,
        env=env or None,
        entrypoint=entrypoint or None,
        cmd=cmd or None,
        volumes={**(own.volumes or {}), **(config.volumes or {})} or None,
        working_dir=config.working_dir or own.working_dir,
        labels={**(own.labels or {}), **(config.labels or {})} or None,
        stop_signal=config.stop_signal or own.stop_signal,
        healthcheck=config.healthcheck or own.healthcheck,
    )
