"""System calls prepared in advance and carried out in a row.

A freshly cloned interpreter copies every page it touches, and each function, constant and argument it touches for the
first time is one of another page. A list of calls whose arguments are converted already, made in one go before the
clone, lies together: the child runs through it in a small loop.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from bireme.linux.libc import SyscallError, prepare
from bireme.linux.numbers import optional_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_AT_FDCWD = -100
_MOUNT = optional_number("mount")
_MKDIRAT = optional_number("mkdirat")
_SYMLINKAT = optional_number("symlinkat")


class Step(NamedTuple):
    """One call, failed when the result is below 0. With errno `tolerated` the `rest` next steps are left out, no more.
    `otherwise` gets any other failure: it raises, or helps itself and says how many of the next to leave out."""

    function: Callable[..., int]
    arguments: tuple[object, ...]
    call: str
    subject: str
    tolerated: int = 0
    rest: int = 0
    otherwise: Callable[[SyscallError], int] | None = None


def mount(
    source: str | None,
    target: str,
    kind: str | None,
    flags: int,
    data: str | None = None,
    otherwise: Callable[[SyscallError], int] | None = None,
) -> Step:
    """mount(2)."""
    function, arguments = prepare(_MOUNT, _text(source), os.fsencode(target), _text(kind), flags, _text(data))
    return Step(function, arguments, "mount", target, otherwise=otherwise)


def make_directory(path: str, mode: int = 0o755) -> Step:
    """mkdirat(2); one that is there already will do."""
    function, arguments = prepare(_MKDIRAT, _AT_FDCWD, os.fsencode(path), mode)
    return Step(function, arguments, "mkdir", path, errno.EEXIST)


def make_link(text: str, path: str) -> Step:
    """symlinkat(2)."""
    function, arguments = prepare(_SYMLINKAT, os.fsencode(text), _AT_FDCWD, os.fsencode(path))
    return Step(function, arguments, "symlink", path)


def several(function: Callable[..., int], *arguments: object, subject: str = "") -> Step:
    """A function of ours that makes more than one call, raises by itself and returns 0."""
    return Step(function, arguments, "", subject)


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def run(steps: Iterable[Step]) -> None:
    """Carry them out; the first failure that nothing was foreseen for is raised."""
    leave_out = 0
    for function, arguments, call, subject, tolerated, rest, otherwise in steps:
        if leave_out:
            leave_out -= 1
            continue
        while function(*arguments) < 0:
            number = ctypes.get_errno()
            if number == errno.EINTR:
                continue
            if number == tolerated:
                leave_out = rest
                break
            error = SyscallError(number, call, subject)
            if otherwise is None:
                raise error
            leave_out = otherwise(error)
            break
