"""biremed's parts, put together in the order they need each other. The only place that names concrete drivers."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bireme.api.docker.app import build_router
from bireme.api.http.server import Server
from bireme.daemon.config import Config
from bireme.daemon.keeper import ensure_keeper, read_pid
from bireme.daemon.listening import listen
from bireme.daemon.memory import close_memory, open_memory, usable
from bireme.daemon.rare import file_uses, size_use, volume_use
from bireme.drivers.container.config import Host
from bireme.drivers.container.driver import ContainerDriver
from bireme.drivers.microvm.driver import MicrovmDriver, Stores
from bireme.drivers.microvm.initrd import agent_archive
from bireme.drivers.supervised.supervisor import SupervisorConnection
from bireme.engine.console import Consoles
from bireme.engine.directories import Directories
from bireme.engine.events import Events
from bireme.engine.execs import Execs
from bireme.engine.images import Images
from bireme.engine.instances import Instances
from bireme.engine.kernels import Kernels
from bireme.engine.logs import Logs
from bireme.engine.networks import Networks
from bireme.engine.reconcile import Reconciler
from bireme.engine.services import Services
from bireme.engine.system import HostFacts, System
from bireme.engine.table import InstanceTable
from bireme.engine.tasks import TaskGroup
from bireme.engine.tidy import Tidier
from bireme.engine.watch import FileWatcher
from bireme.errors import BiremeError, Conflict
from bireme.image.kernels import KernelStore
from bireme.image.store import ImageStore
from bireme.instance.driver import Driver
from bireme.linux import probe, procfs
from bireme.linux.fd import lock_file
from bireme.network.bridge import BridgeNetwork
from bireme.network.driver import BridgeConfig
from bireme.network.portmap import ReservedSocket
from bireme.runtime.baselayer import make_base_layer
from bireme.runtime.guest import agent_path, init_path
from bireme.storage.content import ContentStore
from bireme.storage.db import Database
from bireme.storage.disks import WritableDisks
from bireme.storage.native import NativeSnapshotter
from bireme.storage.overlay import OverlaySnapshotter
from bireme.storage.snapshot import Snapshotter

if TYPE_CHECKING:
    from bireme.engine.volumes import Volumes

log = logging.getLogger(__name__)
CONNECT_DEADLINE_S = 30.0


class Daemon:
    """One engine: `start` until ready, `stop` at the end."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._tasks = TaskGroup()
        self._lock = -1
        self._database: Database
        self._supervisor: SupervisorConnection
        self._drivers: dict[str, Driver] = {}
        self._machines: MicrovmDriver
        self._table: InstanceTable
        self._tidier: Tidier
        self._directories: Directories
        self._bridge: BridgeNetwork | None = None
        self._networks: Networks | None = None
        self._volumes: Callable[[], Volumes]
        self._services: Services
        self._server: Server

    async def start(self) -> None:
        config = self._config
        self._claim()
        if config.userns:
            probe.require_idmapped_mounts(config.data_root)
        open_memory(config.memory)
        ensure_keeper(config.run_root)
        connected = self._connect()
        self._open_stores()
        reconciler = self._wire()
        await asyncio.wait_for(asyncio.shield(connected), CONNECT_DEADLINE_S)
        supervisor = read_pid(f"{config.run_root}/supervisor.pid")
        if usable(config.memory, supervisor, idmapped=config.userns):
            self._directories.etc.use(config.memory)
        self._table.load()
        await reconciler.run()
        await self._supervisor.configure()
        self._services.instances.policies.open()
        self._server = Server(build_router(self._services), self._tasks)
        await listen(self._server, config)
        _write_pid(f"{config.run_root}/biremed.pid")
        self._tasks.spawn(self._collect(), "collect")

    async def _collect(self) -> None:
        """Remove content that an engine before this one was making when it died."""
        await asyncio.to_thread(self._store.collect)

    def _claim(self) -> None:
        """Make the roots and take the data root for this process alone."""
        config = self._config
        for part in ("", "instances"):
            os.makedirs(f"{config.data_root}/{part}", 0o711 if not part else 0o700, exist_ok=True)
        self._lock = os.open(f"{config.data_root}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not lock_file(self._lock):
            raise Conflict(f"another engine uses {config.data_root}", hint="choose another --data-root")

    def _connect(self) -> asyncio.Future[None]:
        base_layer = f"{self._config.data_root}/base"
        make_base_layer(base_layer)
        host = Host(userns=self._config.userns, init_path=init_path() or "", base_layer=base_layer)
        self._supervisor = SupervisorConnection(self._config.supervisor_socket, self._settings, self._revive_keeper)
        container = ContainerDriver(self._supervisor, host)
        self._drivers[container.name] = container
        connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks.spawn(self._supervisor.run(connected), "supervisor link")
        return connected

    def _revive_keeper(self) -> None:
        """Nobody answers for a second: the keeper died together with its supervisor, unless systemd restarts it."""
        if "INVOCATION_ID" not in os.environ and ensure_keeper(self._config.run_root):
            log.error("keeper and supervisor were killed together; a new keeper is started")

    def _settings(self) -> dict[str, Any]:
        """What the supervisor is told at each connection."""
        config = self._config
        bridge = None
        network = self._networks.bridge if self._networks is not None else None
        if network is not None and network.mtu:
            bridge = {"name": network.bridge, "mtu": network.mtu}
        return {
            "bridge": bridge,
            "spares": {"none": config.spares.none, "bridge": config.spares.bridge if bridge else 0},
            "cgroup_subtree": f"bireme-{config.tag}",
            "userns_base": config.userns_base,
            "favordynmods": config.favordynmods,
        }

    def _open_stores(self) -> None:
        root = self._config.data_root
        self._database = Database.open(f"{root}/db.sqlite")
        kind = NativeSnapshotter if self._config.snapshotter == "native" else OverlaySnapshotter
        self._snapshotter: Snapshotter = kind(f"{root}/snapshots/{self._config.snapshotter}")
        self._content = ContentStore(f"{root}/content")
        self._store = ImageStore(self._database, self._content, self._snapshotter)
        self._kernels = KernelStore(f"{root}/kernels")
        self._add_machines(WritableDisks(f"{root}/disks"))
        if self._config.bridge.enabled:
            self._bridge = BridgeNetwork(self._bridge_config())

    def _add_machines(self, disks: WritableDisks) -> None:
        """The driver is there also where it cannot start anything: it says why, and what was made can be removed."""
        home = f"{self._config.data_root}/machines"
        stores = Stores(kernels=self._kernels, disks=disks, agent_archive=lambda: agent_archive(agent_path(), home))
        self._machines = MicrovmDriver(self._supervisor, stores, _no_machines)
        self._drivers[self._machines.name] = self._machines

    def _bridge_config(self) -> BridgeConfig:
        settings = self._config.bridge
        return BridgeConfig(
            tag=self._config.tag, bridge=self._config.bridge_name, subnet=settings.subnet, mtu=settings.mtu
        )

    def _wire(self) -> Reconciler:
        tasks, events = self._tasks, Events()
        drivers = self._drivers
        directories = self._directories = Directories(f"{self._config.data_root}/instances")
        self._tidier = Tidier(directories, lambda: self._snapshotter, tasks)
        self._table = InstanceTable(self._database, directories, lambda batch: instances.stored(batch))
        networks = self._networks = Networks(self._bridge, self._hold_ports, self._drop_ports)
        images = Images(self._store, events, self._table, self._tidier)
        kernels = Kernels(self._kernels, events, self._table)
        self._volumes = volume_use(f"{self._config.data_root}/volumes", self._database, self._table, events)
        instances = Instances(
            self._table,
            drivers,
            images,
            lambda: self._snapshotter,
            directories,
            networks,
            events,
            tasks,
            self._tidier,
            self._volumes,
            kernels.pin,
        )
        system = System(
            self._identity(),
            self._config.data_root,
            self._config.snapshotter,
            _host_facts(self._config),
            self._table,
            _isolations,
            images.count,
            networks.warnings,
        )
        uses = file_uses(instances, images, events)
        self._services = Services(
            instances=instances,
            consoles=Consoles(instances),
            copying=uses.copying,
            derivation=uses.derivation,
            execs=Execs(instances, tasks),
            images=images,
            kernels=kernels,
            logs=Logs(instances, FileWatcher()),
            networks=networks,
            volumes=self._volumes,
            sizes=size_use(instances, images, tasks),
            events=events,
            system=system,
            tasks=tasks,
        )
        return Reconciler(
            self._table,
            drivers,
            instances,
            networks,
            lambda: self._snapshotter,
            directories,
            self._tidier,
            self._restore_volumes,
        )

    async def _restore_volumes(self) -> None:
        if await asyncio.to_thread(os.path.isdir, f"{self._config.data_root}/volumes"):
            volumes = self._volumes()
            await volumes.restore()
            self._tasks.spawn(asyncio.to_thread(volumes.empty), "volumes")

    async def _hold_ports(self, identity: str, sockets: Sequence[ReservedSocket]) -> None:
        if not sockets:
            return
        entries = [{"listen": n, "target": [s.address, s.mapping.container_port]} for n, s in enumerate(sockets)]
        fds = [s.fd for s in sockets]
        await self._supervisor.call("relay_add", fds, id=identity, entries=entries)

    async def _drop_ports(self, identity: str) -> None:
        try:
            await self._supervisor.call("relay_remove", id=identity)
        except BiremeError as error:
            log.warning("ports of %s stay reserved until the relay restarts: %s", identity[:12], error)

    def _identity(self) -> str:
        """This engine's id, made once."""
        path = f"{self._config.data_root}/engine-id"
        try:
            with open(path, encoding="ascii") as file:
                return file.read().strip()
        except FileNotFoundError:
            identity = str(uuid.uuid4())
            with open(path, "w", encoding="ascii") as file:
                file.write(identity + "\n")
            return identity

    async def stop(self, everything: bool) -> None:
        """Stop serving; end the whole run root when asked to, or when nothing runs in it."""
        instances = self._services.instances
        if everything:
            active = [i.id for i in instances.all() if i.active]
            await asyncio.gather(*(instances.stop(i, by_hand=False) for i in active), return_exceptions=True)
        instances.policies.close()
        await self._server.close()
        await self._tidier.finish()
        await self._table.flush()
        if not any(i.running for i in instances.all()):
            await self._end_run_root()
        self._machines.close()
        self._supervisor.close()
        await self._tasks.close()
        self._database.close()
        os.unlink(f"{self._config.run_root}/biremed.pid")

    async def _end_run_root(self) -> None:
        try:
            for instance in self._services.instances.all():
                await self._services.instances.driver(instance).settle(instance.id)
            await self._supervisor.call("shutdown")
        except BiremeError as error:
            log.warning("the supervisor goes on: %s", error)
            return
        close_memory(self._config.memory)
        network = self._services.networks.bridge
        if network is not None:
            network.teardown()


def _no_machines() -> tuple[str, str]:
    """Why no machine runs here, and the remedy; found out when it is asked, until the answer is that they do."""
    reason = probe.hardware_virtualisation()
    if reason:
        probe.hardware_virtualisation.cache_clear()
    return reason, probe.FEATURES["kvm"].hint


def _isolations() -> tuple[str, ...]:
    """What can be started here."""
    return ("container",) if _no_machines()[0] else ("container", "microvm")


def _host_facts(config: Config) -> HostFacts:
    return HostFacts(
        cgroup_version=_cgroup_version(),
        cgroup_driver="cgroupfs",
        seccomp=os.path.exists("/proc/sys/kernel/seccomp/actions_avail"),
        userns=config.userns,
        kernel=platform.release(),
        operating_system=_operating_system(),
    )


def _cgroup_version() -> int:
    """1 when any controller is mounted the old way, as Docker counts."""
    return 1 if any(m.kind == "cgroup" for m in procfs.read_mountinfo()) else 2


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _write_pid(path: str) -> None:
    other = read_pid(path)
    if other and other != os.getpid():
        raise Conflict(f"another engine (pid {other}) uses this run root", place=path)
    with open(f"{path}.new", "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(f"{path}.new", path)
