"""When a monitor has made its VM and first enters the guest, seen from the kernel: works for every monitor alike.

A probe on KVM's own ioctl (KVM_CREATE_VM) and the tracepoint of guest entry, which the first exit switches off (an
event that switches itself off is not recorded), with the clock that Python's time.monotonic reads.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

TRACING = Path("/sys/kernel/tracing")
_CREATE_VM = 0xAE01
_ONCE = "disable_event:kvm:kvm_entry:1"
_LINE = re.compile(r"\s(\d+\.\d+): (made|kvm_entry):")


class Phases:
    """`begin` before a run, `read` after it."""

    def __init__(self) -> None:
        if not (TRACING / "kprobe_events").exists():
            subprocess.run(["mount", "-t", "tracefs", "tracefs", str(TRACING)], check=True)
        self._armed = False
        self._write("trace_clock", "mono")
        self._write("kprobe_events", "p:bench/made kvm_dev_ioctl cmd=%si:u32")
        self._write("events/bench/made/filter", f"cmd == {_CREATE_VM}")
        self._write("events/bench/made/enable", "1")

    def begin(self) -> None:
        self._write("events/kvm/kvm_entry/enable", "0")
        self._write("trace", "")
        if self._armed:
            self._write("events/kvm/kvm_exit/trigger", f"!{_ONCE}")
        self._write("events/kvm/kvm_entry/enable", "1")
        self._write("events/kvm/kvm_exit/trigger", _ONCE)
        self._armed = True

    def read(self) -> dict[str, float]:
        """made and entered: seconds of CLOCK_MONOTONIC."""
        found: dict[str, float] = {}
        for at, name in _LINE.findall((TRACING / "trace").read_text()):
            found.setdefault({"kvm_entry": "entered"}.get(name, name), float(at))
        return found

    @staticmethod
    def _write(name: str, text: str) -> None:
        (TRACING / name).write_text(text)
