"""The engine as systemd runs it: socket activation, the group, and instances that outlive each unit's restart."""

from __future__ import annotations

import grp
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source.tree import ROOT
from tests.support.pace import eventually, patience

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif("BIREME_GUEST" not in os.environ, reason="installs units: runs inside the emulated machine"),
]

SOCKET = Path("/run/bireme/bireme.sock")
UNITS = ROOT / "packaging" / "systemd"


def run(*argv: str | Path) -> str:
    environment = os.environ | {"DOCKER_HOST": f"unix://{SOCKET}"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=patience(60), check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}{journal()}"
    return done.stdout.strip()


def journal() -> str:
    units = ("-u", "bireme.service", "-u", "bireme-keeper.service")
    return subprocess.run(["journalctl", "-n", "40", *units], capture_output=True, text=True, check=False).stdout


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture(scope="module")
def installed() -> Iterator[None]:
    """Programs and units where a package would put them; everything is ended again."""
    programs = [Path("/usr/bin") / path.name for path in Path("/opt/venv/bin").glob("bireme*")]
    for path in programs:
        path.symlink_to(Path("/opt/venv/bin") / path.name)
    run("systemd-sysusers", UNITS / "bireme.sysusers")
    for name in ("bireme.socket", "bireme.service", "bireme-keeper.service"):
        shutil.copy(UNITS / name, "/etc/systemd/system")
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "bireme.socket")
    try:
        yield
    finally:
        run("biremed", "--shutdown", "--run-root", "/run/bireme")
        run("systemctl", "stop", "bireme.socket", "bireme.service", "bireme-keeper.service")
        for path in programs:
            path.unlink()


@pytest.fixture(scope="module")
def sleeper(installed: None) -> tuple[str, int]:
    """A running container, id and pid; the first command wakes the engine through its socket."""
    run("bireme", "bootstrap", "busybox")
    script = "trap 'exit 0' TERM; sleep 86400 & wait"
    identity = run("bireme", "run", "-d", "--restart", "no", "busybox", "sh", "-c", script)
    return identity, int(run("bireme", "inspect", "--format", "{{.State.Pid}}", identity))


def test_the_socket_belongs_to_the_group(installed: None) -> None:
    found = SOCKET.stat()
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert found.st_gid == grp.getgrnam("bireme").gr_gid


def test_the_socket_wakes_engine_and_keeper(sleeper: tuple[str, int]) -> None:
    for unit in ("bireme.service", "bireme-keeper.service"):
        assert run("systemctl", "is-active", unit) == "active"


def test_instances_live_below_the_delegated_unit(sleeper: tuple[str, int]) -> None:
    assert "bireme-keeper.service/" in Path(f"/proc/{sleeper[1]}/cgroup").read_text()


def test_instances_get_no_protection_from_the_oom_killer(sleeper: tuple[str, int]) -> None:
    assert Path(f"/proc/{sleeper[1]}/oom_score_adj").read_text().strip() == "0"


def test_instances_outlive_the_engine(sleeper: tuple[str, int]) -> None:
    run("systemctl", "restart", "bireme.service")
    assert alive(sleeper[1])
    assert run("bireme", "exec", sleeper[0], "echo", "here") == "here"


def test_instances_outlive_a_killed_keeper(sleeper: tuple[str, int]) -> None:
    run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "bireme-keeper.service")
    assert alive(sleeper[1])
    assert eventually(lambda: run("bireme", "exec", sleeper[0], "echo", "here"), within_s=20) == "here"


def test_instances_outlive_a_stopped_keeper_unit(sleeper: tuple[str, int]) -> None:
    run("systemctl", "stop", "bireme-keeper.service")
    assert alive(sleeper[1])
    assert eventually(lambda: run("bireme", "exec", sleeper[0], "echo", "here"), within_s=20) == "here"
