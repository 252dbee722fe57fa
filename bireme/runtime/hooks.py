"""Hooks: programs the configuration wants run at points of the lifecycle (config.md, "POSIX-platform Hooks").

Each gets the container's state on stdin and its own environment; the first that fails or runs longer than its timeout
ends the matter. They run in the runtime's namespaces, except `createContainer` (in the container's, before its root
changes) and `startContainer` (in the container, just before its program): those two are run by the child itself, where
nothing can be imported any more. So this module starts programs with what is loaded already.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any, NoReturn

from bireme.errors import Internal, Invalid
from bireme.linux import fd as fds
from bireme.linux import process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_OUTPUT_BYTES = 4096


def check(hooks: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The hooks of a configuration by kind; Invalid for what is none."""
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, entries in hooks.items():
        if kind not in KINDS:
            raise Invalid(f"unknown hook kind {kind!r}", place="hooks")
        if not isinstance(entries, list):
            raise Invalid(f"hooks.{kind} is not a list", place=f"hooks.{kind}")
        for number, hook in enumerate(entries):
            _check_one(hook, f"hooks.{kind}[{number}]")
        if entries:
            found[kind] = entries
    return found


def _check_one(hook: object, place: str) -> None:
    if not isinstance(hook, dict) or not isinstance(hook.get("path"), str):
        raise Invalid("a hook has a path", place=place)
    if not hook["path"].startswith("/"):
        raise Invalid(f"hook path {hook['path']!r} is not absolute", place=place)
    for key in ("args", "env"):
        value = hook.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise Invalid(f"{key} of a hook is a list of strings", place=place)
    timeout = hook.get("timeout")
    if timeout is not None and (not isinstance(timeout, int) or isinstance(timeout, bool) or timeout <= 0):
        raise Invalid("the timeout of a hook is a number of seconds above zero", place=place)


def run(kind: str, hooks: Sequence[Mapping[str, Any]], state: bytes, directory: str = "") -> None:
    """Run hooks one after the other with `state` on stdin, in `directory`; Internal for the first that fails."""
    for number, hook in enumerate(hooks):
        problem = _run_one(hook, state, directory)
        if problem:
            raise Internal(
                f"error running {kind} hook #{number}: {problem}", subject=str(hook["path"]), place=f"hooks.{kind}"
            )


def _run_one(hook: Mapping[str, Any], state: bytes, directory: str) -> str:
    """ "" when it went well, else what happened."""
    stdin = fds.sealed_memfd("bireme-state", state)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        pid, pidfd = process.clone3(pidfd=True)
        if pid == 0:
            _become(hook, stdin, writer, directory)
    finally:
        os.close(stdin)
        os.close(writer)
    try:
        output, late = _watch(pidfd, reader, hook.get("timeout"))
        if late:
            process.pidfd_send_signal(pidfd, signal.SIGKILL)
        ended = process.wait_pidfd(pidfd)
    finally:
        os.close(pidfd)
        os.close(reader)
    if late:
        return f"timeout after {hook['timeout']} s"
    if ended is None or ended.code == 0:
        return ""
    how = f"signal {ended.signal}" if ended.signal else f"exit status {ended.code}"
    said = output.decode("utf-8", "replace").strip()
    return f"{how}, output: {said}" if said else how


def _watch(pidfd: int, reader: int, timeout_s: int | None) -> tuple[bytes, bool]:
    """What it wrote, until it ended; True when it did not in time."""
    deadline = time.monotonic() + timeout_s if timeout_s else None
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(reader, select.POLLIN)
    output = b""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = [number for number, _ in poll.poll(left)]
        if not ready:
            return output, True
        if reader in ready:
            data = os.read(reader, _OUTPUT_BYTES)
            output = (output + data)[-_OUTPUT_BYTES:]
            if not data:
                poll.unregister(reader)
        if pidfd in ready:
            return output, False


def _become(hook: Mapping[str, Any], stdin: int, output: int, directory: str) -> NoReturn:
    """In the child: the hook's program."""
    try:
        for signum in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for target, source in enumerate((stdin, output, output)):
            os.dup2(source, target)
        fds.close_range_cloexec(3)
        if directory:
            os.chdir(directory)
        env = dict(entry.partition("=")[::2] for entry in hook.get("env") or ())
        os.execve(hook["path"], hook.get("args") or [hook["path"]], env)
    except BaseException as error:
        os.write(2, str(error).encode("utf-8", "replace"))
    os._exit(127)
