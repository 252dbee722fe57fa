"""The allow lists against what the processes do: nothing is missing, and nothing stands there for nothing.

One recorded run of the tests that drive devices in processes of their own, of machines in this host's KVM, and of an
interpreter that needs memory and time. See tests/support/recorder.py for how calls are recorded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bireme.vmm.allowlist import ALLOWED
from tests.source.tree import ROOT
from tests.support.jailed import jailed
from tests.support.pace import patience

pytestmark = pytest.mark.needs_root
ROOMS = ("tests/unit/vmm/virtio", "tests/integration/test_vmm_calls.py")
RECORDED = "BIREME_RECORDED"


class Recording:
    def __init__(self, found: dict[str, object]) -> None:
        used, missing = found["used"], found["missing"]
        assert isinstance(used, dict)
        assert isinstance(missing, list)
        self.used: dict[str, list[int]] = used
        self.missing: list[str] = missing


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    output = tmp_path_factory.mktemp("recording") / "calls.json"
    argv = [sys.executable, "-m", "tests.support.recorder", str(output), "-q", *ROOMS, "-k", "process or interpreter"]
    environment = os.environ | {RECORDED: "1"}
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=patience(100), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Recording(json.loads(output.read_text()))


@pytest.mark.skipif(RECORDED in os.environ, reason="this is the recorded run")
def test_nothing_is_missing(recording: Recording) -> None:
    assert recording.missing == []


@pytest.mark.skipif(RECORDED in os.environ, reason="this is the recorded run")
@pytest.mark.parametrize("kind", ["block", "net", "entropy"])
def test_every_entry_is_needed(recording: Recording, kind: str) -> None:
    used = recording.used[kind]
    idle = [entry for at, entry in enumerate(ALLOWED[kind]) if at not in used and not entry.rare]
    assert idle == []


@pytest.mark.skipif(RECORDED in os.environ, reason="this is the recorded run")
@pytest.mark.parametrize("kind", sorted(ALLOWED))
def test_rare_is_what_the_recorded_run_does_not_need(recording: Recording, kind: str) -> None:
    used = recording.used[kind]
    assert [entry for at, entry in enumerate(ALLOWED[kind]) if at in used and entry.rare] == []


def _work_of_an_interpreter() -> int:
    """Small objects and large ones, made, grown and given back."""
    small = [(n, str(n)) for n in range(60_000)]
    middle = [bytes(2000) for _ in range(1000)]
    large = bytearray(1 << 20)
    for _ in range(30):
        large += bytes(1 << 19)
    del small, middle, large
    os.close(0)
    return 1


@pytest.mark.parametrize("kind", sorted(ALLOWED))
def test_an_interpreter_finds_what_it_needs(kind: str) -> None:
    assert jailed(kind, _work_of_an_interpreter)[0] == 1
