from __future__ import annotations

import json

import pytest

from bireme.errors import Invalid
from bireme.linux.cgroup.stats import CgroupStats
from bireme.runtime.command.events import parse_duration, shape


def test_durations() -> None:
    assert [parse_duration(text) for text in ("5s", "500ms", "1m", "2h", "1.5s")] == [5, 0.5, 60, 7200, 1.5]
    for text in ("", "5", "s", "0s", "-1s", "5d", "nans"):
        with pytest.raises(Invalid):
            parse_duration(text)


def test_the_shape_engines_read() -> None:
    stats = CgroupStats(cpu_total_ns=5, memory_bytes=7, memory_swap_bytes=2, pids=3, block={"8:1": {"read_bytes": 9}})
    data = json.loads(json.dumps(shape(stats)))
    assert data["cpu"]["usage"]["total"] == 5
    assert data["memory"]["usage"] == {"limit": (1 << 64) - 1, "usage": 7, "max": 0, "failcnt": 0}
    assert data["memory"]["swap"]["usage"] == 9
    assert data["pids"] == {"current": 3, "limit": 0}
    assert data["blkio"]["ioServiceBytesRecursive"][0] == {"major": 8, "minor": 1, "op": "Read", "value": 9}
