"""The dialogue: messages, large plans, and how errors travel."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from bireme.errors import Denied
from bireme.linux import fd
from bireme.linux.libc import SyscallError
from bireme.runtime import sync
from bireme.runtime.launch import raise_if_error


def test_small_and_large_messages_with_descriptors() -> None:
    left, right = fd.seqpacket_pair()
    reader, writer = os.pipe()
    with left, right:
        for size in (10, 500_000):
            message = {"m": "start", "plan": {"env": ["x" * size, "bytes \udcff"]}}
            sync.send_message(left, message, [reader, writer])
            received = sync.receive_message(right)
            assert received is not None
            assert received[0] == message
            assert len(received[1]) == 2
            fd.close_quietly(*received[1])
        left.close()
        assert sync.receive_message(right) is None
    fd.close_quietly(reader, writer)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            SyscallError(errno.EPERM, "mount", "/x"),
            {"errno": 1, "subject": "/x", "message": "mount /x: operation not permitted"},
        ),
        (
            SyscallError(errno.EPERM, "unshare"),
            {"errno": 1, "subject": "", "message": "unshare: operation not permitted"},
        ),
        (
            FileNotFoundError(2, "No such file or directory", "/y"),
            {"errno": 2, "subject": "/y", "message": "/y: no such file or directory"},
        ),
        (Denied("no", subject="s", hint="h"), {"errno": 0, "subject": "s", "message": "no (h)"}),
        (KeyError("k"), {"errno": 0, "subject": "", "message": "KeyError: 'k'"}),
    ],
)
def test_errors_are_described(error: BaseException, expected: dict[str, Any]) -> None:
    assert sync.describe_error("here", error) == {"m": "error", "stage": "here", **expected}


def test_a_start_failure_survives_the_journey() -> None:
    failure = sync.StartFailed("exec", errno.ENOENT, "foo", 'exec: "foo": executable file not found in $PATH')
    with pytest.raises(sync.StartFailed) as caught:
        raise_if_error(sync.describe_error("elsewhere", failure))
    assert (caught.value.stage, caught.value.errno, caught.value.message) == ("exec", errno.ENOENT, failure.message)
    assert caught.value.code == 127


@pytest.mark.parametrize(
    ("stage", "number", "code"),
    [
        ("exec", errno.ENOENT, 127),
        ("exec", errno.EACCES, 126),
        ("exec", errno.EISDIR, 126),
        ("mounts", errno.ENOENT, 128),
    ],
)
def test_exit_codes(stage: str, number: int, code: int) -> None:
    assert sync.exit_code(stage, number) == code
