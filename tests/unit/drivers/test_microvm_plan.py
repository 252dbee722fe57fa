"""A spec as a machine plan: what goes where, what is refused, what the cgroup is told."""

from __future__ import annotations

from typing import Any

import pytest

from bireme.drivers.microvm.config import LayerDisk, Parts, plan_machine, plan_process
from bireme.drivers.microvm.initrd import pack_archive
from bireme.drivers.microvm.limits import resources, resources_for_update, vcpus_of
from bireme.drivers.microvm.refusals import check_layers, check_spec
from bireme.errors import Invalid, Unsupported
from bireme.instance.driver import Endpoint, Placement, RootFilesystem
from bireme.instance.spec import (
    DeviceRequest,
    InstanceId,
    InstanceSpec,
    Limits,
    Mount,
    Namespaces,
    NetworkRequest,
    ProcessSpec,
    Security,
    Ulimit,
)
from bireme.linux import capabilities
from bireme.vmm.plan import HOST_PIDS, OVERHEAD_BYTES

PROCESS = ProcessSpec(args=("sh", "-c", "true"), env=("A=b",), working_dir="/srv", user="kim:staff", groups=("audio",))


def spec(**fields: Any) -> InstanceSpec:
    return InstanceSpec(isolation="microvm", image="x", process=fields.pop("process", PROCESS), **fields)


def plan(made: InstanceSpec, *, layers: int = 2, writable: str = "/data/disk") -> Any:
    endpoint = Endpoint(
        network="bridge", bridge="br0", address="10.0.0.2", prefix_len=24, gateway="10.0.0.1", mac="02:42:0a:00:00:02"
    )
    placement = Placement(
        id=InstanceId("i" * 64),
        name="name",
        spec=made,
        root=RootFilesystem(lower=()),
        directory="/nowhere",
        hostname="host",
        endpoints=(endpoint,),
    )
    parts = Parts(
        kernel={"path": "/kernel", "format": "vmlinux"},
        initrd=["/modules", "/agent"],
        layers=[LayerDisk(f"/layer{n}", "erofs", f"digest{n}") for n in range(layers)],
        writable=writable,
        texts=[("/etc/hosts", "127.0.0.1 x\n")],
    )
    return plan_machine(placement, parts)


def test_disks_in_order_and_as_the_agent_knows_them() -> None:
    made = plan(spec())
    assert [(d["path"], d["read_only"], d["serial"]) for d in made["disks"]] == [
        ("/layer0", True, "digest0"),
        ("/layer1", True, "digest1"),
        ("/data/disk", False, "writable"),
    ]
    assert made["guest"]["root"] == {
        "lower": [{"device": "/dev/vda", "type": "erofs"}, {"device": "/dev/vdb", "type": "erofs"}],
        "upper": {"device": "/dev/vdc", "type": "ext4"},
        "read_only": False,
    }


def test_a_root_without_a_disk_of_its_own() -> None:
    made = plan(spec(read_only_root=True), writable="")
    assert len(made["disks"]) == 2
    assert made["guest"]["root"]["upper"] is None
    assert made["guest"]["root"]["read_only"]


def test_the_network_outside_and_inside() -> None:
    made = plan(spec())
    assert made["interfaces"] == [{"bridge": "br0", "tap": "", "mac": "02:42:0a:00:00:02", "mtu": 1500}]
    assert made["guest"]["interfaces"][0]["address"] == "10.0.0.2"
    assert made["guest"]["interfaces"][0]["name"] == "eth0"


def test_texts_mounts_and_sysctls() -> None:
    mounts = (
        Mount(kind="tmpfs", target="/run", size_bytes=1 << 20, mode=0o755),
        Mount(kind="tmpfs", target="/dev/shm", size_bytes=5 << 20),
    )
    guest = plan(spec(mounts=mounts, sysctls={"net.core.somaxconn": "9"}, domainname="lan"))["guest"]
    assert guest["files"] == [{"path": "/etc/hosts", "text": "127.0.0.1 x\n", "mode": 0o644}]
    assert guest["mounts"] == [{"kind": "tmpfs", "target": "/run", "size_bytes": 1 << 20, "mode": 0o755}]
    assert (guest["shm_size_bytes"], guest["sysctls"]) == (5 << 20, {"net.core.somaxconn": "9"})
    assert (guest["hostname"], guest["domainname"]) == ("host", "lan")


def test_the_process() -> None:
    made = spec(ulimits=(Ulimit(name="nofile", soft=10, hard=20),), security=Security(no_new_privileges=True))
    process = plan_process(PROCESS, made)
    assert (process["args"], process["env"], process["cwd"]) == (["sh", "-c", "true"], ["A=b"], "/srv")
    assert (process["user"], process["groups"], process["no_new_privileges"]) == ("kim:staff", ["audio"], True)
    assert process["rlimits"] == [[7, 10, 20]]
    assert process["capabilities"] is not None
    assert process["capabilities"]["bounding"] == capabilities.mask_of(capabilities.DEFAULT)


def test_rights_of_an_exec() -> None:
    every = plan_process(ProcessSpec(args=("x",), privileged=True), spec())
    assert every["capabilities"] is not None
    assert every["capabilities"]["effective"] == capabilities.ALL
    some = plan_process(ProcessSpec(args=("x",)), spec(security=Security(cap_drop=("ALL",), cap_add=("CAP_KILL",))))
    assert some["capabilities"] is not None
    assert some["capabilities"]["effective"] == capabilities.mask_of(["CAP_KILL"])


@pytest.mark.parametrize(
    ("quota", "period", "count"), [(0, 0, 1), (-1, 0, 1), (50_000, 100_000, 1), (150_000, 100_000, 2), (400_000, 0, 4)]
)
def test_vcpus(quota: int, period: int, count: int) -> None:
    assert vcpus_of(Limits(cpu_quota_us=quota, cpu_period_us=period)) == count


def test_the_cgroup_bounds_what_the_host_gives() -> None:
    limits = Limits(memory_bytes=100 << 20, cpu_quota_us=200_000, cpu_period_us=100_000, cpu_shares=5)
    total = (100 << 20) + OVERHEAD_BYTES
    for made in (resources(limits), resources_for_update(limits)):
        assert made["memory"] == {"limit": total, "swap": total}
        assert made["pids"] == {"limit": HOST_PIDS + 2}
        assert made["cpu"]["quota"] == 200_000
        assert made["cpu"]["shares"] == 5


@pytest.mark.parametrize(
    "fields",
    [
        {"mounts": (Mount(kind="bind", source="/a", target="/b"),)},
        {"mounts": (Mount(kind="tmpfs", target="/b", options=("exec",)),)},
        {"mounts": (Mount(kind="tmpfs", target="/b", read_only=True),)},
        {"mounts": (Mount(kind="volume", volume="data", target="/b"),)},
        {"volumes_from": ("x",)},
        {"devices": (DeviceRequest(host_path="/dev/null", path="/dev/x"),)},
        {"network": NetworkRequest(name="host")},
        {"network": NetworkRequest(name="container:x")},
        {"cgroup_parent": "/x"},
        {"security": Security(privileged=True)},
        {"security": Security(seccomp="{}")},
        {"security": Security(masked_paths=("/proc/kcore",))},
        {"security": Security(readonly_paths=("/proc/sys",))},
        *({"namespaces": Namespaces(**{kind: "host"})} for kind in ("user", "pid", "ipc", "uts", "cgroup")),
        *(
            {"limits": Limits(**{name: 1 << 30})}
            for name in ("memory_swap_bytes", "memory_reservation_bytes", "pids", "memory_swappiness")
        ),
        {"limits": Limits(oom_kill_disable=True)},
    ],
)
def test_what_a_machine_cannot_do_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="not supported with isolation microvm"):
        check_spec(spec(**fields))


@pytest.mark.parametrize("limits", [Limits(memory_bytes=32 << 20), Limits(cpu_quota_us=10_000_000)])
def test_too_little_and_too_much(limits: Limits) -> None:
    with pytest.raises(Invalid):
        check_spec(spec(limits=limits))


def test_too_many_layers() -> None:
    check_layers(25)
    with pytest.raises(Unsupported):
        check_layers(26)


def test_what_is_said_by_default_is_no_refusal() -> None:
    check_spec(spec())
    security = Security(seccomp="unconfined", masked_paths=(), readonly_paths=())
    check_spec(spec(init=True, security=security, namespaces=Namespaces(cgroup="private", ipc="shareable")))


def test_an_archive_of_one_file() -> None:
    data = pack_archive("init", 0o100755, b"\x7fELF")
    assert len(data) % 4 == 0
    assert data[:6] == b"070701"
    assert data[6 + 8 : 6 + 16] == b"000081ed"
    assert b"TRAILER!!!\0" in data
