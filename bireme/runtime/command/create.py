"""`create` and `run`: from a bundle to a process that waits for `start`, or runs.

Whatever is made is written down first, in this order: the directory, the cgroup, the process. A creator that fails
takes it away again; one that is killed leaves a container that `delete --force` can take away, and the process ends by
itself, because its end of the dialogue is closed.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from bireme.errors import Invalid
from bireme.linux import fd as fds
from bireme.linux import process
from bireme.runtime import hooks, init, launch, plan, spare
from bireme.runtime import state as store
from bireme.runtime.bundle import Bundle, open_bundle
from bireme.runtime.command import cgroup, console, userns
from bireme.runtime.command.delete import destroy
from bireme.runtime.command.start import release

if TYPE_CHECKING:
    from bireme.linux.cgroup import CgroupManager
    from bireme.runtime.main import Options
    from bireme.runtime.plan import LaunchPlan, RootPlan
    from bireme.runtime.state import Container


def run_create(options: Options) -> int:
    """Make the container; its process waits."""
    bundle = open_bundle(options.text("bundle"))
    console.check(options, terminal=bool(bundle.config["process"].get("terminal")), detach=True)
    creation = Creation(options, bundle)
    started = creation.create()
    creation.container.unlock()
    fds.close_quietly(started.console)
    return 0


def run_run(options: Options) -> int:
    """Create and start; without --detach wait, pass signals on, delete, and end with its exit code."""
    bundle = open_bundle(options.text("bundle"))
    detach = options.flag("detach")
    terminal = bool(bundle.config["process"].get("terminal"))
    console.check(options, terminal=terminal, detach=detach)
    if not detach and not options.flag("no-subreaper"):
        process.set_subreaper()
    creation = Creation(options, bundle)
    if detach:
        started = _create_and_start(creation)
        fds.close_quietly(started.console)
        return 0
    with console.SignalPipe() as signals:
        code = console.attend(_create_and_start(creation), signals, terminal=terminal)
    if not options.flag("keep"):
        destroy(store.load(options.root, options.id, lock=True), force=True)
    return code


def _create_and_start(creation: Creation) -> launch.Started:
    started = creation.create()
    try:
        release(creation.container)
    except BaseException:
        destroy(creation.container, force=True)
        raise
    creation.container.unlock()
    return started


class Creation:
    """One `create`: what it needs, and what it has made so far."""

    def __init__(self, options: Options, bundle: Bundle) -> None:
        self.options = options
        self.bundle = bundle
        self.config: Any = bundle.config
        self.passed, extra_env = passed_files(options)
        if extra_env:
            self.config["process"].setdefault("env", []).extend(extra_env)
        self.plan = self._plan()
        self.container: Container = store.make(options.root, options.id, bundle.path)
        self.manager: CgroupManager | None = None

    def _plan(self) -> LaunchPlan:
        root: RootPlan = {"path": self.bundle.rootfs, "readonly": bool(self.config["root"].get("readonly"))}
        mapped = bool(self.config.get("linux", {}).get("uidMappings"))
        if mapped:
            root["idmap"] = False
        made = plan.plan_launch(self.config, root, hold=True, pass_files=len(self.passed))
        joined = bool(made["namespaces"].get("user"))
        if joined:
            root["idmap"] = False
        if mapped or joined:
            for mount in made["mounts"]:
                mount["idmap"] = mount["idmap"] or "noidmap"
        if made["process"]["terminal"] and not made["process"]["rows"]:
            made["process"]["rows"], made["process"]["columns"] = console.own_size()
        return made

    def create(self) -> launch.Started:
        """All of it; nothing is left when it fails."""
        try:
            return self._create()
        except BaseException:
            destroy(self.container, force=True)
            raise
        finally:
            if self.manager is not None:
                self.manager.close()

    def _create(self) -> launch.Started:
        data = self.container.data
        place = cgroup.place_of(self.plan["cgroup_path"], self.container.id)
        base, gid_base = userns.bases(self.plan, self.options.root, self.container)
        request = spare.request_of(self.plan, place.name, base)
        data.update(
            rootfs=self.bundle.rootfs,
            annotations=self.config.get("annotations", {}),
            cgroup={"subtree": place.subtree, "name": place.name, "paths": {}},
            namespaces=self.plan["namespaces"],
            uid_base=base,
            owner=[request["uid"], gid_base if gid_base is not None else request["gid"]],
            held_exe=os.readlink("/proc/self/exe"),
        )
        self.container.save_config(self.bundle.text)
        self.container.save()
        self.manager = cgroup.make(place, self.config.get("linux", {}).get("resources") or {})
        data["cgroup"]["paths"] = self.manager.paths(place.name)
        self.container.save()
        started = self._launch(place.name, base)
        data["created"] = True
        self.container.save()
        self._tell(started)
        return started

    def _launch(self, name: str, base: int) -> launch.Started:
        given = self.bundle.hooks
        if any(kind in given for kind in ("prestart", "createRuntime", "createContainer", "startContainer")):
            init.hook_runner = self._run_inside
            on_namespaces = self._run_outside
        else:
            on_namespaces = None
        stdio = () if self.plan["process"]["terminal"] else (0, 1, 2)
        with listen(self.container.socket_path) as listener:
            return launch.launch(
                self.plan,
                stdio,
                cgroups=self.manager,
                cgroup=name,
                uid_base=base,
                hold=listener.fileno(),
                pass_files=self.passed,
                on_namespaces=on_namespaces,
                on_child=self.container.set_process,
            )

    def _run_outside(self, pid: int) -> dict[str, object]:
        """prestart and createRuntime here, when the namespaces exist; the answer lets the child go on."""
        for kind in ("prestart", "createRuntime"):
            state = self.container.hook_state(store.CREATING)
            hooks.run(kind, self.bundle.hooks.get(kind, ()), state, self.bundle.path)
        return {"pid": pid}

    def _run_inside(self, kind: str, message: dict[str, Any]) -> None:
        """In the child (a copy of this process): createContainer and, after the change of root, startContainer."""
        if "pid" in message:
            self.container.data["pid"] = message["pid"]
        status = store.CREATING if kind == "createContainer" else store.CREATED
        hooks.run(kind, self.bundle.hooks.get(kind, ()), self.container.hook_state(status))

    def _tell(self, started: launch.Started) -> None:
        """Everybody who asked: pid file, console socket, pidfd socket."""
        if self.options.has("console-socket") and started.console >= 0:
            console.send(self.options.text("console-socket"), started.console, b"/dev/ptmx")
        if self.options.has("pidfd-socket"):
            console.send(self.options.text("pidfd-socket"), started.pidfd, b"pidfd")
        if self.options.has("pid-file"):
            write_pid_file(self.options.text("pid-file"), started.pid)


def listen(path: str) -> socket.socket:
    """The socket `start` connects to; the path may be longer than a socket address."""
    directory, _, name = path.rpartition("/")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.bind(f"/proc/self/fd/{fd}/{name}")
        sock.listen(1)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(fd)
    return sock


def write_pid_file(path: str, pid: int) -> None:
    """As a whole or not at all."""
    directory, _, name = path.rpartition("/")
    temporary = f"{directory}/.{name}" if directory else f".{name}"
    with open(temporary, "w") as file:
        file.write(str(pid))
    os.rename(temporary, path)


def passed_files(options: Options) -> tuple[list[int], list[str]]:
    """Descriptors to hand on (socket activation's and --preserve-fds) and the environment that tells of them."""
    count = options.number("preserve-fds")
    listen_fds = os.environ.get("LISTEN_FDS", "")
    activated = int(listen_fds) if listen_fds.isdecimal() else 0
    if count < 0 or count + activated > 200:
        raise Invalid(f"cannot pass {count + activated} descriptors", subject="preserve-fds")
    numbers = list(range(3, 3 + activated + count))
    for number in numbers:
        try:
            os.fstat(number)
        except OSError:
            raise Invalid(f"descriptor {number} is to be passed on and not open", subject="preserve-fds") from None
    env = [f"LISTEN_FDS={activated}", "LISTEN_PID=1"] if activated else []
    return numbers, env
