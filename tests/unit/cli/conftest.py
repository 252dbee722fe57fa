from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.cli import Cli
from tests.support.fakeserver import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


@pytest.fixture
def cli(server: FakeServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    for name in ("DOCKER_API_VERSION", "BIREME_HOST", "DOCKER_HOST", "BIREME_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    yield Cli(server.host, capfd)
    monkeypatch.undo()
    time.tzset()
