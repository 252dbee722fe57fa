"""What several files share: a client of a file's own supervisor, and what is dear, an engine that runs machines with a
machine to look at.

These two live until the session ends, so that a lane boots them once; test_microvm_engine.py, the last to use them,
sees to it that nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.daemon import RunningEngine
    from tests.support.supervised import Rig
    from tests.support.supervision import Client


@pytest.fixture
def client(rig: Rig) -> Iterator[Client]:
    """Connected to the `rig` of the file."""
    made = rig.connect()
    yield made
    made.close()


@pytest.fixture(scope="session")
def machine_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    from tests.support.daemon import running_engine
    from tests.support.microvms import add_kernel

    with running_engine(tmp_path_factory.mktemp("machines")) as made:
        add_kernel(made)
        yield made


@pytest.fixture(scope="session")
def sleeper(machine_engine: RunningEngine) -> Iterator[str]:
    """A machine of 192 MiB and 4 vCPUs; `--cpus` is refused beyond the host's own, as Docker does, a quota is not."""
    from tests.support.microvms import start_machine

    options = ("-m", "192m", "--cpu-period", "100000", "--cpu-quota", "400000")
    name = start_machine(machine_engine, *options, "busybox", "sleep", "100000", name="sleeper")
    yield name
    machine_engine.bireme("rm", "-f", name)
