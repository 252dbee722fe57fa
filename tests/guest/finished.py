"""A pytest plugin of the guest lane: a line for each test that ended, and none of those run again after a second boot.

BIREME_FINISHED names the file. Lines are `passed NAME` or `failed NAME`; a skipped test has passed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FILE = Path(os.environ["BIREME_FINISHED"])
_failed: set[str] = set()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    done = {line.partition(" ")[2] for line in FILE.read_text().splitlines()}
    again = [item for item in items if item.nodeid in done]
    if again:
        config.hook.pytest_deselected(items=again)
        items[:] = [item for item in items if item.nodeid not in done]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(report.nodeid)
    if report.when == "teardown":
        verdict = "failed" if report.nodeid in _failed else "passed"
        with FILE.open("a") as file:
            file.write(f"{verdict} {report.nodeid}\n")
