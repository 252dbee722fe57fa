"""An engine that runs machines, for tests inside the nested machine: kernel, images, and what a machine leaves."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tarfile
import tempfile
from typing import IO, Any

import pytest

from bireme.image.kernels import KernelStore
from bireme.image.modules import WANTED
from bireme.linux.netlink import RtNetlink
from tests.guest.image import module_order
from tests.support.daemon import RunningEngine
from tests.support.pace import eventually, patience

KERNELS = pathlib.Path("/opt/kernels")
STORE = pathlib.Path("/var/tmp/bireme-kernels")
_ROOMS = ("kernel/crypto", "kernel/arch", "kernel/lib")
DEVICE_PROCESSES = ("bireme-block", "bireme-net", "bireme-link")


def release(flavour: str = "cloud") -> str:
    return (KERNELS / flavour / "release").read_text().strip()


def kernel_store() -> pathlib.Path:
    """A store that has the image's cloud kernel, made once: reading all of a kernel takes minutes under emulation, so
    it gets the modules that machines want and what these may need."""
    if not STORE.exists():
        if not KERNELS.exists():
            pytest.skip(f"no kernels for machines in {KERNELS}")
        fresh = STORE.with_suffix(".new")
        with tempfile.TemporaryFile() as archive:
            _pack_kernel("cloud", archive)
            archive.seek(0)
            KernelStore(str(fresh)).add([archive.fileno()], "tar", "cloud")
        fresh.rename(STORE)
    return STORE


def _pack_kernel(flavour: str, archive: IO[bytes]) -> None:
    modules = _modules(flavour)
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(KERNELS / flavour / "vmlinuz", "vmlinuz")
        for path in _wanted_modules(modules):
            tar.add(modules / path, f"modules/{path}")


def _modules(flavour: str) -> pathlib.Path:
    return KERNELS / flavour / "lib/modules" / release(flavour)


def _wanted_modules(modules: pathlib.Path) -> list[str]:
    paths = {*module_order(modules, [wanted.name for wanted in WANTED]), "modules.builtin"}
    paths |= {str(path.relative_to(modules)) for room in _ROOMS for path in modules.glob(f"{room}/**/*.ko*")}
    return sorted(paths)


def add_kernel(engine: RunningEngine) -> None:
    """The image's cloud kernel becomes the default."""
    shutil.copytree(kernel_store(), f"{engine.data_root}/kernels", symlinks=True, dirs_exist_ok=True)


def add_generic_kernel(engine: RunningEngine, scratch: pathlib.Path) -> None:
    """The image's other kernel as `generic`, the way a user adds one."""
    modules = _modules("generic")
    for path in _wanted_modules(modules):
        (scratch / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(modules / path, scratch / path)
    vmlinuz = str(KERNELS / "generic/vmlinuz")
    done = engine.bireme(
        "kernel", "add", "--name", "generic", "--modules", str(scratch), vmlinuz, timeout=patience(120)
    )
    assert done.returncode == 0, done.stderr + engine.log()


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
