"""One run of the emulated machine: QEMU without KVM, the cached disk untouched, its second serial port shown live."""

from __future__ import annotations

import contextlib
import io
import os
import selectors
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from tests.guest.image import Image

RESULT_BYTES = 32 << 20
PULSE_AT = RESULT_BYTES - (1 << 20)
"""Where on the results disk files/lane.py writes every few seconds: a counter, then a line for each finished test."""
SILENT_S = 90.0
"""Without a new pulse for so long, its boot included, the machine has stalled: it pulses every 2 s, and boots in 20."""
PANIC = "Kernel panic - not syncing"
MONITOR = "monitor"
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
    argv += ["-monitor", f"unix:{console.parent / MONITOR},server=on,wait=off"]
    for disk in disks:
        argv += ["-drive", f"if=virtio,{disk}"]
    return argv


class MachineDied(Exception):
    """Not a test's verdict: nothing that runs in user space, as the tests do, may bring a kernel down or stop it.

    `finished` has a line for each test that had ended by then: `passed` or `failed`, and its name.
    """

    def __init__(self, why: str, finished: Sequence[str]) -> None:
        super().__init__(why)
        self.finished = finished


class Pulse:
    """What the machine says of itself on the results disk, and since when it has said nothing new."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk
        self.last = b""
        self.since = time.monotonic()

    def stalled(self) -> bool:
        now = self._read()
        if now != self.last:
            self.last, self.since = now, time.monotonic()
        return time.monotonic() - self.since > SILENT_S

    def finished(self) -> list[str]:
        """A line for each test that ended; its last line may be a torn one, and is not counted."""
        return self._read().decode(errors="replace").split("\n")[1:-1]

    def _read(self) -> bytes:
        with self.disk.open("rb") as file:
            file.seek(PULSE_AT)
            return file.read().rstrip(b"\0")


def stream(pipe: IO[bytes], deadline: float, pulse: Pulse) -> str:
    """Copy the machine's output to ours until it ends: "" then, or why we did not wait for that."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if pulse.stalled():
                return "stalled"
            if not selector.select(min(left, 5.0)):
                continue
            chunk = os.read(pipe.fileno(), 65536)
            if not chunk:
                return ""
            sys.stdout.write(chunk.decode(errors="replace").replace("\r\n", "\n"))
            sys.stdout.flush()
    return "time is up"


def processors(monitor: Path) -> Iterator[str]:
    """Where each processor of a stalled machine stands, twice: a halted one and one that runs in a circle differ."""
    words = ("CPU#", "RIP=", "VM status", "HLT=", "CR0=")
    for _ in range(2):
        try:
            said = ask(monitor, b"info status\ninfo registers -a\n") or "VM status: no answer"
        except OSError as error:
            said = f"VM status: {error}"
        yield from (line.strip() for line in said.splitlines() if any(word in line for word in words))


def ask(monitor: Path, question: bytes) -> str:
    """What QEMU's monitor answers until it is silent for a second."""
    said = b""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        client.connect(str(monitor))
        client.sendall(question)
        with contextlib.suppress(TimeoutError):
            while more := client.recv(1 << 16):
                said += more
    return said.decode(errors="replace")


def boot(image: Image, source: Path, scratch: Path, timeout_s: float, more: Sequence[Path] = ()) -> dict[str, bytes]:
    """Run the machine until it powers off; the files that it left on the results disk (none when it left none).

    `more` are disks besides the lane's own: /dev/vdd and so on. MachineDied when its kernel panicked or it stalled.
    """
    results, console = scratch / "results.img", scratch / "console.log"
    results.write_bytes(b"")
    os.truncate(results, RESULT_BYTES)
    pulse = Pulse(results)
    argv = command(image, source, results, console, more)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdout is not None
        try:
            unfinished = stream(qemu.stdout, time.monotonic() + timeout_s, pulse)
            if unfinished:
                print(f"\nguest: {unfinished}; its processors:", *processors(scratch / MONITOR), sep="\n", flush=True)
        finally:
            qemu.kill()
    files = read_results(results)
    if "code" not in files and console.exists():
        said = console.read_text(errors="replace")
        print("guest: no result; the end of its console:\n" + said[-6000:], flush=True)
        if PANIC in said:
            raise MachineDied("the kernel of the emulated machine itself panicked", pulse.finished())
        if unfinished == "stalled":
            raise MachineDied(f"the emulated machine itself stood still for {SILENT_S:.0f} s", pulse.finished())
    return files


def read_results(disk: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(disk.read_bytes())) as archive:
            members = [member for member in archive if member.isfile()]
            return {Path(member.name).name: file.read() for member in members if (file := archive.extractfile(member))}
    except tarfile.ReadError:
        return {}
