"""Machines of a whole engine, inside the emulated machine: from the start over the API to the image's process, beside
QEMU's machines until their guest's first process, and what an idle one holds beyond its guest's memory."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.api import VERSION, Api
from bench.subject import Engine, name_of, pss_without_kib
from bench.vmms import Ours
from tests.support.microvms import kernel_store

PROCESSES = ("bireme-vmm", "bireme-block", "bireme-net", "bireme-link", "bireme-entr")
"""The first characters of the names; the template that machines are cloned from is there once and is not counted."""
READY_S = 300.0


@contextmanager
def engine() -> Iterator[Engine]:
    """With busybox and Debian's cloud kernel."""
    with tempfile.TemporaryDirectory(prefix="bench-engine-", dir="/var/tmp") as name:
        made = Engine(Path(name) / "engine")
        shutil.copytree(kernel_store(), made.place / "data/kernels", symlinks=True)
        with made:
            yield made


def create(api: Api, command: list[str], memory_mib: int = 256) -> str:
    host = {"NetworkMode": "bridge", "Isolation": "microvm", "Memory": memory_mib << 20, "NanoCpus": 10**9}
    body = {"Image": "busybox", "Cmd": command, "HostConfig": host, "AttachStdout": True}
    identity: str = api.call("POST", "/containers/create", body)["Id"]
    return identity


def start_ms(api: Api) -> float:
    """One machine, from the request to start it to the first word of its process, attached before."""
    identity = create(api, ["echo", "ready"])
    with attached(api, identity) as stream:
        begin = time.monotonic()
        api.start(identity)
        said = b""
        while b"ready" not in said:
            more = stream.recv(65536)
            if not more:
                raise RuntimeError(f"the machine said {said!r}")
            said += more
        took_ms = (time.monotonic() - begin) * 1e3
    api.wait(identity)
    api.remove(identity)
    return took_ms


@contextmanager
def attached(api: Api, identity: str) -> Iterator[socket.socket]:
    """The stream of an attach, its answer's head read."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(READY_S)
        stream.connect(api.path)
        target = f"{VERSION}/containers/{identity}/attach?stream=1&stdout=1"
        head = f"POST {target} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        stream.sendall(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += stream.recv(1)
        yield stream


def memory_mib(made: Engine, count: int) -> float:
    """What `count` idle machines with a disk and an interface hold beyond their guests' memory, each."""
    api = Api(made.socket)
    running = [create(api, ["sleep", "100000"], 128) for _ in range(count)]
    try:
        for identity in running:
            api.start(identity)
        time.sleep(10)
        ours = [pid for pid in made.processes() if name_of(pid).startswith(PROCESSES)]
        return sum(pss_without_kib(pid, Ours.guest_memory) for pid in ours) / 1024 / count
    finally:
        for identity in running:
            api.remove(identity)
