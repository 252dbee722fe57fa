"""From Docker's create, exec and update bodies to the engine's words.

Every option either has its place in InstanceSpec, or is refused here by name; nothing is dropped. What inspect must
show again but the engine does not need goes to `spec.edge`, without defaults, so that an instance stays small.
"""

from __future__ import annotations

import ipaddress
import posixpath
from typing import Any

import msgspec

from bireme.api.docker.bodies import ContainerConfig, CreateRequest, ExecCreateRequest, HostConfig
from bireme.api.docker.logdrivers import log_of
from bireme.api.docker.machines import disk_size_of, kernel_of
from bireme.api.docker.mounts import check_anonymous, check_volumes_from, mounts_of
from bireme.api.docker.policies import health_of, restart_of
from bireme.api.docker.ports import exposed_ports_of, network_of, ports_of
from bireme.api.docker.resources import cdi_devices_of, device_rules_of, devices_of, limits_of, ulimits_of
from bireme.api.docker.security import namespaces_of, security_of
from bireme.engine.signals import parse_signal
from bireme.errors import Invalid, Unsupported
from bireme.instance.spec import InstanceSpec, Isolation, ProcessSpec

HOSTNAME_MAX = 64
DEFAULT_SHM_BYTES = 64 << 20
CONSOLE_SIZE_SINCE = 42

_ISOLATIONS: dict[str, Isolation] = {
    "": "container",
    "default": "container",
    "container": "container",
    "process": "container",
    "microvm": "microvm",
    "qemu": "qemu",
    "xen": "xen",
}
_RUNTIMES: dict[str, Isolation] = {
    "bireme": "container",
    "runc": "container",
    "io.containerd.runc.v2": "container",
    "microvm": "microvm",
    "qemu": "qemu",
    "xen": "xen",
}
_CONFIG_KEPT = ("AttachStdin", "AttachStdout", "AttachStderr", "NetworkDisabled", "OnBuild", "Shell", "StopTimeout")


def spec_of(body: CreateRequest, version: int) -> tuple[InstanceSpec, list[str]]:
    """What create asks for, and warnings. Invalid with dockerd's words; Unsupported names the option."""
    host = body.HostConfig
    _check_config(body)
    _check_host(body, host)
    isolation = _isolation(host)
    network, warnings = network_of(body, host, body.NetworkingConfig, version)
    return InstanceSpec(
        isolation=isolation,
        image=body.Image,
        process=_process(body, host, version),
        entrypoint=tuple(body.Entrypoint),
        command=tuple(body.Cmd),
        hostname=body.Hostname,
        domainname=body.Domainname,
        labels=body.Labels,
        annotations=_annotations(host),
        open_stdin=body.OpenStdin,
        stdin_once=body.StdinOnce,
        stop_signal=body.StopSignal,
        stop_timeout_s=10 if body.StopTimeout is None else body.StopTimeout,
        auto_remove=host.AutoRemove,
        init=bool(host.Init),
        read_only_root=host.ReadonlyRootfs,
        mounts=mounts_of(host),
        volumes=tuple(body.Volumes),
        volumes_from=tuple(host.VolumesFrom),
        shm_size_bytes=host.ShmSize or DEFAULT_SHM_BYTES,
        devices=devices_of(host),
        cdi_devices=cdi_devices_of(host),
        device_rules=device_rules_of(host),
        ulimits=ulimits_of(host),
        sysctls=_sysctls(host),
        oom_score_adj=host.OomScoreAdj,
        limits=limits_of(host),
        security=security_of(host),
        namespaces=namespaces_of(host),
        network=network,
        ports=ports_of(host),
        exposed_ports=exposed_ports_of(body),
        publish_all=host.PublishAllPorts,
        dns=_addresses(host.Dns),
        dns_search=tuple(host.DnsSearch),
        dns_options=tuple(host.DnsOptions),
        extra_hosts=_extra_hosts(host),
        log=log_of(host),
        restart=restart_of(host.RestartPolicy, auto_remove=host.AutoRemove),
        health=health_of(body, version),
        cgroup_parent=host.CgroupParent,
        kernel=kernel_of(host, isolation),
        disk_size_bytes=disk_size_of(host, isolation),
        edge=_edge(body),
    ), warnings


def exec_process_of(body: ExecCreateRequest, version: int) -> ProcessSpec:
    """The process of an exec."""
    if not body.Cmd:
        raise Invalid("No exec command specified")
    _check_environment(body.Env)
    _check_working_dir(body.WorkingDir)
    rows, columns = console_size(body.ConsoleSize, body.Tty, version)
    return ProcessSpec(
        args=tuple(body.Cmd),
        env=tuple(body.Env),
        working_dir=body.WorkingDir,
        user=body.User,
        terminal=body.Tty,
        rows=rows,
        columns=columns,
        privileged=body.Privileged,
    )


def console_size(size: list[int], terminal: bool, version: int) -> tuple[int, int]:
    """Rows and columns; 0, 0 when not said, without a terminal, or from clients that did not mean it."""
    if not size or not terminal or version < CONSOLE_SIZE_SINCE:
        return 0, 0
    if len(size) != 2 or not all(0 <= n < 65536 for n in size):
        raise Invalid(f"invalid console size: {size}")
    return size[0], size[1]


def _process(config: ContainerConfig, host: HostConfig, version: int) -> ProcessSpec:
    rows, columns = console_size(host.ConsoleSize, config.Tty, version)
    return ProcessSpec(
        args=(),
        env=tuple(config.Env),
        working_dir=config.WorkingDir and "/" + posixpath.normpath(config.WorkingDir).lstrip("/"),
        user=config.User,
        groups=tuple(host.GroupAdd),
        terminal=config.Tty,
        rows=rows,
        columns=columns,
    )


def _check_config(config: ContainerConfig) -> None:
    if not config.Image:
        if not (config.Cmd or config.Entrypoint):
            raise Invalid("config cannot be empty in order to create a container")
        raise Unsupported("containers without an image are not supported")
    if len(config.Hostname.encode()) > HOSTNAME_MAX:
        raise Invalid(f'hostname "{config.Hostname}" is too long (maximum {HOSTNAME_MAX} bytes)')
    _check_working_dir(config.WorkingDir)
    _check_environment(config.Env)
    if config.StopSignal:
        parse_signal(config.StopSignal)
    for place in config.Volumes:
        check_anonymous(place)


def _check_working_dir(path: str) -> None:
    if path and not path.startswith("/"):
        raise Invalid(f"the working directory '{path}' is invalid, it needs to be an absolute path", subject=path)


def _check_environment(entries: list[str]) -> None:
    for entry in entries:
        if not entry.partition("=")[0]:
            raise Invalid(f"invalid environment variable: {entry}", subject=entry)


def _check_host(config: ContainerConfig, host: HostConfig) -> None:
    for text in host.VolumesFrom:
        check_volumes_from(text)
    driver = host.VolumeDriver
    if driver not in ("", "local"):
        raise Invalid(f'error looking up volume plugin {driver}: plugin "{driver}" not found', subject=driver)
    if host.Links and not host.NetworkMode.startswith("container:"):
        raise Unsupported(f"links are not supported: {', '.join(host.Links)}")
    if host.ShmSize < 0:
        raise Invalid("SHM size can not be less than 0")
    if not -1000 <= host.OomScoreAdj <= 1000:
        raise Invalid(f"Invalid value {host.OomScoreAdj}, range for oom score adj is [-1000, 1000]")
    if host.UTSMode == "host" and config.Hostname:
        raise Invalid("conflicting options: hostname and the UTS mode")


def _isolation(host: HostConfig) -> Isolation:
    isolation = _ISOLATIONS.get(host.Isolation.lower())
    if isolation is None:
        raise Invalid(f"invalid isolation '{host.Isolation}' on linux", subject=host.Isolation)
    if not host.Runtime:
        return isolation
    runtime = _RUNTIMES.get(host.Runtime)
    if runtime is None:
        raise Invalid(f"unknown or invalid runtime name: {host.Runtime}", subject=host.Runtime)
    if host.Isolation.lower() not in ("", "default") and runtime != isolation:
        raise Invalid(f"conflicting options: runtime {host.Runtime} and isolation {host.Isolation}")
    return runtime


def _annotations(host: HostConfig) -> dict[str, str]:
    if "" in host.Annotations:
        raise Invalid("invalid Annotations: the empty string is not permitted as an annotation key")
    return host.Annotations


def _sysctls(host: HostConfig) -> dict[str, str]:
    for name in host.Sysctls:
        if not name or "/" in name or name.startswith(".") or ".." in name:
            raise Invalid(f"invalid sysctl name: {name!r}", subject=name)
    return host.Sysctls


def _addresses(texts: list[str]) -> tuple[str, ...]:
    for text in texts:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise Invalid(f"{text} is not an ip address", subject=text) from None
    return tuple(texts)


def _extra_hosts(host: HostConfig) -> tuple[str, ...]:
    for entry in host.ExtraHosts:
        name, separator, address = entry.partition("=" if "=" in entry else ":")
        if not separator or not name:
            raise Invalid(f'bad format for add-host: "{entry}"', subject=entry)
        if address == "host-gateway":
            continue
        try:
            ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise Invalid(f'invalid IP address in add-host: "{address}"', subject=entry) from None
    return tuple(host.ExtraHosts)


def _edge(body: CreateRequest) -> dict[str, Any]:
    """What inspect needs beyond the spec; defaults left out."""
    config = {name: value for name in _CONFIG_KEPT if (value := getattr(body, name))}
    if body.StopTimeout is not None:
        config["StopTimeout"] = body.StopTimeout
    host: dict[str, Any] = msgspec.to_builtins(body.HostConfig)
    host = {k: v for k, v in host.items() if v not in ({}, []) or k in ("MaskedPaths", "ReadonlyPaths")}
    host.pop("RestartPolicy", None)
    if host.get("LogConfig") == {"Type": "json-file"}:
        del host["LogConfig"]
    for name, usual in (
        ("NetworkMode", ("default", "bridge")),
        ("MemorySwappiness", (-1,)),
        ("OomKillDisable", (False,)),
    ):
        if host.get(name) in usual:
            del host[name]
    edge: dict[str, Any] = {}
    if config:
        edge["Config"] = config
    if host:
        edge["HostConfig"] = host
    return edge
