"""Containers straight from the runtime, for tests: a busybox root, one writable layer each, output collected."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bireme.linux import process
from bireme.oci.runtime_spec import Config
from bireme.runtime import defaults, launch
from bireme.runtime.plan import LaunchPlan, RootPlan, plan_exec, plan_launch

BUSYBOX = "/bin/busybox"
UID_BASE = 0x2F000000
DEADLINE_S = 60.0

_LAUNCH_OPTIONS = ("hold", "pass_files", "cgroups", "cgroup")
_APPLETS = (
    "sh ls id cat mount true false echo sleep hostname env touch mkdir stat test ps grep kill tty ln rm chmod readlink "
    "mknod ip ping wc head tail dd stty umount chown sync cp mv printf sort"
).split()


def make_lower(directory: Path) -> Path:
    """A root file system of busybox with users; skips where the machine has no static busybox."""
    if not os.path.exists(BUSYBOX):
        pytest.skip("no /bin/busybox (package busybox-static)")
    for name in ("bin", "etc", "tmp", "root", "home/kim", "usr/bin"):
        (directory / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, directory / "bin/busybox")
    for name in _APPLETS:
        (directory / "bin" / name).symlink_to("busybox")
    (directory / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nkim:x:1000:1000::/home/kim:/bin/sh\nlee:x:1001:1001::/home/lee:/bin/sh\n"
    )
    (directory / "etc/group").write_text("root:x:0:\nkim:x:1000:\naudio:x:29:kim\nstaff:x:50:lee,kim\n")
    (directory / "tmp").chmod(0o1777)
    os.chown(directory / "home/kim", 1000, 1000)
    return directory


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Running:
    """A started container: output pipes are ours."""

    def __init__(
        self, started: launch.Started, plan: LaunchPlan, out: int, err: int, place: dict[str, Any] | None = None
    ) -> None:
        self.place = place or {}
        self.pid = started.pid
        self.pidfd = started.pidfd
        self.console = started.console
        self.plan = plan
        self._out = out
        self._err = err

    def exec(self, *args: str, user: str = "", groups: tuple[str, ...] = (), **process_fields: Any) -> Result:
        """Run one more process and wait for it."""
        fields: dict[str, Any] = dict(defaults.default_config(args)["process"])
        fields.update(process_fields)
        plan = plan_exec(fields, user=user, groups=groups, seccomp="default")  # type: ignore[arg-type]
        with _pipes() as (stdio, out, err):
            owner = (UID_BASE, UID_BASE) if "user" in self.plan["namespaces"] else (0, 0)
            started = launch.launch_exec(plan, self.plan, self.pid, stdio, owner=owner, **self.place)
            _close(*stdio)
            try:
                return collect(started.pidfd, out, err)
            finally:
                _close(started.pidfd)

    def wait(self) -> Result:
        return collect(self.pidfd, self._out, self._err)

    def close(self) -> None:
        """Kill what still runs and reap it."""
        with contextlib.suppress(ChildProcessError, OSError):
            process.pidfd_send_signal(self.pidfd, 9)
            process.wait_pidfd(self.pidfd)
        _close(self.pidfd, self._out, self._err, self.console)


def _close(*fds: int) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            if fd >= 0:
                os.close(fd)


@contextlib.contextmanager
def _pipes() -> Iterator[tuple[list[int], int, int]]:
    null = os.open("/dev/null", os.O_RDWR)
    out_r, out_w = os.pipe()
    err_r, err_w = os.pipe()
    try:
        yield [null, out_w, err_w], out_r, err_r
    finally:
        _close(null, out_w, err_w, out_r, err_r)


def collect(pidfd: int, out: int, err: int) -> Result:
    """Read both pipes to their end (or until the process has ended), then its exit code."""
    texts = {out: bytearray(), err: bytearray()}
    deadline = time.monotonic() + DEADLINE_S
    open_ones = {fd for fd in texts if fd >= 0}
    while open_ones:
        left = deadline - time.monotonic()
        assert left > 0, f"still running after {DEADLINE_S} s: {bytes(texts[out])!r} {bytes(texts[err])!r}"
        for fd in select.select(list(open_ones), [], [], left)[0]:
            data = os.read(fd, 65536)
            if data:
                texts[fd] += data
            else:
                open_ones.discard(fd)
    ended = process.wait_pidfd(pidfd)
    assert ended is not None
    return Result(ended.code, texts[out].decode(errors="replace"), texts[err].decode(errors="replace"))


class Host:
    """A temporary directory with the shared lower layer; makes containers in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lower = make_lower(directory / "lower")
        self._count = 0
        self._running: list[Running] = []

    def layer(self) -> Path:
        """An empty directory for a layer on top."""
        self._count += 1
        path = self.directory / f"layer{self._count}"
        path.mkdir()
        return path

    def root(self, *extra: Path, readonly: bool = False) -> RootPlan:
        """A new writable root over `extra` (topmost first) and busybox."""
        top = self.layer()
        (top / "fs").mkdir()
        (top / "work").mkdir()
        return {
            "lower": [*map(str, extra), str(self.lower)],
            "upper": str(top / "fs"),
            "work": str(top / "work"),
            "readonly": readonly,
        }

    def start(
        self,
        *args: str,
        root: RootPlan | None = None,
        change: Callable[[Config], object] | None = None,
        terminal: bool = False,
        **options: Any,
    ) -> Running:
        """Start; raises what `launch` raises. `change` edits the default configuration."""
        config = defaults.default_config(args, terminal=terminal)
        if change is not None:
            change(config)
        launch_options = {key: options.pop(key) for key in _LAUNCH_OPTIONS if key in options}
        place = {key: launch_options[key] for key in ("cgroups", "cgroup") if key in launch_options}
        plan_options = {"hold": True} if "hold" in launch_options else {}
        if "pass_files" in launch_options:
            plan_options["pass_files"] = len(launch_options["pass_files"])
        options.setdefault("seccomp", "default")
        plan = plan_launch(config, root or self.root(), **plan_options, **options)
        if terminal:
            started = launch.launch(plan, [], uid_base=UID_BASE, **launch_options)
            running = Running(started, plan, -1, -1, place)
        else:
            null = os.open("/dev/null", os.O_RDWR)
            out_r, out_w = os.pipe()
            err_r, err_w = os.pipe()
            try:
                started = launch.launch(plan, [null, out_w, err_w], uid_base=UID_BASE, **launch_options)
            except BaseException:
                _close(out_r, err_r)
                raise
            finally:
                _close(null, out_w, err_w)
            running = Running(started, plan, out_r, err_r, place)
        self._running.append(running)
        return running

    def run(self, *args: str, **options: Any) -> Result:
        """Start and wait."""
        running = self.start(*args, **options)
        try:
            return running.wait()
        finally:
            running.close()

    def close(self) -> None:
        for running in self._running:
            running.close()
