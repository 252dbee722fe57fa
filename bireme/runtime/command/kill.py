"""`kill`: a signal to the first process, or with --all to every process of the container."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from bireme.errors import Conflict, Invalid
from bireme.linux import process
from bireme.runtime import state as store

if TYPE_CHECKING:
    from bireme.runtime.main import Options


def run(options: Options) -> int:
    signum = parse_signal(options.arguments[1] if len(options.arguments) > 1 else "SIGTERM")
    container = store.load(options.root, options.id)
    status = container.status()
    if options.flag("all"):
        _kill_all(container, signum)
    elif status == store.STOPPED:
        raise Conflict("container not running", subject=container.id)
    else:
        _kill_first(container, signum)
        if signum == signal.SIGKILL and status == store.PAUSED:
            _thaw(container)
    return 0


def parse_signal(text: str) -> int:
    """A number or a name with or without SIG; Invalid when it is none."""
    if text.lstrip("-").isdigit():
        number = int(text.removeprefix("-"))
        if 0 < number < signal.NSIG:
            return number
    word = text.upper()
    word = word if word.startswith("SIG") else f"SIG{word}"
    base, plus, more = word.partition("+")
    if base == "SIGRTMIN" and plus and more.isdigit() and signal.SIGRTMIN + int(more) <= signal.SIGRTMAX:
        return signal.SIGRTMIN + int(more)
    try:
        return int(signal.Signals[word])
    except KeyError:
        raise Invalid(f"unknown signal {text!r}", subject=text) from None


def _kill_first(container: store.Container, signum: int) -> None:
    pidfd = process.pidfd_open(int(container.data["pid"]))
    try:
        if not container.alive() or not process.pidfd_send_signal(pidfd, signum):
            raise Conflict("container not running", subject=container.id)
    finally:
        os.close(pidfd)


def _kill_all(container: store.Container, signum: int) -> None:
    from bireme.runtime.command import cgroup

    manager, name = cgroup.open_of(container.data)
    try:
        if manager.exists(name):
            manager.kill(name, signum)
    finally:
        manager.close()


def _thaw(container: store.Container) -> None:
    """A v1 freezer holds even a process that was killed."""
    from bireme.runtime.command import cgroup

    manager, name = cgroup.open_of(container.data)
    try:
        if manager.exists(name):
            manager.thaw(name)
    finally:
        manager.close()
