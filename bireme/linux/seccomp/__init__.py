"""Seccomp filters: profiles to BPF programs, and loading them. seccomp(2)."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterable
from functools import lru_cache

from bireme.errors import Denied, Invalid, Unsupported
from bireme.linux.libc import MACHINE, SyscallError, syscall
from bireme.linux.numbers import number
from bireme.linux.seccomp.compiler import compile_profile, profile_flags
from bireme.linux.seccomp.docker import default_profile, docker_profile_to_oci, parse_docker_profile

__all__ = [
    "DEFAULT_CAPS",
    "compile_profile",
    "default_profile",
    "default_program",
    "docker_profile_to_oci",
    "load",
    "parse_docker_profile",
    "prepare_default",
    "profile_flags",
]

DEFAULT_CAPS = frozenset(
    "CAP_" + name
    for name in (
        "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP "
        "SETUID SYS_CHROOT"
    ).split()
)
"""What a container holds when nobody asked otherwise."""

_SET_MODE_FILTER = 1
_programs: dict[frozenset[str], bytes] = {}


def default_program(caps: Iterable[str] = DEFAULT_CAPS) -> bytes:
    """The default profile's program for this machine and these capabilities; compiled once per set."""
    held = frozenset(caps)
    program = _programs.get(held)
    if program is None:
        program = _programs[held] = compile_profile(docker_profile_to_oci(default_profile(), held), MACHINE)
    return program


@lru_cache(maxsize=1)
def _header(program: bytes) -> bytes:
    """A struct sock_fprog, whose pointer leads into `program`: the cache keeps both."""
    address = ctypes.cast(ctypes.c_char_p(program), ctypes.c_void_p).value
    return struct.pack("@HP", len(program) // 8, address)


def prepare_default() -> None:
    """Have the default program and its header ready before a clone."""
    _header(default_program())


def load(program: bytes, flags: int = 0) -> None:
    """Put a filter on the calling thread and what it starts; it needs no_new_privs or CAP_SYS_ADMIN (Denied).

    `flags` as from `profile_flags`. Invalid when the kernel does not take the program.
    """
    header = _header(program)
    try:
        syscall("seccomp", number("seccomp"), _SET_MODE_FILTER, flags, header)
    except SyscallError as error:
        if error.errno == errno.EACCES:
            raise Denied("a seccomp filter needs no_new_privs or CAP_SYS_ADMIN", place="seccomp(2)") from error
        if error.errno == errno.ENOSYS:
            raise Unsupported("this kernel has no seccomp filters", place="seccomp(2)") from error
        raise Invalid(f"the kernel refuses the seccomp filter: {error}", place="seccomp(2)") from error
