"""Rules of every lane: markers skip (or fail, where the run promised the feature) before a fixture is built."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support import require

_PREFIX = "needs_"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers():
        if mark.name.startswith(_PREFIX):
            require.require(mark.name.removeprefix(_PREFIX))


def pytest_report_header(config: pytest.Config) -> list[str]:
    there = [name for name in require.FEATURES if not require.missing(name)]
    return [f"here: {', '.join(there) or 'nothing special'}"]


def pytest_configure(config: pytest.Config) -> None:
    """A run that is told to stop ends as with Ctrl-C: fixtures still take down what they started."""

    owner = os.getpid()

    def interrupt(signum: int, frame: object) -> None:
        if os.getpid() == owner:
            raise KeyboardInterrupt(f"signal {signum}")
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    signal.signal(signal.SIGTERM, interrupt)
    _nothing_ignored()


def _nothing_ignored() -> None:
    """A script's background job ignores these signals, and so would every program that a test starts and signals."""
    for signum, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, handler)
