"""Facts about this engine and its host, for `info` and `version`."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from bireme import __version__
from bireme.engine.table import InstanceTable
from bireme.instance.state import Status


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the host offers, found out once at start by whoever may ask the kernel."""

    cgroup_version: int
    cgroup_driver: str
    seccomp: bool
    userns: bool
    kernel: str
    operating_system: str
    features: dict[str, str] = {}


class Version(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    os: str
    architecture: str
    kernel: str
    python: str
    started_at_ns: int


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot; sizes in bytes."""

    id: str
    name: str
    version: str
    containers: int
    running: int
    paused: int
    stopped: int
    images: int
    storage_driver: str
    data_root: str
    cpus: int
    memory_bytes: int
    host: HostFacts
    isolations: tuple[str, ...]
    system_time_ns: int
    warnings: tuple[str, ...] = ()


_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class System:
    """Answers for `info` and `version`."""

    def __init__(
        self,
        identity: str,
        data_root: str,
        snapshotter: str,
        host: HostFacts,
        table: InstanceTable,
        isolations: Callable[[], tuple[str, ...]],
        count_images: Callable[[], int],
        warnings: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        self._identity = identity
        self._data_root = data_root
        self._snapshotter = snapshotter
        self._host = host
        self._table = table
        self._isolations = isolations
        self._count_images = count_images
        self._warnings = warnings
        self._started_at_ns = time.time_ns()

    def version(self) -> Version:
        return Version(
            version=__version__,
            os="linux",
            architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
            kernel=self._host.kernel,
            python=platform.python_version(),
            started_at_ns=self._started_at_ns,
        )

    def info(self) -> Info:
        states = Counter(i.status for i in self._table)
        running, paused = states[Status.RUNNING], states[Status.PAUSED]
        return Info(
            id=self._identity,
            name=os.uname().nodename,
            version=__version__,
            containers=len(self._table),
            running=running,
            paused=paused,
            stopped=len(self._table) - running - paused,
            images=self._count_images(),
            storage_driver=self._snapshotter,
            data_root=self._data_root,
            cpus=os.cpu_count() or 1,
            memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            host=self._host,
            isolations=self._isolations(),
            system_time_ns=time.time_ns(),
            warnings=self._warnings(),
        )
