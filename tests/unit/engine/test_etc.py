"""Where hosts, hostname and resolv.conf of an instance are."""

from __future__ import annotations

import os
import pathlib

import pytest

from bireme.engine.etc import EtcFiles

TEXTS = {"hosts": "1 a\n", "hostname": "a\n", "resolv.conf": "nameserver 2\n"}


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "disk"
    path.mkdir()
    return str(path)


@pytest.fixture
def memory(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "memory"
    path.mkdir()
    return str(path)


def read(directory: str) -> dict[str, str]:
    return {name: pathlib.Path(directory, name).read_text() for name in os.listdir(directory)}


def test_without_memory_they_are_on_disk(disk: str) -> None:
    etc = EtcFiles()
    assert etc.directory("i", disk) == disk
    assert etc.write("i", disk, TEXTS) == disk
    assert read(disk) == TEXTS
    etc.remove("i")
    assert etc.identities() == []


def test_in_memory(disk: str, memory: str) -> None:
    etc = EtcFiles()
    etc.use(memory)
    assert etc.directory("i", disk) == f"{memory}/i"
    assert etc.write("i", disk, TEXTS) == f"{memory}/i"
    assert read(f"{memory}/i") == TEXTS
    assert os.listdir(disk) == []
    assert etc.identities() == ["i"]
    inode = os.stat(f"{memory}/i/hosts").st_ino
    etc.write("i", disk, {**TEXTS, "hosts": "2"})  # the next start: a running instance would have it bound
    assert (os.stat(f"{memory}/i/hosts").st_ino, read(f"{memory}/i")["hosts"]) == (inode, "2")
    etc.remove("i")
    etc.remove("i")
    assert os.listdir(memory) == []


def test_what_an_engine_without_memory_wrote_is_found_until_the_next_start(disk: str, memory: str) -> None:
    EtcFiles().write("i", disk, TEXTS)
    etc = EtcFiles()
    etc.use(memory)
    assert etc.directory("i", disk) == disk
    etc.write("i", disk, TEXTS)
    assert etc.directory("i", disk) == f"{memory}/i"
