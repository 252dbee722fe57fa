"""The program: options, exit statuses, errors that say what to do; machines in real mode where there is KVM."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bireme.vmm.machine import MachineEnd
from bireme.vmm.main import DiskOption, exit_status, parse, parse_disk, parse_size
from tests.support.kernelfile import PT_LOAD, Part, elf, pvh_note


@pytest.mark.parametrize(
    ("text", "size"), [("65536", 65536), ("4k", 4096), ("512M", 512 << 20), ("1g", 1 << 30), ("2GiB", 2 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1", "1T"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_size(text)


def test_disks() -> None:
    assert parse_disk("a.img") == DiskOption("a.img", False)
    assert parse_disk("a,b.img,ro") == DiskOption("a,b.img", True)
    options = parse(["--kernel", "k", "--disk", "a", "--disk", "b,ro"])
    assert [disk.read_only for disk in options.disk] == [False, True]


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (MachineEnd("power-off"), 0),
        (MachineEnd("reset"), 0),
        (MachineEnd("debug-exit", "", 7), 7),
        (MachineEnd("triple-fault"), 255),
        (MachineEnd("stopped"), 255),
    ],
)
def test_exit_statuses(end: MachineEnd, status: int) -> None:
    assert exit_status(end) == status


def run(*options: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "bireme.vmm.main", "--timeout", "60", *options]
    return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A PVH kernel: writes "hi" to the serial port, then 42 to the debug exit."""
    code = "66baf803 b068 ee b069 ee b02a e6f4 ebfe"
    path = tmp_path / "kernel"
    path.write_bytes(elf([Part(PT_LOAD, 0x100000, bytes.fromhex(code)), pvh_note(0x100000)]))
    return path


@pytest.mark.needs_kvm
def test_a_machine_runs_to_its_number(kernel: Path) -> None:
    done = run("--kernel", kernel, "--serial", "--debug-exit", "--memory", "32M", "--vcpus", "2", "--explain")
    assert (done.returncode, done.stdout) == (42, "hi")
    described = json.loads(done.stderr.partition(": ")[2])
    assert described["vcpus"][0]["exits"]["io"] == 3


@pytest.mark.needs_kvm
def test_with_devices_and_without_an_end(kernel: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    done = run(
        *("--kernel", kernel, "--memory", "32M", "--disk", tmp_path / "disk", "--rng", "--timeout", "0.1", "--explain")
    )
    assert done.returncode == 255
    said, described = done.stderr.splitlines()
    assert said == "bireme-vmm: stopped: time is up"
    found = json.loads(described.partition(": ")[2])
    assert [device["name"] for device in found["devices"]] == ["disk0", "rng", "console"]
    assert [process["name"] for process in found["processes"]] == ["block", "entropy"]


@pytest.mark.needs_kvm
def test_errors_are_one_line(kernel: Path, tmp_path: Path) -> None:
    for options, words in [
        (["--kernel", tmp_path / "absent"], "no such file"),
        (["--kernel", os.devnull], "not a kernel"),
        (["--kernel", kernel, "--vcpus", "1000"], "1000 vCPUs"),
        (["--kernel", kernel, "--memory", "8M"], "at least 18 MiB"),
        (["--kernel", kernel, "--memory", "5000"], "number of pages"),
        (["--kernel", kernel, "--disk", tmp_path / "absent"], "absent"),
        (["--kernel", kernel, "--tap", "a/b"], "a/b"),
    ]:
        done = run(*options)
        assert done.returncode == 255
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert words in done.stderr
