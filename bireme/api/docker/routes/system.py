"""_ping, version, info, auth."""

from __future__ import annotations

from typing import Any

from bireme.api.docker.answers import json
from bireme.api.docker.routes.images import NO_REGISTRY
from bireme.api.docker.services import Services
from bireme.api.docker.times import format_time
from bireme.api.http.message import TEXT, Answer, Request, Response
from bireme.api.http.router import Router
from bireme.engine.system import HostFacts
from bireme.errors import Unsupported

_PING_HEADERS = (
    b"Builder-Version: 1\r\nCache-Control: no-cache, no-store, must-revalidate\r\nPragma: no-cache\r\n"
    b"Swarm: inactive\r\n"
)


class System:
    """Handlers over facts of the engine."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pong = Response(200, b"OK", TEXT, _PING_HEADERS)
        self._silent_pong = Response(200, b"", TEXT, _PING_HEADERS)

    def register(self, router: Router) -> None:
        self._versions = (router.oldest, router.newest)
        router.add("GET", "/_ping", lambda _: self._pong)
        router.add("HEAD", "/_ping", lambda _: self._silent_pong)
        router.add("GET", "/version", self.version)
        router.add("GET", "/info", self.info)
        router.add("POST", "/auth", self.auth)

    def version(self, request: Request) -> Answer:
        facts = self._services.system.version()
        oldest, newest = self._versions
        common = {
            "ApiVersion": f"1.{newest}",
            "MinAPIVersion": f"1.{oldest}",
            "Arch": facts.architecture,
            "BuildTime": "",
            "GitCommit": "",
            "GoVersion": f"none (Python {facts.python})",
            "KernelVersion": facts.kernel,
            "Os": facts.os,
        }
        engine = {"Name": "Engine", "Version": facts.version, "Details": {**common, "Experimental": "false"}}
        return json({"Platform": {"Name": "bireme"}, "Components": [engine], "Version": facts.version, **common})

    def info(self, request: Request) -> Answer:
        return json(_info(self._services, request.version))

    def auth(self, request: Request) -> Answer:
        raise Unsupported(f"cannot log in: {NO_REGISTRY}")


def _info(services: Services, version: int) -> dict[str, Any]:
    facts = services.system.info()
    shown: dict[str, Any] = {
        "ID": facts.id,
        "Containers": facts.containers,
        "ContainersRunning": facts.running,
        "ContainersPaused": facts.paused,
        "ContainersStopped": facts.stopped,
        "Images": facts.images,
        "Driver": facts.storage_driver,
        "DriverStatus": [],
        **_ABILITIES,
        "OomKillDisable": facts.host.cgroup_version == 1,
        "SystemTime": format_time(facts.system_time_ns),
        "NCPU": facts.cpus,
        "MemTotal": facts.memory_bytes,
        "DockerRootDir": facts.data_root,
        "Name": facts.name,
        "ServerVersion": facts.version,
        "Runtimes": _runtimes(facts.isolations),
        "SecurityOptions": _security_options(facts.host),
        "Warnings": list(facts.warnings),
        **_host(facts.host, services.system.version().architecture),
    }
    if version < 50:
        shown.update(BridgeNfIptables=False, BridgeNfIp6tables=False)
    return shown


_ABILITIES: dict[str, Any] = {
    "Plugins": {
        "Volume": ["local"],
        "Network": ["bridge", "host", "null"],
        "Authorization": None,
        "Log": ["json-file", "local", "none"],
    },
    "MemoryLimit": True,
    "SwapLimit": True,
    "CpuCfsPeriod": True,
    "CpuCfsQuota": True,
    "CPUShares": True,
    "CPUSet": True,
    "PidsLimit": True,
    "IPv4Forwarding": True,
    "Debug": False,
    "NFd": 0,
    "NGoroutines": 0,
    "LoggingDriver": "json-file",
    "NEventsListener": 0,
    "IndexServerAddress": "",
    "RegistryConfig": {"InsecureRegistryCIDRs": [], "IndexConfigs": {}, "Mirrors": []},
    "GenericResources": None,
    "HttpProxy": "",
    "HttpsProxy": "",
    "NoProxy": "",
    "Labels": [],
    "ExperimentalBuild": False,
    "DefaultRuntime": "bireme",
    "Swarm": {
        "NodeID": "",
        "NodeAddr": "",
        "LocalNodeState": "inactive",
        "ControlAvailable": False,
        "Error": "",
        "RemoteManagers": None,
    },
    "LiveRestoreEnabled": True,
    "Isolation": "",
    "InitBinary": "bireme-init",
    "ContainerdCommit": {"ID": ""},
    "RuncCommit": {"ID": ""},
    "InitCommit": {"ID": ""},
    "CDISpecDirs": [],
}


def _host(host: HostFacts, architecture: str) -> dict[str, Any]:
    return {
        "CgroupDriver": host.cgroup_driver,
        "CgroupVersion": str(host.cgroup_version),
        "KernelVersion": host.kernel,
        "OperatingSystem": host.operating_system,
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": {"amd64": "x86_64", "arm64": "aarch64"}.get(architecture, architecture),
    }


def _security_options(host: HostFacts) -> list[str]:
    options = ["name=seccomp,profile=builtin"] if host.seccomp else []
    if host.userns:
        options.append("name=userns")
    return [*options, "name=cgroupns"]


def _runtimes(isolations: tuple[str, ...]) -> dict[str, Any]:
    """Every isolation of this engine is a runtime by its own name; containers are `bireme` (and `runc`, an alias)."""
    names = ["bireme", "runc", *(name for name in isolations if name != "container")]
    return {name: {"path": "bireme-runtime"} for name in names}
