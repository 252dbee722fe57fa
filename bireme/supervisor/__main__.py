"""`python -I -S .../supervisor/__main__.py keeper|main ...`: this package without the site module."""

from __future__ import annotations

import os
import sys
from importlib import import_module


def run() -> None:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    program = sys.argv.pop(1)
    import_module(f"bireme.supervisor.{program}").main()


if __name__ == "__main__":
    run()
