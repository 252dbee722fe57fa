"""What an instance is, resolved and independent of the driver that runs it and of the API that asked for it.

Sizes are bytes, times nanoseconds since the epoch unless a name says otherwise. A driver gets these values and looks
nothing up.
"""

from __future__ import annotations

from typing import Any, Literal, NewType

import msgspec

InstanceId = NewType("InstanceId", str)
ExecId = NewType("ExecId", str)

Isolation = Literal["container", "microvm", "qemu", "xen"]


class Mount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A mount below the instance's root. `source` is a host path, empty for tmpfs, and for a volume known from create
    on: the directory that holds its contents."""

    kind: Literal["bind", "tmpfs", "volume"]
    target: str
    source: str = ""
    read_only: bool = False
    recursive: bool = True
    propagation: str = "rprivate"
    size_bytes: int = 0
    mode: int | None = None
    options: tuple[str, ...] = ()
    volume: str = ""
    """Name of the volume; "" until create gives an anonymous one its name."""
    anonymous: bool = False
    """Nobody named it: it goes with the last instance that has it, if that is asked for."""
    no_copy: bool = False
    """Do not fill the volume with what the image has at `target`."""
    subpath: str = ""
    mounted: bool = False
    """The volume is a file system of its own, mounted at `source` while instances use it."""
    shown_mode: str = ""
    driver: str = ""
    driver_options: dict[str, str] = {}
    labels: dict[str, str] = {}
    """Of a volume to be made; like `driver` and `driver_options` empty once it is."""


class PortRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Publish `container_port`; host_port 0 asks for any free port, host_port_end > host_port for one of a range."""

    container_port: int
    protocol: Literal["tcp", "udp", "sctp"] = "tcp"
    host_ip: str = ""
    host_port: int = 0
    host_port_end: int = 0


class DeviceRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A host device node shown inside; `permissions` is a subset of "rwm"."""

    host_path: str
    path: str
    permissions: str = "rwm"


class Ulimit(msgspec.Struct, frozen=True, kw_only=True):
    """One rlimit by its name without RLIMIT_ (nofile, nproc); -1 is unlimited."""

    name: str
    soft: int
    hard: int


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Resource limits; 0 or "" means not limited, None means the kernel's default is left alone."""

    memory_bytes: int = 0
    memory_reservation_bytes: int = 0
    memory_swap_bytes: int = 0
    """memory plus swap; -1 is unlimited, 0 means twice the memory limit (Docker's rule)."""
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    cpu_shares: int = 0
    cpu_period_us: int = 0
    cpu_quota_us: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids: int = 0
    blkio_weight: int = 0
    blkio_weight_devices: tuple[tuple[str, int], ...] = ()
    blkio_read_bps: tuple[tuple[str, int], ...] = ()
    blkio_write_bps: tuple[tuple[str, int], ...] = ()
    blkio_read_iops: tuple[tuple[str, int], ...] = ()
    blkio_write_iops: tuple[tuple[str, int], ...] = ()


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A process to run inside: the instance's first one, or an exec."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    """`name`, `uid`, `name:group`, `uid:gid`, resolved inside the instance."""
    groups: tuple[str, ...] = ()
    terminal: bool = False
    rows: int = 0
    columns: int = 0
    privileged: bool = False


class Security(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Privileges. Capability names are spelled CAP_X, `ALL` allowed."""

    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    seccomp: str = ""
    """"" = the default profile, "unconfined", or the JSON text of a Docker seccomp profile."""
    no_new_privileges: bool = False
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None


class Namespaces(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Each is "" (private), "host", or "container:ID"; `ipc` also "shareable" (private, but others may join) and
    "none" (private, without /dev/shm)."""

    user: str = ""
    pid: str = ""
    ipc: str = ""
    uts: str = ""
    cgroup: str = ""


class NetworkRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The network an instance joins: "none", "host", "bridge" (the default one)."""

    name: str = "bridge"
    address: str = ""
    mac: str = ""


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`json-file` and `local` (max_size_bytes in each of max_files, 0 for no bound), or `none`."""

    driver: Literal["json-file", "local", "none"] = "json-file"
    max_size_bytes: int = 0
    max_files: int = 1


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When an instance that ended is started again; no policy is None. `retries` is for on-failure, 0 is no limit."""

    name: Literal["always", "unless-stopped", "on-failure"]
    retries: int = 0


class HealthCheck(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A command that tells whether an instance works; 0 stands for the default (engine/health.py)."""

    test: tuple[str, ...] = ()
    """NONE; CMD and its arguments; CMD-SHELL and a line for `shell`. Empty: as the image says."""
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0
    shell: tuple[str, ...] = ()

    @property
    def command(self) -> tuple[str, ...]:
        """What runs inside; empty when nothing is to be checked."""
        match self.test:
            case ("CMD", *words):
                return tuple(words)
            case ("CMD-SHELL", *words):
                return (*(self.shell or ("/bin/sh", "-c")), *words)
            case _:
                return ()


class InstanceSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The definition committed at create; never changes afterwards except by update and rename."""

    isolation: Isolation = "container"
    image: str
    """The reference or id as the user typed it."""
    image_id: str = ""
    """Digest of the image's config."""
    process: ProcessSpec
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    hostname: str = ""
    domainname: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    open_stdin: bool = False
    stdin_once: bool = False
    stop_signal: str = ""
    stop_timeout_s: int = 10
    auto_remove: bool = False
    init: bool = False
    read_only_root: bool = False
    mounts: tuple[Mount, ...] = ()
    volumes: tuple[str, ...] = ()
    """Places that get an anonymous volume unless something else is mounted there; the image's too."""
    volumes_from: tuple[str, ...] = ()
    """`ID` or `ID:ro`: instances whose binds and volumes this one has as well."""
    shm_size_bytes: int = 64 << 20
    devices: tuple[DeviceRequest, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    """`vendor.com/class=name`, looked up when it starts."""
    device_rules: tuple[str, ...] = ()
    """Further rules of the devices cgroup, `c 1:3 rwm`."""
    ulimits: tuple[Ulimit, ...] = ()
    sysctls: dict[str, str] = {}
    oom_score_adj: int = 0
    limits: Limits = Limits()
    security: Security = Security()
    namespaces: Namespaces = Namespaces()
    network: NetworkRequest = NetworkRequest()
    ports: tuple[PortRequest, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    publish_all: bool = False
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    log: LogConfig = LogConfig()
    restart: RestartPolicy | None = None
    health: HealthCheck | None = None
    cgroup_parent: str = ""
    kernel: str = ""
    """Of a machine: name, release or id of one in the kernel store, "" for the default."""
    disk_size_bytes: int = 0
    """Of a machine: what its writable disk can hold, 0 for the default (storage/disks.py)."""
    edge: dict[str, Any] = {}
    """What the API edge wants back at inspect (the request as it came); nobody else reads it."""

    @property
    def joins(self) -> bool:
        """Whether it lives in a namespace of another instance."""
        names = (self.network.name, self.namespaces.pid, self.namespaces.ipc)
        return any(name.startswith("container:") for name in names)

    @property
    def uses_volumes(self) -> bool:
        """Whether a volume is mounted (from create on)."""
        return any(mount.kind == "volume" for mount in self.mounts)

    @property
    def wants_volumes(self) -> bool:
        """Whether create has volumes to find, to make or to inherit."""
        return bool(self.volumes or self.volumes_from) or self.uses_volumes
