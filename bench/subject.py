"""What is measured: our engine on data and run roots of its own, a peer on its socket, the C floor."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from bench.api import Api, ApiError
from tests.support.calm import undisturbed

PROGRAMS = Path(sys.executable).parent
HERE = Path(__file__).resolve().parent
READY_S = 30


class Engine:
    """biremed with everything it starts; a context manager that leaves nothing behind."""

    name = "bireme"

    def __init__(self, place: Path) -> None:
        self.place = place
        self.run_root = run_directory() / place.parent.name / place.name
        self.socket = f"unix://{self.run_root}/bireme.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Milliseconds from exec of biremed to its first answer."""
        self.place.mkdir(parents=True, exist_ok=True)
        self.run_root.parent.mkdir(exist_ok=True)
        argv = [str(PROGRAMS / "biremed"), "--data-root", str(self.place / "data"), "--run-root", str(self.run_root)]
        begin = time.perf_counter()
        with open(self.place / "biremed.log", "ab") as log:
            self._process = subprocess.Popen([*argv, "--host", self.socket], stdout=log, stderr=log)
        while time.perf_counter() - begin < READY_S:
            if self._process.poll() is not None:
                break
            try:
                Api(self.socket).call("GET", "/_ping")
            except (OSError, ApiError):
                time.sleep(0.002)
                continue
            return (time.perf_counter() - begin) * 1e3
        raise SystemExit(f"biremed did not come up:\n{(self.place / 'biremed.log').read_text()[-3000:]}")

    def stop(self) -> None:
        """End every process of this run root, also of an engine that is not ready yet; no signal comes in between."""
        with undisturbed():
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGUSR1)
                self._process.wait(60)
            subprocess.run([PROGRAMS / "biremed", "--shutdown", "--run-root", self.run_root], check=False, timeout=60)

    def bireme(self, *arguments: str) -> str:
        environment = os.environ | {"DOCKER_HOST": self.socket}
        return subprocess.run(
            [PROGRAMS / "bireme", *arguments], check=True, env=environment, capture_output=True, text=True
        ).stdout

    def processes(self) -> list[int]:
        """Each process of ours: biremed, keeper, supervisor, its helpers, the zygote, its spares; no instance's."""
        ours = {int(path.read_text()) for path in self.run_root.glob("*.pid")}
        parents = parents_by_pid()
        while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
            ours |= more
        return [pid for pid in ours if is_interpreter(pid)]

    def pss_kib(self) -> int:
        return sum(pss_kib(pid) for pid in self.processes())

    def cpu_ticks(self) -> int:
        total = 0
        for pid in self.processes():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12])
        return total

    def __enter__(self) -> Engine:
        try:
            self.start()
            self.bireme("bootstrap", "busybox")
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if not isinstance(error, Exception):
            shutil.rmtree(self.place)
            shutil.rmtree(self.run_root, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.run_root.parent.rmdir()


def parents_by_pid() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    return found


def is_interpreter(pid: int) -> bool:
    """Python, and not an instance's process that some interpreter of ours has become."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith(("python", "memfd:"))
    except OSError:
        return False


def name_of(pid: int) -> str:
    """What the process calls itself; a spare has its zygote's name."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"


def pss_kib(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def pss_without_kib(pid: int, mapping: str) -> int:
    """Proportional memory of a process without mappings of that name."""
    total, counted = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first and not first.endswith(":"):
            counted = mapping not in line
        elif first == "Pss:" and counted:
            total += int(line.split()[1])
    return total


class Floor:
    """The C program of bench/floor.c in network and mount namespaces of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.program = place / "floor"
        self._waiting: dict[str, subprocess.Popen[str]] = {}
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O2", "-static", "-o", self.program, HERE / "floor.c"], check=True)
        for name in ("bin", "dev", "proc", "sys"):
            (place / "lower" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/busybox", place / "lower/bin/busybox")
        (place / "lower/bin/true").unlink(missing_ok=True)
        (place / "lower/bin/true").symlink_to("busybox")

    def _argv(self, network: str, scratch: str) -> list[str]:
        return [str(self.program), str(self.place / "lower"), str(self.place / scratch), network]

    def one_ms(self, network: str) -> float:
        """One start, timed by the program itself."""
        if network not in self._waiting:
            argv = ["unshare", "--net", "--mount", *self._argv(network, f"one-{network}")]
            self._waiting[network] = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        process = self._waiting[network]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    def rate(self, network: str, clients: int, count: int) -> float:
        """Starts a second of `clients` programs that share one network namespace, as clients of one engine do."""
        programs = [" ".join(self._argv(network, f"rate-{number}")) + f" {count}" for number in range(clients)]
        script = "\n".join(f"{program} &" for program in programs) + "\nwait"
        one = " ".join(self._argv(network, "rate-0")) + " 1"  # makes bridge and cgroups before several want to
        begin = time.perf_counter()
        subprocess.run(
            ["unshare", "--net", "--mount", "bash", "-c", f"{one}\n{script}"], check=True, stdout=subprocess.DEVNULL
        )
        return (clients * count + 1) / (time.perf_counter() - begin)

    def close(self) -> None:
        for process in self._waiting.values():
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)
        subprocess.run(self._argv("none", "last"), stdin=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.place)


def attach_ms() -> float:
    """What one attach to a cgroup takes after a quiet moment: 10 ms and more unless favordynmods is on.

    The option is one for the whole machine, may be set by a mount in another namespace and stays on after that mount is
    gone, so it is measured rather than looked up.
    """
    base = Path("/sys/fs/cgroup")
    group = (base / "pids" if (base / "pids").is_dir() else base) / f"bench-{os.getpid()}"
    group.mkdir()
    try:
        return statistics.median(_one_attach_ms(group) for _ in range(5))
    finally:
        group.rmdir()


def _one_attach_ms(group: Path) -> float:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        time.sleep(0.15)
        begin = time.perf_counter()
        (group / "cgroup.procs").write_text(str(child.pid))
        return (time.perf_counter() - begin) * 1e3


def favordynmods() -> bool:
    return attach_ms() < 3


def run_directory() -> Path:
    """On a tmpfs, as /run of any system is; there are containers and build machines where it is not."""
    places = [Path("/run"), Path("/dev/shm")]
    return next((place for place in places if is_tmpfs(place)), places[0])


def is_tmpfs(place: Path) -> bool:
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return any(fields[1] == str(place) and fields[2] == "tmpfs" for fields in mounts)


def scratch_directory() -> Path:
    """On a real file system: overlay on tmpfs would flatter everyone."""
    base = Path(os.environ.get("BIREME_CACHE") or Path.home() / ".cache" / "bireme")
    base.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="bench-", dir=base))
