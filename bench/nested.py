"""`make bench BENCH=vmm`: boots the emulated machine with nested KVM and a disk with QEMU, and runs bench/vmm.py in it.

Everything runs under an emulated processor: figures are many times slower than a real machine's, and an exit costs
more in proportion. What counts are the ratios.
"""

from __future__ import annotations

from bench import vmm
from tests.guest.__main__ import run_inside
from tests.guest.peer import peer_disk

TIMEOUT_S = 3000.0


def run(arguments: list[str]) -> int:
    """Measure: arguments as of bench/vmm.py; the exit code of the run."""
    vmm.parse(arguments)
    files = run_inside({"program": ["-m", "bench.vmm", *arguments]}, [peer_disk()], TIMEOUT_S)
    return int(files.get("code", b"125"))
