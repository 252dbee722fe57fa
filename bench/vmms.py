"""The virtual machine monitors that are measured: ours, and QEMU with its two x86 machines. All get the same kernel,
initial RAM disk, command line, disk and TAP; all run in KVM with one thread per vCPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

QEMU_ROOT = Path("/opt/qemu")
QEMU_DISK = Path("/dev/vdd")
SHARED = "work"
"""Directory of QEMU_ROOT where the files of a run are seen from inside."""


class Setup(NamedTuple):
    """A machine to make; paths are absolute, files lie in one directory."""

    kernel: Path
    initrd: Path
    work: str
    memory_mib: int = 256
    vcpus: int = 1
    disk: Path | None = None
    tap: str = ""

    @property
    def cmdline(self) -> str:
        return f"console=ttyS0 quiet panic=-1 bench={self.work}"


class Ours:
    """`bireme-vmm` from the command line: the interpreter's start is in its time, as QEMU's loading is in QEMU's."""

    name = "bireme"
    guest_memory = "bireme-guest"

    def argv(self, setup: Setup) -> list[str]:
        argv = [sys.executable, "-m", "bireme.vmm.main", "--serial", "--debug-exit"]
        argv += ["--kernel", str(setup.kernel), "--initrd", str(setup.initrd), "--cmdline", setup.cmdline]
        argv += ["--memory", f"{setup.memory_mib}M", "--vcpus", str(setup.vcpus)]
        if setup.disk:
            argv += ["--disk", str(setup.disk)]
        if setup.tap:
            argv += ["--tap", setup.tap]
        return argv


class Qemu:
    """Debian's QEMU, from the second disk."""

    guest_memory = "memory-backend-memfd"

    def __init__(self, name: str, machine: str, bus: str) -> None:
        self.name = name
        self._machine = machine
        self._bus = bus

    def argv(self, setup: Setup) -> list[str]:
        argv = ["chroot", str(QEMU_ROOT), "/usr/bin/qemu-system-x86_64", "-accel", "kvm", "-cpu", "host"]
        argv += ["-M", f"{self._machine},memory-backend=mem", "-m", str(setup.memory_mib), "-smp", str(setup.vcpus)]
        argv += ["-object", f"memory-backend-memfd,id=mem,size={setup.memory_mib}M,share=on"]
        argv += ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
        argv += ["-kernel", self._seen(setup.kernel), "-initrd", self._seen(setup.initrd), "-append", setup.cmdline]
        argv += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
        argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        if setup.disk:
            argv += ["-drive", f"id=disk,if=none,format=raw,file={self._seen(setup.disk)}"]
            argv += ["-device", f"virtio-blk-{self._bus},drive=disk"]
        if setup.tap:
            argv += ["-netdev", f"tap,id=net,ifname={setup.tap},script=no,downscript=no"]
            argv += ["-device", f"virtio-net-{self._bus},netdev=net"]
        return argv

    @staticmethod
    def _seen(path: Path) -> str:
        return f"/{SHARED}/{path.name}"


def mount_qemu(directory: Path) -> None:
    """QEMU's disk as a root, with our devices and the directory of the runs in it."""
    QEMU_ROOT.mkdir(parents=True, exist_ok=True)
    for argv in (
        ["mount", "-o", "ro", str(QEMU_DISK), str(QEMU_ROOT)],
        ["mount", "--bind", "/dev", str(QEMU_ROOT / "dev")],
        ["mount", "-t", "proc", "proc", str(QEMU_ROOT / "proc")],
        ["mount", "-t", "tmpfs", "tmpfs", str(QEMU_ROOT / "tmp")],
        ["mount", "--bind", str(directory), str(QEMU_ROOT / SHARED)],
    ):
        subprocess.run(argv, check=True)


SUBJECTS: tuple[Ours | Qemu, ...] = (
    Ours(),
    Qemu("microvm", "microvm,acpi=on,pcie=off,isa-serial=on", "device"),
    Qemu("q35", "q35", "pci"),
)
