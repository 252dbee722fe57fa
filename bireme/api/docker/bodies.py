"""Request bodies of the Engine API, spelled as on the wire.

Every field is here that dockerd knows, also those this engine refuses: a field that is not here would be ignored, as
Go ignores unknown keys, and an ignored option is worse than a refused one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bireme.api.docker.decode import Int64, StringOrList

Empty = dict[str, Any]
"""Go's map[string]struct{} values."""


class Body(msgspec.Struct, kw_only=True, omit_defaults=True):
    pass


class HealthConfig(Body):
    Test: list[str] = []
    Interval: Int64 = 0
    Timeout: Int64 = 0
    StartPeriod: Int64 = 0
    StartInterval: Int64 = 0
    Retries: Int64 = 0


class PortBinding(Body):
    HostIp: str = ""
    HostPort: str = ""


class LogConfig(Body):
    Type: str = ""
    Config: dict[str, str] = {}


class RestartPolicy(Body):
    Name: str = ""
    MaximumRetryCount: Int64 = 0


class Device(Body):
    PathOnHost: str = ""
    PathInContainer: str = ""
    CgroupPermissions: str = ""


class DeviceRequest(Body):
    Driver: str = ""
    Count: Int64 = 0
    DeviceIDs: list[str] = []
    Capabilities: list[list[str]] = []
    Options: dict[str, str] = {}


class Ulimit(Body):
    Name: str = ""
    Soft: Int64 = 0
    Hard: Int64 = 0


class ThrottleDevice(Body):
    Path: str = ""
    Rate: Int64 = 0


class WeightDevice(Body):
    Path: str = ""
    Weight: Int64 = 0


class BindOptions(Body):
    Propagation: str = ""
    NonRecursive: bool = False
    CreateMountpoint: bool = False
    ReadOnlyNonRecursive: bool = False
    ReadOnlyForceRecursive: bool = False


class DriverConfig(Body):
    Name: str = ""
    Options: dict[str, str] = {}


class VolumeOptions(Body):
    NoCopy: bool = False
    Labels: dict[str, str] = {}
    DriverConfig: DriverConfig | None = None
    Subpath: str = ""


class ImageOptions(Body):
    Subpath: str = ""


class TmpfsOptions(Body):
    SizeBytes: Int64 = 0
    Mode: Int64 = 0
    Options: list[list[str]] = []


class Mount(Body):
    Type: str = ""
    Source: str = ""
    Target: str = ""
    ReadOnly: bool = False
    Consistency: str = ""
    BindOptions: BindOptions | None = None
    VolumeOptions: VolumeOptions | None = None
    ImageOptions: ImageOptions | None = None
    TmpfsOptions: TmpfsOptions | None = None
    ClusterOptions: Empty | None = None


class Resources(Body):
    """The part of HostConfig that update takes too."""

    CpuShares: Int64 = 0
    Memory: Int64 = 0
    NanoCpus: Int64 = 0
    CgroupParent: str = ""
    BlkioWeight: Int64 = 0
    BlkioWeightDevice: list[WeightDevice] = []
    BlkioDeviceReadBps: list[ThrottleDevice] = []
    BlkioDeviceWriteBps: list[ThrottleDevice] = []
    BlkioDeviceReadIOps: list[ThrottleDevice] = []
    BlkioDeviceWriteIOps: list[ThrottleDevice] = []
    CpuPeriod: Int64 = 0
    CpuQuota: Int64 = 0
    CpuRealtimePeriod: Int64 = 0
    CpuRealtimeRuntime: Int64 = 0
    CpusetCpus: str = ""
    CpusetMems: str = ""
    Devices: list[Device] = []
    DeviceCgroupRules: list[str] = []
    DeviceRequests: list[DeviceRequest] = []
    KernelMemory: Int64 = 0
    KernelMemoryTCP: Int64 = 0
    MemoryReservation: Int64 = 0
    MemorySwap: Int64 = 0
    MemorySwappiness: Int64 | None = None
    OomKillDisable: bool | None = None
    PidsLimit: Int64 | None = None
    Ulimits: list[Ulimit] = []
    CpuCount: Int64 = 0
    CpuPercent: Int64 = 0
    IOMaximumIOps: Int64 = 0
    IOMaximumBandwidth: Int64 = 0


class HostConfig(Resources):
    Binds: list[str] = []
    ContainerIDFile: str = ""
    LogConfig: LogConfig = msgspec.field(default_factory=LogConfig)
    NetworkMode: str = ""
    PortBindings: dict[str, list[PortBinding]] = {}
    RestartPolicy: RestartPolicy = msgspec.field(default_factory=RestartPolicy)
    AutoRemove: bool = False
    VolumeDriver: str = ""
    VolumesFrom: list[str] = []
    ConsoleSize: list[Int64] = []
    Annotations: dict[str, str] = {}
    CapAdd: StringOrList = []
    CapDrop: StringOrList = []
    Capabilities: list[str] = []
    CgroupnsMode: str = ""
    Dns: list[str] = []
    DnsOptions: list[str] = []
    DnsSearch: list[str] = []
    ExtraHosts: list[str] = []
    GroupAdd: list[str] = []
    IpcMode: str = ""
    Cgroup: str = ""
    Links: list[str] = []
    OomScoreAdj: Int64 = 0
    PidMode: str = ""
    Privileged: bool = False
    PublishAllPorts: bool = False
    ReadonlyRootfs: bool = False
    SecurityOpt: list[str] = []
    StorageOpt: dict[str, str] = {}
    Tmpfs: dict[str, str] = {}
    UTSMode: str = ""
    UsernsMode: str = ""
    ShmSize: Int64 = 0
    Sysctls: dict[str, str] = {}
    Runtime: str = ""
    Isolation: str = ""
    Mounts: list[Mount] = []
    MaskedPaths: list[str] | None = None
    ReadonlyPaths: list[str] | None = None
    Init: bool | None = None


class IPAMConfig(Body):
    IPv4Address: str = ""
    IPv6Address: str = ""
    LinkLocalIPs: list[str] = []


class EndpointConfig(Body):
    IPAMConfig: IPAMConfig | None = None
    Links: list[str] = []
    Aliases: list[str] = []
    MacAddress: str = ""
    DriverOpts: dict[str, str] = {}
    GwPriority: Int64 = 0
    NetworkID: str = ""


class NetworkingConfig(Body):
    EndpointsConfig: dict[str, EndpointConfig] = {}


class ContainerConfig(Body):
    Hostname: str = ""
    Domainname: str = ""
    User: str = ""
    AttachStdin: bool = False
    AttachStdout: bool = False
    AttachStderr: bool = False
    ExposedPorts: dict[str, Empty] = {}
    Tty: bool = False
    OpenStdin: bool = False
    StdinOnce: bool = False
    Env: list[str] = []
    Cmd: StringOrList = []
    Healthcheck: HealthConfig | None = None
    ArgsEscaped: bool = False
    Image: str = ""
    Volumes: dict[str, Empty] = {}
    WorkingDir: str = ""
    Entrypoint: StringOrList = []
    NetworkDisabled: bool = False
    MacAddress: str = ""
    OnBuild: list[str] = []
    Labels: dict[str, str] = {}
    StopSignal: str = ""
    StopTimeout: Int64 | None = None
    Shell: StringOrList = []


class CreateRequest(ContainerConfig):
    HostConfig: HostConfig = msgspec.field(default_factory=HostConfig)
    NetworkingConfig: NetworkingConfig = msgspec.field(default_factory=NetworkingConfig)


class UpdateRequest(Resources):
    RestartPolicy: RestartPolicy = msgspec.field(default_factory=RestartPolicy)


class ExecCreateRequest(Body):
    User: str = ""
    Privileged: bool = False
    Tty: bool = False
    ConsoleSize: list[Int64] = []
    AttachStdin: bool = False
    AttachStderr: bool = False
    AttachStdout: bool = False
    Detach: bool = False
    DetachKeys: str = ""
    Env: list[str] = []
    WorkingDir: str = ""
    Cmd: StringOrList = []


class ExecStartRequest(Body):
    Detach: bool = False
    Tty: bool = False
    ConsoleSize: list[Int64] = []


class NetworkCreateRequest(Body):
    Name: str = ""


class VolumeCreateRequest(Body):
    Name: str = ""
    Driver: str = ""
    DriverOpts: dict[str, str] = {}
    Labels: dict[str, str] = {}
    ClusterVolumeSpec: Empty | None = None


class BootstrapRequest(Body):
    image: str = ""
