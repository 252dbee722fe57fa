"""Finding the program: PATH inside the root, with the error texts of Docker (they come from Go's exec.LookPath)."""

from __future__ import annotations

import errno
import os
import stat

from bireme.runtime.defaults import DEFAULT_PATH
from bireme.runtime.sync import StartFailed


def find_program(name: str, env: dict[str, str]) -> str:
    """The path to execute for args[0]; StartFailed at stage "exec" when there is none this user may run."""
    if "/" in name:
        problem = _check(name)
        if problem:
            raise StartFailed("exec", problem, name, f'exec: "{name}": {_text(name, problem)}')
        return name
    first = 0
    for directory in env.get("PATH", DEFAULT_PATH).split(":"):
        candidate = f"{directory or '.'}/{name}"
        problem = _check(candidate)
        if not problem:
            return candidate
        if problem == errno.EACCES and not first:
            first = problem
    if first:
        raise StartFailed("exec", errno.EACCES, name, f'exec: "{name}": permission denied')
    raise StartFailed("exec", errno.ENOENT, name, f'exec: "{name}": executable file not found in $PATH')


def _check(path: str) -> int:
    """0, or why it cannot be executed."""
    try:
        status = os.stat(path)
    except OSError as error:
        return error.errno or errno.EIO
    except ValueError:
        return errno.EINVAL
    if stat.S_ISDIR(status.st_mode):
        return errno.EISDIR
    if not stat.S_IMODE(status.st_mode) & 0o111 or not os.access(path, os.X_OK):
        return errno.EACCES
    return 0


def _text(path: str, number: int) -> str:
    if number in (errno.ENOENT, errno.ENOTDIR):
        return f"stat {path}: {os.strerror(number).lower()}"
    return os.strerror(number).lower()
