"""Interpreters of the two BPF dialects this project writes: enough to ask a program what it answers."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_WORD = 0xFFFFFFFF


class SeccompFilter:
    """Classic BPF over struct seccomp_data (seccomp(2))."""

    def __init__(self, program: bytes) -> None:
        assert len(program) % 8 == 0
        self.code = list(struct.iter_unpack("=HBBI", program))

    def run(self, number: int, arch: int, arguments: Sequence[int] = ()) -> int:
        """The return value for one call; fails on a program the kernel would refuse."""
        padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
        data = struct.pack("=IIQ6Q", number & _WORD, arch, 0, *padded)
        accumulator, position = 0, 0
        for _ in range(len(self.code) + 1):
            code, jt, jf, k = self.code[position]
            position += 1
            match code:
                case 0x20:
                    assert k % 4 == 0
                    accumulator = struct.unpack_from("=I", data, k)[0]
                case 0x54:
                    accumulator &= k
                case 0x05:
                    position += k
                case 0x15:
                    position += jt if accumulator == k else jf
                case 0x25:
                    position += jt if accumulator > k else jf
                case 0x35:
                    position += jt if accumulator >= k else jf
                case 0x06:
                    return int(k)
                case _:
                    raise AssertionError(f"code {code:#x}")
        raise AssertionError("no return")


class DeviceProgram:
    """The subset of eBPF that cgroup device programs use, over struct bpf_cgroup_dev_ctx."""

    def __init__(self, program: bytes) -> None:
        assert len(program) % 8 == 0
        self.code = list(struct.iter_unpack("<BBhi", program))

    def run(self, kind: int, access: int, major: int, minor: int) -> int:
        context = struct.pack("<III", access << 16 | kind, major, minor)
        registers = [0] * 11
        position = 0
        while True:
            code, both, offset, immediate = self.code[position]
            target, source = both & 15, both >> 4
            position += 1
            match code:
                case 0x61:
                    registers[target] = struct.unpack_from("<I", context, offset)[0]
                case 0x54:
                    registers[target] = registers[target] & immediate & _WORD
                case 0x74:
                    registers[target] >>= immediate
                case 0xBC:
                    registers[target] = registers[source] & _WORD
                case 0xB7:
                    registers[target] = immediate
                case 0x55:
                    position += offset if registers[target] != immediate else 0
                case 0x15:
                    position += offset if registers[target] == immediate else 0
                case 0x5D:
                    position += offset if registers[target] != registers[source] else 0
                case 0x95:
                    return registers[0]
                case _:
                    raise AssertionError(f"code {code:#x}")
