"""What a driver needs to start an instance, put together: root, files, endpoints, names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bireme.engine import files
from bireme.engine.etc import EtcFiles
from bireme.engine.record import Instance
from bireme.instance.driver import Endpoint, Placement, RootFilesystem
from bireme.storage.snapshot import SnapshotInfo


class Snapshots(Protocol):
    """The part of a snapshotter that instances use."""

    def prepare(self, key: str, parent: str | None) -> RootFilesystem: ...

    def remove(self, key: str) -> None: ...

    def list(self) -> Sequence[SnapshotInfo]: ...


def place(instance: Instance, etc: EtcFiles, endpoints: Sequence[Endpoint] = (), gateway: str = "") -> Placement:
    """The placement of `instance`; writes its hosts, hostname and resolv.conf."""
    spec = instance.spec
    hostname = instance.hostname
    instance.etc_directory = etc.write(
        instance.id,
        instance.directory,
        {
            "hosts": files.plan_hosts(spec, hostname, endpoints, gateway),
            "hostname": hostname + "\n",
            "resolv.conf": files.plan_resolv(spec, files.host_resolv()),
        },
    )
    return outline(instance, endpoints)


def outline(instance: Instance, endpoints: Sequence[Endpoint] = ()) -> Placement:
    """The same value without touching the disk; what `Driver.create` checks."""
    return Placement(
        id=instance.id,
        name=instance.name,
        spec=instance.spec,
        root=instance.definition.root,
        directory=instance.directory,
        hostname=instance.hostname,
        endpoints=tuple(endpoints),
        network_mode=instance.spec.network.name,
        log_path=instance.log_path,
        files=tuple((f"{instance.etc_directory}/{name}", target) for name, target in files.NAMES),
    )
