"""`start`: let the held process go on, and tell what became of it."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from bireme.errors import Conflict
from bireme.runtime import hooks, sync
from bireme.runtime import state as store

if TYPE_CHECKING:
    from bireme.runtime.main import Options
    from bireme.runtime.state import Container


def run(options: Options) -> int:
    container = store.load(options.root, options.id, lock=True)
    status = container.status()
    if status == store.STOPPED:
        raise Conflict("cannot start a container that has stopped", subject=container.id)
    if status in (store.RUNNING, store.PAUSED):
        raise Conflict("cannot start an already running container", subject=container.id)
    if status != store.CREATED:
        raise Conflict(f"cannot start a container that is {status}", subject=container.id)
    release(container)
    return 0


def release(container: Container) -> None:
    """Connect to the waiting process; the connection ends when it has become its program."""
    with _connect(container) as ctl:
        while (received := sync.receive_message(ctl)) is not None:
            message, files = received
            for fd in files:
                os.close(fd)
            if message["m"] == "error":
                raise sync.StartFailed(message["stage"], message["errno"], message["subject"], message["message"])
    os.unlink(container.socket_path)
    _after_start(container)


def _connect(container: Container) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    fd = os.open(container.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{fd}/start.sock")
    except (ConnectionRefusedError, FileNotFoundError):
        sock.close()
        raise Conflict("cannot start a container that has stopped", subject=container.id) from None
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(fd)
    return sock


def _after_start(container: Container) -> None:
    """poststart hooks; one that fails ends the container."""
    entries = container.config().get("hooks", {}).get("poststart")
    if not entries:
        return
    try:
        hooks.run("poststart", entries, container.hook_state(store.RUNNING), container.data.get("bundle", ""))
    except BaseException:
        if container.alive():
            os.kill(container.data["pid"], 9)
        raise
