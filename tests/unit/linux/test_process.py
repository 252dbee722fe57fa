import os
import signal
from pathlib import Path

import pytest

from bireme.linux import process
from bireme.linux.libc import SyscallError


def _child(code: int) -> tuple[int, int]:
    pid, pidfd = process.clone3(0, pidfd=True)
    if pid == 0:
        os._exit(code)
    return pid, pidfd


def test_clone3_gives_pid_and_pidfd_and_exit_code() -> None:
    pid, pidfd = _child(7)
    try:
        assert not os.get_inheritable(pidfd)
        assert process.wait_pidfd(pidfd, keep=True) == process.Exit(pid, 7, 0)
        assert process.wait_pidfd(pidfd) == process.Exit(pid, 7, 0)
        with pytest.raises(ChildProcessError):
            process.wait_pidfd(pidfd)
    finally:
        os.close(pidfd)


def test_wait_without_blocking_says_none_while_it_runs_and_signals_arrive() -> None:
    reader, writer = os.pipe()
    pid, pidfd = process.clone3(0, pidfd=True)
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    try:
        assert process.wait_pid(pid, block=False) is None
        assert process.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert process.wait_pid(pid) == process.Exit(pid, 137, 9)
        assert not process.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(writer)
        os.close(pidfd)


def test_pidfd_open_of_no_process_is_esrch() -> None:
    pid, pidfd = _child(0)
    process.wait_pidfd(pidfd)
    os.close(pidfd)
    with pytest.raises(SyscallError) as caught:
        process.pidfd_open(pid)
    assert caught.value.call == "pidfd_open"


def test_clone_parent_gives_the_child_to_the_grandparent() -> None:
    reader, writer = os.pipe()
    first, first_pidfd = process.clone3(0, pidfd=True)
    if first == 0:
        second, _ = process.clone3(process.CloneFlags.CLONE_PARENT)
        if second == 0:
            os._exit(9)
        os.write(writer, b"%d" % second)
        os._exit(0)
    os.close(writer)
    try:
        process.wait_pidfd(first_pidfd)
        second = int(os.read(reader, 32))
        assert process.wait_pid(second) == process.Exit(second, 9, 0)
    finally:
        os.close(reader)
        os.close(first_pidfd)


@pytest.mark.parametrize("title", ["bireme-x --root /r", "y" * 5000])
def test_the_title_takes_the_arguments_place(title: str) -> None:
    pid, pidfd = process.clone3(0, pidfd=True)
    if pid == 0:
        before = Path("/proc/self/cmdline").read_bytes()
        process.set_title(title)
        after = Path("/proc/self/cmdline").read_bytes()
        os._exit(0 if after.rstrip(b"\0") == title.encode()[: len(before) - 1] else 1)
    ended = process.wait_pidfd(pidfd)
    os.close(pidfd)
    assert ended is not None
    assert ended.code == 0


def test_names_and_dumpable_are_seen_in_proc() -> None:
    reader, writer = os.pipe()
    pid, pidfd = process.clone3(0, pidfd=True)
    if pid == 0:
        process.set_name("a-rather-long-name")
        process.set_dumpable(False)
        with open("/proc/self/comm") as file:
            os.write(writer, file.read().encode())
        os._exit(0)
    os.close(writer)
    try:
        assert os.read(reader, 64) == b"a-rather-long-n\n"
    finally:
        os.close(reader)
        process.wait_pidfd(pidfd)
        os.close(pidfd)


def test_status_words() -> None:
    assert process.status_to_exit(5, 3 << 8) == process.Exit(5, 3, 0)
    assert process.status_to_exit(5, 15) == process.Exit(5, 143, 15)


def test_pidfd_info_tells_pid_or_nothing() -> None:
    pidfd = process.pidfd_open(os.getpid())
    try:
        info = process.pidfd_info(pidfd)
    finally:
        os.close(pidfd)
    assert info is None or (info.pid == os.getpid() and info.ppid == os.getppid() and info.exit is None)


def test_pidfd_info_after_reaping_keeps_the_exit_code_where_the_kernel_can() -> None:
    pid, pidfd = _child(3)
    try:
        running = process.pidfd_info(pidfd)
        process.wait_pidfd(pidfd)
        ended = process.pidfd_info(pidfd)
        assert ended is None or running is None or ended.exit is None or ended.exit.code == 3
    finally:
        os.close(pidfd)
    assert pid > 0
