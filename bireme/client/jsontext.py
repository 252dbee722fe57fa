"""JSON without the `json` package, whose scanner and decoder drag in `re`, `enum` and a dozen more modules.

CPython keeps the hot parts of `json` in the extension module `_json`: a scanner that turns a whole text into Python
values and an encoder that turns values into text. Importing them costs nothing, importing `json` costs 5 ms, which is
half of what a bare interpreter costs to start. Where `_json` is missing or has changed its shape, `json` itself is
used. Without `json` loaded the C scanner cannot find the exception it wants to raise: it reports a SystemError.
"""

from __future__ import annotations

from bireme.errors import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SPACE = " \t\r\n"


class _ScannerSettings:
    """What `json.JSONDecoder` would hand to the C scanner."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    array_hook = None


def _slow_scan(text: str, index: int) -> tuple[Any, int]:
    import json

    return json.JSONDecoder(strict=False).raw_decode(text, index)


def _slow_dump(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _unknown(value: object) -> object:
    raise TypeError(f"a {type(value).__name__} is not a JSON value")


def _fast_codec() -> tuple[Callable[[str, int], tuple[Any, int]], Callable[[object], str]]:
    try:
        import _json

        scan = _json.make_scanner(_ScannerSettings())  # type: ignore[arg-type]
        encode = _json.make_encoder(
            None,
            _unknown,
            _json.encode_basestring_ascii,
            None,
            ":",
            ",",
            False,
            False,
            True,
        )
        scan('{"a":[1]}', 0)
        "".join(encode({"a": [1]}, 0))
    except (ImportError, AttributeError, TypeError):
        return _slow_scan, _slow_dump

    def dump(value: object) -> str:
        return "".join(encode(value, 0))

    return scan, dump


_scan, _dump = _fast_codec()


def _skip_space(text: str, index: int) -> int:
    while index < len(text) and text[index] in _SPACE:
        index += 1
    return index


def scan(text: str, index: int = 0) -> tuple[Any, int]:
    """The value that starts at `index` (after white space) and the index behind it; Invalid when there is none."""
    try:
        return _scan(text, _skip_space(text, index))
    except (StopIteration, ValueError, RecursionError, SystemError) as error:
        raise Invalid("not a JSON text", subject=text[index : index + 80]) from error


def loads(data: bytes | bytearray | str) -> Any:
    """The one value in `data`; Invalid for anything else."""
    text = data if isinstance(data, str) else bytes(data).decode("utf-8", "replace")
    value, end = scan(text)
    if _skip_space(text, end) != len(text):
        raise Invalid("text after the JSON value", subject=text[end : end + 80])
    return value


def dumps(value: object) -> str:
    """`value` as compact JSON in ASCII."""
    return _dump(value)


def _quote(text: str) -> str:
    quoted: str = _dump(text)
    if "\\u" not in quoted:
        return quoted
    kept = (char if ord(char) > 0x7E and not 0xD800 <= ord(char) < 0xE000 else _dump(char)[1:-1] for char in text)
    return f'"{"".join(kept)}"'


def dumps_text(value: object) -> str:
    """`value` as compact JSON for people: characters outside ASCII are left as they are."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quote(str(key))}:{dumps_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(dumps_text(item) for item in value) + "]"
    return _quote(value) if isinstance(value, str) else _dump(value)


def dumps_html(value: object) -> str:
    """`dumps_text` with <, > and & spelled as Go's encoder spells them by default."""
    text = dumps_text(value)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def dumps_indented(value: object, step: str = "    ", depth: int = 0) -> str:
    """`value` over several lines, spelled as Go's json.Indent spells it."""
    inner, outer = "\n" + step * (depth + 1), "\n" + step * depth
    if isinstance(value, dict) and value:
        rows = (f"{_quote(str(key))}: {dumps_indented(item, step, depth + 1)}" for key, item in value.items())
        return "{" + inner + ("," + inner).join(rows) + outer + "}"
    if isinstance(value, list | tuple) and value:
        return "[" + inner + ("," + inner).join(dumps_indented(item, step, depth + 1) for item in value) + outer + "]"
    return dumps_text(value)
