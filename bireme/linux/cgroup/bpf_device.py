"""Device rules on cgroup v2: a BPF program per rule list, attached to the cgroup.

v2 has no devices controller. The kernel runs BPF_PROG_TYPE_CGROUP_DEVICE programs of the cgroup and its ancestors on
every open and mknod of a device, with (access << 16 | type, major, minor), and refuses when one returns 0
(include/uapi/linux/bpf.h, struct bpf_cgroup_dev_ctx). A program is a list of blocks, one per exception of the policy:
wrong device, go on; else answer. The access asked for may have several bits: an exception that allows must cover all
of them, one that denies needs only one in common, as in v1.

Programs are attached with ALLOW_MULTI, the new one before the old is detached: the cgroup is never without rules.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING

from bireme.errors import Denied, Unsupported
from bireme.linux.libc import MACHINE, SyscallError, syscall

if TYPE_CHECKING:
    from bireme.linux.cgroup.devices import DevicePolicy

_BPF = 280 if MACHINE == "aarch64" else 321
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2

_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}

_LOAD_WORD, _AND32, _SHIFT_RIGHT32, _MOVE32 = 0x61, 0x54, 0x74, 0xBC
_JUMP_NOT, _JUMP_NOT_REGISTER, _JUMP_EQUAL, _MOVE64, _EXIT = 0x55, 0x5D, 0x15, 0xB7, 0x95
_INSTRUCTION = struct.Struct("<BBhi")
_NUMBER_MAX = (1 << 31) - 1

Instruction = tuple[int, int, int, int, int]
"""(code, destination, source, offset, immediate)"""

_R0, _CONTEXT, _TYPE, _WANTED, _MAJOR, _MINOR, _SCRATCH = range(7)


def assemble(policy: DevicePolicy) -> bytes:
    """The program that enforces `policy`."""
    code: list[Instruction] = [
        (_LOAD_WORD, _TYPE, _CONTEXT, 0, 0),
        (_MOVE32, _WANTED, _TYPE, 0, 0),
        (_AND32, _TYPE, 0, 0, 0xFFFF),
        (_SHIFT_RIGHT32, _WANTED, 0, 0, 16),
        (_LOAD_WORD, _MAJOR, _CONTEXT, 4, 0),
        (_LOAD_WORD, _MINOR, _CONTEXT, 8, 0),
    ]
    for (kind, major, minor), access in policy.exceptions.items():
        if max(major, minor) <= _NUMBER_MAX:
            code.extend(_block(_TYPES[kind], major, minor, access, allow=not policy.allow))
    code.extend(_answer(policy.allow))
    return b"".join(_INSTRUCTION.pack(c, dst | src << 4, off, imm) for c, dst, src, off, imm in code)


def _answer(allow: bool) -> list[Instruction]:
    return [(_MOVE64, _R0, 0, 0, int(allow)), (_EXIT, 0, 0, 0, 0)]


def _block(kind: int, major: int, minor: int, access: str, *, allow: bool) -> list[Instruction]:
    mask = sum(_ACCESS[letter] for letter in access)
    body: list[Instruction] = []
    if allow and mask != 7:
        body = [
            (_MOVE32, _SCRATCH, _WANTED, 0, 0),
            (_AND32, _SCRATCH, 0, 0, mask),
            (_JUMP_NOT_REGISTER, _SCRATCH, _WANTED, 2, 0),
        ]
    elif not allow and mask != 7:
        body = [(_MOVE32, _SCRATCH, _WANTED, 0, 0), (_AND32, _SCRATCH, 0, 0, mask), (_JUMP_EQUAL, _SCRATCH, 0, 2, 0)]
    body.extend(_answer(allow))
    tests = [(_TYPE, kind)] + [(r, n) for r, n in ((_MAJOR, major), (_MINOR, minor)) if n >= 0]
    for register, number in reversed(tests):
        body.insert(0, (_JUMP_NOT, register, 0, len(body), number))
    return body


def _bpf(command: int, attributes: bytes, subject: str) -> int:
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 120))
    return syscall("bpf", _BPF, command, buffer, len(buffer), subject=subject)


def load_program(program: bytes) -> int:
    """Load it and return its descriptor; Unsupported or Denied when this kernel will not."""
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Apache")
    attributes = struct.pack(
        "<IIQQIIQII16s",
        _TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_),
        0,
        0,
        0,
        0,
        0,
        b"bireme_devices",
    )
    try:
        return _bpf(_PROG_LOAD, attributes, "device program")
    except SyscallError as error:
        if error.errno == errno.EPERM:
            raise Denied(
                "device rules need the right to load BPF programs", place="bpf(2)", hint="CAP_BPF or CAP_SYS_ADMIN"
            ) from error
        raise Unsupported(f"this kernel does not load device programs: {error}", place="bpf(2)") from error


def replace_programs(cgroup_fd: int, program_fd: int) -> None:
    """Attach `program_fd` (-1: none) to the cgroup and detach every other device program of it."""
    before = _attached(cgroup_fd)
    if program_fd >= 0:
        _attach(_PROG_ATTACH, cgroup_fd, program_fd, _ALLOW_MULTI)
    for number in before:
        fd = _bpf(_PROG_GET_FD_BY_ID, struct.pack("<III", number, 0, 0), f"program {number}")
        try:
            _attach(_PROG_DETACH, cgroup_fd, fd, 0)
        finally:
            os.close(fd)


def attach_program(cgroup_fd: int, program_fd: int) -> None:
    """Attach to a cgroup that has none yet."""
    _attach(_PROG_ATTACH, cgroup_fd, program_fd, _ALLOW_MULTI)


def _attach(command: int, cgroup_fd: int, program_fd: int, flags: int) -> None:
    attributes = struct.pack("<IIIII", cgroup_fd, program_fd, _ATTACH_CGROUP_DEVICE, flags, 0)
    _bpf(command, attributes, "device program")


def _attached(cgroup_fd: int, room: int = 64) -> list[int]:
    numbers = (ctypes.c_uint32 * room)()
    attributes = struct.pack("<IIIIQII", cgroup_fd, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(numbers), room, 0)
    buffer = ctypes.create_string_buffer(attributes, 120)
    syscall("bpf", _BPF, _PROG_QUERY, buffer, len(buffer), subject="device programs")
    count = struct.unpack_from("<I", buffer, 24)[0]
    return list(numbers[:count])


class ProgramCache:
    """Loaded programs by their code, so that a thousand containers with the same rules share one."""

    def __init__(self, keep: int = 16) -> None:
        self._keep = keep
        self._programs: dict[bytes, int] = {}

    def get(self, policy: DevicePolicy) -> int:
        """A descriptor (the cache's own), or -1 when everything is allowed."""
        if policy.allow and not policy.exceptions:
            return -1
        code = assemble(policy)
        fd = self._programs.get(code)
        if fd is None:
            if len(self._programs) >= self._keep:
                os.close(self._programs.pop(next(iter(self._programs))))
            fd = self._programs[code] = load_program(code)
        return fd

    def close(self) -> None:
        for fd in self._programs.values():
            os.close(fd)
        self._programs = {}
