"""Having memory before it is needed: a fresh clone pays for every page when it first touches it, this pays at once."""

from __future__ import annotations

import errno

from bireme.linux.libc import SyscallError, syscall
from bireme.linux.numbers import number

_MADVISE = number("madvise")
_POPULATE_READ = 22
_POPULATE_WRITE = 23
_GROWS_DOWN = "[stack]"
_EHWPOISON = 133


def populate() -> int:
    """Map every page of our programs' text and take a copy of every private page we may write to; how many ranges.

    madvise(2), MADV_POPULATE_READ and _WRITE; nothing happens before Linux 5.14.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        wanted = wanted_ranges(file.read())
    for start, end, advice in wanted:
        try:
            syscall("madvise", _MADVISE, start, end - start, advice)
        except SyscallError as error:
            if error.errno == errno.EINVAL:
                return 0
            if error.errno not in (errno.ENOMEM, errno.EFAULT, _EHWPOISON):
                raise
    return len(wanted)


def wanted_ranges(maps: str) -> list[tuple[int, int, int]]:
    """(start, end, advice) of the lines of proc_pid_maps(5) that are worth it: text, and what is private and writable.

    Of the stack only what is mapped counts, and the kernel's own pages are left alone.
    """
    found = []
    for line in maps.splitlines():
        words = line.split(maxsplit=5)
        rights, name = words[1], words[5] if len(words) == 6 else ""
        start, _, end = words[0].partition("-")
        if rights[0] != "r" or rights[3] != "p" or (name.startswith("[v") and name != _GROWS_DOWN):
            continue
        if rights[1] == "w":
            found.append((int(start, 16), int(end, 16), _POPULATE_WRITE))
        elif rights[2] == "x":
            found.append((int(start, 16), int(end, 16), _POPULATE_READ))
    return found
