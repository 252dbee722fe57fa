import errno
import os
import socket

import pytest

from bireme.linux import fd as fds
from bireme.linux.libc import SyscallError


def test_sealed_memfd_round_trip_and_cannot_change() -> None:
    handle = fds.sealed_memfd("plan", b"x" * 300_000)
    try:
        assert fds.read_sealed(handle, 1 << 20) == b"x" * 300_000
        with pytest.raises(PermissionError):
            os.write(handle, b"y")
        with pytest.raises(ValueError, match="at most"):
            fds.read_sealed(handle, 1000)
    finally:
        os.close(handle)


def test_an_unsealed_memfd_is_refused() -> None:
    handle = os.memfd_create("open", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with pytest.raises(ValueError, match="not sealed"):
            fds.read_sealed(handle, 10)
    finally:
        os.close(handle)


def test_descriptors_travel_and_are_cloexec() -> None:
    left, right = fds.seqpacket_pair()
    reader, writer = os.pipe()
    with left, right:
        fds.send_fds(left, b"hello", [reader])
        os.close(reader)
        data, got = fds.recv_fds(right)
        assert data == b"hello"
        assert len(got) == 1
        assert not os.get_inheritable(got[0])
        os.write(writer, b"z")
        assert os.read(got[0], 1) == b"z"
        fds.close_quietly(writer, *got)
        left.close()
        assert fds.recv_fds(right) == (b"", [])


def test_a_message_cut_off_is_an_error_and_leaks_nothing() -> None:
    left, right = fds.seqpacket_pair()
    with left, right:
        fds.send_fds(left, b"hello", [0, 0, 0])
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(SyscallError) as caught:
            fds.recv_fds(right, 2)
        assert caught.value.errno == errno.EMSGSIZE
        assert set(os.listdir("/proc/self/fd")) == before


def test_close_all_but_keeps_what_it_is_told() -> None:
    pid = os.fork()  # noqa: TID251
    if pid == 0:
        reader, writer = os.pipe()
        third = fds.duplicate(reader, 40)
        fds.close_all_but([writer, third])
        left = set(os.listdir("/proc/self/fd")) - {"0", "1", "2"}
        good = {str(writer), str(third)} <= left and str(reader) not in left
        os._exit(0 if good else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_tee_leaves_the_bytes_in_place() -> None:
    source_r, source_w = os.pipe()
    target_r, target_w = os.pipe()
    try:
        os.write(source_w, b"abc")
        assert fds.tee(source_r, target_w, 100) == 3
        assert fds.readable_bytes(source_r) == 3
        assert os.read(target_r, 10) == b"abc" == os.read(source_r, 10)
        with pytest.raises(SyscallError) as caught:
            fds.tee(source_r, target_w, 100)
        assert caught.value.errno == errno.EAGAIN
    finally:
        fds.close_quietly(source_r, source_w, target_r, target_w)


def test_pipe_sizes_and_moving_numbers() -> None:
    reader, writer = os.pipe()
    try:
        assert fds.set_pipe_size(writer, 8192) == 8192 == fds.pipe_size(reader)
        assert fds.move_above(reader, 3) == reader
        moved = fds.move_above(reader, 50)
        assert moved >= 50
        reader = moved
    finally:
        fds.close_quietly(reader, writer)


def test_lock_is_exclusive(tmp_path: object) -> None:
    path = os.path.join(str(tmp_path), "lock")
    one = os.open(path, os.O_CREAT | os.O_RDWR)
    two = os.open(path, os.O_RDWR)
    try:
        assert fds.lock_file(one)
        assert not fds.lock_file(two)
        os.close(one)
        one = -1
        assert fds.lock_file(two)
    finally:
        fds.close_quietly(one, two)


def test_send_without_descriptors_is_a_plain_message() -> None:
    left, right = fds.seqpacket_pair(1 << 20)
    with left, right:
        assert left.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= 1 << 18
        fds.send_fds(left, b"plain")
        assert fds.recv_fds(right) == (b"plain", [])
