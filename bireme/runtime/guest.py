"""The static programs that run inside instances; guest/ builds them into the package."""

from __future__ import annotations

import os

_DIRECTORY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "guest")


def init_path() -> str:
    """The init of `--init` on this host, "" when it was not built (`make -C guest`)."""
    return _program("bireme-init")


def agent_path() -> str:
    """The agent, process 1 of a microVM, "" when it was not built (`make -C guest`)."""
    return _program("agent")


def _program(name: str) -> str:
    path = os.path.join(_DIRECTORY, name)
    return path if os.access(path, os.X_OK) else ""
