from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Cli
from tests.support.fakeserver import NO_CONTENT, FakeServer, Reply, refuse

CLOUD: dict[str, Any] = {
    "id": "sha256:" + "9a" * 32,
    "release": "6.1.0-44-cloud-amd64",
    "names": ["cloud"],
    "default": True,
    "format": "vmlinux",
    "layers": "erofs",
    "packages": [{"name": "linux-image-6.1.0-44-cloud-amd64", "version": "6.1.164-1"}],
    "size_bytes": 68_772_608,
    "added": "2000-01-02T03:04:05.000000006Z",
}
OWN = {**CLOUD, "id": "sha256:" + "b" * 64, "release": "6.9.1", "names": [], "default": False, "packages": []}
MESSAGES = [
    {"status": "reading"},
    {"stream": "Added kernel: 6.9.1\n"},
    {"aux": {"id": OWN["id"], "release": "6.9.1"}},
]
BASE = "/bireme/v1/kernels"


def streamed() -> Reply:
    import json

    return Reply(chunks=[json.dumps(message).encode() + b"\r\n" for message in MESSAGES])


def test_ls(server: FakeServer, cli: Cli) -> None:
    server.on(f"GET {BASE}", [CLOUD, OWN])
    table = cli.ok("kernel", "ls").splitlines()
    assert table[0] == "RELEASE                NAMES     DEFAULT   KERNEL ID      ADDED          SIZE"
    assert table[1].startswith("6.1.0-44-cloud-amd64   cloud     *         9a9a9a9a9a9a   26 years ago")
    assert table[1].endswith("68.8MB")
    assert cli.ok("kernel", "list", "-q") == "9a9a9a9a9a9a\nbbbbbbbbbbbb\n"
    assert cli.ok("kernel", "ls", "--no-trunc", "-q") == f"{CLOUD['id']}\n{OWN['id']}\n"
    shown = cli.ok("kernel", "ls", "--format", "{{.Release}} {{.Package}} {{.Format}} {{.Layers}}").splitlines()
    assert shown[0] == "6.1.0-44-cloud-amd64 linux-image-6.1.0-44-cloud-amd64=6.1.164-1 vmlinux erofs"


def test_add_a_flavour(server: FakeServer, cli: Cli) -> None:
    server.on(f"POST {BASE}/add", lambda request, conversation: streamed())
    assert cli.ok("kernel", "add", "--name", "mine", "cloud") == "reading\nAdded kernel: 6.9.1\n"
    assert server.requests[-1].query == {"flavour": "cloud", "name": "mine"}
    assert cli.ok("kernel", "add", "-q", "generic") == f"{OWN['id']}\n"


def sent(server: FakeServer) -> dict[str, bytes]:
    archive = tarfile.open(fileobj=io.BytesIO(server.requests[-1].body))
    return {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]


def test_add_a_kernel_with_its_modules(server: FakeServer, cli: Cli, tmp_path: Path) -> None:
    server.on(f"POST {BASE}/load", lambda request, conversation: streamed())
    modules = tmp_path / "modules"
    (modules / "kernel/fs").mkdir(parents=True)
    (modules / "build/kernel").mkdir(parents=True)
    (modules / "build/kernel/not.ko").write_text("x")
    (modules / "kernel/fs/ext4.ko.xz").write_bytes(b"e" * 700_000)
    (modules / "modules.builtin").write_text("kernel/a.ko\n")
    (modules / "modules.dep").write_text("not needed")
    (tmp_path / "vmlinuz-6.9.1").write_bytes(b"image")
    (tmp_path / "config-6.9.1").write_bytes(b"CONFIG_X=y")
    cli.ok("kernel", "add", "--modules", str(modules), str(tmp_path / "vmlinuz-6.9.1"))
    assert sent(server) == {
        "vmlinuz": b"image",
        "config": b"CONFIG_X=y",
        "modules/kernel/fs/ext4.ko.xz": b"e" * 700_000,
        "modules/modules.builtin": b"kernel/a.ko\n",
    }


def test_add_packages(server: FakeServer, cli: Cli, tmp_path: Path) -> None:
    server.on(f"POST {BASE}/load", lambda request, conversation: streamed())
    for name in ("image.deb", "modules.deb"):
        (tmp_path / name).write_text(name)
    cli.ok("kernel", "add", str(tmp_path / "image.deb"), str(tmp_path / "modules.deb"))
    assert sent(server) == {"0.deb": b"image.deb", "1.deb": b"modules.deb"}


def test_what_add_refuses_by_itself(server: FakeServer, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_text("x")
    for words, message in (
        (["nope"], "nope: no such file\nHint: give cloud or generic"),
        (["--modules", str(tmp_path), str(tmp_path / "vmlinuz")], "has no modules.builtin"),
        (["--modules", "/x", "cloud"], "--modules goes with the path of a kernel"),
        ([], "requires at least 1 argument"),
    ):
        result = cli("kernel", "add", *words)
        assert result.code == 1
        assert message in result.err
    assert server.requests == []


def test_an_error_in_the_stream(server: FakeServer, cli: Cli) -> None:
    message = b'{"errorDetail": {"message": "vmlinuz is not a kernel"}, "error": "vmlinuz is not a kernel"}\r\n'
    server.on(f"POST {BASE}/add", lambda request, conversation: Reply(chunks=[message]))
    assert cli("kernel", "add", "cloud") == (1, "", "vmlinuz is not a kernel\n")


def test_rm_default_and_inspect(server: FakeServer, cli: Cli) -> None:
    server.on(f"DELETE {BASE}/cloud", {"id": CLOUD["id"], "release": CLOUD["release"]})
    server.on(f"DELETE {BASE}/busy", refuse(409, "kernel 6.9.1 is in use by web (or use --force)"))
    result = cli("kernel", "rm", "-f", "cloud", "busy")
    assert (result.code, result.out) == (1, "6.1.0-44-cloud-amd64\n")
    assert "in use by web" in result.err
    assert server.requests[0].query["force"] in ("1", "true")
    server.on(f"POST {BASE}/cloud/default", NO_CONTENT)
    assert cli.ok("kernel", "default", "cloud") == "cloud\n"
    server.on(f"GET {BASE}", [OWN, CLOUD])
    assert cli.ok("kernel", "default") == "6.1.0-44-cloud-amd64\n"
    server.on(f"GET {BASE}/cloud", CLOUD)
    assert cli.ok("kernel", "inspect", "-f", "{{.release}}", "cloud") == "6.1.0-44-cloud-amd64\n"


@pytest.mark.parametrize(("kernels", "remedy"), [([], "add cloud"), ([OWN], "default KERNEL")])
def test_no_default(server: FakeServer, cli: Cli, kernels: list[dict[str, Any]], remedy: str) -> None:
    server.on(f"GET {BASE}", kernels)
    assert f"Hint: bireme kernel {remedy}" in cli("kernel", "default").err
