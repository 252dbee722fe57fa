"""From what was asked and what the image says to the definition that create commits. Pure; Docker's merge rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from bireme.errors import Invalid
from bireme.instance.spec import HealthCheck, InstanceSpec

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ImageDefaults(Protocol):
    """The part of an image that an instance inherits; `id` is the config's digest, `chain_id` names its snapshot."""

    @property
    def id(self) -> str: ...
    @property
    def chain_id(self) -> str: ...

    @property
    def env(self) -> Sequence[str]: ...
    @property
    def entrypoint(self) -> Sequence[str]: ...
    @property
    def command(self) -> Sequence[str]: ...
    @property
    def user(self) -> str: ...
    @property
    def working_dir(self) -> str: ...
    @property
    def stop_signal(self) -> str: ...
    @property
    def exposed_ports(self) -> Sequence[str]: ...
    @property
    def labels(self) -> dict[str, str]: ...
    @property
    def volumes(self) -> Sequence[str]: ...
    @property
    def health(self) -> HealthCheck | None: ...


class ImageSource(Protocol):
    """Where instances find their image."""

    def defaults(self, reference: str) -> ImageDefaults:
        """NotFound with Docker's wording for an unknown reference."""
        ...


def merge(spec: InstanceSpec, image: ImageDefaults, hostname: str) -> InstanceSpec:
    """`spec` completed by the image's defaults; Invalid when there is no command at all."""
    entrypoint, command = _command(spec, image)
    process = msgspec.structs.replace(
        spec.process,
        args=(*entrypoint, *command),
        env=_environment(spec, image, hostname),
        user=spec.process.user or image.user,
        working_dir=spec.process.working_dir or image.working_dir or "/",
    )
    return msgspec.structs.replace(
        spec,
        image_id=image.id,
        process=process,
        entrypoint=entrypoint,
        command=command,
        labels={**image.labels, **spec.labels},
        volumes=tuple(dict.fromkeys((*spec.volumes, *image.volumes))),
        exposed_ports=tuple(dict.fromkeys((*spec.exposed_ports, *image.exposed_ports))),
        stop_signal=spec.stop_signal or image.stop_signal or "SIGTERM",
        health=_health(spec.health, image.health),
    )


def _health(asked: HealthCheck | None, image: HealthCheck | None) -> HealthCheck | None:
    """What is not asked for is the image's, value by value."""
    if asked is None or image is None:
        return asked or image
    return HealthCheck(**{name: getattr(asked, name) or getattr(image, name) for name in HealthCheck.__struct_fields__})


def _command(spec: InstanceSpec, image: ImageDefaults) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A given entrypoint drops the image's command; the entrypoint [""] means none."""
    if spec.entrypoint:
        entrypoint = () if spec.entrypoint == ("",) else spec.entrypoint
        command = spec.command
    else:
        entrypoint = tuple(image.entrypoint)
        command = spec.command or tuple(image.command)
    if not entrypoint and not command:
        raise Invalid("no command specified", subject=spec.image)
    return entrypoint, command


def _environment(spec: InstanceSpec, image: ImageDefaults, hostname: str) -> tuple[str, ...]:
    """PATH, HOSTNAME and TERM by default, then the image's, then what was asked; `NAME` alone removes."""
    names: dict[str, str] = {"PATH": DEFAULT_PATH, "HOSTNAME": f"HOSTNAME={hostname}"}
    if spec.process.terminal:
        names["TERM"] = "TERM=xterm"
    for entry in (*image.env, *spec.process.env):
        name, equals, _ = entry.partition("=")
        if equals:
            names[name] = entry
        else:
            names.pop(name, None)
    return tuple(names.values())
