"""`biremed --shutdown` without an engine: machines get their stop signal through their agent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bireme.daemon.ending import end_without_engine
from tests.support.machines import FAKE, launch_machine, machine_files
from tests.support.supervised import Rig, alive, wait_until

pytestmark = pytest.mark.needs_root


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, monitor=FAKE)
    made.start()
    yield made
    assert not made.cgroups()
    assert not machine_files(made)


def test_a_machine_is_asked_first(rig: Rig) -> None:
    client = rig.clients[0]
    marker = rig.directory / "asked"
    script = f"trap 'echo yes > {marker}; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    identity = launch_machine(rig, client, "sh", "-c", script)
    wait_until(lambda: rig.output(identity), "the program to be ready")
    keeper = rig.pid("keeper")
    client.close()
    asyncio.run(end_without_engine(rig.socket_path))
    assert rig.keeper is not None
    rig.keeper.wait(60)
    assert not alive(keeper)
    assert marker.read_text() == "yes\n"
