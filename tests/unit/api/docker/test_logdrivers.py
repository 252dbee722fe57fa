"""Log drivers of a create request."""

from __future__ import annotations

import pytest

from bireme.api.docker.bodies import HostConfig
from bireme.api.docker.bodies import LogConfig as Asked
from bireme.api.docker.logdrivers import log_of
from bireme.errors import BiremeError, Invalid, Unsupported
from bireme.instance.spec import LogConfig


def log(kind: str = "", **options: str) -> LogConfig:
    config = {name.replace("_", "-"): value for name, value in options.items()}
    return log_of(HostConfig(LogConfig=Asked(Type=kind, Config=config)))


def test_drivers() -> None:
    assert log() == log("json-file") == LogConfig()
    assert log("none") == LogConfig(driver="none")
    assert log("json-file", max_size="1m", max_file="2") == LogConfig(max_size_bytes=1 << 20, max_files=2)


def test_local_is_bounded() -> None:
    assert log("local") == LogConfig(driver="local", max_size_bytes=20 << 20, max_files=5)
    asked = {"max_size": "10k", "max_file": "1", "compress": "false", "mode": "blocking"}
    assert log("local", **asked) == LogConfig(driver="local", max_size_bytes=10 << 10, max_files=1)


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        ("local", {"max_file": "0"}, Invalid, "max-file cannot be less than 1"),
        ("local", {"max_file": "x"}, Invalid, "max-file cannot be less than 1"),
        ("local", {"max_size": "0"}, Invalid, "max-size must be a positive number"),
        ("local", {"max_size": "x"}, Invalid, "x"),
        ("local", {"other": "1"}, Invalid, "unknown log opt 'other' for log driver local"),
        ("local", {"compress": "true"}, Unsupported, "'compress' is not supported for log driver local"),
        ("local", {"mode": "non-blocking"}, Unsupported, "'mode=non-blocking' is not supported"),
        ("syslog", {}, Unsupported, "log driver syslog is not supported yet"),
        ("nonsense", {}, Invalid, "logger: no log driver named 'nonsense' is registered"),
    ],
)
def test_refused(kind: str, options: dict[str, str], error: type[BiremeError], message: str) -> None:
    with pytest.raises(error, match=message):
        log(kind, **options)
