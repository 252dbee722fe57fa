"""What a boot test needs: distributions' kernels, and an initial RAM disk whose first process ends the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from bireme.image.kernelfile import extract_vmlinux, parse_kernel
from bireme.image.kernels import KernelStore
from tests.guest.image import cpio_entry
from tests.support.microvms import kernel_store
from tests.support.pace import patience

KERNELS = Path("/opt/kernels")
UNPACKED = Path("/var/tmp/bireme-unpacked")
SOURCE = Path(__file__).with_name("bootinit.c")


class Boot(NamedTuple):
    """How one run of bireme-vmm ended; `guest` is what its first process said, word by word."""

    code: int
    output: str
    errors: str
    explained: dict[str, Any]

    @property
    def guest(self) -> dict[str, str]:
        line = next((line for line in self.output.splitlines() if line.startswith("guest ")), "")
        return dict(word.partition("=")[::2] for word in line.split()[1:])


def release(flavour: str) -> str:
    return (KERNELS / flavour / "release").read_text().strip()


def kernel(flavour: str, form: str) -> Path:
    """The path of a kernel as `bzimage` or `vmlinux`; the latter is unpacked once, which takes seconds under emulation:
    the cloud kernel by the store that machines of the engine start from."""
    packed = KERNELS / flavour / "vmlinuz"
    if form == "bzimage":
        return packed
    if flavour == "cloud":
        return Path(KernelStore(str(kernel_store())).resolve().image_path)
    unpacked = UNPACKED / f"vmlinux-{flavour}"
    if not unpacked.exists():
        UNPACKED.mkdir(exist_ok=True)
        data = packed.read_bytes()
        unpacked.write_bytes(extract_vmlinux(data, parse_kernel(data)))
    return unpacked


def make_initrd(scratch: Path) -> Path:
    program, initrd = scratch / "init", scratch / "initrd"
    subprocess.run(["gcc", "-O2", "-static", "-s", "-o", program, SOURCE], check=True)
    members = [cpio_entry("dev", 0o040755), cpio_entry("init", 0o100755, program.read_bytes())]
    initrd.write_bytes(b"".join([*members, cpio_entry("TRAILER!!!", 0)]))
    return initrd


def boot(kernel_file: Path, initrd: Path, *options: str, timeout_s: float = 60.0) -> Boot:
    """Run a machine with the serial port on and wait for its end."""
    argv = [sys.executable, "-m", "bireme.vmm.main", "--kernel", kernel_file, "--initrd", initrd]
    argv += ["--explain", "--timeout", str(patience(timeout_s)), *options]  # argparse takes the last of a kind
    run = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    print(run.stdout, run.stderr)
    last = run.stderr.splitlines()[-1] if run.stderr else ""
    explained = json.loads(last.partition(": ")[2]) if last.startswith("bireme-vmm: {") else {}
    return Boot(run.returncode, run.stdout, run.stderr, explained)
