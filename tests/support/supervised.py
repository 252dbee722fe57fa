"""A keeper and supervisor of their own for a test: own run root, cgroup subtree and root file system, all removed."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bireme.oci.runtime_spec import Config
from bireme.runtime import defaults
from bireme.runtime.plan import plan_exec, plan_launch
from bireme.supervisor import program
from bireme.wire import stdcopy
from tests.support.calm import undisturbed
from tests.support.rootfs import make_busybox_root
from tests.support.supervision import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEADLINE_S = 120.0


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll; fails with `what` when the time is up."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"waited {deadline_s} s for: {what}"
        time.sleep(0.01)


def _directories(home: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(home) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class Rig:
    """One run root. `start` makes the keeper; `close` removes everything, whatever state it is in."""

    def __init__(
        self, directory: Path, *, spares: Mapping[str, int] | None = None, monitor: str = "", **config: Any
    ) -> None:
        self.directory = directory
        self.monitor = monitor
        self.run_root = directory / "run"
        self.tag = secrets.token_hex(3)
        self.subtree = f"bireme-{self.tag}"
        self.config = {
            "bridge": None,
            "spares": dict(spares or {}),
            "cgroup_subtree": self.subtree,
            "userns_base": 0x30000000,
            "favordynmods": False,
            **config,
        }
        self.lower = directory / "lower"
        make_busybox_root(str(self.lower))
        self.keeper: subprocess.Popen[bytes] | None = None
        self.clients: list[Client] = []
        self._count = 0

    def start(self) -> Client:
        """The keeper, and a client that has greeted and configured."""
        with open(self.directory / "supervisor.log", "ab") as log:
            self.keeper = subprocess.Popen(
                program.command("keeper", "--run-root", str(self.run_root)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "BIREME_MONITOR": self.monitor} if self.monitor else None,
            )
        return self.connect()

    @property
    def socket_path(self) -> str:
        return str(self.run_root / "supervisor.sock")

    def connect(self, execs: tuple[str, ...] = ()) -> Client:
        """A greeted, configured client; waits for a supervisor that is about to come."""
        end = time.monotonic() + DEADLINE_S
        while True:
            try:
                client = Client(self.socket_path)
                try:
                    client.hello(execs)
                    client.call("configure", **self.config)
                except BaseException:
                    client.close()
                    raise
            except (OSError, EOFError):
                assert time.monotonic() < end, f"no supervisor: {self.log()}"
                time.sleep(0.01)
            else:
                self.clients.append(client)
                return client

    def pid(self, name: str) -> int:
        """keeper or supervisor, as their pid files say; 0 when there is none."""
        try:
            return int((self.run_root / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return 0

    def helper(self, name: str) -> int:
        """zygote, logger or relay, as its pid file says; 0 when it does not live."""
        pid = self.pid(name)
        return pid if pid and alive(pid) else 0

    def hold_port(self, client: Client) -> None:
        """Have a port held, so that there is a relay."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client.call_fds("relay_add", (listener.fileno(),), id="held", entries=[{"listen": 0, "target": None}])

    def spares(self) -> list[int]:
        """Parked processes: they still have the zygote's name and their parent is the supervisor."""
        zygote = self.helper("zygote")
        return [pid for pid in children(self.pid("supervisor")) if comm(pid) == "bireme-zygote" and pid != zygote]

    def log(self) -> str:
        try:
            return (self.directory / "supervisor.log").read_text()
        except OSError:
            return ""

    def directory_of(self, identity: str) -> Path:
        return self.directory / "instances" / identity

    def request(
        self,
        identity: str,
        *args: str,
        terminal: bool = False,
        change: Callable[[Config], object] | None = None,
        network: dict[str, Any] | None = None,
        log: str = "json-file",
        **fields: Any,
    ) -> dict[str, Any]:
        """The fields of a launch with a layer of its own; /go inside is `directory_of(id)/go` here."""
        home = self.directory_of(identity)
        for name in ("fs", "work"):
            (home / name).mkdir(parents=True, exist_ok=True)
        (home / "go").mkdir(exist_ok=True)
        config = defaults.default_config(args, terminal=terminal)
        shared = {"destination": "/go", "type": "bind", "source": str(home / "go"), "options": ["bind"]}
        config["mounts"].append(shared)  # type: ignore[arg-type]
        if change is not None:
            change(config)
        root = {"lower": [str(self.lower)], "upper": str(home / "fs"), "work": str(home / "work")}
        plan = plan_launch(config, root, seccomp="default")  # type: ignore[arg-type]
        if network is not None:
            plan["network"] = network  # type: ignore[typeddict-item]
        described = {"driver": log, "path": str(home / "log"), "max_size_bytes": 0, "max_files": 1}
        return {
            "id": identity,
            "plan": plan,
            "limits": {},
            "log": described,
            "terminal": terminal,
            "open_stdin": False,
            "stdin_once": False,
            **fields,
        }

    def name(self) -> str:
        self._count += 1
        return f"c{self._count}-{self.tag}"

    def launch(self, client: Client, *args: str, **options: Any) -> str:
        """Start one; returns its id."""
        identity = options.pop("identity", "") or self.name()
        client.call("launch", **self.request(identity, *args, **options))
        return identity

    def exec(
        self, client: Client, identity: str, *args: str, exec_id: str = "", stdin: bool = False, terminal: bool = False
    ) -> tuple[str, list[int]]:
        """One more process: its id and the descriptors."""
        exec_id = exec_id or self.name()
        process = defaults.default_config(args, terminal=terminal)["process"]
        plan = plan_exec(process, seccomp="default")
        _, fds = client.call_fds("exec", id=identity, exec_id=exec_id, plan=plan, terminal=terminal, stdin=stdin)
        return exec_id, fds

    def records(self, identity: str) -> list[dict[str, str]]:
        """The whole log, files of a rotation oldest first."""
        home = self.directory_of(identity)
        rotated = sorted(home.glob("log.*"), key=lambda path: -int(path.suffix[1:]))
        found = []
        for path in [*rotated, home / "log"]:
            if path.exists():
                found += [json.loads(line) for line in path.read_text().splitlines()]
        return found

    def output(self, identity: str, stream: str = "stdout") -> str:
        return "".join(record["log"] for record in self.records(identity) if record["stream"] == stream)

    def cgroups(self) -> list[str]:
        """Cgroups in our subtree, in every hierarchy."""
        return [str(path) for home in self.subtrees() for path in _directories(home)]

    def subtrees(self) -> list[Path]:
        """Our subtree in the unified hierarchy and in each controller's."""
        root = Path("/sys/fs/cgroup")
        homes = [root / self.subtree, *(path / self.subtree for path in _directories(root))]
        return [home for home in homes if home.is_dir()]

    def close(self) -> None:
        with undisturbed():
            self._take_down()

    def _take_down(self) -> None:
        for client in self.clients:
            client.close()
        self._kill_everything()
        assert not self.cgroups(), f"cgroups are left: {self.cgroups()}"

    def _kill_everything(self) -> None:
        """Ask first; then kill what is ours by pid, parents before children."""
        try:
            self._end_politely()
        except (OSError, EOFError, AssertionError) as error:
            self._end_by_force()
            raise AssertionError(f"it did not end when asked: {error!r}\n{self.log()}") from error
        if self.keeper is not None:
            self.keeper.wait(timeout=DEADLINE_S)

    def _end_politely(self) -> None:
        client = self.connect()
        for row in client.call("list")["instances"]:
            if row["state"] != "exited":
                client.call("signal", id=row["id"], signum=signal.SIGKILL, all=False)
                client.exited(row["id"])
        keeper, supervisor = self.pid("keeper"), self.pid("supervisor")
        client.call("shutdown")
        client.close()
        wait_until(lambda: not alive(keeper) and not alive(supervisor), "keeper and supervisor to end", 30)

    def _end_by_force(self) -> None:
        for name in ("keeper", "supervisor", "keeper", "supervisor"):
            pid = self.pid(name)
            if pid and alive(pid) and str(self.run_root) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: not alive(pid), "a killed process to end", 30)  # type: ignore[misc]
        for path in self.cgroups():
            self._empty(Path(path))
        for path in self.subtrees():
            path.rmdir()

    def _empty(self, path: Path) -> None:
        for _ in range(500):
            try:
                for pid in (path / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
                path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)
            else:
                return


def read_stream(fd: int) -> bytes:
    """Everything until the end; closes it."""
    parts = []
    try:
        while part := os.read(fd, 65536):
            parts.append(part)
    except OSError as error:
        if error.errno != 5:
            raise
    finally:
        os.close(fd)
    return b"".join(parts)


def read_frames(fd: int) -> dict[int, bytes]:
    """An attach stream by stdcopy stream."""
    found: dict[int, bytes] = {}
    for stream, data in stdcopy.Decoder().feed(read_stream(fd)):
        found[stream] = found.get(stream, b"") + data
    return found
