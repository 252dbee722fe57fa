"""`python -m tests.guest [PYTEST ARGUMENTS]`: this checkout's integration tests inside an emulated Debian.

The machine has what many hosts lack: systemd, cgroup v2 as the only hierarchy, a distribution's kernel. Exit code: that
of pytest inside, 124 when time ran out, 125 when the machine never got so far. BIREME_GUEST_REPORT names a file for the
junit report, BIREME_GUEST_TIMEOUT the seconds of the whole run. BIREME_GUEST_DOCKER names a static docker client to
take along; with BIREME_ISOLATION=microvm, tests/conformance/test_docker_cli.py then runs its commands with machines.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.guest.image import PYTHON, Image, image
from tests.guest.machine import MachineDied, boot
from tests.source.tree import ROOT, relative, tracked_files

TIMEOUT_S = float(os.environ.get("BIREME_GUEST_TIMEOUT", "720"))
BOOT_S = 60
BOOTS = 2
FILES = (
    "cgroup_v2",
    "driver_container",
    "runtime_start",
    "api_containers",
    "supervisor_instances",
    "network_bridge",
    "init",
    "cli_run",
    "vmm_boot",
    "vmm_devices",
    "microvm_driver",
    "microvm_agent",
    "microvm_engine",
)
"""What depends on cgroup v2, systemd or the distribution's kernel (4 minutes on two idle cores), and what boots Linux
in a machine."""
TOO_SLOW = "not needs_cgroup_v1 and not slow"
SELECTION = ["-q", "tests/guest", *(f"tests/integration/test_{name}.py" for name in FILES), "-m", TOO_SLOW]
SELECTION += ["--deselect", "tests/integration/test_cli_run.py::test_a_pipe_through_a_container"]
PROMISED = "root,cgroup_v2,kvm,kvm_linux"
PASSED = ("BIREME_ISOLATION",)
"""Settings that the tests inside get from here."""


def pack_checkout(target: Path, order: dict[str, object]) -> None:
    """A tar of the checkout as it lies here, uncommitted changes and built guest programs included."""
    built = [path for path in (ROOT / "bireme/guest").glob("*") if path.is_file()]
    tracked = set(tracked_files())
    with tarfile.open(target, "w") as archive:
        for path in {*tracked, *built, *bytecode(tracked)}:
            archive.add(path, relative(path), recursive=False)
        text = json.dumps(order).encode()
        member = tarfile.TarInfo(".lane.json")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))


def bytecode(sources: set[Path]) -> Iterator[Path]:
    """What Python and pytest compiled here already: the same Python in the machine need not do it again."""
    for directory in {path.parent for path in sources if path.suffix == ".py"}:
        for path in directory.glob(f"__pycache__/*.cpython-{PYTHON.replace('.', '')}*.pyc"):
            if directory / f"{path.name.partition('.')[0]}.py" in sources:
                yield path


def run_inside(order: dict[str, object], more: Sequence[Path] = (), timeout_s: float = TIMEOUT_S) -> dict[str, bytes]:
    """Boot the machine, let it do the order (see files/lane.py), and give back the files it left."""
    machine = image()
    begin = time.monotonic()
    environment = {"BIREME_REQUIRE": PROMISED, "BIREME_GUEST": "1"}
    environment |= {name: os.environ[name] for name in PASSED if name in os.environ}
    whole = {"environment": environment, **order}
    with tempfile.TemporaryDirectory(prefix="bireme-guest-") as name:
        files = boot_until_done(machine, whole, Path(name), begin + timeout_s, more)
    print(f"guest: {time.monotonic() - begin:.0f} s", flush=True)
    return files


def boot_until_done(
    machine: Image, order: dict[str, object], scratch: Path, deadline: float, more: Sequence[Path]
) -> dict[str, bytes]:
    """Boot once; once more for the tests that are left, when the emulated machine itself dies, as it did in one of some
    twenty runs. A test that failed before that stays failed."""
    finished: list[str] = []
    for attempt in range(BOOTS):
        left = deadline - time.monotonic()
        pack_checkout(scratch / "source.tar", order | {"finished": finished, "timeout_s": left - BOOT_S})
        try:
            files = boot(machine, scratch / "source.tar", scratch, left, more)
        except MachineDied as died:
            finished += died.finished
            print(f"guest: {died}; {len(finished)} tests were done; boot {attempt + 1} of {BOOTS}", flush=True)
            continue
        failed = [line for line in finished if line.startswith("failed")]
        if failed:
            print("guest: before the machine died:", *failed, sep="\n", flush=True)
            files["code"] = b"1"
        return files
    return {}


def main(arguments: list[str]) -> int:
    docker = os.environ.get("BIREME_GUEST_DOCKER", "")
    order: dict[str, object] = {"pytest": arguments or SELECTION, "docker": bool(docker)}
    files = run_inside(order, [Path(docker).resolve()] if docker else [])
    report = os.environ.get("BIREME_GUEST_REPORT")
    if report and "junit.xml" in files:
        Path(report).write_bytes(files["junit.xml"])
    return int(files.get("code", b"125"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
