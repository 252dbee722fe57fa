"""What the kernel's text files say, taken apart."""

from __future__ import annotations

import os

from bireme.supervisor.explain import parse_mount, security_of
from bireme.supervisor.operations import network_counters


def test_a_mount_line() -> None:
    line = "36 35 98:0 /mnt1 /mnt/two rw,noatime master:1 shared:7 - overlay /dev/root rw,errors=continue"
    assert parse_mount(line) == {
        "target": "/mnt/two",
        "type": "overlay",
        "source": "/dev/root",
        "root": "/mnt1",
        "flags": "rw,noatime",
        "propagation": "master:1 shared:7",
        "options": "rw,errors=continue",
    }
    assert parse_mount("1 0 0:1 / / rw - tmpfs none rw")["propagation"] == "private"


def test_our_own_security() -> None:
    found = security_of(os.getpid())
    assert found["seccomp"] in ("off", "filter")
    assert isinstance(found["capabilities"], list)
    assert security_of(1 << 22) == {}


def test_counters_leave_loopback_out() -> None:
    found = network_counters(os.getpid())
    assert "lo" not in found
    assert all(set(counters) >= {"rx_bytes", "tx_dropped"} for counters in found.values())
    assert network_counters(1 << 22) == {}
