"""Limits: dockerd's checks and words, and how an update changes them."""

from __future__ import annotations

import os

import pytest

from bireme.api.docker.bodies import Device, DeviceRequest, Resources, ThrottleDevice, Ulimit, WeightDevice
from bireme.api.docker.resources import (
    cdi_devices_of,
    device_rules_of,
    devices_of,
    limits_of,
    ulimits_of,
    updated_limits,
)
from bireme.errors import Invalid, Unsupported
from bireme.instance.spec import Limits

MB = 1 << 20
CPUS = os.cpu_count() or 1


def test_everything_has_its_place() -> None:
    asked = Resources(
        Memory=64 * MB,
        MemoryReservation=32 * MB,
        MemorySwap=128 * MB,
        MemorySwappiness=10,
        OomKillDisable=True,
        CpuShares=512,
        CpuPeriod=50_000,
        CpuQuota=20_000,
        CpusetCpus="0",
        CpusetMems="0",
        PidsLimit=9,
        BlkioWeight=300,
        BlkioDeviceReadBps=[ThrottleDevice(Path="/dev/sda", Rate=1)],
        BlkioDeviceWriteBps=[ThrottleDevice(Path="/dev/sda", Rate=2)],
        BlkioDeviceReadIOps=[ThrottleDevice(Path="/dev/sda", Rate=3)],
        BlkioDeviceWriteIOps=[ThrottleDevice(Path="/dev/sda", Rate=4)],
    )
    assert limits_of(asked) == Limits(
        memory_bytes=64 * MB,
        memory_reservation_bytes=32 * MB,
        memory_swap_bytes=128 * MB,
        memory_swappiness=10,
        oom_kill_disable=True,
        cpu_shares=512,
        cpu_period_us=50_000,
        cpu_quota_us=20_000,
        cpuset_cpus="0",
        cpuset_mems="0",
        pids=9,
        blkio_weight=300,
        blkio_read_bps=(("/dev/sda", 1),),
        blkio_write_bps=(("/dev/sda", 2),),
        blkio_read_iops=(("/dev/sda", 3),),
        blkio_write_iops=(("/dev/sda", 4),),
    )


def test_devices_by_rule_name_and_weight() -> None:
    assert device_rules_of(Resources(DeviceCgroupRules=["c 1:3 rwm", "a *:* r"])) == ("c 1:3 rwm", "a *:* r")
    requests = [DeviceRequest(Driver="cdi", DeviceIDs=["a.b/c=d"]), DeviceRequest(Driver="cdi", DeviceIDs=["a.b/c=e"])]
    assert cdi_devices_of(Resources(DeviceRequests=requests)) == ("a.b/c=d", "a.b/c=e")
    weights = [WeightDevice(Path="/dev/sda", Weight=20)]
    assert limits_of(Resources(BlkioWeightDevice=weights)).blkio_weight_devices == (("/dev/sda", 20),)
    assert updated_limits(Limits(), Resources(BlkioWeightDevice=weights)).blkio_weight_devices == (("/dev/sda", 20),)


@pytest.mark.parametrize("rule", ["", "c 1:3", "x 1:3 r", "c 1:3 rwmr", "c 1:3 x", "c 1 r", "c  1:3 r", "c 1:3 r\n"])
def test_rules_that_are_none(rule: str) -> None:
    with pytest.raises(Invalid, match="invalid device cgroup rule format"):
        device_rules_of(Resources(DeviceCgroupRules=[rule]))


@pytest.mark.parametrize("name", ["a.b/c", "a.b/c=", "a.b=c", "/c=d", "a.b/=d", "a/b/c=d"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(Invalid, match="unresolvable CDI devices"):
        cdi_devices_of(Resources(DeviceRequests=[DeviceRequest(Driver="cdi", DeviceIDs=[name])]))


@pytest.mark.parametrize(("path", "weight"), [("sda", 20), ("/dev/sda", 9), ("/dev/sda", 1001)])
def test_weights_that_are_none(path: str, weight: int) -> None:
    with pytest.raises(Invalid, match="device"):
        limits_of(Resources(BlkioWeightDevice=[WeightDevice(Path=path, Weight=weight)]))


def test_nothing_asked_is_nothing_limited() -> None:
    assert limits_of(Resources()) == Limits()
    assert limits_of(Resources(MemorySwappiness=-1, PidsLimit=-1, OomKillDisable=False)) == Limits()


def test_cpus_as_a_number() -> None:
    assert limits_of(Resources(NanoCpus=500_000_000)) == Limits(cpu_quota_us=50_000, cpu_period_us=100_000)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Resources(Memory=6 * MB - 1), "Minimum memory limit allowed is 6MB"),
        (Resources(Memory=-1), "Minimum memory limit allowed is 6MB"),
        (Resources(MemoryReservation=1), "Minimum memory reservation allowed is 6MB"),
        (Resources(Memory=8 * MB, MemoryReservation=9 * MB), "can not be less than memory reservation limit"),
        (Resources(Memory=8 * MB, MemorySwap=7 * MB), "Minimum memoryswap limit should be larger than memory limit"),
        (Resources(MemorySwap=8 * MB), "You should always set the Memory limit when using Memoryswap limit"),
        (Resources(MemorySwap=-2), "invalid memory swap limit: -2"),
        (Resources(MemorySwappiness=101), "valid memory swappiness range is 0-100"),
        (Resources(CpuShares=-1), "invalid CPU shares (-1)"),
        (Resources(NanoCpus=1, CpuPeriod=1000), "Nano CPUs and CPU Period cannot both be set"),
        (Resources(NanoCpus=1, CpuQuota=1000), "Nano CPUs and CPU Quota cannot both be set"),
        (Resources(NanoCpus=-1), f"range of CPUs is from 0.01 to {CPUS}.00"),
        (Resources(NanoCpus=(CPUS + 1) * 10**9), f"as there are only {CPUS} CPUs available"),
        (Resources(CpuPeriod=999), "CPU cfs period can not be less than 1ms"),
        (Resources(CpuPeriod=1_000_001), "or larger than 1s"),
        (Resources(CpuQuota=999), "CPU cfs quota can not be less than 1ms"),
        (Resources(CpusetCpus="x"), "Invalid value x for cpuset cpus"),
        (Resources(CpusetCpus="1-0"), "Invalid value 1-0 for cpuset cpus"),
        (Resources(CpusetCpus="0-99999999999"), "Invalid value"),
        (Resources(CpusetCpus="4095"), "Requested CPUs are not available - requested 4095"),
        (Resources(CpusetMems="4095"), "Requested memory nodes are not available"),
        (Resources(BlkioWeight=9), "Range of blkio weight is from 10 to 1000"),
        (Resources(BlkioDeviceReadBps=[ThrottleDevice(Path="sda", Rate=1)]), "bad format for device path: sda"),
        (Resources(BlkioDeviceReadBps=[ThrottleDevice(Path="/dev/x", Rate=-1)]), "invalid rate for device"),
        (Resources(CpuRealtimePeriod=1), "kernel does not support CPU real-time scheduler"),
        (Resources(CpuCount=1), "CpuCount and CpuPercent are not supported"),
        (Resources(IOMaximumBandwidth=1), "QoS maximum bandwidth"),
        (Resources(IOMaximumIOps=1), "QoS maximum IOPs"),
    ],
)
def test_refused(asked: Resources, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        limits_of(asked)
    assert message in caught.value.message


def test_update_changes_what_it_names() -> None:
    present = Limits(memory_bytes=64 * MB, memory_swap_bytes=128 * MB, cpu_shares=5, pids=7)
    assert updated_limits(present, Resources()) == present
    changed = updated_limits(present, Resources(Memory=32 * MB, PidsLimit=-1, CpuQuota=5000, CpuPeriod=10_000))
    assert changed == Limits(
        memory_bytes=32 * MB, memory_swap_bytes=128 * MB, cpu_shares=5, cpu_quota_us=5000, cpu_period_us=10_000
    )
    devices = [ThrottleDevice(Path="/dev/sda", Rate=1)]
    assert updated_limits(Limits(), Resources(BlkioDeviceWriteIOps=devices)).blkio_write_iops == (("/dev/sda", 1),)


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        (Resources(Memory=1), Invalid, "Minimum memory limit allowed is 6MB"),
        (Resources(Memory=256 * MB), Invalid, "Minimum memoryswap limit should be larger than memory limit"),
        (Resources(MemorySwap=32 * MB), Invalid, "Minimum memoryswap limit should be larger than memory limit"),
        (Resources(Devices=[Device(PathOnHost="/dev/null")]), Unsupported, "only limits"),
        (Resources(Ulimits=[Ulimit(Name="core")]), Unsupported, "only limits"),
    ],
)
def test_update_refusals(asked: Resources, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        updated_limits(Limits(memory_bytes=64 * MB, memory_swap_bytes=128 * MB), asked)


def test_devices_and_ulimits() -> None:
    (device,) = devices_of(
        Resources(Devices=[Device(PathOnHost="/dev/a", PathInContainer="/dev/b", CgroupPermissions="r")])
    )
    assert (device.host_path, device.path, device.permissions) == ("/dev/a", "/dev/b", "r")
    with pytest.raises(Invalid, match="path on the host is empty"):
        devices_of(Resources(Devices=[Device()]))
    limits = [Ulimit(Name="core", Soft=0, Hard=-1), Ulimit(Name="core", Soft=-1, Hard=-1)]
    assert [(u.soft, u.hard) for u in ulimits_of(Resources(Ulimits=limits))] == [(-1, -1)]
