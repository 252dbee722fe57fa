"""A real engine of its own for a test: temporary roots, its own socket, cgroups, bridge and table, and no trace after.

    with running_engine(tmp_path) as engine:
        engine.client().create_container(...)
        engine.kill("biremed")           # kill -9 of one program of the process map
        engine.start()

`close` ends everything and asserts that no process, cgroup, mount, link, table or socket of this root is left.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bireme.client.engine import Engine
from bireme.daemon.config import Config
from bireme.daemon.keeper import read_pid, wait_gone
from bireme.errors import BiremeError
from bireme.linux.netlink import RtNetlink
from bireme.linux.nftables import NfTables
from bireme.linux.nlsocket import NetlinkError
from tests.support.calm import undisturbed
from tests.support.pace import eventually, patience

PROGRAMS = ("bireme-keeper", "bireme-supervisor", "bireme-zygote", "bireme-logger", "bireme-relay")
_BIN = pathlib.Path(sys.executable).parent


class RunningEngine:
    """biremed and everything it started; `env` is for its command line clients."""

    def __init__(self, root: pathlib.Path, *options: str) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.run_root = f"/run/bt-{secrets.token_hex(4)}"
        self.data_root = str(root / "data")
        self.config = Config(data_root=self.data_root, run_root=self.run_root)
        self.host = f"unix://{self.run_root}/bireme.sock"
        self.env = {**os.environ, "DOCKER_HOST": self.host, "BIREME_HOST": self.host}
        self.log_path = root / "biremed.log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start biremed and wait until it answers."""
        command = [str(_BIN / "biremed"), "--data-root", self.data_root, "--run-root", self.run_root, *self._options]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        eventually(self._answers, within_s=30)

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            pytest.fail(f"biremed ended with {self._process.returncode}:\n{self.log()}")
        client = Engine(self.host)
        try:
            client.ping()
        except (OSError, BiremeError):
            return False
        finally:
            client.close()
        return True

    def client(self) -> Engine:
        return Engine(self.host)

    def log(self) -> str:
        parts = [self.log_path.read_text(errors="replace")[-4000:]] if self.log_path.exists() else []
        keeper = pathlib.Path(f"{self.run_root}/keeper.log")
        if keeper.exists():
            parts.append(keeper.read_text(errors="replace")[-4000:])
        return "\n".join(parts)

    def bireme(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.command(str(_BIN / "bireme"), *arguments, **more)

    def command(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": patience(60), **more}
        return subprocess.run(arguments, env=self.env, check=False, **settings)

    def pids(self, name: str) -> list[int]:
        """Processes of this root by their name in /proc/PID/comm, spares apart (they are zygotes by name)."""
        if name == "biremed":
            return [self._process.pid] if self._process is not None and self._process.poll() is None else []
        return sorted(pid for pid in self.processes() if _comm(str(pid)) == name[:15])

    def kill(self, name: str) -> None:
        """kill -9 the (first) process of that name."""
        pids = self.pids(name)
        if not pids:
            return
        os.kill(pids[0], signal.SIGKILL)
        if name == "biremed" and self._process is not None:
            self._process.wait(patience(30))

    def processes(self) -> list[int]:
        """Every process that names this run root."""
        return [int(e) for e in os.listdir("/proc") if e.isdigit() and self.run_root in _arguments(e)]

    def close(self) -> None:
        """Stop every instance and every process, then look for what is left."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)
            self._process.wait(patience(120))
        if self._process is None or self._process.returncode != 0:
            subprocess.run(
                [str(_BIN / "biremed"), "--shutdown", "--run-root", self.run_root, "--data-root", self.data_root],
                check=False,
                timeout=patience(120),
            )
        keeper = read_pid(f"{self.run_root}/keeper.pid")
        if keeper:
            wait_gone(keeper, patience(30))

    def leftovers(self) -> list[str]:
        """What of this engine is still in the kernel; [] is how it should be after `close`."""
        tag = self.config.tag
        left = [f"process {pid}: {line}" for pid in self.processes() if (line := _arguments(str(pid)))]
        base = "/sys/fs/cgroup"
        for directory in (base, *(f"{base}/{n}" for n in os.listdir(base) if os.path.isdir(f"{base}/{n}"))):
            left += [f"cgroup {directory}/{n}" for n in os.listdir(directory) if tag in n and n.startswith("bireme")]
        netlink = RtNetlink()
        left += [f"link {link.name}" for link in netlink.links() if tag in link.name]
        netlink.close()
        left += [f"table {name}" for name in _tables() if tag in name]
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
            left += [line.strip() for line in file if self.data_root in line or self.run_root in line]
        return left


def _tables() -> list[str]:
    rules = NfTables()
    try:
        return rules.tables()
    except NetlinkError:
        return []  # no nf_tables in this kernel
    finally:
        rules.close()


def _comm(pid: str) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _arguments(pid: str) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _assert_clean(engine: RunningEngine) -> None:
    deadline = time.monotonic() + patience(30)
    while left := engine.leftovers():
        if time.monotonic() > deadline:
            pytest.fail("left behind:\n" + "\n".join(left) + "\n" + engine.log())
        time.sleep(0.05)


@contextlib.contextmanager
def running_engine(root: pathlib.Path, *options: str, image: bool = True) -> Iterator[RunningEngine]:
    """An engine with the busybox image, and nothing left of it afterwards."""
    engine = RunningEngine(root, *options)
    try:
        engine.start()
        if image:
            made = engine.bireme("bootstrap", "busybox")
            assert made.returncode == 0, made.stderr
        yield engine
    except BaseException:
        print(engine.log())
        raise
    finally:
        with undisturbed():
            _take_down(engine)


def _take_down(engine: RunningEngine) -> None:
    try:
        engine.close()
        _assert_clean(engine)
    finally:
        if not engine.processes():
            shutil.rmtree(engine.run_root, ignore_errors=True)
