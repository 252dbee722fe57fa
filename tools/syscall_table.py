"""Writes bireme/linux/seccomp/syscalls.json: the number of every system call on each architecture.

Numbers come from the installed libseccomp and are checked against the kernel headers; calls newer than both have one
number everywhere (Linux assigns them so since 5.1) and are listed here. Run it on a Debian with libseccomp2,
python3-pyseccomp or the development extras, and linux-libc-dev:

    .venv/bin/python tools/syscall_table.py
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pyseccomp

TARGET = Path(__file__).parents[1] / "bireme/linux/seccomp/syscalls.json"
ARCHES = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
HEADERS = {"x86_64": "unistd_64.h", "i386": "unistd_32.h"}
SINCE_5_17 = {
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}
X86_64_ONLY = {"uretprobe": 335, "uprobe": 336}


def resolved(arch: int) -> dict[str, int]:
    """Every call libseccomp knows on `arch`."""
    library = pyseccomp._libseccomp
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    free = ctypes.CDLL(None).free  # noqa: TID251
    free.argtypes = [ctypes.c_void_p]
    found = {}
    for number in [*range(600), *range(0xF0000, 0xF0010)]:
        pointer = library.seccomp_syscall_resolve_num_arch(ctypes.c_uint32(arch), ctypes.c_int(number))
        if pointer:
            found[ctypes.string_at(pointer).decode()] = number
            free(pointer)
    return found


def header(name: str) -> dict[str, int]:
    text = Path("/usr/include/x86_64-linux-gnu/asm", name).read_text()
    return {call: int(number) for call, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}


def main() -> None:
    tables = {}
    for arch, token in ARCHES.items():
        table = resolved(token) | SINCE_5_17 | (X86_64_ONLY if arch == "x86_64" else {})
        if arch in HEADERS:
            for call, number in header(HEADERS[arch]).items():
                if table.setdefault(call, number) != number:
                    raise SystemExit(f"{arch} {call}: {table[call]} in libseccomp, {number} in the headers")
        tables[arch] = table
    names = sorted(set().union(*tables.values()))
    rows = []
    for name in names:
        numbers = ", ".join(str(tables[arch][name]) if name in tables[arch] else "null" for arch in ARCHES)
        rows.append(f'    "{name}": [{numbers}]')
    arches = ", ".join(f'"{arch}"' for arch in ARCHES)
    TARGET.write_text(f'{{\n  "architectures": [{arches}],\n  "calls": {{\n' + ",\n".join(rows) + "\n  }\n}\n")


if __name__ == "__main__":
    main()
