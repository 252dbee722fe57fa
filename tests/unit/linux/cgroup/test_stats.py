from __future__ import annotations

from bireme.linux.cgroup.stats import parse_blkio, parse_flat, parse_io_stat, parse_limit_v1, parse_number


def test_flat_files() -> None:
    assert parse_flat("cache 10\nrss 20\nodd\nname x\nneg -3\n") == {"cache": 10, "rss": 20, "neg": -3}
    assert parse_flat("") == {}


def test_numbers() -> None:
    assert [parse_number(text) for text in ("5\n", "max\n", "", "-1")] == [5, 0, 0, -1]
    assert [parse_limit_v1(text) for text in ("9223372036854771712\n", "4096\n", "-1")] == [0, 4096, 0]


def test_block_counters() -> None:
    block: dict[str, dict[str, int]] = {}
    parse_blkio("8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Total 6\nTotal 6\n", "bytes", block)
    parse_blkio("8:0 Read 4\n", "ios", block)
    assert block == {"8:0": {"read_bytes": 1, "write_bytes": 2, "read_ios": 4}}
    text = "254:0 rbytes=5 wbytes=6 rios=7 wios=8 dbytes=0 dios=0\n8:16\n"
    assert parse_io_stat(text) == {
        "254:0": {"read_bytes": 5, "write_bytes": 6, "read_ios": 7, "write_ios": 8},
        "8:16": {},
    }
