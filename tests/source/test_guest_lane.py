"""The guest lane's own machinery: a machine that dies is booted once more for what is left, and hides nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.guest import __main__ as lane
from tests.guest.image import Image
from tests.guest.machine import PULSE_AT, RESULT_BYTES, SILENT_S, MachineDied, Pulse
from tests.source.tree import ROOT

IMAGE = Image(Path("disk"), Path("kernel"), Path("initramfs"))


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "results.img"
    path.write_bytes(b"")
    os.truncate(path, RESULT_BYTES)
    return path


def beat(disk: Path, text: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(PULSE_AT)
        file.write(text)


def test_a_pulse_that_goes_on_is_no_stall(disk: Path) -> None:
    pulse = Pulse(disk)
    for number in range(3):
        pulse.since -= SILENT_S + 1
        beat(disk, f"{number}\n".encode())
        assert not pulse.stalled()
    pulse.since -= SILENT_S + 1
    assert pulse.stalled()


def test_a_machine_that_never_pulses_has_stalled(disk: Path) -> None:
    pulse = Pulse(disk)
    assert not pulse.stalled()
    pulse.since -= SILENT_S + 1
    assert pulse.stalled()


def test_a_torn_last_line_is_not_counted(disk: Path) -> None:
    beat(disk, b"7\npassed a::one\nfailed a::two\npassed a::thr")
    assert Pulse(disk).finished() == ["passed a::one", "failed a::two"]


class Boots:
    """Stands in for the machine: what each boot does, and the orders it was given."""

    def __init__(self, *outcomes: dict[str, bytes] | MachineDied) -> None:
        self.outcomes = list(outcomes)
        self.orders: list[dict[str, Any]] = []

    def __call__(self, image: object, source: Path, *rest: object) -> dict[str, bytes]:
        with tarfile.open(source) as archive:
            file = archive.extractfile(".lane.json")
            assert file is not None
            self.orders.append(json.load(file))
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, MachineDied):
            raise outcome
        return outcome


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "tracked_files", list)
    monkeypatch.setattr(lane, "bytecode", lambda tracked: iter(()))


def run(monkeypatch: pytest.MonkeyPatch, scratch: Path, boots: Boots) -> dict[str, bytes]:
    monkeypatch.setattr(lane, "boot", boots)
    return lane.boot_until_done(IMAGE, {"pytest": []}, scratch, time.monotonic() + 500, [])


@pytest.mark.usefixtures("small")
def test_the_second_boot_gets_what_was_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    boots = Boots(MachineDied("panic", ["passed a::one"]), {"code": b"0"})
    assert run(monkeypatch, tmp_path, boots) == {"code": b"0"}
    assert [order["finished"] for order in boots.orders] == [[], ["passed a::one"]]
    assert all(400 < order["timeout_s"] < 500 for order in boots.orders)


@pytest.mark.usefixtures("small")
def test_a_failure_before_the_machine_died_stays_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    boots = Boots(MachineDied("panic", ["passed a::one", "failed a::two"]), {"code": b"0"})
    assert run(monkeypatch, tmp_path, boots) == {"code": b"1"}


@pytest.mark.usefixtures("small")
def test_a_machine_that_dies_again_is_no_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    boots = Boots(*(MachineDied("panic", []) for _ in range(lane.BOOTS)))
    assert run(monkeypatch, tmp_path, boots) == {}


def test_the_plugin_writes_down_what_ended_and_leaves_out_what_had(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "def test_done(): assert False\n"
        "@pytest.fixture\ndef broken(): yield; assert False\n"
        "def test_late(broken): pass\n"
    )
    finished = tmp_path / "finished"
    finished.write_text("passed test_it.py::test_done\n")
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.guest.finished", "test_it.py"]
    environment = os.environ | {"BIREME_FINISHED": str(finished), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "1 deselected" in done.stdout, done.stdout + done.stderr
    assert finished.read_text().splitlines()[1:] == [
        "passed test_it.py::test_good",
        "failed test_it.py::test_bad",
        "failed test_it.py::test_late",
    ]
