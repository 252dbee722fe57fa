"""The OCI runtime specification's config.json and state, spelled exactly as there (v1.2).

All fields are optional to the type checker unless the specification requires them; whoever reads a document checks.
https://github.com/opencontainers/runtime-spec/blob/main/config.md
"""

from __future__ import annotations

from typing import Any, TypedDict

VERSION = "1.2.0"


class User(TypedDict, total=False):
    """process.user: numbers inside the container."""

    uid: int
    gid: int
    umask: int
    additionalGids: list[int]
    username: str


class Box(TypedDict):
    """process.consoleSize, in characters."""

    height: int
    width: int


class Rlimit(TypedDict):
    """process.rlimits: `type` is RLIMIT_X; -1 or 2**64 - 1 is unlimited."""

    type: str
    soft: int
    hard: int


class CapabilitySets(TypedDict, total=False):
    bounding: list[str]
    effective: list[str]
    inheritable: list[str]
    permitted: list[str]
    ambient: list[str]


IOPriority = TypedDict("IOPriority", {"class": str, "priority": int}, total=False)


class Process(TypedDict, total=False):
    terminal: bool
    consoleSize: Box
    user: User
    args: list[str]
    commandLine: str
    env: list[str]
    cwd: str
    capabilities: CapabilitySets
    rlimits: list[Rlimit]
    noNewPrivileges: bool
    apparmorProfile: str
    oomScoreAdj: int
    scheduler: dict[str, Any]
    selinuxLabel: str
    ioPriority: IOPriority
    execCPUAffinity: dict[str, str]


class Root(TypedDict, total=False):
    path: str
    readonly: bool


class IDMapping(TypedDict):
    """`size` ids from `containerID` on are the host's from `hostID` on."""

    containerID: int
    hostID: int
    size: int


class Mount(TypedDict, total=False):
    destination: str
    type: str
    source: str
    options: list[str]
    uidMappings: list[IDMapping]
    gidMappings: list[IDMapping]


class Hook(TypedDict, total=False):
    path: str
    args: list[str]
    env: list[str]
    timeout: int


class Hooks(TypedDict, total=False):
    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


class Namespace(TypedDict, total=False):
    """`type`: pid, network, mount, ipc, uts, user, cgroup, time; without `path` a new one."""

    type: str
    path: str


class Device(TypedDict, total=False):
    """`type`: c, b, u or p."""

    path: str
    type: str
    major: int
    minor: int
    fileMode: int
    uid: int
    gid: int


class DeviceCgroup(TypedDict, total=False):
    allow: bool
    type: str
    major: int
    minor: int
    access: str


class Resources(TypedDict, total=False):
    """linux.resources; see linux/cgroup for what is applied."""

    devices: list[DeviceCgroup]
    memory: dict[str, Any]
    cpu: dict[str, Any]
    pids: dict[str, Any]
    blockIO: dict[str, Any]
    hugepageLimits: list[dict[str, Any]]
    network: dict[str, Any]
    rdma: dict[str, Any]
    unified: dict[str, str]


class SyscallArgument(TypedDict, total=False):
    index: int
    value: int
    valueTwo: int
    op: str


class SyscallRule(TypedDict, total=False):
    names: list[str]
    action: str
    errnoRet: int
    args: list[SyscallArgument]


class Seccomp(TypedDict, total=False):
    defaultAction: str
    defaultErrnoRet: int
    architectures: list[str]
    flags: list[str]
    listenerPath: str
    listenerMetadata: str
    syscalls: list[SyscallRule]


class Linux(TypedDict, total=False):
    uidMappings: list[IDMapping]
    gidMappings: list[IDMapping]
    sysctl: dict[str, str]
    resources: Resources
    cgroupsPath: str
    namespaces: list[Namespace]
    devices: list[Device]
    netDevices: dict[str, Any]
    seccomp: Seccomp
    rootfsPropagation: str
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    intelRdt: dict[str, Any]
    personality: dict[str, Any]
    timeOffsets: dict[str, Any]


class Config(TypedDict, total=False):
    """config.json of a bundle."""

    ociVersion: str
    hostname: str
    domainname: str
    process: Process
    root: Root
    mounts: list[Mount]
    hooks: Hooks
    annotations: dict[str, str]
    linux: Linux


class State(TypedDict, total=False):
    """What `state` prints and hooks get on stdin; `status`: creating, created, running, stopped."""

    ociVersion: str
    id: str
    status: str
    pid: int
    bundle: str
    annotations: dict[str, str]
