"""docker's own command line client: the one that BIREME_DOCKER_CLI names (tools/docker-cli finds one for the lanes),
else the one on PATH. Tests that use it are marked needs_docker.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache

import pytest

from tests.support.pace import patience

DOCKER = os.environ.get("BIREME_DOCKER_CLI") or shutil.which("docker") or ""
"""The program, "" where there is none."""


def skip_before(major: int, why: str) -> None:
    """Skip the running test where the client is older than that version; `why` says what it cannot do."""
    if (there := _major()) < major:
        pytest.skip(f"docker's client {there} is older than {major}: {why}")


@cache
def _major() -> int:
    command = [DOCKER, "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=patience(60)).stdout
    found = re.match(r"Docker version (\d+)\.", shown)
    assert found is not None, shown
    return int(found[1])
