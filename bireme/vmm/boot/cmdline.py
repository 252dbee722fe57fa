"""The kernel command line: what this machine needs said, judged by what each word saves or costs.

A word is here because a distribution's kernel would otherwise probe (each port access is an exit served by Python),
wait or allocate for hardware that this machine does not have. Nothing here is policy: mitigations, address
randomisation and the like stay as the kernel has them.

Judged and left out: `i8042.*` (the FADT says there is none), `no_timer_check` (set by the kernel itself under KVM),
`nomodule` (drivers are modules), `nokaslr` (policy), `clocksource=` (the KVM clock is the default), `lpj=` (known from
the TSC's frequency).
"""

from __future__ import annotations

from bireme.errors import Invalid

MAX_BYTES = 2047
"""x86's COMMAND_LINE_SIZE without the final zero; what a PVH kernel takes."""

WORDS = (
    ("quiet", "one exit per byte of console output"),
    ("panic=-1", "a panic restarts at once, which ends the machine instead of leaving it spinning"),
    (
        "reboot=a",
        "the FADT's reset register: hardware-reduced ACPI makes x86 ask a UEFI that is not there, then the BIOS",
    ),
    ("pci=off", "no bus to find: no look at the configuration ports, no scan for slots"),
    (
        "tsc=reliable",
        "no synchronisation test between vCPUs: KVM keeps them together, and each test takes milliseconds",
    ),
    ("random.trust_cpu=on", "the processor's own generator seeds the first entropy: the host is trusted with more"),
    ("swiotlb=noforce", "no 64 MiB of bounce buffers: virtio-mmio reads the guest's memory directly"),
)
NO_SERIAL = ("8250.nr_uarts=0", "no probing for four serial ports that are not there")
SERIAL = ("8250.nr_uarts=1 console=ttyS0", "the one serial port, and messages to it")


def compose_cmdline(extra: str = "", *, serial: bool = False) -> str:
    """Our words, then the caller's: where both say something, the kernel believes the later one."""
    words = [word for word, _ in (*WORDS, SERIAL if serial else NO_SERIAL)]
    return " ".join([*words, *extra.split()])


def encode_cmdline(text: str, limit: int = MAX_BYTES) -> bytes:
    """Zero-terminated bytes; Invalid for zeros and line ends, and for more than `limit` bytes."""
    if any(character in text for character in "\0\n\r"):
        raise Invalid("the kernel command line contains a zero or a line end", subject="cmdline")
    data = text.encode()
    if len(data) > limit:
        raise Invalid(
            f"the kernel command line is {len(data)} bytes long, this kernel takes {limit}", subject="cmdline"
        )
    return data + b"\0"
