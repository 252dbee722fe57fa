"""Values of options, and Docker's words for those that are none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.cli import kinds
from bireme.cli.errors import BadValue

_GOOD: list[tuple[Callable[[str], object], str, object]] = [
    (kinds.parse_bool, "T", True),
    (kinds.parse_bool, "0", False),
    (kinds.parse_int, "-1", -1),
    (kinds.parse_int, "+7", 7),
    (kinds.parse_int, "0x10", 16),
    (kinds.parse_int, "010", 8),
    (kinds.parse_int, "0b11", 3),
    (kinds.parse_int, "0", 0),
    (kinds.parse_int, "1_000", 1000),
    (kinds.parse_uint16, "65535", 65535),
    (kinds.parse_size, "0", 0),
    (kinds.parse_size, "512", 512),
    (kinds.parse_size, "1k", 1024),
    (kinds.parse_size, "64m", 64 << 20),
    (kinds.parse_size, "1.5G", 3 << 29),
    (kinds.parse_size, "2 GiB", 2 << 30),
    (kinds.parse_size, "3mb", 3 << 20),
    (kinds.parse_size, "1t", 1 << 40),
    (kinds.parse_size, "5b", 5),
    (kinds.parse_swap, "-1", -1),
    (kinds.parse_cpus, "1.5", 1_500_000_000),
    (kinds.parse_cpus, ".25", 250_000_000),
    (kinds.parse_cpus, "0.000000001", 1),
    (kinds.parse_duration, "1h30m", 5400 * 10**9),
    (kinds.parse_duration, "1.5s", 1_500_000_000),
    (kinds.parse_duration, "-300ms", -300_000_000),
    (kinds.parse_duration, "0", 0),
    (kinds.parse_duration, "5us", 5000),
    (kinds.parse_filter, "Label = a=b ", ("label", "a=b")),
    (kinds.parse_ulimit, "nofile=10:20", ("nofile", 10, 20)),
    (kinds.parse_ulimit, "core=-1", ("core", -1, -1)),
    (kinds.parse_rate, "/dev/sda:1mb", ("/dev/sda", 1 << 20)),
    (kinds.parse_iops, "/dev/sda:7", ("/dev/sda", 7)),
    (kinds.parse_weight, "/dev/sda:100", ("/dev/sda", 100)),
    (kinds.parse_host_entry, "a:1.2.3.4", "a:1.2.3.4"),
    (kinds.parse_host_entry, "a=[::1]", "a:::1"),
    (kinds.parse_host_entry, "a:::1", "a:::1"),
    (kinds.parse_host_entry, "a:host-gateway", "a:host-gateway"),
    (kinds.parse_link, "a:b", "a:b"),
    (kinds.parse_ip, " ::1 ", "::1"),
    (kinds.parse_stream, "STDIN", "stdin"),
    (kinds.parse_sysctl, "net.x=1", "net.x=1"),
    (kinds.parse_env, "A=", "A="),
]


@pytest.mark.parametrize(("parse", "text", "value"), _GOOD)
def test_values(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


_BAD: list[tuple[Callable[[str], object], str, str]] = [
    (kinds.parse_bool, "yes", 'strconv.ParseBool: parsing "yes": invalid syntax'),
    (kinds.parse_int, "", 'strconv.ParseInt: parsing "": invalid syntax'),
    (kinds.parse_int, " 1", 'strconv.ParseInt: parsing " 1": invalid syntax'),
    (kinds.parse_int, "--1", 'strconv.ParseInt: parsing "--1": invalid syntax'),
    (kinds.parse_int, "1x", 'strconv.ParseInt: parsing "1x": invalid syntax'),
    (kinds.parse_int, "9" * 20, f'strconv.ParseInt: parsing "{"9" * 20}": value out of range'),
    (kinds.parse_uint16, "70000", 'strconv.ParseUint: parsing "70000": value out of range'),
    (kinds.parse_uint16, "-1", 'strconv.ParseUint: parsing "-1": invalid syntax'),
    (kinds.parse_size, "foo", "invalid size: 'foo'"),
    (kinds.parse_size, "-3", "invalid size: '-3'"),
    (kinds.parse_size, "1x", "invalid suffix: 'x'"),
    (kinds.parse_size, "", "invalid size: ''"),
    (kinds.parse_size, "1.2.3m", "invalid size: '1.2.3m'"),
    (kinds.parse_size, "\u0661m", "invalid size: '\u0661m'"),
    (kinds.parse_cpus, "x", "failed to parse x as a rational number"),
    (kinds.parse_cpus, "1.00000000001", "value is too precise"),
    (kinds.parse_duration, "x", 'time: invalid duration "x"'),
    (kinds.parse_duration, "", 'time: invalid duration ""'),
    (kinds.parse_duration, "5", 'time: missing unit in duration "5"'),
    (kinds.parse_duration, "5y", 'time: unknown unit "y" in duration "5y"'),
    (kinds.parse_filter, "foo", "bad format of filter (expected name=value)"),
    (kinds.parse_ulimit, "foo=1", "invalid ulimit type: foo"),
    (kinds.parse_ulimit, "nofile", "invalid ulimit argument: nofile"),
    (kinds.parse_ulimit, "nofile=2:1", "ulimit soft limit must be less than or equal to hard limit: 2 > 1"),
    (kinds.parse_rate, "/dev/x", "bad format: /dev/x"),
    (kinds.parse_rate, "x:1", "bad format for device path: x:1"),
    (kinds.parse_weight, "/dev/x:5", "invalid weight for device: /dev/x:5"),
    (kinds.parse_host_entry, "foo", 'bad format for add-host: "foo"'),
    (kinds.parse_host_entry, "a:b", 'invalid IP address in add-host: "b"'),
    (kinds.parse_link, "a:b:c", "bad format for links: a:b:c"),
    (kinds.parse_ip, "foo", "IP address is not correctly formatted: foo"),
    (kinds.parse_stream, "foo", "valid streams are STDIN, STDOUT and STDERR"),
    (kinds.parse_sysctl, "foo=1", "sysctl 'foo=1' is not allowed"),
    (kinds.parse_env, "=x", "invalid environment variable: =x"),
]


@pytest.mark.parametrize(("parse", "text", "message"), _BAD)
def test_complaints(parse: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse(text)
    assert caught.value.message == message


@given(st.text(max_size=12))
def test_any_text_is_a_value_or_a_complaint(text: str) -> None:
    for kind in kinds.KINDS.values():
        try:
            kind.parse(text)
        except BadValue:
            continue
