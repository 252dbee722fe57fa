"""JSON as Go reads it, into typed bodies.

Go's encoding/json, and so every Docker client ever written, relies on rules a strict decoder does not have: keys match
without case, null leaves any field alone, unknown keys are ignored, the last duplicate wins. So the text is decoded
untyped, walked once by a table derived from the type (known keys respelled, nulls dropped; the keys of maps such as
Labels stay), and converted. Wrong types are refused in Go's words, since clients and people match on them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import inspect as shapes

from bireme.api.http.message import Request
from bireme.errors import Invalid

MAX_BODY_BYTES = 4 << 20

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
StringOrList = Annotated[list[str], msgspec.Meta(extra={"string_or_list": True})]
"""Go's strslice: a list of strings, or one string."""

T = TypeVar("T", bound=msgspec.Struct)
Walk = Callable[[Any], Any]

_decode = msgspec.json.Decoder().decode
_walks: dict[type, Walk | None] = {}
_MISMATCH = re.compile(r"Expected `([^`]*)`(.*), got `([^`]*)`(?: - at `\$\.?(.*)`)?")
_OUT_OF_RANGE = re.compile(r"Expected `int` [<>]= .*?(?: - at `\$\.?(.*)`)?$")
_GOT = {"str": "string", "int": "number", "float": "number", "bool": "bool", "array": "array", "object": "object"}
_WANTED = {"int": "int64", "str": "string", "bool": "bool", "array": "[]string", "object": "map[string]string"}


async def read_body(request: Request, body_type: type[T]) -> T:
    """The request's body as `body_type`; all defaults when there is none. Invalid (400) for anything else."""
    data = await request.body.read(MAX_BODY_BYTES)
    if not data and request.body.length == 0:
        check_content_type(request, empty=True)
        return body_type()
    check_content_type(request, empty=False)
    return decode(data, body_type)


def check_content_type(request: Request, *, empty: bool) -> None:
    kind = request.headers.get(b"content-type")
    if kind == b"application/json" or (kind is None and empty):
        return
    text = (kind or b"").decode("latin-1")
    mime = text.partition(";")[0].strip().lower()
    if not mime:
        raise Invalid(f"malformed Content-Type header ({text}): mime: no media type")
    if mime != "application/json":
        raise Invalid(f"unsupported Content-Type header ({text}): must be 'application/json'")


def decode(data: bytes, body_type: type[T]) -> T:
    """`data` as `body_type`; null stands for all defaults."""
    try:
        value = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(_malformed(error, data)) from None
    if value is None:
        return body_type()
    if b"\\u0000" in data:
        _refuse_nul(value)
    try:
        walk = _walks[body_type]
    except KeyError:
        walk = _walks[body_type] = _walk_of(shapes.type_info(body_type))
    try:
        return msgspec.convert(walk(value) if walk is not None else value, body_type)
    except msgspec.ValidationError as error:
        raise Invalid(_mismatch(str(error), body_type.__name__)) from None


def _refuse_nul(value: Any) -> None:
    """No name, path, argument or variable of Linux can hold a NUL."""
    if isinstance(value, str):
        if "\0" in value:
            raise Invalid(f"strings must not contain NUL: {value!r}")
    elif isinstance(value, list):
        for item in value:
            _refuse_nul(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_nul(key)
            _refuse_nul(item)


def _walk_of(shape: shapes.Type) -> Walk | None:
    """A function that respells a value of this shape; None when there is nothing to do."""
    if isinstance(shape, shapes.Metadata):
        if shape.extra and shape.extra.get("string_or_list"):
            return _string_or_list
        return _walk_of(shape.type)
    if isinstance(shape, shapes.UnionType):
        inner = [t for t in shape.types if not isinstance(t, shapes.NoneType)]
        return _walk_of(inner[0]) if len(inner) == 1 else None
    if isinstance(shape, shapes.StructType):
        return _struct_walk(shape)
    if isinstance(shape, shapes.ListType):
        return _list_walk(_walk_of(shape.item_type), _zero(shape.item_type))
    if isinstance(shape, shapes.DictType):
        return _dict_walk(_walk_of(shape.value_type), _zero(shape.value_type))
    return None


def _zero(shape: shapes.Type) -> Any:
    if isinstance(shape, shapes.Metadata):
        return _zero(shape.type)
    if isinstance(shape, shapes.StrType):
        return ""
    if isinstance(shape, shapes.IntType):
        return 0
    return [] if isinstance(shape, shapes.ListType) else {}


def _struct_walk(shape: shapes.StructType) -> Walk:
    table: dict[str, tuple[str, Walk | None]] = {}
    for field in shape.fields:
        entry = (field.encode_name, _walk_of(field.type))
        table[field.encode_name.lower()] = entry
        table[field.encode_name] = entry

    def walk(value: Any) -> Any:
        if type(value) is not dict:
            return value
        known: dict[str, Any] = {}
        for key, item in value.items():
            if item is None:
                continue
            entry = table.get(key) or table.get(key.lower())
            if entry is not None:
                name, inner = entry
                known[name] = item if inner is None else inner(item)
        return known

    return walk


def _list_walk(inner: Walk | None, zero: Any) -> Walk:
    def walk(value: Any) -> Any:
        if type(value) is not list:
            return value
        if inner is None:
            return [zero if item is None else item for item in value] if None in value else value
        return [zero if item is None else inner(item) for item in value]

    return walk


def _dict_walk(inner: Walk | None, zero: Any) -> Walk:
    def walk(value: Any) -> Any:
        if type(value) is not dict:
            return value
        return {k: zero if v is None else v if inner is None else inner(v) for k, v in value.items()}

    return walk


def _string_or_list(value: Any) -> Any:
    if type(value) is str:
        return [value]
    if type(value) is list and None in value:
        return ["" if item is None else item for item in value]
    return value


def _malformed(error: Exception, data: bytes) -> str:
    text = str(error)
    if not data.strip():
        return "invalid JSON: got EOF while reading request body"
    if "truncated" in text:
        return "invalid JSON: unexpected EOF"
    if "trailing characters" in text:
        return "unexpected content after JSON"
    found = re.search(r"\(byte (\d+)\)", text)
    if found is None:
        return f"invalid JSON: {text}"
    position = int(found[1])
    shown = data[position : position + 1].decode("latin-1")
    return f"invalid JSON: invalid character {shown!r} {_where(text)}"


def _where(text: str) -> str:
    if "expected ':'" in text:
        return "after object key"
    if "trailing comma" in text or "object keys" in text or "expected '\"'" in text:
        return "looking for beginning of object key string"
    if "expected ','" in text:
        return "after object key:value pair" if "}" in text else "after array element"
    return "looking for beginning of value"


def _mismatch(text: str, type_name: str) -> str:
    ranged = _OUT_OF_RANGE.match(text)
    if ranged is not None:
        return f"invalid JSON: json: cannot unmarshal number into Go struct field {type_name}.{ranged[1]} of type int64"
    found = _MISMATCH.match(text)
    if found is None:
        return f"invalid JSON: {text}"
    wanted, _, got, path = found.groups()
    wanted = wanted.partition(" | ")[0]
    go_got, go_wanted = _GOT.get(got, got), _WANTED.get(wanted, wanted)
    if path is None:
        return f"invalid JSON: json: cannot unmarshal {go_got} into Go value of type {type_name}"
    path = re.sub(r"\[[^]]*\]", "", path)
    return f"invalid JSON: json: cannot unmarshal {go_got} into Go struct field {type_name}.{path} of type {go_wanted}"
