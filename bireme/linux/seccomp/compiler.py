"""OCI `linux.seccomp` -> a BPF program.

The kernel runs the filter on every system call, and once per call number when it is loaded, to learn which numbers are
always allowed. So depth counts more than length: per architecture the numbers are cut into ranges with the same answer
and searched by a binary tree; only calls with argument conditions go on to look at arguments. Docker's list becomes
about 130 instructions for x86_64, 8 deep.

    arch? -- x86_64 --> number tree --> answer, or argument tests --> answer
      |------ i386 ---> its own tree
      `-- other ------> kill the process

Three answers are not in the profile: the x32 ABI fails with ENOSYS as on a kernel built without it (its numbers would
bypass rules written for x86_64); so does a number above all that the profile names, when everything else fails with
another errno, because a libc that probes for a new call understands ENOSYS alone (runc does the same); an architecture
that is not listed is killed.

Rules of one call are tried in the profile's order, those with conditions before one without. Two conditions on the same
argument in one rule are alternatives, as they are for runc and libseccomp. Names this table does not know are skipped:
a profile may be newer than we are.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bireme.errors import Invalid, Unsupported
from bireme.linux.seccomp import table
from bireme.linux.seccomp.assembler import (
    JUMP_EQUAL,
    JUMP_GREATER,
    JUMP_GREATER_EQUAL,
    MAX_INSTRUCTIONS,
    Assembler,
    Label,
)

_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_X32_BIT = 0x4000_0000
_NO_CALL = 0xFFFF_FFFF
_KILL_PROCESS = table.ACTIONS["SCMP_ACT_KILL_PROCESS"]
_ERRNO = table.ACTIONS["SCMP_ACT_ERRNO"]
_ENOSYS = _ERRNO | errno.ENOSYS
_WORD = 0xFFFF_FFFF


class Condition(NamedTuple):
    """One comparison of an argument; `second` is the value after masking for MASKED_EQ."""

    argument: int
    op: str
    value: int
    second: int


class Verdict(NamedTuple):
    """What happens to a call: the first alternative whose conditions all hold, else `otherwise`."""

    alternatives: tuple[tuple[tuple[Condition, ...], int], ...]
    otherwise: int


_cache: dict[tuple[str, str], bytes] = {}
_CACHED = 32


def compile_profile(profile: Mapping[str, object], arch: str) -> bytes:
    """The BPF program of an OCI `linux.seccomp` object for a machine of `arch` ("x86_64", "aarch64").

    Raises Invalid with the place of the mistake, Unsupported for what is known and not there (notify). Cached.
    """
    key = (json.dumps(profile, sort_keys=True), arch)
    program = _cache.get(key)
    if program is None:
        program = _compile(profile, arch)
        if len(_cache) >= _CACHED:
            del _cache[next(iter(_cache))]
        _cache[key] = program
    return program


def profile_flags(profile: Mapping[str, object]) -> int:
    """The SECCOMP_FILTER_FLAG_* bits of an OCI `linux.seccomp` object."""
    bits = 0
    for name in _list(profile, "flags", "linux.seccomp"):
        if name not in table.FLAGS:
            raise Unsupported(f"seccomp flag {name!r} is not supported", place="linux.seccomp.flags")
        bits |= table.FLAGS[str(name)]
    return bits


def _compile(profile: Mapping[str, object], arch: str) -> bytes:
    if profile.get("listenerPath"):
        raise Unsupported("seccomp notify is not supported", place="linux.seccomp.listenerPath")
    default = _action(profile.get("defaultAction"), profile.get("defaultErrnoRet"), "linux.seccomp.defaultAction")
    asm = Assembler()
    entry = asm.ret(_KILL_PROCESS)
    arches = _architectures(profile, arch)
    trees: list[tuple[int, Label]] = []
    for name in reversed(arches):
        verdicts = _verdicts(profile, name, default)
        trees.append((table.AUDIT_ARCH[name], _tree(asm, _segments(verdicts, default, name))))
    for token, tree in trees:
        entry = asm.jump(JUMP_EQUAL, token, tree, entry)
    program = asm.program(asm.load(_ARCH, entry))
    if len(program) // 8 > MAX_INSTRUCTIONS:
        raise Invalid(
            f"the seccomp profile needs {len(program) // 8} instructions, the kernel takes {MAX_INSTRUCTIONS}"
        )
    return program


def _architectures(profile: Mapping[str, object], native: str) -> list[str]:
    names = _list(profile, "architectures", "linux.seccomp")
    found = [native]
    for name in names:
        if name in table.REFUSED_ABIS:
            continue
        arch = table.ARCHITECTURES.get(str(name))
        if arch is None and not str(name).startswith("SCMP_ARCH_"):
            raise Invalid(f"unknown architecture {name!r}", place="linux.seccomp.architectures")
        if arch is not None and arch not in found:
            found.append(arch)
    return found


def _list(value: Mapping[str, object], key: str, place: str) -> Sequence[object]:
    found = value.get(key)
    if found is None:
        return ()
    if not isinstance(found, list):
        raise Invalid(f"{key} is not a list", place=f"{place}.{key}")
    return found


def _action(name: object, number: object, place: str) -> int:
    if name == "SCMP_ACT_NOTIFY":
        raise Unsupported("seccomp notify is not supported", place=place)
    if not isinstance(name, str) or name not in table.ACTIONS:
        raise Invalid(f"unknown seccomp action {name!r}", place=place)
    if name not in table.WITH_DATA:
        if number:
            raise Invalid(f"{name} has no errno", place=place)
        return table.ACTIONS[name]
    if number is None:
        number = errno.EPERM
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= 0xFFFF:
        raise Invalid(f"errno {number!r} is out of range", place=place)
    return table.ACTIONS[name] | number


def _verdicts(profile: Mapping[str, object], arch: str, default: int) -> dict[int, Verdict]:
    numbers = table.syscalls(arch)
    conditional: dict[int, list[tuple[tuple[Condition, ...], int]]] = {}
    plain: dict[int, int] = {}
    for position, rule in enumerate(_list(profile, "syscalls", "linux.seccomp")):
        place = f"linux.seccomp.syscalls[{position}]"
        if not isinstance(rule, dict):
            raise Invalid("a rule is an object", place=place)
        action = _action(rule.get("action"), rule.get("errnoRet"), place)
        names = _list(rule, "names", place)
        if not names or not all(isinstance(name, str) and name for name in names):
            raise Invalid("a rule names its system calls", place=f"{place}.names")
        alternatives = _alternatives(rule, place)
        for name in names:
            number = numbers.get(str(name))
            if number is None:
                continue
            if alternatives:
                conditional.setdefault(number, []).extend((tests, action) for tests in alternatives)
            else:
                plain.setdefault(number, action)
    return {
        number: _simplify(conditional.get(number, []), plain.get(number, default))
        for number in sorted({*conditional, *plain})
    }


def _simplify(alternatives: list[tuple[tuple[Condition, ...], int]], otherwise: int) -> Verdict:
    """Alternatives at the end that answer what is answered anyway are not asked."""
    while alternatives and alternatives[-1][1] == otherwise:
        alternatives = alternatives[:-1]
    return Verdict(tuple(alternatives), otherwise)


def _alternatives(rule: Mapping[str, object], place: str) -> list[tuple[Condition, ...]]:
    tests = [_condition(arg, f"{place}.args[{i}]") for i, arg in enumerate(_list(rule, "args", place))]
    if len({test.argument for test in tests}) < len(tests):
        return [(test,) for test in tests]
    return [tuple(tests)] if tests else []


def _condition(argument: object, place: str) -> Condition:
    if not isinstance(argument, dict):
        raise Invalid("an argument condition is an object", place=place)
    op = argument.get("op")
    if op not in table.OPERATORS:
        raise Invalid(f"unknown operator {op!r}", place=place)
    index, value, second = (argument.get(key, 0) for key in ("index", "value", "valueTwo"))
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= 5:
        raise Invalid(f"argument {index!r} is not 0 to 5", place=place)
    for number in (value, second):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 64:
            raise Invalid(f"value {number!r} does not fit 64 bits", place=place)
    return Condition(index, str(op), value, second)


def _segments(verdicts: Mapping[int, Verdict], default: int, arch: str) -> list[tuple[int, Verdict]]:
    """(first number, verdict) in rising order; each reaches to the next one's first number."""
    plain = Verdict((), default)
    segments: list[tuple[int, Verdict]] = []

    def start(number: int, verdict: Verdict) -> None:
        if not segments or segments[-1][1] != verdict:
            segments.append((number, verdict))

    end = 0
    for number in sorted(verdicts):
        if number > end or not segments:
            start(end, plain)
            if number == 0:
                segments.pop()
        start(number, verdicts[number])
        end = number + 1
    beyond = _ENOSYS if verdicts and default & 0xFFFF0000 == _ERRNO else default
    start(end, Verdict((), beyond))
    if arch == "x86_64":
        start(_X32_BIT, Verdict((), _ENOSYS))
        start(_NO_CALL, plain)
    return segments


def _tree(asm: Assembler, segments: list[tuple[int, Verdict]]) -> Label:
    labels: dict[Verdict, Label] = {}

    def leaf(verdict: Verdict) -> Label:
        if not verdict.alternatives:
            return asm.ret(verdict.otherwise)
        if verdict not in labels:
            labels[verdict] = _tests(asm, verdict)
        return labels[verdict]

    def build(low: int, high: int) -> Label:
        if high - low == 1:
            return leaf(segments[low][1])
        middle = (low + high) // 2
        right = build(middle, high)
        left = build(low, middle)
        return asm.jump(JUMP_GREATER_EQUAL, segments[middle][0], right, left)

    return asm.load(_NUMBER, build(0, len(segments)))


def _tests(asm: Assembler, verdict: Verdict) -> Label:
    label = asm.ret(verdict.otherwise)
    for conditions, action in reversed(verdict.alternatives):
        false, label = label, asm.ret(action)
        for condition in reversed(conditions):
            label = _test(asm, condition, label, false)
    return label


def _test(asm: Assembler, condition: Condition, true: Label, false: Label) -> Label:
    """64-bit comparison from two 32-bit halves (little-endian layout of seccomp_data)."""
    op, value = condition.op, condition.value
    low_at = _ARGUMENTS + 8 * condition.argument
    low, high = value & _WORD, value >> 32
    if op == "SCMP_CMP_MASKED_EQ":
        return _masked(asm, condition, true, false)
    if op in ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE"):
        true, false = false, true
    if op in ("SCMP_CMP_EQ", "SCMP_CMP_NE"):
        lower = asm.load(low_at, asm.jump(JUMP_EQUAL, low, true, false))
        return asm.load(low_at + 4, asm.jump(JUMP_EQUAL, high, lower, false))
    compare = JUMP_GREATER_EQUAL if op in ("SCMP_CMP_GE", "SCMP_CMP_LT") else JUMP_GREATER
    lower = asm.load(low_at, asm.jump(compare, low, true, false))
    equal = asm.jump(JUMP_EQUAL, high, lower, false)
    return asm.load(low_at + 4, asm.jump(JUMP_GREATER, high, true, equal))


def _masked(asm: Assembler, condition: Condition, true: Label, false: Label) -> Label:
    low_at = _ARGUMENTS + 8 * condition.argument
    wanted = condition.second & condition.value
    label = true
    for shift, offset in ((0, low_at), (32, low_at + 4)):
        mask = condition.value >> shift & _WORD
        if mask:
            compare = asm.jump(JUMP_EQUAL, wanted >> shift & _WORD, label, false)
            label = asm.load(offset, asm.mask(mask, compare))
    return label
