"""GET /containers/{id}/json: everything about one instance, in the shape of the version asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bireme.api.docker.listing import image_id
from bireme.api.docker.mountpoints import mount_points
from bireme.api.docker.networking import networks_of, port_map
from bireme.api.docker.policies import check_document, health_document, restart_document
from bireme.api.docker.resources import CPU_PERIOD_US
from bireme.api.docker.services import Instance
from bireme.api.docker.times import format_time
from bireme.instance.spec import InstanceSpec, Limits
from bireme.instance.state import Status
from bireme.runtime.defaults import MASKED_PATHS, READONLY_PATHS

Shown = dict[str, Any]

LEGACY_ADDRESSES_UNTIL = 52
"""From API 1.52 on, addresses are shown per network only."""

_HOST_DEFAULTS: Shown = {
    "Binds": None,
    "ContainerIDFile": "",
    "LogConfig": {"Type": "json-file", "Config": {}},
    "NetworkMode": "bridge",
    "PortBindings": {},
    "AutoRemove": False,
    "VolumeDriver": "",
    "VolumesFrom": None,
    "ConsoleSize": [0, 0],
    "CapAdd": None,
    "CapDrop": None,
    "CgroupnsMode": "private",
    "Dns": [],
    "DnsOptions": [],
    "DnsSearch": [],
    "ExtraHosts": None,
    "GroupAdd": None,
    "IpcMode": "private",
    "Cgroup": "",
    "Links": None,
    "OomScoreAdj": 0,
    "PidMode": "",
    "Privileged": False,
    "PublishAllPorts": False,
    "ReadonlyRootfs": False,
    "SecurityOpt": None,
    "UTSMode": "",
    "UsernsMode": "",
    "ShmSize": 64 << 20,
    "Runtime": "bireme",
    "Isolation": "",
    "CpuShares": 0,
    "Memory": 0,
    "NanoCpus": 0,
    "CgroupParent": "",
    "BlkioWeight": 0,
    "BlkioWeightDevice": [],
    "BlkioDeviceReadBps": [],
    "BlkioDeviceWriteBps": [],
    "BlkioDeviceReadIOps": [],
    "BlkioDeviceWriteIOps": [],
    "CpuPeriod": 0,
    "CpuQuota": 0,
    "CpuRealtimePeriod": 0,
    "CpuRealtimeRuntime": 0,
    "CpusetCpus": "",
    "CpusetMems": "",
    "Devices": [],
    "DeviceCgroupRules": None,
    "DeviceRequests": None,
    "MemoryReservation": 0,
    "MemorySwap": 0,
    "MemorySwappiness": None,
    "OomKillDisable": None,
    "PidsLimit": None,
    "Ulimits": [],
    "CpuCount": 0,
    "CpuPercent": 0,
    "IOMaximumIOps": 0,
    "IOMaximumBandwidth": 0,
    "MaskedPaths": list(MASKED_PATHS),
    "ReadonlyPaths": list(READONLY_PATHS),
}

_FULL_ENTRIES: dict[str, Shown] = {
    "Devices": {"PathOnHost": "", "PathInContainer": "", "CgroupPermissions": "rwm"},
    "Ulimits": {"Name": "", "Hard": 0, "Soft": 0},
    "BlkioDeviceReadBps": {"Path": "", "Rate": 0},
    "BlkioDeviceWriteBps": {"Path": "", "Rate": 0},
    "BlkioDeviceReadIOps": {"Path": "", "Rate": 0},
    "BlkioDeviceWriteIOps": {"Path": "", "Rate": 0},
    "Mounts": {"Type": "", "Source": "", "Target": ""},
}


def instance_document(instance: Instance, execs: Sequence[str], storage: str, version: int) -> Shown:
    spec = instance.spec
    args = spec.process.args
    directory = instance.etc_directory
    return {
        "Id": instance.id,
        "Created": format_time(instance.created_at_ns),
        "Path": args[0] if args else "",
        "Args": list(args[1:]),
        "State": state(instance),
        "Image": image_id(spec),
        "ResolvConfPath": f"{directory}/resolv.conf",
        "HostnamePath": f"{directory}/hostname",
        "HostsPath": f"{directory}/hosts",
        "LogPath": instance.log_path if spec.log.driver == "json-file" else "",
        "Name": "/" + instance.name,
        "RestartCount": instance.restart_count,
        "Driver": storage,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": list(execs) or None,
        "HostConfig": host_config(spec),
        "GraphDriver": _graph_driver(instance, storage),
        "Mounts": mount_points(spec),
        "Config": config(instance, version),
        "NetworkSettings": network_settings(instance, version),
    }


def state(instance: Instance) -> Shown:
    status = instance.status
    shown: Shown = {
        "Status": status.value,
        "Running": instance.active,
        "Paused": status is Status.PAUSED,
        "Restarting": status is Status.RESTARTING,
        "OOMKilled": instance.oom_killed,
        "Dead": status is Status.DEAD,
        "Pid": instance.pid if instance.running else 0,
        "ExitCode": instance.exit_code,
        "Error": instance.error,
        "StartedAt": format_time(instance.started_at_ns),
        "FinishedAt": format_time(0 if status is Status.CREATED else instance.finished_at_ns),
    }
    if instance.health is not None:
        shown["Health"] = health_document(instance.health)
    return shown


def config(instance: Instance, version: int) -> Shown:
    """Config, as completed by the image; what only inspect wants comes from the edge."""
    spec = instance.spec
    process = spec.process
    kept: Shown = spec.edge.get("Config", {})
    implied = {f"HOSTNAME={instance.hostname}"} | ({"TERM=xterm"} if process.terminal else set())
    shown: Shown = {
        "Hostname": instance.hostname,
        "Domainname": spec.domainname,
        "User": process.user,
        "AttachStdin": kept.get("AttachStdin", False),
        "AttachStdout": kept.get("AttachStdout", False),
        "AttachStderr": kept.get("AttachStderr", False),
        "Tty": process.terminal,
        "OpenStdin": spec.open_stdin,
        "StdinOnce": spec.stdin_once,
        "Env": [entry for entry in process.env if entry not in implied],
        "Cmd": list(spec.command) or None,
        "Image": spec.image,
        "Volumes": {place: {} for place in spec.volumes} or None,
        "WorkingDir": process.working_dir,
        "Entrypoint": list(spec.entrypoint) or None,
        "OnBuild": kept.get("OnBuild"),
        "Labels": spec.labels,
    }
    if spec.exposed_ports:
        shown["ExposedPorts"] = {port: {} for port in spec.exposed_ports}
    check = check_document(spec.health)
    if check is not None:
        shown["Healthcheck"] = check
    for name in ("NetworkDisabled", "StopTimeout", "Shell"):
        if name in kept:
            shown[name] = kept[name]
    if spec.stop_signal and spec.stop_signal != "SIGTERM":
        shown["StopSignal"] = spec.stop_signal
    if version < LEGACY_ADDRESSES_UNTIL and spec.network.mac:
        shown["MacAddress"] = spec.network.mac
    return shown


def host_config(spec: InstanceSpec) -> Shown:
    """HostConfig as asked for, completed by defaults, with the limits that are in force now."""
    asked: Shown = spec.edge.get("HostConfig", {})
    shown = {**_HOST_DEFAULTS, **asked}
    for name, full in _FULL_ENTRIES.items():
        if name in asked:
            shown[name] = [{**full, **entry} for entry in asked[name]]
    bindings: dict[str, list[Shown]] = asked.get("PortBindings", {})
    if bindings:
        empty = {"HostIp": "", "HostPort": ""}
        shown["PortBindings"] = {port: [{**empty, **one} for one in many or [{}]] for port, many in bindings.items()}
    shown["LogConfig"] = {**_HOST_DEFAULTS["LogConfig"], **asked.get("LogConfig", {})}
    shown["RestartPolicy"] = restart_document(spec.restart)
    shown["NetworkMode"] = spec.network.name
    if spec.isolation != "container" and not asked.get("Isolation"):
        shown["Isolation"] = spec.isolation
    if spec.security.privileged:
        shown["MaskedPaths"] = shown["ReadonlyPaths"] = None
    shown.update(_limits(spec.limits, asked))
    return shown


def _limits(limits: Limits, asked: Shown) -> Shown:
    memory = limits.memory_bytes
    nano = asked.get("NanoCpus", 0)
    by_nano = bool(nano) and limits.cpu_quota_us == nano * CPU_PERIOD_US // 10**9
    if not by_nano and limits.cpu_period_us == CPU_PERIOD_US and nano:
        nano, by_nano = limits.cpu_quota_us * 10**9 // CPU_PERIOD_US, True
    return {
        "Memory": memory,
        "MemorySwap": limits.memory_swap_bytes or 2 * memory,
        "MemoryReservation": limits.memory_reservation_bytes,
        "CpuShares": limits.cpu_shares,
        "NanoCpus": nano if by_nano else 0,
        "CpuPeriod": 0 if by_nano else limits.cpu_period_us,
        "CpuQuota": 0 if by_nano else limits.cpu_quota_us,
        "CpusetCpus": limits.cpuset_cpus,
        "CpusetMems": limits.cpuset_mems,
        "PidsLimit": limits.pids or None,
        "BlkioWeight": limits.blkio_weight,
    }


def network_settings(instance: Instance, version: int) -> Shown:
    networks = networks_of(instance)
    shown: Shown = {
        "SandboxID": "",
        "SandboxKey": f"/proc/{instance.pid}/ns/net" if instance.running and instance.pid else "",
        "Ports": port_map(instance),
        "Networks": networks,
    }
    if version < LEGACY_ADDRESSES_UNTIL:
        bridge = networks.get("bridge", {})
        shown.update(
            Bridge="",
            HairpinMode=False,
            LinkLocalIPv6Address="",
            LinkLocalIPv6PrefixLen=0,
            SecondaryIPAddresses=None,
            SecondaryIPv6Addresses=None,
            EndpointID=bridge.get("EndpointID", ""),
            Gateway=bridge.get("Gateway", ""),
            GlobalIPv6Address="",
            GlobalIPv6PrefixLen=0,
            IPAddress=bridge.get("IPAddress", ""),
            IPPrefixLen=bridge.get("IPPrefixLen", 0),
            IPv6Gateway="",
            MacAddress=bridge.get("MacAddress", ""),
        )
    return shown


def _graph_driver(instance: Instance, storage: str) -> Shown:
    root = instance.definition.root
    data: Shown = {"ID": instance.id}
    if root.upper:
        data.update(LowerDir=":".join(root.lower), UpperDir=root.upper, WorkDir=root.work)
    return {"Name": storage, "Data": data}
