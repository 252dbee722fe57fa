from __future__ import annotations

import re
from pathlib import Path

import pytest

from bireme.linux.numbers import number
from bireme.linux.seccomp import table


@pytest.mark.parametrize(("arch", "header"), [("x86_64", "unistd_64.h"), ("i386", "unistd_32.h")])
def test_numbers_are_the_kernel_headers(arch: str, header: str) -> None:
    path = Path("/usr/include/x86_64-linux-gnu/asm", header)
    if not path.exists():
        pytest.skip("no kernel headers here")
    found = {n: int(v) for n, v in re.findall(r"#define __NR_(\w+) (\d+)", path.read_text())}
    known = table.syscalls(arch)
    assert {n: known.get(n) for n in found} == found


def test_no_number_has_two_names() -> None:
    for arch in table.AUDIT_ARCH:
        numbers = list(table.syscalls(arch).values())
        assert len(numbers) == len(set(numbers)) > 300


def test_the_package_agrees_with_itself() -> None:
    assert number("seccomp") in (table.syscalls("x86_64")["seccomp"], table.syscalls("aarch64")["seccomp"])
