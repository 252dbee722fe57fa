"""linux.resources becomes limits, or an error that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from bireme.errors import BiremeError, Invalid, Unsupported
from bireme.linux.cgroup import ALLOW_ALL, NO_LIMITS, DeviceRule, limits_from_resources
from bireme.linux.cgroup.contract import DEFAULT_ALLOWED, DeviceWeight, Throttle
from bireme.linux.cgroup.limits import parse_cpu_list


def test_nothing_asked() -> None:
    assert limits_from_resources({}) == NO_LIMITS
    empty: dict[str, Any] = {"memory": {}, "cpu": {}, "pids": {}, "blockIO": {}, "hugepageLimits": [], "unified": {}}
    assert limits_from_resources(empty) == NO_LIMITS
    assert limits_from_resources({"memory": None, "cpu": None}) == NO_LIMITS


def test_everything_asked() -> None:
    limits = limits_from_resources(
        {
            "memory": {
                "limit": 1 << 28,
                "swap": 1 << 29,
                "reservation": 1 << 27,
                "swappiness": 0,
                "disableOOMKiller": True,
                "checkBeforeUpdate": True,
                "useHierarchy": True,
            },
            "cpu": {
                "shares": 512,
                "quota": 50_000,
                "period": 100_000,
                "burst": 1000,
                "idle": 1,
                "realtimeRuntime": 95_000,
                "realtimePeriod": 100_000,
                "cpus": "0-1",
                "mems": "0",
            },
            "pids": {"limit": 30},
            "blockIO": {
                "weight": 500,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 20}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
                "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 2}],
                "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 3}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 4}],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 21}],
            "network": {"classID": 9, "priorities": [{"name": "eth0", "priority": 3}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}},
            "unified": {"memory.high": "1000000"},
        }
    )
    assert limits.memory_bytes == 1 << 28
    assert (limits.memory_swappiness, limits.oom_kill_disable, limits.check_before_update) == (0, True, True)
    assert (limits.cpu_shares, limits.cpu_quota_us, limits.cpu_period_us) == (512, 50_000, 100_000)
    assert (limits.cpuset_cpus, limits.cpuset_mems, limits.pids_max) == ("0-1", "0", 30)
    assert limits.blkio_weight_devices == (DeviceWeight(8, 0, 20),)
    assert [t.what for t in limits.blkio_throttle] == ["read_bps", "write_bps", "read_iops", "write_iops"]
    assert limits.blkio_throttle[3] == Throttle("write_iops", 8, 0, 4)
    assert limits.hugepages == (("2MB", 1 << 21),)
    assert (limits.net_class_id, limits.net_priorities) == (9, (("eth0", 3),))
    assert limits.rdma == (("mlx5_1", 3, 10),)
    assert limits.unified == (("memory.high", "1000000"),)


def test_zero_is_not_set() -> None:
    zeros = {"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0, "quota": 0, "period": 0}, "blockIO": {"weight": 0}}
    assert limits_from_resources(zeros) == NO_LIMITS
    assert limits_from_resources({"pids": {"limit": 0}}).pids_max == -1


def test_no_memory_limit_frees_swap_too() -> None:
    limits = limits_from_resources({"memory": {"limit": -1}})
    assert (limits.memory_bytes, limits.memory_swap_bytes) == (-1, -1)


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"memory": 5}, "memory"),
    ({"memory": {"limit": "1g"}}, "memory.limit"),
    ({"memory": {"limit": True}}, "memory.limit"),
    ({"memory": {"limit": -2}}, "memory.limit"),
    ({"memory": {"limit": 1 << 64}}, "memory.limit"),
    ({"memory": {"limit": 1.5}}, "memory.limit"),
    ({"memory": {"limit": 100, "swap": 50}}, "memory.swap"),
    ({"memory": {"limit": -1, "swap": 50}}, "memory.swap"),
    ({"memory": {"swappiness": 101}}, "memory"),
    ({"memory": {"swappiness": -2}}, "memory.swappiness"),
    ({"memory": {"disableOOMKiller": 1}}, "memory.disableOOMKiller"),
    ({"cpu": []}, "cpu"),
    ({"cpu": {"shares": 1}}, "cpu.shares"),
    ({"cpu": {"shares": 262145}}, "cpu.shares"),
    ({"cpu": {"shares": -5}}, "cpu.shares"),
    ({"cpu": {"period": 999}}, "cpu"),
    ({"cpu": {"period": 1_000_001}}, "cpu"),
    ({"cpu": {"quota": 999}}, "cpu"),
    ({"cpu": {"quota": -2}}, "cpu.quota"),
    ({"cpu": {"idle": 2}}, "cpu.idle"),
    ({"cpu": {"cpus": "a"}}, "cpu.cpus"),
    ({"cpu": {"cpus": "3-1"}}, "cpu.cpus"),
    ({"cpu": {"mems": "0-99999"}}, "cpu.mems"),
    ({"pids": {"limit": -2}}, "pids.limit"),
    ({"blockIO": {"weight": 9}}, "weight"),
    ({"blockIO": {"weight": 1001}}, "weight"),
    ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 5}]}}, "weight"),
    ({"blockIO": {"throttleReadBpsDevice": {}}}, "throttleReadBpsDevice"),
    ({"blockIO": {"throttleReadBpsDevice": [{"minor": 0, "rate": 5}]}}, "throttleReadBpsDevice[0]"),
    ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": -5}]}}, "throttleReadBpsDevice[0].rate"),
    ({"hugepageLimits": [{"pageSize": "2", "limit": 5}]}, "hugepageLimits[0]"),
    ({"hugepageLimits": [{"pageSize": "../x", "limit": 5}]}, "hugepageLimits[0]"),
    ({"network": {"classID": 1 << 32}}, "network.classID"),
    ({"unified": {"memory.high": 5}}, "unified"),
    ({"unified": {"../memory.high": "5"}}, "unified"),
    ({"unified": {"cgroup.procs": "5"}}, "unified"),
    ({"devices": {}}, "devices"),
    ({"devices": [{"access": "rwm"}]}, "devices[0]"),
    ({"devices": [{"allow": True, "type": "x"}]}, "devices[0]"),
    ({"devices": [{"allow": True, "type": "c", "access": "rx"}]}, "devices[0]"),
    ({"devices": [{"allow": True, "type": "c", "major": -5}]}, "devices[0]"),
    ({"devices": [{"allow": True, "major": 5}]}, "devices[0]"),
]


@pytest.mark.parametrize(("resources", "place"), MALFORMED, ids=lambda value: str(value)[:60])
def test_what_is_wrong_has_a_place(resources: dict[str, Any], place: str) -> None:
    with pytest.raises(Invalid) as caught:
        limits_from_resources(resources)
    assert place in caught.value.place


@pytest.mark.parametrize(
    "resources",
    [
        {"memory": {"kernel": 1 << 20}},
        {"blockIO": {"leafWeight": 100}},
        {"gpu": {}},
        {"devices": [{"allow": True, "access": "r"}]},
    ],
)
def test_what_is_not_done_is_said(resources: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        limits_from_resources(resources)


def test_device_rules_end_with_the_default_ones() -> None:
    deny: dict[str, Any] = {"allow": False, "access": "rwm"}
    fuse = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "wr"}
    rules = limits_from_resources({"devices": [deny, fuse]}).devices
    assert rules is not None
    assert rules[-len(DEFAULT_ALLOWED) :] == DEFAULT_ALLOWED
    assert DeviceRule(True, "c", 10, 229, "rw") in rules
    everything = limits_from_resources({"devices": [deny, {"allow": True}]}).devices
    assert everything is not None
    assert everything[-1] == ALLOW_ALL[0]


def test_lists_of_numbers() -> None:
    assert parse_cpu_list("0-2,5") == {0, 1, 2, 5}
    assert parse_cpu_list("7\n") == {7}
    for text in ("", ",", "1-", "-1", "1,,2", "x", "2-1", "1.5", "²"):
        with pytest.raises(BiremeError):
            parse_cpu_list(text)
