"""Classic BPF put together from the end, so that every jump's distance is known when it is written.

A label is the position of code that exists already, counted from the end of the program. A conditional jump reaches
255 instructions; when its target is further away a return is simply written again near by (one instruction), anything
else is reached through an unconditional jump. seccomp(2), Documentation/networking/filter.rst.
"""

from __future__ import annotations

import struct

LOAD = 0x20
AND = 0x54
JUMP = 0x05
JUMP_EQUAL = 0x15
JUMP_GREATER = 0x25
JUMP_GREATER_EQUAL = 0x35
RETURN = 0x06

MAX_INSTRUCTIONS = 4096
_REACH = 255
_instruction = struct.Struct("=HBBI")

Label = int


class Assembler:
    """Grows a program towards its beginning; what was added last runs first."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []
        self._returns: dict[int, Label] = {}
        self._value_at: dict[Label, int] = {}

    def _add(self, code: int, jt: int, jf: int, k: int) -> Label:
        self._code.append((code, jt, jf, k))
        return len(self._code) - 1

    def ret(self, value: int) -> Label:
        """Code that ends the filter with `value`: an earlier copy, when there is one."""
        label = self._returns.get(value)
        if label is None:
            label = self._add(RETURN, 0, 0, value)
            self._returns[value] = label
            self._value_at[label] = value
        return label

    def _near(self, label: Label, spare: int) -> Label:
        """A label for the same code that a jump written after `spare` more instructions can reach."""
        if len(self._code) + spare - label - 1 <= _REACH:
            return label
        value = self._value_at.get(label)
        if value is None:
            return self._add(JUMP, 0, 0, len(self._code) - label - 1)
        latest = self._returns[value]
        if len(self._code) + spare - latest - 1 <= _REACH:
            return latest
        del self._returns[value]
        return self.ret(value)

    def jump(self, code: int, k: int, true: Label, false: Label) -> Label:
        """Compare the accumulator with `k` and go on at one of two labels."""
        true = self._near(true, 1)
        false = self._near(false, 0)
        true = self._near(true, 0)
        here = len(self._code)
        return self._add(code, here - true - 1, here - false - 1, k)

    def load(self, offset: int, then: Label) -> Label:
        """Load a word of struct seccomp_data, then run `then` (which must be what was added last)."""
        return self._straight(LOAD, offset, then)

    def mask(self, bits: int, then: Label) -> Label:
        """AND the accumulator with `bits`, then run `then`."""
        return self._straight(AND, bits, then)

    def _straight(self, code: int, k: int, then: Label) -> Label:
        distance = len(self._code) - then - 1
        if distance:
            self._add(JUMP, 0, 0, distance)
        return self._add(code, 0, 0, k)

    def program(self, entry: Label) -> bytes:
        """The bytes of the program that starts at `entry`."""
        distance = len(self._code) - entry - 1
        if distance:
            self._add(JUMP, 0, 0, distance)
        return b"".join(_instruction.pack(*line) for line in reversed(self._code))
