"""From Docker's create body to an InstanceSpec: every option has its place or is refused by name."""

from __future__ import annotations

import pathlib
from typing import Any

import msgspec
import pytest

import bireme.api.docker as room
from bireme.api.docker.bodies import CreateRequest, ExecCreateRequest, HostConfig
from bireme.api.docker.decode import decode
from bireme.api.docker.translate import exec_process_of, spec_of
from bireme.errors import BiremeError, Invalid, Unsupported
from bireme.instance.spec import DeviceRequest, InstanceSpec, LogConfig, Mount, NetworkRequest, PortRequest, Ulimit

NEWEST = 55


def translate(version: int = NEWEST, /, host: dict[str, Any] | None = None, **config: Any) -> InstanceSpec:
    body = msgspec.convert({"Image": "busybox", "HostConfig": host or {}, **config}, CreateRequest)
    return spec_of(body, version)[0]


def refusal(host: dict[str, Any] | None = None, version: int = NEWEST, **config: Any) -> BiremeError:
    with pytest.raises((Invalid, Unsupported)) as caught:
        translate(version, host, **config)
    return caught.value


def test_defaults() -> None:
    spec = translate()
    assert spec.image == "busybox"
    assert spec.isolation == "container"
    assert spec.network == NetworkRequest(name="bridge")
    assert spec.stop_timeout_s == 10
    assert spec.shm_size_bytes == 64 << 20
    assert spec.edge == {}
    assert spec == InstanceSpec(image="busybox", process=spec.process)


def test_process() -> None:
    spec = translate(
        Cmd=["ls", "-l"],
        Entrypoint=["/bin/sh", "-c"],
        Env=["A=1", "B"],
        User="1:2",
        WorkingDir="/a/../b",
        Tty=True,
        host={"GroupAdd": ["audio"], "ConsoleSize": [24, 80]},
    )
    assert spec.command == ("ls", "-l")
    assert spec.entrypoint == ("/bin/sh", "-c")
    process = spec.process
    assert (process.env, process.user, process.working_dir) == (("A=1", "B"), "1:2", "/b")
    assert (process.terminal, process.groups, process.rows, process.columns) == (True, ("audio",), 24, 80)
    old = translate(41, Tty=True, host={"ConsoleSize": [24, 80]}).process
    assert (old.rows, old.columns) == (0, 0)


def test_everyday_options() -> None:
    spec = translate(
        Hostname="h",
        Domainname="d",
        Labels={"k": "v"},
        OpenStdin=True,
        StdinOnce=True,
        StopSignal="SIGQUIT",
        StopTimeout=3,
        host={
            "AutoRemove": True,
            "Init": True,
            "ReadonlyRootfs": True,
            "ShmSize": 1 << 20,
            "OomScoreAdj": 500,
            "Sysctls": {"net.core.somaxconn": "1"},
            "Annotations": {"a": "b"},
            "Dns": ["1.1.1.1"],
            "DnsSearch": ["x"],
            "DnsOptions": ["ndots:1"],
            "ExtraHosts": ["a:1.2.3.4", "b:::1", "c:host-gateway"],
            "CgroupParent": "/p",
            "Devices": [{"PathOnHost": "/dev/fuse"}],
            "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 6}],
        },
    )
    assert (spec.hostname, spec.domainname, spec.labels) == ("h", "d", {"k": "v"})
    assert (spec.open_stdin, spec.stdin_once, spec.stop_signal, spec.stop_timeout_s) == (True, True, "SIGQUIT", 3)
    assert (spec.auto_remove, spec.init, spec.read_only_root, spec.shm_size_bytes) == (True, True, True, 1 << 20)
    assert (spec.oom_score_adj, spec.sysctls, spec.annotations) == (500, {"net.core.somaxconn": "1"}, {"a": "b"})
    assert (spec.dns, spec.dns_search, spec.dns_options) == (("1.1.1.1",), ("x",), ("ndots:1",))
    assert spec.extra_hosts == ("a:1.2.3.4", "b:::1", "c:host-gateway")
    assert spec.cgroup_parent == "/p"
    assert spec.devices == (DeviceRequest(host_path="/dev/fuse", path="/dev/fuse", permissions="rwm"),)
    assert spec.ulimits == (Ulimit(name="nofile", soft=5, hard=6),)


def test_what_dockers_cli_sends_by_default_is_nothing_special() -> None:
    host = {
        "Binds": None,
        "ContainerIDFile": "",
        "LogConfig": {"Type": "", "Config": {}},
        "NetworkMode": "default",
        "PortBindings": {},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "ConsoleSize": [30, 100],
        "IpcMode": "",
        "CgroupnsMode": "",
        "MemorySwappiness": -1,
        "OomKillDisable": False,
        "PidsLimit": 0,
        "Ulimits": [],
        "MaskedPaths": None,
    }
    config = {"Hostname": "", "AttachStdout": True, "AttachStderr": True, "Env": None, "Cmd": ["true"], "Volumes": {}}
    body = msgspec.json.encode(
        {"Image": "x", "HostConfig": host, "NetworkingConfig": {"EndpointsConfig": {"default": {}}}, **config}
    )
    spec, warnings = spec_of(decode(body, CreateRequest), 50)
    assert warnings == []
    assert spec == InstanceSpec(image="x", process=spec.process, command=("true",), edge=spec.edge)
    assert spec.edge == {
        "Config": {"AttachStdout": True, "AttachStderr": True},
        "HostConfig": {"ConsoleSize": [30, 100], "PidsLimit": 0},
    }


def test_isolation() -> None:
    assert translate(host={"Isolation": "default"}).isolation == "container"
    assert translate(host={"Isolation": "MicroVM"}).isolation == "microvm"
    assert translate(host={"Runtime": "qemu"}).isolation == "qemu"
    assert translate(host={"Runtime": "runc"}).isolation == "container"
    assert translate(host={"Runtime": "xen", "Isolation": "xen"}).isolation == "xen"
    assert refusal({"Isolation": "hyperv"}).message == "invalid isolation 'hyperv' on linux"
    assert refusal({"Runtime": "kata"}).message == "unknown or invalid runtime name: kata"
    assert "conflicting options" in refusal({"Runtime": "runc", "Isolation": "microvm"}).message


def test_logs() -> None:
    assert translate(host={"LogConfig": {"Type": "none"}}).log == LogConfig(driver="none")
    options = {"max-size": "10m", "max-file": "3"}
    log = translate(host={"LogConfig": {"Type": "json-file", "Config": options}}).log
    assert log == LogConfig(max_size_bytes=10 << 20, max_files=3)
    assert translate(host={"LogConfig": {"Config": {"max-size": "-1"}}}).log == LogConfig()
    assert "no log driver named 'x'" in refusal({"LogConfig": {"Type": "x"}}).message
    assert "unknown log opt 'x'" in refusal({"LogConfig": {"Config": {"x": "1"}}}).message
    assert "not supported" in refusal({"LogConfig": {"Config": {"tag": "1"}}}).message
    assert "max-file" in refusal({"LogConfig": {"Config": {"max-file": "0"}}}).message
    assert "max-size" in refusal({"LogConfig": {"Config": {"max-file": "2"}}}).message


@pytest.mark.parametrize(
    ("host", "config", "message"),
    [
        ({}, {"Hostname": "h" * 65}, "is too long"),
        ({}, {"WorkingDir": "relative"}, "needs to be an absolute path"),
        ({}, {"Env": ["=x"]}, "invalid environment variable: =x"),
        ({}, {"StopSignal": "SIGNOPE"}, "invalid signal: SIGNOPE"),
        ({}, {"Healthcheck": {"Test": ["CMD", "x"], "Interval": 5}}, "Interval in Healthcheck cannot be less than 1ms"),
        ({}, {"Healthcheck": {"Retries": -1}}, "Retries in Healthcheck cannot be negative"),
        ({"RestartPolicy": {"Name": "sometimes"}}, {}, "unknown policy 'sometimes'"),
        ({"RestartPolicy": {"Name": "always"}, "AutoRemove": True}, {}, "can't create 'AutoRemove'"),
        ({"ShmSize": -1}, {}, "SHM size can not be less than 0"),
        ({"OomScoreAdj": 1001}, {}, "range for oom score adj is [-1000, 1000]"),
        ({"Annotations": {"": "x"}}, {}, "empty string is not permitted"),
        ({"Dns": ["x"]}, {}, "x is not an ip address"),
        ({"ExtraHosts": ["x"]}, {}, 'bad format for add-host: "x"'),
        ({"ExtraHosts": ["x:y"]}, {}, 'invalid IP address in add-host: "y"'),
        ({"UTSMode": "host"}, {"Hostname": "h"}, "conflicting options: hostname and the UTS mode"),
        ({"Sysctls": {"": "1"}}, {}, "invalid sysctl name"),
        ({"Devices": [{"PathOnHost": "/dev/null", "CgroupPermissions": "x"}]}, {}, "invalid device mode: x"),
        ({"Ulimits": [{"Name": "files"}]}, {}, "invalid ulimit type: files"),
        ({"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]}, {}, "ulimit soft limit must be less"),
        ({"ConsoleSize": [1]}, {"Tty": True}, "invalid console size"),
    ],
)
def test_invalid(host: dict[str, Any], config: dict[str, Any], message: str) -> None:
    error = refusal(host, **config)
    assert isinstance(error, Invalid)
    assert message in error.message


@pytest.mark.parametrize(
    ("host", "config", "named"),
    [
        ({"Links": ["a:b"]}, {}, "links"),
        ({"StorageOpt": {"size": "1g"}}, {}, "storage options are not supported: size"),
        ({"DeviceRequests": [{"Capabilities": [["gpu"]]}]}, {}, "[[gpu]]"),
        ({"KernelMemory": 1 << 30}, {}, "kernel memory"),
        ({"SecurityOpt": ["apparmor=mine"]}, {}, "AppArmor"),
        ({"SecurityOpt": ["label=type:x"]}, {}, "SELinux"),
        ({"Cgroup": "x"}, {}, "Cgroup"),
        ({"Mounts": [{"Type": "image", "Source": "a", "Target": "/x"}]}, {}, "type image"),
        ({"PortBindings": {"80/sctp": [{"HostPort": "1"}]}}, {}, "sctp"),
    ],
)
def test_not_there_yet(host: dict[str, Any], config: dict[str, Any], named: str) -> None:
    error = refusal(host, **config)
    assert isinstance(error, Unsupported)
    assert named in str(error)


def test_no_image() -> None:
    for value in ({}, {"Image": ""}):
        with pytest.raises(Invalid, match="config cannot be empty in order to create a container"):
            spec_of(msgspec.convert(value, CreateRequest), NEWEST)


def test_edge_keeps_what_inspect_shows() -> None:
    host = {
        "Binds": ["/tmp:/x"],
        "CapAdd": ["net_admin"],
        "MaskedPaths": [],
        "PortBindings": {"80/tcp": [{"HostPort": "1"}]},
    }
    spec = translate(host=host, AttachStdin=True, StopTimeout=0, Shell=["sh"])
    assert spec.edge["HostConfig"] == host
    assert spec.edge["Config"] == {"AttachStdin": True, "Shell": ["sh"], "StopTimeout": 0}
    assert spec.mounts == (Mount(kind="bind", source="/tmp", target="/x"),)
    assert spec.ports == (PortRequest(container_port=80, host_port=1),)


def test_every_host_option_is_read() -> None:
    """A field added to the body but read nowhere would be an option that is silently dropped."""
    text = "".join(
        path.read_text()
        for path in pathlib.Path(room.__path__[0]).glob("*.py")
        if path.name not in ("bodies.py", "inspect.py")
    )
    told_elsewhere = {"ContainerIDFile"}
    unread = {name for name in HostConfig.__struct_fields__ if f".{name}" not in text}
    assert unread <= told_elsewhere


def test_exec() -> None:
    body = ExecCreateRequest(
        Cmd=["ls"], Env=["A=1"], User="u", WorkingDir="/", Tty=True, Privileged=True, ConsoleSize=[3, 4]
    )
    process = exec_process_of(body, NEWEST)
    assert (process.args, process.env, process.user, process.privileged) == (("ls",), ("A=1",), "u", True)
    assert (process.rows, process.columns) == (3, 4)
    with pytest.raises(Invalid, match="No exec command specified"):
        exec_process_of(ExecCreateRequest(), NEWEST)
