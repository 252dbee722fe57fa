"""Every device at work for a distribution's kernel: data there and back, and no exit to us once the driver is ready."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bireme.image.modules import cpio_entry, module_name, select, write_archive
from bireme.linux.netlink import RtNetlink, address, link_up
from tests.support import bootguest
from tests.support.bootguest import KERNELS, Boot, boot, kernel, release
from tests.support.pace import patience

pytestmark = [pytest.mark.needs_kvm_linux, pytest.mark.needs_root]
SOURCE = Path(bootguest.__file__).with_name("deviceinit.c")
MIB = 1 << 20
DISK_MIB = NET_MIB = 8
PINGS = 20
READS = 50
TAP = "bmtest0"
PEER = "10.99.0.1"


def make_initrds(directory: Path, flavour: str) -> list[Path]:
    """The kernel's modules, and the program."""
    program, initrd, modules = directory / "init", directory / "initrd", directory / f"modules-{flavour}"
    subprocess.run(["gcc", "-O2", "-static", "-s", "-o", program, SOURCE], check=True)
    members = [cpio_entry("dev", 0o040755), cpio_entry("init", 0o100755, program.read_bytes())]
    initrd.write_bytes(b"".join([*members, cpio_entry("TRAILER!!!", 0)]))
    home = KERNELS / flavour / "lib/modules" / release(flavour)
    files = {module_name(str(path)): path for path in home.rglob("*.ko")}
    builtin = [module_name(line) for line in (home / "modules.builtin").read_text().split()]
    chosen = select(files, builtin, lambda name: files[name].read_bytes(), release(flavour))
    with open(modules, "wb") as out:
        write_archive(out.write, chosen.order, lambda name: files[name].read_bytes())
    return [modules, initrd]


def has_console(flavour: str) -> bool:
    """The emulated machine's image does not carry every module of a kernel."""
    home = KERNELS / flavour / "lib/modules" / release(flavour)
    return any(home.rglob("virtio_console.ko")) or "virtio_console.ko" in (home / "modules.builtin").read_text()


class Peer:
    """Echoes the first bytes one by one, counts the rest, and sends as much back."""

    def __init__(self, pings: int) -> None:
        self.server = socket.create_server((PEER, 0))
        self.port = self.server.getsockname()[1]
        self.received = 0
        self._pings = pings
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self.server.settimeout(patience(120))
        with contextlib.suppress(OSError), self.server.accept()[0] as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(self._pings):
                connection.sendall(connection.recv(1))
            while part := connection.recv(MIB):
                self.received += len(part)
            connection.sendall(b"!")
            connection.sendall(bytes(self.received))

    def close(self) -> None:
        self.server.close()
        self._thread.join()


@pytest.fixture
def tap() -> Iterator[int]:
    """The TAP's far end in the host's stack. Our descriptor only makes it; a second queue would take its packets."""
    subprocess.run(["ip", "tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"], check=True)
    with RtNetlink() as netlink:
        index = next(link.ifindex for link in netlink.links() if link.name == TAP)
        netlink.batch([address(index, PEER, 24), link_up(index)])
    yield index
    subprocess.run(["ip", "tuntap", "del", "dev", TAP, "mode", "tap"], check=True)


def said(output: str) -> dict[str, dict[str, str]]:
    """What the guest said by device."""
    lines = [line.split() for line in output.splitlines() if line.startswith("device ")]
    return {words[1]: dict(word.partition("=")[::2] for word in words[2:]) for words in lines}


@pytest.mark.parametrize(("flavour", "vcpus"), [("cloud", 2), ("generic", 1)])
def test_every_device(tmp_path: Path, tap: int, flavour: str, vcpus: int) -> None:
    disk, second = tmp_path / "disk", tmp_path / "second"
    disk.write_bytes(b"\x5a" * 4096)
    os.truncate(disk, DISK_MIB * MIB)
    second.write_bytes(b"\xa5" * 4 * MIB)
    peer = Peer(PINGS)
    options = ["--serial", "--memory", "256M", "--vcpus", str(vcpus), "--rng", "--tap", TAP]
    options += ["--disk", str(disk), "--disk", f"{second},ro", "--jail", "2000012345"]
    options += [
        "--append",
        f"peer={PEER} port={peer.port} disk_mib={DISK_MIB} disk_reads={READS} net_mib={NET_MIB} net_pings={PINGS}",
    ]
    modules, initrd = make_initrds(tmp_path, flavour)
    try:
        run = boot(kernel(flavour, "vmlinux"), modules, "--initrd", str(initrd), *options, timeout_s=120)
    finally:
        peer.close()
    seen = said(run.output)
    assert "end" in seen
    check_disks(seen, disk)
    assert seen["rng"] == {"got": "64", "random": "1"}
    assert (seen.get("console") == {"put": "16"}) == has_console(flavour)
    assert seen["net"]["sent"] == str(NET_MIB)
    assert int(seen["net"]["received"]) == peer.received == NET_MIB * MIB
    check_explained(run)


def check_disks(seen: dict[str, dict[str, str]], disk: Path) -> None:
    first, second = seen["vda"], seen["vdb"]
    assert (first["size"], first["first"], first["ro"]) == (str(DISK_MIB * MIB), "5a", "0")
    assert (second["size"], second["first"], second["ro"]) == (str(4 * MIB), "a5", "1")
    assert first["past"] == "0"
    assert {first[name] for name in ("synced", "discard", "zeroes", "bad")} == {"0"}
    assert second["bad"] == "0"
    content = disk.read_bytes()
    assert all(
        content[at * MIB : (at + 1) * MIB] == bytes([at + 1]) * MIB for at in range(DISK_MIB) if at not in (2, 3)
    )
    assert content[2 * MIB : 4 * MIB] == bytes(2 * MIB)
    assert disk.stat().st_blocks * 512 < DISK_MIB * MIB


def check_explained(run: Boot) -> None:
    """The data paths work without exits: what exits there are belong to set-up."""
    paths = {path["name"]: path for process in run.explained["processes"] for path in process["paths"]}
    requests = sum(path["counters"]["chains"] for path in paths.values())
    exits = sum(vcpu["exits"].get("mmio", 0) for vcpu in run.explained["vcpus"])
    assert all(path["broken"] == "" for path in paths.values())
    assert all(device["needs_reset"] == "" and device["refused"] == 0 for device in run.explained["devices"])
    assert requests > 300
    assert exits < 40 * len(paths)
