"""Values as Go's templates see and print them, and the functions that templates call."""

from __future__ import annotations

from bireme.client import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class GoError(Exception):
    """An expression that does not fit its value; `place` is the expression."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


class Fields:
    """A value whose fields are computed by name; implemented by the rows of listings."""

    def field(self, name: str, arguments: list[Any], path: str) -> Any:
        """The field's value; GoError for one that is not there."""
        raise NotImplementedError

    def plain(self) -> Any:
        """All of it as JSON-able data, for {{json .}}."""
        raise NotImplementedError


def truth(value: Any) -> bool:
    """Go: the zero value of every type is false."""
    return bool(value)


def show(value: Any, nested: bool = False) -> str:
    """What {{.}} prints (fmt's %v)."""
    if value is None:
        return "<nil>" if nested else "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _show_float(value)
    if isinstance(value, list | tuple):
        return "[" + " ".join(show(item, True) for item in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{show(value[key], True)}" for key in sorted(value)) + "]"
    if isinstance(value, Fields):
        return show(value.plain())
    return str(value)


def _show_float(value: float) -> str:
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa}e{power[0]}{power[1:].zfill(2)}" if exponent and power[0] in "+-" else text


def _json(value: Any) -> str:
    return jsontext.dumps_html(value.plain()) if isinstance(value, Fields) else jsontext.dumps_text(value)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list | tuple | dict):
        return len(value)
    raise GoError("len", f"error calling len: len of type {_kind(value)}")


def _kind(value: Any) -> str:
    return "nil pointer" if value is None else type(value).__name__


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            empty = "" if all(isinstance(item, str) for item in value.values()) else None
            value = value.get(key, empty)
        elif isinstance(value, list | tuple | str) and isinstance(key, int):
            if not 0 <= key < len(value):
                raise GoError("index", f"error calling index: index out of range: {key}")
            value = value[key]
        elif value is None:
            raise GoError("index", "error calling index: index of untyped nil")
        else:
            raise GoError("index", f"error calling index: can't index item of type {_kind(value)}")
    return value


def _slice(value: Any, *bounds: int) -> Any:
    low, high = (*bounds, *(0, len(value))[len(bounds) :])[:2]
    if not 0 <= low <= high <= len(value):
        raise GoError("slice", f"error calling slice: index out of range: {high}")
    return value[low:high]


def _split(text: str, separator: str) -> list[str]:
    return text.split(separator) if separator else list(text)


def _join(values: Any, separator: str) -> str:
    if not isinstance(values, list | tuple):
        raise GoError("join", f"error calling join: expected a list, got {_kind(values)}")
    return separator.join(str(value) for value in values)


def _title(text: str) -> str:
    return "".join(
        char.upper() if not index or not text[index - 1].isalnum() else char for index, char in enumerate(text)
    )


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _truncate(text: str, length: int) -> str:
    return text[:length]


def _print(*values: Any) -> str:
    """fmt.Sprint: a space between operands when neither is a string."""
    out = ""
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            out += " "
        out += show(value, True)
    return out


def _println(*values: Any) -> str:
    return " ".join(show(value, True) for value in values) + "\n"


def _printf(form: str, *values: Any) -> str:
    """fmt.Sprintf for the verbs v s d q t x X o b c f g e and %%, with flags, width and precision."""
    out, index, rest = [], 0, list(values)
    while index < len(form):
        if form[index] != "%":
            out.append(form[index])
            index += 1
            continue
        end = index + 1
        while end < len(form) and form[end] in "+-# 0123456789.":
            end += 1
        flags, verb = form[index + 1 : end], form[end : end + 1]
        index = end + 1
        if verb == "%":
            out.append("%")
        elif not rest:
            out.append(f"%!{verb}(MISSING)")
        else:
            out.append(_format(flags, verb, rest.pop(0)))
    return "".join(out)


def _format(flags: str, verb: str, value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if verb == "q":
        return ("%" + flags + "s") % jsontext.dumps_text(str(value))
    if verb in "vst":
        return ("%" + flags.replace("+", "").replace("#", "") + "s") % show(value, True)
    if verb in "dxXo" and number:
        return ("%" + flags + verb) % int(value)
    if verb in "xX" and isinstance(value, str):
        return value.encode().hex() if verb == "x" else value.encode().hex().upper()
    if verb in "feg" and number:
        return ("%" + flags + verb) % float(value)
    return f"%!{verb}({type(value).__name__}={show(value, True)})"


def _compare(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(first: Any, second: Any) -> bool:
        try:
            return test(first, second)
        except TypeError:
            raise GoError("", "error calling comparison: incompatible types for comparison") from None

    return compare


def _equal(first: Any, *others: Any) -> bool:
    return any(first == other for other in others)


def _and(*values: Any) -> Any:
    return next((value for value in values if not truth(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if truth(value)), values[-1])


def _html(*values: Any) -> str:
    text = _print(*values)
    for char, entity in (("&", "&amp;"), ("'", "&#39;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;")):
        text = text.replace(char, entity)
    return text


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": _and,
    "eq": _equal,
    "ge": _compare(lambda first, second: bool(first >= second)),
    "gt": _compare(lambda first, second: bool(first > second)),
    "html": _html,
    "index": _index,
    "join": _join,
    "json": _json,
    "le": _compare(lambda first, second: bool(first <= second)),
    "len": _length,
    "lower": lambda text: str(text).lower(),
    "lt": _compare(lambda first, second: bool(first < second)),
    "ne": _compare(lambda first, second: bool(first != second)),
    "not": lambda value: not truth(value),
    "or": _or,
    "pad": _pad,
    "print": _print,
    "printf": _printf,
    "println": _println,
    "slice": _slice,
    "split": _split,
    "title": _title,
    "truncate": _truncate,
    "upper": lambda text: str(text).upper(),
}
