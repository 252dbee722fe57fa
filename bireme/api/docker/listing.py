"""GET /containers/json: rows, their filters and the words of their status."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from bireme.api.docker.filters import Filters
from bireme.api.docker.mountpoints import mount_points
from bireme.api.docker.networking import network_id, networks_of, port_list
from bireme.api.docker.policies import HEALTH_WORDS, health_word
from bireme.api.docker.services import Image, Images, Instance
from bireme.api.docker.sizes import human_duration
from bireme.errors import BiremeError, Invalid, NotFound
from bireme.instance.spec import InstanceSpec
from bireme.instance.state import Status

if TYPE_CHECKING:
    from bireme.engine.sizes import InstanceSize

FILTERS = frozenset(
    "ancestor before exited id isolation label name status health since volume network is-task publish expose".split()
)
_STATES = frozenset({"created", "restarting", "running", "removing", "paused", "exited", "dead"})

Keep = Callable[[Instance], bool]


def image_id(spec: InstanceSpec) -> str:
    identity = spec.image_id
    return identity if not identity or ":" in identity else f"sha256:{identity}"


def status_text(instance: Instance, now_ns: int) -> str:
    """ "Up 3 seconds", "Exited (0) 2 minutes ago", "Created", ..."""
    status = instance.status
    if status in (Status.RUNNING, Status.PAUSED):
        text = "Up " + human_duration((now_ns - instance.started_at_ns) / 1e9)
        if status is Status.PAUSED:
            return f"{text} (Paused)"
        health = instance.health
        if health is None:
            return text
        return f"{text} (health: starting)" if health.status == "starting" else f"{text} ({health.status})"
    if status is Status.REMOVING:
        return "Removal In Progress"
    if status is Status.DEAD:
        return "Dead"
    if not instance.started_at_ns or status is Status.CREATED:
        return "Created"
    ago = human_duration((now_ns - instance.finished_at_ns) / 1e9)
    word = "Restarting" if status is Status.RESTARTING else "Exited"
    return f"{word} ({instance.exit_code}) {ago} ago"


def command_text(args: tuple[str, ...]) -> str:
    """The command as one line; arguments with spaces in quotes."""
    return " ".join([*args[:1], *(f"'{a}'" if " " in a else a for a in args[1:])])


class RowCache:
    """Encoded rows of earlier listings. A row changes only with the values it was made from, and those are immutable
    objects: comparing identities tells whether it still holds. What changes by itself, the status, is added late."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[tuple[object, ...], bytes]] = {}

    def get(self, instance: Instance, made_from: tuple[object, ...]) -> bytes | None:
        found = self._rows.get(instance.id)
        if found is None or any(a is not b for a, b in zip(found[0], made_from, strict=True)):
            return None
        return found[1]

    def put(self, instance: Instance, made_from: tuple[object, ...], row: bytes) -> None:
        self._rows[instance.id] = (made_from, row)

    def trim(self, instances: int) -> None:
        """Start over when most rows are of instances that are gone."""
        if len(self._rows) > 2 * instances + 64:
            self._rows.clear()


class Lister:
    """Builds rows; looks every image name up once per listing."""

    def __init__(
        self,
        images: Images,
        version: int,
        cache: RowCache | None = None,
        sizes: Mapping[str, InstanceSize] | None = None,
    ) -> None:
        self._images = images
        self._sizes = sizes or {}
        self._version = version
        self._cache = cache or RowCache()
        self._now_ns = time.time_ns()
        self._names: dict[tuple[str, str], str] = {}

    def encode(self, instances: Iterable[Instance]) -> bytes:
        """The whole answer: an array of rows."""
        return b"[" + b",".join(map(self._encoded, instances)) + b"]"

    def _encoded(self, instance: Instance) -> bytes:
        spec, health = instance.spec, instance.health
        made_from = (
            spec,
            instance.name,
            instance.status,
            instance.ports,
            instance.endpoints,
            self._image_name(spec),
            self._version,
            health and health.status,
            health and health.failing,
        )
        body = self._cache.get(instance, made_from)
        if body is None:
            body = msgspec.json.encode(self.row(instance))[:-1]
            self._cache.put(instance, made_from, body)
        if instance.id in self._sizes:
            body += self._size(self._sizes[instance.id])
        return body + b',"Status":"' + status_text(instance, self._now_ns).encode() + b'"}'

    def _size(self, size: InstanceSize) -> bytes:
        """A zero is left out, as by Docker."""
        written = b',"SizeRw":%d' % size.written if size.written else b""
        return written + (b',"SizeRootFs":%d' % size.whole if size.whole else b"")

    def row(self, instance: Instance) -> dict[str, Any]:
        """Everything but "Status"."""
        spec = instance.spec
        network = spec.network.name
        host: dict[str, Any] = {"NetworkMode": network}
        if spec.annotations and self._version >= 46:
            host["Annotations"] = spec.annotations
        row = {
            "Id": instance.id,
            "Names": ["/" + instance.name],
            "Image": self._image_name(spec),
            "ImageID": image_id(spec),
            "Command": command_text(spec.process.args),
            "Created": instance.created_at_ns // 10**9,
            "Ports": port_list(instance),
            "Labels": spec.labels,
            "State": instance.status.value,
            "HostConfig": host,
            "NetworkSettings": {"Networks": networks_of(instance)},
            "Mounts": mount_points(spec) if spec.mounts else [],
        }
        if self._version >= 52:
            health = instance.health
            row["Health"] = {
                "Status": "none" if health is None else health.status,
                "FailingStreak": 0 if health is None else health.failing,
            }
        return row

    def _image_name(self, spec: InstanceSpec) -> str:
        """The name it was created with, or the id once the name means something else."""
        key = (spec.image, spec.image_id)
        name = self._names.get(key)
        if name is None:
            found = find_image(self._images, spec.image)
            same = found is not None and found.id.removeprefix("sha256:") == spec.image_id.removeprefix("sha256:")
            name = self._names[key] = spec.image if same else image_id(spec)
        return name


def find_image(images: Images, reference: str) -> Image | None:
    try:
        return images.find(reference)
    except BiremeError:
        return None


def select(
    instances: Iterable[Instance], filters: Filters, images: Images, *, everything: bool, limit: int
) -> Iterator[Instance]:
    """The instances a listing shows, newest first; Invalid for filters and values dockerd does not know."""
    filters.check(FILTERS)
    ordered = list(instances)
    keep = _conditions(filters, images)
    first, last = _bounds(ordered, filters)
    everything = everything or limit > 0 or bool(filters.get("status"))
    shown = 0
    for instance in ordered[first:last]:
        if not everything and not instance.active:
            continue
        if all(condition(instance) for condition in keep):
            if limit > 0 and shown == limit:
                return
            shown += 1
            yield instance


def _bounds(ordered: list[Instance], filters: Filters) -> tuple[int, int]:
    first, last = 0, len(ordered)
    for reference in filters.get("before"):
        first = max(first, _position(ordered, reference) + 1)
    for reference in filters.get("since"):
        last = min(last, _position(ordered, reference))
    return first, last


def _position(ordered: list[Instance], reference: str) -> int:
    wanted = reference.removeprefix("/")
    for index, instance in enumerate(ordered):
        if instance.name == wanted or instance.id.startswith(wanted):
            return index
    raise NotFound(f"No such container: {reference}", subject=reference)


def _conditions(filters: Filters, images: Images) -> list[Keep]:
    keep: list[Keep] = []
    if filters.get("name"):
        keep.append(lambda i: filters.pattern("name", "/" + i.name, i.name))
    if filters.get("id"):
        keep.append(lambda i: filters.prefix("id", i.id))
    if filters.get("label"):
        keep.append(lambda i: filters.labels("label", i.spec.labels))
    if filters.get("status"):
        keep.append(_by_status(filters))
    if filters.get("exited"):
        keep.append(_by_exit(filters))
    if filters.get("ancestor"):
        keep.append(_by_ancestor(filters, images))
    if filters.get("network"):
        keep.append(lambda i: _on_network(i, filters))
    if filters.get("volume"):
        keep.append(lambda i: filters.exact("volume", *_mounted(i.spec)))
    if filters.get("isolation"):
        keep.append(lambda i: filters.exact("isolation", i.spec.isolation))
    if filters.get("health"):
        keep.append(_by_health(filters))
    if "is-task" in filters and filters.boolean("is-task", False):
        keep.append(lambda _: False)
    if filters.get("publish") or filters.get("expose"):
        keep.append(_by_ports(filters))
    return keep


def _by_status(filters: Filters) -> Keep:
    for value in filters.get("status"):
        if value not in _STATES:
            raise Invalid(f"invalid filter 'status={value}'", subject=value)
    return lambda i: filters.exact("status", i.status.value)


def _by_health(filters: Filters) -> Keep:
    for value in filters.get("health"):
        if value not in HEALTH_WORDS:
            raise Invalid(f"Unrecognised filter value for health: {value}", subject=value)
    return lambda i: filters.exact("health", health_word(i))


def _by_exit(filters: Filters) -> Keep:
    codes = set()
    for value in filters.get("exited"):
        if not value.removeprefix("-").isdigit():
            raise Invalid(f"invalid filter 'exited={value}'", subject=value)
        codes.add(int(value[:12]))
    return lambda i: i.exit_code in codes and not i.active and bool(i.started_at_ns)


def _by_ancestor(filters: Filters, images: Images) -> Keep:
    wanted = {found.id for value in filters.get("ancestor") if (found := find_image(images, value)) is not None}
    ids = {identity.removeprefix("sha256:") for identity in wanted}
    return lambda i: i.spec.image_id.removeprefix("sha256:") in ids


def _on_network(instance: Instance, filters: Filters) -> bool:
    name = instance.spec.network.name
    return any(value == name or network_id(name).startswith(value) for value in filters.get("network"))


def _mounted(spec: InstanceSpec) -> list[str]:
    return [text for mount in spec.mounts for text in (mount.volume or mount.source, mount.target)]


def _by_ports(filters: Filters) -> Keep:
    published, exposed = _port_set(filters.get("publish")), _port_set(filters.get("expose"))

    def keep(instance: Instance) -> bool:
        return any(
            f"{port.get('PublicPort', 0)}/{port['Type']}" in published
            or f"{port['PrivatePort']}/{port['Type']}" in exposed
            for port in port_list(instance)
        )

    return keep


def _port_set(values: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for value in values:
        numbers, _, protocol = value.partition("/")
        first, dash, last = numbers.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise Invalid(f"filter for port should not contain non-numeric values: {value}", subject=value)
        stop = min(int(last if dash else first), 65535)
        found.update(f"{number}/{protocol or 'tcp'}" for number in range(int(first), stop + 1))
    return found
