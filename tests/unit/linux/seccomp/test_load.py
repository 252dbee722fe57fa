"""A real filter in a real child; no privileges needed."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from bireme.errors import Invalid
from bireme.linux.libc import MACHINE
from bireme.linux.process import clone3, set_no_new_privs
from bireme.linux.seccomp import compile_profile, default_program, load

ALLOW_ALL = {"defaultAction": "SCMP_ACT_ALLOW"}


def child_code(program: bytes, action: object) -> int:
    """The child's exit code: 0, an errno, or minus a signal."""
    pid, _ = clone3()
    if pid == 0:
        code = 99
        try:
            set_no_new_privs()
            load(program)
            assert callable(action)
            action()
            code = 0
        except OSError as error:
            code = error.errno or 98
        except BaseException:
            code = 97
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def rule(action: str, **more: object) -> bytes:
    call = {"names": ["getpriority"], "action": action, **more}
    return compile_profile({**ALLOW_ALL, "syscalls": [call]}, MACHINE)


def get_priority() -> None:
    os.getpriority(os.PRIO_PROCESS, 0)


def test_the_default_filter_lets_python_work() -> None:
    def work() -> None:
        get_priority()
        socket.socket().close()
        os.close(os.open("/dev/null", os.O_RDONLY))

    assert child_code(default_program(), work) == 0


def test_the_default_filter_refuses() -> None:
    assert child_code(default_program(set()), lambda: os.chroot("/")) == errno.EPERM
    assert child_code(default_program(), lambda: socket.socket(38, 5, 0)) == errno.EPERM


@pytest.mark.parametrize(
    ("action", "more", "code"),
    [
        ("SCMP_ACT_ERRNO", {}, errno.EPERM),
        ("SCMP_ACT_ERRNO", {"errnoRet": errno.EDOM}, errno.EDOM),
        ("SCMP_ACT_KILL", {}, -31),
        ("SCMP_ACT_KILL_PROCESS", {}, -31),
        ("SCMP_ACT_TRAP", {}, -31),
        ("SCMP_ACT_LOG", {}, 0),
        ("SCMP_ACT_TRACE", {}, errno.ENOSYS),
        ("SCMP_ACT_ALLOW", {}, 0),
        ("SCMP_ACT_ERRNO", {"args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 0}]}, errno.EPERM),
        ("SCMP_ACT_ERRNO", {"args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 1}]}, 0),
    ],
)
def test_actions_act(action: str, more: dict[str, object], code: int) -> None:
    assert child_code(rule(action, **more), get_priority) == code


def test_a_program_that_is_none() -> None:
    with pytest.raises(Invalid):
        load(b"\xff" * 16)
