"""One run of the emulated machine: QEMU without KVM, the cached disk untouched, its second serial port shown live."""

from __future__ import annotations

import io
import os
import selectors
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.guest.image import Image

RESULT_BYTES = 32 << 20
PANIC = "Kernel panic - not syncing"
MEMORY_MIB = 4096
CPU = "EPYC,+svm,+npt"
"""The one model whose SVM the lane's kvm_amd takes; as fast as `max` for everything else."""
NOT_EMULATED = "rdseed sha-ni fxsr-opt misalignsse 3dnowprefetch osvw topoext nrip-save xsavec"
"""What the model has and the emulator has not: left out by name, or each is a warning."""


def cpu_model() -> str:
    return ",".join([CPU, *(f"-{name}" for name in NOT_EMULATED.split())])


def command(image: Image, source: Path, results: Path, console: Path, more: Sequence[Path] = ()) -> list[str]:
    """The QEMU command line: virtio disks (root with discarded writes, checkout, results, more that is only read), two
    serial ports."""
    disks = [
        f"file={image.disk},format=raw,snapshot=on,cache=unsafe",
        f"file={source},format=raw,readonly=on",
        f"file={results},format=raw,cache=unsafe",
        *(f"file={path},format=raw,readonly=on" for path in more),
    ]
    argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", cpu_model(), "-machine", "q35"]
    argv += ["-smp", str(min(4, os.cpu_count() or 1)), "-m", str(MEMORY_MIB), "-nodefaults", "-no-reboot"]
    argv += ["-display", "none", "-kernel", str(image.kernel), "-initrd", str(image.initramfs)]
    argv += ["-append", "console=ttyS0 quiet panic=-1 mitigations=off systemd.show_status=no nowatchdog"]
    argv += ["-serial", f"file:{console}", "-chardev", "stdio,id=lane,signal=off", "-serial", "chardev:lane"]
    for disk in disks:
        argv += ["-drive", f"if=virtio,{disk}"]
    return argv


def stream(pipe: IO[bytes], deadline: float) -> bool:
    """Copy the machine's output to ours until it ends; False when the deadline came first."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                return False
            chunk = os.read(pipe.fileno(), 65536)
            if not chunk:
                return True
            sys.stdout.write(chunk.decode(errors="replace").replace("\r\n", "\n"))
            sys.stdout.flush()
    return False


class MachineDied(Exception):
    """Not a test's verdict: nothing that runs in user space, as the tests do, may bring a kernel down."""


def boot(image: Image, source: Path, scratch: Path, timeout_s: float, more: Sequence[Path] = ()) -> dict[str, bytes]:
    """Run the machine until it powers off; the files that it left on the results disk (none when it left none).

    `more` are disks besides the lane's own: /dev/vdd and so on. MachineDied when its kernel panicked.
    """
    results, console = scratch / "results.img", scratch / "console.log"
    results.write_bytes(b"")
    os.truncate(results, RESULT_BYTES)
    argv = command(image, source, results, console, more)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdout is not None
        try:
            finished = stream(qemu.stdout, time.monotonic() + timeout_s)
        finally:
            qemu.kill()
    if not finished:
        print(f"guest: the machine was still up after {timeout_s:.0f} s", flush=True)
    files = read_results(results)
    if "code" not in files and console.exists():
        said = console.read_text(errors="replace")
        print("guest: no result; the end of its console:\n" + said[-6000:], flush=True)
        if PANIC in said:
            raise MachineDied("the kernel of the emulated machine itself panicked")
    return files


def read_results(disk: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(disk.read_bytes())) as archive:
            members = [member for member in archive if member.isfile()]
            return {Path(member.name).name: file.read() for member in members if (file := archive.extractfile(member))}
    except tarfile.ReadError:
        return {}
