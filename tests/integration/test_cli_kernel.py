"""`bireme kernel` against a real engine: what the command line sends is what the engine keeps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import kernel
from tests.support.daemon import RunningEngine, running_engine

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("kernel")) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vmlinuz, config, a package, and modules as in /lib/modules/RELEASE."""
    root = tmp_path_factory.mktemp("files")
    (root / f"vmlinuz-{kernel.RELEASE}").write_bytes(kernel.bzimage())
    (root / f"config-{kernel.RELEASE}").write_text(kernel.CONFIG)
    (root / "image.deb").write_bytes(kernel.package())
    for path, data in kernel.MODULES.items():
        (root / "modules" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "modules" / path).write_bytes(data)
    (root / "modules/modules.builtin").write_text(kernel.BUILTIN)
    (root / "modules/build").symlink_to("/usr")
    return root


def ok(engine: RunningEngine, *words: str) -> str:
    done = engine.bireme(*words)
    assert (done.returncode, done.stderr) == (0, ""), (words, done)
    return str(done.stdout)


def refused(engine: RunningEngine, *words: str) -> str:
    done = engine.bireme(*words)
    assert done.returncode != 0, done
    return str(done.stderr)


def inspect(engine: RunningEngine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ok(engine, "kernel", "inspect", name))[0]
    return found


def test_a_kernel_from_end_to_end(engine: RunningEngine, files: Path) -> None:
    assert "bireme kernel add cloud" in refused(engine, "kernel", "default")
    vmlinuz = str(files / f"vmlinuz-{kernel.RELEASE}")
    said = ok(engine, "kernel", "add", "--name", "mine", "--modules", str(files / "modules"), vmlinuz)
    assert said.endswith(f"Added kernel: {kernel.RELEASE} (the default)\n")
    mine = inspect(engine, "mine")
    assert (mine["release"], mine["names"], mine["default"]) == (kernel.RELEASE, ["mine"], True)
    assert (mine["format"], mine["layers"], mine["built_in"]) == ("vmlinux", "erofs", ["ext4"])
    assert mine["modules"] == list(kernel.ORDER)
    assert mine["config"]["EROFS_FS"] == "m"
    assert mine["used_by"] == []
    assert sorted(os.listdir(mine["directory"])) == ["kernel.json", "modules", "vmlinux", "vmlinuz"]

    identity = ok(engine, "kernel", "add", "-q", str(files / "image.deb")).strip()
    assert inspect(engine, kernel.RELEASE)["packages"] == [{"name": "linux-image-test", "version": "6.1-9"}]
    assert ok(engine, "kernel", "default", identity) == f"{identity}\n"
    assert ok(engine, "kernel", "ls", "--format", "{{.Names}}{{.Default}}") == f"{kernel.RELEASE}*\nmine\n"
    assert ok(engine, "kernel", "rm", "mine", identity[7:20]) == f"{kernel.RELEASE}\n{kernel.RELEASE}\n"
    assert ok(engine, "kernel", "ls", "-q") == ""
    assert not os.path.exists(mine["directory"])


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "not a Debian package"), (b"!<arch>\n", "there is no kernel in it"), (kernel.package()[:900], "truncated")],
)
def test_what_is_no_kernel(engine: RunningEngine, tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x.deb").write_bytes(data)
    assert words in refused(engine, "kernel", "add", str(tmp_path / "x.deb"))
    assert ok(engine, "kernel", "ls", "-q") == ""


@pytest.mark.parametrize("verb", [["rm"], ["default"], ["inspect"]])
def test_no_such_kernel(engine: RunningEngine, verb: list[str]) -> None:
    assert "no such kernel: nope (bireme kernel add cloud)" in refused(engine, "kernel", *verb, "nope")


def test_what_a_container_cannot_have(engine: RunningEngine) -> None:
    assert "a kernel cannot be chosen" in refused(engine, "run", "--rm", "--kernel", "mine", "busybox")
    assert "storage options are not supported: size" in refused(engine, "run", "--rm", "--disk-size", "1G", "busybox")
    both = ("--disk-size", "1G", "--storage-opt", "size=2G")
    assert "cannot specify both" in refused(engine, "run", "--rm", "--isolation", "microvm", *both, "busybox")
