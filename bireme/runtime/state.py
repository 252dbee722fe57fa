"""What `bireme-runtime` remembers of its containers: a directory per container below --root.

    ROOT/<id>/state.json    what is known, replaced as a whole (written beside and renamed)
              config.json   the configuration as it was at create
              lock          flock(2): one verb at a time
              start.sock    where the held process waits; it is there from `created` until `start`

There is no daemon, and any verb may be killed at any point, so nothing here claims more than the kernel can confirm:
the status is read off the process (its pid together with its start time) each time somebody asks. A directory whose
creator died half-way shows as stopped and `delete` takes it away, with the cgroup that was written down before it was
made.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, NamedTuple

from bireme.errors import Conflict, Invalid, NotFound
from bireme.linux.fd import close_quietly, lock_file
from bireme.oci.runtime_spec import VERSION

DEFAULT_ROOT = "/run/bireme-runtime"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_MAX_ID = 200
_GONE = "~"
"""In the name of a directory that is being removed; no id has it."""

CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"


class Alive(NamedTuple):
    """A process by pid and start time, so that a pid used again is not mistaken for it."""

    pid: int
    start_ticks: int


def check_id(identity: str) -> str:
    """`identity` when it can name a container; Invalid otherwise."""
    if not identity or identity in (".", "..") or set(identity) - _LETTERS or len(identity) > _MAX_ID:
        raise Invalid(f"invalid container ID format: {identity!r}", subject=identity)
    return identity


def start_ticks(pid: int) -> int:
    """When process `pid` started (clock ticks since boot); 0 when there is none, or it has ended and is not reaped."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


class Container:
    """One container's directory. `data` is the content of state.json."""

    def __init__(self, root: str, identity: str, data: dict[str, Any], lock: int = -1) -> None:
        self.root = root
        self.id = identity
        self.path = f"{root}/{identity}"
        self.data = data
        self._lock = lock

    @property
    def socket_path(self) -> str:
        return f"{self.path}/start.sock"

    def save(self) -> None:
        _replace(f"{self.path}/state.json", json.dumps(self.data).encode())

    def save_config(self, text: bytes) -> None:
        _replace(f"{self.path}/config.json", text)

    def config(self) -> dict[str, Any]:
        """config.json as it was at create."""
        with open(f"{self.path}/config.json", "rb") as file:
            loaded: dict[str, Any] = json.loads(file.read())
        return loaded

    def set_process(self, pid: int) -> None:
        """Write down the first process as soon as it exists."""
        self.data["pid"] = pid
        self.data["start_ticks"] = start_ticks(pid)
        self.save()

    def alive(self) -> bool:
        pid = int(self.data.get("pid", 0))
        return pid > 0 and start_ticks(pid) == self.data.get("start_ticks")

    def status(self) -> str:
        """What it is now, asked of the kernel."""
        if not self.alive():
            return CREATING if not self.data.get("pid") and self._creator_lives() else STOPPED
        if os.path.exists(self.socket_path) and self._is_held():
            return CREATED if self.data.get("created") else CREATING
        return PAUSED if self._frozen() else RUNNING

    def _creator_lives(self) -> bool:
        return start_ticks(int(self.data.get("creator", 0))) == self.data.get("creator_ticks")

    def _is_held(self) -> bool:
        """The waiting process still runs our interpreter; after exec it is another program."""
        try:
            return os.readlink(f"/proc/{self.data['pid']}/exe") == self.data.get("held_exe")
        except OSError:
            return True

    def _frozen(self) -> bool:
        paths = self.data.get("cgroup", {}).get("paths", {})
        file = f"{paths['']}/cgroup.freeze" if "" in paths else f"{paths.get('freezer', '')}/freezer.state"
        try:
            with open(file) as text:
                return text.read().strip() in ("1", "FROZEN", "FREEZING")
        except OSError:
            return False

    def state(self) -> dict[str, Any]:
        """The OCI state, with the fields other runtimes print too."""
        status = self.status()
        shown: dict[str, Any] = {
            "ociVersion": VERSION,
            "id": self.id,
            "pid": 0 if status == STOPPED else self.data.get("pid", 0),
            "status": status,
            "bundle": self.data.get("bundle", ""),
            "rootfs": self.data.get("rootfs", ""),
            "created": self.data.get("created_at", ""),
            "owner": "",
        }
        if self.data.get("annotations"):
            shown["annotations"] = self.data["annotations"]
        return shown

    def hook_state(self, status: str) -> bytes:
        """The OCI state as hooks get it on stdin."""
        shown = {
            "ociVersion": VERSION,
            "id": self.id,
            "status": status,
            "pid": 0 if status == STOPPED else self.data.get("pid", 0),
            "bundle": self.data.get("bundle", ""),
        }
        if self.data.get("annotations"):
            shown["annotations"] = self.data["annotations"]
        return json.dumps(shown).encode()

    def remove(self) -> None:
        """Take the directory away; under its name it is gone at once."""
        gone = f"{self.path}{_GONE}{os.getpid()}"
        try:
            os.rename(self.path, gone)
        except FileNotFoundError:
            pass
        else:
            _remove_directory(gone)
        self.unlock()

    def unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _remove_directory(path: str) -> None:
    try:
        for name in os.listdir(path):
            os.unlink(f"{path}/{name}")
        os.rmdir(path)
    except FileNotFoundError:
        pass


def _replace(path: str, data: bytes) -> None:
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.rename(temporary, path)


def _lock(path: str) -> int:
    """Wait for the lock; once more when the directory was replaced meanwhile."""
    while True:
        fd = os.open(f"{path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            lock_file(fd, block=True)
            if os.path.samestat(os.fstat(fd), os.stat(f"{path}/lock")):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def make(root: str, identity: str, bundle: str) -> Container:
    """A new container's directory, locked; Conflict when the name is taken."""
    os.makedirs(root, 0o711, exist_ok=True)
    for name in os.listdir(root):
        if _GONE in name:
            _remove_directory(f"{root}/{name}")
    path = f"{root}/{check_id(identity)}"
    try:
        os.mkdir(path, 0o711)
    except FileExistsError:
        raise Conflict("container with given ID already exists", subject=identity) from None
    data = {
        "version": 1,
        "bundle": bundle,
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() % 10**9:09d}Z",
        "creator": os.getpid(),
        "creator_ticks": start_ticks(os.getpid()),
    }
    container = Container(root, identity, data, _lock(path))
    container.save()
    return container


def load(root: str, identity: str, *, lock: bool = False) -> Container:
    """A container that exists; with `lock` no other verb changes it meanwhile. NotFound when there is none."""
    path = f"{root}/{check_id(identity)}"
    held = -1
    try:
        if lock:
            held = _lock(path)
        return Container(root, identity, _read(path), held)
    except (FileNotFoundError, NotADirectoryError):
        close_quietly(held)
        raise NotFound("container does not exist", subject=identity) from None


def _read(path: str) -> dict[str, Any]:
    """state.json; empty when the creator did not come so far, or the file is damaged: such a container is stopped."""
    try:
        with open(f"{path}/state.json", "rb") as file:
            data = json.loads(file.read())
    except FileNotFoundError:
        if os.path.isdir(path):
            return {}
        raise
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def names(root: str) -> list[str]:
    """Ids of the containers below `root`, sorted."""
    try:
        entries = [entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return sorted(name for name in entries if _GONE not in name)
