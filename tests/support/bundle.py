"""Bundles for OCI runtimes, and a runtime's command line driven as an engine would: ours or another to compare with."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bireme.linux.cgroup import open_cgroups
from bireme.runtime.defaults import default_config
from tests.support.pace import eventually, patience
from tests.support.rootfs import make_busybox_root

OURS = (sys.executable, "-m", "bireme.runtime.main")
DEADLINE_S = 60.0


class Finished(subprocess.CompletedProcess[str]):
    """A command that ended; `text` is all it said, for assertion messages."""

    @property
    def text(self) -> str:
        return f"{self.args}: {self.returncode}\n{self.stdout}{self.stderr}"


class Runtime:
    """One runtime with a state directory and a cgroup parent of its own; what it made is taken away at the end."""

    def __init__(self, command: tuple[str, ...], directory: Path) -> None:
        self.command = command
        self.directory = directory
        self.root = directory / "state"
        self.parent = f"bireme-test-{secrets.token_hex(4)}"
        self.rootfs = directory / "rootfs"
        self.rootfs.mkdir()
        make_busybox_root(str(self.rootfs))
        self._bundles = 0

    @property
    def ours(self) -> bool:
        return self.command == OURS

    def argv(self, *words: str) -> list[str]:
        return [*self.command, "--root", str(self.root), *words]

    def __call__(self, *words: str, code: int | None = 0, **options: Any) -> Finished:
        """Run a verb; `code` None takes any exit code."""
        options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(
            self.argv(*words), capture_output=True, text=True, timeout=patience(DEADLINE_S), check=False, **options
        )
        finished = Finished(done.args, done.returncode, done.stdout, done.stderr)
        assert code is None or finished.returncode == code, finished.text
        return finished

    def create(self, *words: str, **options: Any) -> None:
        """`create` leaves its output to the container, so it goes to a file and not to a pipe nobody closes."""
        with open(self.directory / "create.log", "w+") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | options
            done = subprocess.run(self.argv(*words), timeout=patience(DEADLINE_S), check=False, **options)
            log.seek(0)
            assert done.returncode == 0, log.read()

    def bundle(self, *args: str, change: Callable[[dict[str, Any]], None] | None = None, userns: bool = True) -> Path:
        """A bundle over the busybox root; `change` edits its configuration."""
        self._bundles += 1
        path = self.directory / f"bundle{self._bundles}"
        path.mkdir()
        config: Any = default_config(args or ("true",))
        config["ociVersion"] = "1.0.2"
        config["root"] = {"path": str(self.rootfs), "readonly": True}
        config["linux"]["cgroupsPath"] = f"/{self.parent}/c{self._bundles}"
        config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
        if not userns:
            namespaces = config["linux"]["namespaces"]
            config["linux"]["namespaces"] = [entry for entry in namespaces if entry["type"] != "user"]
        elif not self.ours:
            mapping = [{"containerID": 0, "hostID": 0x21000000, "size": 65536}]
            config["linux"] |= {"uidMappings": mapping, "gidMappings": mapping}
        if change is not None:
            change(config)
        (path / "config.json").write_text(json.dumps(config))
        return path

    def run(self, *args: str, identity: str = "", code: int | None = 0, **bundle: Any) -> Finished:
        """`run` in the foreground."""
        path = self.bundle(*args, **bundle)
        return self("run", "--bundle", str(path), identity or f"run-{secrets.token_hex(3)}", code=code)

    def state(self, identity: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self("state", identity).stdout)
        return loaded

    def status(self, identity: str) -> str:
        return str(self.state(identity)["status"])

    def wait_for(self, identity: str, status: str) -> None:
        eventually(lambda: self.status(identity) == status)

    def cgroup_file(self, number: int, controller: str, name: str) -> str:
        """A control file of the container made from bundle `number`."""
        manager = open_cgroups(f"/{self.parent}")
        try:
            paths = manager.paths(f"c{number}")
        finally:
            manager.close()
        return Path(paths.get(controller, paths.get("", "")), name).read_text().strip()

    def close(self) -> None:
        for entry in sorted(self.root.glob("*")) if self.root.exists() else ():
            self("delete", "--force", entry.name, code=None)
        manager = open_cgroups(f"/{self.parent}")
        for name in manager.list():
            manager.kill(name, 9, 10.0)
        manager.close()
        eventually(lambda: open_cgroups(f"/{self.parent}").close_subtree())
        if not self.ours:
            _remove_tree(Path("/sys/fs/cgroup/unified", self.parent))


def _remove_tree(cgroup: Path) -> None:
    """What another runtime made in an empty v2 hierarchy beside v1."""
    if cgroup.is_dir():
        for below in [path for path in cgroup.iterdir() if path.is_dir()]:
            _remove_tree(below)
        cgroup.rmdir()


@contextmanager
def opened(command: tuple[str, ...]) -> Iterator[Runtime]:
    with tempfile.TemporaryDirectory(prefix="bireme-oci-", dir="/var/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        runtime = Runtime(command, directory)
        try:
            yield runtime
        finally:
            runtime.close()


def peers() -> list[tuple[str, ...]]:
    """Other runtimes on this machine: BIREME_OCI_PEERS, or what tools/oci-peers unpacked before."""
    listed = os.environ.get("BIREME_OCI_PEERS")
    if listed:
        return [(path,) for path in listed.split(":")]
    cache = Path(os.environ.get("BIREME_CACHE", Path.home() / ".cache/bireme"), "oci-peers/runc/runc")
    return [(str(cache),)] if cache.exists() else []


def read_when_there(path: Path) -> str:
    """The text of a file that somebody is about to write."""
    eventually(lambda: path.exists() and path.read_text())
    return path.read_text()
