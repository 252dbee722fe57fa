"""A host without hardware virtualisation: `--isolation microvm` says why, and what would help."""

from __future__ import annotations

from pathlib import Path

import pytest

from bireme.linux import probe
from tests.support.daemon import running_engine

pytestmark = pytest.mark.needs_root


@pytest.mark.skipif(not probe.hardware_virtualisation(), reason="machines run here")
def test_the_reason_and_the_remedy(tmp_path: Path) -> None:
    with running_engine(tmp_path / "engine") as engine:
        done = engine.bireme("run", "--isolation", "microvm", "busybox", "true")
        assert done.returncode == 125
        assert "isolation microvm is not available on this host: " in done.stderr
        assert probe.hardware_virtualisation() in done.stderr
        assert "firmware" in done.stderr
        assert "microvm" not in engine.bireme("info").stdout
