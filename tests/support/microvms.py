"""An engine that runs machines, for tests inside the nested machine: kernel, images, and what a machine leaves."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from typing import Any

from bireme.linux.netlink import RtNetlink
from tests.support.daemon import RunningEngine
from tests.support.pace import eventually, patience

KERNELS = pathlib.Path("/opt/kernels")
STORE = KERNELS / "store"
DEVICE_PROCESSES = ("bireme-block", "bireme-net", "bireme-link", "bireme-entropy")


def release(flavour: str = "cloud") -> str:
    return (KERNELS / flavour / "release").read_text().strip()


def add_kernel(engine: RunningEngine, flavour: str = "cloud") -> None:
    """The image's own kernel of that flavour becomes the default; a store made beforehand saves minutes."""
    if STORE.exists():
        shutil.copytree(STORE, f"{engine.data_root}/kernels", symlinks=True, dirs_exist_ok=True)
        return
    home = KERNELS / flavour
    modules = home / "lib/modules" / release(flavour)
    done = engine.bireme(
        *("kernel", "add", "--name", flavour, "--modules", str(modules), str(home / "vmlinuz")), timeout=patience(240)
    )
    assert done.returncode == 0, done.stderr


def start_machine(engine: RunningEngine, *arguments: str, name: str = "") -> str:
    """`run -d --isolation microvm`; the name."""
    name = name or f"m{os.urandom(3).hex()}"
    done = engine.bireme("run", "-d", "--name", name, "--isolation", "microvm", *arguments, timeout=patience(120))
    assert done.returncode == 0, done.stderr + engine.log()
    return name


def inspect(engine: RunningEngine, name: str) -> Any:
    done = engine.bireme("inspect", name)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)[0]


def explain(engine: RunningEngine, name: str) -> Any:
    done = engine.bireme("explain", "--json", name)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def process_of(engine: RunningEngine, name: str, comm: str) -> int:
    """The pid of one process of a machine."""
    return next(int(row["pid"]) for row in explain(engine, name)["jail"] if row["name"] == comm)


def wait_exited(engine: RunningEngine, name: str) -> Any:
    """Its State once it has ended."""

    def ended() -> Any:
        state = inspect(engine, name)["State"]
        return state if state["Status"] == "exited" else None

    return eventually(ended, within_s=30, every_s=0.2)


def taps(engine: RunningEngine) -> list[str]:
    """TAPs of this engine's machines."""
    netlink = RtNetlink()
    try:
        return [link.name for link in netlink.links() if link.name.startswith(f"t{engine.config.tag}")]
    finally:
        netlink.close()


def remains(engine: RunningEngine) -> list[str]:
    """What machines have left: sockets, reports, TAPs."""
    home = pathlib.Path(engine.run_root, "machines")
    files = [path.name for path in home.iterdir()] if home.exists() else []
    return files + taps(engine)
