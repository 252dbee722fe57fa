"""The kinds of option values: how a text becomes a value, and what is said when it does not.

Error texts are those of Docker's flag library, because scripts and people search for them.
"""

from __future__ import annotations

from bireme.cli.errors import BadValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))


def parse_bool(text: str) -> bool:
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise BadValue(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def parse_int(text: str) -> int:
    """Go's base-0 integers: 0x, 0o, 0b, a leading 0 for octal, underscores."""
    sign, digits = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
    try:
        if not digits or digits[0] in "+- _" or digits[-1] == " ":
            raise ValueError
        octal = len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567_"
        number = int(f"{sign}{digits}", 8 if octal else 0)
    except ValueError:
        raise BadValue(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None
    if not -(1 << 63) <= number < 1 << 63:
        raise BadValue(f'strconv.ParseInt: parsing "{text}": value out of range')
    return number


def parse_uint16(text: str) -> int:
    try:
        number = parse_int(text)
    except BadValue as error:
        raise BadValue(error.message.replace("ParseInt", "ParseUint")) from None
    if number < 0:
        raise BadValue(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    if number > 0xFFFF:
        raise BadValue(f'strconv.ParseUint: parsing "{text}": value out of range')
    return number


_SIZE_UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_size(text: str) -> int:
    """Bytes of a size with a binary unit: 512, 64m, 1.5GiB. BadValue as Docker words it."""
    split = len(text)
    while split and text[split - 1] not in "0123456789. ":
        split -= 1
    number_text, unit = text[:split], text[split:].lower()
    if number_text.endswith(" "):
        number_text = number_text[:-1]
    stem = unit.removesuffix("ib") if len(unit) == 3 else unit.removesuffix("b") if len(unit) == 2 else unit
    whole, _, fraction = number_text.partition(".")
    if not (whole + fraction).isdecimal() or not (whole + fraction).isascii():
        raise BadValue(f"invalid size: '{text}'")
    if stem not in _SIZE_UNITS:
        raise BadValue(f"invalid suffix: '{unit}'")
    return int(float(number_text) * (1 << 10 * _SIZE_UNITS[stem])) if fraction else int(whole) << 10 * _SIZE_UNITS[stem]


def parse_swap(text: str) -> int:
    return -1 if text == "-1" else parse_size(text)


def parse_cpus(text: str) -> int:
    """Billionths of a CPU of a decimal number."""
    sign = -1 if text.startswith("-") else 1
    whole, _, fraction = text.removeprefix("-").removeprefix("+").partition(".")
    if not (whole + fraction).isdecimal():
        raise BadValue(f"failed to parse {text} as a rational number")
    if len(fraction.rstrip("0")) > 9:
        raise BadValue("value is too precise")
    return sign * (int(whole or "0") * 10**9 + int((fraction + "0" * 9)[:9]))


_DURATION_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}
_DURATION_UNITS["h"] = 3600 * 10**9


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration: 1h30m, 1.5s, 300ms."""
    rest, sign, total = text, 1, 0.0
    if rest[:1] in ("+", "-"):
        sign, rest = (-1 if rest[0] == "-" else 1), rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise BadValue(f'time: invalid duration "{text}"')
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        letters = next((index for index, char in enumerate(rest) if char in "0123456789."), len(rest))
        unit, rest = rest[:letters], rest[letters:]
        if not number.replace(".", "", 1).isdecimal():
            raise BadValue(f'time: invalid duration "{text}"')
        if not unit:
            raise BadValue(f'time: missing unit in duration "{text}"')
        if unit not in _DURATION_UNITS:
            raise BadValue(f'time: unknown unit "{unit}" in duration "{text}"')
        total += float(number) * _DURATION_UNITS[unit]
    return sign * int(total)


def parse_filter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise BadValue("bad format of filter (expected name=value)")
    return name.strip().lower(), value.strip()


def parse_stream(text: str) -> str:
    if text.lower() not in ("stdin", "stdout", "stderr"):
        raise BadValue("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def parse_env(text: str) -> str:
    if not text or text.startswith("="):
        raise BadValue(f"invalid environment variable: {text}")
    return text


def parse_label(text: str) -> str:
    if not text.partition("=")[0].strip():
        raise BadValue(f"invalid label '{text}': empty name")
    return text


_SYSCTLS = frozenset(("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem"))
_MORE_SYSCTLS = frozenset(("kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"))


def parse_sysctl(text: str) -> str:
    name, equals, _ = text.partition("=")
    if equals and (name in _SYSCTLS or name in _MORE_SYSCTLS or name.startswith(("net.", "fs.mqueue."))):
        return text
    raise BadValue(f"sysctl '{text}' is not allowed")


def parse_ip(text: str) -> str:
    """An address as it is; BadValue for what is neither IPv4 nor IPv6."""
    import _socket

    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, text.strip())
        except (OSError, ValueError):
            continue
        return text.strip()
    raise BadValue(f"IP address is not correctly formatted: {text}")


def parse_host_entry(text: str) -> str:
    """`name:address` or `name=address`, as `name:address`."""
    equals, colon = text.find("="), text.find(":")
    split = equals if equals > 0 and (colon < 0 or equals < colon) else colon
    name, address = text[:split], text[split + 1 :].removeprefix("[").removesuffix("]")
    if split <= 0 or not name or not address:
        raise BadValue(f'bad format for add-host: "{text}"')
    if address != "host-gateway":
        try:
            parse_ip(address)
        except BadValue:
            raise BadValue(f'invalid IP address in add-host: "{address}"') from None
    return f"{name}:{address}"


def parse_link(text: str) -> str:
    parts = text.split(":")
    if not text or len(parts) > 2:
        raise BadValue(f"bad format for links: {text}" if text else "empty string specified for links")
    return text


def parse_rate(text: str) -> tuple[str, int]:
    return _device_value(
        text,
        parse_size,
        "<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb",
    )


def parse_iops(text: str) -> tuple[str, int]:
    return _device_value(text, parse_uint, "<number>. Number must be a positive integer")


def parse_weight(text: str) -> tuple[str, int]:
    path, weight = _device_value(text, parse_uint, "")
    if weight and not 10 <= weight <= 1000:
        raise BadValue(f"invalid weight for device: {text}")
    return path, weight


def _device_value(text: str, parse: Callable[[str], int], form: str) -> tuple[str, int]:
    path, colon, value = text.rpartition(":")
    if not colon or ":" in path:
        raise BadValue(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise BadValue(f"bad format for device path: {text}")
    try:
        return path, parse(value)
    except BadValue:
        wanted = (
            f"rate for device: {text}. The correct format is <device-path>:{form}"
            if form
            else f"weight for device: {text}"
        )
        raise BadValue(f"invalid {wanted}") from None


def parse_uint(text: str) -> int:
    if not text.isdecimal() or not text.isascii():
        raise BadValue(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


_ULIMITS = frozenset(
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()
)


def parse_ulimit(text: str) -> tuple[str, int, int]:
    """(name, soft, hard); -1 is unlimited."""
    name, equals, values = text.partition("=")
    if not equals:
        raise BadValue(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise BadValue(f"invalid ulimit type: {name}")
    limits = values.split(":")
    if len(limits) > 2:
        raise BadValue(f"too many limit value arguments - {values}, can only have up to two, `soft[:hard]`")
    soft = parse_int(limits[0])
    hard = parse_int(limits[1]) if len(limits) == 2 else soft
    if hard != -1 and (soft > hard or soft == -1):
        raise BadValue(
            f"ulimit soft limit must be less than or equal to hard limit: {'-1' if soft == -1 else soft} > {hard}"
        )
    return name, soft, hard


def parse_mount(text: str) -> dict[str, Any]:
    from bireme.cli.mounts import parse_mount as parse

    return parse(text)


def parse_network(text: str) -> dict[str, Any]:
    from bireme.cli.mounts import parse_network as parse

    return parse(text)


def parse_pairs(text: str) -> dict[str, str]:
    """`a=b,c=d`; a pair with a comma in it stands in double quotes."""
    found: dict[str, str] = {}
    quoted = text.split('"')
    pieces = [part if index % 2 else part.replace(",", "\0") for index, part in enumerate(quoted)]
    for pair in filter(None, "".join(pieces).split("\0")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise BadValue(f"{pair} must be formatted as key=value")
        found[key.strip()] = value
    return found


def same(text: str) -> str:
    return text


class Kind:
    """`repeated` options collect a list; `zero` is the value of an option that was not typed."""

    __slots__ = ("label", "parse", "repeated", "zero")

    def __init__(self, parse: Callable[[str], Any], zero: object, repeated: bool = False, label: str = "") -> None:
        self.parse = parse
        self.zero = zero
        self.repeated = repeated
        self.label = label


KINDS: dict[str, Kind] = {
    "bool": Kind(parse_bool, False),
    "string": Kind(same, ""),
    "int": Kind(parse_int, 0),
    "uint16": Kind(parse_uint16, 0),
    "bytes": Kind(parse_size, 0),
    "swap": Kind(parse_swap, 0, label="bytes"),
    "decimal": Kind(parse_cpus, 0),
    "duration": Kind(parse_duration, 0),
    "list": Kind(same, None, repeated=True),
    "strings": Kind(same, None, repeated=True),
    "map": Kind(same, None, repeated=True),
    "env": Kind(parse_env, None, repeated=True, label="list"),
    "label": Kind(parse_label, None, repeated=True, label="list"),
    "stream": Kind(parse_stream, None, repeated=True, label="list"),
    "sysctl": Kind(parse_sysctl, None, repeated=True, label="map"),
    "ip": Kind(parse_ip, None, repeated=True, label="list"),
    "hosts": Kind(parse_host_entry, None, repeated=True, label="list"),
    "link": Kind(parse_link, None, repeated=True, label="list"),
    "rate": Kind(parse_rate, None, repeated=True, label="list"),
    "iops": Kind(parse_iops, None, repeated=True, label="list"),
    "weight": Kind(parse_weight, None, repeated=True, label="list"),
    "mount": Kind(parse_mount, None, repeated=True),
    "network": Kind(parse_network, None, repeated=True),
    "ulimit": Kind(parse_ulimit, None, repeated=True),
    "stringToString": Kind(parse_pairs, None, repeated=True),
    "filter": Kind(parse_filter, None, repeated=True),
}
